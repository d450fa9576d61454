package zoned

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched/asyncq"
)

// joined waits until so many callers wait for a call.
func (b *bed) joined(s *scheduler, id string, n int) {
	b.t.Helper()
	b.until(fmt.Sprintf("%d wait for %s", n, id), func() (yes bool) {
		b.must(s.view(b.ctx, func() { yes = s.waiters[id] != nil && len(s.waiters[id].tell) == n }))
		return yes
	})
}

// soon gives up a node soon after a call's time was up.
func soon(c *Config, _ *Deps) { c.Sched.DispatchGrace = 500 * time.Millisecond }

// The first of several callers with one idempotency key loses patience, at the leader's door or at a follower's: the others have their call.
func TestJoinedCallersDoNotShareTheFirstOnesPatience(t *testing.T) {
	keyed := func(i *api.Invocation) { i.IdemKey = "k" }
	for _, door := range []string{"leader", "follower"} {
		// two are calls of one key, the first by this door and with this much time.
		two := func(t *testing.T, budgetMs int64) (b *bed, w *worker, leave func(), first, second chan *wire.Answer) {
			b = newBed(t)
			lead, follow := b.scheduler("a", soon), b.scheduler("b", soon)
			w = b.worker("n1", 4, lead, follow)
			w.holdAll()
			ctx, cancel := context.WithCancel(b.ctx)
			first = b.ask(ctx, map[string]*scheduler{"leader": lead, "follower": follow}[door], invocation("i1", keyed, func(i *api.Invocation) { i.BudgetMs = budgetMs }))
			b.joined(lead, "i1", 1)
			second = b.ask(b.ctx, follow, invocation("i2", keyed))
			b.joined(lead, "i1", 2)
			return b, w, func() { cancel(); b.joined(lead, "i1", 1) }, first, second
		}
		t.Run(door+", who leaves", func(t *testing.T) {
			b, w, leave, first, second := two(t, 0)
			leave()
			if a := b.answer(first); a.Code == api.CodeOK {
				t.Fatalf("who left: %+v", a)
			}
			w.finish("i1")
			if a := b.answer(second); a.Code != api.CodeOK || string(a.Result) != "did i1" {
				t.Errorf("who stayed: %+v", a)
			}
		})
		t.Run(door+", whose time is up", func(t *testing.T) {
			b, w, _, first, second := two(t, 1500)
			if a := b.answer(first); a.Code != api.CodeDeadline {
				t.Fatalf("whose time was up: %+v", a)
			}
			b.until("the other's call runs", func() bool { return len(w.ran()) == 2 })
			w.finish("i2")
			if a := b.answer(second); a.Code != api.CodeOK || string(a.Result) != "did i2" {
				t.Errorf("who had time: %+v", a)
			}
		})
	}
}

// The call ends with the last of them, in whatever order they leave, by whichever door they came.
func TestTheLastToLeaveEndsTheCall(t *testing.T) {
	b := newBed(t)
	lead, follow := b.scheduler("a", nil), b.scheduler("b", nil)
	w := b.worker("n1", 4, lead, follow)
	w.holdAll()
	keyed := func(i *api.Invocation) { i.IdemKey = "k" }
	var leave []func()
	for i, s := range []*scheduler{lead, follow, lead} {
		ctx, cancel := context.WithCancel(b.ctx)
		b.ask(ctx, s, invocation(fmt.Sprint("i", i), keyed))
		b.joined(lead, "i0", i+1)
		leave = append(leave, cancel)
	}
	for left, i := range []int{1, 0} {
		leave[i]()
		b.joined(lead, "i0", 2-left)
	}
	if c := w.canceled(); len(c) > 0 {
		t.Fatalf("canceled while one waits: %v", c)
	}
	leave[2]()
	b.until("it is stopped on its node", func() bool { return slices.Contains(w.canceled(), "i0") })
	var left int
	b.must(lead.view(b.ctx, func() { left = len(lead.joined) }))
	if left != 0 {
		t.Errorf("%d callers are remembered", left)
	}
}

// A call whose time was up is not what the key stands for from then on.
func TestDeadlineIsNotKeptForAnIdempotencyKey(t *testing.T) {
	b := newBed(t)
	s := b.scheduler("a", soon)
	w := b.worker("n1", 4, s)
	w.holdAll()
	keyed := func(i *api.Invocation) { i.IdemKey = "k" }
	if a := s.Invoke(b.ctx, invocation("i1", keyed, func(i *api.Invocation) { i.BudgetMs = 50 })); a.Code != api.CodeDeadline {
		t.Fatalf("%+v", a)
	}
	w.holdNone()
	if a := s.Invoke(b.ctx, invocation("i2", keyed)); a.Code != api.CodeOK || string(a.Result) != "did i2" {
		t.Errorf("repeated: %+v", a)
	}
}

// A leader that has not heard of a function yet keeps calls of it that were accepted, and ends them once it knows that it is gone.
func TestAcceptedCallsOutliveACatalogueThatLags(t *testing.T) {
	b := newBed(t)
	q := b.queue(nil)
	s := b.scheduler("a", func(_ *Config, d *Deps) { d.Async = q })
	b.worker("n1", 1, s)
	of := func(name string) func(*api.Invocation) {
		return func(i *api.Invocation) { i.Async, i.Function = true, name }
	}
	b.must(q.Accept(b.ctx, invocation("late", of("g"))))
	b.must(q.Accept(b.ctx, invocation("gone", of("deleted"))))
	b.until("both were refused", func() (refused bool) {
		b.must(s.view(b.ctx, func() { refused = s.core.Counters().Refused >= 2 }))
		return refused
	})
	g := b.fn
	g.Name = "g"
	b.deploy(g)
	if a := b.ended(s, "late"); a.Code != api.CodeOK {
		t.Errorf("a call of a function that was heard of late: %+v", a)
	}
	if a := b.ended(s, "gone"); a.Code != api.CodeNotFound {
		t.Errorf("a call of a function that is gone: %+v", a)
	}
}

// The leader's catalogue may be behind a follower's, whose caller has just deployed.
func TestDoorWaitsForALeaderWhoseCatalogueLags(t *testing.T) {
	b := newBed(t)
	slow := func(c *Config, _ *Deps) { c.CatalogEvery = time.Hour }
	lead, follow := b.scheduler("a", slow), b.scheduler("b", nil)
	b.worker("n1", 1, lead, follow)
	g := b.fn
	g.Name = "g"
	b.deploy(g)
	b.until("the follower knows it", func() bool { _, known := follow.Function("t/g"); return known })
	got := b.ask(b.ctx, follow, invocation("i1", func(i *api.Invocation) { i.Function = "g" }))
	b.until("the leader refused it", func() (refused bool) {
		b.must(lead.view(b.ctx, func() { refused = lead.core.Counters().Refused > 0 }))
		return refused
	})
	b.send(b.bus, wire.SubjectAnnounce, &wire.Announce{})
	if a := b.answer(got); a.Code != api.CodeOK {
		t.Errorf("%+v", a)
	}
}

// A call that never comes back, from no node, ends for all that.
func TestAsynchronousCallIsGivenUp(t *testing.T) {
	b := newBed(t)
	q := b.queue(func(c *asyncq.Config) { c.AckWait = 500 * time.Millisecond })
	s := b.scheduler("a", func(c *Config, d *Deps) { d.Async, c.Sched.MaxAttempts, c.AsyncGiveUp = q, 1, time.Millisecond })
	w := b.worker("n1", 1, s)
	w.failAll()
	b.must(s.InvokeAsync(b.ctx, invocation("i1", func(i *api.Invocation) { i.Async = true })))
	if a := b.ended(s, "i1"); a.Code != api.CodeUnavailable || !strings.Contains(a.Message, "given up") {
		t.Errorf("%+v", a)
	}
	if n := len(w.ran()); n != asyncTries {
		t.Errorf("ran %d times, want %d", n, asyncTries)
	}
}

// A leader that is asked to end works on what other doors bring it for as long as calls of before run: nobody else can lead meanwhile.
func TestEndingLeaderServesOtherDoors(t *testing.T) {
	b := newBed(t)
	lead, follow := b.scheduler("a", func(c *Config, _ *Deps) { c.DrainTimeout = 15 * time.Second }), b.scheduler("b", nil)
	w := b.worker("n1", 4, lead, follow)
	w.hold = func(r *wire.Run) bool { return r.Call.ID == "long" || r.Call.ID == "longer" }
	long := b.ask(b.ctx, follow, invocation("long"))
	b.until("it runs", func() bool { return len(w.ran()) == 1 })
	lead.stop()
	b.until("it ends", func() (ending bool) {
		b.must(lead.view(b.ctx, func() { ending = lead.ending }))
		return ending
	})
	if a := follow.Invoke(b.ctx, invocation("i1")); a.Code != api.CodeOK || !lead.leads() {
		t.Errorf("a call that came meanwhile: %+v, the leader still leads: %t", a, lead.leads())
	}
	longer := b.ask(b.ctx, follow, invocation("longer"))
	b.until("another long one runs", func() bool { return len(w.ran()) == 3 })
	w.finish("long")
	if a := b.answer(long); a.Code != api.CodeOK {
		t.Errorf("the call of before: %+v", a)
	}
	// It refuses calls to be done with the other one, but not for longer than their doors wait.
	if a := follow.Invoke(b.ctx, invocation("meanwhile")); a.Code != api.CodeOK || !lead.leads() {
		t.Errorf("a call that came while it refused: %+v, the leader still leads: %t", a, lead.leads())
	}
	w.finish("longer")
	if a := b.answer(longer); a.Code != api.CodeOK {
		t.Errorf("the call that came meanwhile: %+v", a)
	}
	lead.wait()
	b.until("the other leads", follow.leads) // a call that is under way when that changes may fail
	b.mustRun(follow, "i2")
}

// A leader that lost the bus but not the election's store resigns, and takes part again once the bus is back.
func TestLeaderWithoutItsBusLetsAnotherLead(t *testing.T) {
	b := newBed(t)
	var cut atomic.Bool
	lead := b.scheduler("a", func(c *Config, d *Deps) {
		c.Sched.NodeTimeout, d.Connected = 500*time.Millisecond, func() bool { return !cut.Load() }
	})
	follow := b.scheduler("b", nil)
	b.worker("n1", 1, lead, follow)
	cut.Store(true)
	b.until("the other leads", func() bool { return follow.leads() && !lead.leads() })
	cut.Store(false)
	b.until("the first follows", func() bool { l, _, _ := lead.Leader(); return l == "b" })
	follow.Kill()
	b.until("the first leads again", lead.leads)
	b.mustRun(lead, "i1")
}

func TestNewestLines(t *testing.T) {
	var lines []wire.LogLine
	for i := range 10 {
		lines = append(lines, wire.LogLine{ID: fmt.Sprint("i", i), UnixMs: int64(i*7%10) / 2})
	}
	got := newest(append([]wire.LogLine(nil), lines...), 3)
	if len(got) != 3 || got[0].UnixMs != 3 || got[1].UnixMs != 4 || got[2].UnixMs != 4 || got[1].ID != "i4" {
		t.Errorf("%+v", got)
	}
	if got := newest(append([]wire.LogLine(nil), lines...), 0); len(got) != 10 || got[0].UnixMs != 0 || got[9].UnixMs != 4 {
		t.Errorf("all: %+v", got)
	}
}

// Logs are large: a scheduler collects those of a few requests at a time.
func TestFewRequestsForLogsAtATime(t *testing.T) {
	b := newBed(t)
	s := b.scheduler("a", nil)
	for range logRequests {
		s.logging <- struct{}{}
	}
	if _, err := s.Logs(b.ctx, "t/f", 5); !errors.Is(err, api.ErrOverloaded) {
		t.Errorf("one too many: %v", err)
	}
	<-s.logging
	if lines, err := s.Logs(b.ctx, "t/f", 5); err != nil || len(lines) != 0 || len(s.logging) != logRequests-1 {
		t.Errorf("%+v, %v, %d under way", lines, err, len(s.logging))
	}
}

package zoned

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/internal/natstest"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/messaging/membus"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/asyncq"
)

func TestInvokeThroughLeaderAndFollower(t *testing.T) {
	b := newBed(t)
	lead, follow := b.scheduler("a", nil), b.scheduler("b", nil)
	b.worker("n1", 2, lead, follow)
	if !lead.leads() || follow.leads() {
		t.Fatal("the first scheduler does not lead alone")
	}
	for i, s := range []*scheduler{lead, follow} {
		if a := b.mustRun(s, fmt.Sprint("i", i)); a.Timing.Node != "n1" || a.Timing.Zone != "z" || a.Timing.Version != 1 {
			t.Fatalf("timing %+v", a.Timing)
		}
	}
	if a := follow.Invoke(b.ctx, invocation("none", func(i *api.Invocation) { i.Function = "nothing" })); a.Code != api.CodeNotFound {
		t.Fatalf("an unknown function: %+v", a)
	}
}

// A call's trace goes with it to its node, by whichever door it came.
func TestTraceReachesTheNode(t *testing.T) {
	b := newBed(t)
	lead, follow := b.scheduler("a", nil), b.scheduler("b", nil)
	w := b.worker("n1", 2, lead, follow)
	traces := make(chan string, 2)
	w.mu.Lock()
	w.hold = func(r *wire.Run) bool { traces <- r.Call.Trace; return false }
	w.mu.Unlock()
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for i, s := range []*scheduler{lead, follow} {
		if a := s.Invoke(b.ctx, invocation(fmt.Sprint("i", i), func(i *api.Invocation) { i.Trace = trace })); a.Code != api.CodeOK {
			t.Fatalf("%+v", a)
		}
		if got := <-traces; got != trace {
			t.Errorf("the node got %q", got)
		}
	}
}

func TestLeaderLostInTheMiddle(t *testing.T) {
	b := newBed(t)
	lead, follow := b.scheduler("a", nil), b.scheduler("b", nil)
	w := b.worker("n1", 4, lead, follow)
	w.holdAll()
	plain := b.ask(b.ctx, follow, invocation("plain"))
	keyed := b.ask(b.ctx, follow, invocation("keyed", func(i *api.Invocation) { i.IdemKey = "k" }))
	atLead := b.ask(b.ctx, lead, invocation("at-lead"))
	b.until("all run", func() bool { return len(w.ran()) == 3 })
	_, old, _ := lead.Leader()
	lead.Kill()
	b.until("the standby leads", follow.leads)
	if _, e, _ := follow.Leader(); e.Compare(old) <= 0 {
		t.Fatalf("epoch %v after %v", e, old)
	}
	for _, got := range []chan *wire.Answer{plain, atLead} {
		if a := b.answer(got); a.Code != api.CodeUnavailable || a.Message == "" {
			t.Fatalf("a call that was running: %+v", a)
		}
	}
	// The call with a key may run again, and does so under the new leader.
	b.until("the keyed call runs again", func() bool { return len(w.ran()) == 4 })
	w.finish("keyed")
	if a := b.answer(keyed); a.Code != api.CodeOK {
		t.Fatalf("the keyed call: %+v", a)
	}
}

// A leader whose lease ran out while it lives answers its callers and goes on as a standby.
func TestLeaderThatLosesItsLeaseStepsDown(t *testing.T) {
	b := newBed(t)
	a, s := b.scheduler("a", nil), b.scheduler("b", nil)
	w := b.worker("n1", 4, a, s)
	w.holdAll()
	got := b.ask(b.ctx, a, invocation("i1"))
	b.until("it runs", func() bool { return len(w.ran()) == 1 })
	b.reg.Kill("a")
	if ans := b.answer(got); ans.Code != api.CodeUnavailable {
		t.Fatalf("answer %+v", ans)
	}
	b.until("the other leads", s.leads)
	got = b.ask(b.ctx, a, invocation("i2"))
	b.until("i2 runs", func() bool { return len(w.ran()) == 2 })
	w.finish("i2")
	if ans := b.answer(got); ans.Code != api.CodeOK {
		t.Fatalf("through the former leader: %+v", ans)
	}
}

func (b *bed) sameModel(seq uint64, ss ...*scheduler) {
	b.t.Helper()
	b.until("equal models", func() bool {
		first := ss[0].Model()
		for _, s := range ss[1:] {
			if m := s.Model(); m.Digest != first.Digest || m.Stats.Seq != first.Stats.Seq {
				return false
			}
		}
		return first.Stats.Seq >= seq
	})
}

func TestStandbyLearnsWhatTheLeaderLearns(t *testing.T) {
	b := newBed(t)
	lead, follow := b.scheduler("a", nil), b.scheduler("b", nil)
	w := b.worker("n1", 8, lead, follow)
	for i := range 30 {
		b.mustRun(lead, fmt.Sprint("i", i))
	}
	b.sameModel(30, lead, follow)
	if n := len(w.ran()); n != 30 {
		t.Fatalf("%d runs", n)
	}
	late := b.scheduler("c", nil)
	if late.Model().Stats.Seq != 0 {
		t.Fatal("a late standby knows what it has not heard")
	}
	b.mustRun(lead, "more") // a gap for the late one: it takes the checkpoint
	b.sameModel(31, lead, follow, late)
	// The stream goes on where it stood when the leader changes.
	lead.Kill()
	b.until("a standby leads", func() bool { return follow.leads() || late.leads() })
	b.mustRun(follow, "after")
	b.sameModel(32, follow, late)
}

func TestIdempotencyKeyJoinsAndRepeats(t *testing.T) {
	b := newBed(t)
	s := b.scheduler("a", nil)
	w := b.worker("n1", 4, s)
	w.holdAll()
	keyed := func(i *api.Invocation) { i.IdemKey = "k" }
	one := b.ask(b.ctx, s, invocation("i1", keyed))
	b.until("it runs", func() bool { return len(w.ran()) == 1 })
	two := b.ask(b.ctx, s, invocation("i2", keyed))
	b.until("it is joined", func() bool {
		joined := 0
		if err := s.view(b.ctx, func() { joined = len(s.waiters["i1"].tell) }); err != nil {
			t.Fatal(err)
		}
		return joined == 2
	})
	w.finish("i1")
	for _, got := range []chan *wire.Answer{one, two} {
		if a := b.answer(got); a.Code != api.CodeOK || a.ID != "i1" {
			t.Fatalf("answer %+v", a)
		}
	}
	if a := s.Invoke(b.ctx, invocation("i3", keyed)); a.Code != api.CodeOK || string(a.Result) != "did i1" {
		t.Fatalf("repeated: %+v", a)
	}
	if n := len(w.ran()); n != 1 {
		t.Fatalf("ran %d times", n)
	}
}

func TestCallerWhoLeavesCancels(t *testing.T) {
	b := newBed(t)
	lead, follow := b.scheduler("a", nil), b.scheduler("b", nil)
	w := b.worker("n1", 4, lead, follow)
	w.holdAll()
	for i, s := range []*scheduler{lead, follow} {
		id := fmt.Sprint("i", i)
		ctx, cancel := context.WithCancel(b.ctx)
		got := b.ask(ctx, s, invocation(id))
		b.until(id+" runs", func() bool { return len(w.ran()) == i+1 })
		cancel()
		if a := b.answer(got); a.Code == api.CodeOK {
			t.Fatalf("%s: %+v", id, a)
		}
		b.until(id+" is stopped on its node", func() bool { return strings.Contains(strings.Join(w.canceled(), " "), id) })
	}
}

// What bounds requests of control must not bound a call that a follower's door brings to the leader: that one has its own time.
func TestLongCallThroughAFollower(t *testing.T) {
	cfg := membus.DefaultConfig()
	cfg.RequestTimeout = 100 * time.Millisecond
	b := newBedOn(t, cfg)
	lead, follow := b.scheduler("a", nil), b.scheduler("b", nil)
	w := b.worker("n1", 4, lead, follow)
	w.holdAll()
	got := b.ask(b.ctx, follow, invocation("i1"))
	b.until("it runs", func() bool { return len(w.ran()) == 1 })
	select {
	case a := <-got:
		t.Fatalf("answered before it was done: %+v", a)
	case <-time.After(3 * cfg.RequestTimeout):
	}
	w.finish("i1")
	if a := b.answer(got); a.Code != api.CodeOK {
		t.Fatalf("%+v", a)
	}
}

// A caller who leaves is told to the zone that works on the call, once that has it.
func TestCancelGoesWhereTheCallWent(t *testing.T) {
	b := newBed(t)
	lead := b.scheduler("a", nil)
	w := b.worker("n1", 1, lead)
	w.holdAll()
	heard := make(chan string, 4)
	for subject, name := range map[string]string{wire.SubjectForward("core"): "call ", wire.SubjectForwardCancel("core"): "cancel "} {
		sub, err := b.bus.Subscribe(subject, "", func(m *messaging.Msg) {
			var c wire.Cancel
			var i wire.Invoke
			if name == "call " {
				b.must(wire.Decode(m.Data, &i))
				heard <- name + i.Call.ID
				return // and never answers
			}
			b.must(wire.Decode(m.Data, &c))
			heard <- name + c.ID
		})
		b.must(err)
		defer func() { b.must(sub.Stop()) }()
	}
	b.ask(b.ctx, lead, invocation("runs"))
	b.until("it runs", func() bool { return len(w.ran()) == 1 })
	b.send(b.bus, wire.SubjectGrants("z"), &wire.Grant{ID: 1, From: "core", To: "z", Epoch: api.Epoch{Generation: 1, Revision: 1}, Slots: 1, TTLMs: 60_000, MeanMs: 1})
	ctx, leave := context.WithCancel(b.ctx)
	defer leave()
	var got chan *wire.Answer
	for i := 0; b.ctx.Err() == nil; i++ { // the grant may still be under way
		got = b.ask(ctx, lead, invocation(fmt.Sprint("i", i)))
		select {
		case h := <-heard:
			if want := "call "; !strings.HasPrefix(h, want) {
				t.Fatalf("heard %q first", h)
			}
			leave()
			select {
			case c := <-heard:
				if c != strings.Replace(h, "call", "cancel", 1) {
					t.Errorf("heard %q after %q", c, h)
				}
			case <-b.ctx.Done():
				t.Errorf("the other zone is not told that nobody waits for %q", h)
			}
			b.answer(got)
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Error("nothing was forwarded")
}

// Another zone says that nobody waits for what it forwarded.
func TestForwardedCallIsCanceledFromElsewhere(t *testing.T) {
	b := newBed(t)
	lead := b.scheduler("a", nil)
	w := b.worker("n1", 4, lead)
	w.holdAll()
	got := b.ask(b.ctx, lead, invocation("i1"))
	b.until("it runs", func() bool { return len(w.ran()) == 1 })
	b.send(b.bus, wire.SubjectForwardCancel("z"), &wire.Cancel{ID: "i1"})
	if a := b.answer(got); a.Code != api.CodeCanceled {
		t.Fatalf("%+v", a)
	}
	b.until("it is stopped on its node", func() bool { return slices.Contains(w.canceled(), "i1") })
}

func TestGracefulStopAnswersEverybody(t *testing.T) {
	b := newBed(t)
	s := b.scheduler("a", nil)
	w := b.worker("n1", 4, s)
	w.holdAll()
	got := b.ask(b.ctx, s, invocation("i1"))
	b.until("it runs", func() bool { return len(w.ran()) == 1 })
	s.stop()
	b.until("it takes no more", func() bool { return s.Ready() != nil })
	if a := s.Invoke(b.ctx, invocation("i2")); a.Code != api.CodeUnavailable || !a.Refused {
		t.Fatalf("a call to a stopping scheduler: %+v", a)
	}
	w.finish("i1")
	if a := b.answer(got); a.Code != api.CodeOK {
		t.Fatalf("the call that ran: %+v", a)
	}
	s.wait()
}

func TestStopGivesUpOnCallsThatDoNotEnd(t *testing.T) {
	b := newBed(t)
	s := b.scheduler("a", func(c *Config, _ *Deps) { c.DrainTimeout = 50 * time.Millisecond })
	w := b.worker("n1", 4, s)
	w.holdAll()
	got := b.ask(b.ctx, s, invocation("i1"))
	b.until("it runs", func() bool { return len(w.ran()) == 1 })
	s.stop()
	if a := b.answer(got); a.Code != api.CodeUnavailable {
		t.Fatalf("answer %+v", a)
	}
	s.wait()
}

// step is one recorded step of a core.
type step struct {
	now  time.Time
	ev   zonesched.Event
	acts []string
}

func (s *step) String() string { return s.ev.String() + " -> " + strings.Join(s.acts, "; ") }

func strs(acts []zonesched.Action) []string {
	out := make([]string, len(acts))
	for i := range acts {
		out[i] = acts[i].String()
	}
	return out
}

// TestReplay records a daemon's events and feeds them to a fresh core: it must do the very same.
func TestReplay(t *testing.T) {
	b := newBed(t)
	var tape []step // written on the loop, read after its end
	var cfg zonesched.Config
	s := b.scheduler("a", func(c *Config, d *Deps) {
		cfg = c.Sched
		d.Tap = func(now time.Time, ev *zonesched.Event, acts []zonesched.Action) {
			tape = append(tape, step{now, *ev, strs(acts)})
		}
	})
	b.worker("n1", 2, s)
	b.worker("n2", 1, s)
	b.mustRun(s, "first")
	b.until("the core has a model", func() bool {
		known := false
		if err := s.view(b.ctx, func() { known = s.Forest() != nil }); err != nil {
			t.Fatal(err)
		}
		return known
	})
	var all []chan *wire.Answer
	for i := range 60 {
		all = append(all, b.ask(b.ctx, s, invocation(fmt.Sprint("i", i))))
	}
	for _, got := range all {
		if a := b.answer(got); a.Code != api.CodeOK {
			t.Fatalf("answer %+v", a)
		}
	}
	s.Kill()
	s.wait()
	cfg.Zone, cfg.Region = "z", "local"
	core, err := zonesched.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[zonesched.EventKind]int{}
	for i := range tape {
		kinds[tape[i].ev.Kind]++
		again := step{tape[i].now, tape[i].ev, strs(core.Step(tape[i].now, &tape[i].ev, nil))}
		if got, want := again.String(), tape[i].String(); got != want {
			t.Fatalf("step %d:\n got %s\nwant %s", i, got, want)
		}
	}
	if kinds[zonesched.EvArrive] != 61 || kinds[zonesched.EvCompletion] < 60 || kinds[zonesched.EvModel] == 0 {
		t.Fatalf("the tape is thin: %v", kinds)
	}
}

func TestCatalogueSurvivesWithoutTheCoordinator(t *testing.T) {
	b := newBed(t)
	dir := t.TempDir()
	at := func(c *Config, _ *Deps) { c.Dir = dir }
	first := b.scheduler("a", at)
	first.stop()
	first.wait()
	b.quiet()
	again := b.scheduler("a2", at) // waits until it knows the function
	b.worker("n1", 1, again)
	b.mustRun(again, "i1")
}

// The copy on disk is only a copy: one of another version is left alone until the coordinator gives the zone another.
func TestCatalogueOfAnotherVersion(t *testing.T) {
	b := newBed(t)
	dir := t.TempDir()
	first := b.scheduler("a", func(c *Config, _ *Deps) { c.Dir = dir })
	first.stop()
	first.wait()
	path := filepath.Join(dir, "catalog.json")
	written, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(written, []byte(`"version":1`)) {
		t.Fatalf("%s, %v: want version 1", written, err)
	}
	for with, known := range map[string]int{`"version":1`: 1, `"version":1,"more":true`: 1, `"version":0`: 0, `"version":2`: 0} {
		if err := os.WriteFile(path, bytes.Replace(written, []byte(`"version":1`), []byte(with), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, log := DefaultConfig(), new(bytes.Buffer)
		cfg.Dir = dir
		c := newCatalogCopy(&Daemon{cfg: cfg, deps: Deps{Log: slog.New(slog.NewTextHandler(log, nil))}})
		f, err := c.read()
		if err != nil || len(f.Functions) != known {
			t.Errorf("%s: %d functions, %v: want %d", with, len(f.Functions), err, known)
		}
		if told := strings.Contains(log.String(), "this program reads 1"); told != (known == 0) {
			t.Errorf("%s: log %q", with, log)
		}
	}
}

func TestQueriesAreAnsweredByTheLeader(t *testing.T) {
	b := newBed(t)
	lead, follow := b.scheduler("a", nil), b.scheduler("b", nil)
	b.worker("n1", 2, lead, follow)
	b.mustRun(lead, "i1")
	raw, err := follow.Query(b.ctx, "explain", "i1")
	var e Explanation
	if err := errors.Join(err, json.Unmarshal(raw, &e)); err != nil {
		t.Fatal(err)
	}
	if e.ID != "i1" || !e.Ended || !strings.Contains(e.Words, "n1") {
		t.Fatalf("explanation %+v", e)
	}
	if _, err := follow.Query(b.ctx, "policy", "fixed-delay,250ms"); err != nil {
		t.Fatal(err)
	}
	var z ZoneView
	raw, err = follow.Query(b.ctx, "zone", "")
	if err := errors.Join(err, json.Unmarshal(raw, &z)); err != nil {
		t.Fatal(err)
	}
	if z.Leader != "a" || z.Policy != "fixed-delay" || z.Counters.Answered != 1 {
		t.Fatalf("zone %+v", z)
	}
	var ended Calls
	raw, err = follow.Query(b.ctx, "ended", "1")
	if err := errors.Join(err, json.Unmarshal(raw, &ended)); err != nil {
		t.Fatal(err)
	}
	if len(ended.Calls) != 1 || ended.Calls[0].ID != "i1" || ended.Next != 2 || ended.Lost != 0 || ended.Ring == "" {
		t.Fatalf("ended %+v", ended)
	}
	if _, err := follow.QueryZone(b.ctx, "a.b", "zone", ""); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a zone whose name is a subject: %v", err)
	}
	for arg, want := range map[[2]string]error{
		{"explain", "unheard-of"}: api.ErrNotFound, {"decisions", "x"}: api.ErrInvalid, {"nonsense", ""}: api.ErrInvalid, {"policy", "best"}: api.ErrInvalid,
	} {
		if _, err := follow.Query(b.ctx, arg[0], arg[1]); !errors.Is(err, want) {
			t.Errorf("%v: %v, want %v", arg, err, want)
		}
	}
}

func TestAsynchronousCallsNeedAQueue(t *testing.T) {
	b := newBed(t)
	s := b.scheduler("a", nil)
	if err := s.InvokeAsync(b.ctx, invocation("i1")); !errors.Is(err, api.ErrInvalid) {
		t.Fatalf("without a queue: %v", err)
	}
	if _, _, err := s.Result(b.ctx, "t", "i1"); !errors.Is(err, api.ErrNotFound) {
		t.Fatalf("without a queue: %v", err)
	}
}

// A call whose caller's time ran out in the queue gets its record, and never runs.
func TestLateAsynchronousCallNeverRuns(t *testing.T) {
	b := newBed(t)
	q := b.queue(nil)
	accepted := time.Now()
	b.must(q.Accept(b.ctx, invocation("late", func(i *api.Invocation) { i.Async, i.BudgetMs = true, 1 })))
	b.until("its millisecond is over", func() bool { return time.Since(accepted) > 10*time.Millisecond })
	s := b.scheduler("a", func(_ *Config, d *Deps) { d.Async = q })
	w := b.worker("n1", 1, s)
	if a := b.ended(s, "late"); a.Code != api.CodeDeadline || !strings.Contains(a.Message, "queue") {
		t.Errorf("%+v", a)
	}
	if ran := w.ran(); len(ran) > 0 {
		t.Errorf("ran %v", ran)
	}
}

// A call that was accepted stays accepted while the only node that is large enough is away, though a smaller one is there.
func TestAsynchronousCallWaitsForALargeEnoughNode(t *testing.T) {
	b := newBed(t)
	q := b.queue(nil)
	s := b.scheduler("a", func(_ *Config, d *Deps) { d.Async = q })
	b.memMB = b.fn.MemoryMB / 2
	b.worker("small", 1, s)
	b.must(s.InvokeAsync(b.ctx, invocation("i1", func(i *api.Invocation) { i.Async = true })))
	b.until("it was refused", func() (refused bool) {
		b.must(s.view(b.ctx, func() { refused = s.core.Counters().Refused > 0 }))
		return refused
	})
	b.memMB = 4096
	large := b.worker("large", 1, s)
	if a := b.ended(s, "i1"); a.Code != api.CodeOK || len(large.ran()) != 1 {
		t.Errorf("%+v, the large node ran %v", a, large.ran())
	}
}

// queue is a real queue of the zone.
func (b *bed) queue(change func(*asyncq.Config)) *asyncq.Queue {
	b.t.Helper()
	cfg := asyncq.DefaultConfig()
	cfg.Zone = "z"
	if change != nil {
		change(&cfg)
	}
	q, err := asyncq.Open(b.ctx, natstest.JetStream(b.t), b.store, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		b.t.Fatal(err)
	}
	return q
}

func (b *bed) ended(s *scheduler, id string) *wire.Answer {
	b.t.Helper()
	var a *wire.Answer
	b.until(id+" has ended", func() bool {
		var err error
		if a, _, err = s.Result(b.ctx, "t", id); err != nil {
			b.t.Fatal(err)
		}
		return a != nil
	})
	return a
}

// A call that is canceled before the leader took it from the queue never starts, and one that runs is stopped; the
// leader's door and a follower's do the same.
func TestCancelAsynchronousCalls(t *testing.T) {
	for _, door := range []string{"leader", "follower"} {
		t.Run(door, func(t *testing.T) {
			b := newBed(t)
			q := b.queue(func(c *asyncq.Config) { c.MaxRunning = 1 }) // the second call waits in the queue
			async := func(_ *Config, d *Deps) { d.Async = q }
			s := b.scheduler("a", async)
			w := b.worker("n1", 4, s)
			if door == "follower" {
				s = b.scheduler("b", async)
			}
			w.hold = func(r *wire.Run) bool { return r.Call.ID == "runs" }
			submit := func(id string) {
				if err := s.InvokeAsync(b.ctx, invocation(id, func(i *api.Invocation) { i.Async = true })); err != nil {
					t.Fatal(err)
				}
			}
			cancel := func(id string) {
				if err := s.Cancel(b.ctx, "t", id); err != nil {
					t.Fatal(err)
				}
				if a, _, err := s.Result(b.ctx, "t", id); err != nil || a == nil || a.Code != api.CodeCanceled {
					t.Fatalf("%s after its cancellation: %+v, %v", id, a, err)
				}
			}
			submit("runs")
			b.until("the first call runs", func() bool { return len(w.ran()) == 1 })
			submit("waits")
			submit("last")
			cancel("waits")
			cancel("runs")
			b.until("the running call is stopped", func() bool { return slices.Contains(w.canceled(), "runs") })
			if a := b.ended(s, "last"); a.Code != api.CodeOK {
				t.Fatalf("the call behind the canceled ones: %+v", a)
			}
			if ran := w.ran(); !slices.Equal(ran, []string{"runs", "last"}) {
				t.Fatalf("the node ran %v", ran)
			}
			if err := s.Cancel(b.ctx, "t", "unknown"); err != nil {
				t.Fatalf("cancel of what may be a synchronous call: %v", err)
			}
		})
	}
}

// A cancellation may come while the leader looks up whether the call it was handed has ended.
func TestCancelWhileTheRecordIsLookedUp(t *testing.T) {
	b := newBed(t)
	s := b.scheduler("a", nil)
	it := &asyncq.Item{Call: invocation("i1")}
	if err := s.view(b.ctx, func() { s.looked[it] = false }); err != nil {
		t.Fatal(err)
	}
	if err := s.Cancel(b.ctx, "t", "i1"); err != nil {
		t.Fatal(err)
	}
	got := make(chan *wire.Answer, 1)
	if err := s.view(b.ctx, func() { s.lookedUp(it, func(a *wire.Answer) { got <- a }) }); err != nil {
		t.Fatal(err)
	}
	if a := b.answer(got); a.Code != api.CodeCanceled {
		t.Fatalf("answered %+v", a)
	}
}

func TestWakesReplaceAndRemove(t *testing.T) {
	var w wakes
	t0 := time.Unix(0, 0)
	w.set("a", 1, t0.Add(3*time.Second))
	w.set("b", 1, t0.Add(2*time.Second))
	w.set("a", 2, t0.Add(time.Second))
	if w.Len() != 2 || w.wait(t0) != time.Second {
		t.Fatalf("%d wakes, the next in %v", w.Len(), w.wait(t0))
	}
	w.remove("a")
	w.remove("a")
	if w.Len() != 1 || w.wait(t0) != 2*time.Second {
		t.Fatalf("%d wakes, the next in %v", w.Len(), w.wait(t0))
	}
}

func TestKeptAnswersAreBounded(t *testing.T) {
	a := newAnswers()
	now := time.Unix(0, 0)
	for i := range 2 * idemMax {
		a.put(fmt.Sprint("k", i), &wire.Answer{Result: make([]byte, 10)}, now)
	}
	if len(a.byKey) != idemMax || a.bytes != 10*idemMax || a.get("k0", now) != nil {
		t.Fatalf("%d answers of %d bytes", len(a.byKey), a.bytes)
	}
	// A key is good again when its answer is too old, also while nothing else pushes that out.
	old := newAnswers()
	old.put("k", &wire.Answer{ID: "first"}, now)
	late := now.Add(idemKeep + time.Second)
	old.put("k", &wire.Answer{ID: "second"}, late)
	if got := old.get("k", late); got == nil || got.ID != "second" || len(old.order) != 1 {
		t.Fatalf("kept %+v in %v", got, old.order)
	}
	last := fmt.Sprint("k", 2*idemMax-1)
	if a.get(last, now) == nil || a.get(last, now.Add(idemKeep+1)) != nil {
		t.Fatal("an answer must be there until its time is over")
	}
}

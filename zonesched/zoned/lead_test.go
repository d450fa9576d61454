package zoned

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/membership"
)

// script is an elector that says what the test says.
type script struct {
	say   chan membership.Leadership
	heard chan membership.Leadership
}

func (b *bed) script(s *script) func(*Config, *Deps) {
	s.say, s.heard = make(chan membership.Leadership, 16), make(chan membership.Leadership, 1024)
	return func(_ *Config, d *Deps) { d.Elector = s }
}

func (s *script) Run(ctx context.Context, changed func(membership.Leadership)) error {
	for {
		select {
		case l := <-s.say:
			changed(l)
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *script) Heard(l membership.Leadership) {
	select {
	case s.heard <- l:
	default: // the test looks at the first ones
	}
}

// The election forgot the leader, and nobody led in between: calls in flight, at its own door and at a standby's, do not
// notice, and the next ones run under the new epoch.
func TestLeaderGoesOnUnderANewEpoch(t *testing.T) {
	b := newBed(t)
	lead := b.scheduler("a", nil)
	_, first, _ := lead.Leader()
	var other script
	change := b.script(&other)
	other.say <- membership.Leadership{Leader: "a", Epoch: first, Since: first}
	follow := b.scheduler("b", change)
	w := b.worker("n1", 8, lead, follow)
	w.holdAll()
	here, there := b.ask(b.ctx, lead, invocation("here")), b.ask(b.ctx, follow, invocation("there"))
	b.until("both run", func() bool { return len(w.ran()) == 2 })

	b.reg.Kill("a")
	var second api.Epoch
	b.until("a new epoch", func() bool {
		var mine bool
		_, second, mine = lead.Leader()
		return mine && second != first
	})
	for l := range other.heard { // the standby hears of it on the bus
		if l.Epoch == second && l.Leader == "a" {
			if l.Since != first {
				t.Fatalf("the leader says %+v", l)
			}
			other.say <- l
			break
		}
	}
	b.until("the standby knows", func() bool { _, e, _ := follow.Leader(); return e == second })
	next := b.ask(b.ctx, follow, invocation("next"))
	b.until("the next one runs", func() bool { return len(w.ran()) == 3 })
	w.mu.Lock()
	epoch := w.running["next"].Epoch
	w.mu.Unlock()
	if epoch != second {
		t.Fatalf("dispatched under %v, the leader has %v", epoch, second)
	}
	for id, got := range map[string]chan *wire.Answer{"here": here, "there": there, "next": next} {
		w.finish(id)
		if a := b.answer(got); a.Code != api.CodeOK {
			t.Fatalf("%s: %+v", id, a)
		}
	}
	if n := len(w.ran()); n != 3 {
		t.Fatalf("%d dispatches of 3 calls", n)
	}
}

// A leader that the election does not reach hears from the zone itself that it was replaced, and stops at once.
func TestLeaderHearsThatItWasReplaced(t *testing.T) {
	for name, tell := range map[string]func(b *bed, w *worker, higher api.Epoch){
		"hello of another leader": func(b *bed, _ *worker, higher api.Epoch) {
			b.send(b.bus, wire.SubjectAllNodes("z", "hello"), &wire.Hello{Epoch: higher, Leader: "x"})
		},
		"report of a node": func(_ *bed, w *worker, higher api.Epoch) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.epoch = higher
		},
		"refusal of a node": func(b *bed, w *worker, higher api.Epoch) {
			b.send(b.bus, wire.SubjectDone("z"), &wire.Completion{
				Epoch: higher, Node: "n1", Boot: 1, ID: "i1", Outcome: api.OutcomeRefused, Code: api.CodeFenced,
			})
		},
		"samples of another leader": func(b *bed, _ *worker, higher api.Epoch) {
			b.send(b.bus, wire.SubjectSamples("z"), &wire.Batch{Zone: "z", Epoch: higher})
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			s := b.scheduler("a", nil)
			w := b.worker("n1", 4, s)
			w.holdAll()
			_, first, _ := s.Leader()
			plain := b.ask(b.ctx, s, invocation("i1"))
			keyed := b.ask(b.ctx, s, invocation("i2", func(i *api.Invocation) { i.IdemKey = "k" }))
			b.until("both run", func() bool { return len(w.ran()) == 2 })
			higher := first
			higher.Revision += 10
			w.holdNone()
			tell(b, w, higher)
			// What may have run fails, unless it may run again. A call that was refused, and so never ran, does either: its
			// door brings it to the next leader, if that is not replaced in the same moment.
			if a := b.answer(plain); a.Code != api.CodeUnavailable && name != "refusal of a node" {
				t.Fatalf("answer %+v", a)
			}
			if a := b.answer(keyed); a.Code != api.CodeOK {
				t.Fatalf("the keyed call: %+v", a)
			}
			// Nobody else stands: it leads again, above what it heard of.
			b.until("it leads again", func() bool { _, e, mine := s.Leader(); return mine && e.Compare(higher) > 0 })
		})
	}
}

// A scheduler that starts while the election is out of reach serves by the leader that the zone speaks of.
func TestServesWithoutTheElection(t *testing.T) {
	b := newBed(t)
	lead := b.scheduler("a", nil)
	w := b.worker("n1", 4, lead)
	var other script
	change := b.script(&other)
	ctx, stop := context.WithCancel(b.ctx)
	var beside sync.WaitGroup
	beside.Go(func() { // what the elector makes of what it hears
		select {
		case l := <-other.heard:
			l.Since = l.Epoch
			other.say <- l
		case <-ctx.Done():
		}
	})
	beside.Go(func() { // calls make the leader speak of itself
		for i := 0; ctx.Err() == nil; i++ {
			lead.Invoke(ctx, invocation(fmt.Sprint("i", i)))
		}
	})
	follow := b.scheduler("b", change) // waits until it is ready
	stop()
	beside.Wait()
	if name, _, _ := follow.Leader(); name != "" {
		t.Fatalf("knows the name %q, which no message had", name)
	}
	b.mustRun(follow, "through-b")
	if n := len(w.ran()); n < 2 {
		t.Fatalf("%d runs", n)
	}
}

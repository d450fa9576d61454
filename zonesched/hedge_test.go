package zonesched

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// slow makes a bed in which i runs on a, past its bound of 15 ms, with b warm and free beside.
func slow(t *testing.T, idempotent bool) *bed {
	b := newBed(t, func(c *Config) { c.HedgeBudget = .1 })
	f := *b.z.fns["t/f"].spec
	f.Name, f.Idempotent = "twice", idempotent
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{f}})
	warm := func(name string, slots int) {
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: &wire.Heartbeat{
			Zone: "z", Node: name, Boot: 1, Epoch: b.z.Epoch(), Slots: slots, MemMB: 4000,
			Sandboxes: []wire.SandboxReport{{Function: "t/twice@1", State: api.SandboxPrepared, Idle: slots, MemoryMB: 100}},
		}})
	}
	warm("a", 4)
	for i := range 20 { // so that the budget allows two
		id := fmt.Sprintf("w%d", i)
		b.invoke(id, "twice")
		b.end(id, "a", 0, api.OutcomeOK)
	}
	b.invoke("i", "twice")
	b.ran("i", "a")
	warm("b", 4)
	return b
}

// end completes one dispatch.
func (b *bed) end(id, node string, attempt uint8, how api.Outcome) []Action {
	return b.done(id, node, func(m *wire.Completion) {
		m.Attempt, m.Outcome, m.MemUsedMB = attempt, how, 400
		m.Sandboxes = []wire.SandboxReport{{Function: "t/twice@1", State: api.SandboxPrepared, Idle: 4, MemoryMB: 100}}
		m.Echo = api.Echo{Bins: make([]byte, api.NumFeatures), Node: node}
		if how != api.OutcomeOK {
			m.Code = api.CodeUnavailable
		}
	})
}

// late wakes i when it asked for it, again and again, until it has run so long.
func (b *bed) late(d time.Duration) {
	b.t.Helper()
	from := b.now
	for gen := b.z.calls["i"].gen; b.now.Sub(from) < d; gen = b.z.calls["i"].gen {
		b.after(d / 8)
		b.step(&Event{Kind: EvWake, ID: "i", Gen: gen})
		if find(b.acts, ActRun, "i") != nil {
			return
		}
	}
}

func TestSlowCallsAreSentTwice(t *testing.T) {
	for _, x := range []struct {
		name   string
		first  string // whose completion comes first
		how    api.Outcome
		answer bool
	}{
		{"the second wins", "b", api.OutcomeOK, true}, {"the first wins", "a", api.OutcomeOK, true}, {"an error is an answer", "b", api.OutcomeFunctionError, true},
		{"the second is refused", "b", api.OutcomeRefused, false}, {"the first could not run", "a", api.OutcomeInternal, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			b := slow(t, true)
			b.late(time.Second)
			run := find(b.acts, ActRun, "i")
			if run == nil || run.Node != "b" || run.Run.Call.Attempt != 1 {
				t.Fatalf("not sent to b: %s", text(b.acts))
			}
			other, attempt := "b", uint8(0)
			if x.first == "b" {
				other, attempt = "a", 1
			}
			b.after(5 * time.Millisecond)
			acts := b.end("i", x.first, attempt, x.how)
			if got := find(acts, ActAnswer, "i") != nil; got != x.answer {
				t.Fatalf("answered: %v, want %v: %s", got, x.answer, text(acts))
			}
			if c := find(acts, ActCancelRun, "i"); (c != nil) != x.answer || c != nil && c.Node != other {
				t.Fatalf("canceled: %+v", c)
			}
			acts = b.end("i", other, 1-attempt, api.OutcomeOK)
			if got := find(acts, ActAnswer, "i") != nil; got == x.answer || find(acts, ActSample, "") == nil {
				t.Fatalf("after the other one: answered %v, want %v, and a sample of its own: %s", got, !x.answer, text(acts))
			}
			d, _ := b.z.Decision("i")
			won := x.answer && x.first == "b"
			if d.Hedge.Node != "b" || d.Hedge.Won != won || d.Hedge.AfterMs < d.Hedge.BoundMs || !strings.Contains(d.Explain(), "it was sent to b as well") {
				t.Errorf("recorded as %+v", d.Hedge)
			}
			if c := b.z.Counters(); c.Hedged != 1 || (c.HedgeWins == 1) != won {
				t.Errorf("counted %d, %d won", c.Hedged, c.HedgeWins)
			}
			if err := b.z.Check(); err != nil || !b.z.Quiet() {
				t.Error(err, b.z.Quiet())
			}
		})
	}
}

// Whose node is lost, the other dispatch answers for; who goes away stops both.
func TestTwoDispatchesEnd(t *testing.T) {
	for _, lost := range []string{"a", "b"} {
		b := slow(t, true)
		b.late(time.Second)
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: &wire.Heartbeat{Zone: "z", Node: lost, Boot: 2, Epoch: b.z.Epoch(), Slots: 4, MemMB: 4000}})
		if find(b.acts, ActAnswer, "i") != nil {
			t.Fatalf("answered though the other one runs: %s", text(b.acts))
		}
		other, attempt := "b", uint8(1)
		if lost == "b" {
			other, attempt = "a", 0
		}
		b.end("i", other, attempt, api.OutcomeOK)
		b.answered("i", api.CodeOK)
	}
	b := slow(t, true)
	b.late(time.Second)
	acts := b.step(&Event{Kind: EvCancel, ID: "i", Reason: "gone"})
	if find(acts, ActCancelRun, "i") == nil || strings.Count(text(acts), "cancel_run i") != 2 {
		t.Errorf("canceled where it runs: %s", text(acts))
	}
	// Neither answers: the call's own time ends it, on both.
	b = slow(t, true)
	b.late(time.Second)
	b.after(time.Minute)
	acts = b.step(&Event{Kind: EvWake, ID: "i", Gen: b.z.calls["i"].gen})
	b.answered("i", api.CodeDeadline)
	if strings.Count(text(acts), "cancel_run i") != 2 {
		t.Errorf("stopped where it runs: %s", text(acts))
	}
}

// No second dispatch without the owner's word, beyond the budget, in a full zone, of an old version, or for too small a gain.
func TestCallsAreNotSentTwice(t *testing.T) {
	for name, edit := range map[string]func(*bed){
		"not idempotent": func(*bed) {},
		"no budget":      func(b *bed) { b.z.counters.Hedged = 3 },
		"switched off":   func(b *bed) { b.z.cfg.HedgeBudget = 0 },
		"a full zone": func(b *bed) {
			for k := range 7 {
				b.invoke(fmt.Sprintf("x%d", k), "twice")
			}
			b.z.sums.slots *= 10 // as one slot in eighty
		},
		"a new version": func(b *bed) {
			f := *b.z.fns["t/twice"].spec
			f.Version = 2
			b.step(&Event{Kind: EvFunctions, Functions: []api.Function{f}})
		},
		"nothing gained": func(b *bed) { b.step(&Event{Kind: EvModel, Predictor: dear{}}) },
	} {
		b := slow(t, name != "not idempotent")
		edit(b)
		if b.late(time.Second); b.z.Counters().Hedged > 3 || find(b.acts, ActRun, "i") != nil {
			t.Errorf("%s: sent twice: %s", name, text(b.acts))
		}
	}
}

// dear predicts an hour for everything.
type dear struct{ times }

func (dear) Estimate(_ *api.Request, cands []api.Candidate, out []api.Estimate) {
	for i := range cands {
		out[i] = api.Estimate{Mu: 15, Sigma: .1, UpperMs: 1e7, Source: api.SourceForest}
	}
}

// A second dispatch that cannot be sent leaves the first alone; a first one that cannot is decided again.
func TestUnsentDispatches(t *testing.T) {
	b := slow(t, true)
	b.late(time.Second)
	run := find(b.acts, ActRun, "i")
	b.step(&Event{Kind: EvUnsent, Completion: &wire.Completion{ID: "i", Node: run.Node, Attempt: run.Run.Call.Attempt, Message: "no"}})
	if c := b.z.calls["i"]; c == nil || c.hedge.node != nil || c.node.name != "a" || find(b.acts, ActCancelRun, "i") != nil {
		t.Fatalf("the first dispatch ended with the second: %s", text(b.acts))
	}
	b.end("i", "a", 0, api.OutcomeOK)
	b.answered("i", api.CodeOK)

	b.after(refusalPause)
	b.invoke("j", "twice")
	run = find(b.acts, ActRun, "j")
	b.step(&Event{Kind: EvUnsent, Completion: &wire.Completion{ID: "j", Node: run.Node, Message: "no"}})
	again := find(b.acts, ActRun, "j")
	if again == nil || again.Run.Call.Attempt != 1 || again.Node == run.Node {
		t.Fatalf("not sent again: %s", text(b.acts))
	}
	b.end("j", again.Node, 1, api.OutcomeOK)
	b.answered("j", api.CodeOK)
	if err := b.z.Check(); err != nil || !b.z.Quiet() {
		t.Error(err, b.z.Quiet())
	}
}

// A node may still have the end of a dispatch that an earlier leader canceled, the loser of two, say. It does not answer the call
// that this leader began: that runs again if it may.
func TestWhatAnEarlierLeaderCanceled(t *testing.T) {
	for _, key := range []string{"", "k"} {
		b := newBed(t, nil)
		b.node("a", 2, 2)
		b.invoke("i", "f", func(i *api.Invocation) { i.IdemKey = key })
		b.ran("i", "a")
		acts := b.done("i", "a", func(m *wire.Completion) { m.Outcome, m.Code, m.Resent = api.OutcomeCanceled, api.CodeCanceled, true })
		if key == "" {
			b.answered("i", api.CodeUnavailable)
			continue
		}
		run := find(acts, ActRun, "i")
		if run == nil || run.Run.Call.Attempt != 1 {
			t.Fatalf("not run again: %s", text(acts))
		}
		b.done("i", run.Node, func(m *wire.Completion) { m.Attempt = 1 })
		b.answered("i", api.CodeOK)
	}
}

package zonesched

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// An alternative counts as it was measured there lately in the same state, else as it was predicted.
func TestHindsight(t *testing.T) {
	for _, x := range []struct {
		name  string
		after time.Duration // since the function ran on the cold node
		ran   bool
		basis string
		ms    float64
	}{{"measured", time.Second, true, HindsightMeasured, 51}, {"long ago", 2 * time.Minute, true, HindsightPredicted, 1001}, {"never", 0, false, HindsightPredicted, 1001}} {
		b := newBed(t, nil)
		b.node("warm", 1, 1)
		if x.ran {
			b.z.fns["t/f"].saw(seen{node: 1, sandbox: api.SandboxNone, execMs: 50, at: b.now})
			b.z.fns["t/f"].saw(seen{node: 1, sandbox: api.SandboxWarm, execMs: 5, at: b.now})                   // in another state
			b.z.fns["t/f"].saw(seen{node: 1, sandbox: api.SandboxNone, missing: 1 << 30, execMs: 5, at: b.now}) // of other data
			b.z.fns["t/f"].saw(seen{node: 0, sandbox: api.SandboxNone, execMs: 5, at: b.now})                   // on another node
		}
		b.after(x.after)
		b.node("warm", 1, 1)
		b.node("cold", 1, 0)
		b.invoke("i", "f")
		b.ran("i", "warm")
		b.after(12 * time.Millisecond)
		b.done("i", "warm")
		d, _ := b.z.Decision("i")
		h := d.Hindsight
		if h.Node != "cold" || h.Basis != x.basis || math.Abs(h.AlternativeMs-x.ms) > 1 || h.CameMs != 12 || math.Abs(h.RegretMs-(12-h.AlternativeMs)) > 1e-9 {
			t.Errorf("%s: %+v", x.name, h)
		}
		if k := d.Candidates[d.Best]; k.LowMs >= k.ExpectedMs || k.HighMs <= k.ExpectedMs || math.Abs(k.ExpectedMs-11) > .5 {
			t.Errorf("%s: expected %v within %v-%v ms", x.name, k.ExpectedMs, k.LowMs, k.HighMs)
		}
		if w := d.Explain(); !strings.Contains(w, "The best alternative, cold") || !strings.Contains(w, "the choice gained") {
			t.Errorf("%s: in words: %s", x.name, w)
		}
	}
}

// A call that was held back for the busy sandbox of a node is compared with the start that it declined there, and the other way round; what it
// did itself is no alternative. The interval is as wide as the estimate says.
func TestTheOtherWayOnTheSameNode(t *testing.T) {
	b := newBed(t, func(c *Config) { c.Scout = 0 })
	b.node("a", 2, 1)
	b.invoke("first", "f")
	b.ran("first", "a")
	b.invoke("i", "f")
	if d, _ := b.z.Decision("i"); d.Kind != api.DecisionDelayed.String() {
		t.Fatalf("%+v", d)
	}
	b.after(10 * time.Millisecond)
	b.done("first", "a")
	b.ran("i", "a")
	b.after(10 * time.Millisecond)
	b.done("i", "a")
	d, _ := b.z.Decision("i")
	if h := d.Hindsight; h.Node != "a" || h.Sandbox != api.SandboxPrepared.String() || h.Basis != HindsightPredicted || h.CameMs != 20 || h.AlternativeMs < 900 || h.RegretMs > -880 {
		t.Errorf("%+v", h)
	}
	if w := d.Explain(); !strings.Contains(w, "The best alternative, a (sandbox prepared)") {
		t.Errorf("in words: %s", w)
	}
	// Held back for what does not come, it starts there at last: it would have done better to do so at once.
	b.invoke("first2", "f")
	b.ran("first2", "a")
	b.invoke("j", "f")
	if d, _ := b.z.Decision("j"); d.Kind != api.DecisionDelayed.String() {
		t.Fatalf("%+v", d)
	}
	for range 200 {
		b.after(20 * time.Millisecond)
		if b.step(&Event{Kind: EvWake, ID: "j", Gen: b.z.calls["j"].gen}); find(b.acts, ActRun, "j") != nil {
			break
		}
	}
	b.ran("j", "a")
	b.after(time.Second)
	b.done("j", "a", func(m *wire.Completion) { m.Start, m.RunMs = api.SandboxPrepared, 1000 })
	if d, _ := b.z.Decision("j"); d.Hindsight.Node != "a" || d.Hindsight.Sandbox != api.SandboxPrepared.String() || d.Hindsight.Basis != HindsightPredicted || d.Hindsight.RegretMs < 10 || d.Hindsight.RegretMs > 2000 {
		t.Errorf("%+v", d.Hindsight)
	}
	b.done("first2", "a")
	b.invoke("alone", "f")
	b.ran("alone", "a")
	b.after(10 * time.Millisecond)
	b.done("alone", "a")
	if d, _ := b.z.Decision("alone"); d.Hindsight.Node != "" || d.Hindsight.CameMs != 10 {
		t.Errorf("a call with one way to go: %+v", d.Hindsight)
	}

	// Queued for b, it gets a's slot first: what it did there is no alternative.
	b = newBed(t, func(c *Config) { c.Scout = 0 })
	b.node("a", 1, 1)
	b.node("b", 1, 1)
	b.invoke("on a", "f")
	b.invoke("on b", "f")
	b.invoke("q", "f")
	hope := b.z.calls["q"].hope.name
	other := map[string]string{"a": "b", "b": "a"}[hope]
	b.after(9 * time.Millisecond)
	for _, id := range []string{"on a", "on b"} {
		if b.z.calls[id].node.name == other {
			b.done(id, other)
			break
		}
	}
	b.ran("q", other)
	b.after(10 * time.Millisecond)
	b.done("q", other)
	if d, _ := b.z.Decision("q"); d.Kind != api.DecisionQueued.String() || d.Hindsight.Node != hope {
		t.Errorf("hoped for %s, ran on %s: %+v", hope, other, d.Hindsight)
	}

	var k Candidate
	k.ExecMs = 100
	k.expected(&policy.Candidate{Est: api.Estimate{Mu: math.Log(100), Sigma: 2}})
	within, rng := 0, rand.New(rand.NewPCG(1, 5))
	for range 10_000 {
		if x := 100 * math.Exp(2*rng.NormFloat64()); x >= k.LowMs && x <= k.HighMs {
			within++
		}
	}
	if within < 7800 || within > 8200 {
		t.Errorf("%d of 10,000 within %v-%v ms", within, k.LowMs, k.HighMs)
	}
}

// What is remembered of a function is bounded, and the newest is found.
func TestSeenIsBounded(t *testing.T) {
	f := &function{}
	for i := range 3*maxSeen + 5 {
		f.saw(seen{node: 1, execMs: float64(i), at: t0.Add(time.Duration(i) * time.Millisecond)})
	}
	if got, ok := f.measured(t0.Add(time.Second), &Candidate{node: 1}, 0); !ok || got != 3*maxSeen+4 || len(f.seen) != maxSeen {
		t.Errorf("found %v %v of %d", got, ok, len(f.seen))
	}
}

// Refused as late, a call was not held back, whatever the rule would have made of it.
func TestLateIsNotHeldBack(t *testing.T) {
	b := newBed(t, func(c *Config) { c.WhenLate = LateRefuse })
	b.node("warm", 1, 1)
	b.node("bare", 1, 0)
	b.invoke("i1", "f")
	b.ran("i1", "warm")
	b.invoke("i2", "f", func(i *api.Invocation) { i.BudgetMs = 5 }) // warm is ready in 10 ms and more, bare takes a second
	b.answered("i2", api.CodeDeadline)
	d, ok := b.z.Decision("i2")
	if !ok || d.Kind != api.DecisionRefused.String() || d.Clause != "late_everywhere" {
		t.Errorf("%v %+v", ok, d)
	}
}

// A call that is refused or given away since it would be late everywhere leaves a record.
func TestLateCallsLeaveARecord(t *testing.T) {
	for _, when := range []string{LateRefuse, LateForward} {
		b := newBed(t, func(c *Config) { c.WhenLate = when })
		b.node("cold", 1, 0)
		b.step(&Event{Kind: EvGrant, Grant: &wire.Grant{ID: 1, From: "y", To: "z", Epoch: api.Epoch{Revision: 1}, Slots: 4, TTLMs: 1000, MeanMs: 1}})
		b.invoke("first", "deadline")
		b.invoke("i", "f", func(i *api.Invocation) { i.BudgetMs = 50 })
		d, ok := b.z.Decision("i")
		want, words := "refused", "refused at once"
		if when == LateForward {
			want, words = "forwarded", "given to another zone"
		}
		if !ok || d.Kind != want || d.Clause != "late_everywhere" || len(d.Candidates) != 1 || d.Ended != (when == LateRefuse) || !strings.Contains(d.Explain(), words) {
			t.Errorf("%s: %v %+v\n%s\n%s", when, ok, d, d.Explain(), text(b.acts))
		}
	}
}

// Of a call whose time was up, held back or running, the record says what the alternative would have been, too: that is where waiting hurt.
func TestHindsightOfCallsThatWereCutOff(t *testing.T) {
	for _, runs := range []bool{false, true} {
		b := newBed(t, func(c *Config) { c.Scout = 0 })
		b.node("warm", 1, 1)
		b.node("cold", 1, 0)
		b.invoke("first", "f")
		b.ran("first", "warm")
		b.invoke("i", "f", func(i *api.Invocation) { i.BudgetMs = 5000 })
		if d, _ := b.z.Decision("i"); d.Kind != api.DecisionDelayed.String() {
			t.Fatalf("not held back: %+v", d)
		}
		if runs {
			b.after(15 * time.Millisecond)
			b.done("first", "warm")
			b.ran("i", "warm")
		}
		b.after(7 * time.Second)
		b.step(&Event{Kind: EvWake, ID: "i", Gen: b.z.calls["i"].gen})
		b.answered("i", api.CodeDeadline)
		d, _ := b.z.Decision("i")
		h := d.Hindsight
		if !h.Cut || h.Node != "cold" || h.CameMs < 7000 || h.RegretMs < 5000 || math.Abs(h.CameMs-h.AlternativeMs-h.RegretMs) > 1e-9 {
			t.Errorf("runs %t: %+v", runs, h)
		}
		if w := d.Explain(); !strings.Contains(w, "was cut off after") || !strings.Contains(w, "ms at least") {
			t.Errorf("runs %t, in words: %s", runs, w)
		}
	}
}

// A freed slot goes to one of those that wait for a reason, and the record says which.
func TestFreedSlotsAreExplained(t *testing.T) {
	for class, want := range map[uint8]string{0: policy.FirstByMatch, 1: firstByClass} {
		b := newBed(t, func(c *Config) { c.Scout = 0 })
		b.node("a", 1, 1)
		b.invoke("first", "f")
		b.ran("first", "a")
		b.invoke("i", "f")
		if class > 0 { // it has been passed over often enough
			b.z.passed[classOf(b.z.calls["i"].inv.Priority)] = 1 << 20
		}
		b.after(20 * time.Millisecond)
		b.done("first", "a")
		b.ran("i", "a")
		d, _ := b.z.Decision("i")
		if f := d.Freed; f.By != want || f.Waiting != 1 || f.Slot.Node != "a" || f.Slot.ExpectedMs <= 0 || !f.At.Equal(b.now) {
			t.Errorf("%+v, want it by %s", f, want)
		}
		if w := d.Explain(); !strings.Contains(w, "first of 1 that waited by "+want) {
			t.Errorf("in words: %s", w)
		}
	}
}

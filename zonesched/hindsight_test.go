package zonesched

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
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

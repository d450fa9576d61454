package zonesched

import (
	"math"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// long predicts by averages: five seconds warm, one more cold.
type long struct{ times }

func (long) Estimate(_ *api.Request, cands []api.Candidate, out []api.Estimate) {
	for i := range cands {
		ms := 5000.0
		if cands[i].Sandbox != api.SandboxWarm {
			ms = 6000
		}
		out[i] = api.Estimate{Mu: math.Log(ms), AveragesMu: math.Log(ms), Sigma: .1, UpperMs: math.Inf(1), Source: api.SourceAverages}
	}
}

// Under cidre a call whose function's sandbox is busy for longer than a cold start takes begins one and waits for both: it goes
// where a sandbox is ready first.
func TestCIDRETakesWhatIsReadyFirst(t *testing.T) {
	for _, first := range []string{"warm", "spare"} {
		b := newBed(t, func(c *Config) { c.Policy = "cidre" })
		b.step(&Event{Kind: EvModel, Predictor: long{}})
		b.node("warm", 1, 1)
		b.node("spare", 2, 0)
		b.invoke("i1", "f")
		b.ran("i1", "warm")
		b.invoke("i2", "f")
		if find(b.acts, ActRun, "i2") != nil {
			t.Fatalf("it runs at once: %v", text(b.acts))
		}
		start := find(b.acts, ActRun, "")
		if start == nil || start.Node != "spare" || !start.Run.Prewarm {
			t.Fatalf("no cold start beside the wait: %v", text(b.acts))
		}
		for range 4 { // beyond delay_max: the start is its own, and a second one would come no sooner
			b.after(time.Second)
			w := b.z.calls["i2"]
			b.step(&Event{Kind: EvWake, ID: "i2", Gen: w.gen})
			if a := find(b.acts, ActRun, ""); a != nil {
				t.Fatalf("another start while one is under way: %v", text(b.acts))
			}
		}
		if first == "warm" {
			b.done("i1", "warm")
		} else {
			b.step(&Event{Kind: EvCompletion, Completion: &wire.Completion{
				Node: "spare", Boot: 1, ID: start.ID, Epoch: b.z.Epoch(), InitMs: 4000, Outcome: api.OutcomeOK,
				Sandboxes: []wire.SandboxReport{{Function: "t/f@1", State: api.SandboxPrepared, Idle: 1, MemoryMB: 100}},
			}})
		}
		b.ran("i2", first)
	}
}

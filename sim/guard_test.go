package sim

import (
	"math"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// believer predicts by a law that it never doubts: nodes of the class run a call in fastMs, all others in slowMs.
type believer struct {
	class          uint8
	fastMs, slowMs float64
}

func (believer) Version() uint64 { return 1 }

func (believer) Columns(*api.Candidate, *api.NodeColumns) {}

func (p believer) Estimate(_ *api.Request, cands []api.Candidate, out []api.Estimate) {
	for i := range cands {
		mu := math.Log(p.slowMs)
		if cands[i].Class == p.class {
			mu = math.Log(p.fastMs)
		}
		out[i] = api.Estimate{Mu: mu, Sigma: .3, UpperMs: math.Exp(mu + .6), Source: api.SourceForest}
	}
}

// A law that turns into its opposite, under a model that does not learn: calls are held back for nodes that have become slow while
// fast ones are idle. Waiting is stopped; when the law is as before, the probes show it, and waiting returns.
func TestWaitingThatLosesIsStoppedAndReturns(t *testing.T) {
	fast, slow := nodesOf(6, 1), nodesOf(12, 1)
	fast.Core.Class, slow.Core.Class = "fast", "slow"
	slow.Speed = [kernels]float64{.1, .1, .1}
	f := functionOf(0, 50*time.Millisecond)
	f.Spread, f.Prepare, f.Start, f.ColdSpread = .3, 0, 0, 0
	const turns, turnsBack, end = 60 * time.Second, 150 * time.Second, 400 * time.Second
	cfg := Config{
		Seed: 3, Zones: []Zone{zoneOf("z", "rubato", fast, slow)}, Functions: []Function{f}, Heartbeat: time.Second, Latency: 200 * time.Microsecond,
		Streams: []Stream{{PerS: 70, Objects: -1}},
		Changes: []Change{
			{At: turns, Function: -1, Class: "fast", Speed: .1}, {At: turns, Function: -1, Class: "slow", Speed: 10},
			{At: turnsBack, Function: -1, Class: "fast", Speed: 10}, {At: turnsBack, Function: -1, Class: "slow", Speed: .1},
		},
	}
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Model(0, believer{class: api.HardwareClass("fast"), fastMs: 50, slowMs: 500})
	core := w.Core(0)
	see := func(at time.Duration) {
		w.Run(at)
		if v := w.Violation(); v != "" {
			t.Fatal(v)
		}
		t.Logf("at %v: %+v; delayed %d", at, core.Guard(), core.Counters().Delayed)
	}
	see(turns)
	if g := core.Guard(); g.Stopped || g.Calls < 50 || g.Ratio > .9 || core.Counters().WaitingStopped != 0 {
		t.Errorf("before the law turns: %+v, want waiting that wins", g)
	}
	see(turnsBack)
	before := core.Counters()
	if g := core.Guard(); !g.Stopped || before.WaitingStopped != 1 {
		t.Errorf("after the law has turned: %+v, want it stopped", g)
	}
	see(end)
	if g, c := core.Guard(), core.Counters(); g.Stopped || c.WaitingStopped != 1 || c.WaitingResumed != 1 {
		t.Errorf("after it has turned back: %+v, stopped %d times, resumed %d times", g, c.WaitingStopped, c.WaitingResumed)
	}
}

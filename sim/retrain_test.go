package sim

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/zonesched"
)

// retrained is a zone of unlike nodes whose fast ones become slow after half a minute, under a rule that trains now and then.
func retrained() Config {
	fast, slow := nodesOf(4, 4), nodesOf(4, 4)
	fast.Core.Class, slow.Core.Class = "fast", "slow"
	slow.Speed = [kernels]float64{.3, .3, .3}
	return Config{
		Seed: 1, Zones: []Zone{zoneOf("z", "metronome", fast, slow)}, Functions: []Function{functionOf(0, 60*time.Millisecond)}, Heartbeat: time.Second,
		Latency: 200 * time.Microsecond, Streams: []Stream{{PerS: 40, Objects: -1}}, Record: true,
		Learn: Learning{Every: 1, Publish: time.Millisecond, Retrain: Retrain{Window: 512, Every: 5 * time.Second}},
	}
}

// What the zone predicts with changes when a forest is trained, and at no other time: whenever the samples have doubled, until
// the window is full, and every five seconds.
func TestPredictorsChangeAtTrainingsOnly(t *testing.T) {
	w := advance(t, retrained(), 60*time.Second)
	samples, last := 0, time.Duration(-1)
	var doublings, timed int
	for i, s := range w.shards[0].steps {
		at := s.At.Sub(start)
		switch s.Event.Kind {
		case zonesched.EvCompletion:
			samples++
		case zonesched.EvModel:
			switch {
			case last < 0:
				if at != 0 {
					t.Errorf("the first predictor comes at %v, want the one that knows nothing at the beginning", at)
				}
			case samples == 64 || samples == 128 || samples == 256 || samples == 512:
				doublings++
			case at-last >= 5*time.Second && at-last < 6*time.Second:
				timed++
			default:
				t.Errorf("step %d: a predictor at %v, %v after the one before, with %d samples", i, at, at-last, samples)
			}
			last = at
		}
	}
	if samples < 2000 || doublings != 4 || timed < 8 {
		t.Errorf("%d samples, %d trainings as samples doubled and %d by time: want above 2000, 4, and 8 or more", samples, doublings, timed)
	}
	known, _ := w.Core(0).Decisions(0, 50)
	for _, x := range known {
		for _, c := range x.Candidates {
			if c.UpperMs != -1 || c.Estimate != "forest" {
				t.Errorf("%s: a bound of %v ms, estimated by %s; want none, and the forest", c.Node, c.UpperMs, c.Estimate)
			}
		}
	}
	if len(known) < 50 {
		t.Errorf("%d decisions kept", len(known))
	}
}

// A forest is made of the window and of nothing else: what was learned before leaves no trace, and all trees were grown at the
// window's end. It tells slow nodes from fast ones.
func TestForestsAreOfTheWindow(t *testing.T) {
	c := retrained()
	c.Zones[0].Core.Policy = "random" // to have samples of all nodes
	w := advance(t, c, 20*time.Second)
	ring := w.shards[0].trainer
	if len(ring.ring) != 512 || ring.seen < 600 {
		t.Fatalf("%d samples in the window of %d: want it full and turned over", len(ring.ring), ring.seen)
	}
	cfg := learner.DefaultConfig()
	cfg.Zone = "z"
	fresh, aged := newTrainer(&Retrain{Window: 512, Every: time.Second}, cfg), newTrainer(&Retrain{Window: 512, Every: time.Second}, cfg)
	const was = 40 // times as slow as what comes then
	for i := range 700 {
		x := ring.ring[i%512]
		x.RunMs *= was
		aged.add(&x)
	}
	for i := range 512 {
		x := ring.ring[(ring.seen+i)%512]
		fresh.add(&x)
		// What was predicted when the call was decided is of the time before.
		x.Echo.Mu, x.Echo.AveragesMu, x.Echo.Source = x.Echo.Mu+math.Log(was), x.Echo.AveragesMu+math.Log(was), api.SourceForest
		aged.add(&x)
	}
	ask := func(l *learner.Learner) []api.Estimate {
		out := make([]api.Estimate, 8)
		var cands []api.Candidate
		for i := range out {
			class := api.HardwareClass([]string{"fast", "slow"}[i/4])
			cands = append(cands, api.Candidate{Node: fmt.Sprintf("z-%05d", i), Class: class, Sandbox: api.SandboxWarm, Slots: 4, LinkMbps: 1000})
		}
		l.Snapshot().Estimate(&api.Request{Function: "t/f0", Runtime: api.RuntimeProcess, MemoryMB: 128, Alpha: .05}, cands, out)
		return out
	}
	a, err := fresh.train()
	if err != nil {
		t.Fatal(err)
	}
	b, err := aged.train()
	if err != nil {
		t.Fatal(err)
	}
	got, want := ask(b), ask(a)
	for i := range got {
		if got[i].Source != api.SourceForest || got[i].Mu != want[i].Mu {
			t.Errorf("node %d: %v by %v after other samples, %v without them", i, got[i].Mu, got[i].Source, want[i].Mu)
		}
		if median, truth := got[i].MedianMs(), []float64{60, 200}[i/4]; math.Abs(math.Log(median/truth)) > .3 {
			t.Errorf("node %d: %.1f ms predicted, truth is %v", i, median, truth)
		}
	}
	trees := a.Snapshot().Trees()
	for _, tr := range trees {
		if tr.Kind != learner.KindOwn || tr.Born < 512-100 {
			t.Errorf("a tree of kind %v grown from the first %d of 512 rows", tr.Kind, tr.Born)
		}
	}
	if len(trees) != cfg.Trees {
		t.Errorf("%d trees, want %d", len(trees), cfg.Trees)
	}
}

func TestTrainingsThatCannotBeAreRefused(t *testing.T) {
	for _, r := range []Retrain{{Window: 63, Every: time.Second}, {Window: learner.MaxWindow + 1, Every: time.Second}, {Window: 512}, {Window: -1, Every: time.Second}} {
		cfg := retrained()
		cfg.Learn.Retrain = r
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v is taken", r)
		}
	}
}

func BenchmarkTrain(b *testing.B) {
	c := retrained()
	c.Learn.Retrain.Window, c.Record = 4096, false
	w, err := New(c)
	if err != nil {
		b.Fatal(err)
	}
	w.Run(110 * time.Second)
	for b.Loop() {
		if _, err := w.shards[0].trainer.train(); err != nil {
			b.Fatal(err)
		}
	}
}

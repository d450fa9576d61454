package sim

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/zonesched"
)

// Property: with second dispatches, crashes, cancels and losses, every call is answered once, every execution gives at most one
// sample, and second dispatches stay within their budget.
func TestSecondDispatchesAnswerOnce(t *testing.T) {
	hedged := uint64(0)
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		cfg := config(t, seed)
		cfg.Zones[0].Core.HedgeBudget, cfg.Zones[0].Core.MaxWaiting = .1, 1000
		for i := range cfg.Functions {
			cfg.Functions[i].Hang, cfg.Functions[i].Spec.Idempotent = .1, true
		}
		w, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		w.Model(0, believer{class: 1, fastMs: 30, slowMs: 30})
		n := rapid.IntRange(20, 150).Draw(t, "calls")
		rng := rand.New(rand.NewPCG(seed, 1))
		arrivals(w, rng, n, 20*time.Second)
		for range rapid.IntRange(0, 4).Draw(t, "crashes") {
			i, at := rng.IntN(w.Nodes(0)), time.Duration(rng.IntN(20000))*time.Millisecond
			w.At(0, at, func() { w.Crash(0, i) })
			w.At(0, at+time.Duration(rng.IntN(8000))*time.Millisecond, func() { w.Restart(0, i) })
		}
		w.Run(10 * time.Minute)
		if v := w.Violation(); v != "" {
			t.Fatal(v)
		}
		zone := w.Core(0)
		if err := zone.Check(); err != nil {
			t.Fatal(err)
		}
		if len(w.Answers(0)) != n || !zone.Quiet() || w.Open() != 0 {
			t.Fatalf("%d of %d calls answered, %d callers wait", len(w.Answers(0)), n, w.Open())
		}
		for id, times := range w.Answers(0) {
			if times != 1 {
				t.Fatalf("call %s was answered %d times", id, times)
			}
		}
		type execution struct {
			id, node string
			boot     uint64
			attempt  uint8
		}
		samples := map[execution]int{}
		for _, s := range w.Steps(0) {
			if s.Event.Kind != zonesched.EvCompletion {
				continue
			}
			m := s.Event.Completion
			for _, a := range s.Actions {
				if strings.HasPrefix(a, "sample ") {
					e := execution{m.ID, m.Node, m.Boot, m.Attempt}
					if samples[e]++; samples[e] > 1 {
						t.Fatalf("%+v gave %d samples", e, samples[e])
					}
				}
			}
		}
		c := zone.Counters()
		if hedged += c.Hedged; float64(c.Hedged) > .1*float64(c.Accepted) || c.HedgeWins > c.Hedged {
			t.Fatalf("%d second dispatches of %d calls, %d won", c.Hedged, c.Accepted, c.HedgeWins)
		}
	})
	if hedged == 0 {
		t.Error("no call was sent twice")
	}
}

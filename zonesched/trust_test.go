package zonesched

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// hears tells the zone of n calls of about 100 ms, of which the forest and averages were off by the given logarithms.
func hears(z *Zone, rng *rand.Rand, n int, forest, averages, spread float64) {
	for range n {
		y := math.Log(100) + spread*rng.NormFloat64()
		z.told(t0, &call{forestMu: math.Log(100) + forest}, math.Log(100)+averages, math.Exp(y))
	}
}

// Property: whatever calls spread by, a forest that is twice as far off as averages gives way to them, and returns once it is nearer; one
// that is as good as they are does neither.
func TestTrustIsLostAndWon(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBed(nil, nil)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		spread := rapid.Float64Range(0, .4).Draw(t, "spread")
		averages := rapid.Float64Range(-.1, .1).Draw(t, "averages")
		hears(b.z, rng, 600, -averages, averages, spread)
		hears(b.z, rng, 600, averages/2, averages, spread)
		if v := b.z.Trust(); v.Lost || b.z.counters.ForestDropped != 0 {
			t.Fatalf("a forest as good as averages is distrusted: %+v", v)
		}
		off := rapid.Float64Range(1, 3).Draw(t, "off")
		hears(b.z, rng, 600, off, averages, spread)
		if v := b.z.Trust(); !v.Lost || b.z.counters.ForestDropped != 1 {
			t.Fatalf("a forest off by %v is trusted: %+v", off, v)
		}
		hears(b.z, rng, 600, off, averages, spread)
		if v := b.z.Trust(); !v.Lost || v.Loss < .1 {
			t.Fatalf("the same forest is trusted again: %+v", v)
		}
		hears(b.z, rng, 600, 0, .5, spread)
		if v := b.z.Trust(); v.Lost || b.z.counters.ForestRestored != 1 || b.z.counters.ForestDropped != 1 {
			t.Fatalf("a forest that is right again is not trusted: %+v", v)
		}
	})
}

// Fewer than 50 calls prove nothing, calls of which the forest said nothing do not count, and who is told to keep it keeps it.
func TestTrustNeedsEvidence(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	b := newBed(t, nil)
	hears(b.z, rng, trustCalls-1, 5, 0, .1)
	for range 100 {
		b.z.told(t0, &call{}, math.Log(100), 5)
	}
	if v := b.z.Trust(); v.Lost || v.Calls != trustCalls-1 {
		t.Errorf("%+v", v)
	}
	hears(b.z, rng, 1, 5, 0, .1)
	if v := b.z.Trust(); !v.Lost {
		t.Errorf("after %d: %+v", trustCalls, v)
	}
	b = newBed(t, func(c *Config) { c.KeepForest = true })
	if hears(b.z, rng, 500, 5, 0, .1); b.z.Trust().Lost {
		t.Error("dropped in spite of keep_forest")
	}
}

// backwards takes node "slow" for the quick one; averages know no difference.
type backwards struct{ nearby }

func (backwards) Estimate(_ *api.Request, cands []api.Candidate, out []api.Estimate) {
	for i := range cands {
		ms := 200.
		if cands[i].Node == "slow" {
			ms = 50
		}
		out[i] = api.Estimate{Mu: math.Log(ms), AveragesMu: math.Log(100), Sigma: .1, UpperMs: 2 * ms, Source: api.SourceForest}
	}
}

// A zone whose forest takes the slow node for the quick one finds it out: from then on averages are what it decides by, learns from
// and shows.
func TestAveragesStandInForAForestThatIsWrong(t *testing.T) {
	b := newBed(t, nil)
	b.node("slow", 4, 1)
	b.node("quick", 4, 1)
	b.step(&Event{Kind: EvModel, Predictor: backwards{}})
	on := map[string]int{}
	for i := range 4 * trustCalls {
		id := string(rune('a'+i%26)) + string(rune('a'+i/26))
		b.invoke(id, "f")
		run := find(b.acts, ActRun, id)
		if run == nil {
			t.Fatalf("%s does not run: %v", id, text(b.acts))
		}
		on[run.Node]++
		want := api.SourceForest
		if b.z.Trust().Lost {
			want = api.SourceAverages
			if e := &run.Run.Echo; math.Abs(e.Mu-math.Log(100)) > 1e-9 || math.Abs(e.UpperMs-200) > 1e-6 {
				t.Fatalf("%s goes out with %v, bound %v", id, e.Mu, e.UpperMs)
			}
		}
		if got := run.Run.Echo.Source; got != want {
			t.Fatalf("%s: estimates of %v, want %v", id, got, want)
		}
		ms := 50.
		if run.Node == "slow" {
			ms = 200
		}
		b.now = b.now.Add(duration(ms))
		b.done(id, run.Node, func(m *wire.Completion) { m.Echo, m.RunMs = run.Run.Echo, ms })
	}
	if on["slow"] < trustCalls || on["quick"] < trustCalls/2 || !b.z.Trust().Lost {
		t.Errorf("calls ran on %v: %+v", on, b.z.Trust())
	}
}

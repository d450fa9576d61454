package zonesched

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// took tells the zone of n calls of f, each on the side that its id says, which take 100 ms by the fallback and gain times that by the rule.
func took(b *bed, rng *rand.Rand, n int, gain, spread float64) (ruled, other int) {
	f := b.z.fns["t/f"]
	for i := range n {
		c := &call{inv: &api.Invocation{ID: strconv.FormatUint(rng.Uint64(), 36) + strconv.Itoa(i)}, fn: f, arrived: b.now}
		ms := 100 * math.Exp(spread*rng.NormFloat64())
		r := b.z.ruled(c, b.z.modeOf(f))
		if b.z.sided(c, r); r {
			ruled++
			ms *= gain
		} else {
			other++
		}
		b.z.compare(b.now.Add(duration(ms)), c, api.OutcomeOK)
	}
	return ruled, other
}

// Property: while averages stand in for the forest, whatever calls spread by, a rule by which calls take half as long again gives way to the
// fallback, but for probes; it decides again once it is better, or the forest is back. One that is as good stays, and one that is
// better is compared less.
func TestTheFallbackIsTheLastResort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBed(nil, nil)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		spread := rapid.Float64Range(.05, .4).Draw(t, "spread")
		if _, other := took(b, rng, 300, 3, spread); other != 0 || b.z.Resort().Rule != 0 {
			t.Fatalf("with the forest trusted %d calls went by the fallback: %+v", other, b.z.Resort())
		}
		hears(b.z, rng, 600, 2, 0, .1)
		if !b.z.Trust().Lost {
			t.Fatal("the forest is trusted")
		}
		ruled, other := took(b, rng, 1500, .5, spread)
		if v := b.z.Resort(); v.Fallback || v.Share != 1-calmShare || v.Ratio > .7 || other > ruled/4 {
			t.Fatalf("a rule that is twice as quick: %+v, %d calls against %d", v, ruled, other)
		}
		took(b, rng, 20_000, 1.5, spread)
		if v := b.z.Resort(); !v.Fallback || v.Share != probeShare || b.z.counters.RuleDropped != 1 {
			t.Fatalf("a rule that is half as slow again: %+v", v)
		}
		if ruled, other = took(b, rng, 2000, 1.5, spread); ruled > other/8 || b.z.counters.RuleRestored != 0 {
			t.Fatalf("of the calls %d went by it, %d by the fallback: %+v", ruled, other, b.z.Resort())
		}
		if rapid.Bool().Draw(t, "the forest comes back") {
			hears(b.z, rng, 900, 0, .5, .1)
			if v := b.z.Resort(); b.z.Trust().Lost || v.Fallback || v.Share != 1 {
				t.Fatalf("the forest is back: %+v %+v", b.z.Trust(), v)
			}
			return
		}
		took(b, rng, 20_000, .5, spread)
		if v := b.z.Resort(); v.Fallback || b.z.counters.RuleRestored != 1 {
			t.Fatalf("the rule is twice as quick again: %+v", v)
		}
	})
}

// A rule that is as good as the fallback stays in nearly all runs: it is looked at after each call, with four standard errors.
func TestAsGoodAsTheFallbackIsGoodEnough(t *testing.T) {
	dropped := 0
	for seed := range uint64(100) {
		b := newBed(t, nil)
		b.z.trust.lost = true
		took(b, rand.New(rand.NewPCG(seed, 2)), 3000, 1, .5)
		dropped += int(b.z.counters.RuleDropped)
	}
	if dropped > 3 {
		t.Errorf("%d of 100 zones dropped a rule that is as good as the fallback", dropped)
	}
}

// What was placed before the last change, what failed, and functions with a mode of their own are not compared; keep_rule switches it off.
func TestResortComparesLikeWithLike(t *testing.T) {
	b := newBed(t, nil)
	f := b.z.fns["t/f"]
	b.z.trust.lost = true
	c := &call{inv: &api.Invocation{ID: "x"}, fn: f, arrived: b.now}
	b.z.sided(c, true)
	f.logMs.add(1)
	b.z.compare(b.now, c, api.OutcomeInternal)
	b.z.resort.round++
	b.z.compare(b.now, c, api.OutcomeOK)
	if v := b.z.Resort(); v.Rule+v.Other != 0 {
		t.Errorf("compared: %+v", v)
	}
	b.z.modes = map[string]Mode{"t/f": {Kind: ModeShadow}}
	b.z.sided(c, false)
	if b.z.compare(b.now, c, api.OutcomeOK); b.z.Resort().Other != 0 {
		t.Errorf("a function in shadow is compared: %+v", b.z.Resort())
	}
	b = newBed(t, func(c *Config) { c.KeepRule = true })
	b.z.trust.lost = true
	if _, other := took(b, rand.New(rand.NewPCG(1, 1)), 3000, 3, .1); other != 0 || b.z.Resort().Fallback {
		t.Error("dropped in spite of keep_rule")
	}
}

// Calls are compared from arrival to answer: each one that a zone places while averages stand in, but for the function's first.
func TestResortComparesWhatIsPlaced(t *testing.T) {
	b := newBed(t, func(c *Config) { c.KeepForest = true }) // or what comes true would restore it
	b.node("a", 4, 4)
	b.z.trust.lost = true
	for i := range 200 {
		id := strconv.Itoa(i)
		b.invoke(id, "f")
		run := find(b.acts, ActRun, id)
		if run == nil {
			t.Fatalf("%s does not run: %v", id, text(b.acts))
		}
		b.now = b.now.Add(duration(50))
		b.done(id, run.Node, func(m *wire.Completion) { m.Echo, m.RunMs = run.Run.Echo, 50 })
	}
	if v := b.z.Resort(); v.Rule+v.Other != 199 || v.Other < 25 || v.Other > 75 || math.Abs(v.Ratio-1) > 1e-9 {
		t.Errorf("%+v", v)
	}
}

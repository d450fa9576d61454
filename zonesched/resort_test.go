package zonesched

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/internal/racetest"
)

// took tells the zone of n calls of f, each on the side that its id says, that take ms(side), spread.
func took(b *bed, rng *rand.Rand, f *function, n int, spread float64, ms func(rule bool) float64) (byRule, byFallback int) {
	for i := range n {
		c := &call{inv: &api.Invocation{ID: strconv.FormatUint(rng.Uint64(), 36) + strconv.Itoa(i)}, fn: f, arrived: b.now}
		rule := b.z.ruled(c, b.z.modeOf(f))
		if rule {
			byRule++
		} else {
			byFallback++
		}
		b.z.noteSide(c)
		b.z.compare(b.now.Add(duration(ms(rule)*math.Exp(spread*rng.NormFloat64()))), c, api.OutcomeOK)
	}
	return byRule, byFallback
}

// gains is for took: 100 ms by the fallback, and so many times that by the rule.
func gains(x float64) func(bool) float64 {
	return func(rule bool) float64 {
		if rule {
			return 100 * x
		}
		return 100
	}
}

// Property: while averages stand in for the forest, whatever calls spread by, a rule by which calls take half as long again gives way to the
// fallback, but for probes; it decides again once it is better, or the forest is back. One that is better is compared with less.
func TestTheFallbackIsTheLastResort(t *testing.T) {
	racetest.SkipSingle(t)
	rapid.Check(t, func(t *rapid.T) {
		b := newBed(nil, nil)
		f := b.z.fns["t/f"]
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		spread := rapid.Float64Range(.05, .4).Draw(t, "spread")
		if _, n := took(b, rng, f, 300, spread, gains(3)); n != 0 || b.z.Resort().ByRule != 0 {
			t.Fatalf("with the forest trusted %d calls went by the fallback: %+v", n, b.z.Resort())
		}
		hears(b.z, rng, 600, 2, 0, .1)
		if !b.z.Trust().Lost {
			t.Fatal("the forest is trusted")
		}
		byRule, byFallback := took(b, rng, f, 1500, spread, gains(.5))
		if v := b.z.Resort(); v.Fallback || v.Share != 1-probeShare || v.Since.IsZero() || byFallback > byRule/4 {
			t.Fatalf("a rule that is twice as quick: %+v, %d calls against %d", v, byRule, byFallback)
		}
		took(b, rng, f, 20_000, spread, gains(1.5))
		if v := b.z.Resort(); !v.Fallback || v.Share != probeShare || b.z.counters.RuleDropped != 1 {
			t.Fatalf("a rule that is half as slow again: %+v", v)
		}
		if byRule, byFallback = took(b, rng, f, 2000, spread, gains(1.5)); byRule > byFallback/8 || b.z.counters.RuleRestored != 0 || b.z.Resort().Loss < .2 {
			t.Fatalf("of the calls %d went by it, %d by the fallback: %+v", byRule, byFallback, b.z.Resort())
		}
		if rapid.Bool().Draw(t, "the forest comes back") {
			hears(b.z, rng, 900, 0, .5, .1)
			if v := b.z.Resort(); b.z.Trust().Lost || v.Fallback || v.Share != 1 || b.z.counters.RuleRestored != 1 {
				t.Fatalf("the forest is back: %+v %+v", b.z.Trust(), v)
			}
			return
		}
		took(b, rng, f, 40_000, spread, gains(.5)) // a sixteenth of them by the rule
		if v := b.z.Resort(); v.Fallback || b.z.counters.RuleRestored != 1 {
			t.Fatalf("the rule is twice as quick again: %+v", v)
		}
	})
}

// A rule that is as good as the fallback is hardly ever taken for worse or better, though it is looked at after each call: not where times have
// heavy tails either, nor where all calls of many functions take three times as long now and then, whoever decides.
func TestAsGoodAsTheFallbackIsGoodEnough(t *testing.T) {
	racetest.SkipSingle(t)
	for name, c := range map[string]struct {
		stage  stage
		spread float64
		step   int // calls after which they take three times as long, or a third
	}{
		"steady": {stageTrying, .5, 1 << 30}, "heavy tails": {stageTrying, 1.5, 1 << 30},
		"steps": {stageTrying, .5, 3000}, "steps, the rule decides": {stageRule, .5, 9000}, "steps, the fallback decides": {stageFallback, .5, 9000},
	} {
		t.Run(name, func(t *testing.T) {
			changed := 0
			for seed := range uint64(50) {
				b := newBed(t, nil)
				b.z.trust.lost = true
				b.z.resort = newResort(c.stage, 1)
				rng := rand.New(rand.NewPCG(seed, 2))
				many := make([]function, 20)
				for i := range many {
					many[i] = function{id: strconv.Itoa(i), tookMs: ewma{w: .02}}
				}
				const calls = 20_000
				for i := range calls {
					level := 100.
					if i/c.step%2 == 1 {
						level = 300
					}
					took(b, rng, &many[i%len(many)], 1, c.spread, func(bool) float64 { return level })
				}
				if b.z.resort.stage != c.stage {
					changed++
				}
			}
			if changed > 3 {
				t.Errorf("%d of 50 zones took one for better", changed)
			}
		})
	}
}

// A rule whose calls are cut off, or that buys its time from others, is not the better one; one whose calls are a little slower and cost
// nobody anything is.
func TestResortCountsWhatItCosts(t *testing.T) {
	for name, c := range map[string]struct {
		ruleMs, extraMs float64
		how             api.Outcome
		dropped         bool
	}{
		"cut off":           {200, 0, api.OutcomeTimeout, true},
		"pushes out others": {80, 100, api.OutcomeOK, true},
		"spares others":     {120, 0, api.OutcomeOK, false}, // and the fallback's calls cost as many as they take
	} {
		b := newBed(t, nil)
		b.z.trust.lost = true
		rng := rand.New(rand.NewPCG(1, 4))
		for i := range 3000 {
			w := &call{inv: &api.Invocation{ID: strconv.Itoa(i)}, fn: b.z.fns["t/f"], arrived: b.now}
			took, how := 100*math.Exp(.2*rng.NormFloat64()), api.OutcomeOK
			if b.z.ruled(w, b.z.modeOf(w.fn)) {
				took, how, w.extraMs = took*c.ruleMs/100, c.how, c.extraMs
			} else if !c.dropped {
				w.extraMs = 100
			}
			b.z.noteSide(w)
			b.z.compare(b.now.Add(duration(took)), w, how)
		}
		if v := b.z.Resort(); v.Fallback != c.dropped {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// What nobody can say of who decided is not compared: calls that both sides decided about, or one of them before the last change; what failed
// or was lost with a node; functions with another mode of their own. keep_rule switches it off, and so does another rule.
func TestResortComparesLikeWithLike(t *testing.T) {
	b := newBed(t, nil)
	f := b.z.fns["t/f"]
	f.tookMs.add(100)
	b.z.trust.lost = true
	compared := func(c *call, how api.Outcome) bool {
		before := b.z.resort.rule.n + b.z.resort.fallback.n
		b.z.compare(b.now.Add(duration(100)), c, how)
		return b.z.resort.rule.n+b.z.resort.fallback.n > before
	}
	fresh := func() *call { return &call{inv: &api.Invocation{ID: "x"}, fn: f, arrived: b.now} }
	note := func(c *call) *call { b.z.noteSide(c); return c }
	if !compared(note(fresh()), api.OutcomeOK) {
		t.Fatal("nothing is compared")
	}
	lost := note(fresh())
	lost.losses = 1
	if compared(note(fresh()), api.OutcomeInternal) || compared(lost, api.OutcomeOK) || compared(fresh(), api.OutcomeOK) {
		t.Error("compared: what failed, was lost or was not decided about")
	}
	old := note(fresh())
	b.z.resort.round++
	if compared(old, api.OutcomeOK) || compared(note(old), api.OutcomeOK) {
		t.Error("compared: decided about before the last change")
	}
	queued := note(fresh())
	b.z.modes = map[string]Mode{"t/f": {Kind: ModeShadow}}
	if compared(note(fresh()), api.OutcomeOK) || compared(note(queued), api.OutcomeOK) {
		t.Error("compared: a function in shadow")
	}
	b.z.modes = nil
	b.z.mode = Mode{Kind: ModeCanary, Share: .5}
	if v := b.z.Resort(); compared(note(fresh()), api.OutcomeOK) || b.z.modeOf(f).Share != .5 || v.Fallback {
		t.Error("compared: an operator's canary")
	}
	b = newBed(t, func(c *Config) { c.KeepRule = true })
	b.z.trust.lost = true
	if _, n := took(b, rand.New(rand.NewPCG(1, 1)), b.z.fns["t/f"], 3000, .1, gains(3)); n != 0 || b.z.Resort().Fallback {
		t.Error("dropped in spite of keep_rule")
	}
}

// An operator's switch to another rule ends the comparison and what it has led to, and on the way back it begins anew.
func TestAnotherRuleIsNotResortedFrom(t *testing.T) {
	b := newBed(t, nil)
	b.z.trust.lost = true
	b.z.resort = newResort(stageFallback, 1)
	if v := b.z.Resort(); !v.Fallback || !b.z.Trust().Lost {
		t.Fatalf("%+v", v)
	}
	for _, rule := range []string{"metronome", "rubato"} {
		b.step(&Event{Kind: EvPolicy, PolicyName: rule, PolicyConfig: b.z.cfg.PolicyConfig})
		v := b.z.Resort()
		if v.Fallback || b.z.Trust().Lost != (rule == "rubato") || (v.Share < 1) != (rule == "rubato") {
			t.Errorf("%s: %+v, %+v", rule, v, b.z.Trust())
		}
	}
}

// Calls are compared from arrival to answer: each one that a zone places while averages stand in, but for the function's first. Their records
// say so.
func TestResortComparesWhatIsPlaced(t *testing.T) {
	b := newBed(t, func(c *Config) { c.KeepForest = true }) // or what comes true would restore it
	b.node("a", 4, 4)
	b.z.trust.lost = true
	by := map[string]int{}
	for i := range 200 {
		id := strconv.Itoa(i)
		b.invoke(id, "f")
		run := find(b.acts, ActRun, id)
		if run == nil {
			t.Fatalf("%s does not run: %v", id, text(b.acts))
		}
		b.now = b.now.Add(duration(50))
		b.done(id, run.Node, func(m *wire.Completion) { m.Echo, m.RunMs = run.Run.Echo, 50 })
		d, _ := b.z.Decision(id)
		if by[d.Policy]++; !d.Compared || d.Mode != ModeOn {
			t.Fatalf("call %s: mode %s, compared %v", id, d.Mode, d.Compared)
		}
	}
	if v := b.z.Resort(); v.ByRule+v.ByFallback != 199 || by["least-loaded"] < 25 || by["least-loaded"] > 75 || by["rubato"] != 200-by["least-loaded"] || math.Abs(v.Loss) > 1e-9 {
		t.Errorf("%+v, by %v", v, by)
	}
}

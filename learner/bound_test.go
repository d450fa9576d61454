package learner

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

// TestBoundKeepsItsPromiseUnderDrift counts calls past the bound over two abrupt drifts, delayed and immediate.
func TestBoundKeepsItsPromiseUnderDrift(t *testing.T) {
	statistical(t)
	for _, delayed := range []bool{false, true} {
		for _, alpha := range alphas {
			if delayed == (alpha == .05) {
				continue // two of the four pairs are enough
			}
			w, l := newWorld(11, 6), testLearner(t, "a")
			w.delayed, w.alpha = delayed, alpha
			var calls, missed, tight float64
			for _, slow := range []float64{1, 2.5, .8} {
				w.slow = slow
				w.run(l, 2000, func(e *api.Estimate, s *api.Sample) {
					if calls++; s.ExecMs() > e.UpperMs {
						missed++
					}
					if !math.IsInf(e.UpperMs, 1) && e.UpperMs < 3*e.MedianMs() {
						tight++
					}
				})
			}
			t.Logf("delayed %v, alpha %.2f: missed %.4f of %d, below three times the median %.2f", delayed, alpha, missed/calls, int(calls), tight/calls)
			if missed/calls > 1.2*alpha {
				t.Errorf("missed %.4f: promised %.2f", missed/calls, alpha)
			}
			if alpha == .05 && (tight/calls < .8 || missed/calls < .6*alpha) {
				t.Errorf("the bound is too wide to be of use: %.2f below three times the median, missed %.4f", tight/calls, missed/calls)
			}
			s := l.Stats()
			if s.DelayedCalls > 0 != delayed || s.ImmediateCalls > 0 == delayed {
				t.Errorf("stats %+v count the wrong kind", s)
			}
		}
	}
}

// TestACIHoldsForAnyData feeds scores made to break a quantile: the theorem holds for them as well.
func TestACIHoldsForAnyData(t *testing.T) {
	a := newACI(zoneScores)
	const n = 20000
	misses, finite := 0, 0
	for i := range n {
		s := float32(math.Sin(float64(i)/300) * float64(1+i%7) * math.Pow(1.0002, float64(i)))
		q := a.quantile(0)
		if q < noBound {
			finite++
		}
		if s > q {
			misses++
		}
		a.judge(0, s > q)
		a.add(s)
	}
	share := float64(misses) / n
	if limit := .05 + 1.005/(.005*n); share > limit || share < .03 {
		t.Errorf("missed %.4f of all, want about .05 and at most %.4f", share, limit)
	}
	if finite < n/2 {
		t.Errorf("only %d of %d bounds were finite", finite, n)
	}
}

func TestFailuresCountAsMisses(t *testing.T) {
	w, l := newWorld(1, 3), testLearner(t, "a")
	w.run(l, 600, nil)
	before := l.Stats()
	rows := before.Rows
	for i := range 10 {
		c := w.call()
		e := w.estimate(l, &c)
		s := w.sample(&c, &e)
		s.Outcome = api.OutcomeCrash
		if i%2 == 0 {
			s.Outcome = api.OutcomeTimeout
		}
		if !(e.UpperMs > 0) || math.IsInf(e.UpperMs, 1) {
			t.Fatalf("estimate %+v has no bound", e)
		}
		s.FetchMs, s.InitMs, s.RunMs = 0, 0, e.MedianMs()/10 // far below the bound
		l.Learn(s)
	}
	after := l.Stats()
	if after.ImmediateMisses != before.ImmediateMisses+10 {
		t.Errorf("%d misses, want 10 more than %d", after.ImmediateMisses, before.ImmediateMisses)
	}
	if after.Rows != rows+5 {
		t.Errorf("%d rows, want %d: a crash teaches no time, a timeout does", after.Rows, rows+5)
	}
}

// TestYoungFunctionsKeepTheirOwnPromise: functions with few samples are bounded by what such functions did before.
func TestYoungFunctionsKeepTheirOwnPromise(t *testing.T) {
	statistical(t)
	w, l := newWorld(5, 600), testLearner(t, "a")
	calls, misses := 0, 0
	w.run(l, 6000, func(e *api.Estimate, s *api.Sample) {
		if st := l.fns.get(hash(l.cfg.Seed, s.Echo.Function)); int(st.Count) >= l.cfg.MinForest || math.IsInf(e.UpperMs, 1) {
			return
		}
		calls++
		misses += bit(s.ExecMs() > e.UpperMs)
	})
	if share := float64(misses) / float64(calls); calls < 3000 || math.Abs(share-.05) > .02 {
		t.Errorf("%d of %d calls of young functions ran past their bound, want one in twenty", misses, calls)
	}
}

func TestAlphaClasses(t *testing.T) {
	for alpha, want := range map[float64]int{0: 0, .2: 0, .05: 0, .06: 0, .04: strict, .01: strict, .001: strict, math.NaN(): 0} {
		if got := classOf(alpha); got != want {
			t.Errorf("alpha %v is of class %d, want %d", alpha, got, want)
		}
	}
	// What a snapshot says is what the learner judges itself by: own scores from 50 on, the zone's quantile at least for
	// strict promises, and while the zone misses too often.
	l, st, rnd := testLearner(t, "a"), &fnStat{}, rand.New(rand.NewPCG(1, 1))
	for k := range kinds {
		for range 200 {
			l.zoneBound[k].add(float32(rnd.NormFloat64()))
		}
	}
	own := newACI(hotScores)
	for n := range 2 * ownScores {
		own.add(float32(rnd.NormFloat64() / 2))
		st.Scores[0] = uint32(len(own.ring))
		for c := range classes {
			st.Quantile[0][c] = own.quantile(c)
		}
		l.zoneBound[0].alpha[0] = alphas[0] * float64(n%3) / 2
		z := quantilesOf(&l.zoneBound)
		for c := range classes {
			if got, want := z.said(st, 0, c), said(own, l.zoneBound[0], c); got != want {
				t.Fatalf("%d scores, class %d: snapshot says %v, learner %v", n+1, c, got, want)
			}
		}
	}
	z := quantilesOf(&l.zoneBound)
	if got := z.said(nil, 1, 0); got != l.zoneBound[1].quantile(0) {
		t.Errorf("an unknown function: %v, want the zone's quantile", got)
	}
	a := newACI(100)
	for i := range minScores {
		if a.quantile(0) != noBound {
			t.Errorf("a bound on %d scores", i)
		}
		a.add(float32(i))
	}
	if a.quantile(0) != minScores-1 {
		t.Errorf("quantile %v", a.quantile(0))
	}
	for range 100 {
		a.judge(0, true)
	}
	if a.alpha[0] > 0 || a.quantile(0) != noBound {
		t.Errorf("alpha_t %v after 100 misses still gives a bound", a.alpha[0])
	}
}

package learner

import (
	"math"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

func TestForestBeatsAveragesWithLittleData(t *testing.T) {
	statistical(t)
	for _, n := range []int{150, 300, 500, 1500} {
		const seeds = 5
		var forest, avg float64
		for seed := range uint64(seeds) {
			w, l := newWorld(seed, 6), testLearner(t, "a")
			w.run(l, n, nil)
			f, a := w.errors(l, 400)
			forest, avg = forest+f/seeds, avg+a/seeds
		}
		t.Logf("%d samples: mean absolute error %.3f (forest) %.3f (averages)", n, forest, avg)
		if forest > .9*avg || n >= 300 && forest > .7*avg {
			t.Errorf("%d samples: forest %.3f, averages %.3f: want clearly better", n, forest, avg)
		}
		if n >= 300 && forest > math.Log(1.25) {
			t.Errorf("%d samples: forest is off by a factor of %.2f", n, math.Exp(forest))
		}
	}
}

func TestStatsCompareForestAndAverages(t *testing.T) {
	w, l := newWorld(1, 6), testLearner(t, "a")
	w.run(l, 800, nil)
	s := l.Stats()
	if s.Own != 32 || s.Residual != 16 || s.Foreign != 0 || s.Guarded {
		t.Errorf("stats %+v: want 32 own and 16 residual trees, not guarded", s)
	}
	if !(s.ErrorOverAverages > 0 && s.ErrorOverAverages < .8) {
		t.Errorf("error over averages %.2f, want below .8", s.ErrorOverAverages)
	}
	if s.ImmediateCalls < 500 || s.DelayedCalls != 0 {
		t.Errorf("%d immediate and %d delayed calls with a bound", s.ImmediateCalls, s.DelayedCalls)
	}
}

// TestGuardFallsBackToAverages feeds rows that say nothing, or rather the wrong thing: times depend on what only the
// averages know.
func TestGuardFallsBackToAverages(t *testing.T) {
	statistical(t)
	w, l := newWorld(1, 6), testLearner(t, "a")
	var guarded bool
	for range 600 {
		c := w.call()
		e := w.estimate(l, &c)
		st := l.fns.get(hash(l.cfg.Seed, c.req.Function))
		guarded = guarded || e.Source == api.SourceAverages && st != nil && st.Count >= 20
		s := w.sample(&c, &e)
		for f := range s.Echo.Bins {
			s.Echo.Bins[f] = uint8(w.rnd.IntN(api.MaxBins))
		}
		l.Learn(s)
	}
	if s := l.Stats(); !s.Guarded || !guarded || s.ErrorOverAverages < guardOff {
		t.Fatalf("stats %+v, estimates from averages: %v; want the guard to hold", s, guarded)
	}
	w.run(l, 3000, nil)
	if s := l.Stats(); s.Guarded {
		t.Errorf("stats %+v: the guard holds although the forest is better again", s)
	}
}

func TestForestFollowsDrift(t *testing.T) {
	statistical(t)
	w, l := newWorld(2, 6), testLearner(t, "a")
	w.run(l, 2500, nil)
	before, _ := w.errors(l, 300)
	w.slow = 4
	jumped, _ := w.errors(l, 300)
	w.run(l, 1500, nil)
	after, _ := w.errors(l, 300)
	t.Logf("error %.3f, after everything became four times slower %.3f, 1500 samples later %.3f", before, jumped, after)
	if jumped < 1 || after > 3*before || after > .25 {
		t.Errorf("errors %.3f, %.3f, %.3f: want recovery", before, jumped, after)
	}
}

func TestSourcesWithoutEnoughSamples(t *testing.T) {
	w, l := newWorld(1, 6), testLearner(t, "a")
	c := w.call()
	if e := w.estimate(l, &c); e.Source != api.SourceNone || e.MedianMs() < 50-1e-6 || e.MedianMs() > 500 || !math.IsInf(e.UpperMs, 1) {
		t.Errorf("nothing known: %+v, want 50 ms and what the prior adds, of no source, without a bound", e)
	}
	w.run(l, 500, nil)
	c.req.Function = "t9/new"
	e := w.estimate(l, &c)
	if e.Source != api.SourceAverages || !(e.UpperMs > e.MedianMs()) || math.IsInf(e.UpperMs, 1) || e.Bins[api.FnFast] != 0 || e.Bins[api.NodeSandbox] == 0 {
		t.Errorf("a new function: %+v, want averages, the bound of young functions, missing statistics", e)
	}
}

// Averages are made of parts: what was seen of one part serves every estimate that has it.
func TestAveragesInParts(t *testing.T) {
	rt := &rtStat{}
	rt.learn(&parts{run: 0, init: math.Log(400), sandbox: api.SandboxNone})
	rt.learn(&parts{run: 0, init: math.Log(40), sandbox: api.SandboxPrepared})
	st := &fnStat{}
	near := func(what string, mu, wantMs float64) {
		t.Helper()
		if got := math.Exp(mu); math.Abs(got-wantMs) > wantMs/1000 {
			t.Errorf("%s: %.2f ms, want %.2f", what, got, wantMs)
		}
	}
	say := func(input int64) averages {
		return averagesOf(st, rt, &cell{N: 1, Mean: float32(math.Log(2))}, runtimeProcess, input)
	}
	st.learn(&parts{run: math.Log(100), init: math.NaN(), sandbox: api.SandboxWarm, inputLog: log2p(1 << 20)})
	a := say(1 << 20)
	near("warm", a.of(api.SandboxWarm, 0, 1000), 100)
	near("cold, seen of the runtime only", a.of(api.SandboxNone, 0, 1000), 500)
	near("1 MB over 1 Gbit/s, twice as slow as ideal", a.of(api.SandboxWarm, 1e6, 1000), 116)
	st.learn(&parts{run: math.Log(100), init: math.Log(800), sandbox: api.SandboxNone, inputLog: log2p(1 << 20)})
	a = say(1 << 20)
	near("cold, seen", a.of(api.SandboxNone, 0, 1000), 900)
	near("prepared: moved by the runtime's gap", a.of(api.SandboxPrepared, 0, 1000), 180)
	for range 50 {
		st.learn(&parts{run: math.Log(100), init: math.NaN(), sandbox: api.SandboxWarm, inputLog: 20})
		st.learn(&parts{run: math.Log(800), init: math.NaN(), sandbox: api.SandboxWarm, inputLog: 23})
	}
	if a := say(1 << 22); a.run < 350 || a.run > 450 {
		t.Errorf("run grows linearly with the input: %.0f ms for 4 MB, want about 400", a.run)
	}
}

func TestGridRoundTrip(t *testing.T) {
	for f := range api.NumFeatures {
		if n := len(zoneGrid.edges[f]); n == 0 || n > api.MaxBins-2 {
			t.Errorf("%v has %d edges", f, n)
		}
		if zoneGrid.of(f, math.NaN()) != 0 || zoneGrid.of(f, math.Inf(-1)) != 1 || int(zoneGrid.of(f, math.Inf(1))) != len(zoneGrid.edges[f])+1 {
			t.Errorf("%v: missing and infinite values land in bins %d %d %d", f, zoneGrid.of(f, math.NaN()), zoneGrid.of(f, math.Inf(-1)), zoneGrid.of(f, math.Inf(1)))
		}
		for b := range uint8(len(zoneGrid.edges[f]) + 1) {
			if got := zoneGrid.splitBin(int(f), zoneGrid.threshold(int(f), b)); got != b {
				t.Errorf("%v: split at bin %d comes back as %d", f, b, got)
			}
		}
	}
	for s := range api.SandboxState(5) {
		if b := zoneGrid.of(api.NodeSandbox, float64(s)); b != uint8(s)+1 {
			t.Errorf("sandbox %v in bin %d", s, b)
		}
	}
}

func TestTableKeepsTheNewest(t *testing.T) {
	tab := newTable[int](64)
	for i := range uint64(1000) {
		v, _ := tab.edit(mix(i), i+1)
		*v = int(i)
	}
	view := tab.share()
	found := 0
	for i := range uint64(1000) {
		if v := view.get(mix(i)); v != nil {
			if found++; *v != int(i) || i < 300 {
				t.Errorf("entry %d holds %d", i, *v)
			}
		}
	}
	if found != 64 {
		t.Errorf("%d entries, want 64", found)
	}
	v, _ := tab.edit(mix(999), 2000)
	*v = -1
	if *view.get(mix(999)) != 999 || *tab.get(mix(999)) != -1 {
		t.Error("a write shows in an older view, or not in the table")
	}
}

package learner

import (
	"math"
	"reflect"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

// sketchOf counts values of one feature on a grid, a thousand rows each.
func sketchOf(g *Grid, f api.Feature, values ...float64) Sketch {
	s := Sketch{Epoch: g.epoch, Counts: make([]uint32, sketchLen)}
	for _, v := range values {
		s.Counts[int(f)*api.MaxBins+int(g.of(f, v))] += 1000
	}
	return s
}

func TestGridFollowsTheRows(t *testing.T) {
	const f = api.FnSlow
	// Run times of 20-22 ms only: three bins of the first grid. And one size, to the byte.
	var ms []float64
	for x := 20.; x < 22; x += .05 {
		ms = append(ms, math.Log(x))
	}
	g := zoneGrid
	for epoch := uint32(1); ; epoch++ {
		s, sizes := sketchOf(g, f, ms...), sketchOf(g, api.InputSize, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20)
		s.add(&sizes)
		next := nextGrid(g, &s)
		if next == nil {
			break
		}
		if g = next; g.epoch != epoch || epoch > 6 {
			t.Fatalf("epoch %d after %d: a value of its own must not be divided for ever", g.epoch, epoch)
		}
	}
	bins := map[uint8]bool{}
	for _, x := range ms {
		bins[g.of(f, x)] = true
	}
	if len(bins) < 20 {
		t.Errorf("%d values fall into %d bins", len(ms), len(bins))
	}
	for f := range api.NumFeatures {
		e, z := g.edges[f], zoneGrid.edges[f]
		if len(e) > maxEdges || e[0] != z[0] || e[len(e)-1] != z[len(z)-1] {
			t.Errorf("%v: %d edges, from %v to %v", f, len(e), e[0], e[len(e)-1])
		}
		if !continuous(f) && !reflect.DeepEqual(e, z) {
			t.Errorf("%v numbers things, and was moved", f)
		}
	}
	few := Sketch{Counts: make([]uint32, sketchLen)}
	few.Counts[int(f)*api.MaxBins+20] = gridRows - 1
	if nextGrid(zoneGrid, &few) != nil {
		t.Error("another grid from too few rows")
	}
}

func TestGridRollsInWithoutAGap(t *testing.T) {
	statistical(t)
	w, l := newWorld(3, 6), testLearner(t, "a")
	w.run(l, 3000, nil)
	before, _ := w.errors(l, 1000)
	s := l.Scorecard().Sketch
	for range 4 { // as if more zones had counted alike
		s.add(&s)
	}
	g := nextGrid(zoneGrid, &s)
	if g == nil {
		t.Fatal("these rows want another grid")
	}
	c := w.call() // decided before, completed after
	e := w.estimate(l, &c)
	late := w.sample(&c, &e)
	l.AdoptGrid(g)
	l.Adopt(1, nil)
	rows := l.win.total
	l.Learn(late)
	if l.win.total != rows+1 {
		t.Error("the row of a call that was under way is lost")
	}
	if e := w.estimate(l, &c); e.Grid != g.epoch || e.Source != api.SourceForest {
		t.Errorf("estimate on grid %d by %v", e.Grid, e.Source)
	}
	if after, _ := w.errors(l, 1000); after > 1.1*before {
		t.Errorf("error %.4f, was %.4f: the forest did not survive the move", after, before)
	}
	b, err := l.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Restore(l.cfg, b)
	if err != nil {
		t.Fatal(err)
	}
	if back.Digest() != l.Digest() || back.Stats().Grid != 1 {
		t.Errorf("restored on grid %d, digests equal: %v", back.Stats().Grid, back.Digest() == l.Digest())
	}
}

// On a grid that follows the rows the forest is as good as on the first one, where that was fine enough.
func TestAnotherGridCostsNothing(t *testing.T) {
	statistical(t)
	var moved, stayed float64
	for seed := uint64(3); seed < 6; seed++ {
		for _, move := range []bool{false, true} {
			w, l := newWorld(seed, 6), testLearner(t, "a")
			w.run(l, 2500, nil)
			if move {
				s := l.Scorecard().Sketch
				for range 4 {
					s.add(&s)
				}
				l.AdoptGrid(nextGrid(zoneGrid, &s))
			}
			w.run(l, 1500, nil)
			err, _ := w.errors(l, 1000)
			if move {
				moved += err
			} else {
				stayed += err
			}
		}
	}
	if moved > 1.1*stayed {
		t.Errorf("error %.4f on the new grid, %.4f on the first one", moved/3, stayed/3)
	}
}

func TestManifestCarriesTheGrid(t *testing.T) {
	var m Manifest
	for round := range 2 * gridAge {
		s := sketchOf(m.grid(), api.FnSlow, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3)
		m = MergePool(m, []Update{{Zone: "a", Card: Scorecard{Zone: "a", Seq: uint64(round + 1), Sketch: s}}}, 8)
	}
	if m.Grid == nil || m.GridSince < gridAge {
		t.Fatalf("grid %v since version %d", m.Grid, m.GridSince)
	}
	b, err := EncodeManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	back, err := DecodeManifest(b)
	if err != nil || !reflect.DeepEqual(back, m) {
		t.Errorf("manifest does not survive its encoding: %v", err)
	}
	zones := map[string]*Learner{}
	for _, zone := range []string{"a", "b"} { // both take it over, and go on sketching on it
		zones[zone] = testLearner(t, zone)
		zones[zone].AdoptGrid(back.Grid)
		zones[zone].Adopt(back.Version, nil)
		if s := zones[zone].Scorecard().Sketch; s.Epoch != m.Grid.epoch {
			t.Errorf("zone %s counts on epoch %d, want %d", zone, s.Epoch, m.Grid.epoch)
		}
	}
}

// TestSetRegrowIsARecord: replicas that are told at the same record stay equal, also through a checkpoint.
func TestSetRegrowIsARecord(t *testing.T) {
	samples := record(400)
	a := testLearner(t, "a")
	for i, s := range samples {
		if i == 200 {
			a.SetRegrow(16)
		}
		a.Learn(s)
	}
	if a.Regrow() != 16 || a.Seq() != 401 {
		t.Errorf("regrow %d, seq %d", a.Regrow(), a.Seq())
	}
	b := testLearner(t, "a")
	for _, s := range samples[:200] {
		b.Learn(s)
	}
	b.SetRegrow(16)
	raw, err := b.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	if b, err = Restore(b.cfg, raw); err != nil {
		t.Fatal(err)
	}
	for _, s := range samples[200:] {
		b.Learn(s)
	}
	if a.Digest() != b.Digest() {
		t.Error("a change of pace made replicas differ")
	}
	b.SetRegrow(1 << 40)
	if b.Regrow() != b.cfg.maxRegrow() {
		t.Errorf("regrow %d is beyond the window", b.Regrow())
	}
}

// Whenever a pool comes, a restored learner is equal to the one that it was taken from.
func TestCheckpointRightAfterAdoption(t *testing.T) {
	samples, pool := record(80), poolFrom(t, "b", 4, 100, 6)
	for rows := 15; rows < 60; rows++ {
		a := testLearner(t, "a")
		for _, s := range samples[:rows] {
			a.Learn(s)
		}
		a.Adopt(1, pool)
		raw, err := a.Checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		b, err := Restore(a.cfg, raw)
		if err != nil {
			t.Fatal(err)
		}
		if a.Digest() != b.Digest() {
			t.Errorf("after %d samples: digests differ", rows)
		}
	}
}

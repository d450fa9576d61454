package learner

import (
	"fmt"
	"math"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

// candidates are n unlike nodes.
func manyCandidates(w *world, n int) (api.Request, []api.Candidate) {
	req := w.call().req
	cands := make([]api.Candidate, n)
	for i := range cands {
		cands[i] = w.call().cand
		cands[i].Node = fmt.Sprintf("n%d", i)
	}
	return req, cands
}

func TestEstimateDoesNotAllocate(t *testing.T) {
	w, l := newWorld(1, 6), testLearner(t, "a")
	w.run(l, 600, nil)
	f := l.Snapshot()
	req, cands := manyCandidates(w, 300)
	out := make([]api.Estimate, len(cands))
	for _, name := range []string{req.Function, "t1/unknown"} {
		req.Function = name
		if n := testing.AllocsPerRun(20, func() { f.Estimate(&req, cands, out) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestEstimateDoesNotDependOnCompany: a candidate's estimate is the same alone and among others, in every block.
func TestEstimateDoesNotDependOnCompany(t *testing.T) {
	w, l := newWorld(1, 6), testLearner(t, "a")
	w.run(l, 600, nil)
	f := l.Snapshot()
	req, cands := manyCandidates(w, 2*block+5)
	out := make([]api.Estimate, len(cands))
	f.Estimate(&req, cands, out)
	for i := range cands {
		var one [1]api.Estimate
		if f.Estimate(&req, cands[i:i+1], one[:]); one[0] != out[i] {
			t.Fatalf("candidate %d: %+v alone, %+v among others", i, one[0], out[i])
		}
		if out[i].Source != api.SourceForest || !(out[i].Sigma > 0) || !(out[i].UpperMs > out[i].MedianMs()) {
			t.Fatalf("estimate %+v", out[i])
		}
	}
}

func predictBins(l *Learner, e *api.Estimate) prediction {
	var x row
	copy(x[:], e.Bins[:])
	return l.ens.predict(&x)
}

// TestEstimateMatchesLearner: what the snapshot says is what the learner judges itself by.
func TestEstimateMatchesLearner(t *testing.T) {
	w, l := newWorld(1, 6), testLearner(t, "a")
	w.run(l, 900, nil)
	judged := 0
	for range 50 {
		c := w.call()
		e := w.estimate(l, &c)
		if e.Source != api.SourceForest {
			continue
		}
		judged++
		if p := predictBins(l, &e); !(math.Abs(e.AveragesMu+p.mu-e.Mu) <= 1e-9) {
			t.Fatalf("snapshot says %.12f, learner %.12f", e.Mu, e.AveragesMu+p.mu)
		}
	}
	if judged < 25 {
		t.Errorf("%d of 50 estimates are the forest's", judged)
	}
}

func TestForeignTreesDoNotHurtAZoneWithFewSamples(t *testing.T) {
	statistical(t)
	pool := poolFrom(t, "rich", 21, 1500, 8)
	var alone, helped float64
	for seed := range uint64(4) {
		for _, foreign := range []bool{false, true} {
			l, w := testLearner(t, "poor"), newWorld(21, 6) // the same functions and hardware
			w.rnd.Uint64()
			if foreign {
				l.Adopt(5, pool)
			}
			w.run(l, 150+int(seed), nil)
			f, _ := w.errors(l, 300)
			snap := l.Snapshot()
			if got := snap.UsesForeign("rich"); got != foreign || snap.UsesForeign("poor") {
				t.Fatalf("uses foreign trees: %v, adopted: %v", got, foreign)
			}
			if foreign {
				helped += f / 4
				if snap.Version() != 5 || l.Stats().Foreign == 0 || len(snap.Trees()) != 32+16 {
					t.Errorf("version %d, %d trees, stats %+v", snap.Version(), len(snap.Trees()), l.Stats())
				}
			} else {
				alone += f / 4
			}
		}
	}
	t.Logf("error with 150 samples: %.3f alone, %.3f with foreign trees", alone, helped)
	if helped > alone {
		t.Errorf("error %.3f with foreign trees, %.3f without: want a zone not to be worse off for them", helped, alone)
	}
}

func TestHarmfulTreesAreNotPicked(t *testing.T) {
	var bad []*Tree
	for i := range 40 {
		shape, leaves := chain(64)
		for k := range leaves {
			leaves[k].Mean = float32(-3 + i%2*17)
		}
		tr, err := newTree("mallory", uint64(i), zoneGrid, shape, leaves)
		if err != nil {
			t.Fatal(err)
		}
		bad = append(bad, tr)
	}
	w, l := newWorld(3, 6), testLearner(t, "a")
	w.run(l, 300, nil)
	before, _ := w.errors(l, 300)
	l.Adopt(2, append(bad, nil, bad[0]))
	if len(l.ens.pool) != len(bad) {
		t.Errorf("%d trees in the pool, want %d: nil and twins are left out", len(l.ens.pool), len(bad))
	}
	after, _ := w.errors(l, 300)
	if l.Snapshot().UsesForeign("mallory") || after > 1.1*before {
		t.Errorf("error %.3f before, %.3f after; picked: %v", before, after, l.Snapshot().UsesForeign("mallory"))
	}
	card := l.Scorecard()
	if len(card.Scores) != len(bad) || card.Zone != "a" || card.Seq != l.Seq() {
		t.Errorf("scorecard %+v", card)
	}
	b, err := EncodeScorecard(card)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := DecodeScorecard(b); err != nil || fmt.Sprint(back) != fmt.Sprint(card) {
		t.Errorf("scorecard does not survive its encoding: %v", err)
	}
}

// TestOwnTreesAreNotJudgedOnTheirPast: a zone's own tree that comes back from the pool has seen the older rows.
func TestOwnTreesAreNotJudgedOnTheirPast(t *testing.T) {
	w, l := newWorld(3, 6), testLearner(t, "a")
	w.run(l, 300, nil)
	own := l.Export(1)
	l.Adopt(1, own)
	if l.Snapshot().UsesForeign("a") || len(l.Scorecard().Scores) != 0 {
		t.Error("a tree was judged on rows it was grown from")
	}
	w.run(l, 60, nil)
	if len(l.Scorecard().Scores) != 1 {
		t.Error("a tree was not judged on newer rows")
	}
}

func TestExportedTreesKeepPrivacy(t *testing.T) {
	w, l := newWorld(3, 9), testLearner(t, "a")
	w.run(l, exportRows-1, nil)
	if got := l.Export(2); got != nil {
		t.Errorf("%d trees from %d rows", len(got), exportRows-1)
	}
	w.run(l, 2000, nil)
	trees := l.Export(5)
	if len(trees) != maxExport {
		t.Fatalf("%d trees, want %d", len(trees), maxExport)
	}
	for _, tr := range trees {
		if tr.Leaves() < 8 || tr.Zone() != "a" || tr.Born() != l.win.total {
			t.Errorf("tree of %d leaves, zone %q, born %d", tr.Leaves(), tr.Zone(), tr.Born())
		}
		tenants := make([]map[uint32]bool, tr.Leaves())
		rows := make([]int, tr.Leaves())
		shape, _ := tr.compile(zoneGrid)
		for k := range l.win.len() {
			i := l.win.back(k)
			at := walk(shape, &l.win.rows[i])
			if rows[at]++; tenants[at] == nil {
				tenants[at] = map[uint32]bool{}
			}
			tenants[at][l.win.tenants[i]] = true
		}
		for at := range rows {
			if rows[at] < ExportMinLeaf || len(tenants[at]) < 3 {
				t.Errorf("a leaf of %d rows from %d tenants", rows[at], len(tenants[at]))
			}
		}
	}
}

func BenchmarkLearn(b *testing.B) {
	samples := record(4000)
	l := testLearner(b, "a")
	for i := range 16384 {
		l.Learn(samples[i%len(samples)])
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		l.Learn(samples[i%len(samples)])
		i++
	}
}

func BenchmarkEstimate(b *testing.B) {
	w, l := newWorld(1, 6), testLearner(b, "a")
	w.run(l, 16384, nil)
	f := l.Snapshot()
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			req, cands := manyCandidates(w, n)
			out := make([]api.Estimate, n)
			b.ReportAllocs()
			for b.Loop() {
				f.Estimate(&req, cands, out)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/candidate")
		})
	}
}

func BenchmarkSnapshot(b *testing.B) {
	w, l := newWorld(1, 6), testLearner(b, "a")
	w.run(l, 8000, nil)
	b.ReportAllocs()
	for b.Loop() {
		l.last = nil
		l.Snapshot()
	}
}

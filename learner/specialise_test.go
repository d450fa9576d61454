package learner

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
)

// randomForest grows a forest from rows without meaning, so that all features are tested.
func randomForest(t testing.TB, seed uint64, rows int) *Forest {
	t.Helper()
	l, rnd := testLearner(t, "a"), rand.New(rand.NewPCG(seed, 3))
	for range rows {
		bins := randomBins(rnd)
		y := 0.
		for f, b := range bins {
			y += float64(b) / 64 * float64(1+f%3)
		}
		l.Learn(&api.Sample{RunMs: 5 + 40*y*rnd.Float64(), Echo: api.Echo{
			Function: "t/f", Runtime: api.RuntimeWasm, Node: "n", Bins: bins[:], SchemaEpoch: SchemaEpoch, AveragesMu: 4, Sandbox: api.SandboxWarm,
		}})
	}
	return l.Snapshot()
}

func randomBins(rnd *rand.Rand) (b api.Bins) {
	for f := range b {
		b[f] = uint8(rnd.IntN(api.MaxBins))
	}
	return b
}

// request is n candidates of one request.
func sameRequest(rnd *rand.Rand, n int) []api.Estimate {
	out := make([]api.Estimate, n)
	req := randomBins(rnd)
	for i := range out {
		out[i].Bins = randomBins(rnd)
		copy(out[i].Bins[:api.FirstNodeFeature], req[:])
	}
	return out
}

// TestSpecialisedEqualsWalk: candidates that walk together and specialised trees give the estimates of the walk, bit for bit, for any
// forest and request.
func TestSpecialisedEqualsWalk(t *testing.T) {
	var forests []*Forest
	for i, rows := range []int{20, 200, 1500} {
		forests = append(forests, randomForest(t, uint64(i), rows))
	}
	scratch := NewScratch()
	rapid.Check(t, func(t *rapid.T) {
		f := forests[rapid.IntRange(0, len(forests)-1).Draw(t, "forest")]
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		a := sameRequest(rnd, rapid.IntRange(0, 3*block).Draw(t, "candidates"))
		b := append([]api.Estimate(nil), a...)
		f.Score(a)
		for range 3 { // together, specialised, then found ready
			c := append([]api.Estimate(nil), b...)
			f.Estimator(scratch).Score(c)
			for i := range a {
				if a[i] != c[i] {
					t.Fatalf("candidate %d of %d: walk %+v, specialised %+v", i, len(a), a[i], c[i])
				}
			}
		}
	})
	if scratch.Hits == 0 || scratch.Misses == 0 {
		t.Errorf("%d hits, %d misses: want some of both", scratch.Hits, scratch.Misses)
	}
}

// TestSpecialisedLargeTrees: a tree of which more than 64 leaves remain is walked.
func TestSpecialisedLargeTrees(t *testing.T) {
	var shape []split
	var leaves []leafOut
	for b := range uint8(62) { // a chain over two node features, 125 leaves
		for _, f := range []api.Feature{api.NodeLoad, api.NodeMissing} {
			shape = append(shape, split{uint8(f), b, uint16(len(shape) + 2)}, split{leafMark, 0, uint16(len(leaves))})
			leaves = append(leaves, leafOut{float32(len(leaves)), 1})
		}
	}
	shape = append(shape, split{leafMark, 0, uint16(len(leaves))})
	f := &Forest{base: []flat{{shape, append(leaves, leafOut{-1, 1}), 1}}}
	a := sameRequest(rand.New(rand.NewPCG(1, 1)), 100)
	b := append([]api.Estimate(nil), a...)
	f.Score(a)
	f.Estimator(NewScratch()).Score(b)
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("candidate %d: walk %+v, specialised %+v", i, a[i], b[i])
		}
	}
}

func TestEstimatorDoesNotAllocate(t *testing.T) {
	f, rnd := randomForest(t, 1, 600), rand.New(rand.NewPCG(1, 1))
	est := f.Estimator(NewScratch())
	requests := make([][]api.Estimate, 2*cacheSlots)
	for i := range requests {
		requests[i] = sameRequest(rnd, 40)
	}
	if n := testing.AllocsPerRun(20, func() {
		for i := range requests {
			est.Score(requests[i])
			est.Score(requests[i])
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestKeptColumnsGiveTheSame: candidates with columns that were quantised before, in any order and mixed with others, are
// estimated bit for bit like those without.
func TestKeptColumnsGiveTheSame(t *testing.T) {
	w, l := newWorld(1, 8), testLearner(t, "a")
	w.run(l, 600, nil)
	f := l.Snapshot()
	kept := map[string]*api.NodeColumns{}
	for round := range 40 {
		c := w.call()
		cands := make([]api.Candidate, 20)
		for i := range cands {
			cands[i] = w.call().cand
			if i%7 == round%7 {
				continue
			}
			k := kept[cands[i].Node]
			if k == nil {
				k = new(api.NodeColumns)
				f.Columns(&cands[i], k)
				kept[cands[i].Node] = k
			}
			cands[i].Columns = k
		}
		a, b := make([]api.Estimate, len(cands)), make([]api.Estimate, len(cands))
		f.Estimate(&c.req, cands, a)
		for i := range cands {
			cands[i].Columns = nil
		}
		f.Estimate(&c.req, cands, b)
		for i := range a {
			if a[i] != b[i] {
				t.Fatalf("candidate %d: %+v with columns, %+v without", i, a[i], b[i])
			}
		}
	}
}

// TestColumnsAreTakenOver: what one forest made of a node's columns the next one corrects into what it would have made itself, whether it has
// learned more, knows nodes by other hashes, or has another grid.
func TestColumnsAreTakenOver(t *testing.T) {
	w, l := newWorld(1, 8), testLearner(t, "a")
	w.run(l, 600, nil)
	first := l.Snapshot()
	w.run(l, 600, nil)
	learned := l.Snapshot()
	seeded := *learned
	seeded.seed++
	seeded.columnsKey = columnsKeyOf(seeded.seed, seeded.grid)
	other := *learned
	edges := slices.Clone(other.grid.edges)
	edges[api.NodeLink] = ramp(0, 40, 7)
	other.grid = newGrid(other.grid.epoch, edges)
	other.columnsKey = columnsKeyOf(other.seed, other.grid)
	changed := map[*Forest]int{}
	for range 200 {
		c := w.call().cand
		for _, next := range []*Forest{learned, &seeded, &other, first} {
			var kept, anew api.NodeColumns
			first.Columns(&c, &kept)
			before := kept
			next.Columns(&c, &kept)
			if next.Columns(&c, &anew); kept != anew {
				t.Fatalf("node %s: taken over %+v, made anew %+v", c.Node, kept, anew)
			}
			if kept != before {
				changed[next]++
			}
		}
	}
	if changed[learned] == 0 || changed[&seeded] != 200 || changed[&other] != 200 || changed[first] != 0 {
		t.Errorf("columns changed: %d by learning, %d by the seed, %d by the grid, %d by nothing", changed[learned], changed[&seeded], changed[&other], changed[first])
	}
}

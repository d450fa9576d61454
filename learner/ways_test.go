package learner

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

// grownBy draws a tree of so many leaves, over features that can have bins.
func grownBy(rnd *rand.Rand, leaves int, weight float64) flat {
	f := flat{weight: weight}
	var grow func(leaves int)
	grow = func(leaves int) {
		if leaves == 1 {
			f.shape = append(f.shape, split{leafMark, 0, uint16(len(f.leaf))})
			f.leaf = append(f.leaf, leafOut{float32(rnd.NormFloat64()), rnd.Float32()})
			return
		}
		at, left := len(f.shape), 1+rnd.IntN(leaves-1)
		feat := rnd.IntN(int(api.NumFeatures))
		if rnd.IntN(2) == 0 {
			feat = int(api.FirstNodeFeature) + rnd.IntN(nodeFeatures)
		}
		f.shape = append(f.shape, split{uint8(feat), uint8(rnd.IntN(api.MaxBins - 1)), 0})
		grow(left)
		f.shape[at].next = uint16(len(f.shape))
		grow(leaves - left)
	}
	grow(leaves)
	return f
}

// plainly is what a forest says, by the definition: each row by each tree, one after the other.
func plainly(f *Forest, out []api.Estimate) {
	for i := range out {
		var x row
		copy(x[:], out[i].Bins[:])
		var all weighed
		sum := func(trees []flat) {
			for t := range trees {
				l := trees[t].leaf[walk(trees[t].shape, &x)].weighed(trees[t].weight)
				all.add(&l)
			}
		}
		sum(f.base)
		out[i].Source, out[i].Sigma = api.SourceForest, f.sigma(&all)
		if f.lambda > 0 {
			sum(f.resid)
		}
		out[i].Mu += all.mean
	}
}

// fewBins draws n candidates of one request; each of their features has one to four bins.
func fewBins(rnd *rand.Rand, req *api.Bins, n int) []api.Estimate {
	var bins [api.NumFeatures][]uint8
	for f := range bins {
		for range 1 + rnd.IntN(4) {
			bins[f] = append(bins[f], []uint8{0, 1, uint8(rnd.IntN(api.MaxBins)), api.MaxBins - 1}[rnd.IntN(4)])
		}
	}
	out := make([]api.Estimate, n)
	for i := range out {
		out[i].Bins = *req
		for f := api.FirstNodeFeature; f < api.NumFeatures; f++ {
			out[i].Bins[f] = bins[f][rnd.IntN(len(bins[f]))]
		}
	}
	return out
}

// Whatever way candidates are scored, alone, together or by tables that were made or found, it is what the definition says, bit for
// bit: for trees in any number, with one in the middle of which more than 64 leaves remain, few candidates and many, a request
// that comes with other candidates, and forests in turn.
func TestAllWaysSayTheSame(t *testing.T) {
	ways := map[string]int{}
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 77))
		scratch := NewScratch()
		if seed%3 == 0 {
			scratch.clock = metFor - 1
		}
		var forests [2]*Forest
		for i := range forests {
			f := &Forest{lambda: []float64{0, .75}[rnd.IntN(2)], floor: .01}
			base := []int{1, 2, 3, 5, 33}[rnd.IntN(5)]
			for k := range base {
				leaves := 1 + rnd.IntN(40)
				if k == base/2 {
					leaves = 300
				}
				f.base = append(f.base, grownBy(rnd, leaves, 1/float64(base)+.01*float64(k)))
			}
			for range []int{0, 1, 6}[rnd.IntN(3)] {
				f.resid = append(f.resid, grownBy(rnd, 1+rnd.IntN(40), f.lambda/6))
			}
			forests[i] = f
		}
		reqs := [2]api.Bins{randomBins(rnd), randomBins(rnd)}
		for turn, f := range []*Forest{forests[0], forests[0], forests[1], forests[0]} {
			for k, n := range []int{17, 17, 17, 1, 2, 3, 11, 17, 12, 64, 65, 128, 129, 0} {
				want := fewBins(rnd, &reqs[k/5%2], n)
				alone, got := slices.Clone(want), slices.Clone(want)
				plainly(f, want)
				f.Score(alone)
				hits, misses := scratch.Hits, scratch.Misses
				f.Estimator(scratch).Score(got)
				if !slices.Equal(want, alone) || !slices.Equal(want, got) {
					t.Fatalf("seed %d, turn %d, %d candidates: other estimates than the definition's", seed, turn, n)
				}
				for i := range want {
					if math.IsNaN(want[i].Mu) || want[i].Sigma <= 0 {
						t.Fatalf("candidate %+v", want[i])
					}
				}
				ways[fmt.Sprintf("%d %d", scratch.Hits-hits, scratch.Misses-misses)]++
			}
		}
	}
	for _, way := range []string{"1 0", "0 1", "0 0"} { // found ready; made or walked together; walked one by one
		if ways[way] < 100 {
			t.Errorf("hits and misses %v: want at least 100 of %q", ways, way)
		}
	}
}

// Of more requests that come in turn than there is room for some stay remembered, and the others do not push them out.
func TestRequestsInTurnDoNotPushOutEachOther(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	f := &Forest{base: []flat{grownBy(rnd, 30, 1)}}
	scratch := NewScratch()
	var reqs []api.Bins
	for range 2 * cacheSlots {
		reqs = append(reqs, randomBins(rnd))
	}
	turn := func() uint64 {
		before := scratch.Hits
		for i := range reqs {
			out := make([]api.Estimate, 12)
			for k := range out {
				out[k].Bins = reqs[i]
			}
			f.Estimator(scratch).Score(out)
		}
		return scratch.Hits - before
	}
	turn()
	turn()
	if hits := turn(); hits < cacheSlots-2 || hits > cacheSlots { // two may share a place among those that were seen
		t.Errorf("%d of %d requests in turn found their forest ready, want about %d", hits, len(reqs), cacheSlots)
	}
	scratch.Hits = 0
	for range 3 { // what is asked for now takes the place of what is not any more
		for i := range reqs[:cacheSlots/2] {
			reqs[i] = randomBins(rnd)
		}
		reqs = reqs[:cacheSlots/2]
		turn()
		turn()
		if hits := turn(); hits < cacheSlots/2-2 {
			t.Errorf("%d of %d new requests found their forest ready", hits, len(reqs))
		}
	}
}

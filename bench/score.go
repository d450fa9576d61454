package bench

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/learner"
)

// ScoreOptions size the score benchmark.
type ScoreOptions struct {
	Seed uint64
	// Samples are learned first; from about 17,000 on the window is full and trees have 512 leaves.
	Samples int
	// Each figure is measured for this long.
	Each     time.Duration
	Progress func(done, total int, doing string)
}

// DefaultScoreOptions takes about twenty seconds.
func DefaultScoreOptions() ScoreOptions {
	return ScoreOptions{Seed: 1, Samples: 20000, Each: 700 * time.Millisecond, Progress: func(int, int, string) {}}
}

// Score measures how long the forest takes to score the candidates of one request, their features quantised: by walking
// every tree one by one; for a request that was not seen before, whose candidates walk together or have the forest specialised to
// it, by their number; and for one whose forest is at hand. Every way is first checked to give the same result.
func Score(ctx context.Context, o ScoreOptions) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	f, err := fullForest(ctx, o)
	if err != nil {
		return nil, err
	}
	r := &Report{Bench: "score", Env: environment()}
	rng := rand.New(rand.NewPCG(o.Seed, 21))
	est := f.Estimator(learner.NewScratch())
	allocs := 0.
	for k, n := range []int{1000, 100, 32, 12} {
		o.Progress(k, 4, fmt.Sprintf("%d candidates", n))
		requests := make([][]api.Estimate, 64)
		for i := range requests {
			requests[i] = candidatesOf(rng, n)
		}
		walked := slices.Clone(requests[0])
		f.Score(walked)
		for turn := range 3 { // new, specialised by then, at hand
			other := slices.Clone(requests[0])
			if est.Score(other); !slices.Equal(walked, other) {
				return nil, fmt.Errorf("bench score: %d candidates, asked for %d times: estimates are not those of the walk", n, turn+1)
			}
		}
		at := 0
		next := func() []api.Estimate { // with a payload and an hour that it has not had for long
			at++
			out := requests[at%len(requests)]
			for i := range out {
				out[i].Bins[api.PayloadSize], out[i].Bins[api.HourOfDay] = uint8(1+at/len(requests)%62), uint8(1+at/len(requests)/62%24)
			}
			return out
		}
		way := "together"
		if n > 64 {
			way = "specialised"
		}
		measure := func(name string, score func()) {
			r.add(fmt.Sprintf("%s.n%d.ns", name, n), nsEach(o.Each, score)/float64(n), "ns/candidate")
			allocs = max(allocs, testing.AllocsPerRun(10, score))
		}
		measure("walk", func() { f.Score(next()) })
		measure(way, func() { est.Score(next()) })
		measure("cached", func() { est.Score(requests[0]) })
	}
	r.add("allocs", allocs, "a request")
	trees := f.Trees()
	r.Notes = []string{fmt.Sprintf("forest of %d trees after %d samples; fewer than 12 candidates are walked one by one unless their forest is at hand", len(trees), o.Samples)}
	return r, nil
}

// nsEach is the mean time of f in nanoseconds.
func nsEach(d time.Duration, f func()) float64 {
	f()
	began, n := time.Now(), 0
	for time.Since(began) < d {
		f()
		n++
	}
	return float64(time.Since(began)) / float64(n)
}

// candidatesOf makes the rows of one request on n unlike nodes.
func candidatesOf(rng *rand.Rand, n int) []api.Estimate {
	out := make([]api.Estimate, n)
	req := zoneRow(rng)
	for i := range out {
		out[i].Bins = zoneRow(rng)
		copy(out[i].Bins[:api.FirstNodeFeature], req[:])
	}
	return out
}

// zoneRow draws a row as a zone's calls have them: few sandbox states and classes, everything else spread.
func zoneRow(rng *rand.Rand) (b api.Bins) {
	for f := range b {
		b[f] = uint8(1 + rng.IntN(62))
	}
	b[api.NodeSandbox], b[api.NodeClass] = uint8(1+rng.IntN(4)), uint8(1+rng.IntN(4))
	b[api.RuntimeClass], b[api.HourOfDay], b[api.NodeLink] = uint8(1+rng.IntN(2)), uint8(1+rng.IntN(24)), uint8(20+rng.IntN(4))
	if rng.IntN(2) == 0 {
		b[api.NodeMissing] = 1
	}
	return b
}

// fullForest learns samples that depend on all features, so that trees grow to their limit.
func fullForest(ctx context.Context, o ScoreOptions) (*learner.Forest, error) {
	cfg := learner.DefaultConfig()
	cfg.Seed = o.Seed
	l, err := learner.New(cfg)
	if err != nil {
		return nil, err
	}
	rng := rand.New(rand.NewPCG(o.Seed, 20))
	for i := range o.Samples {
		if i%500 == 0 {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			o.Progress(i, o.Samples, "learning")
		}
		row := zoneRow(rng)
		y := 0.
		for f, b := range row {
			y += math.Sin(float64(b)/10+float64(f)) * float64(1+f%3)
		}
		l.Learn(&api.Sample{RunMs: math.Exp(4 + y/6 + .1*rng.NormFloat64()), Echo: api.Echo{
			Function: "t/f", Runtime: api.RuntimeWasm, Node: "n", Bins: row[:], SchemaEpoch: api.SchemaEpoch, AveragesMu: 4, Sandbox: api.SandboxWarm,
		}})
	}
	return l.Snapshot(), nil
}

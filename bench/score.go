package bench

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
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
// every tree, specialised for a request that was not seen before, and for one that was. Every way is first checked to
// give the same result.
func Score(ctx context.Context, o ScoreOptions) (*Report, error) {
	f, err := fullForest(ctx, o)
	if err != nil {
		return nil, err
	}
	r := &Report{Bench: "score", Env: environment()}
	rng := rand.New(rand.NewPCG(o.Seed, 21))
	est := f.Estimator(learner.NewScratch())
	allocs := 0.
	for k, n := range []int{1000, 100, 32, 10} {
		o.Progress(k, 4, fmt.Sprintf("%d candidates", n))
		requests := make([][]api.Estimate, 64)
		for i := range requests {
			requests[i] = candidatesOf(rng, n)
		}
		walked, special := append([]api.Estimate(nil), requests[0]...), append([]api.Estimate(nil), requests[0]...)
		f.Score(walked)
		est.Score(special)
		for i := range walked {
			if walked[i] != special[i] {
				return nil, fmt.Errorf("bench score: candidate %d: walk says %v, specialised %v", i, walked[i].Mu, special[i].Mu)
			}
		}
		at := 0
		measure := func(name string, score func()) {
			r.add(fmt.Sprintf("%s.n%d.ns", name, n), nsEach(o.Each, score)/float64(n), "ns/candidate")
			allocs = max(allocs, testing.AllocsPerRun(10, score))
		}
		measure("walk", func() { at = (at + 1) % len(requests); f.Score(requests[at]) })
		measure("specialised", func() { at = (at + 1) % len(requests); est.Score(requests[at]) })
		measure("cached", func() { est.Score(requests[0]) })
	}
	r.add("allocs", allocs, "a request")
	trees := f.Trees()
	r.Notes = []string{fmt.Sprintf("forest of %d trees after %d samples; requests without a specialised forest ready are walked below 12 candidates", len(trees), o.Samples)}
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

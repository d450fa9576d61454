package learner

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

// world is a made-up zone: functions whose times differ by three orders of magnitude, started warm, prepared or
// cold, with or without 8 MB to fetch, on nodes of unlike speed. It asks a learner's forest, runs the call, and
// gives back the sample.
type world struct {
	rnd       *rand.Rand
	functions []function
	tenants   int
	noise     float64
	slow      float64 // drift: factor on everything
	delayed   bool
	alpha     float64
}

type function struct {
	runMs, initMs float64
	exponent      float64
}

func newWorld(seed uint64, n int) *world {
	w := &world{rnd: rand.New(rand.NewPCG(seed, 7)), tenants: 3, noise: .1, slow: 1, alpha: .05}
	for i := range n {
		w.functions = append(w.functions, function{
			runMs: math.Pow(10, float64(i%4)) * (1 + w.rnd.Float64()), initMs: 1200 * (.8 + .4*w.rnd.Float64()), exponent: float64(i%3) * .4,
		})
	}
	return w
}

type call struct {
	req  api.Request
	cand api.Candidate
	fn   function
}

func (w *world) call() call {
	i := w.rnd.IntN(len(w.functions))
	c := call{fn: w.functions[i]}
	c.req = api.Request{
		Function: fmt.Sprintf("t%d/f%d", i%w.tenants, i), Runtime: api.RuntimeProcess, MemoryMB: 128,
		InputBytes: int64(math.Exp(w.rnd.Float64()*5.5)) << 12, PayloadBytes: 200, Hour: 12, Alpha: w.alpha,
	}
	node := w.rnd.IntN(10)
	c.cand = api.Candidate{
		Node: fmt.Sprintf("n%d", node), Class: uint8(1 + node%2), Running: w.rnd.IntN(4), Slots: 4, LinkMbps: 1000, Delayed: w.delayed,
		Sandbox: []api.SandboxState{api.SandboxNone, api.SandboxPrepared, api.SandboxWarm, api.SandboxWarm}[w.rnd.IntN(4)],
	}
	if w.rnd.IntN(2) == 0 {
		c.cand.MissingBytes = 8 << 20
	}
	return c
}

// mean is the true time without noise.
func (w *world) mean(c *call) (fetch, init, run float64) {
	fetch = float64(c.cand.MissingBytes) / (c.cand.LinkMbps * 125)
	switch c.cand.Sandbox {
	case api.SandboxNone:
		init = c.fn.initMs
	case api.SandboxPrepared:
		init = 80
	}
	run = c.fn.runMs * math.Pow(float64(c.req.InputBytes)/(64<<10), c.fn.exponent) * (1 + .5*float64(c.cand.Class-1))
	return fetch * w.slow, init * w.slow, run * w.slow
}

func (w *world) sample(c *call, e *api.Estimate) *api.Sample {
	f, i, r := w.mean(c)
	k := math.Exp(w.noise * w.rnd.NormFloat64())
	s := &api.Sample{FetchMs: f * k, InitMs: i * k, RunMs: r * k}
	s.Echo = api.Echo{
		Function: c.req.Function, Runtime: c.req.Runtime, Node: c.cand.Node, Bins: e.Bins[:], SchemaEpoch: SchemaEpoch, Grid: e.Grid,
		Mu: e.Mu, Sigma: e.Sigma, UpperMs: e.UpperMs, Alpha: c.req.Alpha, Source: e.Source, Sandbox: c.cand.Sandbox,
		MissingBytes: c.cand.MissingBytes, InputBytes: c.req.InputBytes, LinkMbps: c.cand.LinkMbps, AveragesMu: e.AveragesMu, Propensity: 1,
	}
	if w.delayed {
		s.Echo.Kind = api.DecisionDelayed
	}
	return s
}

func (w *world) estimate(l *Learner, c *call) api.Estimate {
	var out [1]api.Estimate
	l.Snapshot().Estimate(&c.req, []api.Candidate{c.cand}, out[:])
	return out[0]
}

// run makes n calls and calls seen, if any, with each. Once the learner has seen a few, a forest serves eight calls.
func (w *world) run(l *Learner, n int, seen func(e *api.Estimate, s *api.Sample)) {
	f := l.Snapshot()
	for i := range n {
		if i%8 == 0 || l.usable < 300 {
			f = l.Snapshot()
		}
		c := w.call()
		var out [1]api.Estimate
		f.Estimate(&c.req, []api.Candidate{c.cand}, out[:])
		e := out[0]
		s := w.sample(&c, &e)
		l.Learn(s)
		if seen != nil {
			seen(&e, s)
		}
	}
}

// errors measures the forest and the averages against the true means on n fresh calls: mean absolute error in ln ms.
func (w *world) errors(l *Learner, n int) (forest, avg float64) {
	f := l.Snapshot()
	for range n {
		c := w.call()
		a, b, r := w.mean(&c)
		truth := math.Log(a + b + r)
		var out [1]api.Estimate
		f.Estimate(&c.req, []api.Candidate{c.cand}, out[:])
		forest += math.Abs(out[0].Mu - truth)
		avg += math.Abs(out[0].AveragesMu - truth)
	}
	return forest / float64(n), avg / float64(n)
}

func testLearner(t testing.TB, zone string) *Learner {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Zone = zone
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// statistical marks tests that learn from thousands of samples on one goroutine: the race detector has nothing to
// find in them and makes them ten times slower.
func statistical(t *testing.T) {
	t.Helper()
	if raceOn {
		t.Skip("single-goroutine arithmetic: run without -race")
	}
}

package learner

import (
	"math"

	"github.com/rubato-faas/rubato/api"
)

const (
	sandboxStates = 5
	// cellMemory caps the weight of a cell's past: a mean of at least the last 30 or so.
	cellMemory = 30
	// defaultRunLnMs is what is said of the run of a function when nothing at all is known: 50 ms.
	defaultRunLnMs = 3.912023005428146
	// sizeRidge pulls the slope over input size towards none: about the variance of ln run times over that of slopes.
	sizeRidge = .2
	// nominalMbps stands in for the speed of a link without a limit.
	nominalMbps = 1000
)

// cell is a running mean of ln ms.
type cell struct {
	N    uint32
	Mean float32
}

func (c *cell) add(y float64) {
	c.N++
	c.Mean += float32((y - float64(c.Mean)) / float64(min(c.N, cellMemory)))
}

// fnStat is all that is known of one function. Fields are exported for encoding/binary only.
type fnStat struct {
	Count              uint32
	Fast, Slow, Spread float32
	// SizeN and the moments (exponentially weighted) of x = log2(1+input bytes) and y = ln run ms.
	SizeN                        uint32
	SizeX, SizeY, SizeXX, SizeXY float32
	// Init is ln ms from the state that the sandbox was in to a running one.
	Init [sandboxStates]cell
	// Dev is the mean absolute error of the averages on this function.
	Dev cell
	// Scores counts the conformal scores of the function's bound, by kind; Quantile is by kind and alpha class.
	Scores   [kinds]uint32
	Quantile [kinds][classes]float32
}

// rtStat is the same for a runtime, for functions that are not known yet.
type rtStat struct {
	Run  cell
	Init [sandboxStates]cell
}

// nodeStat is the mean of ln(measured/predicted) of a node, or of a function on a node.
type nodeStat struct {
	N    uint32
	Mean float32
}

func (s *nodeStat) add(r float64) {
	s.N++
	s.Mean += float32((r - float64(s.Mean)) / float64(min(s.N, 10)))
}

// parts are the measured times of one execution, in ln ms; NaN where there was none.
type parts struct {
	run, init float64
	sandbox   api.SandboxState
	inputLog  float64 // log2(1+input bytes)
}

func partsOf(s *api.Sample) parts {
	p := parts{run: lnOrNaN(s.RunMs), init: math.NaN(), sandbox: min(s.Echo.Sandbox, sandboxStates-1), inputLog: log2p(s.Echo.InputBytes)}
	if p.sandbox < api.SandboxWarm {
		p.init = lnOrNaN(s.InitMs)
	}
	return p
}

// lnOrNaN is ln ms within sane limits; NaN for what did not happen.
func lnOrNaN(ms float64) float64 {
	if !(ms > 0) {
		return math.NaN()
	}
	return min(max(math.Log(ms), -7), 20)
}

// learn takes one execution.
func (st *fnStat) learn(p *parts) {
	st.Count++
	if p.init == p.init {
		st.Init[p.sandbox].add(p.init)
	}
	if p.run != p.run {
		return
	}
	// A function is known by its run time, which does not depend on where it ran: means of whole executions jump with
	// every cold start, and rows learned before then looked like other functions' rows.
	ew := func(m *float32, x, w float64) {
		*m += float32((x - float64(*m)) * max(w, 1/float64(st.SizeN+1)))
	}
	ew(&st.Fast, p.run, .2)
	ew(&st.Slow, p.run, .02)
	ew(&st.Spread, math.Abs(p.run-float64(st.Slow)), .05)
	st.SizeN++
	w := 1 / float64(min(st.SizeN, cellMemory))
	for _, m := range []struct {
		to *float32
		x  float64
	}{{&st.SizeX, p.inputLog}, {&st.SizeY, p.run}, {&st.SizeXX, p.inputLog * p.inputLog}, {&st.SizeXY, p.inputLog * p.run}} {
		*m.to += float32((m.x - float64(*m.to)) * w)
	}
}

func (rt *rtStat) learn(p *parts) {
	if p.init == p.init {
		rt.Init[p.sandbox].add(p.init)
	}
	if p.run == p.run {
		rt.Run.add(p.run)
	}
}

// slope is how much ln run time grows with log2 input bytes: ridge regression, so that few or equal sizes say little.
func (st *fnStat) slope() float64 {
	x, n := float64(st.SizeX), float64(min(st.SizeN, cellMemory))
	v := max(float64(st.SizeXX)-x*x, 0)
	return (float64(st.SizeXY) - x*float64(st.SizeY)) * n / (v*n + sizeRidge)
}

// bins fills the function's features.
func (st *fnStat) bins(g *Grid, to *api.Bins) {
	to[api.FnCount] = g.of(api.FnCount, math.Log2(1+float64(st.Count)))
	if st.SizeN == 0 {
		return
	}
	to[api.FnFast] = g.of(api.FnFast, float64(st.Fast))
	to[api.FnSlow] = g.of(api.FnSlow, float64(st.Slow))
	to[api.FnSpread] = g.of(api.FnSpread, float64(st.Spread))
	to[api.FnSizeExponent] = g.of(api.FnSizeExponent, st.slope())
	if c := &st.Init[api.SandboxNone]; c.N > 0 {
		to[api.FnColdGap] = g.of(api.FnColdGap, float64(c.Mean-st.Slow))
	}
}

// averages is the estimate without a forest, in parts, each from the nearest that is known: run from the function
// (with its slope over input size), its runtime, or a prior; init likewise by sandbox state; fetch from the bytes
// and the link, times how much longer than that the zone's fetches took. The parts are what lets it say something of a
// cold start after one warm call, and of a large input after a small one. It is the fallback, the baseline that the
// forest must beat, and what the forest corrects: trees learn ln(measured/averages).
type averages struct {
	run        float64                // ms
	init       [sandboxStates]float64 // ms
	fetchRatio float64
	sigma      float64
	known      bool
}

// averagesOf takes the function's statistics (nil: never seen), its runtime's, and the zone's mean ln(measured/ideal) of
// fetches.
func averagesOf(st *fnStat, rt *rtStat, fetch *cell, runtime int, inputBytes int64) averages {
	a := averages{run: defaultRunLnMs, sigma: 2, fetchRatio: math.Exp(float64(fetch.Mean))}
	switch {
	case st != nil && st.SizeN > 0:
		a.run = float64(st.SizeY) + min(max(st.slope()*(log2p(inputBytes)-float64(st.SizeX)), -maxSizeEffect), maxSizeEffect)
		a.sigma, a.known = st.sigma(), true
	case rt.Run.N > 0:
		a.run, a.sigma, a.known = float64(rt.Run.Mean), 1.5, true
	}
	a.run = math.Exp(a.run)
	for s := range api.SandboxWarm {
		a.init[s] = math.Exp(initLnMs(st, rt, runtime, s))
	}
	return a
}

// maxSizeEffect bounds what the slope may add: a size far from all seen ones says little.
const maxSizeEffect = 3

// initLnMs is the function's own mean from this state; else its mean from another state, moved by the gap between the
// two that its runtime (or the prior) knows; else the runtime's; else the prior.
func initLnMs(st *fnStat, rt *rtStat, runtime int, s api.SandboxState) float64 {
	if st != nil && st.Init[s].N > 0 {
		return float64(st.Init[s].Mean)
	}
	of := func(s api.SandboxState) float64 {
		if rt.Init[s].N > 0 {
			return float64(rt.Init[s].Mean)
		}
		return priorInit(runtime, s)
	}
	if st != nil {
		var sum, n float64
		for o := range api.SandboxWarm {
			if w := float64(min(st.Init[o].N, cellMemory)); w > 0 {
				sum, n = sum+w*(float64(st.Init[o].Mean)+of(s)-of(o)), n+w
			}
		}
		if n > 0 {
			return sum / n
		}
	}
	return of(s)
}

// priorInit is what bringing up a sandbox is taken to cost, in ln ms, until the zone has seen it: a process is fetched,
// unpacked and started; a module is compiled for about a second, or only instantiated. Without it a warm node looked
// like any other until its first call.
func priorInit(runtime int, s api.SandboxState) float64 {
	ms := [...]float64{300, 150, 50}
	if runtime == runtimeWasm {
		ms = [...]float64{1000, 900, 30}
	}
	return math.Log(ms[min(int(s), len(ms)-1)])
}

// of is the estimate for one candidate.
func (a *averages) of(s api.SandboxState, missing int64, linkMbps float64) (mu float64) {
	ms := a.run
	if s < api.SandboxWarm {
		ms += a.init[s]
	}
	if missing > 0 {
		ms += a.fetchRatio * idealFetchMs(missing, linkMbps)
	}
	return math.Log(ms)
}

// idealFetchMs is how long bytes take over an idle link.
func idealFetchMs(bytes int64, linkMbps float64) float64 {
	if !(linkMbps > 0) {
		linkMbps = nominalMbps
	}
	return float64(bytes) * 8 / (linkMbps * 1000)
}

func (st *fnStat) sigma() float64 {
	if st.Dev.N < 3 {
		return .7
	}
	return max(1.25*float64(st.Dev.Mean), .05)
}

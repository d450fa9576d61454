package learner

import (
	"math"

	"github.com/rubato-faas/rubato/api"
)

const (
	sandboxStates = 5
	cellCount     = sandboxStates * 2
	// cellMemory caps the weight of a cell's past: a mean of at least the last 50 or so.
	cellMemory = 50
	// ownCell is how many samples a cell needs before it speaks for itself.
	ownCell = 3
	// defaultLnMs is what is said of a warm, local call when nothing at all is known: 50 ms.
	defaultLnMs = 3.912023005428146
	// sizeSamples and sizeSpread say when the slope over input size means something.
	sizeSamples, sizeSpread = 5, .05
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

// cellOf is the cell of a sandbox state and a data state (all there, or something to fetch).
func cellOf(s api.SandboxState, missing int64) int {
	k := min(int(s), sandboxStates-1) * 2
	if missing > 0 {
		k++
	}
	return k
}

// fnStat is all that is known of one function. Fields are exported for encoding/binary only.
type fnStat struct {
	Count              uint32
	Fast, Slow, Spread float32
	Warm, Cold         cell
	// SizeN and the moments (exponentially weighted) of x = log2(1+input bytes) and y = ln run ms.
	SizeN                        uint32
	SizeX, SizeY, SizeXX, SizeXY float32
	// Dev is the mean absolute error of the averages on this function.
	Dev   cell
	Cells [cellCount]cell
	// Scores counts the conformal scores of the function's bound, by kind; Quantile is by kind and alpha class.
	Scores   [kinds]uint32
	Quantile [kinds][classes]float32
}

// rtStat is the same for a runtime, as the last resort.
type rtStat struct {
	All   cell
	Cells [cellCount]cell
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

// learn takes one execution: y = ln of its whole time, run = ln of its run time (NaN: none).
func (st *fnStat) learn(y, run float64, sb api.SandboxState, missing, input int64) {
	st.Count++
	ew := func(m *float32, x, w float64) {
		*m += float32((x - float64(*m)) * max(w, 1/float64(st.Count)))
	}
	// A function is known by its run time, which does not depend on where it ran: means of whole executions jump with
	// every cold start, and rows learned before then looked like other functions' rows.
	own := y
	if run == run {
		own = run
	}
	ew(&st.Fast, own, .2)
	ew(&st.Slow, own, .02)
	ew(&st.Spread, math.Abs(own-float64(st.Slow)), .05)
	switch sb.StartType() {
	case "warm":
		st.Warm.add(y)
	case "cold":
		st.Cold.add(y)
	}
	st.Cells[cellOf(sb, missing)].add(y)
	if run == run {
		st.learnSize(log2p(input), run)
	}
}

func (st *fnStat) learnSize(x, y float64) {
	st.SizeN++
	w := 1 / float64(min(st.SizeN, 50))
	for _, m := range []struct {
		to *float32
		x  float64
	}{{&st.SizeX, x}, {&st.SizeY, y}, {&st.SizeXX, x * x}, {&st.SizeXY, x * y}} {
		*m.to += float32((m.x - float64(*m.to)) * w)
	}
}

// bins fills the function's features.
func (st *fnStat) bins(row *api.Bins) {
	row[api.FnFast] = bin(api.FnFast, float64(st.Fast))
	row[api.FnSlow] = bin(api.FnSlow, float64(st.Slow))
	row[api.FnSpread] = bin(api.FnSpread, float64(st.Spread))
	row[api.FnCount] = bin(api.FnCount, math.Log2(1+float64(st.Count)))
	if st.Cold.N > 0 && st.Warm.N > 0 {
		row[api.FnColdGap] = bin(api.FnColdGap, float64(st.Cold.Mean-st.Warm.Mean))
	}
	if v := float64(st.SizeXX) - float64(st.SizeX)*float64(st.SizeX); st.SizeN >= sizeSamples && v > sizeSpread {
		row[api.FnSizeExponent] = bin(api.FnSizeExponent, (float64(st.SizeXY)-float64(st.SizeX)*float64(st.SizeY))/v)
	}
}

// averages is the estimate without a model, with back-off: the own cell; the own function moved by the runtime's
// difference between cells; the runtime's cell; the runtime. It is the fallback and the baseline that the forest
// must beat. st may be nil.
func averages(st *fnStat, rt *rtStat, k int) (mu, sigma float64, ok bool) {
	if st != nil && st.Count > 0 {
		if st.Cells[k].N >= ownCell {
			return float64(st.Cells[k].Mean), st.sigma(), true
		}
		return moved(&st.Cells, rt, k), max(st.sigma(), .7), true
	}
	if rt.Cells[k].N > 0 {
		return float64(rt.Cells[k].Mean), 1.5, true
	}
	if rt.All.N > 0 {
		return moved(&rt.Cells, nil, k), 2, true
	}
	return defaultLnMs + priorGap(k), 2, false
}

// priorGap is how much longer, in ln, a call takes in a cell than warm with its data at hand, until the zone has seen
// it: ten times with a sandbox from nothing, two and a half with something to fetch, as published measurements of cloud
// platforms have it in the middle. Without it a warm node looked like any other until its first call.
func priorGap(k int) float64 {
	g := [sandboxStates]float64{2.3, 2, 1, 0, 0}[k/2]
	if k%2 == 1 {
		g += .9
	}
	return g
}

// moved is the mean of cells, each moved by the gap between it and cell k: the runtime's, or the prior one where the
// runtime (which may be nil) has not seen both.
func moved(cells *[cellCount]cell, rt *rtStat, k int) float64 {
	var sum, n float64
	for c := range cells {
		if cells[c].N == 0 {
			continue
		}
		m, w := float64(cells[c].Mean), float64(min(cells[c].N, cellMemory))
		if rt != nil && rt.Cells[c].N > 0 && rt.Cells[k].N > 0 {
			m += float64(rt.Cells[k].Mean - rt.Cells[c].Mean)
		} else {
			m += priorGap(k) - priorGap(c)
		}
		sum, n = sum+m*w, n+w
	}
	return sum / max(n, 1)
}

func (st *fnStat) sigma() float64 {
	if st.Dev.N < ownCell {
		return .7
	}
	return max(1.25*float64(st.Dev.Mean), .05)
}

package learner

import (
	"math"

	"github.com/rubato-faas/rubato/api"
)

// SchemaEpoch numbers what the features mean. Rows of another one are not trained on.
const SchemaEpoch uint32 = api.SchemaEpoch

// maxFeatures is the width of a row inside the forest: a zone uses api.NumFeatures of it, a Regressor what its stream has.
const maxFeatures = 32

// row is one quantised row.
type row [maxFeatures]uint8

// Grid holds the edges of each feature: bin 0 is "missing", bin 1 + k holds the values with k edges at or below them.
// At most 62 edges give at most 64 bins. It is never written once it is in use.
type Grid struct {
	epoch uint32
	edges [][]float32
	// quick is, for each of quickCells equal parts of a feature's range, the bin at its lower end: where to look from.
	quick [][]uint8
	per   []float32 // parts to the unit
	// columnsKey stands for the edges of what a node's columns are made of.
	columnsKey uint64
}

const quickCells = 256

// newGrid makes a grid of edges that will not change.
func newGrid(epoch uint32, edges [][]float32) *Grid {
	g := &Grid{epoch: epoch, edges: edges, quick: make([][]uint8, len(edges)), per: make([]float32, len(edges))}
	for f, e := range edges {
		if len(e) < 2 || !(e[len(e)-1] > e[0]) {
			continue
		}
		g.quick[f] = make([]uint8, quickCells)
		g.per[f] = quickCells / (e[len(e)-1] - e[0])
		k := 0
		for i := range g.quick[f] {
			lower := e[0] + float32(i)/g.per[f]
			for k < len(e) && e[k] <= lower {
				k++
			}
			g.quick[f][i] = uint8(max(k-1, 0)) // one back: lower is rounded
		}
	}
	for _, f := range []api.Feature{api.NodeClass, api.NodeLink} {
		g.columnsKey = mix(g.columnsKey ^ uint64(len(edges[f])))
		for _, x := range edges[f] {
			g.columnsKey = mix(g.columnsKey ^ uint64(math.Float32bits(x)))
		}
	}
	return g
}

// zoneGrid is the first grid of a zone.
var zoneGrid = func() *Grid {
	g := make([][]float32, api.NumFeatures)
	lnMs := ramp(-3, 14, 62)
	logBytes := ramp(.5, 31, 62) // .5 splits "none" from "one byte"
	residual := ramp(-3, 3, 61)
	g[api.FnFast], g[api.FnSlow] = lnMs, lnMs
	g[api.FnSpread] = ramp(.05, 3, 60)
	g[api.FnCount] = ramp(.5, 20, 40)
	g[api.FnColdGap] = ramp(-2, 8, 61)
	g[api.FnSizeExponent] = ramp(-.5, 1.5, 61)
	g[api.InputSize], g[api.PayloadSize], g[api.NodeMissing] = logBytes, logBytes, logBytes
	g[api.MemoryMB] = ramp(4, 16, 49)
	g[api.RuntimeClass] = exact(3)
	g[api.HourOfDay] = exact(24)
	g[api.NodeSandbox] = exact(5)
	g[api.NodeLoad] = ramp(.05, 2, 40)
	g[api.NodeLink] = ramp(0, 17, 35)
	g[api.NodeClass] = exact(62)
	g[api.NodeResidual], g[api.FnNodeResidual] = residual, residual
	return newGrid(0, g)
}()

// ramp is n edges from lo to hi at equal distances.
func ramp(lo, hi float64, n int) []float32 {
	e := make([]float32, n)
	for i := range e {
		e[i] = float32(lo + (hi-lo)*float64(i)/float64(n-1))
	}
	return e
}

// exact gives each of the integers 0..n-1 a bin of its own.
func exact(n int) []float32 { return ramp(.5, float64(n)-1.5, n-1) }

// of quantises a feature's value.
func (g *Grid) of(f api.Feature, x float64) uint8 { return g.bin(int(f), x) }

// bin quantises x. NaN is missing.
func (g *Grid) bin(f int, x float64) uint8 {
	if x != x {
		return 0
	}
	e := g.edges[f]
	switch {
	case len(e) == 0 || x < float64(e[0]):
		return 1
	case x >= float64(e[len(e)-1]):
		return uint8(len(e) + 1)
	}
	k := 0
	if q := g.quick[f]; q != nil {
		k = int(q[min(int((x-float64(e[0]))*float64(g.per[f])), quickCells-1)])
	}
	for float64(e[k]) <= x {
		k++
	}
	return uint8(k + 1)
}

// missingOnly is the threshold of a split that sends only missing values left.
const missingOnly = float32(-1e30)

// threshold is the real value of the split "bin <= b goes left": a value goes left when it is missing or below it.
func (g *Grid) threshold(f int, b uint8) float32 {
	e := g.edges[f]
	if b == 0 || len(e) == 0 {
		return missingOnly
	}
	return e[min(int(b), len(e))-1]
}

// splitBin is the inverse of threshold; thresholds between two edges take the lower one.
func (g *Grid) splitBin(f int, t float32) uint8 {
	if e := g.edges[f]; len(e) == 0 || t < e[0] {
		return 0
	}
	return g.bin(f, float64(t)) - 1
}

// log2p is log2(1+n) for sizes; negative sizes count as none.
func log2p(n int64) float64 { return math.Log2(1 + float64(max(n, 0))) }

// log2OrMissing is log2(x), missing when x is not positive.
func log2OrMissing(x float64) float64 {
	if !(x > 0) {
		return math.NaN()
	}
	return math.Log2(x)
}

// runtimeClass numbers the runtimes; 0 stands for any other.
func runtimeClass(r api.Runtime) int {
	switch r {
	case api.RuntimeProcess:
		return runtimeProcess
	case api.RuntimeWasm:
		return runtimeWasm
	}
	return 0
}

const (
	runtimeProcess = 1
	runtimeWasm    = 2
	runtimeClasses = 3
)

// requestBins fills the request side of a row from the request and the function's statistics (nil: never seen).
func (g *Grid) requestBins(to *api.Bins, req *api.Request, st *fnStat) {
	if st != nil {
		st.bins(g, to)
	}
	to[api.InputSize] = g.of(api.InputSize, log2p(req.InputBytes))
	to[api.PayloadSize] = g.of(api.PayloadSize, log2p(req.PayloadBytes))
	to[api.MemoryMB] = g.of(api.MemoryMB, log2OrMissing(float64(req.MemoryMB)))
	if c := runtimeClass(req.Runtime); c > 0 {
		to[api.RuntimeClass] = g.of(api.RuntimeClass, float64(c))
	}
	if req.Hour >= 0 && req.Hour < 24 {
		to[api.HourOfDay] = g.of(api.HourOfDay, float64(req.Hour))
	}
}

// nodeBins fills the part of the node side that many candidates have in common.
func (g *Grid) nodeBins(to *api.Bins, c *api.Candidate) {
	to[api.NodeSandbox] = g.of(api.NodeSandbox, float64(c.Sandbox))
	to[api.NodeMissing] = g.of(api.NodeMissing, log2p(c.MissingBytes))
}

// loadBins fills the node's load.
func (g *Grid) loadBins(to *api.Bins, c *api.Candidate) {
	to[api.NodeLoad] = 0
	if c.Slots > 0 {
		to[api.NodeLoad] = g.of(api.NodeLoad, float64(c.Running)/float64(c.Slots))
	}
}

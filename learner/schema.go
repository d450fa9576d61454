package learner

import (
	"fmt"
	"math"
	"slices"

	"github.com/rubato-faas/rubato/api"
)

// The grid that features are quantised on is frozen per epoch: a row means the same to everybody who knows its epoch. Epoch
// 0 is zoneGrid, evenly spaced over what is possible. Zones count how many of their rows fall into each bin (a Sketch) and
// send it with their scorecards; sketches of one epoch add up. When the sum says that one bin holds a large share of the
// rows, the merge makes the next epoch's grid, with narrow bins where the rows are, and puts it into the manifest. A zone
// that adopts the manifest moves its window by the bins' midpoints and its trees by their thresholds, and goes on; rows of
// calls that were decided before are moved alike when they complete.

// Sketch counts rows by feature and bin on the grid of an epoch.
type Sketch struct {
	Epoch uint32
	// Counts hold api.MaxBins per feature; nil: nothing is counted.
	Counts []uint32
}

const (
	sketchLen = int(api.NumFeatures) * api.MaxBins
	// sketchMax halves a feature's counts: old rows fade.
	sketchMax = 1 << 28
	// gridRows and gridAge are from how many counted rows and versions of the pool on there may be another grid.
	gridRows, gridAge = 8192, 8
	// gridFull is the share of rows in one bin that calls for another grid.
	gridFull = .1
	// gridFinest is the narrowest bin that may still be divided, as a share of the first grid's bins: what it holds may be
	// one value.
	gridFinest = 1. / 32
	// gridEven is the share of bins that stay evenly spaced, for values to come.
	gridEven = .5
)

// continuous reports whether bins of f may be moved; the others number things.
func continuous(f api.Feature) bool {
	switch f {
	case api.RuntimeClass, api.HourOfDay, api.NodeSandbox, api.NodeClass:
		return false
	}
	return true
}

// sketch counts the window.
func (e *ensemble) sketch(w *window) Sketch {
	s := Sketch{Epoch: e.grid.epoch, Counts: make([]uint32, sketchLen)}
	for k := range w.len() {
		for f, b := range w.rows[w.back(k)][:api.NumFeatures] {
			s.Counts[f*api.MaxBins+int(b)]++
		}
	}
	return s
}

func (s *Sketch) write(w *writer) {
	w.u64(uint64(s.Epoch))
	w.pack(s.Counts)
}

func readSketch(r *reader) Sketch {
	epoch := r.u64()
	s := Sketch{Epoch: uint32(epoch), Counts: unpack[uint32](r, sketchLen)}
	r.check(epoch <= math.MaxUint32 && (len(s.Counts) == 0 || len(s.Counts) == sketchLen), "sketch")
	if len(s.Counts) == 0 {
		s.Counts = nil
	}
	return s
}

// add takes another sketch of the same epoch.
func (s *Sketch) add(o *Sketch) {
	if len(o.Counts) != sketchLen || o.Epoch != s.Epoch {
		return
	}
	if s.Counts == nil {
		s.Counts = make([]uint32, sketchLen)
	}
	for i, n := range o.Counts {
		s.Counts[i] += min(n, sketchMax)
	}
	for f := range int(api.NumFeatures) {
		if c := s.Counts[f*api.MaxBins:][:api.MaxBins]; slices.Max(c) > sketchMax {
			for b := range c {
				c[b] /= 2
			}
		}
	}
}

// nextGrid is the grid of the epoch after g's, nil while g will do.
func nextGrid(g *Grid, s *Sketch) *Grid {
	if s.Counts == nil || s.Epoch != g.epoch {
		return nil
	}
	edges := slices.Clone(g.edges)
	full := false
	for f := range api.NumFeatures {
		c := s.Counts[int(f)*api.MaxBins:][:api.MaxBins]
		if continuous(f) && crowded(g.edges[f], c, finest(f)) {
			full = true
		}
		if continuous(f) {
			edges[f] = respaced(g.edges[f], c)
		}
	}
	if !full {
		return nil
	}
	return newGrid(g.epoch+1, edges)
}

// finest is the narrowest bin of f that is still divided.
func finest(f api.Feature) float64 {
	e := zoneGrid.edges[f]
	return gridFinest * float64(e[len(e)-1]-e[0]) / float64(len(e)-1)
}

// crowded reports whether a bin between edges holds too much.
func crowded(edges []float32, counts []uint32, finest float64) bool {
	var all uint64
	for _, n := range counts[1:] {
		all += uint64(n)
	}
	if all < gridRows {
		return false
	}
	for k := 1; k < len(edges); k++ {
		if float64(counts[k+1]) > gridFull*float64(all) && float64(edges[k]-edges[k-1]) > finest {
			return true
		}
	}
	return false
}

// respaced are as many edges between the same ends: half of them follow the rows, which are taken to lie evenly within their
// bins, half are spaced evenly.
func respaced(edges []float32, counts []uint32) []float32 {
	n := len(edges)
	lo, hi := float64(edges[0]), float64(edges[n-1])
	inner := 0.
	for k := 1; k < n; k++ {
		inner += float64(counts[k+1])
	}
	if inner == 0 || !(hi > lo) {
		return edges
	}
	out := []float32{edges[0]}
	sum, k := 0., 0 // mass below edge k
	mass := func(k int) float64 {
		return gridEven*float64(edges[k+1]-edges[k])/(hi-lo) + (1-gridEven)*float64(counts[k+2])/inner
	}
	for i := 1; i < n-1; i++ {
		want := float64(i) / float64(n-1)
		for k < n-2 && sum+mass(k) < want {
			sum += mass(k)
			k++
		}
		part := min(max((want-sum)/max(mass(k), 1e-12), 0), 1)
		if x := edges[k] + float32(part)*(edges[k+1]-edges[k]); x > out[len(out)-1] && x < edges[n-1] {
			out = append(out, x)
		}
	}
	return append(out, edges[n-1])
}

// same reports whether g is o: after a roll-back of the pool two grids may bear one number.
func (g *Grid) same(o *Grid) bool {
	return g == o || g.epoch == o.epoch && slices.EqualFunc(g.edges, o.edges, func(a, b []float32) bool { return slices.Equal(a, b) })
}

// write writes a grid; that of epoch 0 is known.
func (g *Grid) write(w *writer) {
	w.u64(uint64(g.epoch))
	if g.epoch == 0 {
		return
	}
	for f, e := range g.edges {
		if continuous(api.Feature(f)) {
			w.pack(e)
		}
	}
}

// readGrid reads and checks a zone's grid.
func readGrid(r *reader) *Grid {
	epoch := r.u64()
	if epoch == 0 || r.err != nil {
		return zoneGrid
	}
	r.check(epoch <= math.MaxUint32, "epoch of a grid")
	edges := slices.Clone(zoneGrid.edges)
	for f := range api.NumFeatures {
		if !continuous(f) {
			continue
		}
		e := unpack[float32](r, maxEdges)
		ok := len(e) >= 2
		for k := 1; ok && k < len(e); k++ {
			ok = e[k] > e[k-1]
		}
		z := zoneGrid.edges[f]
		if r.check(ok && e[0] == z[0] && e[len(e)-1] == z[len(z)-1], "edges of a grid"); r.err != nil {
			return zoneGrid
		}
		edges[f] = e
	}
	return newGrid(uint32(epoch), edges)
}

// AdoptGrid moves the learner to the grid of a manifest, nil for the first one. It belongs to the record of the adoption and
// comes before Adopt.
func (l *Learner) AdoptGrid(g *Grid) {
	if g == nil {
		g = zoneGrid
	}
	old := l.ens.grid
	if g.same(old) {
		return
	}
	l.last = nil
	l.former = old
	for k := range l.win.len() {
		old.rebin(&l.win.rows[l.win.back(k)], g)
	}
	l.ens.regrid(g)
}

// onGrid moves a row that was quantised on the grid of an epoch to the present one.
func (l *Learner) onGrid(x *row, epoch uint32) error {
	switch {
	case epoch == l.ens.grid.epoch:
		return nil
	case l.former != nil && epoch == l.former.epoch:
		l.former.rebin(x, l.ens.grid)
		return nil
	}
	return fmt.Errorf("%w: row of grid epoch %d, want %d", api.ErrInvalid, epoch, l.ens.grid.epoch)
}

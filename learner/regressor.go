package learner

import (
	"fmt"
	"math"
	"slices"

	"github.com/rubato-faas/rubato/api"
)

// Regressor is the forest over plain columns: the same trees, horizons, gate and drift reaction that a zone uses, for
// streams whose columns mean nothing to it. It judges the algorithm on public data. Not safe for concurrent use.
type Regressor struct {
	win    window
	ens    ensemble
	sample sampler
	grid   *Grid
	x      row
	p      prediction
	ready  bool // p belongs to x
	fixed  bool // the grid was given
	// gridDue: the grid is to be made anew before the next row.
	gridDue bool
	mean    ew // of the target, for the first rows
}

// NewRegressor makes a forest over width columns (1-32).
func NewRegressor(cfg Config, width int) (*Regressor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("learner config: %w", err)
	}
	if width < 1 || width > maxFeatures {
		return nil, fmt.Errorf("%w: %d columns: want 1-%d", api.ErrInvalid, width, maxFeatures)
	}
	r := &Regressor{win: newWindow(cfg.Window), sample: newSampler(cfg.Seed, width)}
	r.grid = newGrid(0, make([][]float32, width))
	r.ens.init(cfg, r.grid)
	return r, nil
}

// NewRegressorOn makes one with a grid that does not change, as the zones of a federation share one.
func NewRegressorOn(cfg Config, g *Grid) (*Regressor, error) {
	r, err := NewRegressor(cfg, len(g.edges))
	if err == nil {
		r.grid, r.fixed = g, true
		r.ens.init(cfg, g)
	}
	return r, err
}

// GridOf makes a grid from a uniform sample of rows, width values each.
func GridOf(seed uint64, width int, rows []float64) *Grid {
	s := newSampler(seed, width)
	for i := 0; i+width <= len(rows); i += width {
		s.add(rows[i : i+width])
	}
	return s.grid()
}

// Export grows trees for other zones, as Learner.Export; rows have no tenants here.
func (r *Regressor) Export(max int) []*Tree {
	r.settle()
	return r.ens.export(&r.win, max, 1)
}

// Scorecard judges the pool, as Learner.Scorecard.
func (r *Regressor) Scorecard() Scorecard { return r.ens.scorecard(&r.win, r.win.total) }

// Adopt takes the pool, as Learner.Adopt.
func (r *Regressor) Adopt(version uint64, trees []*Tree) {
	r.ready = false
	r.ens.adopt(&r.win, version, trees)
}

// Base are the own base trees as trees of a pool, with their leaves as they are now.
func (r *Regressor) Base() []*Tree {
	var out []*Tree
	for i := range r.ens.own {
		t := &r.ens.own[i]
		if !t.alive() {
			continue
		}
		leaf := slices.Clone(t.leaf)
		for k := range leaf {
			leaf[k].N = max(leaf[k].N, 1)
		}
		if x, err := newTree(r.ens.cfg.Zone, t.born, r.grid, t.shape, leaf); err == nil {
			out = append(out, x)
		}
	}
	return out
}

// Committee is a set of trees that vote with fixed weights, whatever they are worth: what federations by union do.
type Committee struct {
	grid    *Grid
	trees   []pooled
	weights []float64
	total   float64
}

// NewCommittee makes an empty one on a grid.
func NewCommittee(g *Grid) *Committee { return &Committee{grid: g} }

// Add gives trees the same weight each.
func (c *Committee) Add(trees []*Tree, weight float64) {
	for _, t := range trees {
		c.trees, c.weights, c.total = append(c.trees, pool(t, c.grid)), append(c.weights, weight), c.total+weight
	}
}

// Predict is the weighted mean.
func (c *Committee) Predict(x []float64) float64 {
	var r row
	for f := range c.grid.edges {
		r[f] = c.grid.bin(f, x[f])
	}
	sum := 0.
	for i := range c.trees {
		sum += c.weights[i] * c.trees[i].says(&r)
	}
	return sum / max(c.total, 1e-300)
}

// Predict returns the mean and the spread expected of the target at x; known is false before anything was learned.
func (r *Regressor) Predict(x []float64) (mean, spread float64, known bool) {
	r.settle()
	r.quantise(x)
	r.p = r.ens.predict(&r.x)
	if !r.p.known {
		r.p.mu = r.mean.Mean
	}
	r.ready = true
	return r.p.mu, math.Sqrt(r.p.variance + .25*r.ens.absErr.Mean*r.ens.absErr.Mean), r.p.known
}

// Learn takes the true target of x. When x is what Predict saw last, that prediction is the one that is judged.
func (r *Regressor) Learn(x []float64, y float64) {
	r.settle()
	before := r.x
	if r.quantise(x); !r.ready || r.x != before {
		r.p = r.ens.predict(&r.x)
	}
	r.ready = false
	r.mean.add(y, 64)
	r.sample.add(x)
	r.ens.learn(&r.win, r.x, y, r.p, 0)
	r.gridDue = r.gridDue || !r.fixed && gridDue(r.win.total)
}

// Build makes the grid that is due and grows the trees that are due next, instead of leaving them to the next Predict or
// Learn: for measuring it apart.
func (r *Regressor) Build() {
	r.settle()
	for _, j := range r.ens.drawn(&r.win) {
		j.Build()
	}
}

// settle makes the grid that is due.
func (r *Regressor) settle() {
	if r.gridDue && len(r.ens.batch.jobs) <= 1 {
		r.gridDue, r.ready = false, false
		r.regrid()
	}
}

func (r *Regressor) quantise(x []float64) {
	for f := range r.grid.edges {
		r.x[f] = r.grid.bin(f, x[f])
	}
}

// gridDue: the grid of a stream follows what is known of its columns while that is little.
func gridDue(rows uint64) bool {
	return rows >= 16 && (rows&(rows-1) == 0 || rows%3 == 0 && (rows/3)&(rows/3-1) == 0)
}

// regrid makes a new grid from the sample and moves window and trees onto it.
func (r *Regressor) regrid() {
	old := r.grid
	r.grid = r.sample.grid()
	for k := range r.win.len() {
		at := r.win.back(k)
		if raw := r.sample.raw(r.win.total - 1 - uint64(k)); raw != nil {
			for f := range r.grid.edges {
				r.win.rows[at][f] = r.grid.bin(f, float64(raw[f]))
			}
			continue
		}
		old.rebin(&r.win.rows[at], r.grid)
	}
	r.ens.regrid(r.grid)
}

// rebin moves a row to another grid by the midpoints of its bins.
func (g *Grid) rebin(x *row, to *Grid) {
	for f := range g.edges {
		x[f] = to.bin(f, g.mid(f, x[f]))
	}
}

// mid is a value inside a bin: the middle between its edges, or just beyond the outermost one.
func (g *Grid) mid(f int, b uint8) float64 {
	e := g.edges[f]
	switch k := int(b); {
	case b == 0:
		return math.NaN()
	case len(e) == 0:
		return 0
	case k == 1:
		return float64(e[0]) - 1e-3*(1+math.Abs(float64(e[0])))
	case k > len(e):
		return float64(e[len(e)-1])
	default:
		return (float64(e[k-2]) + float64(e[k-1])) / 2
	}
}

// moved is a split's bin on another grid.
func (g *Grid) moved(f int, b uint8, to *Grid) uint8 { return to.splitBin(f, g.threshold(f, b)) }

func (e *ensemble) regrid(g *Grid) {
	for stage, set := range [][]local{e.own, e.resid} {
		for i := range set {
			if !set[i].alive() {
				continue
			}
			shape := slices.Clone(set[i].shape)
			for k := range shape {
				if s := &shape[k]; s.feat != leafMark {
					s.bin = e.grid.moved(int(s.feat), s.bin, g)
				}
			}
			set[i].shape = shape
			set[i].digest = localDigest(stage*len(e.own)+i, &set[i])
		}
	}
	for i := range e.pool {
		e.pool[i] = pool(e.pool[i].Tree, g)
	}
	e.grid = g
	e.beginAgain()
}

// sampler keeps a uniform sample of the rows (the sampleRows with the smallest hashes) and the first rows whole. Two
// samples merge into one of the union by keeping the smallest hashes again. Values are exact, which sketches with a
// relative error are not: they fold a column like 2011, 2012, 2013 into one bucket.
type sampler struct {
	seed  uint64
	width int
	n     uint64
	hash  []uint64 // a max-heap, with rows beside it
	rows  []float32
	early []float32
}

const sampleRows = 4096

func newSampler(seed uint64, width int) sampler { return sampler{seed: seed, width: width} }

func (s *sampler) add(x []float64) {
	h := mix(s.seed ^ mix(s.n))
	if s.n < sampleRows {
		for _, v := range x[:s.width] {
			s.early = append(s.early, float32(v))
		}
	}
	s.n++
	if len(s.hash) < sampleRows {
		s.hash = append(s.hash, h)
		for _, v := range x[:s.width] {
			s.rows = append(s.rows, float32(v))
		}
		s.up(len(s.hash) - 1)
		return
	}
	if h >= s.hash[0] {
		return
	}
	s.hash[0] = h
	for f, v := range x[:s.width] {
		s.rows[f] = float32(v)
	}
	s.down(0)
}

func (s *sampler) swap(i, j int) {
	s.hash[i], s.hash[j] = s.hash[j], s.hash[i]
	a, b := s.rows[i*s.width:][:s.width], s.rows[j*s.width:][:s.width]
	for f := range a {
		a[f], b[f] = b[f], a[f]
	}
}

func (s *sampler) up(i int) {
	for ; i > 0 && s.hash[(i-1)/2] < s.hash[i]; i = (i - 1) / 2 {
		s.swap(i, (i-1)/2)
	}
}

func (s *sampler) down(i int) {
	for {
		k := 2*i + 1
		if k >= len(s.hash) {
			return
		}
		if k+1 < len(s.hash) && s.hash[k+1] > s.hash[k] {
			k++
		}
		if s.hash[i] >= s.hash[k] {
			return
		}
		s.swap(i, k)
		i = k
	}
}

// raw is row i as it came, nil when it was not kept.
func (s *sampler) raw(i uint64) []float32 {
	if int(i) >= len(s.early)/s.width {
		return nil
	}
	return s.early[int(i)*s.width:][:s.width]
}

// grid places up to 62 edges a feature: between all distinct values where they are few, else at quantiles.
func (s *sampler) grid() *Grid {
	edges := make([][]float32, s.width)
	vals := make([]float32, 0, len(s.hash))
	for f := range edges {
		vals = vals[:0]
		for i := range s.hash {
			if v := s.rows[i*s.width+f]; v == v {
				vals = append(vals, v)
			}
		}
		slices.Sort(vals)
		edges[f] = edgesOf(vals)
	}
	return newGrid(0, edges)
}

const maxEdges = api.MaxBins - 2

func edgesOf(sorted []float32) []float32 {
	distinct := slices.Compact(slices.Clone(sorted))
	var e []float32
	between := func(a, b float32) float32 {
		m := a/2 + b/2
		if m <= a {
			return b
		}
		return m
	}
	if len(distinct) <= maxEdges+1 {
		for i := 1; i < len(distinct); i++ {
			e = append(e, between(distinct[i-1], distinct[i]))
		}
		return e
	}
	for k := 1; k <= maxEdges; k++ {
		i := k * len(sorted) / (maxEdges + 1)
		j, _ := slices.BinarySearch(distinct, sorted[i])
		if j == 0 {
			continue
		}
		if v := between(distinct[j-1], distinct[j]); len(e) == 0 || v > e[len(e)-1] {
			e = append(e, v)
		}
	}
	return e
}

// Sizes are bytes.
type Sizes struct {
	// Forest is what the trees that predict take on the wire, one object each; Learner is window, trees and what belongs
	// to them, as kept in a checkpoint.
	Forest, Learner int
}

// Sizes measures the forest as it is now.
func (r *Regressor) Sizes() Sizes {
	var s Sizes
	for _, set := range [][]local{r.ens.own, r.ens.resid} {
		for i := range set {
			if !set[i].alive() {
				continue
			}
			if t, err := newTree(r.ens.cfg.Zone, set[i].born, r.grid, set[i].shape, set[i].leaf); err == nil {
				s.Forest += len(EncodeTree(t))
			}
		}
	}
	w := newWriter(checkpointVersion)
	r.win.write(w)
	r.ens.write(w, &r.win)
	s.Learner = w.buf.Len() + 4*len(r.sample.rows) + 8*len(r.sample.hash)
	return s
}

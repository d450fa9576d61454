package learner

import (
	"math"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/assert"
)

// Kind says what a tree is in a forest.
type Kind uint8

const (
	// KindOwn is a base tree grown here, whose leaves still follow the samples.
	KindOwn Kind = iota
	// KindPool is a base tree from the pool, never trained further.
	KindPool
	// KindResidual is a tree of the second stage, always grown here.
	KindResidual
)

var kindNames = [...]string{"own", "pool", "residual"}

func (k Kind) String() string { return kindNames[min(int(k), len(kindNames)-1)] }

// TreeInfo describes a tree without its nodes. Born counts rows of the zone that grew it.
type TreeInfo struct {
	Digest string
	Zone   string
	Kind   Kind
	Born   uint64
}

// Forest is an immutable view of a learner, safe for any number of goroutines.
type Forest struct {
	seed       uint64
	columnsKey uint64 // seed and grid
	version    uint64
	minForest  uint32
	grid       *Grid
	base       []flat
	resid      []flat
	lambda     float64
	floor      float64 // of sigma, squared
	guarded    bool

	fns   table[fnStat]
	nodes table[nodeStat]
	pairs table[nodeStat]
	rts   [runtimeClasses]rtStat
	fetch cell
	zone  zoneQuantiles
	young zoneQuantiles
	infos []TreeInfo
}

// flat is a tree ready to predict. Shapes are shared with the learner, leaves are copied: they change in place.
type flat struct {
	shape  []split
	leaf   []leafOut
	weight float64
}

// Snapshot is a view of the learner as it is now. It copies leaves (about 400 KB at full size) and shares the rest;
// without a record since the last call it returns the same Forest again.
func (l *Learner) Snapshot() *Forest {
	if l.last != nil {
		return l.last
	}
	e := &l.ens
	f := &Forest{
		seed: l.cfg.Seed, columnsKey: columnsKeyOf(l.cfg.Seed, e.grid), version: e.version, grid: e.grid, minForest: uint32(l.cfg.MinForest), lambda: e.lambda,
		floor: .25 * e.absErr.Mean * e.absErr.Mean, guarded: l.guarded,
		fns: l.fns.share(), nodes: l.nodes.share(), pairs: l.pairs.share(), rts: l.rts, fetch: l.fetch,
	}
	f.zone, f.young = quantilesOf(&l.zoneBound), quantilesOf(&l.youngBound)
	for k, c := range e.picks {
		if c.pool {
			t := &e.pool[c.i]
			f.base = append(f.base, flat{t.at, t.leaf, e.weights[k]})
			f.infos = append(f.infos, t.Info())
		} else {
			f.base = append(f.base, e.own[c.i].flat(e.weights[k]))
			f.infos = append(f.infos, e.own[c.i].info(l.cfg.Zone, KindOwn))
		}
	}
	for i := range e.resid {
		if t := &e.resid[i]; t.alive() {
			f.resid = append(f.resid, t.flat(0))
			f.infos = append(f.infos, t.info(l.cfg.Zone, KindResidual))
		}
	}
	for i := range f.resid {
		f.resid[i].weight = f.lambda / float64(len(f.resid))
	}
	l.last = f
	return f
}

func (t *local) flat(weight float64) flat {
	out := make([]leafOut, len(t.leaf))
	for i := range t.leaf {
		out[i] = leafOut{t.leaf[i].Mean, t.leaf[i].variance()}
	}
	return flat{t.shape, out, weight}
}

func (t *local) info(zone string, kind Kind) TreeInfo {
	return TreeInfo{Digest: t.digest, Zone: zone, Kind: kind, Born: t.born}
}

// Version is the pool manifest's version in use, 0 for none.
func (f *Forest) Version() uint64 { return f.version }

// Trees describes the trees that predict: base trees first, then residual ones. The slice is the caller's.
func (f *Forest) Trees() []TreeInfo { return append([]TreeInfo(nil), f.infos...) }

// UsesForeign reports whether a tree that zone gave to the pool takes part in estimates.
func (f *Forest) UsesForeign(zone string) bool {
	for i := range f.infos {
		if f.infos[i].Kind == KindPool && f.infos[i].Zone == zone {
			return true
		}
	}
	return false
}

// block is how many candidates are scored at a time: tree outer, candidates inner, so that a tree stays in the cache.
const block = 128

// Estimate fills out[i] for cands[i]; out must be at least as long. It allocates nothing.
func (f *Forest) Estimate(req *api.Request, cands []api.Candidate, out []api.Estimate) {
	f.estimate(req, cands, out, nil)
}

// estimate works in s, if there is one.
func (f *Forest) estimate(req *api.Request, cands []api.Candidate, out []api.Estimate, s *Scratch) {
	if len(out) < len(cands) { // apart, because the arguments of a message would be allocated each time
		assert.That(false, "learner: %d estimates for %d candidates", len(out), len(cands))
	}
	fn := hash(f.seed, req.Function)
	st := f.fns.get(fn)
	var bins api.Bins
	f.grid.requestBins(&bins, req, st)
	class := runtimeClass(req.Runtime)
	avg := averagesOf(st, &f.rts[class], &f.fetch, class, req.InputBytes)
	// What candidates share is computed once per run of equal ones: logarithms are most of what this loop costs.
	var like *api.Candidate
	var mu float64
	var own api.NodeColumns
	for i := range cands {
		c := &cands[i]
		same := like != nil && like.Sandbox == c.Sandbox && like.MissingBytes == c.MissingBytes && like.LinkMbps == c.LinkMbps
		if !same {
			mu = avg.of(c.Sandbox, c.MissingBytes, c.LinkMbps)
		}
		out[i] = api.Estimate{Bins: bins, Grid: f.grid.epoch, Mu: mu, AveragesMu: mu, Sigma: avg.sigma}
		if avg.known {
			out[i].Source = api.SourceAverages
		}
		if same {
			copy(out[i].Bins[api.NodeSandbox:], out[i-1].Bins[api.NodeSandbox:])
		} else {
			f.grid.nodeBins(&out[i].Bins, c)
		}
		k := c.Columns
		if k == nil {
			own = api.NodeColumns{}
			f.Columns(c, &own)
			k = &own
		}
		f.grid.loadBins(&out[i].Bins, c)
		f.columnBins(&out[i].Bins, fn, k)
		like = c
	}
	if st != nil && st.Count >= f.minForest && !f.guarded && len(f.base) > 0 {
		if s != nil {
			f.scoreSpecial(out[:len(cands)], s)
		} else {
			f.Score(out[:len(cands)])
		}
	}
	alpha := classOf(req.Alpha)
	zone := &f.young
	if st != nil && st.Count >= f.minForest {
		zone = &f.zone
	}
	for i := range cands {
		e := &out[i]
		e.UpperMs = math.Inf(1)
		if q := zone.said(st, bit(cands[i].Delayed), alpha); e.Source != api.SourceNone && q < noBound {
			e.UpperMs = math.Exp(e.Mu + float64(q)*e.Sigma)
		}
	}
}

// columnsKeyOf stands for all that a node's columns are made with, but for what is learned of the node.
func columnsKeyOf(seed uint64, g *Grid) uint64 { return max(mix(g.columnsKey^mix(seed)), 1) }

// Columns quantises what f knows of a candidate's node whatever the call. to is empty, or what another forest made of the same node: a
// forest is published every few dozen completions, and mostly only the residual differs.
func (f *Forest) Columns(c *api.Candidate, to *api.NodeColumns) {
	if to.Key != f.columnsKey {
		*to = api.NodeColumns{Key: f.columnsKey, Hash: hash(f.seed, c.Node), Link: f.grid.of(api.NodeLink, log2OrMissing(c.LinkMbps))}
		if c.Class > 0 && c.Class < 62 {
			to.Class = f.grid.of(api.NodeClass, float64(c.Class))
		}
	}
	to.Residual = 0
	if s := f.nodes.get(to.Hash); s != nil {
		to.Residual = f.grid.of(api.NodeResidual, float64(s.Mean))
	}
}

// columnBins fills a node's columns, and what is known of the function there beyond them.
func (f *Forest) columnBins(to *api.Bins, fn uint64, k *api.NodeColumns) {
	to[api.NodeClass], to[api.NodeLink], to[api.NodeResidual], to[api.FnNodeResidual] = k.Class, k.Link, k.Residual, 0
	if s := f.pairs.get(pairKey(fn, k.Hash)); s != nil {
		to[api.FnNodeResidual] = f.grid.of(api.FnNodeResidual, float64(s.Mean))
	}
}

// Score adds what the forest says to estimates whose Bins are set and whose Mu is AveragesMu: Estimate without finding out
// the features. All of out must share one request side. It walks every tree.
func (f *Forest) Score(out []api.Estimate) {
	for i := 0; i < len(out); i += block {
		f.score(out[i:min(i+block, len(out))])
	}
}

// score predicts up to block rows, which are in out[i].Bins. The variance is that within leaves, that between
// trees, and half the forest's recent error squared as a floor: without it bounds of tight leaves were far too low.
func (f *Forest) score(out []api.Estimate) {
	var all sums
	var rows [block]row
	for i := range out {
		copy(rows[i][:], out[i].Bins[:])
	}
	walkForest(f.base, &rows, len(out), &all)
	for i := range out {
		out[i].Source, out[i].Sigma = api.SourceForest, f.sigma(&all[i])
	}
	if f.lambda > 0 {
		walkForest(f.resid, &rows, len(out), &all)
	}
	for i := range out {
		out[i].Mu += all[i].mean
	}
}

func (f *Forest) sigma(s *weighed) float64 {
	return math.Sqrt(max(s.second-s.mean*s.mean, 0) + f.floor + 1e-6)
}

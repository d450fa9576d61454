package learner

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/rubato-faas/rubato/api"
)

// Candidates of one request differ in node features only. So a forest can be specialised to a request: what tests
// request features is decided, and what remains of each tree, usually 20-50 leaves, becomes tables of masks
// (QuickScorer, Lucchese et al., SIGIR 2015, turned into a look-up): for each node feature and bin the leaves that can
// still be reached; the leaf is the lowest bit of their conjunction. No branch depends on a candidate.
//
// That pays where a request comes again and again: the first time, candidates walk together (together.go). It is specialised
// to the bins that candidates have had of late, not to all that there could be, which is most of the work, and of the memory: a table has
// one mask for each of those bins, and all tables of a specialised forest stand one after the other, in some 20 KB that a core's nearer
// caches keep. Candidates with other bins have it made anew.
//
// Cost sketch, 48 trees of 512 leaves: specialising visits 1,300-2,800 nodes in full and about half of that to the usual bins, 20-30 us;
// a candidate then costs some 150 loads, 100-150 ns. Walking costs 48 x 11 steps, four walks at a time, 1.1 us.

const (
	nodeFeatures = int(api.NumFeatures - api.FirstNodeFeature)
	maxMaskBits  = 64
)

// maskTree is a tree specialised for one request. Its tables and leaves stand in its special's.
type maskTree struct {
	whole  *flat
	walked bool                // more than 64 leaves remain
	said   int32               // where its leaves begin
	uses   uint8               // how many node features it tests
	used   [nodeFeatures]uint8 // which, in order of first use
	table  [nodeFeatures]int32 // where their tables begin, in the same order
}

// weighed is what a leaf adds to the sums, times the tree's weight: its mean, and the second moment about zero (mean squared
// plus variance), so that the sums give the variance within leaves and between trees together.
type weighed struct{ mean, second float64 }

func (l *leafOut) weighed(w float64) weighed {
	v := float64(l.Mean)
	// Each product is rounded: fused with the sum that it goes into, it would depend on whether a table kept it (float64 forbids that).
	return weighed{float64(w * v), float64(w * (float64(v*v) + float64(l.Variance)))}
}

// scope is which bins of each node feature candidates have: bit b for bin b.
type scope [nodeFeatures]uint64

// anything is the scope of all candidates that there could be.
var anything = func() (s scope) {
	for k := range s {
		s[k] = ^uint64(0)
	}
	return s
}()

// scopeOf is the scope of candidates. Of many it is not worth the look at each.
func scopeOf(out []api.Estimate) scope {
	if len(out) > block {
		return anything
	}
	var s scope
	for i := range out {
		b := (*[nodeFeatures]uint8)(out[i].Bins[api.FirstNodeFeature:])
		for k := range s {
			s[k] |= 1 << (b[k] & 63)
		}
	}
	return s
}

// add takes what o has, too.
func (s *scope) add(o *scope) {
	for k := range s {
		s[k] |= o[k]
	}
}

// covers reports whether all that o has is in s.
func (s *scope) covers(o *scope) bool {
	out := uint64(0)
	for k := range s {
		out |= o[k] &^ s[k]
	}
	return out == 0
}

// rank is the place of bin b among those that feature k's table has.
func (s *scope) rank(k int, b uint8) uint8 {
	return uint8(bits.OnesCount64(s[k] & (1<<(b&63) - 1)))
}

// bins is how many bins feature k's table has.
func (s *scope) bins(k uint8) int { return bits.OnesCount64(s[k]) }

// add specialises a tree to the request side and the scope of s. Each leaf but the last ends the left subtree of one pending
// split: that split's mask takes those leaves away from all bins that go right.
func (s *special) add(m *maskTree, f *flat) {
	*m = maskTree{whole: f, said: int32(s.leaves)}
	type pending struct {
		table, rank, first uint8
		right              uint16
	}
	var stack [MaxTreeDepth + 1]pending
	var at [nodeFeatures]uint8 // 1 + index into used
	masks := s.cells
	if short := s.leaves + maxMaskBits - len(s.said); short > 0 {
		s.said = append(s.said, make([]weighed, max(short, len(s.said)))...)
	}
	said := (*[maxMaskBits]weighed)(s.said[s.leaves:])
	depth, leaves, i := 0, 0, 0
	for {
		n := f.shape[i]
		switch {
		case n.feat < uint8(api.FirstNodeFeature):
			if i++; s.x[n.feat] > n.bin {
				i = int(n.next)
			}
		case n.feat != leafMark:
			k := n.feat - uint8(api.FirstNodeFeature)
			has := s.in[k]
			below := has & (^uint64(0) >> (63 - n.bin&63))
			if below == 0 { // all go right
				i = int(n.next)
				continue
			}
			if below == has { // all go left
				i++
				continue
			}
			if at[k] == 0 {
				s.open(m, k)
				at[k] = m.uses
			}
			stack[depth] = pending{at[k] - 1, uint8(bits.OnesCount64(below)), uint8(leaves), n.next}
			depth++
			i++
		default:
			if leaves == maxMaskBits {
				m.walked, s.cells = true, masks
				return
			}
			said[leaves] = f.leaf[n.next].weighed(f.weight)
			leaves++
			if depth == 0 {
				s.leaves += leaves
				s.close(m)
				return
			}
			depth--
			p := stack[depth]
			s.masks[int(m.table[p.table])+int(p.rank)] &^= ^uint64(0) << p.first & (^uint64(0) >> (maxMaskBits - leaves))
			i = int(p.right)
		}
	}
}

// open begins m's table of a feature.
func (s *special) open(m *maskTree, feature uint8) {
	m.used[m.uses], m.table[m.uses] = feature, int32(s.cells)
	m.uses++
	end := s.cells + s.in.bins(feature)
	if short := end + api.MaxBins - len(s.masks); short > 0 { // a table is looked at as if it were full
		s.masks = append(s.masks, make([]uint64, max(short, len(s.masks)))...)
	}
	for i := s.cells; i < end; i++ {
		s.masks[i] = ^uint64(0)
	}
	s.cells = end
}

// close makes each bin's mask the conjunction of those at and below it: whoever goes right at b does so at every bin
// above.
func (s *special) close(m *maskTree) {
	for u := range m.uses {
		t := s.masks[m.table[u]:][:s.in.bins(m.used[u])]
		mask := t[0]
		for b := 1; b < len(t); b++ {
			mask &= t[b]
			t[b] = mask
		}
	}
}

// columns are the node sides of up to block candidates, feature after feature, as ranks within a scope.
type columns [nodeFeatures][block]uint8

// column is m's u-th feature of n candidates, and its table.
func (s *special) column(m *maskTree, cols *columns, u uint8, n int) ([]uint8, *[api.MaxBins]uint64) {
	return cols[m.used[u]][:n], (*[api.MaxBins]uint64)(s.masks[m.table[u]:])
}

// sums are those of Forest.score.
type sums [block]weighed

// say adds what tree m says of the first n candidates: of the leaves that one can reach, the lowest bit is its own. Most trees
// test up to three node features, which are looked up in one go; of more, the others come before, one by one.
func (s *special) say(m *maskTree, cols *columns, n int, to *sums, masks *[block]uint64) {
	said, sum := (*[maxMaskBits]weighed)(s.said[m.said:]), to[:n]
	switch m.uses {
	case 0:
		for i := range sum {
			sum[i].add(&said[0])
		}
		return
	case 1:
		c, t := s.column(m, cols, 0, n)
		for i, b := range c {
			sum[i].add(&said[bits.TrailingZeros64(t[b&63])&63])
		}
		return
	case 2:
		c, t := s.column(m, cols, 0, n)
		d, v := s.column(m, cols, 1, n)
		for i, b := range c {
			sum[i].add(&said[bits.TrailingZeros64(t[b&63]&v[d[i]&63])&63])
		}
		return
	}
	c, t := s.column(m, cols, m.uses-3, n)
	d, v := s.column(m, cols, m.uses-2, n)
	e, w := s.column(m, cols, m.uses-1, n)
	if m.uses == 3 {
		for i, b := range c {
			sum[i].add(&said[bits.TrailingZeros64(t[b&63]&v[d[i]&63]&w[e[i]&63])&63])
		}
		return
	}
	left := masks[:n]
	for i := range left {
		left[i] = ^uint64(0)
	}
	for u := range m.uses - 3 {
		c, t := s.column(m, cols, u, n)
		for i, b := range c {
			left[i] &= t[b&63]
		}
	}
	for i, b := range c {
		sum[i].add(&said[bits.TrailingZeros64(left[i]&t[b&63]&v[d[i]&63]&w[e[i]&63])&63])
	}
}

func (s *weighed) add(l *weighed) {
	s.mean += l.mean
	s.second += l.second
}

// walk does the same for a tree of which too much remains.
func (m *maskTree) walk(out []api.Estimate, to *sums) {
	var x row
	for i := range out {
		copy(x[:], out[i].Bins[:])
		l := m.whole.leaf[walk(m.whole.shape, &x)].weighed(m.whole.weight)
		to[i].add(&l)
	}
}

// special is a whole forest specialised for one request.
type special struct {
	f      *Forest
	x      row // request side, zero elsewhere
	in     scope
	trees  []maskTree
	base   int       // how many of trees are base trees
	masks  []uint64  // tables of all trees
	cells  int       // of masks, in use
	said   []weighed // leaves of all trees
	leaves int       // of said, in use
	stamp  uint64
}

func (s *special) build(f *Forest, x *row, in *scope) {
	s.f, s.x, s.in, s.base, s.cells, s.leaves = f, *x, *in, len(f.base), 0, 0
	resid := f.resid
	if f.lambda == 0 {
		resid = nil
	}
	n := len(f.base) + len(resid)
	s.trees = slices.Grow(s.trees[:0], n)[:n]
	for i := range f.base {
		s.add(&s.trees[i], &f.base[i])
	}
	for i := range resid {
		s.add(&s.trees[len(f.base)+i], &resid[i])
	}
}

// score is Forest.score: the same sums in the same order.
func (s *special) score(out []api.Estimate, mu, sigma *[block]float64) {
	var cols columns
	for i := range out {
		b := (*[nodeFeatures]uint8)(out[i].Bins[api.FirstNodeFeature:])
		for k := range nodeFeatures {
			cols[k][i] = s.in.rank(k, b[k])
		}
	}
	var all sums
	var masks [block]uint64
	sum := func(trees []maskTree) {
		for k := range trees {
			if t := &trees[k]; t.walked {
				t.walk(out, &all)
			} else {
				s.say(t, &cols, len(out), &all, &masks)
			}
		}
	}
	sum(s.trees[:s.base])
	for i := range out {
		sigma[i] = s.f.sigma(&all[i])
	}
	sum(s.trees[s.base:])
	for i := range out {
		mu[i] = all[i].mean
	}
}

// cacheSlots bounds the specialised forests that a Scratch keeps.
const cacheSlots = 16

// Scratch is the memory in which an Estimator works and remembers specialised forests. One goroutine at a time.
type Scratch struct {
	slots        []special
	clock        uint64
	seen         [seenSlots]sight
	forest       *Forest // of the last request
	forests      uint64  // how often that was another one
	met, before  scope   // bins that candidates have had since clock was last a multiple of metFor, and before
	below        below
	Hits, Misses uint64
}

// sight is when a request was last asked for, by its hash.
type sight struct{ hash, at uint64 }

const (
	seenSlots = 256
	metFor    = 1024
)

// NewScratch has room for usual forests; what a larger one needs is allocated once a slot.
func NewScratch() *Scratch {
	s := &Scratch{slots: make([]special, cacheSlots)}
	for i := range s.slots {
		c := &s.slots[i]
		c.trees, c.masks, c.said = make([]maskTree, 0, MaxTrees), make([]uint64, 8192), make([]weighed, 4096)
	}
	return s
}

// of is f specialised for the request side of x and n candidates within in. A request like a recent one finds it ready. For one that comes
// again it is made, in the place of a forest that was not asked for since; else nil, unless the candidates are too many to walk together.
// So where more requests come in turn than are remembered, some stay and the others walk, instead of pushing out each other.
func (s *Scratch) of(f *Forest, x *row, in *scope, n int) *special {
	if s.clock%metFor == 0 {
		s.before, s.met = s.met, scope{}
	}
	s.clock++
	if n <= block { // else in is anything
		s.met.add(in)
	}
	slot, again := &s.slots[0], false
	for i := range s.slots {
		c := &s.slots[i]
		if c.f == f && c.x == *x {
			if c.in.covers(in) {
				s.Hits++
				c.stamp = s.clock
				return c
			}
			slot, again = c, true
			break
		}
		if c.used(f) < slot.used(f) {
			slot = c
		}
	}
	s.Misses++
	last := s.saw(f, x)
	wide := *in
	switch {
	case again:
		wide.add(&slot.in)
		fallthrough
	case last > slot.used(f):
		wide.add(&s.met)
		wide.add(&s.before)
	case n <= setBits:
		return nil
	}
	slot.build(f, x, &wide)
	slot.stamp = s.clock
	return slot
}

// used is when c was last asked for; 0 for a forest that is not in use any more.
func (c *special) used(f *Forest) uint64 {
	if c.f != f {
		return 0
	}
	return c.stamp
}

// saw notes that x is asked for and returns when it last was, of this forest; 0 for never. Of requests that share a place the last one
// is remembered.
func (s *Scratch) saw(f *Forest, x *row) uint64 {
	if f != s.forest {
		s.forest = f
		s.forests++
	}
	h := s.forests
	for i := 0; i < len(x); i += 8 {
		h = mix(h ^ binary.LittleEndian.Uint64(x[i:]))
	}
	at := &s.seen[h%seenSlots]
	last := at.at
	if at.hash != h {
		last = 0
	}
	*at = sight{h, s.clock}
	return last
}

// has reports whether a specialised forest is ready.
func (s *Scratch) has(f *Forest, x *row, in *scope) bool {
	for i := range s.slots {
		if s.slots[i].f == f && s.slots[i].x == *x {
			return s.slots[i].in.covers(in)
		}
	}
	return false
}

// walkBelow: fewer candidates are walked one by one, which costs less.
const walkBelow = 12

// Estimator is a Forest with a Scratch: the same estimates, bit for bit, quicker where many candidates or many like requests
// are asked for. Several Estimators may share one Scratch on one goroutine; it remembers requests of one forest at a time.
type Estimator struct {
	*Forest
	scratch *Scratch
}

// Estimator binds f to memory.
func (f *Forest) Estimator(s *Scratch) *Estimator { return &Estimator{f, s} }

// Estimate is Forest.Estimate.
func (e *Estimator) Estimate(req *api.Request, cands []api.Candidate, out []api.Estimate) {
	e.estimate(req, cands, out, e.scratch)
}

// Score is Forest.Score.
func (e *Estimator) Score(out []api.Estimate) { e.scoreSpecial(out, e.scratch) }

// scoreSpecial is score in the quickest way for the number of candidates and what s remembers; all of out share one request side.
func (f *Forest) scoreSpecial(out []api.Estimate, s *Scratch) {
	if len(out) == 0 {
		return
	}
	var x row
	copy(x[:api.FirstNodeFeature], out[0].Bins[:])
	in := scopeOf(out)
	if len(out) < walkBelow && !s.has(f, &x, &in) {
		f.score(out)
		return
	}
	sp := s.of(f, &x, &in, len(out))
	if sp == nil {
		f.scoreTogether(out, &s.below)
		return
	}
	var mu, sigma [block]float64
	for from := 0; from < len(out); from += block {
		part := out[from:min(from+block, len(out))]
		sp.score(part, &mu, &sigma)
		for i := range part {
			part[i].Mu, part[i].Sigma, part[i].Source = part[i].Mu+mu[i], sigma[i], api.SourceForest
		}
	}
}

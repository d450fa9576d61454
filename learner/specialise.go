package learner

import (
	"math/bits"

	"github.com/rubato-faas/rubato/api"
)

// Candidates of one request differ in node features only. So a forest is specialised once per request: what tests
// request features is decided, and what remains of each tree, usually 20-50 leaves, becomes tables of masks
// (QuickScorer, Lucchese et al., SIGIR 2015, turned into a look-up): for each node feature and bin the leaves that can
// still be reached; the leaf is the lowest bit of their conjunction. No branch depends on a candidate.
//
// A zone's candidates are often alike in some of their features: same link, same class, few sandbox states. What none of them
// has is left out too, which is most of the work: specialising to forty candidates of one call costs a third of
// specialising to all that there could be. A request that comes again with other candidates is specialised in full.
//
// Cost sketch, 48 trees of 512 leaves: specialising in full visits 1,300-2,800 nodes and fills 150 tables of 512 bytes,
// 20-30 us; a candidate then costs some 150 loads, 100-150 ns. Walking costs 48 x 11 steps, four walks at a time, 1.1 us.

const (
	nodeFeatures = int(api.NumFeatures - api.FirstNodeFeature)
	maxMaskBits  = 64
)

// maskTree is a tree specialised for one request.
type maskTree struct {
	whole  *flat
	walked bool                 // more than 64 leaves remain
	said   [maxMaskBits]weighed // by bit
	used   [nodeFeatures]uint8  // node features that it tests, in order of first use
	uses   int
	tables [nodeFeatures][api.MaxBins]uint64 // by order in used
}

// weighed is what a leaf adds to the sums, times the tree's weight: its mean, and the second moment about zero (mean squared
// plus variance), so that the sums give the variance within leaves and between trees together.
type weighed struct{ mean, second float64 }

func (l *leafOut) weighed(w float64) weighed {
	v := float64(l.Mean)
	return weighed{w * v, w * (v*v + float64(l.Variance))}
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

// covers reports whether all that o has is in s.
func (s *scope) covers(o *scope) bool {
	out := uint64(0)
	for k := range s {
		out |= o[k] &^ s[k]
	}
	return out == 0
}

// build specialises a tree to the request side of x and candidates within in. Each leaf but the last ends the left subtree of
// one pending split: that split's mask takes those leaves away from all bins that go right.
func (m *maskTree) build(f *flat, x *row, in *scope) {
	m.whole, m.walked, m.uses = f, false, 0
	type pending struct {
		table, bin, first uint8
		right             uint16
	}
	var stack [MaxTreeDepth + 1]pending
	var at [nodeFeatures]uint8 // 1 + index into used
	depth, leaves, i := 0, 0, 0
	for {
		s := f.shape[i]
		switch {
		case s.feat < uint8(api.FirstNodeFeature):
			if i++; x[s.feat] > s.bin {
				i = int(s.next)
			}
		case s.feat != leafMark:
			k := s.feat - uint8(api.FirstNodeFeature)
			below := ^uint64(0) >> (63 - s.bin&63)
			if in[k]&below == 0 { // all go right
				i = int(s.next)
				continue
			}
			if in[k]&^below == 0 { // all go left
				i++
				continue
			}
			if at[k] == 0 {
				m.open(k, in[k])
				at[k] = uint8(m.uses)
			}
			stack[depth] = pending{at[k] - 1, s.bin, uint8(leaves), s.next}
			depth++
			i++
		default:
			if leaves == maxMaskBits {
				m.walked = true
				return
			}
			m.said[leaves] = f.leaf[s.next].weighed(f.weight)
			leaves++
			if depth == 0 {
				m.close(in)
				return
			}
			depth--
			p := stack[depth]
			m.tables[p.table][(p.bin+1)&63] &^= ^uint64(0) << p.first & (^uint64(0) >> (maxMaskBits - leaves))
			i = int(p.right)
		}
	}
}

// open begins the table of a feature; only bins from the lowest to the highest of in will be asked for.
func (m *maskTree) open(feature uint8, in uint64) {
	m.used[m.uses] = feature
	t := m.tables[m.uses][bits.TrailingZeros64(in):bits.Len64(in)]
	for b := range t {
		t[b] = ^uint64(0)
	}
	m.uses++
}

// close makes each bin's mask the conjunction of those at and below it: whoever goes right at b does so at every bin
// above.
func (m *maskTree) close(in *scope) {
	for u := range m.uses {
		has := in[m.used[u]]
		t := m.tables[u][bits.TrailingZeros64(has):bits.Len64(has)]
		mask := t[0]
		for b := 1; b < len(t); b++ {
			mask &= t[b]
			t[b] = mask
		}
	}
}

// columns are the node sides of up to block candidates, feature after feature.
type columns [nodeFeatures][block]uint8

// masks narrows to the leaves that candidates can reach by features u and u+1 of used.
func (m *maskTree) masks(cols *columns, u int, to []uint64) {
	c, t, d, v := &cols[m.used[u]], &m.tables[u], &cols[m.used[u+1]], &m.tables[u+1]
	if u == 0 {
		for i := range to {
			to[i] = t[c[i]&63] & v[d[i]&63]
		}
		return
	}
	for i := range to {
		to[i] &= t[c[i]&63] & v[d[i]&63]
	}
}

// sums are those of Forest.score.
type sums [block]weighed

// add adds what the tree says of the first n candidates: of the leaves that one can reach, the lowest bit is its own. Features
// are looked up two at a time, the last ones together with what the leaf says.
func (m *maskTree) add(cols *columns, n int, to *sums, masks *[block]uint64) {
	u := 0
	for ; m.uses-u > 2; u += 2 {
		m.masks(cols, u, masks[:n])
	}
	if u == 0 {
		for i := range masks[:n] {
			masks[i] = ^uint64(0)
		}
	}
	switch m.uses - u {
	case 0:
		for i := range to[:n] {
			to[i].add(&m.said[0])
		}
	case 1:
		c, t := &cols[m.used[u]], &m.tables[u]
		for i := range to[:n] {
			to[i].add(&m.said[bits.TrailingZeros64(masks[i]&t[c[i]&63])&63])
		}
	case 2:
		c, t, d, v := &cols[m.used[u]], &m.tables[u], &cols[m.used[u+1]], &m.tables[u+1]
		for i := range to[:n] {
			to[i].add(&m.said[bits.TrailingZeros64(masks[i]&t[c[i]&63]&v[d[i]&63])&63])
		}
	}
}

func (s *weighed) add(l *weighed) {
	s.mean += l.mean
	s.second += l.second
}

// walk does the same for a tree of which too much remains.
func (m *maskTree) walk(x *row, cols *columns, n int, to *sums) {
	y := *x
	for i := range to[:n] {
		for k := range nodeFeatures {
			y[int(api.FirstNodeFeature)+k] = cols[k][i]
		}
		l := m.whole.leaf[walk(m.whole.shape, &y)].weighed(m.whole.weight)
		to[i].add(&l)
	}
}

// special is a whole forest specialised for one request.
type special struct {
	f     *Forest
	x     row // request side, zero elsewhere
	in    scope
	trees []maskTree
	base  int // how many of trees are base trees
	stamp uint64
}

func (s *special) build(f *Forest, x *row, in *scope) {
	s.f, s.x, s.in, s.base = f, *x, *in, len(f.base)
	resid := f.resid
	if f.lambda == 0 {
		resid = nil
	}
	n := len(f.base) + len(resid)
	if cap(s.trees) < n {
		s.trees = make([]maskTree, n)
	}
	s.trees = s.trees[:n]
	for i := range f.base {
		s.trees[i].build(&f.base[i], x, in)
	}
	for i := range resid {
		s.trees[len(f.base)+i].build(&resid[i], x, in)
	}
}

// score is Forest.score over columns: the same sums in the same order.
func (s *special) score(cols *columns, n int, mu, sigma *[block]float64) {
	var all sums
	var masks [block]uint64
	base := s.trees[:s.base]
	for k := range base {
		if t := &base[k]; t.walked {
			t.walk(&s.x, cols, n, &all)
		} else {
			t.add(cols, n, &all, &masks)
		}
	}
	for i := range mu[:n] {
		sigma[i] = s.f.sigma(&all[i])
	}
	resid := s.trees[s.base:]
	for k := range resid {
		if t := &resid[k]; t.walked {
			t.walk(&s.x, cols, n, &all)
		} else {
			t.add(cols, n, &all, &masks)
		}
	}
	for i := range mu[:n] {
		mu[i] = all[i].mean
	}
}

// cacheSlots bounds the specialised forests that a Scratch keeps: 220 KB each at full size.
const cacheSlots = 16

// Scratch is the memory in which an Estimator works and remembers specialised forests. One goroutine at a time.
type Scratch struct {
	slots        []special
	clock        uint64
	Hits, Misses uint64
}

// NewScratch has room for full forests, so that estimating allocates nothing.
func NewScratch() *Scratch {
	s := &Scratch{slots: make([]special, cacheSlots)}
	for i := range s.slots {
		s.slots[i].trees = make([]maskTree, 0, 2*MaxTrees)
	}
	return s
}

// of is f specialised for the request side of x and candidates within in; a request like a recent one finds it ready.
func (s *Scratch) of(f *Forest, x *row, in *scope) *special {
	s.clock++
	slot := &s.slots[0]
	for i := range s.slots {
		c := &s.slots[i]
		if c.f == f && c.x == *x {
			c.stamp = s.clock
			if c.in.covers(in) {
				s.Hits++
				return c
			}
			slot, in = c, &anything // it will come again
			break
		}
		if c.stamp < slot.stamp {
			slot = c
		}
	}
	s.Misses++
	slot.build(f, x, in)
	slot.stamp = s.clock
	return slot
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

// walkBelow: for fewer candidates walking costs less than specialising would.
const walkBelow = 12

// Estimator is a Forest with a Scratch: the same estimates, bit for bit, quicker where many candidates or many like requests
// are asked for. Several Estimators may share one Scratch on one goroutine.
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

// scoreSpecial is score by specialised trees; all of out share one request side.
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
	sp := s.of(f, &x, &in)
	var cols columns
	var mu, sigma [block]float64
	for from := 0; from < len(out); from += block {
		part := out[from:min(from+block, len(out))]
		for i := range part {
			for k := range nodeFeatures {
				cols[k][i] = part[i].Bins[int(api.FirstNodeFeature)+k]
			}
		}
		sp.score(&cols, len(part), &mu, &sigma)
		for i := range part {
			part[i].Mu, part[i].Sigma, part[i].Source = part[i].Mu+mu[i], sigma[i], api.SourceForest
		}
	}
}

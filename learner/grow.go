package learner

import (
	"math"
	"math/bits"
	"slices"

	"github.com/rubato-faas/rubato/api"
)

const (
	maxDepth     = 16
	baseLeaves   = 512
	residLeaves  = 256
	exportLeaves = 256
	baseMinLeaf  = 2
	residMinLeaf = 4
	// ExportMinLeaf is how many samples each leaf of a tree that leaves the zone rests on, at least.
	ExportMinLeaf = 20
	// bootstrapRows bounds the rows that one tree is grown from.
	bootstrapRows = 8192
	// featureShare of the features that vary are looked at for each split.
	featureShare = .67
)

// split is one node of a compiled tree, in preorder: the left child follows its parent, next is the right child.
// In a leaf (feat == leafMark) next is the index of the leaf.
type split struct {
	feat, bin uint8
	next      uint16
}

const leafMark = 255

// leafStat is what a leaf knows of its samples: weight, mean and sum of squared deviations. Fields are exported for
// encoding/binary only.
type leafStat struct{ N, Mean, M2 float32 }

// leafCap bounds a leaf's weight: beyond it old samples fade, so that a leaf follows while its tree ages.
const leafCap = 12

func (l *leafStat) add(y, k float32) {
	l.N += k
	if l.N > leafCap {
		l.M2 *= leafCap / l.N
		l.N = leafCap
	}
	d := y - l.Mean
	l.Mean += d * k / l.N
	l.M2 += k * d * (y - l.Mean)
}

func (l *leafStat) variance() float32 { return l.M2 / max(l.N, 1) }

// growth is one order to grow a tree.
type growth struct {
	rows    []row
	width   int // features in use
	target  []float32
	tenants []uint32 // for minTenants > 1 only
	idx     []int32  // rows to use; reordered
	leaves  int
	minLeaf int
	// minTenants is from how many tenants the samples of each leaf must come.
	minTenants int
	draw       rng
}

type bucket struct{ n, sum float32 }

// grower grows trees; it keeps its buffers between trees. Best first on the gain in variance over 64-bin
// histograms, as gradient boosting libraries do it, because one pass over the rows serves all features.
type grower struct {
	hist  [maxFeatures][api.MaxBins]bucket // all zero between nodes
	taken [maxFeatures]uint64              // bins in use, as bits
	nodes []growNode
	heap  []int32
	cand  []choice
	shape []split
	leaf  []leafStat
}

type growNode struct {
	from, to    int32 // of growth.idx
	depth       int32
	left, right int32 // 0: leaf
	best        choice
}

type choice struct {
	gain      float64
	feat, bin uint8
}

// grow builds a tree; what it returns is the caller's. g.idx must not be empty.
func (b *grower) grow(g *growth) ([]split, []leafStat) {
	b.nodes, b.heap, b.shape, b.leaf = b.nodes[:0], b.heap[:0], b.shape[:0], b.leaf[:0]
	live := varying(g)
	b.open(g, live, growNode{to: int32(len(g.idx))})
	for leaves := 1; leaves < g.leaves && len(b.heap) > 0; leaves++ {
		n := b.pop()
		node := b.nodes[n]
		mid := partition(g, node)
		b.nodes[n].left, b.nodes[n].right = int32(len(b.nodes)), int32(len(b.nodes)+1)
		b.open(g, live, growNode{from: node.from, to: mid, depth: node.depth + 1})
		b.open(g, live, growNode{from: mid, to: node.to, depth: node.depth + 1})
	}
	b.flatten(g, 0)
	return slices.Clone(b.shape), slices.Clone(b.leaf)
}

// varying lists the features that are not constant over the rows.
func varying(g *growth) []uint8 {
	var live []uint8
	first := &g.rows[g.idx[0]]
	for f := range uint8(g.width) {
		if slices.ContainsFunc(g.idx, func(r int32) bool { return g.rows[r][f] != first[f] }) {
			live = append(live, f)
		}
	}
	return live
}

// open adds a node and, when it can be split, puts it on the heap.
func (b *grower) open(g *growth, live []uint8, n growNode) {
	if n.depth < maxDepth && int(n.to-n.from) >= 2*g.minLeaf && len(live) > 0 {
		n.best = b.choose(g, live, n)
	}
	b.nodes = append(b.nodes, n)
	if n.best.gain > 0 {
		b.push(int32(len(b.nodes) - 1))
	}
}

// choose finds the best split among a draw of the features.
func (b *grower) choose(g *growth, live []uint8, n growNode) choice {
	k := int(math.Ceil(featureShare * float64(len(live))))
	for i := range k {
		j := i + g.draw.below(len(live)-i)
		live[i], live[j] = live[j], live[i]
	}
	feats := live[:k]
	idx := g.idx[n.from:n.to]
	var sum float64
	for _, r := range idx {
		x, y := &g.rows[r], g.target[r]
		sum += float64(y)
		for _, f := range feats {
			k := x[f] & (api.MaxBins - 1)
			h := &b.hist[f][k]
			h.n++
			h.sum += y
			b.taken[f] |= 1 << k
		}
	}
	b.cand = b.cand[:0]
	for _, f := range feats {
		if c := b.bestOf(f, float64(len(idx)), sum, float64(g.minLeaf)); c.gain > 0 {
			b.cand = append(b.cand, c)
		}
	}
	slices.SortFunc(b.cand, func(x, y choice) int {
		if x.gain != y.gain {
			return -cmpFloat(x.gain, y.gain)
		}
		return int(x.feat) - int(y.feat)
	})
	for _, c := range b.cand {
		if g.minTenants <= 1 || tenantsBothSides(g, idx, c) {
			return c
		}
	}
	return choice{}
}

// inverse holds 1/n: a node has as many divisions as bins, and most nodes are small.
var inverse = func() (inv [bootstrapRows + 1]float64) {
	for n := 1; n < len(inv); n++ {
		inv[n] = 1 / float64(n)
	}
	return inv
}()

func inv(n float64) float64 {
	if i := int(n); i < len(inverse) {
		return inverse[i]
	}
	return 1 / n
}

// bestOf scans one histogram, and leaves it empty. Between two occupied bins the split lies in the middle, so that values never seen
// go to the nearer side; missing values are apart from all others.
func (b *grower) bestOf(f uint8, n, sum, minLeaf float64) choice {
	best := choice{gain: 1e-7 * n}
	whole := sum * sum * inv(n)
	var ln, ls float64
	last, found := -1, false
	for taken := b.taken[f]; taken != 0; taken &= taken - 1 {
		k := bits.TrailingZeros64(taken)
		h := &b.hist[f][k]
		if last >= 0 && ln >= minLeaf && n-ln >= minLeaf {
			if gain := ls*ls*inv(ln) + (sum-ls)*(sum-ls)*inv(n-ln) - whole; gain > best.gain {
				at := last
				if last > 0 {
					at = (last + k - 1) / 2
				}
				best, found = choice{gain, f, uint8(at)}, true
			}
		}
		ln, ls, last = ln+float64(h.n), ls+float64(h.sum), k
		*h = bucket{}
	}
	b.taken[f] = 0
	if !found {
		return choice{}
	}
	return best
}

func tenantsBothSides(g *growth, idx []int32, c choice) bool {
	var sides [2][]uint32
	for _, r := range idx {
		s := &sides[0]
		if g.rows[r][c.feat] > c.bin {
			s = &sides[1]
		}
		if len(*s) < g.minTenants && !slices.Contains(*s, g.tenants[r]) {
			*s = append(*s, g.tenants[r])
		}
	}
	return len(sides[0]) >= g.minTenants && len(sides[1]) >= g.minTenants
}

// partition reorders the node's rows by its split and returns where the right side begins.
func partition(g *growth, n growNode) int32 {
	i, j := n.from, n.to-1
	for i <= j {
		if g.rows[g.idx[i]][n.best.feat] <= n.best.bin {
			i++
		} else {
			g.idx[i], g.idx[j] = g.idx[j], g.idx[i]
			j--
		}
	}
	return i
}

// flatten writes the subtree of node n in preorder.
func (b *grower) flatten(g *growth, n int32) {
	node := &b.nodes[n]
	if node.left == 0 {
		b.shape = append(b.shape, split{feat: leafMark, next: uint16(len(b.leaf))})
		b.leaf = append(b.leaf, summarise(g.target, g.idx[node.from:node.to]))
		return
	}
	at := len(b.shape)
	b.shape = append(b.shape, split{feat: node.best.feat, bin: node.best.bin})
	b.flatten(g, node.left)
	b.shape[at].next = uint16(len(b.shape))
	b.flatten(g, node.right)
}

// summarise makes a leaf. N is not capped yet: export needs the true count.
func summarise(target []float32, idx []int32) leafStat {
	var sum, sq float64
	for _, r := range idx {
		sum += float64(target[r])
	}
	n := float64(len(idx))
	mean := sum / n
	for _, r := range idx {
		d := float64(target[r]) - mean
		sq += d * d
	}
	return leafStat{N: float32(n), Mean: float32(mean), M2: float32(sq)}
}

// push and pop keep a binary heap of nodes by gain, the lower index first among equals.
func (b *grower) push(n int32) {
	b.heap = append(b.heap, n)
	for i := len(b.heap) - 1; i > 0 && b.before(i, (i-1)/2); i = (i - 1) / 2 {
		b.heap[i], b.heap[(i-1)/2] = b.heap[(i-1)/2], b.heap[i]
	}
}

func (b *grower) pop() int32 {
	top, end := b.heap[0], len(b.heap)-1
	b.heap[0] = b.heap[end]
	b.heap = b.heap[:end]
	for i := 0; ; {
		k := 2*i + 1
		if k >= end {
			return top
		}
		if k+1 < end && b.before(k+1, k) {
			k++
		}
		if !b.before(k, i) {
			return top
		}
		b.heap[i], b.heap[k] = b.heap[k], b.heap[i]
		i = k
	}
}

func (b *grower) before(i, j int) bool {
	x, y := &b.nodes[b.heap[i]], &b.nodes[b.heap[j]]
	if x.best.gain != y.best.gain {
		return x.best.gain > y.best.gain
	}
	return b.heap[i] < b.heap[j]
}

func cmpFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

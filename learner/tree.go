package learner

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/rubato-faas/rubato/api"
	"github.com/vmihailenco/msgpack/v5"
)

// Limits of a tree from outside; one above them is refused.
const (
	MaxTreeNodes = 2047
	// MaxTreeDepth bounds the steps of one prediction.
	MaxTreeDepth = 64
	// MaxTreeBytes bounds an encoded tree: the largest, in format 1, has 1,023 splits of 7 bytes, 1,024 leaves of 10 and a
	// zone's name.
	MaxTreeBytes  = 18 << 10
	treeVersion   = 2
	oldestTree    = 1
	maxTreeSplits = (MaxTreeNodes - 1) / 2
	maxMean       = 30   // |ln ms|; e^30 ms are 340 years
	maxVariance   = 1000 // of ln ms, in format 1; format 2 says it by maxSpread
)

// ErrSchema: a tree was grown on another feature schema, or is written in a format that this program does not read. It is no
// fault of the pool.
var ErrSchema = fmt.Errorf("%w: tree of another schema", api.ErrInvalid)

// Tree is a regression tree as it travels between zones: real thresholds, so that it means the same on every grid; the
// prediction is ln(measured/averages). It is immutable, and one that exists has passed all checks. It stays in the
// encoding it came in (docs/forest-format.md), about nine bytes a leaf, until a forest compiles it: that is what its digest
// names.
type Tree struct {
	format uint64 // oldestTree to treeVersion
	zone   string
	born   uint64
	digest string
	raw    []byte
	// The parts are slices of raw; nodes and feats of a tree of format 1 are made from its marks.
	nodes  []byte // preorder, one bit a node, lowest first: 1 splits
	feats  []byte // of the dictionary of splits, sorted by feature and threshold; in format 1 of each split
	edges  []byte // their thresholds: float32, little-endian
	which  []byte // the dictionary's entry of each split: 1 byte each while there are at most 256 entries, else 2
	scale  []byte // float32: smallest mean, and what one step of means adds
	means  []byte // uint16 a leaf
	spread []byte // a byte a leaf: variance on a logarithmic scale
	counts []byte // a byte a leaf: log2 of its samples
	// In format 1 only.
	marks []byte // a byte a node: its feature, or leafMark
	right []byte // uint16 a split: its right child
	says  []byte // two float32 a leaf: mean and variance
}

// leafOut is what a leaf says.
type leafOut struct{ Mean, Variance float32 }

// Digest is the SHA-256 of the encoding, in hex: the tree's name in pools and object stores.
func (t *Tree) Digest() string { return t.digest }

// Zone is where the tree was grown.
func (t *Tree) Zone() string { return t.zone }

// Born is how many rows its zone had learned when the tree was grown: that zone may judge it on later rows only.
func (t *Tree) Born() uint64 { return t.born }

// Leaves is how many leaves the tree has.
func (t *Tree) Leaves() int { return len(t.counts) }

// Info describes the tree as part of a pool.
func (t *Tree) Info() TreeInfo {
	return TreeInfo{Digest: t.digest, Zone: t.zone, Kind: KindPool, Born: t.born}
}

// newTree makes a tree to be exported from what the grower returned. Means lose at most a 131,070th of their range and
// variances a twelfth.
func newTree(zone string, born uint64, g *Grid, shape []split, leaves []leafStat) (*Tree, error) {
	t := &Tree{format: treeVersion, zone: zone, born: born, nodes: make([]byte, (len(shape)+7)/8)}
	t.addSplits(g, shape)
	t.addLeaves(leaves)
	b, err := t.encode()
	if err != nil {
		return nil, err
	}
	return decodeTree(b, len(g.edges)) // both sides of the border are checked
}

// edge is an entry of the dictionary.
type edge struct {
	feat uint8
	at   float32
}

func (t *Tree) addSplits(g *Grid, shape []split) {
	var of, dict []edge
	for i, s := range shape {
		if s.feat != leafMark {
			t.nodes[i/8] |= 1 << (i % 8)
			of = append(of, edge{s.feat, g.threshold(int(s.feat), s.bin)})
		}
	}
	dict = slices.Clone(of)
	slices.SortFunc(dict, compareEdges)
	dict = slices.Compact(dict)
	for _, e := range dict {
		t.feats = append(t.feats, e.feat)
		t.edges = appendFloat(t.edges, e.at)
	}
	for _, e := range of {
		i, _ := slices.BinarySearchFunc(dict, e, compareEdges)
		if t.which = append(t.which, byte(i)); len(dict) > 256 {
			t.which = append(t.which, byte(i>>8))
		}
	}
}

func compareEdges(a, b edge) int {
	if a.feat != b.feat {
		return int(a.feat) - int(b.feat)
	}
	return cmpFloat(float64(a.at), float64(b.at))
}

func (t *Tree) addLeaves(leaves []leafStat) {
	lo, hi := float32(math.Inf(1)), float32(math.Inf(-1))
	for i := range leaves {
		lo, hi = min(lo, leaves[i].Mean), max(hi, leaves[i].Mean)
	}
	step := (hi - lo) / math.MaxUint16
	t.scale = appendFloat(appendFloat(nil, lo), step)
	for i := range leaves {
		q := 0.
		if step > 0 {
			q = math.Round(float64(leaves[i].Mean-lo) / float64(step))
		}
		t.means = binary.LittleEndian.AppendUint16(t.means, uint16(min(max(q, 0), math.MaxUint16)))
		t.spread = append(t.spread, spreadCode(leaves[i].variance()))
		t.counts = append(t.counts, uint8(bits.Len32(uint32(leaves[i].N))-1))
	}
}

// spreadCode is 4 log2(variance) + 128, within 1 and maxSpread; 0 stands for no variance.
func spreadCode(variance float32) uint8 {
	if !(variance > 0) {
		return 0
	}
	return uint8(min(max(math.Round(4*math.Log2(float64(variance))+128), 1), maxSpread))
}

// maxSpread is the code of a variance of 1,024 (of ln ms, squared): one tree must not make every estimate uncertain.
const maxSpread = 128 + 4*10

// spreadOf is the inverse of spreadCode.
var spreadOf = func() (v [256]float32) {
	for c := 1; c < len(v); c++ {
		v[c] = float32(math.Exp2((float64(c) - 128) / 4))
	}
	return v
}()

func appendFloat(b []byte, x float32) []byte {
	return binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
}

// floatAt is the i-th float of b.
func floatAt(b []byte, i int) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
}

// EncodeTree is t's encoding, which must not be changed; equal trees have equal encodings.
func EncodeTree(t *Tree) []byte { return t.raw }

func (t *Tree) encode() ([]byte, error) {
	w := newWriter(t.format)
	t.write(w)
	if w.err != nil {
		return nil, fmt.Errorf("learner encode tree: %w", w.err)
	}
	return w.buf.Bytes(), nil
}

// write writes what follows the version.
func (t *Tree) write(w *writer) {
	w.u64(uint64(SchemaEpoch))
	w.str(t.zone)
	w.u64(t.born)
	for _, part := range t.parts() {
		w.bytes(*part)
	}
}

// parts are what follows in t's format, in order.
func (t *Tree) parts() []*[]byte {
	if t.format == 1 {
		return []*[]byte{&t.marks, &t.edges, &t.right, &t.says, &t.counts}
	}
	return []*[]byte{&t.nodes, &t.feats, &t.edges, &t.which, &t.scale, &t.means, &t.spread, &t.counts}
}

// DecodeTree decodes and checks a tree from outside. It keeps a copy of b and allocates next to nothing besides.
func DecodeTree(b []byte) (*Tree, error) { return decodeTree(bytes.Clone(b), int(api.NumFeatures)) }

// decodeTree is DecodeTree for rows of another width. It keeps b.
func decodeTree(b []byte, width int) (*Tree, error) {
	if len(b) > MaxTreeBytes {
		return nil, fmt.Errorf("learner decode tree: %w: %d bytes, limit %d", api.ErrTooLarge, len(b), MaxTreeBytes)
	}
	if len(b) > 0 && (b[0] < oldestTree || b[0] > treeVersion) && b[0] < 0x80 { // a small number in msgpack
		return nil, fmt.Errorf("learner decode tree: %w: format %d, this program reads %d-%d", ErrSchema, b[0], oldestTree, treeVersion)
	}
	r := newReader(b, oldestTree, treeVersion)
	if e := r.u64(); r.err == nil && e != uint64(SchemaEpoch) {
		return nil, fmt.Errorf("learner decode tree: %w: feature schema %d, this program evaluates %d", ErrSchema, e, SchemaEpoch)
	}
	t := &Tree{format: r.version, zone: r.str(api.MaxNameLen), born: r.u64(), raw: b}
	for _, part := range t.parts() {
		*part = r.view(b, MaxTreeBytes)
	}
	err := r.end()
	if err == nil && t.format == 1 {
		err = t.readMarks()
	}
	if err == nil {
		err = t.check(width)
	}
	if err == nil && !canonical(t, b) {
		err = fmt.Errorf("%w: not the canonical encoding", api.ErrInvalid)
	}
	if err != nil {
		return nil, fmt.Errorf("learner decode tree: %w", err)
	}
	sum := sha256.Sum256(b)
	t.digest = hex.EncodeToString(sum[:])
	return t, nil
}

// canonical reports whether t would be written as b, without writing it.
func canonical(t *Tree, b []byte) bool {
	m := &matcher{left: b}
	w := &writer{enc: msgpack.NewEncoder(m)}
	w.u64(t.format)
	t.write(w)
	return w.err == nil && len(m.left) == 0
}

// matcher is a writer that fails at the first byte that is not the expected one.
type matcher struct{ left []byte }

// Write implements io.Writer.
func (m *matcher) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(m.left, p) {
		return 0, api.ErrInvalid
	}
	m.left = m.left[len(p):]
	return len(p), nil
}

// check looks at everything that a walk relies on.
func (t *Tree) check(width int) error {
	if err := api.CheckName("zone", t.zone); err != nil {
		return err
	}
	leaves, dict := len(t.counts), len(t.feats)
	splits := leaves - 1
	if leaves < 1 || splits > maxTreeSplits || dict > splits || len(t.nodes) != (splits+leaves+7)/8 || len(t.edges) != 4*dict {
		return badTree("the arrays' lengths do not fit")
	}
	if !wholeTree(t.nodes, splits+leaves) {
		return badTree("nodes must be one tree in preorder, not too deep")
	}
	for i := range dict {
		if int(t.feats[i]) >= width || !isFinite(floatAt(t.edges, i)) {
			return badTree("splits must be on known features, at finite thresholds")
		}
	}
	if slices.Max(t.counts) > 31 {
		return badTree("count out of range")
	}
	if t.format == 1 {
		return t.checkPlain(splits)
	}
	return t.checkPacked(splits)
}

func badTree(what string) error { return fmt.Errorf("%w: tree: %s", api.ErrInvalid, what) }

func isFinite(x float32) bool { return x == x && !math.IsInf(float64(x), 0) }

// checkPlain checks what only format 1 has.
func (t *Tree) checkPlain(splits int) error {
	if len(t.feats) != splits || len(t.right) != 2*splits || len(t.says) != 8*(splits+1) {
		return badTree("the arrays' lengths do not fit")
	}
	k := 0
	for _, s := range t.shape(nil) {
		if s.feat == leafMark {
			continue
		}
		if s.next != binary.LittleEndian.Uint16(t.right[2*k:]) {
			return badTree("children must follow their parents in preorder")
		}
		k++
	}
	for i := range splits + 1 {
		mean, variance := floatAt(t.says, 2*i), floatAt(t.says, 2*i+1)
		if !(math.Abs(float64(mean)) <= maxMean && variance >= 0 && variance <= maxVariance) {
			return badTree("leaf out of range")
		}
	}
	return nil
}

// checkPacked checks what only format 2 has.
func (t *Tree) checkPacked(splits int) error {
	leaves, dict := splits+1, len(t.feats)
	wide := 1 + bit(dict > 256)
	if len(t.which) != splits*wide || len(t.scale) != 8 || len(t.means) != 2*leaves || len(t.spread) != leaves {
		return badTree("the arrays' lengths do not fit")
	}
	for i := 1; i < dict; i++ {
		if compareEdges(edge{t.feats[i-1], floatAt(t.edges, i-1)}, edge{t.feats[i], floatAt(t.edges, i)}) >= 0 {
			return badTree("splits must rise")
		}
	}
	var used [maxTreeSplits]bool
	seen := 0
	for k := range splits {
		i := t.whichOf(k)
		if i >= dict {
			return badTree("split out of range")
		}
		if !used[i] {
			used[i] = true
			seen++
		}
	}
	if seen != dict {
		return badTree("a split that no node uses")
	}
	lo, step := float64(floatAt(t.scale, 0)), float64(floatAt(t.scale, 1))
	if !(math.Abs(lo) <= maxMean && step >= 0 && lo+step*math.MaxUint16 <= maxMean*1.001) {
		return badTree("means out of range")
	}
	if slices.Max(t.spread) > maxSpread {
		return badTree("variance out of range")
	}
	return nil
}

// wholeTree reports whether the first n bits of nodes are one tree in preorder, at most MaxTreeDepth deep, and the rest
// of the last byte is zero. open holds, for each ancestor, whether its right child is still to come.
func wholeTree(nodes []byte, n int) bool {
	var open [MaxTreeDepth]bool
	depth := 0
	for i := range n {
		if nodes[i/8]>>(i%8)&1 == 1 {
			if depth == MaxTreeDepth {
				return false
			}
			open[depth] = true
			depth++
			continue
		}
		for depth > 0 && !open[depth-1] {
			depth--
		}
		if depth == 0 {
			return i == n-1 && (n%8 == 0 || nodes[n/8]>>(n%8) == 0)
		}
		open[depth-1] = false
	}
	return false
}

// readMarks makes nodes and feats of the marks of format 1.
func (t *Tree) readMarks() error {
	if len(t.marks) > MaxTreeNodes {
		return badTree("too many nodes")
	}
	t.nodes = make([]byte, (len(t.marks)+7)/8)
	t.feats = make([]byte, 0, len(t.marks)/2)
	for i, f := range t.marks {
		if f != leafMark {
			t.nodes[i/8] |= 1 << (i % 8)
			t.feats = append(t.feats, f)
		}
	}
	return nil
}

// whichOf is the entry of feats and edges that the k-th split has.
func (t *Tree) whichOf(k int) int {
	if t.format == 1 {
		return k
	}
	if len(t.feats) > 256 {
		return int(binary.LittleEndian.Uint16(t.which[2*k:]))
	}
	return int(t.which[k])
}

// compile is the tree on g: its shape, and what its leaves say.
func (t *Tree) compile(g *Grid) ([]split, []leafOut) {
	bins := make([]uint8, len(t.feats))
	for i := range bins {
		bins[i] = g.splitBin(int(t.feats[i]), floatAt(t.edges, i))
	}
	leaf := make([]leafOut, len(t.counts))
	for i := range leaf {
		leaf[i] = t.leafAt(i)
	}
	return t.shape(bins), leaf
}

func (t *Tree) leafAt(i int) leafOut {
	if t.format == 1 {
		return leafOut{floatAt(t.says, 2*i), floatAt(t.says, 2*i+1)}
	}
	lo, step := float64(floatAt(t.scale, 0)), float64(floatAt(t.scale, 1))
	q := binary.LittleEndian.Uint16(t.means[2*i:])
	return leafOut{float32(lo + step*float64(q)), spreadOf[t.spread[i]]}
}

// shape is the nodes with the bins of the entries of feats; nil stands for zeros.
func (t *Tree) shape(bins []uint8) []split {
	shape := make([]split, 2*len(t.counts)-1)
	var open [MaxTreeDepth]int // splits whose right child is still to come, innermost last
	depth, leaves := 0, 0
	for i := range shape {
		if t.nodes[i/8]>>(i%8)&1 == 1 {
			k := t.whichOf(i - leaves)
			shape[i] = split{feat: t.feats[k]}
			if bins != nil {
				shape[i].bin = bins[k]
			}
			open[depth], depth = i, depth+1
			continue
		}
		shape[i] = split{feat: leafMark, next: uint16(leaves)}
		if leaves++; depth > 0 {
			depth--
			shape[open[depth]].next = uint16(i + 1)
		}
	}
	return shape
}

// wellFormed reports whether shape is one tree in preorder with its leaves numbered in order, which tests none but the first so many
// features. Such a tree has children after parents, no cycles and no node that two parents share.
func wellFormed(shape []split, leaves, depth, features int) bool {
	if len(shape) != 2*leaves-1 || leaves < 1 || len(shape) > MaxTreeNodes {
		return false
	}
	var open []int // right children to come, innermost last
	leaf := 0
	for i, s := range shape {
		if i > 0 && shape[i-1].feat == leafMark {
			if len(open) == 0 || open[len(open)-1] != i {
				return false
			}
			open = open[:len(open)-1]
		}
		switch {
		case s.feat == leafMark:
			if int(s.next) != leaf {
				return false
			}
			leaf++
		case int(s.feat) >= features || s.bin >= api.MaxBins || len(open) >= depth:
			return false
		default:
			open = append(open, int(s.next))
		}
	}
	return len(open) == 0 && leaf == leaves && shape[len(shape)-1].feat == leafMark
}

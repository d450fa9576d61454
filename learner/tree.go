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
	// MaxTreeBytes bounds an encoded tree: the largest has 1,023 splits and 1,024 leaves.
	MaxTreeBytes  = 16 << 10
	treeVersion   = 2
	maxTreeSplits = (MaxTreeNodes - 1) / 2
	maxMean       = 30 // |ln ms|; e^30 ms are 340 years
)

// ErrSchema: a tree was grown on another feature schema or written in another format, by an older or a newer program.
// It is no fault of the pool.
var ErrSchema = fmt.Errorf("%w: tree of another schema", api.ErrInvalid)

// Tree is a regression tree as it travels between zones: real thresholds, so that it means the same on every grid; the
// prediction is ln(measured/averages). It is immutable, and one that exists has passed all checks. It stays in its
// encoding (docs/forest-format.md), about nine bytes a leaf, until a forest compiles it.
type Tree struct {
	zone   string
	born   uint64
	digest string
	raw    []byte
	// The parts are slices of raw.
	nodes  []byte // preorder, one bit a node, lowest first: 1 splits
	feats  []byte // of the dictionary of splits, sorted by feature and threshold
	edges  []byte // their thresholds: float32, little-endian
	which  []byte // the dictionary's entry of each split: 1 byte each while there are at most 256 entries, else 2
	scale  []byte // float32: smallest mean, and what one step of means adds
	means  []byte // uint16 a leaf
	spread []byte // a byte a leaf: variance on a logarithmic scale
	counts []byte // a byte a leaf: log2 of its samples
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
	t := &Tree{zone: zone, born: born, nodes: make([]byte, (len(shape)+7)/8)}
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
	w := newWriter(treeVersion)
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

func (t *Tree) parts() [8]*[]byte {
	return [...]*[]byte{&t.nodes, &t.feats, &t.edges, &t.which, &t.scale, &t.means, &t.spread, &t.counts}
}

// DecodeTree decodes and checks a tree from outside. It keeps a copy of b and allocates next to nothing besides.
func DecodeTree(b []byte) (*Tree, error) { return decodeTree(bytes.Clone(b), int(api.NumFeatures)) }

// decodeTree is DecodeTree for rows of another width. It keeps b.
func decodeTree(b []byte, width int) (*Tree, error) {
	if len(b) > MaxTreeBytes {
		return nil, fmt.Errorf("learner decode tree: %w: %d bytes, limit %d", api.ErrTooLarge, len(b), MaxTreeBytes)
	}
	if len(b) > 0 && b[0] != treeVersion && b[0] < 0x80 { // a small number in msgpack
		return nil, fmt.Errorf("learner decode tree: %w: format %d, want %d", ErrSchema, b[0], treeVersion)
	}
	r := newReader(b, treeVersion, treeVersion)
	if e := r.u64(); r.err == nil && e != uint64(SchemaEpoch) {
		return nil, fmt.Errorf("learner decode tree: %w: epoch %d, want %d", ErrSchema, e, SchemaEpoch)
	}
	t := &Tree{zone: r.str(api.MaxNameLen), born: r.u64(), raw: b}
	for _, part := range t.parts() {
		*part = r.view(b, MaxTreeBytes)
	}
	err := r.end()
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
	w.u64(treeVersion)
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
	bad := func(what string) error { return fmt.Errorf("%w: tree: %s", api.ErrInvalid, what) }
	if err := api.CheckName("zone", t.zone); err != nil {
		return err
	}
	leaves, dict := len(t.counts), len(t.feats)
	splits, wide := leaves-1, 1+bit(dict > 256)
	if leaves < 1 || splits > maxTreeSplits || len(t.nodes) != (splits+leaves+7)/8 || len(t.edges) != 4*dict ||
		len(t.which) != splits*wide || len(t.scale) != 8 || len(t.means) != 2*leaves || len(t.spread) != leaves || dict > splits {
		return bad("the arrays' lengths do not fit")
	}
	if !wholeTree(t.nodes, splits+leaves) {
		return bad("nodes must be one tree in preorder, not too deep")
	}
	for i := range dict {
		x := floatAt(t.edges, i)
		if int(t.feats[i]) >= width || x != x || math.IsInf(float64(x), 0) ||
			i > 0 && compareEdges(edge{t.feats[i-1], floatAt(t.edges, i-1)}, edge{t.feats[i], x}) >= 0 {
			return bad("splits must rise, on known features, at finite thresholds")
		}
	}
	var used [maxTreeSplits]bool
	seen := 0
	for k := range splits {
		i := t.whichOf(k)
		if i >= dict {
			return bad("split out of range")
		}
		if !used[i] {
			used[i] = true
			seen++
		}
	}
	if seen != dict {
		return bad("a split that no node uses")
	}
	lo, step := float64(floatAt(t.scale, 0)), float64(floatAt(t.scale, 1))
	if !(math.Abs(lo) <= maxMean && step >= 0 && lo+step*math.MaxUint16 <= maxMean*1.001) {
		return bad("means out of range")
	}
	if slices.Max(t.counts) > 31 || slices.Max(t.spread) > maxSpread {
		return bad("count or variance out of range")
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

func (t *Tree) whichOf(k int) int {
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
	lo, step := float64(floatAt(t.scale, 0)), float64(floatAt(t.scale, 1))
	for i := range leaf {
		q := binary.LittleEndian.Uint16(t.means[2*i:])
		leaf[i] = leafOut{float32(lo + step*float64(q)), spreadOf[t.spread[i]]}
	}
	shape := make([]split, 2*len(leaf)-1)
	var open [MaxTreeDepth]int // splits whose right child is still to come, innermost last
	depth, leaves := 0, 0
	for i := range shape {
		if t.nodes[i/8]>>(i%8)&1 == 1 {
			k := t.whichOf(i - leaves)
			shape[i] = split{feat: t.feats[k], bin: bins[k]}
			open[depth], depth = i, depth+1
			continue
		}
		shape[i] = split{feat: leafMark, next: uint16(leaves)}
		if leaves++; depth > 0 {
			depth--
			shape[open[depth]].next = uint16(i + 1)
		}
	}
	return shape, leaf
}

// wellFormed reports whether shape is one tree in preorder with its leaves numbered in order. Such a tree has
// children after parents, no cycles and no node that two parents share.
func wellFormed(shape []split, leaves, depth int) bool {
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
		case s.feat >= maxFeatures || s.bin >= api.MaxBins || len(open) >= depth:
			return false
		default:
			open = append(open, int(s.next))
		}
	}
	return len(open) == 0 && leaf == leaves && shape[len(shape)-1].feat == leafMark
}

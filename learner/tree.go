package learner

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/rubato-faas/rubato/api"
)

// Limits of a tree from outside; one above them is refused.
const (
	MaxTreeNodes = 2047
	// MaxTreeDepth bounds the steps of one prediction.
	MaxTreeDepth = 64
	// MaxTreeBytes bounds an encoded tree: the largest has 1,023 splits and 1,024 leaves.
	MaxTreeBytes = 24 << 10
	treeVersion  = 1
	maxMean      = 30   // |ln ms|; e^30 ms are 340 years
	maxVariance  = 1000 // of ln ms
)

// ErrSchema: a tree was grown on another feature schema, by an older or a newer program. It is no fault of the pool.
var ErrSchema = fmt.Errorf("%w: tree of another feature schema", api.ErrInvalid)

// Tree is a regression tree as it travels between zones: real thresholds, so that it means the same on every grid;
// the prediction is ln(milliseconds). It is immutable, and one that exists has passed all checks.
type Tree struct {
	zone   string
	born   uint64
	shape  []split // without bins: compile finds them on a grid
	leaf   []leafOut
	thr    []float32 // one per split, in order
	counts []uint8   // one per leaf: log2 of its samples
	digest string
}

// leafOut is what a leaf says.
type leafOut struct{ Mean, Variance float32 }

// Digest is the SHA-256 of the encoding, in hex: the tree's name in pools and object stores.
func (t *Tree) Digest() string { return t.digest }

// Zone is where the tree was grown.
func (t *Tree) Zone() string { return t.zone }

// Born is how many rows its zone had learned when the tree was grown: that zone may judge it on later rows only.
func (t *Tree) Born() uint64 { return t.born }

// Info describes the tree as part of a pool.
func (t *Tree) Info() TreeInfo {
	return TreeInfo{Digest: t.digest, Zone: t.zone, Kind: KindPool, Born: t.born}
}

// newTree makes a tree to be exported from what the grower returned.
func newTree(zone string, born uint64, g *Grid, shape []split, leaves []leafStat) (*Tree, error) {
	t := &Tree{zone: zone, born: born, shape: shape}
	for _, s := range shape {
		if s.feat != leafMark {
			t.thr = append(t.thr, g.threshold(int(s.feat), s.bin))
		}
	}
	for i := range leaves {
		t.leaf = append(t.leaf, leafOut{leaves[i].Mean, leaves[i].variance()})
		t.counts = append(t.counts, uint8(bits.Len32(uint32(leaves[i].N))-1))
	}
	b, err := EncodeTree(t)
	if err != nil {
		return nil, err
	}
	return decodeTree(b, len(g.edges)) // both sides of the border are checked
}

// EncodeTree encodes t; equal trees have equal encodings.
func EncodeTree(t *Tree) ([]byte, error) {
	w := newWriter(treeVersion)
	w.u64(uint64(SchemaEpoch))
	w.str(t.zone)
	w.u64(t.born)
	feats := make([]byte, len(t.shape))
	var right []uint16
	for i, s := range t.shape {
		if feats[i] = s.feat; s.feat != leafMark {
			right = append(right, s.next)
		}
	}
	w.bytes(feats)
	w.pack(t.thr)
	w.pack(right)
	w.pack(t.leaf)
	w.bytes(t.counts)
	if w.err != nil {
		return nil, fmt.Errorf("learner encode tree: %w", w.err)
	}
	return w.buf.Bytes(), nil
}

// DecodeTree decodes and checks a tree from outside. It never allocates more than about twice len(b).
func DecodeTree(b []byte) (*Tree, error) { return decodeTree(b, int(api.NumFeatures)) }

// compile is the shape with the thresholds' bins on g.
func (t *Tree) compile(g *Grid) []split {
	shape, k := slices.Clone(t.shape), 0
	for i := range shape {
		if s := &shape[i]; s.feat != leafMark {
			s.bin = g.splitBin(int(s.feat), t.thr[k])
			k++
		}
	}
	return shape
}

// decodeTree is DecodeTree for rows of another width.
func decodeTree(b []byte, width int) (*Tree, error) {
	if len(b) > MaxTreeBytes {
		return nil, fmt.Errorf("learner decode tree: %w: %d bytes, limit %d", api.ErrTooLarge, len(b), MaxTreeBytes)
	}
	r := newReader(b, treeVersion)
	if e := r.u64(); r.err == nil && e != uint64(SchemaEpoch) {
		return nil, fmt.Errorf("learner decode tree: %w: epoch %d, want %d", ErrSchema, e, SchemaEpoch)
	}
	t := &Tree{zone: r.str(api.MaxNameLen), born: r.u64()}
	feats := r.bytes(MaxTreeNodes)
	t.thr = unpack[float32](r, MaxTreeNodes)
	right := unpack[uint16](r, MaxTreeNodes)
	t.leaf = unpack[leafOut](r, MaxTreeNodes)
	t.counts = r.bytes(MaxTreeNodes)
	err := r.end()
	if err == nil {
		err = t.build(feats, right, width)
	}
	if err != nil {
		return nil, fmt.Errorf("learner decode tree: %w", err)
	}
	again, err := EncodeTree(t)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, fmt.Errorf("learner decode tree: %w: not the canonical encoding", api.ErrInvalid)
	}
	sum := sha256.Sum256(b)
	t.digest = hex.EncodeToString(sum[:])
	return t, nil
}

// build makes the shape from the decoded arrays and checks everything.
func (t *Tree) build(feats []byte, right []uint16, width int) error {
	bad := func(what string) error { return fmt.Errorf("%w: tree: %s", api.ErrInvalid, what) }
	if err := api.CheckName("zone", t.zone); err != nil {
		return err
	}
	splits := len(t.thr)
	if len(right) != splits || len(t.leaf) != splits+1 || len(t.counts) != splits+1 || len(feats) != 2*splits+1 {
		return bad("the arrays' lengths do not fit")
	}
	t.shape = make([]split, len(feats))
	k, leaves := 0, 0
	for i, f := range feats {
		switch {
		case f == leafMark && leaves < len(t.leaf):
			t.shape[i] = split{feat: leafMark, next: uint16(leaves)}
			leaves++
		case int(f) < width && k < splits:
			t.shape[i] = split{feat: f, next: right[k]}
			k++
		default:
			return bad("unknown feature or wrong number of leaves")
		}
	}
	for i, l := range t.leaf {
		if math.Abs(float64(l.Mean)) > maxMean || l.Variance < 0 || l.Variance > maxVariance || t.counts[i] > 31 {
			return bad("leaf out of range")
		}
	}
	if !wellFormed(t.shape, len(t.leaf), MaxTreeDepth) {
		return bad("children must follow their parents in preorder, not too deep")
	}
	return nil
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

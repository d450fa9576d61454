package learner

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

var update = flag.Bool("update", false, "rewrite golden files")

// smallTree is a fixed tree of three splits.
func smallTree(t testing.TB) *Tree {
	t.Helper()
	shape := []split{
		{feat: uint8(api.NodeSandbox), bin: 3, next: 4}, {feat: uint8(api.FnSlow), bin: 20, next: 3}, {feat: leafMark, next: 0}, {feat: leafMark, next: 1},
		{feat: uint8(api.NodeMissing), bin: 0, next: 6}, {feat: leafMark, next: 2}, {feat: leafMark, next: 3},
	}
	tr, err := newTree("edge-1", 4711, zoneGrid, shape, []leafStat{{20, 7, 2}, {40, 8, 4}, {64, 1.5, 6}, {1000, 2.25, 10}})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestTreeRoundTripAndGolden(t *testing.T) {
	tr := smallTree(t)
	b := EncodeTree(tr)
	golden := filepath.Join("testdata", "tree.golden")
	text := fmt.Sprintf("%s\n%s\n", tr.Digest(), hex.EncodeToString(b))
	if *update {
		if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(golden); err != nil || string(want) != text {
		t.Errorf("the encoding of a tree changed (%v): bump treeVersion, then -update\n%s", err, text)
	}
	back, err := DecodeTree(b)
	if err != nil || !reflect.DeepEqual(back, tr) {
		t.Errorf("tree does not survive its encoding: %v", err)
	}
	x := row{api.NodeSandbox: 4, api.NodeMissing: 5}
	c := pool(back, zoneGrid)
	if v := c.says(&x); math.Abs(v-2.25) > 1e-4 {
		t.Errorf("warm with something missing: %v, want 2.25", v)
	}
	if v := float64(c.leaf[0].Variance); math.Abs(v-.1) > .1/11 {
		t.Errorf("variance %v, want about .1", v)
	}
	if back.counts[0] != 4 || back.counts[3] != 9 {
		t.Errorf("counts %v: want log2 of the samples", back.counts)
	}
}

func TestDecodeTreeRefusesWhatCouldHarm(t *testing.T) {
	inf := float32(math.Inf(1))
	harm := map[string]func(t *Tree){
		"a leaf for a split":  func(t *Tree) { t.nodes = []byte{t.nodes[0] &^ 2} },
		"a split for a leaf":  func(t *Tree) { t.nodes = []byte{t.nodes[0] | 4} },
		"two trees":           func(t *Tree) { t.nodes = []byte{0b0110_0110} },
		"bits too many":       func(t *Tree) { t.nodes = []byte{t.nodes[0] | 0x80} },
		"bytes too many":      func(t *Tree) { t.nodes = append(bytes.Clone(t.nodes), 0) },
		"unknown feature":     func(t *Tree) { t.feats = []byte{t.feats[0], t.feats[1], byte(api.NumFeatures)} },
		"features out of row": func(t *Tree) { t.feats = []byte{t.feats[1], t.feats[0], t.feats[2]} },
		"a split twice":       func(t *Tree) { t.feats = []byte{5, 5, 5}; t.edges = make([]byte, 12) },
		"an unused split":     func(t *Tree) { t.which = make([]byte, 3) },
		"beyond the splits":   func(t *Tree) { t.which = []byte{0, 1, 3} },
		"infinite edge":       func(t *Tree) { t.edges = append(bytes.Clone(t.edges[:8]), appendFloat(nil, inf)...) },
		"nan mean":            func(t *Tree) { t.scale = appendFloat(appendFloat(nil, inf-inf), 1e-4) },
		"nan step":            func(t *Tree) { t.scale = appendFloat(appendFloat(nil, 1), inf-inf) },
		"absurd mean":         func(t *Tree) { t.scale = appendFloat(appendFloat(nil, 1e9), 0) },
		"absurd step":         func(t *Tree) { t.scale = appendFloat(appendFloat(nil, 0), 1) },
		"falling means":       func(t *Tree) { t.scale = appendFloat(appendFloat(nil, 0), -1e-4) },
		"too few leaves":      func(t *Tree) { t.means = t.means[:6] },
		"too few spreads":     func(t *Tree) { t.spread = t.spread[:3] },
		"no leaf": func(t *Tree) {
			t.nodes, t.feats, t.edges, t.which, t.means, t.spread, t.counts = nil, nil, nil, nil, nil, nil, nil
		},
		"absurd variance":  func(t *Tree) { t.spread = []byte{1, 2, 169, 3} },
		"absurd count":     func(t *Tree) { t.counts = []byte{1, 2, 32, 1} },
		"a count too many": func(t *Tree) { t.counts = append(bytes.Clone(t.counts), 1) },
		"no zone":          func(t *Tree) { t.zone = "" },
	}
	for name, do := range harm {
		tr := *smallTree(t)
		do(&tr)
		b, err := tr.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeTree(b); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	if _, err := DecodeTree(make([]byte, MaxTreeBytes+1)); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	shape, leaves := comb(MaxTreeDepth + 2)
	if _, err := newTree("a", 0, zoneGrid, shape, leaves); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("too deep: %v, want invalid", err)
	}
	// A length of four billion in a message of a few bytes must not be believed.
	bomb := []byte{treeVersion, byte(SchemaEpoch), 0xa1, 'a', 0, 0xc6, 0xff, 0xff, 0xff, 0xff, 0}
	if n := testing.AllocsPerRun(10, func() { _, _ = DecodeTree(bomb) }); n > 30 {
		t.Errorf("%v allocations for a bomb", n)
	}
}

// comb is a tree as deep as it has splits.
func comb(leaves int) (shape []split, stats []leafStat) {
	for i := range leaves - 1 {
		shape = append(shape, split{feat: 0, bin: 1, next: uint16(2*(leaves-1) - i)})
	}
	for i := range leaves {
		shape = append(shape, split{feat: leafMark, next: uint16(i)})
		stats = append(stats, leafStat{N: 20})
	}
	return shape, stats
}

// Whoever upgrades meets trees of the former schema in the pool: they are told apart from bad ones.
func TestTreesOfAnotherSchemaAreToldApart(t *testing.T) {
	for at, what := range []string{"format", "epoch"} {
		for _, by := range []byte{1, 0xff} {
			if what == "format" && by == 0xff {
				by = 0xfe // one before the oldest
			}
			other := bytes.Clone(EncodeTree(smallTree(t)))
			other[at] += by
			if _, err := DecodeTree(other); !errors.Is(err, ErrSchema) || !errors.Is(err, api.ErrInvalid) {
				t.Errorf("a tree of another %s, %d: %v", what, other[at], err)
			}
		}
	}
}

// decodeOverhead is what decoders and errors take whatever the input.
const decodeOverhead = 8 << 10

// allocated is how many bytes the process allocates while f runs.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func FuzzDecodeTree(f *testing.F) {
	for _, b := range [][]byte{EncodeTree(smallTree(f)), readFormerTree(f).Bytes} {
		f.Add(b)
		for i := 0; i < len(b); i += 5 {
			c := bytes.Clone(b)
			c[i] ^= 0x55
			f.Add(c)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var tr *Tree
		var err error
		got := allocated(func() { tr, err = DecodeTree(b) })
		for range 3 { // somebody else may allocate at the same time
			got = min(got, allocated(func() { tr, err = DecodeTree(b) }))
		}
		if limit := 2*uint64(len(b)) + decodeOverhead; got > limit && !raceOn { // the race detector allocates too
			t.Fatalf("%d bytes allocated for %d, limit %d", got, len(b), limit)
		}
		if err != nil {
			return
		}
		var x row
		for i := range x {
			x[i] = b[i%len(b)] % api.MaxBins
		}
		shape, leaf := tr.compile(zoneGrid)
		if k := walk(shape, &x); k >= len(leaf) || !wellFormed(shape, len(leaf), MaxTreeDepth, len(zoneGrid.edges)) {
			t.Fatalf("leaf %d of %d, or not a tree", k, len(leaf))
		}
	})
}

func FuzzDecodeManifest(f *testing.F) {
	m := MergePool(Manifest{}, []Update{{Zone: "a", Trees: []TreeInfo{{Digest: digestOf(1)}}, Card: Scorecard{Seq: 1}}}, 8)
	m = MergePool(m, []Update{{Zone: "b", Card: Scorecard{Seq: 1, Scores: []Score{{digestOf(1), 3}}}}}, 8)
	b, _ := EncodeManifest(m)
	f.Add(b)
	f.Add(readHex(f, "manifest-1.hex"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeManifest(b)
		if err != nil {
			return
		}
		if _, err := EncodeManifest(m); err != nil {
			t.Fatalf("a decoded manifest does not encode: %v", err)
		}
		MergePool(m, []Update{{Zone: "c", Card: Scorecard{Seq: 7}}}, 8)
	})
}

func FuzzDecodeScorecard(f *testing.F) {
	b, _ := EncodeScorecard(Scorecard{Zone: "a", Seq: 3, Samples: 60, Scores: []Score{{digestOf(1), 3}, {digestOf(2), 250}}})
	f.Add(b)
	f.Add(readHex(f, "scorecard-1.hex"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeScorecard(b)
		if err != nil {
			return
		}
		if again, err := EncodeScorecard(c); err != nil || len(again) == 0 {
			t.Fatalf("a decoded scorecard does not encode: %v", err)
		}
	})
}

func FuzzRestore(f *testing.F) {
	former := readFormerCheckpoint(f, "checkpoint-2.json")
	cfg := former.Config
	l, _ := New(cfg)
	w := newWorld(1, 2)
	for range 60 {
		w.run(l, 1, nil)
	}
	l.Adopt(1, []*Tree{smallTree(f)})
	b, err := l.Checkpoint()
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{b, former.Checkpoint, readFormerCheckpoint(f, "checkpoint-2-single.json").Checkpoint} {
		f.Add(b)
		for i := 0; i < len(b); i += len(b) / 40 {
			c := bytes.Clone(b)
			c[i] ^= 0x41
			f.Add(c)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Restore(cfg, b)
		if err != nil {
			return
		}
		newWorld(2, 3).run(l, 20, nil) // what was accepted must be usable
		l.Export(2)
		l.Scorecard()
	})
}

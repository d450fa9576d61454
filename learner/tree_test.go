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
	b, err := EncodeTree(tr)
	if err != nil {
		t.Fatal(err)
	}
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
	if v := back.leaf[walk(back.compile(zoneGrid), &x)].Mean; v != 2.25 {
		t.Errorf("warm with something missing: %v, want 2.25", v)
	}
	if back.counts[0] != 4 || back.counts[3] != 9 {
		t.Errorf("counts %v: want log2 of the samples", back.counts)
	}
}

func TestDecodeTreeRefusesWhatCouldHarm(t *testing.T) {
	harm := map[string]func(t *Tree){
		"cycle":            func(t *Tree) { t.shape[0].next = 0 },
		"shared child":     func(t *Tree) { t.shape[0].next = 3 },
		"beyond the end":   func(t *Tree) { t.shape[4].next = 60000 },
		"unknown feature":  func(t *Tree) { t.shape[0].feat = uint8(api.NumFeatures) },
		"nan mean":         func(t *Tree) { t.leaf[0].Mean = float32(math.NaN()) },
		"infinite edge":    func(t *Tree) { t.thr[0] = float32(math.Inf(1)) },
		"absurd mean":      func(t *Tree) { t.leaf[0].Mean = 1e9 },
		"negative spread":  func(t *Tree) { t.leaf[0].Variance = -1 },
		"too few leaves":   func(t *Tree) { t.leaf = t.leaf[:3] },
		"too many edges":   func(t *Tree) { t.thr = append(t.thr, 1) },
		"no zone":          func(t *Tree) { t.zone = "" },
		"a count too many": func(t *Tree) { t.counts = append(t.counts, 1) },
	}
	for name, do := range harm {
		tr := smallTree(t)
		do(tr)
		b, err := EncodeTree(tr)
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
	bomb := []byte{1, 1, 0xa1, 'a', 0, 0xc6, 0xff, 0xff, 0xff, 0xff, 0}
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
	b, err := EncodeTree(smallTree(t))
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(b)
	other[1]-- // the version, then the epoch
	if _, err := DecodeTree(other); !errors.Is(err, ErrSchema) || !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a tree of epoch %d: %v", other[1], err)
	}
}

func FuzzDecodeTree(f *testing.F) {
	tr := smallTree(f)
	b, _ := EncodeTree(tr)
	f.Add(b)
	for i := 0; i < len(b); i += 5 {
		c := bytes.Clone(b)
		c[i] ^= 0x55
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := DecodeTree(b)
		if err != nil {
			return
		}
		var x row
		for i := range x {
			x[i] = b[i%len(b)] % api.MaxBins
		}
		if k := walk(tr.compile(zoneGrid), &x); k >= len(tr.leaf) {
			t.Fatalf("leaf %d of %d", k, len(tr.leaf))
		}
	})
}

func FuzzDecodeManifest(f *testing.F) {
	m := MergePool(Manifest{}, []Update{{Zone: "a", Trees: []TreeInfo{{Digest: digestOf(1)}}, Card: Scorecard{Seq: 1}}}, 8)
	m = MergePool(m, []Update{{Zone: "b", Card: Scorecard{Seq: 1, Scores: []Score{{digestOf(1), 3}}}}}, 8)
	b, _ := EncodeManifest(m)
	f.Add(b)
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
	cfg := DefaultConfig()
	cfg.Window, cfg.Trees, cfg.ResidualTrees, cfg.Pick = 64, 2, 2, 2
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
	f.Add(b)
	for i := 0; i < len(b); i += len(b) / 40 {
		c := bytes.Clone(b)
		c[i] ^= 0x41
		f.Add(c)
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

package learner

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

// The files of testdata that end in -1 and -2 were written by the programs that wrote these versions, and stay as they are.

// formerTree is a tree of format 1 and what that program's forest made of it on the first grid.
type formerTree struct {
	Digest, Zone string
	Born         uint64
	Bytes        []byte
	Says         []struct {
		Row            string // hex
		Mean, Variance float32
	}
}

// formerCheckpoint is a checkpoint, and what that program estimated from there on while it went on learning.
type formerCheckpoint struct {
	Config     Config
	Checkpoint []byte
	Estimates  []api.Estimate
}

func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func readFormerTree(t testing.TB) (g formerTree) {
	readJSON(t, "tree-1.json", &g)
	return g
}

func readFormerCheckpoint(t testing.TB, name string) (g formerCheckpoint) {
	readJSON(t, name, &g)
	return g
}

func readHex(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A tree of format 1 says, to the bit, what it said to the program that grew it, and keeps its name.
func TestTreeOfFormat1(t *testing.T) {
	g := readFormerTree(t)
	tr, err := DecodeTree(g.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if tr.Digest() != g.Digest || tr.Zone() != g.Zone || tr.Born() != g.Born || !bytes.Equal(EncodeTree(tr), g.Bytes) {
		t.Errorf("%s of %s, born %d, encoded anew in %d bytes: want %s of %s, born %d, in the %d it came in",
			tr.Digest(), tr.Zone(), tr.Born(), len(EncodeTree(tr)), g.Digest, g.Zone, g.Born, len(g.Bytes))
	}
	shape, leaf := tr.compile(zoneGrid)
	said := map[float32]bool{}
	for _, s := range g.Says {
		var x row
		if _, err := hex.Decode(x[:], []byte(s.Row)); err != nil {
			t.Fatal(err)
		}
		got := leaf[walk(shape, &x)]
		if got != (leafOut{s.Mean, s.Variance}) {
			t.Errorf("row %s: %v, want %v, %v", s.Row, got, s.Mean, s.Variance)
		}
		said[got.Mean] = true
	}
	if len(said) < 10 {
		t.Errorf("the rows reach %d leaves only: they show little", len(said))
	}
}

// plain is smallTree in format 1.
func plain(t testing.TB) Tree {
	t.Helper()
	tr := smallTree(t)
	p := Tree{format: 1, zone: tr.zone, born: tr.born, counts: tr.counts, nodes: tr.nodes}
	shape, leaf := tr.compile(zoneGrid)
	for i, s := range shape {
		if p.marks = append(p.marks, s.feat); s.feat != leafMark {
			p.feats = append(p.feats, s.feat)
			p.edges = appendFloat(p.edges, zoneGrid.threshold(int(s.feat), s.bin))
			p.right = binary.LittleEndian.AppendUint16(p.right, shape[i].next)
		}
	}
	for _, l := range leaf {
		p.says = appendFloat(appendFloat(p.says, l.Mean), l.Variance)
	}
	return p
}

func TestDecodeTreeOfFormat1RefusesWhatCouldHarm(t *testing.T) {
	nan := float32(math.NaN())
	set := func(b []byte, i int, x float32) []byte {
		b = bytes.Clone(b)
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(x))
		return b
	}
	harm := map[string]func(t *Tree){
		"a leaf for a split": func(t *Tree) { t.marks = append([]byte{leafMark}, t.marks[1:]...) },
		"a split for a leaf": func(t *Tree) { t.marks = append(bytes.Clone(t.marks[:6]), 0) },
		"no node":            func(t *Tree) { t.marks = nil },
		"too many nodes":     func(t *Tree) { t.marks = make([]byte, MaxTreeNodes+1) },
		"unknown feature":    func(t *Tree) { t.marks = append([]byte{byte(api.NumFeatures)}, t.marks[1:]...) },
		"a cycle":            func(t *Tree) { t.right = append([]byte{0, 0}, t.right[2:]...) },
		"a shared child":     func(t *Tree) { t.right = append(bytes.Clone(t.right[:4]), 4, 0) },
		"too few children":   func(t *Tree) { t.right = t.right[:4] },
		"infinite edge":      func(t *Tree) { t.edges = set(t.edges, 1, float32(math.Inf(-1))) },
		"nan mean":           func(t *Tree) { t.says = set(t.says, 0, nan) },
		"absurd mean":        func(t *Tree) { t.says = set(t.says, 0, -31) },
		"nan variance":       func(t *Tree) { t.says = set(t.says, 3, nan) },
		"negative variance":  func(t *Tree) { t.says = set(t.says, 1, -1) },
		"absurd variance":    func(t *Tree) { t.says = set(t.says, 1, 1001) },
		"too few leaves":     func(t *Tree) { t.says = t.says[:24] },
		"half a leaf":        func(t *Tree) { t.says = t.says[:28] },
		"absurd count":       func(t *Tree) { t.counts = []byte{1, 2, 32, 1} },
		"no zone":            func(t *Tree) { t.zone = "" },
	}
	p := plain(t)
	if b, _ := p.encode(); b == nil {
		t.Fatal("no encoding")
	} else if _, err := DecodeTree(b); err != nil {
		t.Fatalf("the tree that is to be harmed: %v", err)
	}
	for name, do := range harm {
		p := plain(t)
		do(&p)
		b, err := p.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeTree(b); !errors.Is(err, api.ErrInvalid) || errors.Is(err, ErrSchema) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	// Another feature schema is not another format: what its features mean is not known here.
	b, _ := p.encode()
	b[1] = byte(SchemaEpoch - 1)
	if _, err := DecodeTree(b); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "feature schema 1, this program evaluates 2") {
		t.Errorf("format 1, schema 1: %v, want both schemas named", err)
	}
}

// The largest tree that format 1 allowed is still read.
func TestLargestTreeOfFormat1(t *testing.T) {
	const leaves = (MaxTreeNodes + 1) / 2
	p := Tree{format: 1, zone: strings.Repeat("z", api.MaxNameLen), born: math.MaxUint64, counts: make([]byte, leaves), says: make([]byte, 8*leaves)}
	shape, _ := chain(leaves)
	for _, s := range shape {
		if p.marks = append(p.marks, s.feat); s.feat != leafMark {
			p.edges = appendFloat(p.edges, 1)
			p.right = binary.LittleEndian.AppendUint16(p.right, s.next)
		}
	}
	b, err := p.encode()
	if err != nil {
		t.Fatal(err)
	}
	if tr, err := DecodeTree(b); err != nil || tr.Leaves() != leaves {
		t.Errorf("%d bytes: %v", len(b), err)
	}
}

// A checkpoint of version 2 is the model that it was: it estimates what its program went on to estimate, through several
// installations of trees and learning in between. (Sums may be in another order: hence not to the last bit.)
func TestCheckpointOfVersion2(t *testing.T) {
	for _, name := range []string{"checkpoint-2.json", "checkpoint-2-single.json"} {
		g := readFormerCheckpoint(t, name)
		l, err := Restore(g.Config, g.Checkpoint)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if l.Regrow() != g.Config.Regrow || l.ens.grid != zoneGrid || l.former != nil || len(l.ens.pool) == 0 {
			t.Errorf("%s: pace %d, grid %d, pool of %d", name, l.Regrow(), l.ens.grid.epoch, len(l.ens.pool))
		}
		now, err := l.Checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Restore(g.Config, now)
		if err != nil || again.Digest() != l.Digest() {
			t.Errorf("%s: does not survive version %d: %v", name, checkpointVersion, err)
		}
		w, installed := newWorld(13, 3), 0
		for i, want := range g.Estimates {
			c := w.call()
			got := w.estimate(l, &c)
			off := max(math.Abs(got.Mu-want.Mu), math.Abs(got.Sigma/want.Sigma-1), math.Abs(got.UpperMs/want.UpperMs-1))
			if got.Mu, got.Sigma, got.UpperMs = want.Mu, want.Sigma, want.UpperMs; got != want || !(off <= 1e-12) {
				t.Errorf("%s: estimate %d: %+v, off by %v, want %+v", name, i, got, off, want)
				break
			}
			installed += bit(l.JobsDue())
			l.Learn(w.sample(&c, &want))
		}
		if installed < 2 {
			t.Errorf("%s: %d trees were installed: want some, or it shows little", name, installed)
		}
		other := g.Config
		other.Without = PartDrift
		if _, err := Restore(other, g.Checkpoint); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: a config that leaves parts out: %v, want invalid", name, err)
		}
	}
}

// Each format reads the version before, and says of any other what it is and what would be right.
func TestVersions(t *testing.T) {
	cfg := readFormerCheckpoint(t, "checkpoint-2.json").Config
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, _ := l.Checkpoint()
	card, _ := EncodeScorecard(Scorecard{Zone: "a"})
	manifest, _ := EncodeManifest(Manifest{})
	for _, f := range []struct {
		name      string
		now       byte
		written   []byte
		before    []byte
		read      func(b []byte) error
		wantNewer string
	}{
		{"tree", treeVersion, EncodeTree(smallTree(t)), readFormerTree(t).Bytes, func(b []byte) error { _, err := DecodeTree(b); return err }, "format 3, this program reads 1-2"},
		{"checkpoint", checkpointVersion, checkpoint, readFormerCheckpoint(t, "checkpoint-2.json").Checkpoint, func(b []byte) error { _, err := Restore(cfg, b); return err }, "version 4, want 2-3"},
		{"scorecard", scorecardVersion, card, readHex(t, "scorecard-1.hex"), func(b []byte) error { _, err := DecodeScorecard(b); return err }, "version 3, want 1-2"},
		{"manifest", manifestVersion, manifest, readHex(t, "manifest-1.hex"), func(b []byte) error { _, err := DecodeManifest(b); return err }, "version 3, want 1-2"},
	} {
		if f.written[0] != f.now || f.before[0] != f.now-1 {
			t.Errorf("%s: files of versions %d and %d, want %d and %d", f.name, f.written[0], f.before[0], f.now, f.now-1)
		}
		if err := f.read(f.written); err != nil {
			t.Errorf("%s of this version: %v", f.name, err)
		}
		if err := f.read(f.before); err != nil {
			t.Errorf("%s of the version before: %v", f.name, err)
		}
		newer := bytes.Clone(f.written)
		newer[0]++
		if err := f.read(newer); !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), f.wantNewer) {
			t.Errorf("%s of a newer version: %v, want %q", f.name, err, f.wantNewer)
		}
	}
}

// What the version before left out is what a new one would have.
func TestManifestAndScorecardOfVersion1(t *testing.T) {
	m, err := DecodeManifest(readHex(t, "manifest-1.hex"))
	if err != nil || m.Version != 2 || len(m.Entries) != 1 || m.Entries[0].Votes != 1 || len(m.Ballots) != 2 || m.grid() != zoneGrid || m.Sketch.Counts != nil {
		t.Errorf("manifest %+v: %v", m, err)
	}
	c, err := DecodeScorecard(readHex(t, "scorecard-1.hex"))
	if err != nil || c.Zone != "b" || c.Seq != 9 || c.Samples != 60 || len(c.Scores) != 2 || c.Scores[1].Error != 250 || c.Sketch.Counts != nil {
		t.Errorf("scorecard %+v: %v", c, err)
	}
}

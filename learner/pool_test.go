package learner

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
)

func digestOf(i int) string { return fmt.Sprintf("%064x", i) }

// drawUpdates draws a round: some zones, some of them twice, trees and scores that overlap.
func drawUpdates(t *rapid.T, round int) []Update {
	var all []Update
	for i := range rapid.IntRange(0, 8).Draw(t, "updates") {
		zone := fmt.Sprintf("z%d", rapid.IntRange(0, 5).Draw(t, "zone"))
		u := Update{Zone: zone, Card: Scorecard{Zone: zone, Seq: uint64(round*3 + rapid.IntRange(0, 2).Draw(t, "seq"))}}
		for range rapid.IntRange(0, 3).Draw(t, "trees") {
			u.Trees = append(u.Trees, TreeInfo{Digest: digestOf(rapid.IntRange(0, 60).Draw(t, "tree")), Zone: zone, Born: uint64(i)})
		}
		if rapid.Bool().Draw(t, "sketched") {
			u.Card.Sketch = Sketch{Epoch: uint32(rapid.IntRange(0, 1).Draw(t, "grid")), Counts: make([]uint32, sketchLen)}
			for f := range int(api.NumFeatures) {
				b := rapid.IntRange(0, 40).Draw(t, "bin")
				u.Card.Sketch.Counts[f*api.MaxBins+b] = 9000
				u.Card.Sketch.Counts[f*api.MaxBins+b+1] = 30
			}
		}
		for range rapid.IntRange(0, 40).Draw(t, "scores") {
			u.Card.Scores = append(u.Card.Scores, Score{digestOf(rapid.IntRange(0, 60).Draw(t, "scored")), rapid.Byte().Draw(t, "error")})
		}
		all = append(all, u)
	}
	return all
}

func TestMergeIsOrderFreeIdempotentAndBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m Manifest
		limit := rapid.IntRange(1, 20).Draw(t, "limit")
		for round := range rapid.IntRange(1, 12).Draw(t, "rounds") {
			set := drawUpdates(t, round)
			next := MergePool(m, set, limit)
			shuffled := rapid.Permutation(set).Draw(t, "order")
			if got := MergePool(m, shuffled, limit); !reflect.DeepEqual(got, next) {
				t.Fatalf("another order gives another manifest:\n%+v\n%+v", got, next)
			}
			if got := MergePool(next, shuffled, limit); !reflect.DeepEqual(got, next) {
				t.Fatalf("merging the same set again changes the manifest:\n%+v\n%+v", got, next)
			}
			if len(next.Entries) > limit {
				t.Fatalf("%d entries, limit %d", len(next.Entries), limit)
			}
			b, err := EncodeManifest(next)
			if err != nil {
				t.Fatal(err)
			}
			back, err := DecodeManifest(b)
			if err != nil || back.Digest() != next.Digest() {
				t.Fatalf("manifest does not survive its encoding: %v", err)
			}
			m = next
		}
	})
}

func TestMergeKeepsRareKindsAndDropsTheUnwanted(t *testing.T) {
	// Ten zones like each other's trees, the newer the better; one zone with other hardware has one tree that only it wants.
	var m Manifest
	for round := range 30 {
		var set []Update
		for z := range 10 {
			u := Update{Zone: fmt.Sprintf("common%d", z), Card: Scorecard{Seq: uint64(round + 1)}}
			u.Trees = []TreeInfo{{Digest: digestOf(1000 + round*100 + z)}}
			for _, e := range m.Entries {
				err := uint8(50 + m.Version - e.Since)
				if e.Zone == "rare" {
					err = 200
				}
				u.Card.Scores = append(u.Card.Scores, Score{e.Digest, err})
			}
			set = append(set, u)
		}
		rare := Update{Zone: "rare", Card: Scorecard{Seq: uint64(round + 1)}}
		if round == 0 {
			rare.Trees = []TreeInfo{{Digest: digestOf(1)}}
		}
		rare.Card.Scores = []Score{{digestOf(1), 10}}
		m = MergePool(m, append(set, rare), 40)
	}
	if len(m.Entries) != 40 || m.Version != 30 {
		t.Fatalf("%d entries at version %d", len(m.Entries), m.Version)
	}
	if !slices.ContainsFunc(m.Entries, func(e PoolEntry) bool { return e.Digest == digestOf(1) && e.Votes == 1 }) {
		t.Error("the rare zone's tree was voted away")
	}
	fresh := 0
	for _, e := range m.Entries {
		if e.Since+halfLife >= m.Version {
			fresh++
		}
	}
	if fresh < 20 {
		t.Errorf("only %d of 40 trees are young: old ones never leave", fresh)
	}
}

func TestMergeRefusesNonsense(t *testing.T) {
	prev := MergePool(Manifest{}, []Update{{Zone: "a", Trees: []TreeInfo{{Digest: digestOf(1)}}, Card: Scorecard{Seq: 1}}}, 8)
	if got := MergePool(prev, nil, 8); !reflect.DeepEqual(got, prev) {
		t.Error("no updates change the manifest")
	}
	flood := Update{Zone: "b", Card: Scorecard{Seq: 1}}
	for i := range 50 {
		flood.Trees = append(flood.Trees, TreeInfo{Digest: digestOf(100 + i), Zone: "a"})
	}
	flood.Trees = append(flood.Trees, TreeInfo{Digest: "../../etc"}, TreeInfo{Digest: digestOf(1)})
	m := MergePool(prev, []Update{flood, {Zone: "Not A Name", Trees: []TreeInfo{{Digest: digestOf(9)}}, Card: Scorecard{Seq: 1}}}, 8)
	if len(m.Entries) != 3 {
		t.Errorf("%d entries, want 1 of a and 2 of b: %+v", len(m.Entries), m.Entries)
	}
	for _, e := range m.Entries {
		if want := map[bool]string{true: "a", false: "b"}[e.Digest == digestOf(1)]; e.Zone != want {
			t.Errorf("%s counts for zone %s", e.Digest[58:], e.Zone)
		}
	}
}

func TestFullManifestFitsItsLimit(t *testing.T) {
	var m Manifest
	r := rand.New(rand.NewPCG(1, 1))
	for round := range 2 {
		var set []Update
		for z := range 1500 {
			u := Update{Zone: fmt.Sprintf("%s-%04d", strings.Repeat("z", 59), z), Card: Scorecard{Seq: 1<<60 + uint64(round)}}
			u.Trees = []TreeInfo{{Digest: fmt.Sprintf("%016x%048x", r.Uint64(), z), Born: 1 << 60}}
			for _, e := range m.Entries {
				u.Card.Scores = append(u.Card.Scores, Score{e.Digest, uint8(r.Uint32())})
			}
			set = append(set, u)
		}
		m = MergePool(m, set, MaxPool)
	}
	b, err := EncodeManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes for %d trees and %d ballots", len(b), len(m.Entries), len(m.Ballots))
	if back, err := DecodeManifest(b); err != nil || !reflect.DeepEqual(back, m) {
		t.Errorf("manifest does not survive its encoding: %v", err)
	}
}

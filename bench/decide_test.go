package bench

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rubato-faas/rubato/internal/racetest"
)

// Allocations are counted of hits and of misses, and the larger stands for a decision.
func TestDecideCountsAllocationsOfBothKinds(t *testing.T) {
	racetest.SkipSingle(t)
	if testing.Short() {
		t.Skip("learns a full forest")
	}
	o := DefaultDecideOptions()
	o.Nodes, o.Decisions = []int{100}, 200
	r, err := Decide(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, x := range r.Results {
		got[x.Name] = x.Value
	}
	for _, name := range strings.Fields("allocs hit_allocs miss_allocs hit_p50_us hit_p99_us hit_p999_us miss_p50_us miss_p99_us miss_p999_us hit_rate hit_per_s per_s") {
		if _, ok := got["n100."+name]; !ok {
			t.Errorf("no %s in %v", name, r.Results)
		}
	}
	if got["n100.allocs"] != max(got["n100.hit_allocs"], got["n100.miss_allocs"]) {
		t.Errorf("%v", got)
	}
	if got["n100.allocs"] > .5 { // no allocation before the dispatch
		t.Errorf("%v", got)
	}

	// Both kinds were there to be counted.
	w := newDecideWorld(o)
	if err := w.train(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if err := w.build(100); err != nil {
		t.Fatal(err)
	}
	hits, misses := w.scratch.Hits, w.scratch.Misses
	w.allocs(100)
	if hits, misses = w.scratch.Hits-hits, w.scratch.Misses-misses; hits < 30 || misses < 80 {
		t.Errorf("%d hits and %d misses", hits, misses)
	}
}

// The table of the simulator's benchmark says on how many of its samples it learned.
func TestSimSaysOneInHowManySamplesIsLearned(t *testing.T) {
	o := DefaultSimOptions()
	o.Nodes, o.Small, o.ZoneNodes, o.Rate, o.Seconds, o.Functions, o.Learn = 8, 4, 4, 40, 1, 4, 3
	r, err := Sim(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	if err := r.WriteText(&table); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("one in k = 3 samples, but on all of a zone's first %d", simEager); !strings.Contains(table.String(), want) {
		t.Errorf("the table lacks %q:\n%s", want, &table)
	}
}

package lab

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDisasters: in every disaster, with every seed, the naive rule fails and the product's holds. The scenarios' parameters follow
// from what they are to show. Where a better scheduler let a naive rule get away, its scenario was changed (spiral-speculation, no-deadline,
// model-sign), never the margin of the product's rule.
func TestDisasters(t *testing.T) {
	if underRace {
		t.Skip("one zone each, in one goroutine: no races to look for, and ten times as slow")
	}
	seeds := disasterSeeds
	if testing.Short() {
		seeds = seeds[:1]
	}
	var known Known
	var scenarios []*Scenario
	var faced [][]Faced
	for i := range Disasters() {
		d := &Disasters()[i]
		s := scenarioOf(t, d)
		scenarios, faced = append(scenarios, s), append(faced, nil)
		t.Run(strings.ReplaceAll(d.Name, " ", "-"), func(t *testing.T) {
			runs, err := d.Face(t.Context(), s, seeds, &known)
			if err != nil {
				t.Fatal(err)
			}
			faced[i] = runs
			for k := range runs {
				f := &runs[k]
				t.Logf("seed %d: %s %+v", f.Seed, d.naive.name, f.Naive)
				t.Logf("seed %d: rubato %+v", f.Seed, f.Ours)
				if f.Beside != nil {
					t.Logf("seed %d: %s %+v", f.Seed, d.beside.name, *f.Beside)
				}
				if !d.Failed(f) {
					t.Errorf("seed %d: the naive rule does not fail: want that %s", f.Seed, d.Fails)
				}
				if !d.Held(f) {
					t.Errorf("seed %d: rubato does not hold: want that %s", f.Seed, d.Holds)
				}
			}
		})
	}
	var page bytes.Buffer
	p, _ := tinyExperiments(t)
	if err := WriteDisasters(&page, p, scenarios, faced); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"each of seeds 1-5 by a test", "Seeds 1001-1003 are published; seeds 1-1000 were looked at"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for i := range Disasters() {
		if d := &Disasters()[i]; !strings.Contains(page.String(), "## "+d.Name+"\n"+d.Question) || strings.Contains(page.String(), "NaN") {
			t.Errorf("the page lacks %q, or has figures that are none:\n%s", d.Name, page.String())
		}
	}
}

func scenarioOf(t *testing.T, d *Disaster) *Scenario {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "scenarios", "disasters", d.Scenario))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

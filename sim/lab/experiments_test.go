package lab

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
)

const tinyPlan = `
first_seed: 1001
seeds: 3
policies: [rubato, least-loaded, oracle]
aside: [oracle, averages, rubato=0s]
short: {seeds: 1, loads: [.5], policies: [rubato, least-loaded]}
experiments:
  - {name: tiny, question: "Does it run?", family: data, scenario: tiny.yaml, loads: [.3, .6]}
`

const tinyScenario = `
name: tiny
about: one function on two nodes
duration: 4s
warmup: 1s
functions:
  - {name: f, memory_mb: 128, run: 10ms, spread: .2, calls: {per_s: 50}}
zones:
  - {name: z, nodes: [{class: a, count: 2, slots: 2, cores: 2, memory_mb: 1024, cache: 10MB}]}
`

func tinyExperiments(t *testing.T) (*Plan, *Scenario) {
	t.Helper()
	p, err := ReadPlan(strings.NewReader(tinyPlan))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Read(strings.NewReader(tinyScenario))
	if err != nil {
		t.Fatal(err)
	}
	return p, s
}

func TestExperiment(t *testing.T) {
	p, s := tinyExperiments(t)
	var cells []*Cell
	for _, load := range p.Experiments[0].Loads {
		c, err := RunCell(t.Context(), s, p, &p.Experiments[0], load, nil)
		if err != nil {
			t.Fatal(err)
		}
		cells = append(cells, c)
	}
	half, whole := cells[0].Result.Rows[0].Calls, cells[1].Result.Rows[0].Calls
	if half < whole*4/10 || half > whole*6/10 {
		t.Errorf("%d calls at half the rate, %d at the whole", half, whole)
	}
	if best, _ := cells[1].best(meanMs, p.baseline); best.Policy != "least-loaded" {
		t.Errorf("best baseline %s: the oracle is none", best.Policy)
	}
	for k := range cells[1].Series {
		for _, of := range []func(*Figure) float64{meanMs, p99Ms, execMs} {
			if r := cells[1].over(k, of); r.Mean < .1 || r.Mean > 2 || r.Median > r.Worst || k == 0 && r.Mean != 1 {
				t.Errorf("%+v", r)
			}
		}
	}
	// Four slots, 10 ms a call and a spread of .2: 100 calls a second are a quarter of what they can do.
	if got := cells[0].Rate * 50; got < 110 || got > 120 {
		t.Errorf("%v calls a second make a load of .3, want 117.6", got)
	}
	var summary bytes.Buffer
	if err := WriteSummary(&summary, p, []Ran{{&p.Experiments[0], cells}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| D1 |", "| D2 |", "| D3 |", "| D4 |", "| D5 |", "| D6 |", "| [tiny](tiny.md) |"} {
		if !strings.Contains(summary.String(), want) {
			t.Errorf("the summary lacks %q:\n%s", want, summary.String())
		}
	}
	if strings.Contains(summary.String(), "NaN") || strings.Contains(summary.String(), "Inf") {
		t.Error(summary.String())
	}
	var page bytes.Buffer
	if err := WriteMarkdown(&page, &p.Experiments[0], s, p, cells, []string{"tiny-mean.svg"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# tiny", "Does it run?", "Seeds 1001-1003", "| least-loaded |", "### Load 0.3", "![tiny-mean.svg]", "best by p99"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, page.String())
		}
	}
	if b := p.Brief(); b.Seeds != 1 || len(b.Policies) != 2 || len(b.Experiments[0].Loads) != 1 || len(p.Experiments[0].Loads) != 2 {
		t.Errorf("short form %+v", b)
	}
}

// The plan that the project ships can be read, and so can all of its scenarios.
func TestShippedPlan(t *testing.T) {
	f, err := os.Open("../../experiments/plan.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := ReadPlan(f)
	if err != nil {
		t.Fatal(err)
	}
	for i := range p.Experiments {
		e := &p.Experiments[i]
		f, err := os.Open(filepath.Join("../../scenarios", e.Scenario))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Read(f); err != nil {
			t.Errorf("%s: %v", e.Name, err)
		}
		f.Close()
	}
}

// An experiment's late reaches its world: with every word of a node half a second late, calls that find the slots busy wait longer.
func TestExperimentIsLate(t *testing.T) {
	p, s := tinyExperiments(t)
	e := p.Experiments[0]
	var got [2]float64
	for i := range got {
		e.Late = Duration(i) * Duration(500*time.Millisecond)
		c, err := RunCell(t.Context(), s, p, &e, .3, nil)
		if err != nil {
			t.Fatal(err)
		}
		got[i] = c.Series[0].Figures[0].MeanMs
	}
	if got[1] < 2*got[0] || s.Network.Late != 0 {
		t.Errorf("means of %v ms, and the scenario's late is %v", got, s.Network.Late)
	}
}

func TestPlanRefusesNonsense(t *testing.T) {
	for name, change := range map[string][2]string{
		"an unknown key":  {"seeds: 3", "sedes: 3"},
		"no seeds":        {"seeds: 3", "seeds: 0"},
		"unknown policy":  {"least-loaded, oracle", "least-loaded, best-of-all"},
		"one policy":      {"[rubato, least-loaded, oracle]", "[rubato]"},
		"no load":         {"loads: [.3, .6]", "loads: []"},
		"a negative load": {"loads: [.3, .6]", "loads: [-1]"},
		"no such family":  {"family: data", "family: friends"},
		"a bad folder":    {"seeds: 3", "seeds: 3\ndisasters: ../.."},
		"a bad name":      {"name: tiny", "name: \"../tiny\""},
		"too late":        {"family: data", "family: data, late: 2m"},
		"one name twice":  {"experiments:", "experiments:\n  - {name: tiny, question: \"Again?\", family: data, scenario: tiny.yaml, loads: [.3]}"},
	} {
		if _, err := ReadPlan(strings.NewReader(strings.Replace(tinyPlan, change[0], change[1], 1))); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}

func FuzzReadPlan(f *testing.F) {
	f.Add(tinyPlan)
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := ReadPlan(strings.NewReader(text)); err == nil {
			p.Brief()
		}
	})
}

// TestHeld: between two loads the tail is taken to grow linearly.
func TestHeld(t *testing.T) {
	cell := func(load, p99 float64) *Cell {
		return &Cell{Load: load, Series: []Series{{"rubato", []Figure{{P99Ms: p99}}}}}
	}
	of := []*Cell{cell(.2, 10), cell(.4, 20), cell(.8, 60)}
	for limit, want := range map[float64]float64{5: 0, 10: .2, 15: .3, 20: .4, 40: .6, 100: .8} {
		if got := held(of, 0, limit); got < want-1e-9 || got > want+1e-9 {
			t.Errorf("limit %v: held %v, want %v", limit, got, want)
		}
	}
}

package lab

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

const tinyPlan = `
first_seed: 1001
seeds: 3
policies: [rubato, least-loaded, oracle]
short: {seeds: 1, rates: [1], policies: [rubato, least-loaded]}
experiments:
  - {name: tiny, question: "Does it run?", scenario: tiny.yaml, rates: [.5, 1]}
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

func TestExperiment(t *testing.T) {
	p, err := ReadPlan(strings.NewReader(tinyPlan))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Read(strings.NewReader(tinyScenario))
	if err != nil {
		t.Fatal(err)
	}
	var cells []*Cell
	for _, rate := range p.Experiments[0].Rates {
		c, err := RunCell(t.Context(), s, rate, p, nil)
		if err != nil {
			t.Fatal(err)
		}
		cells = append(cells, c)
	}
	half, whole := cells[0].Result.Rows[0].Calls, cells[1].Result.Rows[0].Calls
	if half < whole*4/10 || half > whole*6/10 {
		t.Errorf("%d calls at half the rate, %d at the whole", half, whole)
	}
	if len(cells[1].Ratios) != 2 || cells[1].Best().Policy != "least-loaded" {
		t.Errorf("ratios %+v, best baseline %s: the oracle is none", cells[1].Ratios, cells[1].Best().Policy)
	}
	for _, x := range cells[1].Ratios {
		if x.Mean < .1 || x.Mean > 2 || x.MeanMedian > x.MeanWorst || x.P99 <= 0 {
			t.Errorf("ratio %+v", x)
		}
	}
	var page bytes.Buffer
	if err := WriteMarkdown(&page, &p.Experiments[0], s, p, cells, []string{"tiny-mean.svg"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# tiny", "Does it run?", "Seeds 1001-1003", "| least-loaded |", "### 0.5 x", "![tiny-mean.svg]", "best baseline"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, page.String())
		}
	}
	if b := p.Brief(); b.Seeds != 1 || len(b.Policies) != 2 || len(b.Experiments[0].Rates) != 1 || len(p.Experiments[0].Rates) != 2 {
		t.Errorf("short form %+v", b)
	}
}

func TestPlanRefusesNonsense(t *testing.T) {
	for name, change := range map[string][2]string{
		"an unknown key":  {"seeds: 3", "sedes: 3"},
		"no seeds":        {"seeds: 3", "seeds: 0"},
		"unknown policy":  {"least-loaded, oracle", "least-loaded, best-of-all"},
		"one policy":      {"[rubato, least-loaded, oracle]", "[rubato]"},
		"no rate":         {"rates: [.5, 1]", "rates: []"},
		"a negative rate": {"rates: [.5, 1]", "rates: [-1]"},
		"a bad name":      {"name: tiny", "name: \"../tiny\""},
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

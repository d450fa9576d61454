package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
)

const tinyPlan = `
first_seed: 1001
tuned_on: 1-1000
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
	for _, want := range []string{"# tiny", "Does it run?", "Seeds 1001-1003 are published; seeds 1-1000 were looked at while the rules were tuned.", "and all refused calls", "| least-loaded |", "### Load 0.3", "![tiny-mean.svg]", "best by p99", "\n## Conclusion\nUnder rubato calls take ", "in the mean over 2 loads; at the worst, "} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, page.String())
		}
	}
	if b := p.Brief(); b.Seeds != 1 || len(b.Policies) != 2 || len(b.Experiments[0].Loads) != 1 || len(p.Experiments[0].Loads) != 2 {
		t.Errorf("short form %+v", b)
	}
}

// An experiment may have more seeds than the others, and all pages say so.
func TestSeedsOfAnExperiment(t *testing.T) {
	p := &Plan{FirstSeed: 11, Seeds: 3, TunedOn: "1-10", Short: Short{Seeds: 2}, Experiments: []Experiment{{Name: "usual"}, {Name: "wide", Seeds: 5}}}
	usual, wide := &p.Experiments[0], &p.Experiments[1]
	if p.SeedsOf(usual) != 3 || p.SeedsOf(wide) != 5 {
		t.Errorf("%d and %d seeds", p.SeedsOf(usual), p.SeedsOf(wide))
	}
	const tuned = " are published; seeds 1-10 were looked at while the rules were tuned."
	for want, got := range map[string]string{
		"Seeds 11-13 (wide: 11-15)" + tuned: p.seeds(), "Seeds 11-13" + tuned: p.seedsFor(usual), "Seeds 11-15" + tuned: p.seedsFor(wide),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if b := p.Brief(); b.SeedsOf(&b.Experiments[1]) != 2 {
		t.Errorf("%d seeds in the short form", b.SeedsOf(&b.Experiments[1]))
	}
}

// shipped reads a plan of the project.
func shipped(t *testing.T, name string) *Plan {
	t.Helper()
	f, err := os.Open(filepath.Join("../../experiments", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := ReadPlan(f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// waitOf takes "fixed-delay=25ms" apart; a policy without a wait of its own has 0.
func waitOf(t *testing.T, name string) (rule string, wait time.Duration) {
	t.Helper()
	rule, text, found := strings.Cut(name, "=")
	if !found {
		return rule, 0
	}
	wait, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return rule, wait
}

// The plan that the project ships can be read, and so can all of its scenarios.
func TestShippedPlan(t *testing.T) {
	p, tuning := shipped(t, "plan.yaml"), shipped(t, "tuning.yaml")
	// Waits are among those that were tried, on seeds that are not published.
	if last := tuning.FirstSeed + uint64(tuning.Seeds) - 1; last >= p.FirstSeed {
		t.Errorf("waits are tuned on seeds to %d, published from %d on", last, p.FirstSeed)
	}
	tried := map[string]map[string][]time.Duration{} // waits by scenario and rule
	for i := range tuning.Experiments {
		e := &tuning.Experiments[i]
		if !slices.ContainsFunc(p.Experiments, func(x Experiment) bool { return x.Scenario == e.Scenario && x.Family == e.Family }) {
			t.Errorf("%s is tuned, and not in the plan", e.Name)
		}
		if tried[e.Scenario] == nil {
			tried[e.Scenario] = map[string][]time.Duration{}
		}
		for _, name := range tuning.PoliciesOf(e) {
			rule, wait := waitOf(t, name)
			tried[e.Scenario][rule] = append(tried[e.Scenario][rule], wait)
		}
	}
	for i := range p.Experiments {
		e := &p.Experiments[i]
		if e.Family == "no-gain" {
			continue
		}
		if tried[e.Scenario] == nil {
			t.Errorf("%s: no waits were tried", e.Name)
		}
		kinds := map[string]int{}
		for _, name := range p.PoliciesOf(e) {
			rule, wait := waitOf(t, name)
			if wait == 0 {
				continue
			}
			kinds[rule]++
			others := tried[e.Scenario][rule]
			if !slices.Contains(others, wait) {
				t.Errorf("%s: %s is not among what was tried", e.Name, name)
			} else if wait == slices.Max(others) || wait == slices.Min(others) && wait > time.Millisecond {
				t.Errorf("%s: of the waits that were tried %s is an outermost one: a better one may lie beyond", e.Name, name)
			}
		}
		if kinds["fixed-delay"] < 2 || kinds["fixed-delay-matched"] < 1 {
			t.Errorf("%s: %v, want the two best waits, and the best one of the matched kind", e.Name, kinds)
		}
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

// An experiment's late reaches its world: with every word of a node half a second late, calls that find the slots busy wait longer,
// beyond what the answer itself is late by.
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

// Where answers are late, tables and ratios tell rules apart all the same; the page says that the lateness is left out, and what the
// guard did.
func TestLateAnswersHideNothing(t *testing.T) {
	p, err := ReadPlan(strings.NewReader(strings.NewReplacer("[rubato, least-loaded, oracle]", "[rubato, rubato=0s, random, oracle]", "family: data", "family: no-gain, late: 20s", "loads: [.3, .6]", "loads: [.0005]").Replace(tinyPlan)))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Read(strings.NewReader(strings.NewReplacer("duration: 4s", "duration: 60s\nscheduler: {node_timeout: 30s}", "slots: 2, cores: 2", "slots: 64, cores: 64, speed: {cpu: .5}", "memory_mb: 1024", "memory_mb: 16384").Replace(tinyScenario)))
	if err != nil {
		t.Fatal(err)
	}
	e := &p.Experiments[0]
	c, err := RunCell(t.Context(), s, p, e, .0005, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, r := range c.Result.Rows { // a call waits, runs, and has a message each way
		if over := r.MeanMs - r.ExecMeanMs - r.DelayMeanMs - r.QueueMeanMs; over < 0 || over > 5 || c.Series[k].Figures[0].MeanMs > 10_000 {
			t.Errorf("%s: a mean of %v ms, %v beyond waiting and running; figures %+v", r.Policy, r.MeanMs, over, c.Series[k].Figures)
		}
	}
	if r := c.Result.Rows[2]; r.Policy != "random" || r.MeanMs > 100 || r.P99Ms > 1000 {
		t.Errorf("%s: mean %v ms, p99 %v, want about 20 and a cold start", r.Policy, r.MeanMs, r.P99Ms)
	}
	for i, r := range []Run{{WaitingStopped: 1, WaitsJudged: 3}, {WaitingStopped: 2, WaitingResumed: 2, WaitsJudged: 40}, {WaitsJudged: 50}} {
		r.Policy = "rubato"
		c.Result.Runs[i] = r
	}
	c.Result.Rows[0].Delayed = 77
	var page bytes.Buffer
	if err := WriteMarkdown(&page, e, s, p, []*Cell{c}, nil); err != nil {
		t.Fatal(err)
	}
	calls := c.Result.Rows[0].Calls
	for _, want := range []string{
		"Times leave out that the answer itself is", fmt.Sprintf("| 0.0005 | rubato | 77 of %d | 31 | 3 | 2 | 2 of 3 | 1 |\n| 0.0005 | rubato=0s | 0 of %d | 0 | 0 | 0 | 0 of 3 | 0 |\n| 0.0005 | oracle |", calls, calls),
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, page.String())
		}
	}
	e.Family = "data"
	page.Reset()
	if err := WriteMarkdown(&page, e, s, p, []*Cell{c}, nil); err != nil || strings.Contains(page.String(), "The guard") {
		t.Errorf("%v, or a guard where waiting is to win", err)
	}
}

// A run tells what the guards of its zones did: where predictions are wrong by factors, each node's in its way, waiting loses.
func TestRunsTellWhatTheGuardDid(t *testing.T) {
	s, err := Read(strings.NewReader(`
name: wrong
duration: 30s
learn: {noise: 2}
functions:
  - {name: f, memory_mb: 128, run: 50ms, spread: .2, prepare: 0s, start: 0s, calls: {per_s: 120}}
zones:
  - {name: z, nodes: [{class: a, count: 12, slots: 1, cores: 1, memory_mb: 1024, cache: 10MB}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := Compare(t.Context(), s, policies(t, "oracle", "metronome"), []uint64{1, 2, 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	stopped := uint64(0)
	for i := range r.Runs {
		run := &r.Runs[i]
		if stopped += run.WaitingStopped; run.WaitingResumed > run.WaitingStopped || run.Policy == "metronome" && run.WaitingStopped+run.WaitsJudged > 0 || run.Policy == "oracle" && run.WaitingStopped == 0 && run.WaitsJudged < 50 {
			t.Errorf("%s, seed %d: waiting was stopped %d times and returned %d, %d calls judged", run.Policy, run.Seed, run.WaitingStopped, run.WaitingResumed, run.WaitsJudged)
		}
	}
	if stopped == 0 {
		t.Error("waiting was never stopped")
	}
}

// A cell that was kept is drawn as it was when it was run.
func TestKeptCellsAreDrawn(t *testing.T) {
	p, s := tinyExperiments(t)
	c, err := RunCell(t.Context(), s, p, &p.Experiments[0], .3, nil)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ReadCell(kept)
	if err != nil {
		t.Fatal(err)
	}
	draw := func(c *Cell) map[string]*file {
		all := map[string]*file{}
		if err := Plots(c.Result, func(name string) (io.WriteCloser, error) { all[name] = &file{}; return all[name], nil }); err != nil {
			t.Fatal(err)
		}
		return all
	}
	first, second := draw(c), draw(again)
	for _, name := range Plotted {
		name = "tiny-" + name + ".svg"
		if a, b := first[name], second[name]; a == nil || b == nil || a.Len() < 1000 || a.String() != b.String() {
			t.Errorf("%s is not what it was", name)
		}
	}
	for _, bad := range []string{"", "{}", strings.Replace(string(kept), `"curves"`, `"arches"`, 1)} {
		if _, err := ReadCell([]byte(bad)); err == nil {
			t.Errorf("%.40q was taken for a cell", bad)
		}
	}
}

// ranOf makes an experiment of cells with these p99s and means: by load, then policy.
func ranOf(family string, policies []string, loads []float64, ms ...[]float64) Ran {
	e := Ran{Experiment: &Experiment{Name: family, Family: family}}
	for i, load := range loads {
		c := &Cell{Load: load}
		for k, name := range policies {
			c.Series = append(c.Series, Series{name, []Figure{{MeanMs: ms[i][k], P99Ms: ms[i][k], ExecMs: 1}}})
		}
		e.Cells = append(e.Cells, c)
	}
	return e
}

// An experiment of a family of which another one was run, with fewer policies and at the same loads, is none of the other's curve.
func TestHeldLoadIsOfOneExperiment(t *testing.T) {
	p := &Plan{FirstSeed: 7, Seeds: 1, TunedOn: "1-6", Policies: []string{"rubato"}}
	first := ranOf("data", []string{"rubato", "metronome", "fixed-delay=100ms"}, []float64{.3, .6}, []float64{90, 100, 100}, []float64{100, 200, 120})
	other := ranOf("data", []string{"rubato", "metronome"}, []float64{.3, .6, .9}, []float64{1, 1}, []float64{1, 1}, []float64{1, 1})
	want := p.capacities([]Ran{first})
	if got := p.capacities([]Ran{first, other}); len(want) != 1 || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// Where no fixed delay holds any load that was run, the rule must hold more than the lowest by the same factor.
func TestHeldLoadIsComparedWithTheLowestThatWasRun(t *testing.T) {
	p := &Plan{FirstSeed: 7, Seeds: 1, TunedOn: "1-6", Policies: []string{"rubato"}}
	policies, loads := []string{"rubato", "fixed-delay=100ms", "metronome"}, []float64{.2, .3, .6}
	// The limit is 110: 1.1 times metronome's at .3.
	for _, x := range []struct {
		mine, fixed []float64
		want        string
	}{
		{[]float64{90, 100, 120}, []float64{111, 120, 130}, "more than 2.25 (0.45 against < 0.2) | against fixed-delay=100ms | held |"},
		{[]float64{90, 90, 90}, []float64{111, 120, 130}, "more than 3.00 (≥ 0.6 against < 0.2) | against fixed-delay=100ms | held |"},
		{[]float64{100, 150, 160}, []float64{111, 120, 130}, "more than 1.10 (0.22 against < 0.2) | against fixed-delay=100ms | **missed** |"},
		{[]float64{120, 130, 160}, []float64{111, 120, 130}, "< 0.2 against < 0.2 | against fixed-delay=100ms | **missed** |"},
		{[]float64{90, 100, 120}, []float64{100, 120, 130}, "1.80 (0.45 against 0.25) | against fixed-delay=100ms | held |"},
		{[]float64{90, 100, 120}, []float64{100, 100, 100}, "less than 0.75 (0.45 against ≥ 0.6) | against fixed-delay=100ms | **missed** |"},
	} {
		run := ranOf("data", policies, loads, []float64{x.mine[0], x.fixed[0], 95}, []float64{x.mine[1], x.fixed[1], 100}, []float64{x.mine[2], x.fixed[2], 200})
		var summary, page bytes.Buffer
		if err := WriteSummary(&summary, p, []Ran{run}); err != nil {
			t.Fatal(err)
		}
		if want := "| D7 | load held at a p99 of 110 ms, over the best fixed delay's, at least 1.25 | data | " + x.want; !strings.Contains(summary.String(), want) {
			t.Errorf("the summary lacks %q:\n%s", want, summary.String())
		}
		if err := WriteThroughput(&page, p, []Ran{run}); err != nil {
			t.Fatal(err)
		}
		over, _, _ := strings.Cut(x.want, " |")
		for _, want := range []string{"### data: a p99 of at most 110 ms\n", "| metronome | 0.33 | 95 | 100 | 200 |\n", "| data | " + over + " | fixed-delay=100ms | 1.25 | ", "Seeds 7-7 are published; seeds 1-6 were"} {
			if !strings.Contains(page.String(), want) {
				t.Errorf("the page lacks %q:\n%s", want, page.String())
			}
		}
	}
	var page bytes.Buffer
	if err := WriteThroughput(&page, p, nil); err != nil || !strings.Contains(page.String(), "No workload was run at two loads") {
		t.Errorf("%v: %s", err, page.String())
	}
}

// A target that is reached in the mean over loads and not at each of them says so, beside what is wished for.
func TestVerdicts(t *testing.T) {
	p := &Plan{FirstSeed: 7, Seeds: 1, TunedOn: "1-6", Policies: []string{"rubato"}}
	both := []string{"rubato", "least-loaded"}
	var page bytes.Buffer
	if err := WriteSummary(&page, p, []Ran{
		ranOf("data", both, []float64{.3, .6}, []float64{90, 100}, []float64{97, 100}),
		ranOf("mixed", both, []float64{.3}, []float64{80, 100}),
		ranOf("crowd", both, []float64{.3}, []float64{103, 100}),
	}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| D2 | mean over the best baseline's, at most 0.94 | data, load 0.3, 0.6 (of 0.3-0.8) | 0.935 (median 0.935) | 0.970 against least-loaded; one seed 0.970 | held, **missed** at the worst load | 0.85 | **missed** |\n",
		"| D2 | mean over the best baseline's, at most 0.95 | mixed, load 0.3 (of 0.3-0.9) | 0.800 (median 0.800) | 0.800 against least-loaded; one seed 0.800 | held | 0.85 | held |\n",
		"| D2 | the median seed's mean over the best baseline's, at most 1 | mixed, load 0.3 (of 0.3-0.9) | 0.800 | 0.800 against least-loaded | held |  |  |\n",
		"| D2 | mean over the best baseline's, at most 1 | crowd, load 0.3 (of 0-0.9) | 1.030 (median 1.030) | 1.030 against least-loaded; one seed 1.030 | **missed** |  |  |\n",
		"| D2 | each seed's mean over the best baseline's | data, load 0.3, 0.6 (of 0.3-0.8) | 0 of 2 above 1.02 | 0.970 |  | 1.02 | held |\n",
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, page.String())
		}
	}
}

// The figures of the pages that look at several experiments are those that the pages show.
func TestPlotTopics(t *testing.T) {
	p := &Plan{FirstSeed: 7, Seeds: 1, TunedOn: "1-6", Policies: []string{"rubato"}, Aside: []string{"averages", "oracle"}}
	all := []Ran{ranOf("data", []string{"rubato", "fixed-delay=100ms", "averages", "oracle"}, []float64{.3, .6}, []float64{90, 100, 95, 80}, []float64{97, 100, 99, 90})}
	drawn := map[string]*bytes.Buffer{}
	if err := PlotTopics(p, all, func(name string) (io.WriteCloser, error) {
		drawn[name] = &bytes.Buffer{}
		return noClose{drawn[name]}, nil
	}); err != nil {
		t.Fatal(err)
	}
	var pages bytes.Buffer
	if err := errors.Join(WriteThroughput(&pages, p, all), WriteForest(&pages, p, all)); err != nil {
		t.Fatal(err)
	}
	if len(drawn) != 2 {
		t.Errorf("%d figures", len(drawn))
	}
	for name, b := range drawn {
		if !strings.Contains(b.String(), "<svg") || !strings.Contains(pages.String(), "("+name+")") {
			t.Errorf("%s: %d bytes; the pages: %s", name, b.Len(), pages.String())
		}
	}
}

type noClose struct{ io.Writer }

func (noClose) Close() error { return nil }

func TestForestPage(t *testing.T) {
	p := &Plan{FirstSeed: 7, Seeds: 1, TunedOn: "1-6", Policies: []string{"rubato"}, Aside: []string{"averages", "laws", "oracle"}}
	all := []Ran{
		ranOf("data", []string{"rubato", "averages", "laws", "oracle"}, []float64{.3, 1.1}, []float64{96, 100, 90, 80}, []float64{300, 100, 100, 100}),
		ranOf("mixed", []string{"rubato", "averages"}, []float64{.3, .9}, []float64{97, 100}, []float64{103, 100}),
		ranOf("drift", []string{"rubato", "averages"}, []float64{.4}, []float64{99, 100}),
		ranOf("light", []string{"rubato", "averages"}, []float64{.4}, []float64{99, 100}),
	}
	var page bytes.Buffer
	if err := WriteForest(&page, p, all); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| data | 0.3 | 96.0 | 100.0 | 90.0 | 80.0 | 0.960±0.000 | 0.960 | 0.960±0.000 | 1.067±0.000 | 1.067±0.000 | 1.200±0.000 | 1.200±0.000 | 1.250±0.000 |\n| data | 1.1 |",
		"| drift | 0.4 | 99.0 | 100.0 |  |  | 0.990±0.000 | 0.990 | 0.990±0.000 |  |  |  |  |  |\n",
		"| data, to load 1 | 0.960 | 0.960 | 1.02 | held | 1.200 |\n", "| mixed, to load 1 | 1.000 | 1.030 | 1.02 | **missed** |  |\n",
		"| unlike nodes and inputs (data, mixed, crowd, traces, deadlines, slack) | 0.987 | 0.97 | **missed** |\n", "| drift | 0.990 | 0.97 | **missed** |\n", "seeds 1-6 were",
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, page.String())
		}
	}
	if strings.Contains(page.String(), "light") {
		t.Errorf("where nothing is to be gained the forest is not in question:\n%s", page.String())
	}
}

// D6 and the shares count refused calls where nothing has a deadline, too: of all calls.
func TestRefusalsAreInTheShareOfMisses(t *testing.T) {
	p, s := tinyExperiments(t)
	s.Scheduler.MaxWaiting = 1
	c, err := RunCell(t.Context(), s, p, &p.Experiments[0], 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := c.Result.Rows[0]; r.Refused == 0 || r.Misses != r.Refused || r.Deadlines != r.Refused || c.Series[0].Figures[0].Misses != c.Series[0].Figures[0].Lost {
		t.Errorf("%d refused, %d misses of %d, figure %+v", r.Refused, r.Misses, r.Deadlines, c.Series[0].Figures[0])
	}
}

func TestPlanRefusesNonsense(t *testing.T) {
	for name, change := range map[string][2]string{
		"an unknown key":    {"seeds: 3", "sedes: 3"},
		"no seeds":          {"seeds: 3", "seeds: 0"},
		"unknown policy":    {"least-loaded, oracle", "least-loaded, best-of-all"},
		"one policy":        {"[rubato, least-loaded, oracle]", "[rubato]"},
		"no load":           {"loads: [.3, .6]", "loads: []"},
		"a negative load":   {"loads: [.3, .6]", "loads: [-1]"},
		"no such family":    {"family: data", "family: friends"},
		"a bad folder":      {"seeds: 3", "seeds: 3\ndisasters: ../.."},
		"no word of tuning": {"tuned_on: 1-1000", ""},
		"lines of it":       {"tuned_on: 1-1000", "tuned_on: \"1\\n2\""},
		"our own page":      {"name: tiny", "name: throughput"},
		"a bad name":        {"name: tiny", "name: \"../tiny\""},
		"too late":          {"family: data", "family: data, late: 2m"},
		"one name twice":    {"experiments:", "experiments:\n  - {name: tiny, question: \"Again?\", family: data, scenario: tiny.yaml, loads: [.3]}"},
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
	of = []*Cell{cell(.2, 30), cell(.4, 20), cell(.8, 60)} // the lowest load has the longer tail
	for limit, want := range map[float64]float64{15: 0, 20: .4, 25: .45, 40: .6} {
		if got := held(of, 0, limit); got < want-1e-9 || got > want+1e-9 {
			t.Errorf("a tail that is shorter at a higher load, limit %v: held %v, want %v", limit, got, want)
		}
	}
	of[2].Series[0].Figures[0] = Figure{P99Ms: 1, Lost: .5}
	if got := held(of, 0, 40); got != .4 {
		t.Errorf("held %v where half of the calls are refused from .8 on, want .4", got)
	}
}

// Who refuses calls is no rival of who answers them.
func TestRivalsAnswer(t *testing.T) {
	p := &Plan{Policies: []string{"rubato", "a", "b"}}
	c := &Cell{Series: []Series{{"rubato", []Figure{{P99Ms: 10}}}, {"a", []Figure{{P99Ms: 5, Lost: .02}}}, {"b", []Figure{{P99Ms: 20, Lost: .01}}}}}
	if r, ok := c.best(p99Ms, p.rival(c)); !ok || r.Policy != "b" {
		t.Errorf("the best is %+v, want b", r)
	}
	c.Series[0].Figures[0].Lost = .1
	if r, ok := c.best(p99Ms, p.rival(c)); !ok || r.Policy != "a" {
		t.Errorf("where rubato refuses more than anybody, the best is %+v, want a", r)
	}
	c.Series[0].Figures[0].Lost, c.Series[2].Figures[0].Lost = 0, .5
	if r, ok := c.best(p99Ms, p.rival(c)); !ok || r.Policy != "a" {
		t.Errorf("where every other one refuses more, the best is %+v, want a, which refuses least", r)
	}
}

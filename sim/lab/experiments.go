package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sim"
)

// Plan is a set of experiments.
type Plan struct {
	FirstSeed   uint64       `yaml:"first_seed"`
	Seeds       int          `yaml:"seeds"`
	Policies    []string     `yaml:"policies"`
	Short       Short        `yaml:"short"`
	Experiments []Experiment `yaml:"experiments"`
}

// Short is what a quick run takes instead.
type Short struct {
	Seeds    int       `yaml:"seeds"`
	Rates    []float64 `yaml:"rates"`
	Policies []string  `yaml:"policies"`
}

// Experiment is one question: a scenario at several multiples of its arrival rates.
type Experiment struct {
	Name     string    `yaml:"name"`
	Question string    `yaml:"question"`
	Scenario string    `yaml:"scenario"`
	Rates    []float64 `yaml:"rates"`
}

// Limits of a plan.
const (
	maxPlanBytes = 1 << 20
	maxRates     = 32
)

// ReadPlan reads and checks a plan; keys that are not known are refused.
func ReadPlan(r io.Reader) (*Plan, error) {
	d := yaml.NewDecoder(io.LimitReader(r, maxPlanBytes))
	d.KnownFields(true)
	p := &Plan{}
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("%w: plan: %s", api.ErrInvalid, yamlError(err))
	}
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: plan: "+format, append([]any{api.ErrInvalid}, args...)...))
		}
	}
	bad(p.Seeds >= 1 && p.Seeds <= 1000, "%d seeds: want 1-1000", p.Seeds)
	bad(p.Short.Seeds >= 1 && p.Short.Seeds <= 1000, "%d seeds of the short form: want 1-1000", p.Short.Seeds)
	bad(len(p.Experiments) > 0, "no experiments")
	for _, list := range [][]string{p.Policies, p.Short.Policies} {
		bad(len(list) >= 2, "%d policies: want the one in question and at least one other", len(list))
		for _, name := range list {
			_, err := ParsePolicy(name)
			errs = append(errs, err)
		}
	}
	rates := func(what string, list []float64) {
		bad(len(list) > 0 && len(list) <= maxRates, "%s: %d rates: want 1-%d", what, len(list), maxRates)
		for _, r := range list {
			bad(r > 0 && r <= 100, "%s: rate %v: want more than 0, at most 100", what, r)
		}
	}
	rates("short", p.Short.Rates)
	for _, e := range p.Experiments {
		bad(api.CheckName("experiment", e.Name) == nil, "experiment %.60q: want a name", e.Name)
		bad(e.Scenario != "", "experiment %s: no scenario", e.Name)
		rates(e.Name, e.Rates)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// Brief is the plan in its short form.
func (p *Plan) Brief() *Plan {
	b := *p
	b.Seeds, b.Policies, b.Experiments = p.Short.Seeds, p.Short.Policies, nil
	for _, e := range p.Experiments {
		e.Rates = p.Short.Rates
		b.Experiments = append(b.Experiments, e)
	}
	return &b
}

// Cell is one experiment at one rate: the first policy beside all others.
type Cell struct {
	Rate   float64 `json:"rate"`
	Result *Result `json:"result"`
	// Ratios are by policy, in the plan's order.
	Ratios []Ratio `json:"ratios"`
}

// Ratio compares the first policy with another one, paired by seed: below 1 the first is better.
type Ratio struct {
	Policy string `json:"policy"`
	// Mean and P99 are means over seeds of the ratio of mean times and of 99th percentiles; MeanMedian the median of the former,
	// MeanWorst the largest.
	Mean       float64 `json:"mean"`
	MeanCI     float64 `json:"mean_ci95"`
	MeanMedian float64 `json:"mean_median"`
	MeanWorst  float64 `json:"mean_worst"`
	P99        float64 `json:"p99"`
	// Exec is that of mean execution times (fetch, init and run).
	Exec float64 `json:"exec"`
}

// RunCell runs one experiment at one rate.
func RunCell(ctx context.Context, s *Scenario, rate float64, p *Plan, hear func(done, total int, doing string)) (*Cell, error) {
	scaled := *s
	scaled.Rate = rate
	policies := make([]Policy, len(p.Policies))
	for i, name := range p.Policies {
		var err error
		if policies[i], err = ParsePolicy(name); err != nil {
			return nil, err
		}
	}
	seeds := make([]uint64, p.Seeds)
	for i := range seeds {
		seeds[i] = p.FirstSeed + uint64(i)
	}
	r, err := Compare(ctx, &scaled, policies, seeds, hear)
	if err != nil {
		return nil, err
	}
	c := &Cell{Rate: rate, Result: r}
	type figures struct{ mean, p99, exec float64 }
	of := func(run *Run) figures {
		var all sim.Stats
		for i := range run.stats {
			all.Add(&run.stats[i])
		}
		n := float64(max(all.Answered, 1))
		return figures{all.TotalMs / n, all.Latency.Quantile(.99), all.ExecMs / n}
	}
	for k := 1; k < len(policies); k++ {
		var means []float64
		x := Ratio{Policy: policies[k].Name}
		for i := range seeds {
			a, b := of(&r.Runs[i]), of(&r.Runs[k*len(seeds)+i])
			means = append(means, a.mean/math.Max(b.mean, 1e-9))
			x.P99 += a.p99 / math.Max(b.p99, 1e-9) / float64(len(seeds))
			x.Exec += a.exec / math.Max(b.exec, 1e-9) / float64(len(seeds))
		}
		x.Mean, x.MeanCI = meanCI(means)
		slices.Sort(means)
		x.MeanMedian, x.MeanWorst = (means[(len(means)-1)/2]+means[len(means)/2])/2, means[len(means)-1]
		c.Ratios = append(c.Ratios, x)
	}
	return c, nil
}

// blind are policies that do not look at what a node holds; own are not baselines but parts of the same rule.
var (
	blind = []string{"random", "round-robin", "least-loaded", "power-of-two"}
	own   = []string{"averages", "oracle"}
)

// Best is the baseline that did best in a cell: the smallest mean time, chosen afterwards.
func (c *Cell) Best() Ratio {
	best := Ratio{Mean: math.Inf(-1)}
	for _, x := range c.Ratios {
		if !slices.Contains(own, x.Policy) && x.Mean > best.Mean {
			best = x
		}
	}
	return best
}

// WriteMarkdown writes an experiment's page: question, setup, seeds, tables, figures, conclusion.
func WriteMarkdown(w io.Writer, e *Experiment, s *Scenario, p *Plan, cells []*Cell, figures []string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s\n\n## Setup\n%s: %s. %v, %v of them not counted; each policy sees the same arrivals and each call has the same luck. Seeds %d-%d.\n",
		e.Name, e.Question, s.Name, s.About, time.Duration(s.Duration), time.Duration(s.Warmup), p.FirstSeed, p.FirstSeed+uint64(p.Seeds)-1)
	fmt.Fprintf(&b, "Times are in ms, means over seeds of each seed's figure, with 95 %% confidence intervals; counts are sums over seeds. A refused or\nfailed call with a deadline is a miss. `oracle` is the rule with the true laws, `averages` the rule without the forest.\n\n## Figures\n")
	for _, c := range cells {
		fmt.Fprintf(&b, "\n### %g x the scenario's rates\n| policy | mean | p50 | p99 | execution | held back | misses | refused, failed | cold starts | GB fetched |\n|---|---|---|---|---|---|---|---|---|---|\n", c.Rate)
		for _, x := range c.Result.Rows {
			if x.Function != "all" {
				continue
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %d of %d | %d, %d | %d | %.1f |\n", x.Policy, with(x.MeanMs, x.MeanCI), with(x.P50Ms, x.P50CI), with(x.P99Ms, x.P99CI),
				with(x.ExecMeanMs, x.ExecMeanCI), with(x.DelayMeanMs, x.DelayMeanCI), x.Misses, x.Deadlines, x.Refused, x.Failed, x.ColdStarts, float64(x.FetchedBytes)/1e9)
		}
	}
	for _, f := range figures {
		fmt.Fprintf(&b, "\n![%s](%s)\n", f, f)
	}
	fmt.Fprintf(&b, "\n## Conclusion\n%s over the best baseline of each cell, chosen afterwards (ratios paired by seed; below 1 is better):\n\n", p.Policies[0])
	fmt.Fprintf(&b, "| rates | best baseline | mean | median | worst seed | p99 | execution, over the best blind rule | mean, over the oracle's |\n|---|---|---|---|---|---|---|---|\n")
	for _, c := range cells {
		x, exec, oracle := c.Best(), math.Inf(-1), math.NaN()
		for _, y := range c.Ratios {
			if slices.Contains(blind, y.Policy) {
				exec = math.Max(exec, y.Exec)
			}
			if y.Policy == "oracle" {
				oracle = y.Mean
			}
		}
		fmt.Fprintf(&b, "| %g | %s | %.3f±%.3f | %.3f | %.3f | %.3f | %s | %s |\n", c.Rate, x.Policy, x.Mean, x.MeanCI, x.MeanMedian, x.MeanWorst, x.P99, orNone(exec), orNone(oracle))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func orNone(x float64) string {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return ""
	}
	return fmt.Sprintf("%.3f", x)
}

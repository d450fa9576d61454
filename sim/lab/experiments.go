package lab

import (
	"context"
	"encoding/json"
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
	// The seeds that are published: Seeds many, from FirstSeed on.
	FirstSeed uint64 `yaml:"first_seed"`
	Seeds     int    `yaml:"seeds"`
	// TunedOn says which seeds were looked at while the rules were tuned. Every page says so: figures of such seeds flatter.
	TunedOn string `yaml:"tuned_on"`

	Policies []string `yaml:"policies"`
	Short    Short    `yaml:"short"`
	// Aside are policies that are shown but are no baselines: the same rule with something else.
	Aside       []string     `yaml:"aside"`
	Experiments []Experiment `yaml:"experiments"`
	// Disasters is the folder of their scenarios, below that of all scenarios; empty: they are left out.
	Disasters string `yaml:"disasters"`
}

// Short is what a quick run takes instead.
type Short struct {
	// FirstSeed is instead of the plan's; 0: 1. What is run often is looked at: it should not be what is published.
	FirstSeed uint64    `yaml:"first_seed"`
	Seeds     int       `yaml:"seeds"`
	Loads     []float64 `yaml:"loads"`
	Policies  []string  `yaml:"policies"`
}

// Experiment is one question: a scenario at several loads.
type Experiment struct {
	Name     string `yaml:"name"`
	Question string `yaml:"question"`
	// Family groups experiments for what they are held to (verdict.go): data, init, mixed, light, deadlines, slack, no-gain, drift, crowd, traces.
	Family   string    `yaml:"family"`
	Scenario string    `yaml:"scenario"`
	Loads    []float64 `yaml:"loads"`
	// Seeds are instead of the plan's, 0 for those: where a few seeds of long queues decide what comes out, it takes more of them.
	Seeds int `yaml:"seeds"`
	// Late is added to all that nodes tell their zone; 0: as the scenario has it.
	Late Duration `yaml:"late"`
	// Policies are instead of the plan's, if there are any.
	Policies []string `yaml:"policies"`
	// Note is what a reader must know of how the experiment came to be as it is: one line, part of its page.
	Note string `yaml:"note"`
}

// Limits of a plan.
const (
	maxPlanBytes = 1 << 20
	maxLoads     = 32
	maxSeeds     = 1000
	maxLoad      = 4
	maxLate      = Duration(time.Minute)
	maxTunedOn   = 200 // bytes
	maxNote      = 500
)

// ownPages are written beside the experiments', which cannot be called like them.
var ownPages = []string{"readme", throughputPage, forestPage, disastersPage}

const throughputPage, forestPage, disastersPage = "throughput", "forest", "disasters"

var families = []string{"data", "init", "mixed", "light", "deadlines", "slack", "no-gain", "drift", "crowd", "traces"}

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
	bad(p.Seeds >= 1 && p.Seeds <= maxSeeds, "%d seeds: want 1-%d", p.Seeds, maxSeeds)
	bad(p.Short.Seeds >= 1 && p.Short.Seeds <= maxSeeds, "%d seeds of the short form: want 1-%d", p.Short.Seeds, maxSeeds)
	bad(p.TunedOn != "" && len(p.TunedOn) <= maxTunedOn && !strings.ContainsAny(p.TunedOn, "\r\n"),
		"tuned_on %.60q: want the seeds that were looked at while tuning, in a line of at most %d bytes", p.TunedOn, maxTunedOn)
	bad(len(p.Experiments) > 0, "no experiments")
	policies := func(list []string) {
		bad(len(list) >= 2, "%d policies: want the one in question and at least one other", len(list))
		for _, name := range list {
			_, err := ParsePolicy(name)
			errs = append(errs, err)
		}
	}
	policies(p.Policies)
	policies(p.Short.Policies)
	loads := func(what string, list []float64) {
		bad(len(list) > 0 && len(list) <= maxLoads, "%s: %d loads: want 1-%d", what, len(list), maxLoads)
		for _, l := range list {
			bad(l > 0 && l <= maxLoad, "%s: load %v: want more than 0, at most %d", what, l, maxLoad)
		}
	}
	loads("short", p.Short.Loads)
	bad(p.Disasters == "" || api.CheckName("folder", p.Disasters) == nil, "folder of disasters %.60q: want a name", p.Disasters)
	names := map[string]bool{}
	for _, e := range p.Experiments {
		bad(api.CheckName("experiment", e.Name) == nil, "experiment %.60q: want a name", e.Name)
		bad(!slices.Contains(ownPages, e.Name), "experiment %s: that page is another one's", e.Name)
		bad(e.Scenario != "", "experiment %s: no scenario", e.Name)
		bad(slices.Contains(families, e.Family), "experiment %s: family %.60q: want %s", e.Name, e.Family, strings.Join(families, ", "))
		loads(e.Name, e.Loads)
		bad(e.Seeds >= 0 && e.Seeds <= maxSeeds, "experiment %s: %d seeds: want 1-%d, or none for the plan's", e.Name, e.Seeds, maxSeeds)
		bad(len(e.Note) <= maxNote && !strings.ContainsAny(e.Note, "\r\n"), "experiment %s: note %.60q: want a line of at most %d bytes", e.Name, e.Note, maxNote)
		bad(e.Late <= maxLate, "experiment %s: late %v: want at most %v", e.Name, time.Duration(e.Late), time.Duration(maxLate))
		bad(!names[e.Name], "two experiments are called %s", e.Name)
		names[e.Name] = true
		if len(e.Policies) > 0 {
			policies(e.Policies)
			bad(len(e.Policies) > 0 && len(p.Policies) > 0 && e.Policies[0] == p.Policies[0], "experiment %s: want the plan's first policy first", e.Name)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// Brief is the plan in its short form.
func (p *Plan) Brief() *Plan {
	b := *p
	b.FirstSeed, b.Seeds, b.Policies, b.Experiments = max(p.Short.FirstSeed, 1), p.Short.Seeds, p.Short.Policies, nil
	for _, e := range p.Experiments {
		e.Policies, e.Seeds, e.Note = nil, 0, "" // a note is about the whole form
		if len(e.Loads) > 1 {                    // a load of its own is part of the question
			e.Loads = p.Short.Loads
		}
		b.Experiments = append(b.Experiments, e)
	}
	return &b
}

// seeds says which seeds are published, and which not to trust.
func (p *Plan) seeds() string {
	var more strings.Builder
	for i := range p.Experiments {
		if e := &p.Experiments[i]; p.SeedsOf(e) != p.Seeds {
			fmt.Fprintf(&more, " (%s: %s)", e.Name, p.published(p.SeedsOf(e)))
		}
	}
	return p.seedsText(p.published(p.Seeds) + more.String())
}

// seedsFor says it of one experiment.
func (p *Plan) seedsFor(e *Experiment) string { return p.seedsText(p.published(p.SeedsOf(e))) }

func (p *Plan) seedsText(published string) string {
	return fmt.Sprintf("Seeds %s are published; seeds %s were looked at while the rules were tuned.", published, p.TunedOn)
}

func (p *Plan) published(seeds int) string {
	return fmt.Sprintf("%d-%d", p.FirstSeed, p.FirstSeed+uint64(seeds)-1)
}

// SeedsOf is how many seeds an experiment has.
func (p *Plan) SeedsOf(e *Experiment) int { return or(e.Seeds, p.Seeds) }

// PoliciesOf are those that an experiment compares.
func (p *Plan) PoliciesOf(e *Experiment) []string {
	if len(e.Policies) > 0 {
		return e.Policies
	}
	return p.Policies
}

// Cell is one experiment at one load: the first policy beside all others.
type Cell struct {
	// Load is what was asked for, Rate the multiple of the scenario's rates that makes it.
	Load   float64 `json:"load"`
	Rate   float64 `json:"rate"`
	Result *Result `json:"result"`
	// Series are by policy, in the plan's order.
	Series []Series `json:"series"`
	// Curves are Result's, which its own JSON leaves out: a cell that was kept can be drawn.
	Curves []Curve `json:"curves"`
}

// ReadCell reads a cell that was kept as JSON.
func ReadCell(b []byte) (*Cell, error) {
	c := &Cell{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, err
	}
	if c.Result == nil || len(c.Series) == 0 || len(c.Curves) != len(c.Series) {
		return nil, fmt.Errorf("%w: a cell with %d series and %d curves", api.ErrInvalid, len(c.Series), len(c.Curves))
	}
	c.Result.curves = c.Curves
	return c, nil
}

// Series is one policy's figures, seed by seed.
type Series struct {
	Policy  string   `json:"policy"`
	Figures []Figure `json:"figures"`
}

// Figure is what one run came to, over all functions.
type Figure struct {
	MeanMs float64 `json:"mean_ms"`
	P99Ms  float64 `json:"p99_ms"`
	// ExecMs is the mean of fetch, init and run.
	ExecMs float64 `json:"exec_ms"`
	// Misses is the share of calls with a deadline, or refused, that got no result in time; refused and failed ones did not. Late is
	// how many.
	Misses float64 `json:"misses"`
	Late   uint64  `json:"late"`
	// SafeMisses is the share of calls that were held back within their deadline's bound and then missed it, SafeWaits how many
	// were held back so.
	SafeMisses float64 `json:"safe_misses"`
	SafeWaits  uint64  `json:"safe_waits"`
	// Lost is the share of calls without a result.
	Lost float64 `json:"lost"`
}

// RunCell runs one experiment at one load.
func RunCell(ctx context.Context, s *Scenario, p *Plan, e *Experiment, load float64, hear func(done, total int, doing string)) (*Cell, error) {
	names := p.PoliciesOf(e)
	policies := make([]Policy, len(names))
	for i, name := range names {
		var err error
		if policies[i], err = ParsePolicy(name); err != nil {
			return nil, err
		}
	}
	scaled := *s
	scaled.Rate = 1
	if e.Late > 0 {
		scaled.Network.Late = e.Late
	}
	base, err := scaled.Config(policies[0], 1)
	if err != nil {
		return nil, err
	}
	c := &Cell{Load: load, Rate: load / math.Max(base.Load(), 1e-9)}
	scaled.Rate = c.Rate
	seeds := make([]uint64, p.SeedsOf(e))
	for i := range seeds {
		seeds[i] = p.FirstSeed + uint64(i)
	}
	if c.Result, err = Compare(ctx, &scaled, policies, seeds, hear); err != nil {
		return nil, err
	}
	for k := range policies {
		x := Series{Policy: policies[k].Name}
		for i := range seeds {
			x.Figures = append(x.Figures, c.Result.Runs[k*len(seeds)+i].figure())
		}
		c.Series = append(c.Series, x)
	}
	c.Curves = c.Result.curves
	return c, nil
}

func (r *Run) figure() Figure {
	var all sim.Stats
	for i := range r.stats {
		all.Add(&r.stats[i])
	}
	n := float64(max(all.Answered, 1))
	return Figure{
		MeanMs: all.TotalMs / n, P99Ms: all.Latency.Quantile(.99), ExecMs: all.ExecMs / n, Misses: missShare(&all), Late: misses(&all),
		SafeMisses: float64(all.SafeWaitMisses) / float64(max(all.SafeWaits, 1)), SafeWaits: all.SafeWaits,
		Lost: float64(all.Calls-all.Answered) / float64(max(all.Calls, 1)),
	}
}

// blind are policies that do not look at what a node holds.
var blind = []string{"random", "power-of-two", "round-robin", "least-loaded"}

// Ratio compares one figure of the first policy with another policy's, paired by seed: below 1 the first is better.
type Ratio struct {
	Policy string
	// Mean is the mean over seeds of each seed's ratio, CI the half-width of its 95 % confidence interval; Worst is the largest.
	Mean, CI, Median, Worst float64
	// Seeds are the ratios of single seeds, the smallest first.
	Seeds []float64
}

func meanMs(f *Figure) float64 { return f.MeanMs }
func p99Ms(f *Figure) float64  { return f.P99Ms }
func execMs(f *Figure) float64 { return f.ExecMs }
func lost(f *Figure) float64   { return f.Lost }

// over compares with the k-th policy.
func (c *Cell) over(k int, of func(*Figure) float64) Ratio { return c.ratio(0, k, of) }

// ratio compares the j-th policy with the k-th.
func (c *Cell) ratio(j, k int, of func(*Figure) float64) Ratio {
	var all []float64
	for i := range c.Series[j].Figures {
		all = append(all, of(&c.Series[j].Figures[i])/math.Max(of(&c.Series[k].Figures[i]), 1e-9))
	}
	r := Ratio{Policy: c.Series[k].Policy}
	r.Mean, r.CI = meanCI(all)
	slices.Sort(all)
	n := len(all)
	r.Median, r.Worst, r.Seeds = (all[(n-1)/2]+all[n/2])/2, all[n-1], all
	return r
}

// find is over for a policy by name.
func (c *Cell) find(policy string, of func(*Figure) float64) (Ratio, bool) {
	k := c.at(policy)
	if k < 0 {
		return Ratio{}, false
	}
	return c.over(k, of), true
}

// at is where a policy stands among the series, -1 for nowhere.
func (c *Cell) at(policy string) int {
	return slices.IndexFunc(c.Series, func(s Series) bool { return s.Policy == policy })
}

// mean is the mean over seeds of the k-th policy's figure.
func (c *Cell) mean(k int, of func(*Figure) float64) float64 {
	sum := 0.
	for i := range c.Series[k].Figures {
		sum += of(&c.Series[k].Figures[i]) / float64(len(c.Series[k].Figures))
	}
	return sum
}

// best is the comparison with whoever did best in the cell, chosen afterwards among those that count.
func (c *Cell) best(of func(*Figure) float64, counts func(policy string) bool) (Ratio, bool) {
	best, found := Ratio{Mean: math.Inf(-1)}, false
	for k := 1; k < len(c.Series); k++ {
		if r := c.over(k, of); counts(r.Policy) && r.Mean > best.Mean {
			best, found = r, true
		}
	}
	return best, found
}

// baseline reports whether a policy is one: neither the rule in question nor a part of it.
func (p *Plan) baseline(policy string) bool {
	return policy != p.Policies[0] && !slices.Contains(p.Aside, policy)
}

// rival reports whether a policy is a baseline that answers nearly as many of the cell's calls as the rule in question does, or, if
// none does, as the baseline that answers most: times are those of answered calls, and who refuses more would look quick for it.
func (p *Plan) rival(c *Cell) func(policy string) bool {
	least := math.Inf(1)
	for k := range c.Series {
		if p.baseline(c.Series[k].Policy) {
			least = math.Min(least, c.mean(k, lost))
		}
	}
	most := math.Max(c.mean(0, lost)+maxLost, least)
	return func(policy string) bool { return p.baseline(policy) && c.mean(c.at(policy), lost) <= most }
}

// maxLost is the share of calls without an answer that a p99, of those with one, still speaks for.
const maxLost = .01

func isBlind(policy string) bool { return slices.Contains(blind, policy) }

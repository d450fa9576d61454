package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sim"
	"github.com/rubato-faas/rubato/sim/naive"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// Disaster is a known way in which delay scheduling fails: a scenario, a rule that fails in it, and what the product's rule is
// to do there instead.
type Disaster struct {
	Name     string
	Question string
	// Scenario is a file of scenarios/disasters.
	Scenario string
	// Late replaces the scenario's lateness of reports.
	Late time.Duration
	// Calm is when the zone has not seen the scenario's trouble yet; empty without one. What is after the warm-up is all else.
	Calm [2]time.Duration
	// Fails and Holds say what is asserted of every seed, of the rule that fails and of the product's.
	Fails, Holds string
	// Found is what else was seen with those seeds, which nothing asserts; empty for nothing.
	Found string
	// Failed and Held judge one seed.
	Failed, Held func(f *Faced) bool

	oracle bool          // the true laws instead of a forest
	sign   time.Duration // when the model goes wrong by sim.FaultSign; 0: never
	naive  contender
	ours   contender  // zero: the product's rule, and nobody intervenes
	beside *contender // a third one, as a measure
}

// contender is a rule that faces a disaster.
type contender struct {
	name   string
	rule   func(cfg policy.Config, clock func() time.Duration) policy.Policy // nil: the product's
	change func(*sim.Config)                                                 // nil: nothing
	order  *order                                                            // nil: nobody intervenes
}

// order is an operator's, for a whole zone.
type order struct {
	at   time.Duration // whole seconds
	rule string
	mode string
}

// Faced is what rules made of one disaster with one seed, on the same arrivals.
type Faced struct {
	Seed  uint64  `json:"seed"`
	Naive Figures `json:"naive"`
	Ours  Figures `json:"ours"`
	// Beside is what a third rule made of it, where the disaster needs a measure.
	Beside *Figures `json:"beside,omitempty"`
}

// Figures of one run. Calls are those that arrived after the warm-up. Times are in ms, from arrival until the node was done,
// without messages: answers that are late by seconds would hide everything else.
type Figures struct {
	Calls    uint64 `json:"calls"`
	Answered uint64 `json:"answered"`
	// Unserved were refused, failed, or had no answer when the run was given up.
	Unserved uint64  `json:"unserved"`
	MeanMs   float64 `json:"mean_ms"`
	P99Ms    float64 `json:"p99_ms"`
	// WaitMs is the part of the mean before the call's dispatch.
	WaitMs float64 `json:"wait_ms"`
	// LongestMs is the longest wait of a call, held back or queued; HeldMs the longest that one was held back, though a slot was free.
	LongestMs float64 `json:"longest_wait_ms"`
	HeldMs    float64 `json:"longest_held_ms"`
	// Cold is the share of cold starts, Calm the same in the time before the trouble; Init the share of slots' time that went
	// into fetching and starting.
	Cold float64 `json:"cold_share"`
	Calm float64 `json:"calm_cold_share"`
	Init float64 `json:"init_share"`
	// Node is the largest share that one node had of the calls of one second, the mean over all seconds.
	Node float64 `json:"node_share"`
	// Miss is the share of calls with a deadline, or refused, that got no result in time.
	Miss float64 `json:"miss_share"`
	// Declined counts decisions to hold a call back though a slot was free.
	Declined uint64 `json:"idle_declined"`
	// Prewarmed counts sandboxes that were brought up without a call, Stopped how often the guard stopped waiting; from the beginning on.
	Prewarmed uint64 `json:"prewarmed"`
	Stopped   uint64 `json:"waiting_stopped"`
	// Dropped is how often averages came to stand in for the forest, from the beginning on.
	Dropped uint64 `json:"forest_dropped"`
	// RuleDropped is how often the fallback came to decide since averages did worse, from the beginning on.
	RuleDropped uint64 `json:"rule_dropped"`
}

// disasterSeeds are those for which a test asserts what is said of the disasters.
var disasterSeeds = []uint64{1, 2, 3, 4, 5}

// Disasters are all of them, in the order of the page.
func Disasters() []Disaster { return disasters }

// MaxDisasterSeeds bounds the seeds of one disaster.
const MaxDisasterSeeds = 1000

// disasterDrain is how long after the last arrival a run is given up: a queue that is still long then shows what it has to.
const disasterDrain = 30 * time.Second

// Known keeps what the product's rule made of scenarios that several disasters share, so that each is run once; it counts on a file
// of one name being one scenario. The zero value knows nothing.
type Known struct {
	mu   sync.Mutex
	runs map[knownKey]Figures
}

// knownKey is all that a run of the product's own rule depends on.
type knownKey struct {
	scenario   string
	seed       uint64
	late, sign time.Duration
	oracle     bool
	calm       [2]time.Duration
}

// Face runs a disaster's rules for every seed, on the same arrivals and with the same luck.
func (d *Disaster) Face(ctx context.Context, s *Scenario, seeds []uint64, known *Known) ([]Faced, error) {
	if len(seeds) == 0 || len(seeds) > MaxDisasterSeeds {
		return nil, fmt.Errorf("%w: %d seeds: want 1-%d", api.ErrInvalid, len(seeds), MaxDisasterSeeds)
	}
	out := make([]Faced, len(seeds))
	type job struct {
		who  contender
		seed uint64
		to   *Figures
	}
	var jobs []job
	for i, seed := range seeds {
		out[i].Seed = seed
		jobs = append(jobs, job{d.naive, seed, &out[i].Naive}, job{d.product(), seed, &out[i].Ours})
		if d.beside != nil {
			out[i].Beside = &Figures{}
			jobs = append(jobs, job{*d.beside, seed, out[i].Beside})
		}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, len(jobs))
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(jobs)) {
		wg.Go(func() {
			for i := range next {
				j := &jobs[i]
				if *j.to, errs[i] = d.faceOnce(ctx, s, &j.who, j.seed, known); errs[i] != nil {
					errs[i] = fmt.Errorf("disaster %s, %s, seed %d: %w", d.Name, j.who.name, j.seed, errs[i])
					stop() // the others would run in vain
				}
			}
		})
	}
	for i := range jobs {
		next <- i
	}
	close(next)
	wg.Wait()
	var first error
	for _, err := range errs {
		if first == nil || err != nil && errors.Is(first, context.Canceled) { // the others' errors only follow from the first
			first = err
		}
	}
	if first != nil {
		return nil, first
	}
	return out, nil
}

// product is what Rubato does in the disaster.
func (d *Disaster) product() contender {
	if d.ours.name == "" {
		return contender{name: "rubato"}
	}
	return d.ours
}

// faceOnce is face, for what is not known yet.
func (d *Disaster) faceOnce(ctx context.Context, s *Scenario, who *contender, seed uint64, known *Known) (Figures, error) {
	if who.rule != nil || who.change != nil || who.order != nil {
		return d.face(ctx, s, who, seed)
	}
	key := knownKey{d.Scenario, seed, d.Late, d.sign, d.oracle, d.Calm}
	known.mu.Lock()
	f, ok := known.runs[key]
	known.mu.Unlock()
	if ok {
		return f, nil
	}
	f, err := d.face(ctx, s, who, seed)
	if err == nil {
		known.mu.Lock()
		if known.runs == nil {
			known.runs = map[knownKey]Figures{}
		}
		known.runs[key] = f
		known.mu.Unlock()
	}
	return f, err
}

// face simulates one run.
func (d *Disaster) face(ctx context.Context, s *Scenario, who *contender, seed uint64) (Figures, error) {
	var f Figures
	p, err := ParsePolicy("rubato")
	if err != nil {
		return f, err
	}
	p.Name, p.Oracle = who.name, d.oracle
	cfg, err := s.Config(p, seed)
	if err != nil {
		return f, err
	}
	if len(cfg.Zones) != 1 {
		return f, fmt.Errorf("%w: scenario %s: %d zones: want one", api.ErrInvalid, s.Name, len(cfg.Zones))
	}
	if d.Late > 0 {
		cfg.Late = d.Late
	}
	if d.sign > 0 {
		cfg.Learn.Fault, cfg.Learn.FaultAt = sim.FaultSign, d.sign
	}
	if who.change != nil {
		who.change(&cfg)
	}
	if who.rule != nil {
		z := &cfg.Zones[0]
		z.Rule = func(clock func() time.Duration) policy.Policy { return who.rule(z.Core.PolicyConfig, clock) }
	}
	cfg.Keep = true
	w, err := sim.New(cfg)
	if err != nil {
		return f, err
	}
	var (
		n, calm, calmCold           float64
		exec, cold, prep, wait, sum float64
		all                         sim.Hist
		seconds                     = map[time.Duration]map[string]float64{} // calls by node
		from, warmup                = d.Calm, cfg.Warmup
	)
	w.OnAnswer(0, func(id string) {
		a := w.Result(0, id)
		t := &a.Timing
		if a.Code != api.CodeOK {
			return // counted by the world
		}
		waited, took := t.QueueMs+t.DelayMs, t.FetchMs+t.InitMs+t.RunMs
		arrived := w.ZoneNow(0) - time.Duration((waited+took+t.NetMs)*float64(time.Millisecond))
		isCold := 0.0
		if t.Start != api.SandboxWarm {
			isCold = 1
		}
		if arrived >= from[0] && arrived < from[1] {
			calm, calmCold = calm+1, calmCold+isCold
		}
		if arrived < warmup {
			return
		}
		n, cold, wait, sum = n+1, cold+isCold, wait+waited, sum+waited+took
		exec, prep = exec+took, prep+t.FetchMs+t.InitMs
		all.Add(waited + took)
		f.LongestMs, f.HeldMs = math.Max(f.LongestMs, waited), math.Max(f.HeldMs, t.DelayMs)
		second := arrived / time.Second
		if seconds[second] == nil {
			seconds[second] = map[string]float64{}
		}
		seconds[second][t.Node]++
	})
	end := time.Duration(s.Duration)
	for at := time.Duration(0); at < end || w.Open() > 0 && at < end+disasterDrain; {
		if err := ctx.Err(); err != nil {
			return f, err
		}
		at += time.Second
		w.Run(at)
		if o := who.order; o != nil && at == o.at {
			w.Command(0, o.rule, zonesched.Mode{Kind: o.mode, Share: -1})
		}
	}
	if v := w.Violation(); v != "" {
		return f, fmt.Errorf("a broken invariant: %s", v)
	}
	var stats sim.Stats
	each := w.FunctionStats()
	for i := range each {
		stats.Add(&each[i])
	}
	share := func(part, whole float64) float64 { return part / math.Max(whole, 1e-9) }
	f.Calls, f.Answered, f.Unserved = stats.Calls, stats.Answered, stats.Refused+stats.Failed+stats.Open
	f.MeanMs, f.P99Ms, f.WaitMs, f.Cold, f.Calm, f.Init, f.Node = share(sum, n), all.Quantile(.99), share(wait, n), share(cold, n), share(calmCold, calm), share(prep, exec), mostOf(seconds)
	f.Miss = missShare(&stats)
	c := w.Core(0).Counters()
	f.Declined, f.Prewarmed, f.Stopped, f.Dropped, f.RuleDropped = c.IdleDeclined, c.Prewarmed, c.WaitingStopped, c.ForestDropped, c.RuleDropped
	return f, nil
}

// mostOf is the mean over seconds of the share that the busiest node had.
func mostOf(seconds map[time.Duration]map[string]float64) float64 {
	var shares []float64
	for _, nodes := range seconds {
		sum, most := 0.0, 0.0
		for _, n := range nodes {
			sum, most = sum+n, math.Max(most, n)
		}
		shares = append(shares, most/sum)
	}
	slices.Sort(shares) // sums depend on the order
	mean, _ := meanCI(shares)
	return mean
}

// WriteDisasters writes the page: questions, setups, tables, conclusions. faced holds each disaster's runs, in the order of
// Disasters.
func WriteDisasters(w io.Writer, p *Plan, scenarios []*Scenario, faced [][]Faced) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# Disasters

Delay scheduling has failed in known ways. Each has a scenario in scenarios/disasters that runs a rule which fails and Rubato's
on the same arrivals, with the same luck. Most of the failing rules are Rubato's with one part broken (sim/naive). What is
said of them is asserted for each of seeds %d-%d by a test (sim/lab, TestDisasters). %s

Figures are means over seeds, of the longest waits and the shares the worst seed. Times are in ms, from arrival until the node was
done, without messages. "Unserved" calls were refused, failed or had no answer half a minute after the last arrival; "declined"
counts decisions to hold a call back though a slot was free. Misses are calls with a deadline that got no result before it, and all
refused calls; their share is that of calls with a deadline and of refused ones. "Prewarmed" counts sandboxes that were brought up without a
call, "waiting stopped", "forest dropped" and "rule dropped" how often the guards did that (the worst seed), all from the beginning on. Rules of
sim/naive have no guard, and send no function to hardware that is new to it.

Some disasters are not of the kind that a scenario can show. Inference under the lock: at most 32 candidates are scored, once each,
and nothing is allocated until a call is dispatched (zonesched, TestScoringIsBounded; learner, TestEstimateDoesNotAllocate). A forest
that is worse than averages gives way to them by itself (learner, TestGuardFallsBackToAverages); in the simulator it learns anew
before that happens.

What is said below was not all said beforehand. Where a better scheduler let a naive rule get away, its scenario was changed
(spiral-speculation, no-deadline, model-sign) or less was asked of its failure (no-deadline: 4 s of 10; delay-off: 50 ms of 100). Of Rubato
less is asked once: in push-out the bound of DelayMax is that of holding back, and a call may wait a second longer.
%s`, disasterSeeds[0], disasterSeeds[len(disasterSeeds)-1], p.seedsText(p.published(p.Seeds)), exceptions(faced))
	for i := range disasters {
		d := &disasters[i]
		s, runs := scenarios[i], faced[i]
		fmt.Fprintf(&b, "\n## %s\n%s\n\n%s: %s. %v, the first %v not counted.", d.Name, d.Question, s.Name, s.About, time.Duration(s.Duration), time.Duration(s.Warmup))
		if len(runs) > 0 {
			fmt.Fprintf(&b, " Seeds %d-%d.", runs[0].Seed, runs[len(runs)-1].Seed)
		}
		fmt.Fprintf(&b, "\n\n| rule | calls | unserved | mean | p99 | wait | longest wait | longest held back | cold starts | in the calm before | time for init | largest node | misses | declined | prewarmed | waiting stopped | forest dropped | rule dropped |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
		row := func(name string, of func(*Faced) *Figures) {
			m := meanOf(runs, of)
			if m.Answered == 0 {
				fmt.Fprintf(&b, "| %s | %d | %d | | | | | | | %s | | | | %d | %d | %d | %d | %d |\n", name, m.Calls, m.Unserved, percent(m.Calm), m.Declined, m.Prewarmed, m.Stopped, m.Dropped, m.RuleDropped)
				return
			}
			fmt.Fprintf(&b, "| %s | %d | %d | %.0f | %.0f | %.0f | %.0f | %.0f | %s | %s | %s | %s | %s | %d | %d | %d | %d | %d |\n", name, m.Calls, m.Unserved, m.MeanMs, m.P99Ms, m.WaitMs, m.LongestMs, m.HeldMs,
				percent(m.Cold), percent(m.Calm), percent(m.Init), percent(m.Node), percent(m.Miss), m.Declined, m.Prewarmed, m.Stopped, m.Dropped, m.RuleDropped)
		}
		row(d.naive.name, func(f *Faced) *Figures { return &f.Naive })
		row("**"+d.product().name+"**", func(f *Faced) *Figures { return &f.Ours })
		if d.beside != nil {
			row(d.beside.name, func(f *Faced) *Figures { return f.Beside })
		}
		failed, held := d.count(runs)
		fmt.Fprintf(&b, "\n%s: %s (%d of %d seeds). Rubato: %s (%d of %d seeds).", d.naive.name, d.Fails, failed, len(runs), d.Holds, held, len(runs))
		if d.Found != "" {
			fmt.Fprintf(&b, " Not asserted: %s.", d.Found)
		}
		fmt.Fprintln(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// count is in how many runs the naive rule failed and the product's held.
func (d *Disaster) count(runs []Faced) (failed, held int) {
	for k := range runs {
		if d.Failed(&runs[k]) {
			failed++
		}
		if d.Held(&runs[k]) {
			held++
		}
	}
	return failed, held
}

// exceptions says where something else came out than is claimed.
func exceptions(faced [][]Faced) string {
	var b strings.Builder
	for i := range disasters {
		d, runs := &disasters[i], faced[i]
		failed, held := d.count(runs)
		if failed < len(runs) {
			fmt.Fprintf(&b, "- %s: the naive rule fails with %d of %d seeds.\n", d.Name, failed, len(runs))
		}
		if held < len(runs) {
			fmt.Fprintf(&b, "- %s: Rubato holds with %d of %d seeds.\n", d.Name, held, len(runs))
		}
	}
	if b.Len() == 0 {
		return "With all seeds of this page it comes out as it is said.\n"
	}
	return "With the seeds of this page it comes out as it is said, but for these:\n\n" + b.String()
}

func percent(x float64) string { return fmt.Sprintf("%.1f %%", 100*x) }

// meanOf the runs; of what bounds are claimed for, the worst.
func meanOf(runs []Faced, of func(*Faced) *Figures) Figures {
	var m Figures
	n := max(len(runs), 1)
	for i := range runs {
		f := of(&runs[i])
		m.Calls, m.Answered, m.Unserved, m.Declined, m.Prewarmed = m.Calls+f.Calls, m.Answered+f.Answered, m.Unserved+f.Unserved, m.Declined+f.Declined, m.Prewarmed+f.Prewarmed
		m.Stopped, m.Dropped, m.RuleDropped = max(m.Stopped, f.Stopped), max(m.Dropped, f.Dropped), max(m.RuleDropped, f.RuleDropped)
		m.MeanMs, m.P99Ms, m.WaitMs = m.MeanMs+f.MeanMs/float64(n), m.P99Ms+f.P99Ms/float64(n), m.WaitMs+f.WaitMs/float64(n)
		m.LongestMs, m.HeldMs = math.Max(m.LongestMs, f.LongestMs), math.Max(m.HeldMs, f.HeldMs)
		m.Cold, m.Calm, m.Init = math.Max(m.Cold, f.Cold), math.Max(m.Calm, f.Calm), math.Max(m.Init, f.Init)
		m.Node, m.Miss = math.Max(m.Node, f.Node), math.Max(m.Miss, f.Miss)
	}
	m.Calls, m.Answered, m.Unserved, m.Declined, m.Prewarmed = m.Calls/uint64(n), m.Answered/uint64(n), m.Unserved/uint64(n), m.Declined/uint64(n), m.Prewarmed/uint64(n)
	return m
}

func rubato(cfg policy.Config) policy.Policy {
	p, err := policy.New("rubato", cfg)
	if err != nil {
		panic(err) // it is always known
	}
	return p
}

func delayMaxMs(cfg policy.Config) float64 { return float64(cfg.DelayMax) / float64(time.Millisecond) }

func broken(name string, rule func(policy.Policy) policy.Policy) contender {
	return contender{name: name, rule: func(cfg policy.Config, _ func() time.Duration) policy.Policy { return rule(rubato(cfg)) }}
}

var neverWaits = contender{name: "rubato, never waits", change: neverWait}

// neverWait switches delay off. A DelayMax of 0 would also change who counts as old in a full zone.
func neverWait(c *sim.Config) {
	for i := range c.Functions {
		c.Functions[i].Spec.DelayOff = true
	}
}

// keepForest is an operator's order to believe the forest whatever comes true, which leaves the guard of waiting alone with it.
func keepForest(c *sim.Config) {
	for i := range c.Zones {
		c.Zones[i].Core.KeepForest = true
	}
}

// keepRule is an operator's order to go on by averages where these stand in for the forest.
func keepRule(c *sim.Config) {
	for i := range c.Zones {
		c.Zones[i].Core.KeepRule = true
	}
}

var alwaysWait = contender{name: "always waits", rule: func(cfg policy.Config, _ func() time.Duration) policy.Policy {
	return naive.AlwaysWait{MaxMs: delayMaxMs(cfg)}
}}

// Of .1, .4, 2 and 4 s the best wait in noise.yaml.
var plainDelay = contender{name: "plain fixed delay of 2 s", rule: func(policy.Config, func() time.Duration) policy.Policy {
	return policy.FixedDelay{WaitMs: 2000}
}}

var takeAtWord = contender{name: "takes predictions at their word", rule: func(cfg policy.Config, _ func() time.Duration) policy.Policy {
	return naive.TakeAtWord{MaxMs: delayMaxMs(cfg)}
}}

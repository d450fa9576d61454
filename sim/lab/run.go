package lab

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sim"
)

// Run is one run of a scenario under one policy.
type Run struct {
	Policy string `json:"policy"`
	Seed   uint64 `json:"seed"`
	// Hash is over all events, in hex: equal for equal scenario, policy and seed. Events is how many there were.
	Hash   string `json:"hash"`
	Events uint64 `json:"events"`
	// Learned is how many samples the zones learned, of Samples that they had; LearnEvery is the scenario's one in so many.
	Learned    uint64 `json:"rows_learned"`
	LearnEvery int    `json:"learn_one_of"`
	// WaitingStopped is how often a zone's guard stopped waiting since it lost, WaitingResumed how often it was allowed again, from
	// the beginning on. Rules other than the product's have no guard.
	WaitingStopped uint64 `json:"waiting_stopped"`
	WaitingResumed uint64 `json:"waiting_resumed"`
	// WaitsJudged is how many calls held back the guards had judged at the end, since they last changed anything.
	WaitsJudged uint64 `json:"waits_judged"`

	stats []sim.Stats // by function
}

// drain is how long a run goes on after the last arrival for calls that are not answered yet: as long as the longest call.
const drain = api.MaxTimeout + time.Minute

// run simulates.
func (s *Scenario) run(ctx context.Context, p Policy, seed uint64, tell func(part float64)) (*Run, error) {
	cfg, err := s.Config(p, seed)
	if err != nil {
		return nil, err
	}
	w, err := sim.New(cfg)
	if err != nil {
		return nil, err
	}
	const parts = 50
	end := time.Duration(s.Duration)
	for i := 1; i <= parts; i++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		w.Run(end * time.Duration(i) / parts)
		tell(1. / parts)
	}
	for at := end; w.Open() > 0 && at < end+drain; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		at += time.Second
		w.Run(at)
	}
	if v := w.Violation(); v != "" {
		return nil, fmt.Errorf("scenario %s, policy %s, seed %d: a broken invariant: %s", s.Name, p.Name, seed, v)
	}
	r := &Run{Policy: p.Name, Seed: seed, Hash: fmt.Sprintf("%016x", w.Hash()), Events: w.Events(), LearnEvery: cfg.Learn.Every, stats: w.FunctionStats()}
	if len(r.stats) > maxRows { // their sum is all that is shown, and a histogram for each of them and each run is much
		var sum sim.Stats
		for i := range r.stats {
			sum.Add(&r.stats[i])
		}
		r.stats = []sim.Stats{sum}
	}
	for z := range cfg.Zones {
		r.Learned += w.Learned(z).Rows
		c := w.Core(z).Counters()
		r.WaitingStopped, r.WaitingResumed = r.WaitingStopped+c.WaitingStopped, r.WaitingResumed+c.WaitingResumed
		r.WaitsJudged += uint64(w.Core(z).Guard().Calls)
	}
	return r, nil
}

// Row is what callers saw of one function ("all": of all) under one policy. Counts are sums over seeds. Times are means over
// seeds of each seed's figure, in ms. Beside each stands the half-width of its 95 % confidence interval (Student's t; 0 for one
// seed): of a count that of the sum.
type Row struct {
	Policy   string `json:"policy"`
	Workload string `json:"workload"`
	Function string `json:"function"`
	Seeds    int    `json:"seeds"`

	Calls    uint64 `json:"calls"`
	Answered uint64 `json:"answered"`
	Refused  uint64 `json:"refused"`
	// Failed calls got an error, or no answer until 16 minutes after the last arrival.
	Failed uint64 `json:"failed"`

	MeanMs      float64 `json:"mean_ms"`
	P50Ms       float64 `json:"p50_ms"`
	P95Ms       float64 `json:"p95_ms"`
	P99Ms       float64 `json:"p99_ms"`
	ExecMeanMs  float64 `json:"exec_mean_ms"`
	DelayMeanMs float64 `json:"delay_mean_ms"`
	QueueMeanMs float64 `json:"queue_mean_ms"`

	// Misses are calls without a result before their deadline and all refused ones, of Deadlines that had a deadline or were refused.
	Deadlines    uint64 `json:"deadlines"`
	Misses       uint64 `json:"misses"`
	ColdStarts   uint64 `json:"cold_starts"`
	FetchedBytes int64  `json:"fetched_bytes"`
	Forwarded    uint64 `json:"forwarded"`

	MeanCI      float64 `json:"mean_ci95_ms"`
	P50CI       float64 `json:"p50_ci95_ms"`
	P95CI       float64 `json:"p95_ci95_ms"`
	P99CI       float64 `json:"p99_ci95_ms"`
	ExecMeanCI  float64 `json:"exec_mean_ci95_ms"`
	DelayMeanCI float64 `json:"delay_mean_ci95_ms"`
	QueueMeanCI float64 `json:"queue_mean_ci95_ms"`
	// MissShare is Misses over Deadlines, or over all calls where none had a deadline.
	MissShare   float64 `json:"miss_share"`
	MissShareCI float64 `json:"miss_share_ci95"`
	// MeanVsFirst is the mean of this policy less that of the first one, paired by seed.
	MeanVsFirst   float64 `json:"mean_vs_first_ms"`
	MeanVsFirstCI float64 `json:"mean_vs_first_ci95_ms"`

	CallsCI        float64 `json:"calls_ci95"`
	AnsweredCI     float64 `json:"answered_ci95"`
	RefusedCI      float64 `json:"refused_ci95"`
	FailedCI       float64 `json:"failed_ci95"`
	DeadlinesCI    float64 `json:"deadlines_ci95"`
	MissesCI       float64 `json:"misses_ci95"`
	ColdStartsCI   float64 `json:"cold_starts_ci95"`
	FetchedBytesCI float64 `json:"fetched_bytes_ci95"`
	ForwardedCI    float64 `json:"forwarded_ci95"`
	// Delayed calls were held back though a slot was free.
	Delayed   uint64  `json:"delayed"`
	DelayedCI float64 `json:"delayed_ci95"`
}

// Result is what runs of one scenario came to.
type Result struct {
	Scenario  string  `json:"scenario"`
	DurationS float64 `json:"duration_s"`
	WarmupS   float64 `json:"warmup_s"`
	Rows      []Row   `json:"rows"`
	Runs      []Run   `json:"runs"`
	// Notes are for people: what was left out.
	Notes []string `json:"notes,omitempty"`

	curves []Curve // for plots
}

// Curve is a policy's distribution of times over all seeds: one call in 10^(i/curveSteps) takes longer than Ms[i], in ms.
type Curve struct {
	Policy string    `json:"policy"`
	Ms     []float64 `json:"ms"`
}

// A curve goes down to the thousandth call, in so many steps for each tenth part.
const (
	curveSteps  = 50
	curveTenths = 3
)

func curveOf(policy string, times *sim.Hist) Curve {
	c := Curve{Policy: policy}
	for i := range curveTenths*curveSteps + 1 {
		c.Ms = append(c.Ms, times.Quantile(1-above(i)))
	}
	return c
}

// above is the share of calls that take longer than a curve's i-th time.
func above(i int) float64 { return math.Pow(10, -float64(i)/curveSteps) }

// Compare runs every policy with every seed, on the same arrivals and with the same luck, on all processors. hear is told of
// progress and may be nil.
func Compare(ctx context.Context, s *Scenario, policies []Policy, seeds []uint64, hear func(done, total int, doing string)) (*Result, error) {
	if len(policies) == 0 || len(seeds) == 0 || len(policies) > 64 || len(seeds) > 10000 {
		return nil, fmt.Errorf("%w: %d policies, %d seeds: want 1-64 and 1-10000", api.ErrInvalid, len(policies), len(seeds))
	}
	runs := make([]*Run, len(policies)*len(seeds))
	errs := make([]error, len(runs))
	var (
		mu   sync.Mutex
		part float64
		wg   sync.WaitGroup
		next = make(chan int)
	)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for range min(runtime.GOMAXPROCS(0), len(runs)) {
		wg.Go(func() {
			for i := range next {
				if errs[i] = ctx.Err(); errs[i] != nil {
					continue
				}
				p := policies[i/len(seeds)]
				runs[i], errs[i] = s.run(ctx, p, seeds[i%len(seeds)], func(d float64) {
					mu.Lock()
					defer mu.Unlock()
					if part += d; hear != nil {
						hear(int(part*100), len(runs)*100, s.Name)
					}
				})
				if errs[i] != nil {
					stop() // the others would run in vain
				}
			}
		})
	}
	for i := range runs {
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
	return s.result(policies, seeds, runs), nil
}

func (s *Scenario) result(policies []Policy, seeds []uint64, runs []*Run) *Result {
	r := &Result{Scenario: s.Name, DurationS: time.Duration(s.Duration).Seconds(), WarmupS: time.Duration(s.Warmup).Seconds()}
	names := s.FunctionNames()
	firsts := make([][]float64, len(names)+1)
	for p := range policies {
		mine := runs[p*len(seeds) : (p+1)*len(seeds)]
		for f := -1; f < len(names); f++ {
			if f >= 0 && (len(names) == 1 || len(names) > maxRows) {
				continue
			}
			row := Row{Policy: policies[p].Name, Workload: s.Workload(), Function: "all", Seeds: len(seeds)}
			stats := make([]sim.Stats, len(mine))
			for i, run := range mine {
				for k := range run.stats {
					if f < 0 || f == k {
						stats[i].Add(&run.stats[k])
					}
				}
			}
			if f >= 0 {
				row.Function = names[f]
			} else {
				var times sim.Hist
				for i := range stats {
					times.Merge(&stats[i].Latency)
				}
				r.curves = append(r.curves, curveOf(row.Policy, &times))
			}
			means := row.fill(stats)
			if p == 0 {
				firsts[f+1] = means
			} else {
				diffs := make([]float64, len(means))
				for i := range means {
					diffs[i] = means[i] - firsts[f+1][i]
				}
				row.MeanVsFirst, row.MeanVsFirstCI = meanCI(told(diffs))
			}
			r.Rows = append(r.Rows, row)
		}
		for _, run := range mine {
			r.Runs = append(r.Runs, *run)
		}
	}
	if len(names) > maxRows {
		r.Notes = append(r.Notes, fmt.Sprintf("%d functions: only their sum is shown, as for more than %d", len(names), maxRows))
	}
	r.Notes = append(r.Notes, s.notes...)
	if len(seeds) > 1 && (s.trace != nil || s.replay != nil) {
		r.Notes = append(r.Notes, "the calls are those of the trace under every seed: intervals tell what chance does to starts, messages and nodes, not how other days would be")
	}
	if late := time.Duration(s.Network.Late); late > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("what nodes tell is %v late: times leave out that the answer itself is", late))
	}
	if t := s.trace; t != nil && t.UntimedFunctions > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("trace %s: %d functions, with %d calls, were left out: it does not tell how long they take", t.Name, t.UntimedFunctions, t.UntimedCalls))
	}
	if t := s.trace; t != nil && t.LeftFunctions > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("trace %s: the %d least busy functions, with %d calls, were left out: a world has at most %d", t.Name, t.LeftFunctions, t.LeftCalls, sim.MaxFunctions))
	}
	return r
}

// maxRows bounds the functions that are shown one by one.
const maxRows = 64

// told is xs without what is not a number.
func told(xs []float64) []float64 {
	return slices.DeleteFunc(slices.Clone(xs), math.IsNaN)
}

// fill works out a row from each seed's figures, and returns each seed's mean, NaN for a seed under which no call was answered.
func (r *Row) fill(stats []sim.Stats) []float64 {
	// each is a figure of every seed, with its mean over them and the half-width.
	each := func(of func(*sim.Stats) float64) (xs []float64, mean, half float64) {
		for i := range stats {
			xs = append(xs, of(&stats[i]))
		}
		mean, half = meanCI(xs)
		return xs, mean, half
	}
	count := func(to *uint64, ci *float64, of func(*sim.Stats) uint64) {
		for i := range stats {
			*to += of(&stats[i])
		}
		_, _, half := each(func(s *sim.Stats) float64 { return float64(of(s)) })
		*ci = half * float64(len(stats))
	}
	count(&r.Calls, &r.CallsCI, func(s *sim.Stats) uint64 { return s.Calls })
	count(&r.Answered, &r.AnsweredCI, func(s *sim.Stats) uint64 { return s.Answered })
	count(&r.Refused, &r.RefusedCI, func(s *sim.Stats) uint64 { return s.Refused })
	count(&r.Failed, &r.FailedCI, func(s *sim.Stats) uint64 { return s.Failed + s.Open })
	count(&r.Deadlines, &r.DeadlinesCI, func(s *sim.Stats) uint64 { return s.Deadlines })
	count(&r.Misses, &r.MissesCI, misses)
	count(&r.ColdStarts, &r.ColdStartsCI, func(s *sim.Stats) uint64 { return s.ColdStarts })
	count(&r.Forwarded, &r.ForwardedCI, func(s *sim.Stats) uint64 { return s.Forwarded })
	count(&r.Delayed, &r.DelayedCI, func(s *sim.Stats) uint64 { return s.Delayed })
	var fetched uint64
	count(&fetched, &r.FetchedBytesCI, func(s *sim.Stats) uint64 { return uint64(s.FetchedBytes) })
	r.FetchedBytes = int64(fetched)

	// Of a seed under which no call was answered there is no time to tell: it is left out.
	figure := func(to, ci *float64, of func(*sim.Stats) float64) (xs []float64) {
		for i := range stats {
			x := math.NaN()
			if stats[i].Answered > 0 {
				x = of(&stats[i])
			}
			xs = append(xs, x)
		}
		*to, *ci = meanCI(told(xs))
		return xs
	}
	n := func(s *sim.Stats) float64 { return float64(s.Answered) }
	means := figure(&r.MeanMs, &r.MeanCI, func(s *sim.Stats) float64 { return s.TotalMs / n(s) })
	figure(&r.P50Ms, &r.P50CI, func(s *sim.Stats) float64 { return s.Latency.Quantile(.5) })
	figure(&r.P95Ms, &r.P95CI, func(s *sim.Stats) float64 { return s.Latency.Quantile(.95) })
	figure(&r.P99Ms, &r.P99CI, func(s *sim.Stats) float64 { return s.Latency.Quantile(.99) })
	figure(&r.ExecMeanMs, &r.ExecMeanCI, func(s *sim.Stats) float64 { return s.ExecMs / n(s) })
	figure(&r.DelayMeanMs, &r.DelayMeanCI, func(s *sim.Stats) float64 { return s.DelayMs / n(s) })
	figure(&r.QueueMeanMs, &r.QueueMeanCI, func(s *sim.Stats) float64 { return s.QueueMs / n(s) })
	_, r.MissShare, r.MissShareCI = each(missShare)
	return means
}

// misses counts calls that are not answered yet, too, if they had a deadline.
func misses(s *sim.Stats) uint64 { return s.Misses + s.OpenDue }

// missShare is of the calls that could miss; where nothing has a deadline all can, since all can be refused.
func missShare(s *sim.Stats) float64 {
	of := s.Deadlines
	if s.Deadlines == s.Undue {
		of = s.Calls
	}
	return float64(misses(s)) / float64(max(of, 1))
}

// meanCI is the mean of xs and the half-width of its 95 % confidence interval by Student's t; 0 for a single x, of which
// nothing can be said.
func meanCI(xs []float64) (mean, half float64) {
	n := float64(len(xs))
	for _, x := range xs {
		mean += x / n
	}
	if len(xs) < 2 {
		return mean, 0
	}
	ss := 0.0
	for _, x := range xs {
		ss += (x - mean) * (x - mean)
	}
	t := distuv.StudentsT{Sigma: 1, Nu: n - 1}.Quantile(.975)
	return mean, t * math.Sqrt(ss/(n-1)/n)
}

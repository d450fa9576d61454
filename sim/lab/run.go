package lab

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
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
	for z := range cfg.Zones {
		r.Learned += w.Learned(z).Rows
	}
	return r, nil
}

// Row is what callers saw of one function ("all": of all) under one policy. Counts are sums over seeds. Times are means over
// seeds of each seed's figure, in ms, with the half-width of its 95 % confidence interval (Student's t; 0 for one seed).
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

	// Misses are calls without a result before their deadline, of Deadlines that had one.
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
	// MissShare is the share of deadlines missed.
	MissShare   float64 `json:"miss_share"`
	MissShareCI float64 `json:"miss_share_ci95"`
	// MeanVsFirst is the mean of this policy less that of the first one, paired by seed.
	MeanVsFirst   float64 `json:"mean_vs_first_ms"`
	MeanVsFirstCI float64 `json:"mean_vs_first_ci95_ms"`
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

	quantiles []curve // for plots
}

// curve is a policy's distribution of times over all seeds.
type curve struct {
	policy string
	all    sim.Hist
}

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
				c := curve{policy: policies[p].Name}
				for i := range stats {
					c.all.Merge(&stats[i].Latency)
				}
				r.quantiles = append(r.quantiles, c)
			}
			means := row.fill(stats)
			if p == 0 {
				firsts[f+1] = means
			} else {
				diffs := make([]float64, len(means))
				for i := range means {
					diffs[i] = means[i] - firsts[f+1][i]
				}
				row.MeanVsFirst, row.MeanVsFirstCI = meanCI(diffs)
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
	if t := s.trace; t != nil && t.LeftFunctions > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("trace %s: the %d least busy functions, with %d calls, were left out: a world has at most %d", t.Name, t.LeftFunctions, t.LeftCalls, sim.MaxFunctions))
	}
	return r
}

// maxRows bounds the functions that are shown one by one.
const maxRows = 64

// fill works out a row from each seed's figures, and returns each seed's mean.
func (r *Row) fill(stats []sim.Stats) []float64 {
	var mean, p50, p95, p99, exec, delay, queue, miss []float64
	for i := range stats {
		s := &stats[i]
		r.Calls += s.Calls
		r.Answered += s.Answered
		r.Refused += s.Refused
		r.Failed += s.Failed + s.Open
		misses := s.Misses + s.OpenDue
		r.Deadlines += s.Deadlines
		r.Misses += misses
		r.ColdStarts += s.ColdStarts
		r.FetchedBytes += s.FetchedBytes
		r.Forwarded += s.Forwarded
		n := float64(max(s.Answered, 1))
		mean = append(mean, s.TotalMs/n)
		p50 = append(p50, s.Latency.Quantile(.5))
		p95 = append(p95, s.Latency.Quantile(.95))
		p99 = append(p99, s.Latency.Quantile(.99))
		exec = append(exec, s.ExecMs/n)
		delay = append(delay, s.DelayMs/n)
		queue = append(queue, s.QueueMs/n)
		miss = append(miss, float64(misses)/float64(max(s.Deadlines, 1)))
	}
	r.MeanMs, r.MeanCI = meanCI(mean)
	r.P50Ms, r.P50CI = meanCI(p50)
	r.P95Ms, r.P95CI = meanCI(p95)
	r.P99Ms, r.P99CI = meanCI(p99)
	r.ExecMeanMs, r.ExecMeanCI = meanCI(exec)
	r.DelayMeanMs, r.DelayMeanCI = meanCI(delay)
	r.QueueMeanMs, r.QueueMeanCI = meanCI(queue)
	r.MissShare, r.MissShareCI = meanCI(miss)
	return mean
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

package lab

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sim"
)

// maxPopulation bounds the functions that are drawn: their load is worked out call by call when the scenario is read.
const maxPopulation = 2000

// Population is functions drawn from published figures (figures.yaml). Reading a scenario turns it into functions and object
// sets like those that are written out, so that everything else takes them for such. They belong to the scenario: what a run's
// seed decides is what happens to them.
type Population struct {
	// Name begins the functions' names, the busiest being NAME-0 (default app).
	Name      string `yaml:"name"`
	Functions int    `yaml:"functions"`
	Seed      uint64 `yaml:"seed"`
	// PerS are the calls a second of all, Load what they bring over what the zones' slots can do (sim.Config.Load): one of them.
	PerS float64 `yaml:"per_s"`
	Load float64 `yaml:"load"`
	// Inputs is the share of functions whose calls name an object.
	Inputs float64 `yaml:"inputs"`
	// Region is whose cold starts they have: r1 to r5; r2 (default) is known by runtime, the others by its ratio to it.
	Region string `yaml:"region"`
	// Longest bounds a function's mean run time (default 30s), since a run lasts a minute or so and the slowest functions of the
	// traces ten.
	Longest Duration `yaml:"longest"`
	Ramp    Duration `yaml:"ramp"`
}

// What no figure says, and populations take for themselves.
const (
	// popularShort correlates how often a function is called with how long it runs (of normal scores). Drawn apart, the calls'
	// median run time would be the functions', 670 ms; the traces' is 126 ms. With this it is near that (a test holds it).
	popularShort = -.2
	// shortestMs stands for means of 0 in bins of 5 ms.
	shortestMs = 2.5
	// burstPart is the part of the time that bursts take, burstEvery the time from one to the next: what is known of intervals is
	// their variation alone, from which follows how dense bursts are, up to burstMost.
	burstPart  = .1
	burstEvery = 20 * time.Second
	burstMost  = 1000
	// steadyShare: functions that get a greater share of the calls arrive as a Poisson stream. All calls together vary by a
	// tenth or so from one window to the next in the traces, which they could not if the busiest came in bursts.
	steadyShare = .02
	// busyPart is the busiest part of the functions: what triggers them follows the table by calls, and the others' that by functions.
	busyPart = .05
	// Each MB of input takes from perMBLeast to perMBMost to compute, evenly in the logarithm. Over links of 300 Mbit/s and more a
	// local input is then worth no more than the 3.5 that were measured.
	perMBLeast = 20 * time.Millisecond
	perMBMost  = 80 * time.Millisecond
	// objectSpread is how unlike one function's objects are. What is published is over all blobs, with a spread of 2.5: this adds 2 %.
	objectSpread = .5
	// objectsMost bounds the objects of one function: a run does not see more of them.
	objectsMost = 400
)

// artifactBytes of a function of a population: next to nothing, since published cold starts include the way of its code.
const artifactBytes = 64_000

func (p *Population) validate() error {
	loads := 0
	for _, x := range []float64{p.PerS, p.Load} {
		if !(x >= 0 && x <= 1e6) {
			return fmt.Errorf("%w: population: %v calls a second, load %v: want 0 or more", api.ErrInvalid, p.PerS, p.Load)
		}
		if x > 0 {
			loads++
		}
	}
	switch {
	case p.Functions < 1 || p.Functions > maxPopulation:
		return fmt.Errorf("%w: population: %d functions: want 1-%d", api.ErrInvalid, p.Functions, maxPopulation)
	case loads != 1:
		return fmt.Errorf("%w: population: want per_s or load, and not both", api.ErrInvalid)
	case p.Load > maxLoad:
		return fmt.Errorf("%w: population: load %v: want at most %v", api.ErrInvalid, p.Load, float64(maxLoad))
	case !(p.Inputs >= 0 && p.Inputs <= 1):
		return fmt.Errorf("%w: population: a share of %v with inputs: want 0-1", api.ErrInvalid, p.Inputs)
	case p.Region != "" && !slices.Contains(regions, p.Region):
		return fmt.Errorf("%w: population: region %.20q: want r1 to r5", api.ErrInvalid, p.Region)
	case time.Duration(p.Longest) > api.MaxTimeout:
		return fmt.Errorf("%w: population: longest %v: want at most %v", api.ErrInvalid, time.Duration(p.Longest), time.Duration(api.MaxTimeout))
	}
	return api.CheckName("population", or(p.Name, "app"))
}

// spread are n draws from 0 to 1 in order, one from each n-th part: a small population has the shape of the table, whatever
// the seed.
func spread(rng *rand.Rand, n int) []float64 {
	u := make([]float64, n)
	for i := range u {
		u[i] = (float64(i) + rng.Float64()) / float64(n)
	}
	return u
}

// mixed are the same in random order.
func mixed(rng *rand.Rand, n int) []float64 {
	u := spread(rng, n)
	rng.Shuffle(n, func(i, k int) { u[i], u[k] = u[k], u[i] })
	return u
}

// normal is the standard normal quantile, scored its inverse.
func normal(u float64) float64 { return math.Sqrt2 * math.Erfinv(2*u-1) }
func scored(z float64) float64 { return (1 + math.Erf(z/math.Sqrt2)) / 2 }

// populate adds the population's functions and object sets to the scenario's own.
func (s *Scenario) populate() error {
	p := s.Population
	if p == nil {
		return nil
	}
	if err := p.validate(); err != nil {
		return err
	}
	f, err := published()
	if err != nil {
		return err
	}
	fns, sets := p.draw(f)
	rate := p.PerS
	if p.Load > 0 {
		load, err := s.loadOf(fns, sets)
		if err != nil {
			return err
		}
		rate = p.Load / math.Max(load, 1e-12)
	}
	for i := range fns {
		fns[i].Calls.PerS *= rate
	}
	s.Functions, s.Objects = append(s.Functions, fns...), append(s.Objects, sets...)
	return nil
}

// loadOf is the load of these functions alone in the scenario's zones.
func (s *Scenario) loadOf(fns []Function, sets []Objects) (float64, error) {
	alone := *s
	alone.Functions, alone.Objects, alone.Changes, alone.Rate = fns, sets, nil, 1
	rule, err := ParsePolicy(s.Policy)
	if err != nil {
		return 0, err
	}
	cfg, err := alone.Config(rule, s.Seed)
	if err != nil {
		return 0, err
	}
	return cfg.Load(), nil
}

// draw makes the functions, the busiest first, with rates that sum to 1, and the objects that they name.
func (p *Population) draw(f *figures) (fns []Function, sets []Objects) {
	n, name := p.Functions, or(p.Name, "app")
	rng := rand.New(rand.NewPCG(p.Seed, 0x1d8e4e27c47d124f))
	of := func(table string) func(u float64) float64 {
		q := f.Quantiles[table]
		return q.quantile
	}
	calls, runs, sigmas, cvs, memory, sizes, counts := of("calls_per_day"), of("run_ms"), of("run_sigma"), of("interval_cv"), of("memory_mb"), of("object_bytes"), of("objects")
	runtimes, triggers, busyTriggers := f.Shares["runtimes"], f.Shares["triggers"], f.Shares["triggers_by_call"]

	popular := spread(rng, n)
	slices.Reverse(popular)
	runU, sigmaU, cvU, memoryU := mixed(rng, n), mixed(rng, n), mixed(rng, n), mixed(rng, n)
	runtimeU, kernelU, inputU := mixed(rng, n), mixed(rng, n), mixed(rng, n)
	sizeU, countU, perMBU := mixed(rng, n), mixed(rng, n), mixed(rng, n)
	busy := max(int(busyPart*float64(n)), 1)
	triggerU := append(mixed(rng, busy), mixed(rng, n-busy)...)
	all := 0.0
	for _, u := range popular {
		all += calls(u)
	}
	// Regions other than r2 are not known by runtime: theirs are r2's times the ratio of their medians.
	slower := f.Laws["cold_"+or(p.Region, "r2")].Median / f.Laws["cold_r2"].Median

	for i := range n {
		share := calls(popular[i]) / all
		z := popularShort*normal(popular[i]) + math.Sqrt(1-popularShort*popularShort)*normal(runU[i])
		mean := min(max(runs(scored(z)), shortestMs), ms(or(p.Longest, Duration(30*time.Second))))
		sigma := sigmas(sigmaU[i])
		median := mean / math.Exp(sigma*sigma/2) // of a log-normal with that mean
		cold := f.Laws["cold_r2_"+runtimes.draw(runtimeU[i])]
		prepare, start, coldSpread := Duration(0), seconds(cold.Median*slower), cold.Sigma
		fn := Function{
			Name: name + "-" + strconv.Itoa(i), MemoryMB: int(math.Round(memory(memoryU[i]))), Artifact: artifactBytes,
			// Far beyond what its law draws: the traces know no timeouts.
			Timeout: min(max(Duration(time.Minute), millis(100*mean)), Duration(api.MaxTimeout)),
			Run:     millis(median), Spread: sigma, Kernel: sim.Kernel(min(int(kernelU[i]*3), 2)).String(),
			Prepare: &prepare, Start: &start, ColdSpread: &coldSpread,
			Calls: Calls{PerS: share, Ramp: p.Ramp},
		}
		trigger := triggers.draw(triggerU[i])
		if i < busy {
			trigger = busyTriggers.draw(triggerU[i])
		}
		switch trigger {
		case "timer":
			fn.Calls.Timer, fn.Calls.Async = true, 1
		case "queue", "event", "orchestration":
			fn.Calls.Async = 1
		}
		if !fn.Calls.Timer && share <= steadyShare {
			fn.Calls.bursts(cvs(cvU[i]))
		}
		if inputU[i] < p.Inputs {
			size := sizes(sizeU[i])
			per := float64(perMBLeast) * math.Pow(float64(perMBMost)/float64(perMBLeast), perMBU[i])
			fn.PerMB = Duration(per)
			// What the median input takes is part of the run time that was drawn, and half of it at most.
			fn.Run = max(fn.Run-Duration(per*size/1e6), fn.Run/2)
			fn.Calls.Objects, fn.Calls.Inputs = fn.Name, 1
			sets = append(sets, Objects{
				Name: fn.Name, Count: min(max(int(math.Round(counts(countU[i]))), 1), objectsMost), Size: Bytes(math.Ceil(size)), Spread: objectSpread, Zipf: f.Numbers["object_zipf"].Value,
			})
		}
		fns = append(fns, fn)
	}
	return fns, sets
}

// bursts makes a stream whose intervals have this coefficient of variation, if phases last long beside them: a part w of the time
// in bursts that are b times as dense, for which cv^2 + 1 = 2 (1-w+wb) (1-w+w/b). Up to 1 a Poisson stream stands for it; what is
// steadier than chance is so because a timer calls, and that is drawn with the trigger.
func (c *Calls) bursts(cv float64) {
	if cv <= 1 {
		return
	}
	const w = burstPart
	t := ((cv*cv+1)/2 - (1-w)*(1-w) - w*w) / (w * (1 - w))
	c.Burst = min((t+math.Sqrt(max(t*t-4, 0)))/2, burstMost)
	c.BurstFor, c.BurstEvery = Duration(burstPart*float64(burstEvery)), Duration(burstEvery)
}

func ms(d Duration) float64      { return float64(d) / float64(time.Millisecond) }
func millis(x float64) Duration  { return Duration(x * float64(time.Millisecond)) }
func seconds(x float64) Duration { return Duration(x * float64(time.Second)) }

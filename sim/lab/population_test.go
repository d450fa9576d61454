package lab

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/internal/racetest"
	"github.com/rubato-faas/rubato/sim"
	"github.com/rubato-faas/rubato/zonesched"
)

const people = `
name: people
duration: 20s
functions: [{name: own, run: 5ms, calls: {per_s: 10}}]
population: {functions: 100, seed: 3, load: .4, inputs: .3, ramp: 2s}
zones:
  - {name: a, share: 2, nodes: [{count: 4, slots: 4, cores: 4, memory_mb: 4096, link_mbps: 1000}]}
  - {name: b, nodes: [{count: 4, slots: 2, cores: 2, memory_mb: 4096, link_mbps: 1000, speed: {cpu: .5}}]}
changes: [{at: 10s, function: app-7, run: 2}]
`

func drawn(t *testing.T, p Population) ([]Function, []Objects) {
	t.Helper()
	f, err := published()
	if err != nil {
		t.Fatal(err)
	}
	return p.draw(f)
}

// callMs is what a function's calls take on average on a core of speed 1, its input at its median.
func callMs(f *Function, sets []Objects) float64 {
	m := ms(f.Run)
	for i := range sets {
		if sets[i].Name == f.Calls.Objects {
			m += ms(f.PerMB) * float64(sets[i].Size) / 1e6
		}
	}
	return m * math.Exp(f.Spread*f.Spread/2)
}

// A population becomes functions like any others, beside the scenario's own: the same for every run, another with another
// seed, and with the load that was asked for.
func TestPopulationBecomesFunctions(t *testing.T) {
	s, again := read(t, people), read(t, people)
	if !reflect.DeepEqual(s.Functions, again.Functions) || !reflect.DeepEqual(s.Objects, again.Objects) {
		t.Error("two readings of one scenario differ")
	}
	if other := read(t, strings.Replace(people, "seed: 3", "seed: 4", 1)); reflect.DeepEqual(s.Functions, other.Functions) {
		t.Error("two seeds draw the same functions")
	}
	names := s.FunctionNames()
	if len(names) != 101 || names[0] != "own" || names[1] != "app-0" || names[100] != "app-99" {
		t.Fatalf("functions %v", names)
	}
	if len(s.Objects) != 30 {
		t.Errorf("%d functions of 100 name inputs, want three tenths", len(s.Objects))
	}
	p := policies(t, "rubato")[0]
	cfg, err := s.Config(p, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Streams) != 2*101 || len(cfg.Changes) != 1 || cfg.Changes[0].Function != 8 {
		t.Errorf("%d streams, changes %+v", len(cfg.Streams), cfg.Changes)
	}
	cfg.Streams = cfg.Streams[2:] // without own's
	if load := cfg.Load(); math.Abs(load-.4) > .001 {
		t.Errorf("load %v, want .4", load)
	}
	counted := read(t, strings.NewReplacer("load: .4", "per_s: 50, name: fn, region: r3, longest: 2s", "app-7", "fn-7").Replace(people))
	sum := 0.0
	for i := range counted.Functions[1:] {
		f := &counted.Functions[1+i]
		sum += f.Calls.PerS
		if !strings.HasPrefix(f.Name, "fn-") || callMs(f, counted.Objects) > 2001 {
			t.Errorf("%s takes %v ms, want at most 2 s", f.Name, callMs(f, counted.Objects))
		}
	}
	if math.Abs(sum-50) > 1e-9 {
		t.Errorf("%v calls a second, want 50", sum)
	}
	if a, b := time.Duration(*s.Functions[1].Start), time.Duration(*counted.Functions[1].Start); !(b < a/10 && b > a/14) {
		t.Errorf("a cold start takes %v in region 2, %v in region 3: want a twelfth, as the regions' medians are", a, b)
	}
	r, err := Compare(t.Context(), s, []Policy{p}, []uint64{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if all := r.Rows[0]; all.Calls < 200 || all.Answered < all.Calls*9/10 {
		t.Errorf("of %d calls %d answered", all.Calls, all.Answered)
	}
}

// What is drawn looks like what it is drawn from.
func TestPopulationLooksLikeTheTraces(t *testing.T) {
	const n = 1000
	fns, sets := drawn(t, Population{Functions: n, Seed: 1, PerS: 1, Inputs: .5, Longest: Duration(15 * time.Minute)})
	var runs, memory, sizes, colds []float64
	timers, async, bursts, top := 0, 0, 0, 0.0
	for i := range fns {
		f := &fns[i]
		runs, memory, colds = append(runs, callMs(f, sets)), append(memory, float64(f.MemoryMB)), append(colds, time.Duration(*f.Start).Seconds())
		if f.Calls.Timer {
			timers++
		}
		if f.Calls.Async > 0 {
			async++
		}
		if f.Calls.Burst > 1 {
			bursts++
		}
		if i < n/100 {
			top += f.Calls.PerS
		}
		if i > 0 && f.Calls.PerS > fns[i-1].Calls.PerS {
			t.Fatalf("%s is called more often than %s", f.Name, fns[i-1].Name)
		}
	}
	for i := range sets {
		sizes = append(sizes, float64(sets[i].Size))
	}
	at := func(xs []float64, u float64) float64 {
		slices.Sort(xs)
		return xs[int(u*float64(len(xs)))]
	}
	for _, c := range []struct {
		what           string
		got, low, high float64
	}{
		{"median of mean run times, ms", at(runs, .5), 550, 800},
		{"ninth decile of them", at(runs, .9), 12_000, 22_000},
		{"median memory, MB", at(memory, .5), 135, 145},
		{"99th percentile of memory", at(memory, .99), 370, 440},
		{"median object, bytes", at(sizes, .5), 5000, 5600},
		{"largest object", at(sizes, .999), 1e6, 10.1e6},
		{"median of median cold starts, s", at(colds, .5), .6, .75},
		{"dearest cold start", at(colds, .999), 10, 11},
		{"share of calls of the busiest hundredth of functions", top, .78, .95},
		{"timers of 1000", float64(timers), 140, 180},
		{"asynchronous of 1000", float64(async), 370, 440},
		{"in bursts of 1000", float64(bursts), 280, 400}, // 38 % vary by more than chance, and timers are not among them
	} {
		if !(c.got >= c.low && c.got <= c.high) {
			t.Errorf("%s: %v, want %v to %v", c.what, c.got, c.low, c.high)
		}
	}
}

// The calls' median run time is far below the functions', as it is in the traces: what is popular is short.
func TestPopularFunctionsAreShort(t *testing.T) {
	f, err := published()
	if err != nil {
		t.Fatal(err)
	}
	q := f.Quantiles["run_ms_by_call"]
	var medians, nineties []float64
	for seed := range uint64(41) {
		fns, sets := drawn(t, Population{Functions: 500, Seed: seed, PerS: 1, Longest: Duration(15 * time.Minute)})
		slices.SortFunc(fns, func(a, b Function) int { return int(math.Copysign(1, callMs(&a, sets)-callMs(&b, sets))) })
		sum, median := 0.0, 0.0
		for i := range fns {
			sum += fns[i].Calls.PerS
			if median == 0 && sum >= .5 {
				median = callMs(&fns[i], sets)
			}
			if sum >= .9 {
				medians, nineties = append(medians, median), append(nineties, callMs(&fns[i], sets))
				break
			}
		}
	}
	slices.Sort(medians)
	slices.Sort(nineties)
	if got, want := medians[20], q.quantile(.5); got < want/2 || got > want*2 {
		t.Errorf("half of the calls are below %.0f ms (median of 41 populations), want about %.0f", got, want)
	}
	if got, want := nineties[20], q.quantile(.9); got < want/2 || got > want*2 {
		t.Errorf("nine tenths of the calls are below %.0f ms, want about %.0f", got, want)
	}
}

// arrivals are when calls came in the first zone.
func arrivals(t *testing.T, s *Scenario) (at []float64) {
	t.Helper()
	for _, c := range comings(t, s, 1) {
		at = append(at, c.at.Seconds())
	}
	return at
}

type arrived struct {
	at time.Duration
	ev zonesched.Event
}

// comings are the calls that came in the first zone, in order.
func comings(t *testing.T, s *Scenario, seed uint64) (out []arrived) {
	t.Helper()
	cfg, err := s.Config(policies(t, s.Policy)[0], seed)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Record = true
	w, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Run(time.Duration(s.Duration))
	begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, step := range w.Steps(0) {
		if step.Event.Kind == zonesched.EvArrive {
			out = append(out, arrived{step.At.Sub(begin), step.Event})
		}
	}
	return out
}

func cv(at []float64) float64 {
	mean, sq := 0.0, 0.0
	n := float64(len(at) - 1)
	for i := 1; i < len(at); i++ {
		d := at[i] - at[i-1]
		mean, sq = mean+d/n, sq+d*d/n
	}
	return math.Sqrt(sq/mean/mean - 1)
}

// A published variation of intervals becomes bursts that have it; a timer has none.
func TestIntervalsVaryAsPublished(t *testing.T) {
	racetest.SkipSingle(t)
	for _, want := range []float64{.5, 1.5, 3, 5} {
		f := Function{Name: "f", Run: Duration(100 * time.Microsecond), Kernel: "io", Calls: Calls{PerS: 150}}
		f.Calls.bursts(want)
		s := read(t, "name: s\nduration: 600s\nlearn: {every: 0}\nfunctions: [{name: f, run: 1ms}]\nzones: [{name: z, nodes: [{count: 4, slots: 16}]}]\n")
		s.Functions = []Function{f}
		if got := cv(arrivals(t, s)); math.Abs(got-max(want, 1)) > .2*max(want, 1) {
			t.Errorf("intervals vary by %.2f, want %v", got, max(want, 1))
		}
	}
	s := read(t, "name: s\nduration: 10s\nfunctions: [{name: f, run: 1ms, calls: {per_s: 4, timer: true}}]\nzones: [{name: z, nodes: [{count: 2, slots: 2}]}]\nchanges: [{at: 5s, rate: 2}]\n")
	at := arrivals(t, s)
	if len(at) < 58 || len(at) > 61 || at[0] > .25 {
		t.Fatalf("a timer calls %d times, first at %v: want 60 times in 10 s", len(at), at[0])
	}
	for i := 1; i < len(at); i++ {
		want := .25
		if at[i-1] > 5 {
			want = .125
		} else if at[i] > 5 {
			want = 5 - at[i-1] + (.25-(5-at[i-1]))/2 // what is left of the interval goes by twice as fast
		}
		if math.Abs(at[i]-at[i-1]-want) > 1e-6 {
			t.Fatalf("interval %d of a timer is %v, want %v", i, at[i]-at[i-1], want)
		}
	}
}

func TestPopulationsAreStrict(t *testing.T) {
	for _, c := range []struct{ to, want string }{
		{"functions: 0, per_s: 1", "0 functions: want 1-2000"},
		{"functions: 2001, per_s: 1", "2001 functions"},
		{"functions: 5", "want per_s or load, and not both"},
		{"functions: 5, per_s: 1, load: .1", "want per_s or load, and not both"},
		{"functions: 5, load: 5", "at most 4"},
		{"functions: 5, load: .nan", "want 0 or more"},
		{"functions: 5, load: .1, inputs: 2", "want 0-1"},
		{"functions: 5, load: .1, region: eu", "want r1 to r5"},
		{"functions: 5, load: .1, longest: 1h", "longest 1h0m0s"},
		{"functions: 5, load: .1, name: own", ""},
		{"functions: 5, load: .1, name: A B", "population \"A B\""},
		{"functions: 5, load: .1, sead: 1", "field sead is not known in population"},
	} {
		text := strings.Replace(people, "functions: 100, seed: 3, load: .4, inputs: .3, ramp: 2s", c.to, 1)
		text = text[:strings.Index(text, "changes:")]
		_, err := Read(strings.NewReader(text))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: error %v, want one with %q", c.to, err, c.want)
		}
	}
	if _, err := Read(strings.NewReader(strings.Replace(people, "name: own", "name: app-4", 1))); err == nil || !strings.Contains(err.Error(), "two functions app-4") {
		t.Errorf("a function called like a drawn one: %v", err)
	}
}

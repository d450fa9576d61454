package bench

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/nodeagent"
	"github.com/rubato-faas/rubato/sim"
	"github.com/rubato-faas/rubato/zonesched"
)

// SimOptions size the simulator's benchmark.
type SimOptions struct {
	// Nodes in all, in zones of at most ZoneNodes; Rate is invocations a second in all; Seconds are virtual.
	Nodes, ZoneNodes int
	Rate             float64
	Seconds          int
	// Functions are shared by all zones. Learn: one of so many samples is learned.
	Functions, Learn int
	Policy           string
	Seed             uint64
	// Small is the size that the cost of an event is compared with.
	Small    int
	Progress func(done, total int, doing string)
}

// DefaultSimOptions is the size that the project states its figures for.
func DefaultSimOptions() SimOptions {
	return SimOptions{Nodes: 10000, ZoneNodes: 500, Rate: 100000, Seconds: 60, Functions: 100, Learn: 16, Policy: "rubato", Seed: 1, Small: 100}
}

// Validate reports all faults.
func (o *SimOptions) Validate() error {
	var f faults
	f.want(o.Nodes >= 1 && o.Nodes <= 100000, "%d nodes: want 1-100000", o.Nodes)
	f.want(o.ZoneNodes >= 1 && (o.Nodes+o.ZoneNodes-1)/max(o.ZoneNodes, 1) <= sim.MaxZones, "%d nodes a zone: want at least %d, so that there are at most %d zones", o.ZoneNodes, (o.Nodes+sim.MaxZones-1)/sim.MaxZones, sim.MaxZones)
	f.want(o.Rate > 0 && o.Rate <= 1e7, "%v calls a second: want more than 0 and at most 1e7", o.Rate)
	f.want(o.Seconds >= 1 && o.Seconds <= 86400, "%d seconds: want 1-86400", o.Seconds)
	f.want(o.Functions >= 1 && o.Functions <= sim.MaxFunctions, "%d functions: want 1-%d", o.Functions, sim.MaxFunctions)
	f.want(o.Learn >= 1, "learn one of %d samples: want at least 1", o.Learn)
	f.want(o.Small >= 1 && o.Small <= o.Nodes, "%d nodes to compare with: want 1-%d", o.Small, o.Nodes)
	return f.err()
}

// simRun is one world, and what it has come to.
type simRun struct {
	o      *SimOptions
	w      *sim.World
	at     int // virtual seconds
	wall   float64
	cpu    float64 // seconds of all cores without those of the collector; wall where the system does not tell
	events uint64
	calls  uint64
	mean   float64
	rows   uint64
	hash   uint64
}

// simTurns is in how many turns the two worlds are run at most.
const simTurns = 12

// Sim measures the simulator: how long a large world takes, in what memory, and what an event costs there beside a small
// world of the same kind (the same calls a second and node, the same functions, as many calls and so the same share of learned ones a zone).
// The two take turns, so that a host that is now quicker and now slower is so for both of them. They share a heap, and so neither's cost has
// the collector's part, which is told apart; the large world's time has it.
func Sim(ctx context.Context, o SimOptions) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	r := &Report{Bench: "sim", Env: map[string]any{
		"cpus": runtime.GOMAXPROCS(0), "nodes": o.Nodes, "rate": o.Rate, "seconds": o.Seconds, "learn_one_of": o.Learn, "policy": o.Policy, "seed": o.Seed,
	}}
	small := o
	small.Nodes, small.Rate = o.Small, o.Rate*float64(o.Small)/float64(o.Nodes)
	// It runs for as long as its zones need for as many calls each: the first ones of a zone are all learned, which is dear.
	small.Seconds = max(o.Seconds*min(o.ZoneNodes, o.Nodes)/min(o.ZoneNodes, o.Small), 1)
	s, l := &simRun{o: &small}, &simRun{o: &o}
	turns := min(simTurns, small.Seconds, o.Seconds)
	var collected float64
	for k := 1; k <= turns; k++ {
		for _, x := range []*simRun{s, l} {
			began, used, before := time.Now(), cpuSeconds(), collectorSeconds()
			if err := x.run(ctx, x.o.Seconds*k/turns, func(nodes int) {
				if o.Progress != nil {
					o.Progress(s.at+l.at, small.Seconds+o.Seconds, fmt.Sprintf("%d nodes", nodes))
				}
			}); err != nil {
				return nil, err
			}
			runtime.GC() // what it leaves is not for the other one to collect, and the collector's time is told when it is done
			gc := collectorSeconds() - before
			collected += gc
			x.wall += time.Since(began).Seconds()
			x.cpu += cpuSeconds() - used - gc
		}
	}
	share := 0.
	if all := s.cpu + l.cpu + collected; s.cpu > 0 && l.cpu > 0 {
		share = collected / all
	} else {
		s.cpu, l.cpu = s.wall, l.wall
	}
	for _, x := range []*simRun{s, l} {
		if err := x.count(); err != nil {
			return nil, err
		}
	}
	n, m := "n"+strconv.Itoa(o.Nodes), "n"+strconv.Itoa(o.Small)
	r.add("events_per_s", float64(l.events)/l.wall, "1/s")
	r.add(n+".wall_s", l.wall, "s")
	r.add(n+".rss_mib", peakMiB(), "MiB")
	r.add(n+".calls", float64(l.calls), "")
	r.add(n+".us_per_call", l.wall*1e6/float64(max(l.calls, 1)), "us")
	r.add(n+".mean_ms", l.mean, "ms")
	r.add(n+".rows_a_zone", float64(l.rows), "")
	r.add(m+".seconds", float64(small.Seconds), "virtual s")
	r.add(m+".rows_a_zone", float64(s.rows), "")
	r.add(n+".cpu_us_per_call", l.cpu*1e6/float64(max(l.calls, 1)), "us")
	r.add(m+".cpu_us_per_call", s.cpu*1e6/float64(max(s.calls, 1)), "us")
	r.add("collector_share", share, "of CPU time")
	r.add("cost_ratio_"+n+"_"+m, l.cost()/s.cost(), "")
	r.Notes = append(r.Notes, fmt.Sprintf("trace hash %016x; cost is CPU time an event without the collector's; memory is that of both worlds, which take turns", l.hash),
		fmt.Sprintf("learners train on one in k = %d samples, but on all of a zone's first %d", o.Learn, simEager))
	return r, nil
}

// run makes the world, unless it is there, and brings it to so many virtual seconds.
func (x *simRun) run(ctx context.Context, until int, progress func(nodes int)) (err error) {
	if x.w == nil {
		if x.w, err = sim.New(SimWorld(x.o)); err != nil {
			return err
		}
	}
	for ; x.at < until; x.at++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		progress(x.o.Nodes)
		x.w.Run(time.Duration(x.at+1) * time.Second)
	}
	return nil
}

// count takes what the world has come to.
func (x *simRun) count() error {
	if v := x.w.Violation(); v != "" {
		return fmt.Errorf("bench sim: a broken invariant: %s", v)
	}
	x.events, x.hash, x.rows = x.w.Events(), x.w.Hash(), x.w.Learned(0).Rows
	all := sim.Stats{}
	for _, s := range x.w.FunctionStats() {
		all.Add(&s)
	}
	x.calls, x.mean = all.Calls, all.TotalMs/float64(max(all.Answered, 1))
	return nil
}

// cost is the CPU time of an event, in seconds.
func (x *simRun) cost() float64 { return x.cpu / float64(max(x.events, 1)) }

// simEager is how many samples of a zone are all learned before one in SimOptions.Learn is.
const simEager = 8192

// SimWorld is the benchmark's world: functions with figures like those of public clouds (popularity after Zipf, log-normal run
// times and inputs), half of them with objects, on four kinds of nodes that are about half busy.
func SimWorld(o *SimOptions) sim.Config {
	cfg := sim.Config{
		Seed: o.Seed, Latency: 200 * time.Microsecond, Between: 25 * time.Millisecond, Heartbeat: 2 * time.Second,
		Learn: sim.Learning{Every: o.Learn, Eager: simEager, Publish: time.Second},
	}
	rng := rand.New(rand.NewPCG(o.Seed, 0xd1342543de82ef95))
	const meanMs = 120
	weights, sum := make([]float64, o.Functions), 0.0
	for i := range o.Functions {
		// Medians are log-normal; the mean over all calls comes out near meanMs.
		median := math.Min(meanMs*.45*math.Exp(.9*rng.NormFloat64()), 2000)
		f := sim.Function{
			Spec: api.Function{
				Tenant: "t" + strconv.Itoa(i%7), Name: "f" + strconv.Itoa(i), Version: 1, Runtime: api.RuntimeProcess, Artifact: fmt.Sprintf("%064x", i+1),
				ArtifactBytes: 8 << 20, MemoryMB: 128 << rng.IntN(2), Timeout: time.Minute,
			},
			Prepare: 60 * time.Millisecond, Start: 80 * time.Millisecond, ColdSpread: .4, Run: time.Duration(median * 1e6), Spread: .1 + .5*rng.Float64(),
			Kernel: sim.Kernel(rng.IntN(3)),
		}
		if i%4 == 1 {
			f.Spec.Objective.Deadline = time.Duration(5 * median * 1e6)
		}
		if i%2 == 0 {
			f.PerMB = time.Duration(median / 4 * 1e6)
		}
		cfg.Functions = append(cfg.Functions, f)
		weights[i] = math.Pow(float64(i+1), -.8)
		sum += weights[i]
	}
	for i := range 16 {
		cfg.Objects = append(cfg.Objects, sim.ObjectSet{Name: "set" + strconv.Itoa(i), Count: 200, Bytes: 1 << 20, Spread: 1, Zipf: .9})
	}
	zones := (o.Nodes + o.ZoneNodes - 1) / o.ZoneNodes
	for z := range zones {
		zc := zonesched.DefaultConfig()
		zc.Zone, zc.Seed, zc.Policy, zc.Records, zc.NodeTimeout = fmt.Sprintf("z%03d", z), 0, o.Policy, 64, 7*time.Second
		zone := sim.Zone{Core: zc}
		in := o.Nodes/zones + min(max(o.Nodes%zones-z, 0), 1)
		for k, class := range []string{"gen3", "gen4", "highmem", "slow"} {
			nc := nodeagent.DefaultConfig()
			nc.Slots, nc.MemoryMB, nc.CacheBytes, nc.Artifacts, nc.LinkMbps, nc.Class = 4, 16384, 2<<30, 256, 4000, class
			g := sim.Nodes{
				Count: in/4 + min(max(in%4-k, 0), 1), Core: nc, Cores: 4, Drift: .05, DriftPeriod: 97 * time.Second, StoreRTT: 500 * time.Microsecond,
				MTBF: 2 * time.Hour, Repair: 10 * time.Second,
			}
			copy(g.Speed[:], [][]float64{{1, 1, 1}, {1.3, 1.2, 1}, {1, 1.5, 1.2}, {.7, .7, .8}}[k])
			zone.Nodes = append(zone.Nodes, g)
		}
		cfg.Zones = append(cfg.Zones, zone)
		for i := range o.Functions {
			st := sim.Stream{
				Function: i, Zone: z, PerS: o.Rate / float64(zones) * weights[i] / sum, Burst: 3, BurstFor: 2 * time.Second, BurstEvery: 20 * time.Second,
				Objects: -1, Ramp: 3 * time.Second,
			}
			if i%2 == 0 {
				st.Objects, st.Inputs = i/2%16, 1
			} else {
				st.PayloadBytes, st.PayloadSpread = 20000, 1
			}
			cfg.Streams = append(cfg.Streams, st)
		}
	}
	return cfg
}

// collectorSeconds is the CPU time that the garbage collector has used in cycles that are over.
func collectorSeconds() float64 {
	m := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}}
	if metrics.Read(m); m[0].Value.Kind() != metrics.KindFloat64 {
		return 0
	}
	return m[0].Value.Float64()
}

// cpuSeconds is the CPU time that this process has used, to a hundredth; 0 where the system does not tell.
func cpuSeconds() float64 {
	own, _, _ := procTimes("self")
	return own
}

// familySeconds is cpuSeconds with that of its children, of those that live and of those that have ended.
func familySeconds() float64 {
	sum, ended, _ := procTimes("self")
	sum += ended
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return sum
	}
	for _, e := range entries {
		if own, ended, parent := procTimes(e.Name()); parent == os.Getpid() {
			sum += own + ended
		}
	}
	return sum
}

// procTimes reads a process's CPU time in seconds, that of its children that have ended, and who its parent is; zeros where
// the system does not tell.
func procTimes(pid string) (own, ended float64, parent int) {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0, 0, 0
	}
	// The command's name, in brackets, may hold spaces: fields are counted after it. The parent is the 4th, utime, stime and
	// those of children are the 14th to 17th.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 15 {
		return 0, 0, 0
	}
	var t [4]float64
	for i := range t {
		if t[i], err = strconv.ParseFloat(f[11+i], 64); err != nil {
			return 0, 0, 0
		}
	}
	if parent, err = strconv.Atoi(f[1]); err != nil {
		return 0, 0, 0
	}
	const hz = 100 // USER_HZ is 100 on every Linux that Go runs on
	return (t[0] + t[1]) / hz, (t[2] + t[3]) / hz, parent
}

// peakMiB is the most memory that this process has had, 0 where the system does not tell.
func peakMiB() float64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			if err != nil {
				return 0
			}
			return kb / 1024
		}
	}
	return 0
}

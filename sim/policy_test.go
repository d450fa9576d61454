package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/racetest"
	"github.com/rubato-faas/rubato/nodeagent"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// traffic is one function's part of a workload like the demo's, for one zone of four nodes.
type traffic struct {
	name       string
	runtime    api.Runtime
	perS       float64
	runMs      float64
	perMB      time.Duration
	prepareMs  float64
	memoryMB   int
	deadline   time.Duration
	objects    int
	fromB, toB int64
}

var demoTraffic = []traffic{
	{"wordcount", api.RuntimeProcess, 2.25, 2, 17 * time.Millisecond, 2, 192, 0, 14, 4 << 20, 8 << 20},
	{"gzip", api.RuntimeProcess, .75, 2, 12 * time.Millisecond, 2, 192, 1500 * time.Millisecond, 8, 1 << 20, 3 << 20},
	{"thumbnail", api.RuntimeProcess, .75, 20, 10 * time.Millisecond, 2, 192, time.Second, 8, 80e3, 90e3},
	{"matmul", api.RuntimeProcess, 4, 2, 0, 2, 128, 0, 0, 0, 0},
	{"htmlrender", api.RuntimeWasm, 4, .5, 0, 700, 192, 0, 0, 0, 0},
	{"score", api.RuntimeProcess, 4, 1.5, 0, 2, 128, 500 * time.Millisecond, 0, 0, 0},
}

func demoWorld(t *testing.T, seed uint64, policyName string, wait time.Duration) *World {
	t.Helper()
	zone := zonesched.DefaultConfig()
	zone.Zone, zone.Seed, zone.Policy = "z", seed, policyName
	if wait > 0 {
		zone.PolicyConfig.FixedDelay = wait
	}
	nc := nodeagent.DefaultConfig()
	nc.Slots, nc.MemoryMB, nc.CacheBytes, nc.LinkMbps = 2, 1024, 48<<20, 420
	cfg := Config{
		Seed: seed, Zones: []Zone{{Core: zone, Nodes: []Nodes{{Count: 4, Core: nc, Serial: true}}}}, Latency: 500 * time.Microsecond, Heartbeat: time.Second,
		Learn: Learning{Every: 1},
	}
	for i, f := range demoTraffic {
		cfg.Functions = append(cfg.Functions, Function{
			Spec: api.Function{
				Tenant: "t", Name: f.name, Version: 1, Runtime: f.runtime, Artifact: strings.Repeat(fmt.Sprint(i), 64), ArtifactBytes: 8 << 20,
				MemoryMB: f.memoryMB, Timeout: time.Minute, Objective: api.Objective{Deadline: f.deadline},
			},
			Prepare: time.Duration(f.prepareMs * 1e6), Start: 12 * time.Millisecond, Run: time.Duration(f.runMs * 1e6), PerMB: f.perMB, Spread: .15,
		})
	}
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// drive gives the world Poisson arrivals that ramp up over five seconds, the same for every policy, and returns the mean
// time from arrival to answer by function, in ms.
func drive(w *World, seed uint64, dur time.Duration) map[string]float64 {
	type call struct {
		fn       string
		from, to time.Duration
	}
	calls := map[string]*call{}
	w.OnAnswer(0, func(id string) { calls[id].to = w.ZoneNow(0) })
	for i, f := range demoTraffic {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		for at := rng.ExpFloat64() / f.perS; at < dur.Seconds(); at += rng.ExpFloat64() / f.perS {
			if rng.Float64()*5 > at {
				continue
			}
			inv := &api.Invocation{ID: fmt.Sprintf("i%05d", len(calls)), Tenant: "t", Function: f.name}
			if f.objects > 0 {
				k := int(float64(f.objects) * math.Pow(rng.Float64(), 1.6)) // some objects are popular
				inv.Inputs = []api.Object{{Key: fmt.Sprintf("t/%s%d", f.name, k), Bytes: f.fromB + (f.toB-f.fromB)*int64(k*5%f.objects)/int64(f.objects)}}
			}
			c := &call{fn: f.name, from: time.Duration(at * 1e9)}
			calls[inv.ID] = c
			w.At(0, c.from, func() { w.Invoke(0, inv) })
		}
	}
	w.Run(dur + time.Minute)
	sum, n := map[string]float64{}, map[string]float64{}
	for _, c := range calls { // sums of whole microseconds: the order of the map does not matter
		sum[c.fn] += float64((c.to - c.from).Microseconds())
		n[c.fn]++
	}
	for fn := range sum {
		sum[fn] /= n[fn] * 1000
	}
	return sum
}

// TestWaitingPays: on a workload like the demo's, learning from nothing, the rule beats placement that looks at load only,
// and delay scheduling with the better of two waits per function, where data is heavy; elsewhere it is within 2 ms or 10 %.
func TestWaitingPays(t *testing.T) {
	racetest.SkipSingle(t)
	const seeds = 40 // at ten, the means of rules that are equal differ by more than the limits below
	type rule struct {
		name string
		wait time.Duration
	}
	means := map[rule]map[string]float64{}
	rubato, load := rule{"rubato", 0}, rule{"least-loaded", 0}
	fixed := []rule{{"fixed-delay", 100 * time.Millisecond}, {"fixed-delay", 400 * time.Millisecond}}
	for _, r := range append(fixed, rubato, load) {
		means[r] = map[string]float64{}
		for seed := uint64(1); seed <= seeds; seed++ {
			w := demoWorld(t, seed, r.name, r.wait)
			for fn, ms := range drive(w, seed, 20*time.Second) {
				means[r][fn] += ms / seeds
			}
			if v := w.Violation(); v != "" {
				t.Fatalf("%v, seed %d: %s", r, seed, v)
			}
		}
	}
	for _, f := range demoTraffic {
		best := min(means[fixed[0]][f.name], means[fixed[1]][f.name])
		got := means[rubato][f.name]
		t.Logf("%-10s rubato %6.1f ms, fixed delay %6.1f, least loaded %6.1f", f.name, got, best, means[load][f.name])
		limit := max(best+2, best*1.1)
		if f.objects > 0 && f.fromB > 1e6 {
			limit = best
		}
		if got > limit || got > means[load][f.name] {
			t.Errorf("%s: %.1f ms, want at most %.1f (fixed delay) and %.1f (least loaded)", f.name, got, limit, means[load][f.name])
		}
	}
}

// What a rule says of a claim before anything is predicted saves predictions and changes no decision.
func TestRanksChangeNoDecision(t *testing.T) {
	for _, name := range []string{"rubato", "averages", "cidre", "metronome", "fixed-delay", "fixed-delay-matched"} {
		var hashes []uint64
		for _, ranks := range []bool{false, true} {
			cfg := several(3)
			for i := range cfg.Streams {
				cfg.Streams[i].PerS *= 3
				cfg.Streams[i].Priority = []uint8{2, 5, 9}[i%3] // all classes in each zone
			}
			for i := range cfg.Zones {
				cfg.Zones[i].Rule = func(func() time.Duration) policy.Policy {
					p, err := policy.New(name, policy.DefaultConfig())
					if err != nil {
						t.Error(err)
					}
					own, unpriced := p.(policy.Unpriced)
					rank := p.(policy.Ranker)
					switch {
					case ranks && unpriced:
						return struct {
							policy.Policy
							policy.Unpriced
							policy.Ranker
						}{p, own, rank}
					case ranks:
						return struct {
							policy.Policy
							policy.Ranker
						}{p, rank}
					case unpriced:
						return struct {
							policy.Policy
							policy.Unpriced
						}{p, own}
					}
					return struct{ policy.Policy }{p}
				}
			}
			w := advance(t, cfg, 6*time.Second)
			hashes = append(hashes, w.Hash())
			var all Stats
			for _, s := range w.FunctionStats() {
				all.Add(&s)
			}
			if all.QueueMs < 50*float64(all.Answered) {
				t.Errorf("%s: %d calls waited %.0f ms for a slot, want zones that are full", name, all.Answered, all.QueueMs)
			}
		}
		if hashes[0] != hashes[1] {
			t.Errorf("%s decides otherwise where it says how far claims can come", name)
		}
	}
}

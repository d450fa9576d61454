package sim

import (
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/nodeagent"
	"github.com/rubato-faas/rubato/zonesched"
)

func zoneOf(name, policy string, groups ...Nodes) Zone {
	z := Zone{Core: zonesched.DefaultConfig(), Nodes: groups}
	z.Core.Zone, z.Core.Seed, z.Core.Policy = name, 0, policy
	return z
}

func nodesOf(count, slots int) Nodes {
	g := Nodes{Count: count, Core: nodeagent.DefaultConfig()}
	g.Core.Slots, g.Core.MemoryMB, g.Core.LinkMbps = slots, slots*512, 1000
	return g
}

func functionOf(i int, run time.Duration) Function {
	return Function{
		Spec: api.Function{
			Tenant: "t", Name: fmt.Sprintf("f%d", i), Version: 1, Runtime: api.RuntimeProcess, Artifact: fmt.Sprintf("%064d", i), ArtifactBytes: 1 << 20,
			MemoryMB: 128, Timeout: time.Minute,
		},
		Prepare: 20 * time.Millisecond, Start: 10 * time.Millisecond, Run: run, Spread: .3, ColdSpread: .2,
	}
}

// several is a world of several unlike zones in which nearly everything happens: calls go to other zones, nodes crash and are
// of unlike speed, messages are lost, forests are learned.
func several(seed uint64) Config {
	cfg := Config{
		Seed: seed, Latency: 200 * time.Microsecond, Loss: .001, Between: 4 * time.Millisecond, Heartbeat: 500 * time.Millisecond,
		Learn: Learning{Every: 2, Publish: 50 * time.Millisecond}, Keep: true,
		Objects: []ObjectSet{{Name: "o", Count: 40, Bytes: 2 << 20, Spread: .5, Zipf: 1}},
	}
	for i := range 3 {
		cfg.Functions = append(cfg.Functions, functionOf(i, time.Duration(10+60*i)*time.Millisecond))
	}
	cfg.Functions[1].PerMB, cfg.Functions[2].Spec.Objective.Deadline = 10*time.Millisecond, 200*time.Millisecond
	for z, count := range []int{2, 12, 6} {
		g := nodesOf(count, 2)
		g.Cores, g.Speed = 1.5, [kernels]float64{1, .8, 1.2}
		slow := nodesOf(2, 2)
		slow.Core.Class, slow.Speed, slow.Drift, slow.DriftPeriod = "old", [kernels]float64{.5, .5, .5}, .1, 7*time.Second
		slow.MTBF, slow.Repair, slow.FetchPerMB = 4*time.Second, 3500*time.Millisecond, 4*time.Millisecond
		cfg.Zones = append(cfg.Zones, zoneOf(fmt.Sprintf("z%d", z), "rubato", g, slow))
		for f := range 3 {
			st := Stream{Function: f, Zone: z, PerS: 25, Objects: -1, Burst: 4, BurstFor: 300 * time.Millisecond, BurstEvery: 3 * time.Second, Async: .2}
			if f == 1 {
				st.Objects, st.Inputs = 0, 2
			}
			cfg.Streams = append(cfg.Streams, st)
		}
	}
	return cfg
}

func advance(t *testing.T, cfg Config, d time.Duration) *World {
	t.Helper()
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Run(d)
	if v := w.Violation(); v != "" {
		t.Fatal(v)
	}
	return w
}

// What forwarded calls bring along crosses a link one call after another, in each direction by itself; what brings nothing does
// not wait for it.
func TestALinkFills(t *testing.T) {
	cfg := several(1)
	const way = 20 * time.Millisecond
	cfg.Links = []Link{{A: 0, B: 1, Way: way, Mbps: 80}}
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	near, far := w.shards[0], w.shards[1]
	mb := func() *forward { return &forward{inv: &api.Invocation{PayBytes: 1 << 20}} }
	begun := time.Duration(near.now)
	for range 3 {
		near.post(1, evForward, mb())
	}
	near.post(1, evForward, &forward{inv: &api.Invocation{}})
	near.post(1, evForwarded, nil)
	near.post(2, evForward, mb())
	far.post(0, evForward, mb())
	after := func(s *shard) (d []time.Duration) {
		for i := range s.outbox {
			d = append(d, time.Duration(s.outbox[i].at)-begun)
		}
		return d
	}
	const each = (8 << 20) * time.Microsecond / 80
	if got, want := after(near), []time.Duration{way + each, way + 2*each, way + 3*each, way, way, cfg.Between}; !slices.Equal(got, want) {
		t.Errorf("arrivals after %v, want %v", got, want)
	}
	if got := after(far); !slices.Equal(got, []time.Duration{way + each}) {
		t.Errorf("the other way: after %v, want %v", got, way+each)
	}
}

// Links of unlike lengths change nothing of that: what is shortest decides how long zones go on without each other.
func TestLinksKeepOneTrace(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	hashes := map[uint64]bool{}
	linked := func() Config {
		cfg := several(7)
		cfg.Links = []Link{{A: 0, B: 1, Way: cfg.Between / 8, Mbps: 100}, {A: 2, B: 0, Way: 3 * cfg.Between}}
		return cfg
	}
	for _, procs := range []int{1, 2, 7} {
		runtime.GOMAXPROCS(procs)
		w := advance(t, linked(), 8*time.Second)
		hashes[w.Hash()] = true
		forwarded := uint64(0)
		for _, s := range w.FunctionStats() {
			forwarded += s.Forwarded
		}
		if forwarded == 0 {
			t.Fatal("nothing was forwarded")
		}
	}
	w, err := New(linked())
	if err != nil {
		t.Fatal(err)
	}
	for at := time.Duration(0); at < 8*time.Second; at += 900 * time.Millisecond {
		w.Run(at)
	}
	w.Run(8 * time.Second)
	if hashes[w.Hash()] = true; len(hashes) != 1 {
		t.Errorf("one seed gave %d traces", len(hashes))
	}
	if plain := advance(t, several(7), 8*time.Second).Hash(); hashes[plain] {
		t.Error("links change nothing")
	}
}

// One seed, one trace: at any GOMAXPROCS, and however the time is cut.
func TestOneSeedGivesOneTrace(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	hashes := map[uint64]bool{}
	for _, procs := range []int{1, 2, 7} {
		runtime.GOMAXPROCS(procs)
		w := advance(t, several(7), 8*time.Second)
		hashes[w.Hash()] = true
		all := Stats{}
		for _, s := range w.FunctionStats() {
			all.Add(&s)
		}
		if all.Calls < 1000 || all.Forwarded == 0 || all.Delayed == 0 || w.Learned(0).Rows == 0 || w.Core(0).Counters().NodesLost+w.Core(1).Counters().NodesLost+w.Core(2).Counters().NodesLost == 0 {
			t.Fatalf("too little happened: %d calls, %d forwarded, %d delayed, %d rows learned", all.Calls, all.Forwarded, all.Delayed, w.Learned(0).Rows)
		}
	}
	for _, cut := range []time.Duration{900 * time.Millisecond, time.Second} {
		w, err := New(several(7))
		if err != nil {
			t.Fatal(err)
		}
		for at := time.Duration(0); at < 8*time.Second; at += cut {
			w.Run(at)
		}
		w.Run(8 * time.Second)
		hashes[w.Hash()] = true
	}
	if len(hashes) != 1 {
		t.Errorf("one seed gave %d traces", len(hashes))
	}
	if other := advance(t, several(8), 8*time.Second).Hash(); hashes[other] {
		t.Error("another seed gave the same trace")
	}
}

// Calls that go to another zone, or whose nodes die, are answered all the same, once.
func TestSeveralZonesAnswerEveryCallOnce(t *testing.T) {
	cfg := several(3)
	for i := range cfg.Streams {
		cfg.Streams[i].Until = 5 * time.Second
	}
	w := advance(t, cfg, 3*time.Minute)
	if w.Open() != 0 {
		t.Errorf("%d calls are not answered", w.Open())
	}
	calls := uint64(0)
	for _, s := range w.FunctionStats() {
		calls += s.Calls
		if s.Answered+s.Refused+s.Failed != s.Calls {
			t.Errorf("%d calls, but %d answered, %d refused, %d failed", s.Calls, s.Answered, s.Refused, s.Failed)
		}
	}
	got := 0
	for z := range cfg.Zones {
		for id, n := range w.Answers(z) {
			if n != 1 {
				t.Errorf("call %s: %d answers in zone %d", id, n, z)
			}
			if strings.HasPrefix(id[1:], fmt.Sprintf("%04x", z)) {
				got++
			}
		}
	}
	if uint64(got) != calls {
		t.Errorf("%d of %d calls answered at home", got, calls)
	}
}

// Every policy sees the same arrivals, call by call, under ids from which the same luck is drawn.
func TestArrivalsAreThoseOfTheSeed(t *testing.T) {
	var calls [2]map[string]string
	for k, policy := range []string{"rubato", "round-robin"} {
		cfg := several(5)
		cfg.Record = true
		for i := range cfg.Zones {
			cfg.Zones[i].Core.Policy = policy
		}
		w := advance(t, cfg, 4*time.Second)
		calls[k] = map[string]string{}
		for z := range cfg.Zones {
			for _, s := range w.Steps(z) {
				if c := s.Event.Call; s.Event.Kind == zonesched.EvArrive && c.Forwarded == "" {
					draw, u := luck(cfg.Seed, luckOf(c.ID), 0)
					calls[k][c.ID[:19]] = fmt.Sprint(z, s.At, c.Function, c.PayBytes, c.Inputs, c.Affinity, draw, u) // what follows is the caller's slot, which depends on who was answered
				}
			}
		}
	}
	if len(calls[0]) < 100 || !maps.Equal(calls[0], calls[1]) {
		for id, c := range calls[0] {
			if calls[1][id] != c {
				t.Fatalf("of %d and %d calls, %s is %s under one policy and %q under another", len(calls[0]), len(calls[1]), id, c, calls[1][id])
			}
		}
		t.Fatalf("%d and %d calls: want as many, and hundreds", len(calls[0]), len(calls[1]))
	}
}

// single is one node with so many slots, and one function of 100 ms without chance.
func single(slots int, cores float64) Config {
	g := nodesOf(1, slots)
	g.Cores = cores
	f := functionOf(0, 100*time.Millisecond)
	f.Spread, f.ColdSpread, f.Prepare, f.Start = 0, 0, 0, 0
	return Config{Seed: 1, Zones: []Zone{zoneOf("z", "least-loaded", g)}, Functions: []Function{f}, Heartbeat: time.Second, Keep: true}
}

// result runs calls that arrive together, after the node has reported, and gives their run and fetch times in ms.
func result(t *testing.T, cfg Config, calls ...*api.Invocation) (runMs, fetchMs []float64) {
	t.Helper()
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Run(time.Second)
	for i, inv := range calls {
		inv.ID, inv.Tenant, inv.Function = fmt.Sprintf("i%d", i), "t", "f0"
		w.Invoke(0, inv)
	}
	w.Run(time.Minute)
	for i := range calls {
		a := w.Result(0, fmt.Sprintf("i%d", i))
		if a == nil || a.Code != api.CodeOK {
			t.Fatalf("call %d: %+v", i, a)
		}
		runMs, fetchMs = append(runMs, a.Timing.RunMs), append(fetchMs, a.Timing.FetchMs)
	}
	return runMs, fetchMs
}

func near(a, b float64) bool { return math.Abs(a-b) <= .01*b }

func TestCoresAreShared(t *testing.T) {
	if got, _ := result(t, single(4, 2), &api.Invocation{}, &api.Invocation{}); !near(got[0], 100) || !near(got[1], 100) {
		t.Errorf("two calls on two cores ran for %v ms, want 100", got)
	}
	if got, _ := result(t, single(4, 2), &api.Invocation{}, &api.Invocation{}, &api.Invocation{}, &api.Invocation{}); !near(got[0], 200) || !near(got[3], 200) {
		t.Errorf("four calls on two cores ran for %v ms, want 200", got)
	}
	fast := single(1, 1)
	fast.Zones[0].Nodes[0].Speed[KernelCPU] = 4
	if got, _ := result(t, fast, &api.Invocation{}); !near(got[0], 25) {
		t.Errorf("on a core four times as fast: %v ms, want 25", got)
	}
	fast.Functions[0].Kernel = KernelIO
	if got, _ := result(t, fast, &api.Invocation{}); !near(got[0], 100) {
		t.Errorf("the speed of another kernel changed the run to %v ms", got)
	}
}

// Nodes that are one machine share its cores, however few calls each runs.
func TestNodesOfOneHostShareItsCores(t *testing.T) {
	cfg := single(1, 1)
	cfg.Zones[0].Nodes[0].Count = 3
	cfg.Zones[0].Core.Policy = "round-robin"
	call := func() *api.Invocation { return &api.Invocation{} }
	if got, _ := result(t, cfg, call(), call()); !near(got[0], 100) || !near(got[1], 100) {
		t.Errorf("two machines ran for %v ms, want 100", got)
	}
	cfg.Zones[0].HostCores = 1.5
	if got, _ := result(t, cfg, call()); !near(got[0], 100) {
		t.Errorf("one call of a host ran for %v ms, want 100", got)
	}
	if got, _ := result(t, cfg, call(), call(), call()); !near(got[0], 200) || !near(got[1], 200) || !near(got[2], 200) {
		t.Errorf("three nodes on 1.5 cores ran for %v ms, want 200", got)
	}
	cfg.Zones[0].HostCores = -1
	if _, err := New(cfg); err == nil {
		t.Error("a host of -1 cores was taken")
	}
}

func TestTheLinkIsShared(t *testing.T) {
	mb := func(key string, n int64) *api.Invocation {
		return &api.Invocation{Inputs: []api.Object{{Key: "t/" + key, Bytes: n * 1e6}}}
	}
	cfg := single(4, 0)
	cfg.Zones[0].Nodes[0].Core.LinkMbps, cfg.Functions[0].Spec.ArtifactBytes = 800, 1 // 100 MB/s: 10 ms a MB
	if _, got := result(t, cfg, mb("a", 10)); !near(got[0], 100) {
		t.Errorf("10 MB alone took %v ms, want 100", got)
	}
	// The small one has half of the link until it is over, at 200 ms; then the large one has all of it.
	if _, got := result(t, cfg, mb("a", 10), mb("b", 30)); !near(got[0], 200) || !near(got[1], 400) {
		t.Errorf("10 and 30 MB together took %v ms, want 200 and 400", got)
	}
	cfg.Zones[0].Nodes[0].Serial = true
	if _, got := result(t, cfg, mb("a", 10), mb("b", 30)); !near(got[0], 100) || !near(got[1], 400) {
		t.Errorf("10 and 30 MB one after another took %v ms, want 100 and 400", got)
	}
	cfg.Zones[0].Nodes[0].Serial = false
	if _, got := result(t, cfg, mb("a", 10), mb("a", 10)); !near(got[0], 100) || !near(got[1], 100) {
		t.Errorf("two calls of one object took %v ms, want 100: it is fetched once", got)
	}
	cfg.Zones[0].Nodes[0].StoreRTT = 30 * time.Millisecond
	if _, got := result(t, cfg, mb("a", 10)); !near(got[0], 130) {
		t.Errorf("with a round trip of 30 ms: %v ms, want 130", got)
	}
	cfg.Zones[0].Nodes[0].Cores = 1
	for per, want := range map[time.Duration]float64{time.Millisecond: 130, 20 * time.Millisecond: 230} { // a core has 10 or 200 ms to do meanwhile
		cfg.Zones[0].Nodes[0].FetchPerMB = per
		if _, got := result(t, cfg, mb("a", 10)); !near(got[0], want) {
			t.Errorf("with %v of a core for each MB: %v ms, want %v", per, got, want)
		}
	}
	// A call of 100 ms beside it begins after 30 ms, has half of the only core until the 50 ms are done at 70, all of it until the
	// other call begins at 130, and half of it again.
	cfg.Zones[0].Nodes[0].FetchPerMB = 5 * time.Millisecond
	if run, got := result(t, cfg, &api.Invocation{}, mb("a", 10)); !near(run[0], 140) || !near(got[1], 130) {
		t.Errorf("beside a fetch that takes 50 ms of the core a call ran for %v ms, and the fetch for %v: want 140 and 130", run, got)
	}
}

// Traffic is as much as was asked for, in bursts too.
func TestStreamsKeepTheirRate(t *testing.T) {
	cfg := single(64, 0)
	cfg.Functions[0].Run = time.Millisecond
	for _, burst := range []float64{0, 10} {
		cfg.Streams = []Stream{{PerS: 200, Objects: -1, Burst: burst, BurstFor: 100 * time.Millisecond, BurstEvery: time.Second}}
		if n := advance(t, cfg, 60*time.Second).FunctionStats()[0].Calls; n < 10000 || n > 14000 {
			t.Errorf("bursts of %v: %d calls in a minute, want about 12000", burst, n)
		}
	}
}

// A call that is to come in centuries does not come now.
func TestHardlyEverIsNotAtOnce(t *testing.T) {
	cfg := single(1, 0)
	cfg.Streams = []Stream{{PerS: 1e-12, Objects: -1}, {PerS: 1e-300, Objects: -1, Burst: 2, BurstFor: time.Second, BurstEvery: time.Minute}, {PerS: 1e-20, Objects: -1, Timer: true}}
	if n := advance(t, cfg, 600*time.Second).FunctionStats()[0].Calls; n != 0 {
		t.Errorf("%d calls in ten minutes", n)
	}
}

// Rates change when they are said to, with and without bursts, and several changes multiply.
func TestRatesChange(t *testing.T) {
	for _, burst := range []float64{0, 4} {
		cfg := single(64, 0)
		cfg.Functions[0].Run = time.Millisecond
		cfg.Streams = []Stream{{PerS: 100, Objects: -1, Burst: burst, BurstFor: 100 * time.Millisecond, BurstEvery: time.Second}}
		cfg.Changes = []Change{{At: 40 * time.Second, Function: -1, Rate: .25}, {At: 20 * time.Second, Function: 0, Rate: 8}}
		w := advance(t, cfg, 20*time.Second)
		n := []uint64{w.FunctionStats()[0].Calls}
		for _, until := range []time.Duration{40, 60} {
			w.Run(until * time.Second)
			n = append(n, w.FunctionStats()[0].Calls)
		}
		for i, want := range []uint64{2000, 16000, 4000} {
			if got := n[i] - append([]uint64{0}, n...)[i]; got < want*7/10 || got > want*13/10 {
				t.Errorf("bursts of %v: %d calls in the part %d, want about %d", burst, got, i, want)
			}
		}
	}
}

// What nodes tell is late by what was asked for, on top of the rest; noise is the same for a node and function at all times.
func TestLateReportsAndNoise(t *testing.T) {
	cfg := single(2, 0)
	cfg.Learn = Learning{Oracle: true, Noise: .35}
	cfg.Late, cfg.Record = 2*time.Second, true
	cfg.Zones[0].Core.NodeTimeout = 10 * time.Second
	cfg.Zones[0].Nodes = []Nodes{nodesOf(4, 4)}
	cfg.Streams = []Stream{{PerS: 5, Objects: -1}}
	w := advance(t, cfg, 20*time.Second)
	said := map[string]map[float64]bool{}
	for _, s := range w.Steps(0) {
		m := s.Event.Completion
		if m == nil || m.Start != api.SandboxWarm {
			continue
		}
		if w.Result(0, m.ID).Timing.NetMs < 2000 {
			t.Fatalf("a completion came after %v ms on its way, want 2000 and more", w.Result(0, m.ID).Timing.NetMs)
		}
		if said[m.Node] == nil {
			said[m.Node] = map[float64]bool{}
		}
		if m.Echo.Sandbox == api.SandboxWarm {
			said[m.Node][m.Echo.Mu] = true
		}
	}
	all := map[float64]bool{}
	for node, mus := range said {
		if len(mus) > 1 {
			t.Errorf("node %s is predicted %d different times", node, len(mus))
		}
		for mu := range mus {
			all[mu] = true
		}
	}
	if len(said) < 2 || len(all) < len(said) {
		t.Errorf("%d nodes, %d predictions: want unlike ones on two", len(said), len(all))
	}
}

func TestHistIsWithinOnePercent(t *testing.T) {
	var h Hist
	for i := 1; i <= 10000; i++ {
		h.Add(float64(i) / 10)
	}
	for _, q := range []float64{.01, .5, .95, .99, 1} {
		if got, want := h.Quantile(q), q*1000; math.Abs(got-want) > .01*want {
			t.Errorf("quantile %v: %v, want %v", q, got, want)
		}
	}
}

func TestHeapGivesInOrder(t *testing.T) {
	var h heap
	x := uint64(1)
	for i := range 5000 {
		x = mix(x + 1)
		h.push(event{at: int64(x % 1000), seq: uint64(i), kind: kind(i % 7)})
	}
	h.sweep(func(e *event) bool { return e.kind == 3 })
	last := event{at: -1}
	n := 0
	for ; len(h) > 0; n++ {
		e := h.pop()
		if e.before(&last) || e.kind == 3 {
			t.Fatalf("event %d: %+v after %+v", n, e, last)
		}
		last = e
	}
	if n != 5000-714 {
		t.Errorf("%d events", n)
	}
}

func TestWhatCannotBeIsRefused(t *testing.T) {
	for want, edit := range map[string]func(*Config){
		"0 zones":                func(c *Config) { c.Zones = nil },
		"between zones":          func(c *Config) { c.Between = 0 },
		"two functions ":         func(c *Config) { c.Functions[1].Spec = c.Functions[0].Spec },
		"two zones z0":           func(c *Config) { c.Zones[1].Core.Zone = "z0" },
		"and a run time":         func(c *Config) { c.Functions[0].Run, c.Functions[0].PerMB = 0, 0 },
		"heartbeat":              func(c *Config) { c.Heartbeat = 0 },
		"rate above 0":           func(c *Config) { c.Streams[0].PerS = 0 },
		"speeds of .01-100":      func(c *Config) { c.Zones[0].Nodes[0].Speed[0] = 1e9 },
		"object set o":           func(c *Config) { c.Objects[0].Count = 0 },
		"objects in all sets":    func(c *Config) { c.Objects = append(c.Objects, ObjectSet{Name: "p", Count: MaxObjects, Bytes: 1}) },
		"changes, counting":      func(c *Config) { c.Changes = make([]Change, MaxChanges+1) },
		"reports late by":        func(c *Config) { c.Late = -1 },
		"noise":                  func(c *Config) { c.Learn.Noise = math.NaN() },
		"factors of 0 to 10,000": func(c *Config) { c.Changes = []Change{{Run: math.Inf(1)}} },
		"loss":                   func(c *Config) { c.Loss = math.NaN() },
		"function below 3":       func(c *Config) { c.Changes = []Change{{Function: 3}} },
		"each pair once":         func(c *Config) { c.Links = []Link{{A: 0, B: 1, Way: time.Second}, {A: 1, B: 0, Way: time.Second}} },
		"link 0":                 func(c *Config) { c.Links = []Link{{A: 0, B: 3, Way: time.Second}} },
		"10us-1m one way":        func(c *Config) { c.Links = []Link{{A: 0, B: 1}} },
		"none of a timer":        func(c *Config) { c.Streams[0].Timer, c.Streams[0].Burst = true, 2 },
		"priority of 0-9":        func(c *Config) { c.Streams[0].Priority = 10 },
		"affinity keys":          func(c *Config) { c.Streams[0].Affinity = -1 },
		"a zone below 3":         func(c *Config) { c.Trace = []Recorded{{Zone: 3}} },
		"policy \"nonsense\"":    func(c *Config) { c.Zones[2].Core.Policy = "nonsense" },
		"slots":                  func(c *Config) { c.Zones[1].Nodes[0].Core.Slots = 0 },
	} {
		cfg := several(1)
		edit(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// An event of the simulator itself, beside what the cores cost: a light world under the plainest rule.
func BenchmarkEvents(b *testing.B) {
	cfg := single(16, 16)
	cfg.Keep, cfg.Functions[0].Run = false, 5*time.Millisecond
	cfg.Streams = []Stream{{PerS: 1000, Objects: -1}}
	w, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for at := time.Duration(0); w.Events() < uint64(b.N); at += 10 * time.Millisecond {
		w.Run(at)
	}
}

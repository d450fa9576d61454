package zonesched

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// machine is a node as the properties' world knows it.
type machine struct {
	name     string
	labels   api.Labels
	slots    int
	memMB    int
	boot     uint64
	booted   time.Time
	down     bool
	draining bool
	runs     map[string]*wire.Run
	idle     map[string]int
	seen     uint64
}

// places is a world in which nodes with labels come, go, drain and restart, while functions with needs are deployed and called.
type places struct {
	t     *rapid.T
	z     *Zone
	now   time.Time
	nodes []*machine
	calls int
	gens  map[string]uint32
}

var (
	someLabels = []api.Labels{{}, {Arch: "amd64"}, {Arch: "arm64"}, {Arch: "amd64", Accelerator: "gpu-a100"}, {Arch: "amd64", Tags: []string{"ssd"}}, {Arch: "arm64", Accelerator: "gpu-t4", Tags: []string{"eu", "ssd"}}}
	someNeeds  = []api.Labels{{}, {}, {Arch: "arm64"}, {Accelerator: "gpu"}, {Accelerator: "gpu-a100"}, {Tags: []string{"ssd"}}, {Arch: "riscv64"}}
)

func (p *places) machine() *machine {
	return p.nodes[rapid.IntRange(0, len(p.nodes)-1).Draw(p.t, "node")]
}

func (p *places) boot(m *machine) {
	m.boot++
	m.down, m.draining, m.booted, m.seen = false, false, p.now, 0
	m.labels, m.slots = rapid.SampledFrom(someLabels).Draw(p.t, "labels"), rapid.IntRange(1, 6).Draw(p.t, "slots")
	m.runs, m.idle = map[string]*wire.Run{}, map[string]int{}
}

func (p *places) boxes(m *machine) (out []wire.SandboxReport) {
	busy := map[string]int{}
	for _, r := range m.runs {
		busy[r.Fn.Key()]++
	}
	for _, key := range p.keys(m) {
		out = append(out, wire.SandboxReport{Function: key, State: api.SandboxPrepared, Idle: m.idle[key], Busy: busy[key], MemoryMB: 100})
	}
	return out
}

func (p *places) keys(m *machine) []string {
	all := map[string]bool{}
	for key := range m.idle {
		all[key] = true
	}
	for _, r := range m.runs {
		all[r.Fn.Key()] = true
	}
	return sortedKeys(all)
}

func (m *machine) mem() int {
	n := len(m.runs)
	for _, idle := range m.idle {
		n += idle
	}
	return 100 * n
}

func (p *places) report(m *machine) {
	if m.down {
		return
	}
	hb := &wire.Heartbeat{
		Zone: "z", Node: m.name, Boot: m.boot, Epoch: p.z.Epoch(), SeenSeq: m.seen, Slots: m.slots, MemMB: m.memMB, MemUsedMB: m.mem(), Labels: m.labels,
		Draining: m.draining, UptimeMs: max(p.now.Sub(m.booted).Milliseconds(), 1), Sandboxes: p.boxes(m),
	}
	for _, id := range sortedKeys(m.runs) {
		hb.Running = append(hb.Running, wire.RunningReport{ID: id, Function: m.runs[id].Fn.Key()})
	}
	p.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
}

// finish ends one run of a node, in whatever way.
func (p *places) finish(m *machine) {
	if m.down || len(m.runs) == 0 {
		return
	}
	id := rapid.SampledFrom(sortedKeys(m.runs)).Draw(p.t, "run")
	r := m.runs[id]
	delete(m.runs, id)
	c := &wire.Completion{Node: m.name, Boot: m.boot, ID: id, Epoch: r.Epoch, Attempt: r.Call.Attempt, RunMs: 10, InitMs: 5}
	if c.Outcome = rapid.SampledFrom([]api.Outcome{api.OutcomeOK, api.OutcomeOK, api.OutcomeCrash}).Draw(p.t, "outcome"); c.Outcome == api.OutcomeOK {
		m.idle[r.Fn.Key()]++
	} else {
		c.Code = api.CodeFunction
	}
	c.Sandboxes, c.MemUsedMB = p.boxes(m), m.mem()
	p.step(&Event{Kind: EvCompletion, Completion: c})
}

// take is a dispatch that reaches its node: it is refused when the node is gone, drains or has no room.
func (p *places) take(m *machine, r *wire.Run) {
	if m.down {
		return
	}
	m.seen = max(m.seen, r.Seq)
	key := r.Fn.Key()
	code := api.CodeOK
	switch {
	case m.draining:
		code = api.CodeUnavailable
	case len(m.runs) >= m.slots:
		code = api.CodeOverloaded
	case m.idle[key] > 0 && !r.Prewarm:
		m.idle[key]--
	default:
		for _, k := range sortedKeys(m.idle) {
			for m.idle[k] > 0 && m.mem()+100 > m.memMB {
				m.idle[k]--
			}
		}
		if m.mem()+100 > m.memMB {
			code = api.CodeOverloaded
		}
	}
	if code != api.CodeOK {
		p.step(&Event{Kind: EvCompletion, Completion: &wire.Completion{Node: m.name, Boot: m.boot, ID: r.Call.ID, Epoch: r.Epoch, Attempt: r.Call.Attempt, Outcome: api.OutcomeRefused, Code: code, MemUsedMB: m.mem()}})
		return
	}
	m.runs[r.Call.ID] = r
}

func (p *places) step(ev *Event) {
	acts := p.z.Step(p.now, ev, nil)
	if err := p.z.Check(); err != nil {
		p.t.Fatalf("after %s: %v", ev, err)
	}
	// A call that decides within a tick, since its node was lost, takes a slot, or holds one with a sandbox of its own: that one counts
	// as the call.
	warmed, decided := map[*profile]bool{}, false
	for i := range acts {
		a := &acts[i]
		switch a.Kind {
		case ActWake:
			p.gens[a.ID] = a.Gen
			decided = decided || p.z.calls[a.ID] != nil
		case ActRun:
			n := p.z.byName[a.Node]
			if !n.labels.Meet(&a.Run.Fn.Needs) {
				p.t.Fatalf("%s: %s that needs %s went to a node with %s", ev, a.ID, &a.Run.Fn.Needs, &n.labels)
			}
			if n.draining || !n.live {
				p.t.Fatalf("%s: %s went to %s, which drains or is lost", ev, a.ID, a.Node)
			}
			if a.Run.Prewarm {
				warmed[n.profile] = true
			}
			decided = decided || !a.Run.Prewarm
		}
	}
	if ev.Kind == EvTick && !decided {
		for q := range warmed {
			if s := q.sums; s.warming > s.free {
				p.t.Fatalf("of %d free slots prewarmings took more than half: %d are left", s.free+s.warming, s.free)
			}
		}
	}
	for _, n := range p.z.nodes {
		if n.slow && n.live {
			most := 1 + float64(n.total-1)*float64(p.now.Sub(n.born))/float64(p.z.cfg.SlowStart)
			if float64(n.slots) > most || n.slots < 1 {
				p.t.Fatalf("%s: a node of %v offers %d of %d slots", ev, p.now.Sub(n.born), n.slots, n.total)
			}
		}
	}
	for i := range acts {
		if a := &acts[i]; a.Kind == ActRun {
			for _, m := range p.nodes {
				if m.name == a.Node && rapid.IntRange(0, 20).Draw(p.t, "lost") > 0 {
					p.take(m, a.Run)
				}
			}
		}
	}
}

func (p *places) deploy(k int, version uint64) {
	f := api.Function{Tenant: "t", Name: fmt.Sprint("f", k), Version: version, Runtime: api.RuntimeProcess, Artifact: strings.Repeat("a", 64), ArtifactBytes: 1, MemoryMB: 100, Timeout: 10 * time.Second}
	f.Needs, f.MinWarm = rapid.SampledFrom(someNeeds).Draw(p.t, "needs"), rapid.SampledFrom([]int{0, 0, 1, 4}).Draw(p.t, "min_warm")
	p.step(&Event{Kind: EvFunctions, Functions: []api.Function{f}})
}

// Properties: wherever nodes and functions come and go, a call or prewarming goes only to a node in service that has what the
// function needs; a node that starts slowly never offers more than its age allows; prewarmings leave half of the free
// slots; and the indices are exact after each step.
func TestPlacesAreKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := DefaultConfig()
		cfg.Zone, cfg.Seed = "z", rapid.Uint64().Draw(t, "seed")
		cfg.Candidates = rapid.SampledFrom([]int{2, 4, 32}).Draw(t, "candidates")
		cfg.Policy = rapid.SampledFrom([]string{"rubato", "least-loaded", "random", "ch-rlu", "openwhisk"}).Draw(t, "policy")
		z, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		p := &places{t: t, z: z, now: t0, gens: map[string]uint32{}}
		p.step(&Event{Kind: EvLead, Epoch: api.Epoch{Generation: 1, Revision: 5}})
		p.step(&Event{Kind: EvModel, Predictor: times{1.5}})
		for i := range rapid.IntRange(1, 12).Draw(t, "nodes") {
			m := &machine{name: fmt.Sprint("n", i), memMB: rapid.SampledFrom([]int{200, 600}).Draw(t, "memory")}
			p.nodes = append(p.nodes, m)
			p.boot(m)
		}
		const functions = 4
		for k := range functions {
			p.deploy(k, 1)
		}
		version := uint64(1)
		for range rapid.IntRange(10, 150).Draw(t, "steps") {
			p.now = p.now.Add(time.Duration(rapid.IntRange(0, 1200).Draw(t, "ms")) * time.Millisecond)
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1:
				for _, m := range p.nodes {
					p.report(m)
				}
				p.step(&Event{Kind: EvTick})
			case 2, 3, 4:
				p.calls++
				p.step(&Event{Kind: EvArrive, Call: &api.Invocation{ID: fmt.Sprint("c", p.calls), Tenant: "t", Function: fmt.Sprint("f", rapid.IntRange(0, functions-1).Draw(t, "fn"))}})
			case 5, 6:
				p.finish(p.machine())
			case 7:
				if ids := sortedKeys(p.gens); len(ids) > 0 {
					id := rapid.SampledFrom(ids).Draw(t, "wake")
					p.step(&Event{Kind: EvWake, ID: id, Gen: p.gens[id]})
				}
			case 8:
				switch m := p.machine(); rapid.IntRange(0, 2).Draw(t, "fate") {
				case 0:
					m.down = true
				case 1:
					p.boot(m)
					p.report(m)
				case 2:
					m.draining = true
					p.report(m)
				}
			case 9:
				if rapid.Bool().Draw(t, "delete") {
					p.step(&Event{Kind: EvFunctions, Deleted: []string{fmt.Sprint("t/f", rapid.IntRange(0, functions-1).Draw(t, "fn"))}})
				} else {
					version++
					p.deploy(rapid.IntRange(0, functions-1).Draw(t, "fn"), version)
				}
			}
		}
	})
}

// Ages are those that nodes report, so a leader that is new slows no old node; a node that restarts is young again.
func TestOnlyYoungNodesAmongOldOnesBeginSlowly(t *testing.T) {
	b := newBed(t, nil)
	beat := func(name string, boot uint64, up time.Duration, want int) {
		t.Helper()
		hb := b.report(name, 4, 0)
		hb.Boot, hb.UptimeMs = boot, up.Milliseconds()
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
		if got := b.z.byName[name].slots; got != want {
			t.Errorf("node %s, up for %v, offers %d slots, want %d", name, up, got, want)
		}
	}
	beat("a", 1, time.Hour, 4)
	beat("b", 1, 11*time.Second, 4)
	beat("c", 1, time.Second, 1)
	beat("a", 2, time.Millisecond, 1)
	b.after(2 * time.Second)
	beat("b", 1, 13*time.Second, 4)
	beat("c", 1, 3*time.Second, 1)
	b.after(time.Second)
	beat("c", 1, 4*time.Second, 2)
	b = newBed(t, func(c *Config) { c.SlowStart = 0 })
	beat("a", 1, time.Hour, 4)
	beat("c", 1, time.Second, 4)
}

// wide is a zone of n nodes without an accelerator and three with one; every 30th has a tag.
func wide(t *testing.T, n int) *bed {
	b := newBed(t, nil)
	f, _ := b.z.Function("t/f")
	f.Name, f.Needs = "g", api.Labels{Accelerator: "gpu"}
	tagged := f
	tagged.Name, tagged.Needs = "s", api.Labels{Tags: []string{"ssd"}}
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{f, tagged}})
	for i := range n + 3 {
		hb := b.report(fmt.Sprintf("n%05d", i), 4, i%2)
		if (i+1)%(n/3) == 0 {
			hb.Labels.Accelerator = "gpu-a100"
		}
		if i%30 == 0 {
			hb.Labels.Tags = []string{"ssd"}
		}
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	}
	return b
}

// In a zone of many nodes a function finds the few that it fits, all of them, without allocating.
func TestFewNodesOfManyAreFound(t *testing.T) {
	b := wide(t, 3000)
	inv := &api.Invocation{ID: "i", Tenant: "t", Function: "g"}
	if allocs := testing.AllocsPerRun(100, func() { b.z.Consider(b.now, inv) }); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
	used := map[string]int{}
	for i := range 12 {
		id := fmt.Sprint("g", i)
		b.invoke(id, "g")
		used[find(b.acts, ActRun, id).Node]++
	}
	if len(used) != 3 {
		t.Errorf("12 calls for 12 slots went to %v", used)
	}
	b.invoke("waits", "g")
	b.ran("waits", "")
	if len(b.z.cands) < 3 {
		t.Errorf("with all slots taken %d candidates are left, want all three nodes", len(b.z.cands))
	}
	if err := b.z.Check(); err != nil {
		t.Error(err)
	}
}

// Labels are bounded, and what is beyond the bound is a node without labels.
func TestProfilesAreBounded(t *testing.T) {
	b := newBed(t, nil)
	f, _ := b.z.Function("t/f")
	f.Name, f.Needs = "g", api.Labels{Tags: []string{"last"}}
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{f}})
	label := func(node, tag string) {
		hb := b.report(node, 1, 0)
		hb.Labels.Tags = []string{tag}
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	}
	for i := range maxProfiles + 5 {
		label(fmt.Sprint("n", i), fmt.Sprint("t", i))
	}
	label("late", "last")
	if len(b.z.profiles) != maxProfiles || b.z.byName["late"].profile.id != 0 {
		t.Fatalf("%d profiles, the last node in %d", len(b.z.profiles), b.z.byName["late"].profile.id)
	}
	b.invoke("g1", "g")
	b.answered("g1", api.CodeUnavailable)
	label("late", "")
	if b.z.byName["late"].profile.id != 0 {
		t.Error("a tag that is no name counted")
	}
	label("late", "last")
	label("n7", "t8") // that leaves a profile without a node, which who had none before is given when it reports as ever
	label("late", "last")
	b.invoke("g2", "g")
	b.ran("g2", "late")
	if err := b.z.Check(); err != nil {
		t.Error(err)
	}
}

func TestKeepAlive(t *testing.T) {
	for _, c := range []struct {
		cold, gap float64 // ms; 0: not known
		minWarm   int
		want      time.Duration
	}{
		{0, 100, 0, 0},
		{1000, 0, 0, 600 * time.Second},
		{1000, 700_000, 0, 600 * time.Second}, // the next call is beyond it anyway
		{1000, 200_000, 0, 800 * time.Second},
		{1000, 10_000, 0, 600 * time.Second},
		{1, 0, 0, 2 * time.Minute},
		{1e6, 5e6, 0, time.Hour},
		{1, 0, 1, time.Hour},
	} {
		f := &function{spec: &api.Function{MinWarm: c.minWarm}, h: &holding{}, coldMs: ewma{w: .2}, gapMs: ewma{w: .1}}
		if c.cold > 0 {
			f.coldMs.add(c.cold)
		}
		if c.gap > 0 {
			f.gapMs.add(c.gap)
		}
		if got := time.Duration(f.keepMs()) * time.Millisecond; got != c.want {
			t.Errorf("cold start %v ms, gap %v ms, min_warm %d: kept for %v, want %v", c.cold, c.gap, c.minWarm, got, c.want)
		}
	}
	b := newBed(t, nil)
	b.node("a", 1, 0)
	b.invoke("i1", "f")
	if r := find(b.acts, ActRun, "i1").Run; r.KeepMs != 0 {
		t.Errorf("nothing is known, but the node was told %d ms", r.KeepMs)
	}
	b.done("i1", "a", func(c *wire.Completion) { c.Start, c.InitMs = api.SandboxNone, 300 })
	b.after(time.Minute)
	b.node("a", 1, 1)
	b.invoke("i2", "f")
	if r := find(b.acts, ActRun, "i2").Run; r.KeepMs != 240_000 {
		t.Errorf("a cold start takes 300 ms, a call comes each minute: told to keep for %d ms, want four gaps", r.KeepMs)
	}
}

func TestWishedSandboxesAreBroughtUp(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 8, 0)
	b.node("b", 8, 0)
	b.step(&Event{Kind: EvPrewarm, ID: "t/f", Count: 5})
	on := map[string]int{}
	for i := range b.acts {
		if a := &b.acts[i]; a.Kind == ActRun {
			on[a.Node]++
		}
	}
	if on["a"]+on["b"] != 5 || min(on["a"], on["b"]) != 2 {
		t.Errorf("five sandboxes went to %v", on)
	}
	if b.step(&Event{Kind: EvPrewarm, ID: "t/none", Count: 5}); len(b.acts) != 0 {
		t.Errorf("for a function that is not known: %v", text(b.acts))
	}
}

// A pick among a few of ten thousand nodes costs no more than one among all: three nodes are all scored, of 334 as many as of all.
func BenchmarkConstrainedPick(b *testing.B) {
	bed := wide(&testing.T{}, 10_000)
	all := 0.0
	for _, k := range []struct{ name, fn string }{{"any", "f"}, {"tagged", "s"}, {"gpu", "g"}} {
		b.Run(k.name, func(b *testing.B) {
			inv := &api.Invocation{ID: "i", Tenant: "t", Function: k.fn}
			b.ReportAllocs()
			for b.Loop() {
				bed.z.Consider(bed.now, inv)
			}
			perOp := float64(b.Elapsed()) / float64(b.N)
			if k.name == "any" {
				all = perOp
			}
			b.ReportMetric(perOp/all, "of-any")
		})
	}
}

// Where machines come and go, each with a name of its own, new ones take the places of those that went long ago; whoever comes back sooner has
// its own.
func TestNewNodesTakeThePlacesOfLostOnes(t *testing.T) {
	b := newBed(t, nil)
	lose := func() {
		b.after(b.z.cfg.NodeTimeout + time.Second)
		b.step(&Event{Kind: EvTick})
	}
	b.node("a", 1, 1)
	b.node("b", 1, 0)
	b.invoke("i1", "f")
	b.ran("i1", "a")
	b.invoke("i2", "f") // hopes for a
	lose()
	b.node("b", 1, 0)
	b.node("c", 1, 0)
	if len(b.z.nodes) != 3 {
		t.Fatalf("%d nodes: the lost ones were there a moment ago", len(b.z.nodes))
	}
	b.after(forgetNode)
	b.node("b", 1, 0)
	b.node("d", 2, 1)
	if d := b.z.byName["d"]; len(b.z.nodes) != 3 || b.z.byName["a"] != nil || d == nil || d.index != 0 || d.sentSeq != 0 || d.reserved != 0 {
		t.Fatalf("%d nodes, d: %+v", len(b.z.nodes), d)
	}
	if err := b.z.Check(); err != nil {
		t.Fatal(err)
	}
	b.done("i1", "a") // too late
	b.invoke("i3", "f")
	b.ran("i3", "d")
	b.done("i3", "d")
	b.answered("i3", api.CodeOK)
	b.node("a", 1, 0)
	if a := b.z.byName["a"]; a == nil || a == b.z.byName["d"] || len(b.z.nodes) != 4 {
		t.Fatalf("%d nodes, a: %+v", len(b.z.nodes), a)
	}
	for range 100 { // a node that comes and goes is listed once
		lose()
		b.node("a", 1, 0)
	}
	if n := len(b.z.lostNodes); n > len(b.z.nodes) {
		t.Errorf("%d places listed, %d nodes", n, len(b.z.nodes))
	}
}

// ended ends a call on a, which says that it has seen so many dispatches, and has so many sandboxes of f and memory in use.
func (b *bed) ended(id string, seen uint64, idle, busy, memMB int) {
	b.done(id, "a", func(c *wire.Completion) {
		c.Epoch, c.SeenSeq, c.MemUsedMB = b.z.Epoch(), seen, memMB
		c.Sandboxes = []wire.SandboxReport{{Function: "t/f@1", State: api.SandboxPrepared, Idle: idle, Busy: busy, MemoryMB: 100}}
	})
}

// sees is what the zone thinks of f's sandboxes and the memory in use on a.
func (b *bed) sees(idle, busy, memMB int) {
	b.t.Helper()
	n := b.z.byName["a"]
	if s := n.sandbox(b.z.fns["t/f"].h); s.idle != idle || s.busy != busy || n.memUsed != memMB {
		b.t.Errorf("%d idle, %d busy, %d MB: want %d, %d and %d", s.idle, s.busy, n.memUsed, idle, busy, memMB)
	}
	if err := b.z.Check(); err != nil {
		b.t.Error(err)
	}
}

// A node that ends one call before it has seen the dispatch of the next counts a sandbox as idle, and memory as free, that are on their way
// to be used.
func TestCompletionsThatCrossADispatch(t *testing.T) {
	b := newBed(t, func(c *Config) { c.Mode = ModeOff }) // nobody waits
	b.node("a", 4, 2)
	b.invoke("i1", "f")
	b.invoke("i2", "f")
	b.step(&Event{Kind: EvPrewarm, ID: "t/f", Count: 1})
	b.ended("i1", 1, 2, 0, 200) // both are idle there; i2 takes one of them, and a third comes
	b.sees(1, 2, 300)
	b.invoke("i3", "f")
	b.ended("i2", 4, 1, 2, 300) // who has seen all of them tells the truth
	b.sees(1, 2, 300)
}

// A call that was sent to start cold finds the sandbox of one that ends before it comes.
func TestACallMayFindAWarmSandboxAfterAll(t *testing.T) {
	b := newBed(t, func(c *Config) { c.Mode = ModeOff })
	b.node("a", 4, 1)
	b.invoke("i1", "f")
	b.invoke("i2", "f")
	if r := find(b.acts, ActRun, "i2"); r == nil || r.Run.Echo.Sandbox == api.SandboxWarm {
		t.Fatalf("i2 was not to find one: %s", text(b.acts))
	}
	b.sees(0, 2, 200)
	b.ended("i1", 1, 1, 0, 100)
	b.sees(0, 1, 100)
}

// A call that was sent to an idle sandbox starts one where that was gone before it came.
func TestAWarmSandboxMayBeGone(t *testing.T) {
	b := newBed(t, func(c *Config) { c.Mode = ModeOff })
	b.node("a", 4, 2)
	b.invoke("i1", "f")
	b.invoke("i2", "f")
	b.ended("i1", 1, 0, 0, 0)
	b.sees(0, 1, 100)
}

// A prewarming is expected to take what bringing up from where it begins took.
func TestPrewarmingIsExpectedByItsBeginning(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 8, 0)
	f := b.z.fns["t/f"]
	for range 20 {
		f.began(&wire.Completion{Start: api.SandboxNone, InitMs: 4000})
		f.began(&wire.Completion{Start: api.SandboxPrepared, InitMs: 50})
	}
	b.step(&Event{Kind: EvPrewarm, ID: "t/f", Count: 1})
	if r := b.z.byName["a"].running[0]; r.from != api.SandboxNone || math.Abs(math.Exp(r.mu)-4000) > 1 || r.fetchMs != b.z.byName["a"].transferMs(f.spec.ArtifactBytes) {
		t.Errorf("expected to take %.0f ms after a fetch of %v ms: %+v", math.Exp(r.mu), r.fetchMs, r)
	}
}

// What a node was bringing up goes with it, and that is no failure of the function's.
func TestPrewarmingsGoWithTheirNode(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 8, 0)
	b.step(&Event{Kind: EvPrewarm, ID: "t/f", Count: 1})
	b.after(b.z.cfg.NodeTimeout + time.Second)
	b.step(&Event{Kind: EvTick})
	if f := b.z.fns["t/f"]; len(b.z.prewarms) != 0 || f.warmFails != 0 {
		t.Errorf("%d prewarmings, %d failures", len(b.z.prewarms), f.warmFails)
	}
}

// A prewarming that was lost on its way gives its slot back with the first report that should list it and does not; the next one
// waits for the pause after a failure.
func TestLostPrewarmingFreesItsSlot(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 8, 0)
	b.step(&Event{Kind: EvPrewarm, ID: "t/f", Count: 1})
	n := b.z.byName["a"]
	report := func() {
		hb := b.report("a", 8, 0)
		hb.SeenSeq = n.sentSeq
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	}
	if report(); len(n.running) != 1 {
		t.Fatalf("%d slots taken: the report may be older than the prewarming", len(n.running))
	}
	b.after(sightLost + 2*time.Millisecond) // beyond what a report takes
	if report(); len(n.running) != 0 || len(b.z.prewarms) != 0 {
		t.Errorf("%d slots taken, %d prewarmings under way", len(n.running), len(b.z.prewarms))
	}
	if f := b.z.fns["t/f"]; f.warmFails != 1 || !f.warmAt.After(b.now) {
		t.Errorf("%d failures, next try at %v", f.warmFails, f.warmAt)
	}
	if err := b.z.Check(); err != nil {
		t.Error(err)
	}
}

// Property: in a zone of any size a call meets an open node of each hardware class, however rare, while there are no more classes
// than draws; and nodes may change their class.
func TestEveryClassIsAmongTheCandidates(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBed(t, nil)
		n := rapid.IntRange(33, 120).Draw(rt, "nodes")
		classes := rapid.IntRange(1, 8).Draw(rt, "classes")
		report := func(i, class int) {
			hb := b.report(fmt.Sprint("n", i), 2, 0)
			hb.Class = uint8(class)
			b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
		}
		for i := range n {
			report(i, min(i, classes-1)) // one of each but the last, of which there are many
		}
		for range rapid.IntRange(0, 20).Draw(rt, "changes") {
			report(rapid.IntRange(classes, n-1).Draw(rt, "node"), rapid.IntRange(0, classes-1).Draw(rt, "class"))
		}
		if err := b.z.Check(); err != nil {
			rt.Fatal(err)
		}
		b.invoke("i", "f")
		seen := map[uint8]bool{}
		for i := range b.z.cands {
			seen[b.z.nodes[b.z.cands[i].Node].class] = true
		}
		if len(seen) != classes {
			rt.Fatalf("candidates of %d classes, there are %d", len(seen), classes)
		}
	})
}

// Where memory is short the zone names what goes, the least missed first, and takes it from its view at once.
func TestWhatIsPushedOut(t *testing.T) {
	b := newBed(t, nil)
	box := func(fn string, idle, idleMs int) wire.SandboxReport {
		return wire.SandboxReport{Function: "t/" + fn + "@1", State: api.SandboxPrepared, Idle: idle, MemoryMB: 100, IdleMs: int64(idleMs)}
	}
	spec := *b.z.fns["t/f"].spec
	var all []api.Function
	for _, name := range []string{"rare", "often", "twice", "asked", "new"} {
		f := spec
		f.Name = name
		if name == "asked" {
			f.MinWarm = 1
		}
		all = append(all, f)
	}
	b.step(&Event{Kind: EvFunctions, Functions: all})
	for name, gapMs := range map[string]float64{"rare": 20_000, "often": 1000, "twice": 1000, "asked": 90_000} {
		f := b.z.fns["t/"+name]
		f.gapMs, f.lastAt, f.runMs.v, f.coldMs = ewma{v: gapMs, n: 1}, b.now, 50, ewma{v: 500, n: 1}
	}
	hb := b.report("a", 4, 0)
	hb.MemMB, hb.MemUsedMB = 500, 500
	// The node would push out what is idle for longest: "often", then "asked".
	hb.Sandboxes = []wire.SandboxReport{box("often", 1, 9000), box("asked", 1, 8000), box("twice", 2, 10), box("rare", 1, 1000)}
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	for i, want := range []string{"t/twice@1", "t/rare@1", "t/often@1"} {
		id := fmt.Sprint("n", i)
		b.invoke(id, "new", func(inv *api.Invocation) { inv.Tenant = "t" })
		for find(b.acts, ActRun, id) == nil { // it waits until that is paid for
			w := find(b.acts, ActWake, id)
			if w == nil {
				t.Fatalf("%s: neither runs nor waits: %v", id, b.acts)
			}
			b.now = w.At
			b.step(&Event{Kind: EvWake, ID: id, Gen: w.Gen})
		}
		if got := find(b.acts, ActRun, id).Run.Evict; len(got) != 1 || got[0] != want {
			t.Errorf("call %d pushes out %v, want %s", i, got, want)
		}
		if err := b.z.Check(); err != nil {
			t.Fatal(err)
		}
	}
	n := b.z.byName["a"]
	if n.memUsed != 500 || b.z.fns["t/twice"].h.idle != 1 || b.z.fns["t/asked"].h.idle != 1 {
		t.Errorf("%d MB in use, %d of twice, %d of asked", n.memUsed, b.z.fns["t/twice"].h.idle, b.z.fns["t/asked"].h.idle)
	}
}

// Sandboxes brought up ahead push out none that is asked for, but what its function has beyond that.
func TestPrewarmingPushesOutWhatIsLeftOver(t *testing.T) {
	b := newBed(t, nil)
	kept, _ := b.z.Function("t/f")
	kept.Name, kept.MinWarm, kept.MemoryMB = "kept", 1, 100
	fresh := kept
	fresh.Name, fresh.MinWarm = "fresh", 0
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{kept, fresh}})
	hb := b.report("a", 4, 0)
	hb.MemMB, hb.MemUsedMB = 200, 200
	hb.Sandboxes = []wire.SandboxReport{{Function: "t/kept@1", State: api.SandboxPrepared, Idle: 2, MemoryMB: 100}}
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	for i, want := range []int{1, 0} {
		b.step(&Event{Kind: EvPrewarm, ID: "t/fresh", Count: 1})
		got := 0
		for k := range b.acts {
			if a := &b.acts[k]; a.Kind == ActRun {
				got++
				if i == 0 && !slices.Equal(a.Run.Evict, []string{"t/kept@1"}) {
					t.Errorf("it pushes out %v", a.Run.Evict)
				}
			}
		}
		if got != want {
			t.Errorf("prewarming %d: %d begin, want %d", i, got, want)
		}
	}
}

// What a node has prepared for one function serves all that are made of the same artifact: others, and new versions.
func TestArtifactsAreShared(t *testing.T) {
	b := newBed(t, nil)
	for i := range 8 {
		b.node(fmt.Sprint("n", i), 1, i/7) // n7 has a sandbox of f
	}
	again, _ := b.z.Function("t/f")
	again.Name = "again"
	other := again
	other.Name, other.Artifact = "other", strings.Repeat("b", 64)
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{again, other}})
	b.invoke("i1", "again")
	b.ran("i1", "n7")
	if got := find(b.acts, ActRun, "i1").Run.Echo.Sandbox; got != api.SandboxPrepared {
		t.Errorf("the node is taken for %v", got)
	}
	b.invoke("i2", "other")
	if got := find(b.acts, ActRun, "i2").Run.Echo.Sandbox; got != api.SandboxNone {
		t.Errorf("another artifact's node is taken for %v", got)
	}
}

// Where memory is short, a start from nothing is charged what it makes anew, as far as slots are busy; where there is room, and where
// nobody else has it, it is not.
func TestWhatIsMadeAnew(t *testing.T) {
	const half = 5 // of ten slots
	for name, c := range map[string]struct {
		full  bool             // b's memory is in use by another's sandbox
		busy  int              // of ten slots
		state api.SandboxState // of f's on b
		want  float64          // more than the eviction
		a     func(*wire.Heartbeat)
		f     func(*function)
	}{
		"charged":                     {true, half, api.SandboxNone, 350, nil, nil},
		"fetched only":                {true, half, api.SandboxFetched, 350, nil, nil},
		"prepared here":               {true, half, api.SandboxPrepared, 0, nil, nil},
		"no slot is busy":             {true, 0, api.SandboxNone, 0, nil, nil},
		"room":                        {false, half, api.SandboxNone, 0, nil, nil},
		"who has it drains":           {true, half, api.SandboxNone, 0, func(hb *wire.Heartbeat) { hb.Draining = true }, nil},
		"nobody else has it":          {true, half, api.SandboxFetched, 0, func(hb *wire.Heartbeat) { hb.Sandboxes = nil }, nil},
		"never from what is prepared": {true, half, api.SandboxNone, 0, nil, func(f *function) { f.prepMs = ewma{w: .2} }},
		"never below nothing":         {true, half, api.SandboxNone, 0, nil, func(f *function) { f.prepMs.v = 2000 }},
	} {
		b := newBed(t, nil)
		g, _ := b.z.Function("t/f")
		g.Name, g.Artifact = "g", strings.Repeat("b", 64)
		b.step(&Event{Kind: EvFunctions, Functions: []api.Function{g}})
		hb := b.report("a", 1, 1)
		if c.a != nil {
			c.a(hb)
		}
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
		hb = b.report("others", 5, 0)
		if b.z.byName["a"].draining {
			hb.Slots = 6
		}
		for i := range c.busy {
			hb.Running = append(hb.Running, wire.RunningReport{ID: fmt.Sprint("r", i), Function: "t/deadline@1"})
		}
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
		hb = b.report("b", 4, 0)
		hb.MemMB, hb.MemUsedMB = 200, 0
		hb.Sandboxes = []wire.SandboxReport{{Function: "t/g@1", State: api.SandboxPrepared, Idle: 1, MemoryMB: 100}}
		if c.full {
			hb.MemUsedMB = 200
		}
		if c.state > api.SandboxNone {
			hb.Sandboxes = append(hb.Sandboxes, wire.SandboxReport{Function: "t/f@1", State: c.state})
		}
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
		f, other := b.z.fns["t/f"], b.z.fns["t/g"]
		f.freshMs.add(900)
		f.prepMs.add(200)
		other.coldMs.add(50)
		other.lastAt = b.now
		if c.f != nil {
			c.f(f)
		}
		n := b.z.byName["b"]
		_, evictMs, _ := b.z.victims(b.now, n, 100)
		if (evictMs > 0) != c.full || b.z.sums.slots != 10 {
			t.Fatalf("%s: pushes out for %v ms, %d slots", name, evictMs, b.z.sums.slots)
		}
		b.z.cands, b.z.feats = b.z.cands[:0], b.z.feats[:0]
		b.z.nodeCandidates(b.now, &call{inv: &api.Invocation{}, fn: f}, n, n.sandbox(f.h), 0)
		if got := b.z.cands[0].EvictMs - evictMs; math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %v ms more than the eviction, want %v", name, got, c.want)
		}
	}
}

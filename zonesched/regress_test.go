package zonesched

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// A call whose plan broke twice in one step is answered once, though it waits in the list of plans to be redone twice.
func TestBrokenPlansAreDecidedOnceAnswered(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.invoke("i1", "f")
	b.invoke("i2", "f", func(i *api.Invocation) { i.BudgetMs = 100 })
	c := b.z.calls["i2"]
	b.z.redo = append(b.z.redo, c, c)
	b.after(200 * time.Millisecond)
	b.z.settle(b.now, nil) // the first round answers
	b.z.redo = append(b.z.redo, c)
	if acts := b.z.settle(b.now, nil); len(acts) != 0 {
		t.Fatalf("an answered call was decided again: %v", text(acts))
	}
	if n := b.z.Counters().Answered; n != 1 {
		t.Fatalf("answered %d times", n)
	}
}

func TestNewVersionWhileACallWaits(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.node("cold", 1, 0)
	b.invoke("i1", "f")
	b.invoke("i2", "f") // held back for a's sandbox
	n := b.z.byName["a"]
	if n.hope(b.z.holdings["t/f@1"], 0) != 1 {
		t.Fatalf("reservations %v", n.reservedF)
	}
	next, _ := b.z.Function("t/f")
	next.Version = 2
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{next}})
	a := find(b.acts, ActRun, "i2") // at once: what it waited for is of the old version
	if a == nil || a.Run.Fn.Version != 2 || a.Run.Call.Version != 2 {
		t.Fatalf("dispatch %+v", a)
	}
	if len(n.reservedF) != 0 || n.reserved != 0 {
		t.Fatalf("reservations that nobody holds: %v, %d", n.reservedF, n.reserved)
	}
	b.done("i2", a.Node, func(c *wire.Completion) { c.Sandboxes = nil })
	if ans := b.answered("i2", api.CodeOK); ans.Timing.Version != 2 {
		t.Fatalf("ran version 2, reported %d", ans.Timing.Version)
	}
}

// A call that runs when its function is deployed again is not dropped: it ends as what it began as.
func TestNewVersionWhileACallRuns(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.invoke("i1", "f")
	next, _ := b.z.Function("t/f")
	next.Version = 2
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{next}})
	if find(b.acts, ActCancelRun, "i1") != nil || find(b.acts, ActAnswer, "i1") != nil {
		t.Fatalf("it is dropped: %v", text(b.acts))
	}
	b.done("i1", "a")
	if ans := b.answered("i1", api.CodeOK); ans.Timing.Version != 1 {
		t.Fatalf("ran version 1, reported %d", ans.Timing.Version)
	}
}

// The new life of a node gets nothing that was decided from what its last one held.
func TestRestartedNode(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.invoke("i1", "f", func(i *api.Invocation) { i.Async = true })
	b.ran("i1", "a")
	b.after(100 * time.Millisecond)
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: &wire.Heartbeat{Zone: "z", Node: "a", Boot: 2, Epoch: b.z.Epoch(), Slots: 1, MemMB: 1000}})
	a := find(b.acts, ActRun, "i1")
	if a == nil || a.Run.Seq != 1 || a.Run.Call.Attempt != 1 || a.Run.Echo.Sandbox != api.SandboxNone {
		t.Fatalf("driven again as %v", text(b.acts))
	}
	b.done("i1", "a", func(c *wire.Completion) { c.Boot, c.Attempt = 2, 1 })
	b.answered("i1", api.CodeOK)
	if !b.z.Quiet() || b.z.nodes[0].free() != 1 {
		t.Fatal("the slot was not given back")
	}
}

func TestRefusalsAreNotExecutions(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.node("b", 1, 1)
	b.invoke("i1", "f", func(i *api.Invocation) { i.Async = true })
	on := func() string { return b.z.calls["i1"].node.name }
	for i := range uint8(4) { // more than MaxAttempts
		b.done("i1", on(), func(c *wire.Completion) { c.Attempt, c.Outcome, c.Code = i, api.OutcomeRefused, api.CodeOverloaded })
		b.after(time.Second)
		b.node("a", 1, 1)
		b.node("b", 1, 1)
		b.step(&Event{Kind: EvTick})
	}
	lost, other := on(), "a"
	if lost == "a" {
		other = "b"
	}
	b.after(2 * time.Second)
	b.node(other, 1, 1)
	b.after(1500 * time.Millisecond)
	b.step(&Event{Kind: EvTick})
	b.ran("i1", other)
}

func TestEventsStayAsTheyCame(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.node("b", 1, 1)
	inv := &api.Invocation{ID: "i1", Tenant: "t", Function: "f"}
	b.step(&Event{Kind: EvArrive, Call: inv})
	b.done("i1", find(b.acts, ActRun, "i1").Node, func(c *wire.Completion) { c.Outcome = api.OutcomeRefused })
	if find(b.acts, ActRun, "i1").Run.Call.Attempt != 1 {
		t.Fatalf("after a refusal: %v", text(b.acts))
	}
	if inv.Attempt != 0 || inv.Version != 0 {
		t.Fatal("the core changed its event: a replay of it would differ")
	}
}

func TestDrainingZoneRefuses(t *testing.T) {
	b := newBed(t, nil)
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: &wire.Heartbeat{Zone: "z", Node: "a", Boot: 1, Epoch: b.z.Epoch(), Slots: 1, MemMB: 1000, Draining: true}})
	b.invoke("i1", "f")
	if a := b.answered("i1", api.CodeUnavailable); !strings.Contains(a.Message, "no node") {
		t.Fatalf("answer %+v", a)
	}
}

// A call that waits for a node decides anew when the node is lost, and not when its wake comes.
func TestLostHopeIsDecidedAnew(t *testing.T) {
	b := newBed(t, nil)
	b.node("cold", 1, 0)
	b.node("warm", 1, 1)
	b.invoke("i1", "f")
	b.invoke("i2", "f")
	b.ran("i2", "")
	n := b.z.byName["warm"]
	n.lastSeen = b.now.Add(-time.Minute)
	b.step(&Event{Kind: EvTick})
	b.ran("i2", "cold")
}

func TestDelayOffAndDeadlineThatIsMissedAnyway(t *testing.T) {
	b := newBed(t, nil)
	off, _ := b.z.Function("t/f")
	off.Version, off.DelayOff = 2, true
	late, _ := b.z.Function("t/deadline")
	late.Version, late.Objective.Deadline = 2, time.Millisecond
	b.node("cold", 1, 0)
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: &wire.Heartbeat{Zone: "z", Node: "warm", Boot: 1, Epoch: b.z.Epoch(), Slots: 1, MemMB: 1000, Sandboxes: []wire.SandboxReport{
		{Function: "t/f@2", State: api.SandboxPrepared, Idle: 1, MemoryMB: 100}, {Function: "t/deadline@2", State: api.SandboxPrepared, Idle: 1, MemoryMB: 100}}}})
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{off, late}})
	b.invoke("i1", "deadline")
	b.ran("i1", "warm")
	b.invoke("late", "deadline")
	b.ran("late", "") // a cold start would not save it
	b.invoke("off", "f")
	b.ran("off", "cold")
	// That was the fallback of the call that waits: it knows at once, and queues.
	if c := b.z.calls["late"]; c.delaying || c.fallback != nil || find(b.acts, ActWake, "late") == nil {
		t.Fatalf("the fallback's loss went unnoticed: %v", text(b.acts))
	}
}

func TestFreedSlotGoesToTheHighestResponseRatio(t *testing.T) {
	b := newBed(t, nil)
	in := api.ObjectOf("t", "big", 8<<20, strings.Repeat("d", 64))
	b.node("a", 1, 1)
	b.invoke("i1", "f")
	b.invoke("long", "f", func(i *api.Invocation) { i.Inputs = []api.Object{in} }) // 800 ms of fetching
	b.after(5 * time.Millisecond)
	b.invoke("short", "f")
	b.after(5 * time.Millisecond)
	b.done("i1", "a")
	b.ran("short", "a")
}

// A node that was taken for lost comes back with the call still running, and the call is sent to it again: it is one call
// in one slot, which is free when it ends.
func TestCallSentAgainToTheNodeThatRunsIt(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 2, 2)
	b.invoke("i1", "f", func(i *api.Invocation) { i.Async = true })
	b.after(4 * time.Second)
	b.step(&Event{Kind: EvTick}) // lost; the call waits
	report := &wire.Heartbeat{
		Zone: "z", Node: "a", Boot: 1, Epoch: b.z.Epoch(), SeenSeq: 1, Slots: 2, MemMB: 1000, MemUsedMB: 100,
		Running: []wire.RunningReport{{ID: "i1", Function: "t/f@1", Elapsed: 4000}},
	}
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: report})
	b.ran("i1", "a")
	if n := b.z.byName["a"]; n.free() != 1 {
		t.Fatalf("%d slots free, one of two is taken", n.free())
	}
	b.done("i1", "a", func(c *wire.Completion) { c.Attempt = 1 })
	b.answered("i1", api.CodeOK)
	b.node("a", 2, 2)
	if n := b.z.byName["a"]; n.free() != 2 {
		t.Fatalf("%d slots free, nothing runs", n.free())
	}
}

// Where completions are heard of seconds late, a sandbox that seems busy is not soon free: a call is not held back for it. It was,
// for as long as DelayMax, since the little that a call of 10 ms still needs seemed to be about to end all the time.
func TestLateReportsMakeNobodyWait(t *testing.T) {
	for _, late := range []float64{1, 5000} {
		b := newBed(t, nil)
		b.node("cold", 1, 0)
		b.node("warm", 1, 1)
		b.z.linkMs = ewma{w: .05, v: late, n: 100}
		b.invoke("i1", "f")
		b.after(5 * time.Millisecond)
		b.invoke("i2", "f")
		if at, want := find(b.acts, ActRun, "i2") != nil, late > 1000; at != want {
			t.Errorf("reports late by %v ms: runs at once: %v, want %v", late, at, want)
		}
	}
}

// columnist checks that nodes' columns are those that it made itself, of the node as it is.
type columnist struct {
	times
	t     *testing.T
	id    uint8
	count *int
}

func (p columnist) Columns(c *api.Candidate, to *api.NodeColumns) {
	*p.count++
	if to.Key != 0 && (to.Class != c.Class || to.Link != uint8(c.LinkMbps) || to.Hash != hashOf(c.Node)) {
		p.t.Errorf("node %s of class %d and %v Mbit/s is handed over with %+v, made of another one", c.Node, c.Class, c.LinkMbps, *to)
	}
	*to = api.NodeColumns{Key: 1, Hash: hashOf(c.Node), Class: c.Class, Link: uint8(c.LinkMbps), Residual: p.id}
}

func (p columnist) Estimate(req *api.Request, cands []api.Candidate, out []api.Estimate) {
	for i := range cands {
		if c := &cands[i]; *c.Columns != (api.NodeColumns{Key: 1, Hash: hashOf(c.Node), Class: c.Class, Link: uint8(c.LinkMbps), Residual: p.id}) {
			p.t.Errorf("node %s of class %d and %v Mbit/s, model %d: columns %+v", c.Node, c.Class, c.LinkMbps, p.id, *c.Columns)
		}
	}
	p.times.Estimate(req, cands, out)
}

func TestNodeColumnsAreKeptAndMadeAnew(t *testing.T) {
	b, count := newBed(t, nil), 0
	b.node("a", 8, 0)
	b.node("b", 8, 0)
	model := func(id uint8) { b.step(&Event{Kind: EvModel, Predictor: columnist{t: t, id: id, count: &count}}) }
	say := func(class uint8, mbps float64) {
		hb := b.report("a", 8, 0)
		hb.Class, hb.LinkMbps, hb.SeenSeq = class, mbps, 1<<40
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	}
	another := func() { // takes the place of b, which was lost long ago
		b.after(time.Hour)
		b.step(&Event{Kind: EvTick})
		say(3, 7)
		b.after(time.Hour)
		b.step(&Event{Kind: EvTick})
		b.node("c", 8, 0)
		if c := b.z.byName["c"]; c == nil || len(b.z.nodes) != 2 {
			t.Fatalf("%d places", len(b.z.nodes))
		}
	}
	calls := 0
	for i, step := range []struct {
		change func()
		made   int
	}{{func() { model(1) }, 2}, {func() {}, 2}, {func() { model(2) }, 4}, {func() { say(3, 0) }, 5}, {func() { say(3, 7) }, 6}, {func() { say(3, 7) }, 6}, {another, 7}} {
		step.change()
		calls++
		b.invoke(strings.Repeat("i", calls), "f")
		if count != step.made {
			t.Errorf("step %d: columns made %d times, want %d", i, count, step.made)
		}
	}
}

// Of calls that fall back on the same slot, the one that must start first chooses first when it is lost, whichever came first.
func TestEarliestStartHasTheFirstClaim(t *testing.T) {
	b := newBed(t, nil)
	off, _ := b.z.Function("t/f")
	off.Name, off.DelayOff = "off", true
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{off}})
	b.node("warm", 1, 1)
	b.node("cold", 1, 0)
	b.invoke("i1", "f")
	b.ran("i1", "warm")
	within := func(d time.Duration) func(*api.Invocation) {
		return func(inv *api.Invocation) { inv.BudgetMs = d.Milliseconds() }
	}
	b.invoke("any time", "f")
	b.invoke("later", "deadline", within(4*time.Second))
	b.invoke("sooner", "deadline", within(3*time.Second))
	b.invoke("takes it", "off")
	b.ran("takes it", "cold")
	var order []string
	for _, a := range b.acts {
		if a.Kind == ActWake && a.ID != "takes it" {
			order = append(order, a.ID)
		}
	}
	if want := []string{"sooner", "later", "any time"}; !slices.Equal(order, want) {
		t.Errorf("they decide anew in the order %v, want %v", order, want)
	}
}

// The margin before a deadline is what all but one in a hundred of the last dispatches needed.
func TestTail(t *testing.T) {
	var l tail
	for range 3 {
		l.add(5)
	}
	if l.v != 5 {
		t.Errorf("of three: %v", l.v)
	}
	l.add(math.NaN())
	for i := range 2000 {
		l.add(float64(i%100) + 1)
	}
	if l.v < 98 || l.v > 100 {
		t.Errorf("99th percentile of 1-100: %v", l.v)
	}
	for range 300 {
		l.add(1)
	}
	if l.v != 1 {
		t.Errorf("what is long past still counts: %v", l.v)
	}
}

// Where reports are late by seconds, a start that is older than starts take has ended, though the zone has not heard of it.
func TestStartsThatMustHaveEnded(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 4, 0)
	b.invoke("i1", "f")
	b.ran("i1", "a")
	f := b.z.fns["t/f"]
	b.z.linkMs = ewma{w: .05, v: 20_000, n: 100}
	b.after(3 * time.Second)
	if got := b.z.startUnderWayMs(b.now, f, api.SandboxNone); got == 0 {
		t.Error("nothing is known of its starts: this one may still go on")
	}
	f.freshMs.add(1000)
	if got := b.z.startUnderWayMs(b.now, f, api.SandboxNone); got != 0 {
		t.Errorf("it began 3 s ago, starts take one second: %v ms", got)
	}
	b.now = b.now.Add(-2 * time.Second)
	if got := b.z.startUnderWayMs(b.now, f, api.SandboxNone); got == 0 {
		t.Error("it began a second ago")
	}
	if got := b.z.startUnderWayMs(b.now, f, api.SandboxFetched); got == 0 {
		t.Error("on its own node, where the artifact is by now, another start is no quicker")
	}
	if got := b.z.startUnderWayMs(b.now, f, api.SandboxPrepared); got != 0 {
		t.Errorf("it began from nothing, and says nothing of a start from what is prepared: %v ms", got)
	}
}

// What a failed call took says nothing of the way to its node: the node leaves out the part that failed.
func TestFailedStartsAreNotTheLinks(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	link := b.z.linkMs.v
	b.invoke("i1", "f")
	b.after(2 * time.Second)
	b.done("i1", "a", func(c *wire.Completion) { c.Outcome, c.Code, c.RunMs = api.OutcomeFunctionError, api.CodeFunction, 0 })
	b.answered("i1", api.CodeFunction)
	if b.z.linkMs.v != link {
		t.Errorf("the way to a node takes %v ms, %v before a start failed after 2 s", b.z.linkMs.v, link)
	}
}

// Nor does what a forwarded call took that failed say anything of the way to the other zone.
func TestFailedForwardsAreNotTheWay(t *testing.T) {
	b := outgrown(t)
	b.invoke("i2", "f")
	rtt := b.z.grantsIn["core"].rtt
	b.after(5 * time.Second)
	b.step(&Event{Kind: EvForwardDone, ID: "i2", Answer: &wire.Answer{ID: "i2", Code: api.CodeUnavailable, Timing: wire.Timing{Zone: "core"}}})
	b.answered("i2", api.CodeUnavailable)
	if got := b.z.grantsIn["core"].rtt; got != rtt {
		t.Errorf("the way to core is %+v, %+v before a call failed there after 5 s", got, rtt)
	}
}

// A node that is too small for a function is nothing to hope for, though it has the input and will be free.
func TestNodesThatAreTooSmallAreNoHope(t *testing.T) {
	b := newBed(t, nil)
	f, _ := b.z.Function("t/f")
	f.Name, f.MemoryMB = "big", 1500
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{f}})
	in := api.ObjectOf("t", "big", 64<<20, strings.Repeat("d", 64))
	b.node("small", 2, 1, in)
	b.invoke("i1", "f", func(i *api.Invocation) { i.Inputs = []api.Object{in} })
	b.ran("i1", "small")
	hb := b.report("large", 2, 0)
	hb.MemMB = 4000
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	b.invoke("i2", "big", func(i *api.Invocation) { i.Inputs = []api.Object{in} })
	b.ran("i2", "large")
}

// In a full zone a call under fixed delay goes to a freed slot that has nothing of it once it has waited for the levels that there
// are, and not before.
func TestFixedDelayWaitsForTheLevelsThatThereAre(t *testing.T) {
	for name, c := range map[string]struct {
		warm  int // sandboxes on the other node, which stays full
		after time.Duration
		want  string
	}{
		"nothing anywhere":  {0, time.Millisecond, "cold"},
		"warm, too early":   {1, 150 * time.Millisecond, ""},
		"warm, long enough": {1, 250 * time.Millisecond, "cold"},
	} {
		b := newBed(t, func(c *Config) { c.Policy = "fixed-delay" })
		f, _ := b.z.Function("t/f")
		g, h := f, f
		g.Name, h.Name = "g", "h"
		b.step(&Event{Kind: EvFunctions, Functions: []api.Function{g, h}})
		b.node("cold", 1, 0)
		b.invoke("g1", "g")
		b.ran("g1", "cold")
		b.node("other", 1, c.warm)
		if c.warm > 0 {
			b.invoke("f1", "f")
			b.ran("f1", "other")
		} else {
			b.invoke("h1", "h")
			b.ran("h1", "other")
		}
		b.invoke("f2", "f")
		b.ran("f2", "")
		b.after(c.after)
		b.done("g1", "cold", func(c *wire.Completion) { c.MemUsedMB, c.Sandboxes = 0, nil })
		if a := find(b.acts, ActRun, "f2"); a == nil && c.want != "" || a != nil && a.Node != c.want {
			t.Errorf("%s: %v, want f2 on %q", name, text(b.acts), c.want)
		}
	}
}

// What others choose costs their own calls alone: what a call of theirs hopes for is without Rubato's prices.
func TestOthersHopeWithoutPrices(t *testing.T) {
	for rule, want := range map[string]bool{"rubato": true, "metronome": false} {
		b := newBed(t, func(c *Config) { c.Policy = rule })
		b.priced("a", 1, 1000)
		b.weighted(api.Objective{PriceWeight: 1e6})
		b.invoke("i1", "w")
		b.invoke("i2", "w")
		c := b.z.calls["i2"]
		if priced := c.finishAt.Sub(b.now) > 2*time.Second; priced != want {
			t.Errorf("%s: the call hopes to have ended in %v, with prices: %v, want %v", rule, c.finishAt.Sub(b.now), priced, want)
		}
	}
}

// A zone that was far once, since a link was full, is believed to be so for ten seconds, and is near again after ten more.
func TestAFarZoneIsTriedAgain(t *testing.T) {
	b := outgrown(t)
	b.invoke("i2", "f")
	b.after(20 * time.Second)
	b.step(&Event{Kind: EvForwardDone, ID: "i2", Answer: &wire.Answer{ID: "i2", Timing: wire.Timing{Zone: "core", RunMs: 10}}})
	b.answered("i2", api.CodeOK)
	far := b.z.grantsIn["core"].rtt.v
	if far < 10_000 {
		t.Fatalf("the way takes %v ms, a call that ran for 10 ms there 20 s", far)
	}
	for i := range 80 { // four a second
		b.after(250 * time.Millisecond)
		b.step(&Event{Kind: EvGrant, Grant: &wire.Grant{From: "core", To: "z", ID: uint64(100 + i), Epoch: api.Epoch{Generation: 1, Revision: 9}, Slots: 1, TTLMs: 1000}})
		if rtt := b.z.grantsIn["core"].rtt.v; i < 36 && rtt != far {
			t.Fatalf("after %d grants the way takes %v ms, %v when it was measured", i, rtt, far)
		}
	}
	if rtt := b.z.grantsIn["core"].rtt.v; rtt > far/20 {
		t.Errorf("twenty seconds later the way still takes %v ms of %v", rtt, far)
	}
	// What is measured then counts in full, as the first measurement does.
	measuresTheWay(b, "i3")
}

// measuresTheWay has a call be forwarded that comes back after 300 ms, 10 of which it ran, and asserts that the way is taken to be the rest.
func measuresTheWay(b *bed, id string) {
	b.t.Helper()
	b.invoke(id, "f")
	if find(b.acts, ActForward, id) == nil {
		b.t.Fatalf("it was not forwarded: %v", text(b.acts))
	}
	b.after(300 * time.Millisecond)
	b.step(&Event{Kind: EvForwardDone, ID: id, Answer: &wire.Answer{ID: id, Timing: wire.Timing{Zone: "core", RunMs: 10}}})
	if rtt := b.z.grantsIn["core"].rtt.v; rtt < 280 || rtt > 300 {
		b.t.Errorf("the way takes %v ms: want the 290 that were measured", rtt)
	}
}

// A zone that was never measured is as far as is configured, however long, and its first measurement counts in full.
func TestTheFirstMeasurementOfAWayCountsInFull(t *testing.T) {
	b := outgrown(t)
	before := b.z.grantsIn["core"].rtt.v
	for i := range 100 {
		b.after(250 * time.Millisecond)
		b.step(&Event{Kind: EvGrant, Grant: &wire.Grant{From: "core", To: "z", ID: uint64(100 + i), Epoch: api.Epoch{Generation: 1, Revision: 9}, Slots: 1, TTLMs: 1000}})
	}
	if rtt := b.z.grantsIn["core"].rtt.v; rtt != before {
		t.Errorf("without a measurement the way became %v ms from %v", rtt, before)
	}
	measuresTheWay(b, "i2")
}

// A scheduler that becomes the leader does not send calls to nodes that fell silent while another one led.
func TestANewLeaderKnowsWhoIsGone(t *testing.T) {
	for _, ticks := range []bool{false, true} {
		b := newBed(t, nil)
		b.z.epoch = api.Epoch{} // a standby
		b.node("gone", 4, 2)
		b.after(b.z.cfg.NodeTimeout + time.Second)
		b.node("here", 4, 0)
		if ticks {
			b.step(&Event{Kind: EvTick})
			if b.z.byName["gone"].live {
				t.Error("a standby takes a silent node for one that lives")
			}
			for _, a := range b.acts {
				if a.Kind != ActNodeLost {
					t.Errorf("a standby acts: %v", text(b.acts))
				}
			}
		}
		b.step(&Event{Kind: EvLead, Epoch: api.Epoch{Generation: 1, Revision: 6}})
		b.invoke("i1", "f")
		b.ran("i1", "here")
	}
}

// A restart of the only node, quicker than it could be missed, does not make it begin slowly.
func TestTheOnlyNodeIsNotSlowedByItsOwnPast(t *testing.T) {
	for _, other := range []bool{false, true} {
		b := newBed(t, nil)
		beat := func(name string, boot uint64, up time.Duration) {
			hb := b.report(name, 4, 0)
			hb.Boot, hb.UptimeMs = boot, up.Milliseconds()
			b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
		}
		beat("a", 1, time.Hour)
		if other {
			beat("b", 1, time.Hour)
		}
		b.step(&Event{Kind: EvTick})
		b.after(time.Second)
		beat("a", 2, 100*time.Millisecond)
		if n := b.z.byName["a"]; n.slow != other {
			t.Errorf("beside another old node %t: slow %t, %d slots", other, n.slow, n.slots)
		}
	}
}

// Many old calls that no node can take do not keep others from deciding anew about a slot beside which they wait.
func TestCallsThatFitNowhereDoNotHideOthers(t *testing.T) {
	b := newBed(t, func(c *Config) { c.MaxWaiting = 10000 })
	b.node("a", 1, 1)
	gpu, _ := b.z.Function("t/f")
	gpu.Name, gpu.Needs = "gpu", api.Labels{Accelerator: "gpu"}
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{gpu}})
	hb := b.report("g", 1, 0)
	hb.Labels = api.Labels{Accelerator: "gpu"}
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	b.invoke("first", "f")
	for i := range redoScan + 10 {
		b.invoke(fmt.Sprint("g", i), "gpu")
	}
	b.invoke("i", "f")
	if w := b.z.calls["i"]; w.state != callWaiting {
		t.Fatalf("it does not wait: %v", text(b.acts))
	}
	// A node without its sandbox frees a slot that it would not take for what it hopes for; that has passed.
	b.after(500 * time.Millisecond)
	hb = b.report("c", 1, 0)
	before := b.z.ring.at(b.z.calls["i"].rec).Decisions
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	if c := b.z.calls["i"]; c.state == callWaiting && b.z.ring.at(c.rec).Decisions == before {
		t.Error("a slot stood free, and the call that could use it was not asked")
	}
}

// A call that no node can take ends when it has waited for as long as anything waits.
func TestWaitingEndsInTime(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.invoke("first", "f")
	b.invoke("i", "f")
	for a := find(b.acts, ActWake, "i"); a != nil; a = find(b.acts, ActWake, "i") {
		if a.At.Sub(t0) > maxWait+2*time.Millisecond {
			t.Fatalf("it looks again after %v, longer than anything waits", a.At.Sub(t0))
		}
		wake := &Event{Kind: EvWake, ID: "i", Gen: a.Gen}
		b.now = a.At
		b.node("a", 1, 0) // it lives, and is busy
		b.step(wake)
	}
	if a := find(b.acts, ActAnswer, "i"); a == nil {
		t.Errorf("it was not answered: %v", text(b.acts))
	}
}

// A call that another zone gave to this one stays here, whatever third zones have room for: it would go round.
func TestAForwardedCallIsNotGivenOn(t *testing.T) {
	for _, guest := range []bool{false, true} {
		b := newBed(t, nil)
		b.node("a", 1, 1)
		b.step(&Event{Kind: EvShares, Shares: []api.Share{{From: "y", To: "z", Permille: 1000}}})
		b.step(&Event{Kind: EvTick})
		g := find(b.acts, ActGrant, "")
		if g == nil || g.To != "y" {
			t.Fatalf("nothing was granted: %v", text(b.acts))
		}
		b.invoke("own", "deadline") // takes what was granted
		b.ran("own", "a")
		b.after(3 * time.Second) // and longer than it should
		b.node("a", 1, 0)
		b.step(&Event{Kind: EvGrant, Grant: &wire.Grant{ID: 1, From: "x", To: "z", Epoch: api.Epoch{Revision: 1}, Slots: 4, TTLMs: 60000, MeanMs: 1}})
		b.z.given["y"].expires = b.now.Add(time.Minute)
		ev := &Event{Kind: EvArrive, Call: &api.Invocation{ID: "i", Tenant: "t", Function: "f"}}
		if guest {
			ev.Call.Forwarded, ev.GrantID, ev.GrantEpoch = "y", g.Grant.ID, b.z.Epoch()
		}
		b.step(ev)
		if forwarded := find(b.acts, ActForward, "i") != nil; forwarded == guest || guest && b.z.calls["i"] == nil {
			t.Errorf("from another zone %t: %v", guest, text(b.acts))
		}
	}
}

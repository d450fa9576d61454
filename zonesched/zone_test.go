package zonesched

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// times is a predictor that knows: 10 ms warm, 1,000 ms otherwise, 100 ms a missing megabyte.
type times struct{ upper float64 }

func (times) Version() uint64 { return 7 }

func (times) Columns(*api.Candidate, *api.NodeColumns) {}

func (p times) Estimate(_ *api.Request, cands []api.Candidate, out []api.Estimate) {
	for i := range cands {
		ms := 10.0
		if cands[i].Sandbox != api.SandboxWarm {
			ms = 1000
		}
		ms += float64(cands[i].MissingBytes) / (1 << 20) * 100
		out[i] = api.Estimate{Mu: math.Log(ms), Sigma: .1, UpperMs: ms * p.upper, Source: api.SourceForest}
	}
}

var t0 = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// bed drives a zone and keeps what it wants done.
type bed struct {
	t    *testing.T
	z    *Zone
	now  time.Time
	acts []Action
	boot map[string]uint64
}

func newBed(t *testing.T, change func(*Config)) *bed {
	cfg := DefaultConfig()
	cfg.Zone, cfg.PolicyConfig.Explore = "z", 0
	if change != nil {
		change(&cfg)
	}
	z, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, z: z, now: t0, boot: map[string]uint64{}}
	f := api.Function{Tenant: "t", Name: "f", Version: 1, Runtime: api.RuntimeProcess, Artifact: strings.Repeat("a", 64), ArtifactBytes: 1, MemoryMB: 100, Timeout: 10 * time.Second}
	slow := f
	slow.Name, slow.Objective.Deadline = "deadline", 5*time.Second
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{f, slow}})
	b.step(&Event{Kind: EvLead, Epoch: api.Epoch{Generation: 1, Revision: 5}})
	b.step(&Event{Kind: EvModel, Predictor: times{1.5}})
	return b
}

func (b *bed) step(ev *Event) []Action {
	b.acts = b.z.Step(b.now, ev, nil)
	return b.acts
}

// node reports a node with slots and warm sandboxes of f.
func (b *bed) node(name string, slots, warm int, objects ...api.Object) []Action {
	return b.step(&Event{Kind: EvHeartbeat, Heartbeat: b.report(name, slots, warm, objects...)})
}

func (b *bed) report(name string, slots, warm int, objects ...api.Object) *wire.Heartbeat {
	b.boot[name]++
	hb := &wire.Heartbeat{Zone: "z", Node: name, Boot: 1, Epoch: b.z.Epoch(), Slots: slots, MemMB: 1000, MemUsedMB: warm * 100, Objects: objects}
	if warm > 0 {
		hb.Sandboxes = []wire.SandboxReport{{Function: "t/f@1", State: api.SandboxPrepared, Idle: warm, MemoryMB: 100}, {Function: "t/deadline@1", State: api.SandboxPrepared, Idle: warm, MemoryMB: 100}}
	}
	return hb
}

func (b *bed) invoke(id, fn string, change ...func(*api.Invocation)) []Action {
	inv := &api.Invocation{ID: id, Tenant: "t", Function: fn}
	for _, c := range change {
		c(inv)
	}
	return b.step(&Event{Kind: EvArrive, Call: inv})
}

// done completes a call on a node.
func (b *bed) done(id, node string, change ...func(*wire.Completion)) []Action {
	c := &wire.Completion{Node: node, Boot: 1, ID: id, Epoch: b.z.Epoch(), RunMs: 10, Start: api.SandboxWarm, MemUsedMB: 200,
		Sandboxes: []wire.SandboxReport{{Function: "t/f@1", State: api.SandboxPrepared, Idle: 1, MemoryMB: 100}, {Function: "t/deadline@1", State: api.SandboxPrepared, Idle: 1, MemoryMB: 100}}}
	for _, f := range change {
		f(c)
	}
	return b.step(&Event{Kind: EvCompletion, Completion: c})
}

func (b *bed) after(d time.Duration) { b.now = b.now.Add(d) }

func find(acts []Action, kind ActionKind, id string) *Action {
	for i := range acts {
		if acts[i].Kind == kind && (id == "" || acts[i].ID == id) {
			return &acts[i]
		}
	}
	return nil
}

// ran asserts that the last step dispatched id to node ("" for none).
func (b *bed) ran(id, node string) {
	b.t.Helper()
	a := find(b.acts, ActRun, id)
	switch {
	case a == nil && node != "":
		b.t.Fatalf("%s was not dispatched: %v", id, text(b.acts))
	case a != nil && a.Node != node:
		b.t.Fatalf("%s went to %q, want %q", id, a.Node, node)
	}
}

func (b *bed) answered(id string, code api.Code) *wire.Answer {
	b.t.Helper()
	a := find(b.acts, ActAnswer, id)
	if a == nil || a.Answer.Code != code {
		b.t.Fatalf("%s: want an answer %q, got %v", id, code, text(b.acts))
	}
	return a.Answer
}

func text(acts []Action) string {
	var s []string
	for i := range acts {
		s = append(s, acts[i].String())
	}
	return strings.Join(s, "; ")
}

func TestRunsOnTheWarmNode(t *testing.T) {
	b := newBed(t, nil)
	b.node("cold", 1, 0)
	b.node("warm", 1, 1)
	b.invoke("i1", "f")
	b.ran("i1", "warm")
	b.done("i1", "warm")
	a := b.answered("i1", api.CodeOK)
	if a.Timing.Node != "warm" || a.Timing.Decision != api.DecisionRun {
		t.Fatalf("answer %+v", a)
	}
	if find(b.acts, ActAck, "i1") == nil {
		t.Fatal("the completion was not acknowledged")
	}
}

func TestDelaysForTheWarmNodeAndTakesItsFreedSlot(t *testing.T) {
	b := newBed(t, nil)
	b.node("cold", 1, 0)
	b.node("warm", 1, 1)
	b.invoke("i1", "f")
	b.ran("i1", "warm")
	b.invoke("i2", "f")
	b.ran("i2", "")
	if d, ok := b.z.Decision("i2"); !ok || d.Kind != "delayed" || !strings.Contains(d.Explain(), "It was held back") {
		t.Fatalf("decision %+v", d)
	}
	b.after(8 * time.Millisecond)
	b.done("i1", "warm")
	b.ran("i2", "warm")
	b.after(10 * time.Millisecond)
	b.done("i2", "warm")
	a := b.answered("i2", api.CodeOK)
	if a.Timing.DelayMs < 7 || a.Timing.QueueMs != 0 || a.Timing.Decision != api.DecisionDelayed {
		t.Fatalf("timing %+v", a.Timing)
	}
}

func TestDelayIsBoundedFromArrivalAndNeverReset(t *testing.T) {
	b := newBed(t, nil)
	b.node("cold", 1, 0)
	b.node("warm", 1, 1)
	b.invoke("i1", "f")
	b.invoke("i2", "f")
	for i := 0; b.now.Sub(t0) < 5*time.Second; i++ {
		w := find(b.acts, ActWake, "i2")
		if w == nil {
			t.Fatalf("no wake after %v: %v", b.now.Sub(t0), text(b.acts))
		}
		b.now = w.At
		b.node("cold", 1, 0) // alive
		b.node("warm", 1, 1)
		if b.step(&Event{Kind: EvWake, ID: "i2", Gen: w.Gen}); find(b.acts, ActRun, "i2") != nil {
			break
		}
	}
	b.ran("i2", "cold")
	if waited := b.now.Sub(t0); waited > 2*time.Second {
		t.Fatalf("held back for %v, DelayMax is 2 s", waited)
	}
}

func TestUntrainedFunctionNeverWaitsUnderADeadline(t *testing.T) {
	b := newBed(t, nil)
	b.step(&Event{Kind: EvModel, Predictor: times{math.Inf(1)}})
	b.node("cold", 1, 0)
	b.node("warm", 1, 1)
	b.invoke("i1", "deadline")
	b.invoke("i2", "deadline")
	b.ran("i2", "cold")
}

func TestNoFreeSlotQueuesAndBindsLate(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.node("b", 1, 1)
	b.invoke("i1", "f")
	b.invoke("i2", "f")
	other := "b"
	if find(b.acts, ActRun, "i2").Node == "b" {
		other = "a"
	}
	b.invoke("i3", "f")
	b.ran("i3", "")
	b.after(5 * time.Millisecond)
	b.done("i1", other)
	b.ran("i3", other)
	b.done("i3", other)
	if a := b.answered("i3", api.CodeOK); a.Timing.QueueMs < 4 || a.Timing.DelayMs != 0 || a.Timing.Decision != api.DecisionQueued {
		t.Fatalf("timing %+v", a.Timing)
	}
}

func TestDataLocality(t *testing.T) {
	b := newBed(t, nil)
	in := api.ObjectOf("t", "big", 8<<20, strings.Repeat("d", 64))
	b.node("near", 1, 1, in)
	b.node("far", 1, 1)
	b.invoke("i1", "f", func(i *api.Invocation) { i.Inputs = []api.Object{in} })
	b.ran("i1", "near")
	b.done("i1", "near", func(c *wire.Completion) { c.Evicted = []string{in.Key} })
	b.node("third", 1, 1, in)
	b.invoke("i2", "f", func(i *api.Invocation) { i.Inputs = []api.Object{in} })
	b.ran("i2", "third")
}

func TestRefusalIsDecidedAgain(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.invoke("i1", "f")
	b.node("b", 1, 1)
	b.done("i1", "a", func(c *wire.Completion) {
		c.Outcome, c.Code, c.RunMs, c.Sandboxes = api.OutcomeRefused, api.CodeOverloaded, 0, nil
	})
	b.ran("i1", "b")
	fenced := func(attempt uint8, by api.Epoch) func(c *wire.Completion) {
		return func(c *wire.Completion) {
			c.Attempt, c.Outcome, c.Code, c.RunMs, c.Epoch = attempt, api.OutcomeRefused, api.CodeFenced, 0, by
		}
	}
	b.after(time.Second)
	b.node("a", 1, 1)
	b.node("b", 1, 1)
	// The dispatch was under way when this leader took a new epoch.
	b.done("i1", "b", fenced(1, b.z.Epoch()))
	on := b.z.calls["i1"].node.name
	higher := b.z.Epoch()
	higher.Revision++
	b.done("i1", on, fenced(2, higher))
	if a := b.answered("i1", api.CodeUnavailable); !a.Refused {
		t.Fatalf("it never ran, and its door may bring it elsewhere: %+v", a)
	}
	if f := find(b.acts, ActFenced, ""); f == nil || f.Epoch != higher {
		t.Fatalf("a higher epoch was not told: %v", text(b.acts))
	}
}

// A leader that takes a higher epoch keeps its calls and its view of the nodes.
func TestLeadsOnUnderAHigherEpoch(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.invoke("runs", "f")
	b.invoke("waits", "f")
	e := b.z.Epoch()
	e.Revision += 5
	b.step(&Event{Kind: EvLead, Epoch: e})
	if find(b.acts, ActHello, "") == nil || b.z.Epoch() != e {
		t.Fatalf("epoch %v: %v", b.z.Epoch(), text(b.acts))
	}
	// The node counts dispatches anew, and its report counts at once.
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: &wire.Heartbeat{
		Zone: "z", Node: "a", Boot: 1, Epoch: e, Slots: 1, MemMB: 1000, MemUsedMB: 77, Running: []wire.RunningReport{{ID: "runs", Function: "t/f@1"}},
	}})
	if n := b.z.byName["a"]; n.memUsed != 77 || len(n.running) != 1 {
		t.Fatalf("%d MB, %d calls on the node", n.memUsed, len(n.running))
	}
	b.done("runs", "a")
	b.answered("runs", api.CodeOK)
	if r := find(b.acts, ActRun, "waits"); r == nil || r.Run.Epoch != e || r.Run.Seq != 1 {
		t.Fatalf("dispatched as %v", text(b.acts))
	}
}

// What an earlier epoch has sent was seen before all that is counted under the new one.
func TestDispatchesOfAnEarlierEpochWereSeen(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 2, 2)
	b.invoke("old", "f")
	b.ran("old", "a")
	e := b.z.Epoch()
	e.Revision++
	b.step(&Event{Kind: EvLead, Epoch: e})
	b.invoke("new", "f")
	b.ran("new", "a")
	b.done("new", "a", func(c *wire.Completion) {
		c.Epoch, c.SeenSeq, c.MemUsedMB = e, 1, 200
		c.Sandboxes = []wire.SandboxReport{{Function: "t/f@1", State: api.SandboxPrepared, Idle: 1, Busy: 1, MemoryMB: 100}}
	})
	n := b.z.byName["a"]
	if s := n.sandbox(b.z.fns["t/f"].h); s.idle != 1 || s.busy != 1 || n.memUsed != 200 {
		t.Errorf("%d idle, %d busy, %d MB: want what the node said, 1, 1 and 200", s.idle, s.busy, n.memUsed)
	}
}

func TestReportOfAHigherEpochFences(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	if find(b.acts, ActFenced, "") != nil {
		t.Fatal("fenced by the own epoch")
	}
	e := b.z.Epoch()
	e.Generation++
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: &wire.Heartbeat{Zone: "z", Node: "a", Boot: 1, Epoch: e, Slots: 1, MemMB: 1000}})
	if f := find(b.acts, ActFenced, ""); f == nil || f.Epoch != e {
		t.Fatalf("not told: %v", text(b.acts))
	}
}

func TestLostNode(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 2, 2)
	b.invoke("sync", "f")
	b.invoke("async", "f", func(i *api.Invocation) { i.Async = true })
	b.after(2 * time.Second)
	b.node("b", 2, 2)
	b.after(1500 * time.Millisecond) // a has been silent for 3.5 s
	b.step(&Event{Kind: EvTick})
	b.answered("sync", api.CodeUnavailable)
	b.ran("async", "b")
	if find(b.acts, ActNodeLost, "") == nil {
		t.Fatal("the loss is not told")
	}
}

func TestCancelReachesTheNode(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.invoke("i1", "f")
	b.invoke("i2", "f")
	b.step(&Event{Kind: EvCancel, ID: "i2", Reason: "gone"})
	b.answered("i2", api.CodeCanceled)
	b.step(&Event{Kind: EvCancel, ID: "i1", Reason: "gone"})
	b.answered("i1", api.CodeCanceled)
	if a := find(b.acts, ActCancelRun, "i1"); a == nil || a.Node != "a" {
		t.Fatal("the node was not told")
	}
	if b.z.nodes[0].free() != 0 {
		t.Fatal("the slot counts as free before the node has said so")
	}
	b.done("i1", "a", func(c *wire.Completion) { c.Outcome = api.OutcomeCanceled })
	if b.z.nodes[0].free() != 1 || !b.z.Quiet() {
		t.Fatal("the slot was not given back")
	}
}

func TestDispatchWithoutAnAnswerTimesOut(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.invoke("i1", "f")
	w := find(b.acts, ActWake, "i1")
	b.now = w.At
	b.step(&Event{Kind: EvWake, ID: "i1", Gen: w.Gen})
	b.answered("i1", api.CodeDeadline)
}

func TestLimits(t *testing.T) {
	b := newBed(t, func(c *Config) { c.MaxWaiting = 2 })
	b.invoke("i0", "f")
	b.answered("i0", api.CodeUnavailable) // no node yet
	b.node("a", 1, 1)
	b.invoke("none", "nothing")
	b.answered("none", api.CodeNotFound)
	for i := range 3 {
		b.invoke(fmt.Sprint("i", i), "f")
	}
	b.invoke("i3", "f")
	if a := b.answered("i3", api.CodeOverloaded); a.RetryMs <= 0 || !a.Refused {
		t.Fatalf("refusal %+v", a)
	}
}

// outgrown is a zone with a long queue and a grant of one slot from core, to which the next call goes.
func outgrown(t *testing.T) *bed {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.invoke("i0", "f")
	b.done("i0", "a", func(c *wire.Completion) { c.RunMs = 1000 })
	b.invoke("i1", "f")
	for i := range 30 { // a long queue
		b.invoke(fmt.Sprint("q", i), "f")
	}
	b.step(&Event{Kind: EvGrant, Grant: &wire.Grant{ID: 3, From: "core", To: "z", Epoch: api.Epoch{Generation: 1, Revision: 9}, Slots: 1, TTLMs: 1000, MeanMs: 10}})
	b.step(&Event{Kind: EvModel, Predictor: nearby{}})
	return b
}

// A call that another zone works on is canceled there, too.
func TestCancelFollowsAForward(t *testing.T) {
	b := outgrown(t)
	b.invoke("i2", "f")
	const id = "i2"
	if find(b.acts, ActForward, id) == nil {
		t.Fatalf("not forwarded: %v", text(b.acts))
	}
	b.step(&Event{Kind: EvCancel, ID: id, Reason: "its caller left"})
	if a := find(b.acts, ActCancelForward, id); a == nil || a.To != "core" {
		t.Fatalf("the other zone is not told: %v", text(b.acts))
	}
	b.answered(id, api.CodeCanceled)
	b.step(&Event{Kind: EvForwardDone, ID: id, Answer: &wire.Answer{ID: id, Code: api.CodeCanceled}})
	if find(b.acts, ActAnswer, id) != nil {
		t.Fatal("answered twice")
	}
}

func TestForwardsUnderAGrantOnceOnly(t *testing.T) {
	b := outgrown(t)
	b.invoke("i2", "f")
	a := find(b.acts, ActForward, "i2")
	if a == nil || a.To != "core" || a.GrantID != 3 || a.Call.Forwarded != "z" {
		t.Fatalf("not forwarded: %v", text(b.acts))
	}
	b.invoke("i3", "f")
	if find(b.acts, ActForward, "i3") != nil {
		t.Fatal("a grant of one slot was used twice")
	}
	b.step(&Event{Kind: EvForwardDone, ID: "i2", Answer: &wire.Answer{ID: "i2", Refused: true, Code: api.CodeOverloaded}})
	if find(b.acts, ActForward, "i2") != nil || find(b.acts, ActAnswer, "i2") != nil {
		t.Fatalf("a refused forward must wait here: %v", text(b.acts))
	}
	// The other side: a call from elsewhere needs a grant of this zone.
	b.invoke("x1", "f", func(i *api.Invocation) { i.Forwarded = "edge" })
	if an := b.answered("x1", api.CodeOverloaded); !an.Refused {
		t.Fatal("a call without a grant was taken")
	}
}

// nearby says that everything takes a second here and in other zones.
type nearby struct{ times }

func (nearby) Estimate(_ *api.Request, cands []api.Candidate, out []api.Estimate) {
	for i := range cands {
		out[i] = api.Estimate{Mu: math.Log(1000), Sigma: .1, UpperMs: 1500, Source: api.SourceForest}
	}
}

func TestGrantsStayWithinWhatIsFree(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 3, 0)
	b.invoke("i1", "f")
	b.step(&Event{Kind: EvShares, Shares: []api.Share{{Class: "*", From: "x", To: "z", Permille: 700}, {Class: "*", From: "y", To: "z", Permille: 700}}})
	b.step(&Event{Kind: EvTick})
	sum := 0
	for _, a := range b.acts {
		if a.Kind == ActGrant {
			sum += a.Grant.Slots
		}
	}
	if sum == 0 || sum > 2 {
		t.Fatalf("granted %d slots of 2 free ones", sum)
	}
}

func TestConditionalMedian(t *testing.T) {
	// Of a log-normal with median 100 ms, half the calls that have just begun need 100 ms more.
	if r := remaining(0, math.Log(100), .5); math.Abs(r-100) > 1e-9 {
		t.Fatalf("remaining at the start: %v", r)
	}
	for last, e := 101.0, 1.0; e < 100; e += 10 {
		r := remaining(e, math.Log(100), .2)
		if r >= last {
			t.Fatalf("after %v ms it needs %v ms, not less than before", e, r)
		}
		last = r
	}
	if r := remaining(1000, math.Log(100), .2); r < 1 {
		t.Fatalf("a call far beyond expectations needs %v ms", r)
	}
}

func BenchmarkArrival(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t := &testing.T{}
			bed := newBed(t, nil)
			for i := range n {
				bed.node(fmt.Sprint("n", i), 4, i%2)
			}
			inv := &api.Invocation{ID: "i", Tenant: "t", Function: "f"}
			var out []Action
			b.ReportAllocs()
			for b.Loop() {
				inv.Attempt = 0
				out = bed.z.Step(bed.now, &Event{Kind: EvArrive, Call: inv}, out[:0])
				node := find(out, ActRun, "i").Node
				out = bed.z.Step(bed.now, &Event{Kind: EvCompletion, Completion: &wire.Completion{Node: node, Boot: 1, ID: "i", RunMs: 1, Start: api.SandboxWarm}}, out[:0])
			}
		})
	}
}

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
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// full fills a node of one slot and lets calls wait behind it: fn names them.
func full(b *bed, calls int, invoke func(i int)) {
	b.node("a", 1, 1)
	b.invoke("first", "f")
	b.ran("first", "a")
	for i := range calls {
		b.after(time.Millisecond)
		invoke(i)
	}
}

// next ends what runs and returns who got the slot.
func next(b *bed, running string) string {
	b.t.Helper()
	b.after(10 * time.Millisecond)
	b.done(running, "a")
	a := find(b.acts, ActRun, "")
	if a == nil {
		b.t.Fatalf("nobody took the slot of %s: %v", running, text(b.acts))
	}
	return a.ID
}

func TestClassesHaveTheirTurn(t *testing.T) {
	b := newBed(t, nil)
	prio := []uint8{2, 5, 9}
	full(b, 60, func(i int) {
		b.invoke(fmt.Sprintf("p%d-%02d", prio[i%3], i), "f", func(inv *api.Invocation) { inv.Priority = prio[i%3] })
	})
	got := map[byte]int{}
	at := "first"
	for range 20 {
		at = next(b, at)
		got[at[1]]++
	}
	if got['9'] < 12 || got['5'] < 4 || got['2'] < 1 {
		t.Errorf("of 20 slots latency got %d, default %d, deferrable %d: want most, one in four, one in sixteen", got['9'], got['5'], got['2'])
	}
}

func TestTenantsFarBehindGoFirst(t *testing.T) {
	b := newBed(t, nil)
	other, _ := b.z.Function("t/f")
	other.Tenant = "u"
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{other}})
	b.z.tenant(b.now, "u")
	b.z.tenant(b.now, "t").used = 40 // slot-seconds
	full(b, 10, func(i int) {
		b.invoke(fmt.Sprintf("t%d", i), "f")
	})
	b.after(time.Second) // the calls of t have waited longer
	b.invoke("u", "f", func(inv *api.Invocation) { inv.Tenant = "u" })
	if at := next(b, "first"); at != "u" {
		t.Errorf("%s got the slot, want the tenant that had least", at)
	}
}

func TestSaturatedZoneServesMatchesFirstAndNobodyStarves(t *testing.T) {
	b := newBed(t, nil)
	cold, _ := b.z.Function("t/f")
	cold.Name = "g"
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{cold}})
	full(b, 40, func(i int) {
		name := "f"
		if i == 0 {
			name = "g" // the oldest; it would have to start cold
		}
		b.invoke(fmt.Sprintf("%s%02d", name, i), name)
	})
	at, slots := "first", 0
	for at = next(b, at); at != "g00"; at = next(b, at) {
		if slots++; slots > 39 {
			t.Fatal("the call without a match never got a slot")
		}
		b.invoke(fmt.Sprintf("more%02d", slots), "f")
		b.after(500 * time.Millisecond)
	}
	if waited := b.now.Sub(t0); waited < 4*policy.DefaultConfig().DelayMax {
		t.Errorf("the cold call went after %v: matches go first until it is old", waited)
	}
	if slots > 30 {
		t.Errorf("it took %d slots: the old have one in %d", slots, ageTurn)
	}
}

func TestBacklogIsBounded(t *testing.T) {
	b := newBed(t, func(c *Config) { c.MaxBacklog = 50 * time.Millisecond })
	b.node("a", 1, 1)
	b.invoke("first", "f")
	refused := 0
	for i := range 20 {
		id := fmt.Sprintf("i%02d", i)
		if b.invoke(id, "f"); find(b.acts, ActAnswer, id) != nil {
			b.answered(id, api.CodeOverloaded)
			refused++
		}
	}
	if waiting := 20 - refused; waiting < 4 || waiting > 7 {
		t.Errorf("%d calls of 10 ms wait for one slot, the bound is 50 ms", waiting)
	}
	at := "first"
	for b.z.Waiting() > 0 {
		at = next(b, at)
	}
	if b.z.backlogMs != 0 {
		t.Errorf("%v ms of backlog without a call that waits", b.z.backlogMs)
	}
	if b.invoke("again", "f"); find(b.acts, ActAnswer, "again") != nil {
		t.Error("refused though nothing waits")
	}
}

// A zone of many nodes finds the few that matter.
func TestCandidatesOfALargeZone(t *testing.T) {
	b := newBed(t, nil)
	for i := range 300 {
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: &wire.Heartbeat{Zone: "z", Node: fmt.Sprintf("n%03d", i), Boot: 1, Epoch: b.z.Epoch(), Slots: 1, MemMB: 1000}})
	}
	object := api.Object{Key: "t/o", Bytes: 8 << 20}
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: &wire.Heartbeat{Zone: "z", Node: "n123", Boot: 1, Epoch: b.z.Epoch(), Slots: 1, MemMB: 1000, Objects: []api.Object{object}}})
	b.node("n200", 1, 1)
	b.invoke("warm", "f")
	b.ran("warm", "n200")
	b.invoke("data", "deadline", func(inv *api.Invocation) { inv.Inputs = []api.Object{object} })
	b.ran("data", "n123")
	if len(b.z.cands) > b.z.cfg.Candidates {
		t.Errorf("%d candidates scored, limit %d", len(b.z.cands), b.z.cfg.Candidates)
	}
	if err := b.z.Check(); err != nil {
		t.Error(err)
	}
}

// A node that is found by one of a call's inputs is not asked for that one again; what it lacks of the others counts.
func TestMissingBytesInALargeZone(t *testing.T) {
	b := newBed(t, nil)
	one, two := api.Object{Key: "t/one", Bytes: 3 << 20}, api.Object{Key: "t/two", Bytes: 5 << 20}
	for i := range 200 {
		hb := &wire.Heartbeat{Zone: "z", Node: fmt.Sprintf("n%03d", i), Boot: 1, Epoch: b.z.Epoch(), Slots: 1, MemMB: 1000}
		hb.Objects = [][]api.Object{nil, {one}, {two}, {one, two}}[i%4]
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	}
	for _, inputs := range [][]api.Object{{one}, {one, two}, {two, one}, {one, one}, {one, two, one}, {two, {Key: "t/nowhere", Bytes: 1 << 20}}} {
		seen := map[int64]bool{}
		for range 10 {
			if _, _, ok := b.z.Consider(b.now, &api.Invocation{ID: "i", Tenant: "t", Function: "f", Inputs: inputs}); !ok {
				t.Fatal("the function is not known")
			}
			for _, k := range b.z.cands {
				seen[k.MissingBytes] = true
				if want := b.z.nodes[k.Node].missing(&b.z.considered, 0); k.MissingBytes != want {
					t.Errorf("inputs %v: node %s lacks %d bytes, taken for %d", inputs, b.z.nodes[k.Node].name, want, k.MissingBytes)
				}
			}
		}
		if len(seen) < 2 {
			t.Errorf("inputs %v: all candidates lack the same, %v", inputs, seen)
		}
	}
}

func TestRestOfARunningCall(t *testing.T) {
	for _, c := range []struct{ elapsed, mu, sigma, want float64 }{
		{0, 4, .5, 54.598}, // all of it
		{54.598, 4, .5, 21.90},
		{200, 4, .5, 24.351},
		{1, 4, .5, 53.598},
	} {
		got := remaining(c.elapsed, c.mu, c.sigma)
		if got < c.want*.99 || got > c.want*1.01 {
			t.Errorf("after %v ms of exp(N(%v, %v)): %.3f ms to go, want %.3f", c.elapsed, c.mu, c.sigma, got, c.want)
		}
	}
}

// While calls are held back for a warm node, a sandbox is brought up on the node that they fall back on; whichever is ready
// first takes them.
func TestPrewarmsWhileCallsWait(t *testing.T) {
	b := newBed(t, nil)
	b.node("warm", 2, 1)
	b.node("spare", 10, 0)
	b.z.fns["t/f"].coldMs.add(20)
	b.invoke("i1", "f")
	b.ran("i1", "warm")
	for i := 2; i < 5; i++ {
		b.invoke(fmt.Sprintf("i%d", i), "f")
		if find(b.acts, ActRun, fmt.Sprintf("i%d", i)) != nil {
			t.Fatalf("a call runs at once: %v", text(b.acts))
		}
	}
	var id string
	n := b.z.byName["spare"]
	for _, r := range n.running {
		if r.prewarm {
			id = r.id
		}
	}
	if id == "" || len(n.running) > 3 {
		t.Fatalf("%d sandboxes are brought up for three calls", len(n.running))
	}
	b.after(5 * time.Millisecond)
	b.step(&Event{Kind: EvCompletion, Completion: &wire.Completion{
		Node: "spare", Boot: 1, ID: id, Epoch: b.z.Epoch(), InitMs: 5, Outcome: api.OutcomeOK,
		Sandboxes: []wire.SandboxReport{{Function: "t/f@1", State: api.SandboxPrepared, Idle: 1, MemoryMB: 100}},
	}})
	if a := find(b.acts, ActRun, ""); a == nil || a.Node != "spare" || a.Run.Prewarm {
		t.Fatalf("nobody took the new sandbox: %v", text(b.acts))
	}
	if find(b.acts, ActSample, "") != nil {
		t.Error("a prewarming is no sample")
	}
	if c := b.z.Counters(); c.UnknownCompletions != 0 || c.Prewarmed == 0 {
		t.Errorf("counters %+v", c)
	}
	// One whose node says nothing more keeps its slot until the node does.
	for _, r := range n.running {
		if r.prewarm {
			b.step(&Event{Kind: EvWake, ID: r.id})
			if _, waited := b.z.prewarms[r.id]; !r.foreign || waited {
				t.Error("a prewarming without an answer is still waited for")
			}
		}
	}
	if err := b.z.Check(); err != nil {
		t.Error(err)
	}
}

// A wait of some ms is right by itself; once such waits have added up to what a sandbox costs, one is brought up, and the account
// begins anew.
func TestWaitsAddUpToASandbox(t *testing.T) {
	b := newBed(t, nil)
	b.node("warm", 1, 1)
	b.node("spare", 3, 0)
	f := b.z.fns["t/f"]
	f.coldMs.add(240) // half of the slots are busy with it and the call: a sixteenth of that, 15 ms, has to be paid
	for i, want := range []uint64{0, 0, 1} {
		first, second := fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i)
		b.invoke(first, "f")
		b.ran(first, "warm")
		b.invoke(second, "f")
		if find(b.acts, ActRun, second) != nil {
			t.Fatalf("it runs at once: %v", text(b.acts))
		}
		if got := b.z.Counters().Prewarmed; got != want {
			t.Fatalf("wait %d: %d sandboxes brought up, want %d; paid %v ms", i, got, want, f.rentMs)
		}
		b.after(10 * time.Millisecond)
		b.done(first, "warm")
		b.ran(second, "warm")
		b.done(second, "warm")
	}
	if f.rentMs != 10 { // of the last wait, which was held back when the sandbox was begun
		t.Errorf("%v ms are paid after a start", f.rentMs)
	}
}

// What a call had waited before a sandbox was begun has been paid for that one.
func TestWaitsBeforeASandboxPayForIt(t *testing.T) {
	b := newBed(t, nil)
	b.node("warm", 1, 1)
	b.node("spare", 3, 0)
	f := b.z.fns["t/f"]
	f.coldMs.add(200)
	b.invoke("a", "f")
	b.ran("a", "warm")
	b.invoke("early", "f")
	b.after(10 * time.Millisecond)
	f.rentMs = 1000
	b.invoke("late", "f")
	if got := b.z.Counters().Prewarmed; got != 1 {
		t.Fatalf("%d sandboxes brought up, want 1", got)
	}
	b.after(5 * time.Millisecond)
	b.done("a", "warm")
	b.ran("early", "warm")
	if f.rentMs != 5 {
		t.Errorf("%v ms are paid towards the next one: the call waited 15, 5 of them since the start", f.rentMs)
	}
}

// What calls have paid while slots were busy buys a sandbox beside one that runs warm, when that is cheaper.
func TestWhatWasPaidBuysLater(t *testing.T) {
	b := newBed(t, nil)
	b.node("warm", 2, 2)
	b.node("spare", 2, 0)
	f := b.z.fns["t/f"]
	f.coldMs.add(640) // half of the slots are busy with it and the call: a sixteenth of that, 40 ms, has to be paid
	f.rentMs = 41
	b.invoke("a", "f")
	b.ran("a", "warm")
	a := find(b.acts, ActRun, "prewarm-1-5-1")
	if a == nil || a.Node != "spare" || f.rentMs != 0 {
		t.Fatalf("no sandbox was brought up, %v ms are paid: %v", f.rentMs, text(b.acts))
	}
	f.rentMs = 1000
	b.invoke("b", "f")
	b.ran("b", "warm")
	if got := b.z.Counters().Prewarmed; got != 1 {
		t.Errorf("%d sandboxes are brought up, want one at a time", got)
	}
	if err := b.z.Check(); err != nil {
		t.Error(err)
	}
}

// Not where the function's starts failed a moment ago, and not in the last slot.
func TestWhatWasPaidBuysNothingHere(t *testing.T) {
	b := newBed(t, nil)
	b.node("warm", 2, 2)
	b.node("spare", 2, 0)
	f := b.z.fns["t/f"]
	f.coldMs.add(10)
	f.rentMs, f.warmAt = 1000, b.now.Add(time.Second)
	b.invoke("failed", "f")
	b.ran("failed", "warm")
	if got := b.z.Counters().Prewarmed; got != 0 {
		t.Errorf("%d sandboxes are brought up while starts fail", got)
	}
	b.after(2 * time.Second)
	b.invoke("again", "f")
	b.ran("again", "warm")
	if got := b.z.Counters().Prewarmed; got != 1 {
		t.Errorf("%d sandboxes are brought up after the pause, want 1", got)
	}
	last := newBed(t, nil)
	last.node("warm", 1, 1)
	last.node("spare", 1, 0)
	f = last.z.fns["t/f"]
	f.coldMs.add(10)
	f.rentMs = 1000
	last.invoke("a", "f")
	last.ran("a", "warm")
	if got := last.z.Counters().Prewarmed; got != 0 {
		t.Errorf("%d sandboxes are brought up in the last slot", got)
	}
}

// A wait for data is not one that another sandbox would have ended.
func TestWaitsForDataPayForNoSandbox(t *testing.T) {
	for _, held := range []bool{true, false} {
		book := api.Object{Key: "book", Bytes: 50_000_000}
		b := newBed(t, nil)
		b.node("warm", 1, 1, book)
		if held {
			b.node("spare", 3, 0)
		} else {
			b.node("spare", 3, 0, book)
		}
		f := b.z.fns["t/f"]
		f.coldMs.add(10_000)
		reads := func(inv *api.Invocation) { inv.Inputs = []api.Object{book} }
		b.invoke("a", "f", reads)
		b.ran("a", "warm")
		b.invoke("b", "f", reads)
		if find(b.acts, ActRun, "b") != nil {
			t.Fatalf("it runs at once: %v", text(b.acts))
		}
		b.after(10 * time.Millisecond)
		b.done("a", "warm")
		b.ran("b", "warm")
		if want := map[bool]float64{true: 0, false: 10}[held]; f.rentMs != want {
			t.Errorf("data only where the call waits: %v; %v ms are paid, want %v", held, f.rentMs, want)
		}
	}
}

// More functions wait than can be looked at for one slot: all get theirs.
func TestNobodyStarvesAmongManyFunctions(t *testing.T) {
	b := newBed(t, func(c *Config) { c.MaxBacklog = 0 })
	const functions = 150
	var specs []api.Function
	for i := range functions {
		f, _ := b.z.Function("t/f")
		f.Name = fmt.Sprintf("g%03d", i)
		specs = append(specs, f)
	}
	b.step(&Event{Kind: EvFunctions, Functions: specs})
	b.node("a", 1, 1)
	b.invoke("first", "f")
	id := 0
	call := func(fn string) {
		id++
		b.invoke(fmt.Sprintf("%s-%d", fn, id), fn)
	}
	for range 3 {
		for i := range functions {
			call(specs[i].Name)
		}
	}
	b.invoke("urgent", specs[functions-1].Name, func(inv *api.Invocation) { inv.Priority = 9 })
	ran, at, urgent := map[string]int{}, "first", 0
	for slot := range 1500 {
		at = next(b, at)
		if at == "urgent" {
			urgent = slot + 1
			continue
		}
		ran[at[:4]]++
		call(at[:4])
	}
	if len(ran) != functions || urgent == 0 || urgent > 10 {
		t.Errorf("%d of %d functions ran in 1,500 slots; the latency call took slot %d", len(ran), functions, urgent)
	}
}

func TestClassSharesInTheLongRun(t *testing.T) {
	b := newBed(t, nil)
	prio := []uint8{2, 5, 9}
	id := 0
	call := func(p uint8) {
		id++
		b.invoke(fmt.Sprintf("p%d-%d", p, id), "f", func(inv *api.Invocation) { inv.Priority = p })
	}
	full(b, 9, func(i int) { call(prio[i%3]) })
	got, at := map[byte]int{}, "first"
	for range 800 {
		at = next(b, at)
		got[at[1]]++
		call(at[1] - '0')
	}
	if got['5'] < 190 || got['2'] < 47 || got['9'] < 500 {
		t.Errorf("of 800 slots latency got %d, default %d, deferrable %d: want at least one in four for default, one in sixteen for deferrable", got['9'], got['5'], got['2'])
	}
}

func TestCallThatWaitsAgainKeepsItsPlace(t *testing.T) {
	b := newBed(t, nil)
	full(b, 20, func(i int) { b.invoke(fmt.Sprintf("i%02d", i), "f") })
	if at := next(b, "first"); at != "i00" {
		t.Fatalf("%s went first", at)
	}
	b.done("i00", "a", func(c *wire.Completion) { c.Outcome, c.Code = api.OutcomeRefused, api.CodeOverloaded })
	if w := b.z.waiting[0].inv.ID; w != "i00" {
		t.Errorf("%s is the first that waits, want the one that was refused", w)
	}
}

func TestACanceledCallIsChargedForItsSlot(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.invoke("i1", "f")
	b.after(8 * time.Second)
	b.step(&Event{Kind: EvCancel, ID: "i1", Reason: "gone"})
	b.done("i1", "a", func(c *wire.Completion) { c.RunMs, c.Outcome = 8000, api.OutcomeCanceled })
	if used := b.z.tenants["t"].used; used < 7 {
		t.Errorf("8 s of a slot count as %.2f", used)
	}
}

func TestTenantsAreForgotten(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	for i := range maxTenants + 10 {
		b.z.tenant(b.now, fmt.Sprintf("t%d", i))
	}
	if n := len(b.z.tenants); n != maxTenants {
		t.Errorf("%d tenants remembered, limit %d", n, maxTenants)
	}
	b.z.tenants["t1"].used = 5
	b.step(&Event{Kind: EvTick})
	if n := len(b.z.tenants); n != 1 {
		t.Errorf("%d tenants remembered that used nothing", n-1)
	}
	if u := b.z.tenant(b.now, "new"); u.used != 5 {
		t.Errorf("a tenant that comes while nobody has calls begins at %v, want 5, where the only other one stands", u.used)
	}
}

// A long call is charged when it ends: until then its tenant is not forgotten.
func TestATenantWhoseCallsRunIsRemembered(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 1, 1)
	b.invoke("i1", "f")
	b.step(&Event{Kind: EvTick})
	b.after(8 * time.Second)
	b.done("i1", "a", func(c *wire.Completion) { c.RunMs = 8000 })
	if u := b.z.tenants["t"]; u == nil || u.used < 7 || u.running != 0 {
		t.Errorf("8 s of a slot: %+v", u)
	}
}

// A function is deleted, or replaced, while its calls run: what is known of it is neither lost too early nor kept twice.
func TestHoldingsOutliveTheirFunction(t *testing.T) {
	for name, after := range map[string]func(b *bed){
		"deleted": func(b *bed) { b.step(&Event{Kind: EvFunctions, Deleted: []string{"t/f"}}) },
		"replaced": func(b *bed) {
			f, _ := b.z.Function("t/f")
			f.Version = 2
			b.step(&Event{Kind: EvFunctions, Functions: []api.Function{f}})
		},
	} {
		b := newBed(t, nil)
		b.node("a", 2, 2)
		b.invoke("i1", "f")
		b.invoke("i2", "f")
		b.done("i1", "a", func(c *wire.Completion) {
			c.Sandboxes = []wire.SandboxReport{{Function: "t/f@1", State: api.SandboxNone}}
		})
		after(b)
		hb := &wire.Heartbeat{Zone: "z", Node: "a", Boot: 1, Epoch: b.z.Epoch(), SeenSeq: 9, Slots: 2, MemMB: 1000,
			Running: []wire.RunningReport{{ID: "i2", Function: "t/f@1"}}, Sandboxes: []wire.SandboxReport{{Function: "t/f@1", State: api.SandboxPrepared, Busy: 1, MemoryMB: 100}}}
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
		b.done("i2", "a", func(c *wire.Completion) { c.Sandboxes = nil })
		if err := b.z.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAffinityDecidesAmongEquals(t *testing.T) {
	b := newBed(t, nil)
	names := []string{"a", "b", "c", "d"}
	for _, n := range names {
		b.node(n, 4, 1)
	}
	with := func(inv *api.Invocation) { inv.Affinity = "session-7" }
	b.invoke("i0", "f", with)
	home := find(b.acts, ActRun, "i0").Node
	b.done("i0", home)
	for i := range 20 {
		id := fmt.Sprintf("i%d", i+1)
		b.invoke(id, "f", with)
		b.ran(id, home)
		b.done(id, home)
	}
	// Never against a real gain: a warm sandbox elsewhere beats a cold one at home.
	b.after(2 * time.Second) // its report counts
	b.node(home, 4, 0)
	b.invoke("away", "f", with)
	if a := find(b.acts, ActRun, "away"); a == nil || a.Node == home {
		t.Errorf("the hint outweighed a cold start: %v", text(b.acts))
	}
	var a affinities
	for k := range uint64(maxAffinities + 5) {
		a.ran(k+1, 1)
	}
	if len(a.node) != maxAffinities || a.of(1) != -1 || a.of(maxAffinities+5) != 1 || a.of(0) != -1 {
		t.Errorf("%d keys remembered, limit %d", len(a.node), maxAffinities)
	}
}

func TestCallsThatWillBeLate(t *testing.T) {
	for _, c := range []struct {
		when    string
		budget  int64
		refused bool
	}{{LateRun, 300, false}, {LateRefuse, 300, true}, {LateRefuse, 3000, false}, {LateRefuse, 0, false}, {LateForward, 300, false}} {
		b := newBed(t, func(cfg *Config) { cfg.WhenLate = c.when })
		b.node("cold", 1, 0) // a second to start
		b.invoke("i1", "f", func(inv *api.Invocation) { inv.BudgetMs = c.budget })
		if c.refused {
			b.answered("i1", api.CodeDeadline)
		} else {
			b.ran("i1", "cold")
		}
	}
	cfg := DefaultConfig()
	cfg.WhenLate = "drop"
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "when_late") {
		t.Errorf("when_late: drop gives %v", err)
	}
}

// Property: however many nodes there are and however many of them can serve a call in two ways, at most cfg.Candidates are scored.
func TestNoMoreCandidatesThanWanted(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		nodes := rapid.IntRange(1, 60).Draw(rt, "nodes")
		limit := rapid.SampledFrom([]int{2, 8, 32}).Draw(rt, "candidates")
		b := newBed(t, func(c *Config) { c.Candidates = limit })
		for i := range nodes {
			b.node(fmt.Sprint("n", i), 4, 1)
		}
		for i := range rapid.IntRange(1, 2*nodes).Draw(rt, "busy") {
			b.invoke(fmt.Sprint("i", i), "f") // most nodes have a busy sandbox and free slots then: two ways
			if n := len(b.z.cands); n > limit {
				rt.Fatalf("%d candidates of %d nodes: want at most %d", n, nodes, limit)
			}
		}
	})
}

// In an overloaded zone deferrable calls are refused first, and latency calls last.
func TestClassesAreShedInTheirOrder(t *testing.T) {
	b := newBed(t, func(c *Config) { c.MaxWaiting = 8 })
	b.node("a", 1, 1)
	b.invoke("runs", "f")
	with := func(p uint8) func(*api.Invocation) { return func(i *api.Invocation) { i.Priority = p } }
	fill := func(name string, p uint8, want int) {
		t.Helper()
		n := 0
		for ; n <= 2*want; n++ {
			id := fmt.Sprint(name, n)
			b.invoke(id, "f", with(p))
			if a := find(b.acts, ActAnswer, id); a != nil {
				if a.Answer.Code != api.CodeOverloaded || a.Answer.RetryMs <= 0 {
					t.Fatalf("%s: %+v", id, a.Answer)
				}
				break
			}
		}
		if n != want {
			t.Errorf("%d %s calls found room, want %d", n, name, want)
		}
	}
	fill("deferrable", 2, 4)
	fill("default", 0, 4)
	fill("latency", 9, 1)
}

// A call that is refused for want of room leaves the grant that it came under as it was.
func TestRefusedCallUsesNoGrant(t *testing.T) {
	b := newBed(t, func(c *Config) { c.MaxWaiting = 1 })
	b.node("a", 1, 1)
	b.z.given["edge"] = &grantOut{id: 1, left: 1, expires: b.now.Add(time.Second)}
	b.invoke("runs", "f")
	b.invoke("waits", "f")
	b.step(&Event{Kind: EvArrive, Call: &api.Invocation{ID: "x", Tenant: "t", Function: "f", Forwarded: "edge"}, GrantID: 1, GrantEpoch: b.z.epoch})
	if a := b.answered("x", api.CodeOverloaded); !a.Refused {
		t.Fatalf("%+v", a)
	}
	b.done("runs", "a")
	f, _ := b.z.Function("t/f")
	f.Name, f.Needs = "g", api.Labels{Tags: []string{"nowhere"}}
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{f}})
	b.step(&Event{Kind: EvArrive, Call: &api.Invocation{ID: "y", Tenant: "t", Function: "g", Forwarded: "edge"}, GrantID: 1, GrantEpoch: b.z.epoch})
	if a := b.answered("y", api.CodeUnavailable); !a.Refused {
		t.Fatalf("no node has what it needs: %+v", a)
	}
	if g := b.z.given["edge"]; g.left != 1 {
		t.Errorf("%d slots are left of the grant, want 1", g.left)
	}
}

// Calls that no slot helps, since it is memory that is short, do not decide anew at each slot that frees; and who has two reasons
// to decide anew does it once.
func TestCallsWithoutRoomAreLeftAlone(t *testing.T) {
	b := newBed(t, nil)
	f, _ := b.z.Function("t/f")
	f.Name, f.MemoryMB = "big", 950
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{f}})
	b.node("a", 4, 0)
	b.invoke("small1", "f")
	b.invoke("small2", "f")
	b.invoke("big", "big") // two slots are free, and 800 MB
	b.ran("big", "")
	before, _ := b.z.Decision("big")
	ended := func(id string, usedMB int) {
		b.done(id, "a", func(c *wire.Completion) { c.MemUsedMB, c.Sandboxes = usedMB, nil })
	}
	ended("small1", 100)
	if d, _ := b.z.Decision("big"); d.Decisions != before.Decisions {
		t.Errorf("decided %d times, %d before a slot was freed that has no room for it", d.Decisions, before.Decisions)
	}
	w := b.z.calls["big"]
	b.z.again(w)
	b.z.again(w)
	b.z.settle(b.now, nil)
	if d, _ := b.z.Decision("big"); d.Decisions != before.Decisions+1 {
		t.Errorf("decided %d times, want once more than %d", d.Decisions, before.Decisions)
	}
	ended("small2", 0)
	b.ran("big", "a")
}

// Property: however many candidates the busy nodes of a zone would be, a call finds the one node that is warm and free.
func TestTheFreeWarmNodeIsAlwaysACandidate(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBed(t, nil)
		n := rapid.IntRange(1, 32).Draw(rt, "nodes")
		for i := range n {
			b.node(fmt.Sprint("n", i), 4, 1)
		}
		for i := range n {
			b.invoke(fmt.Sprint("i", i), "f")
		}
		b.after(5 * time.Millisecond)
		free := b.z.nodes[rapid.IntRange(0, n-1).Draw(rt, "free")]
		for _, r := range slices.Clone(free.running) {
			b.done(r.id, free.name)
		}
		b.invoke("next", "f")
		if a := find(b.acts, ActRun, "next"); a == nil || a.Node != free.name {
			rt.Fatalf("%s is warm and free: %v", free.name, text(b.acts))
		}
	})
}

// A tenant that filled the room while nobody else waited does not shut others out.
func TestAQuietTenantFindsRoom(t *testing.T) {
	b := newBed(t, func(c *Config) { c.MaxWaiting = 32 })
	f, _ := b.z.Function("t/f")
	f.Tenant = "quiet"
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{f}})
	b.node("a", 1, 1)
	refused := func(id string, of string) bool {
		b.step(&Event{Kind: EvArrive, Call: &api.Invocation{ID: id, Tenant: of, Function: "f"}})
		return find(b.acts, ActAnswer, id) != nil
	}
	loud := 0
	for ; loud < 100 && !refused(fmt.Sprint("loud", loud), "t"); loud++ {
	}
	if loud != 33 { // one runs
		t.Fatalf("%d calls of the loud tenant were taken, want 33", loud)
	}
	quiet := 0
	for ; quiet < 100 && !refused(fmt.Sprint("quiet", quiet), "quiet"); quiet++ {
	}
	if quiet != 2 { // less than a sixteenth of 32 waits until then
		t.Errorf("%d calls of the quiet tenant were taken, want 2", quiet)
	}
}

// largeAndSmall makes a function that needs nearly all of a node's memory, and one that needs a tenth and never waits beside a free slot.
func largeAndSmall(t *testing.T) (b *bed, big api.Function) {
	b = newBed(t, nil)
	big, _ = b.z.Function("t/f")
	small := big
	big.Name, big.MemoryMB = "big", 950
	small.Name, small.DelayOff = "small", true
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{big, small}})
	return b, big
}

// A call that needs nearly all of a node's memory has its turn though the node never runs nothing: it is kept for it.
func TestLargeCallsDoNotStarve(t *testing.T) {
	b, _ := largeAndSmall(t)
	alive := func(used int) {
		hb := b.report("a", 2, 0)
		hb.MemUsedMB = used
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	}
	alive(0)
	var running []string
	next := 0
	more := func() {
		next++
		b.invoke(fmt.Sprint("s", next), "small")
	}
	hear := func() (began bool) {
		for _, a := range b.acts {
			if a.Kind == ActRun && a.ID != "big" {
				running = append(running, a.ID)
			}
		}
		return find(b.acts, ActRun, "big") != nil
	}
	for range 3 { // one more than there are slots
		more()
		hear()
	}
	b.invoke("big", "big")
	b.ran("big", "")
	for began := b.now; b.now.Sub(began) < 20*time.Second; {
		b.after(100 * time.Millisecond)
		id := running[0]
		running = running[1:]
		b.done(id, "a", func(c *wire.Completion) { c.MemUsedMB, c.Sandboxes = 100*len(running), nil })
		if hear() {
			if waited := b.now.Sub(began); waited < 8*time.Second {
				t.Errorf("it went first after %v, want others first until it is old", waited)
			}
			return
		}
		if len(running) > 0 {
			alive(100 * len(running))
		}
		b.step(&Event{Kind: EvTick})
		hear()
		more()
		hear()
		if err := b.z.Check(); err != nil {
			t.Fatal(err)
		}
	}
	t.Error("it waited for 20 s, and still does")
}

// keepable is a zone with two nodes that have room for the large call i0 only once their runs have ended: n1 after one run, which is to take
// ten minutes, and n2 after two short ones.
func keepable(t *testing.T) (b *bed, tick func(time.Duration)) {
	b, _ = largeAndSmall(t)
	for i, name := range []string{"n1", "n2"} {
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: b.report(name, 1+i, 0)})
		for k := range 1 + i {
			id := fmt.Sprint(name, "s", k)
			b.invoke(id, "small")
			b.ran(id, name)
		}
	}
	for _, r := range b.z.byName["n1"].running {
		r.mu = math.Log(600_000)
	}
	b.invoke("big", "big")
	b.ran("big", "")
	return b, func(d time.Duration) {
		b.after(d)
		for _, n := range b.z.nodes {
			n.lastSeen = b.now
		}
		b.step(&Event{Kind: EvTick})
	}
}

// A node that has room with its next run, but in ten minutes, does not keep others from being kept.
func TestANodeIsKeptThoughAnotherOneHasRoomMuchLater(t *testing.T) {
	b, tick := keepable(t)
	if tick(9 * time.Second); b.z.kept.n == nil || b.z.kept.n.name != "n2" {
		t.Fatalf("kept is %+v, want n2", b.z.kept)
	}
}

// Who hoped for a node that is kept for another call decides anew, and a kept node that is to take nothing more is let go, whatever
// ends there.
func TestAKeptNodeThatDrains(t *testing.T) {
	b, tick := keepable(t)
	b.invoke("big2", "big")
	b.ran("big2", "")
	hopes := b.z.calls["big2"]
	hopes.hope = b.z.byName["n2"]
	tick(9 * time.Second)
	if b.z.kept.n == nil || b.z.kept.c == hopes {
		t.Fatalf("kept is %+v, want n2 for the first call", b.z.kept)
	}
	if hopes.state != callWaiting || hopes.hope == b.z.kept.n {
		t.Error("a call hopes for a node that is kept for another one")
	}
	b.z.kept.n.draining = true
	for k := range 2 {
		b.done(fmt.Sprint("n2s", k), "n2", func(c *wire.Completion) { c.MemUsedMB, c.Sandboxes = 0, nil })
		b.ran("big", "")
	}
	if b.z.kept.n != nil {
		t.Error("a node that drains is still kept")
	}
}

// In a zone with more nodes than one tick looks at, those at the end have their turn, too.
func TestEveryNodeIsLookedAtForRoom(t *testing.T) {
	b, _ := keepable(t)
	found := 0
	for range 2 {
		left := 1
		if n, _ := b.z.nearestRoom(b.now, b.z.calls["big"], &left); n != nil {
			found++
		}
	}
	if found != 1 {
		t.Errorf("of two looks at one node each %d found one: want n2 from one of them", found)
	}
}

// A kept node is let go when it will never have room for its call any more, and is not kept again at once.
func TestAKeptNodeIsLetGo(t *testing.T) {
	b, big := largeAndSmall(t)
	report := func() { b.step(&Event{Kind: EvHeartbeat, Heartbeat: b.report("a", 2, 0)}) }
	report()
	b.invoke("s1", "small")
	b.invoke("s0", "small")
	b.ran("s0", "a")
	b.invoke("big", "big")
	b.ran("big", "")
	tick := func(d time.Duration) {
		b.after(d)
		b.z.nodes[0].lastSeen = b.now
		b.step(&Event{Kind: EvTick})
	}
	if tick(7 * time.Second); b.z.kept.n != nil {
		t.Fatal("a node is kept for a call that has waited for 7 s: want 8 s, four times DelayMax")
	}
	b.z.nodes[0].avoidUntil = b.now.Add(2 * time.Second)
	if tick(1500 * time.Millisecond); b.z.kept.n != nil {
		t.Fatal("a node that rests after failures is kept")
	}
	if tick(500 * time.Millisecond); b.z.kept.c == nil || b.z.kept.c.inv.ID != "big" {
		t.Fatalf("no node is kept after 9 s")
	}
	if v := b.z.Nodes(b.now)[0]; v.KeptFor != "big" {
		t.Errorf("the view says kept for %q", v.KeptFor)
	}
	b.done("s0", "a", func(c *wire.Completion) { c.MemUsedMB, c.Sandboxes = 100, nil })
	b.invoke("s2", "small")
	b.ran("s2", "") // a slot is free, but kept
	big.Version, big.MemoryMB = 2, 2000
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{big}})
	if tick(time.Second); b.z.kept.n != nil {
		t.Error("it is kept for a call that has become too large for it")
	}
	if v := b.z.Nodes(b.now)[0]; v.KeptFor != "" {
		t.Errorf("let go, the view says kept for %q", v.KeptFor)
	}
	big.Version, big.MemoryMB = 3, 950
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{big}})
	if tick(time.Second); b.z.kept.n != nil {
		t.Error("it is kept again a second after it was for a second: the others are to have seven times as long")
	}
	if tick(10 * time.Second); b.z.kept.n == nil {
		t.Error("it is not kept again after eleven seconds")
	}
	if tick(time.Hour); b.z.kept.n != nil {
		t.Error("it is kept for an hour for a run that does not end")
	}
}

// Calls count while they run, or whoever makes long ones would look as if they used nothing.
func TestUseCountsWhileCallsRun(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 2, 2)
	b.invoke("i1", "f")
	b.after(10 * time.Second)
	b.invoke("i2", "f")
	b.after(20 * time.Second)
	u := b.z.tenants["t"]
	if got := u.now(b.now); got != 50 {
		t.Errorf("30 s and 20 s of slots that go on count as %v", got)
	}
	b.done("i1", "a")
	b.done("i2", "a")
	if got := u.now(b.now); got < 48 || got > 50 || u.starts != 0 {
		t.Errorf("once they have ended as %v, and %d is left of their starts", got, u.starts)
	}
}

// Slots that a class could not have used do not bring its turn nearer.
func TestTurnsAreOfSlotsThatAClassCouldUse(t *testing.T) {
	b := newBed(t, nil)
	f, _ := b.z.Function("t/f")
	g := f
	g.Name, g.Needs = "g", api.Labels{Tags: []string{"gpu"}}
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{g}})
	b.node("plain", 1, 1)
	hb := b.report("special", 1, 0)
	hb.Labels.Tags = []string{"gpu"}
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	call := func(id, fn string, priority uint8) {
		b.invoke(id, fn, func(i *api.Invocation) { i.Priority = priority })
	}
	call("g0", "g", 5)
	b.ran("g0", "special")
	call("f0", "f", 9)
	b.ran("f0", "plain")
	call("deferrable", "g", 1)
	call("latency", "g", 9)
	for i := range 20 {
		call(fmt.Sprint("f", i+1), "f", 9)
		b.after(20 * time.Millisecond)
		b.done(fmt.Sprint("f", i), "plain")
		b.ran(fmt.Sprint("f", i+1), "plain")
	}
	b.done("g0", "special", func(c *wire.Completion) {
		c.Sandboxes = []wire.SandboxReport{{Function: "t/g@1", State: api.SandboxPrepared, Idle: 1, MemoryMB: 100}}
	})
	b.ran("latency", "special")
}

package zonesched

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// Property: what a call has waited elsewhere counts. However long that was, it is held back here only for the rest of DelayMax;
// and a call that is forwarded carries all that it has waited.
func TestForwardingDoesNotResetTheWait(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBed(t, nil)
		delayMax := policy.DefaultConfig().DelayMax
		before := time.Duration(rapid.IntRange(0, 3000).Draw(rt, "waited_ms")) * time.Millisecond
		b.node("cold", 1, 0)
		b.node("warm", 1, 1)
		b.invoke("i1", "f")
		b.ran("i1", "warm")
		b.after(time.Duration(rapid.IntRange(0, 9).Draw(rt, "later_ms")) * time.Millisecond)
		arrived := b.now
		b.invoke("i2", "f", func(i *api.Invocation) { i.WaitedMs = ms(before) })
		for find(b.acts, ActRun, "i2") == nil {
			w := find(b.acts, ActWake, "i2")
			if w == nil {
				rt.Fatalf("it neither runs nor is there a wake: %v", text(b.acts))
			}
			b.now = w.At
			b.node("cold", 1, 0)
			b.node("warm", 1, 1)
			b.step(&Event{Kind: EvWake, ID: "i2", Gen: w.Gen})
			if waited := before + b.now.Sub(arrived); waited > delayMax+time.Millisecond {
				rt.Fatalf("%v elsewhere and %v here: want no more than %v in all", before, b.now.Sub(arrived), delayMax)
			}
		}
		// Now nothing is free, and another zone has room.
		b.invoke("i3", "f", func(i *api.Invocation) { i.WaitedMs = ms(before) })
		here := time.Duration(rapid.IntRange(3000, 9000).Draw(rt, "here_ms")) * time.Millisecond
		w, from := find(b.acts, ActWake, "i3"), b.now
		b.after(here)
		b.step(&Event{Kind: EvGrant, Grant: &wire.Grant{ID: 1, From: "core", To: "z", Epoch: api.Epoch{Generation: 1, Revision: 9}, Slots: 1, TTLMs: 1000, MeanMs: 10}})
		b.step(&Event{Kind: EvWake, ID: "i3", Gen: w.Gen})
		a := find(b.acts, ActForward, "i3")
		if a == nil {
			rt.Fatalf("not forwarded: %v", text(b.acts))
		}
		if want := ms(before + b.now.Sub(from)); a.Call.WaitedMs != want {
			rt.Fatalf("it left with %v ms waited, want %v", a.Call.WaitedMs, want)
		}
	})
}

// Property: in a full zone, whatever else comes and however often slots free, a call without a match that is older than four
// times DelayMax and the oldest of all has one of the next eight slots.
func TestAgeIsBoundedInAFullZone(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBed(t, nil)
		g, _ := b.z.Function("t/f")
		g.Name = "g"
		b.step(&Event{Kind: EvFunctions, Functions: []api.Function{g}})
		b.node("a", 1, 1)
		b.invoke("first", "f")
		ahead := rapid.IntRange(0, 5).Draw(rt, "ahead")
		for i := range ahead {
			b.invoke(fmt.Sprint("ahead", i), "f")
		}
		b.after(time.Millisecond)
		b.invoke("g", "g")
		arrived, at, slots := b.now, "first", 0
		for i := 0; ; i++ {
			for k := range rapid.IntRange(1, 4).Draw(rt, "more") {
				b.invoke(fmt.Sprint("more", i, "-", k), "f")
			}
			b.after(time.Duration(rapid.IntRange(20, 1500).Draw(rt, "run_ms")) * time.Millisecond)
			old := b.now.Sub(arrived) > 4*policy.DefaultConfig().DelayMax && b.z.waiting[0].inv.ID == "g"
			b.done(at, "a")
			a := find(b.acts, ActRun, "")
			if a == nil {
				rt.Fatalf("a freed slot stays empty: %v", text(b.acts))
			}
			if at = a.ID; at == "g" {
				return
			}
			if old {
				slots++
			}
			if slots >= ageTurn {
				rt.Fatalf("%d slots since the call is old and the oldest, and it has none", slots)
			}
		}
	})
}

// Property: in a full zone, whatever comes of whichever class and tenant, a class that goes on waiting has its part of the freed slots, and a tenant
// that goes on waiting within its class is never further behind the others' mean than what makes it first and a call of each. Calls run for up to 3 s.
func TestClassesAndTenantsHaveTheirPart(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBed(t, nil)
		f, _ := b.z.Function("t/f")
		oneClass := rapid.Bool().Draw(rt, "one class")
		tenants := []string{"t", "u", "v"}[:rapid.IntRange(2, 3).Draw(rt, "tenants")]
		fns := []api.Function{f}
		for _, name := range tenants[1:] {
			g := f
			g.Tenant = name
			fns = append(fns, g)
		}
		b.step(&Event{Kind: EvFunctions, Functions: fns})
		b.node("a", 1, 1)
		b.invoke("first", "f")
		waiting := map[string]*api.Invocation{}
		n := 0
		come := func(tenant string) {
			n++
			inv := &api.Invocation{ID: fmt.Sprint("i", n), Tenant: tenant, Function: "f", Priority: 5}
			if !oneClass {
				inv.Priority = rapid.SampledFrom([]uint8{1, 5, 9}).Draw(rt, "priority")
			}
			if b.step(&Event{Kind: EvArrive, Call: inv}); find(b.acts, ActAnswer, inv.ID) == nil {
				waiting[inv.ID] = inv
			}
		}
		at, of := "first", "t" // what runs, and whose it is
		var passed [classes]uint32
		for range 100 {
			for _, name := range tenants { // each has a call that waits, and t has many
				if b.z.tenantWaiting(name) == 0 {
					come(name)
				}
			}
			for range rapid.IntRange(0, 6).Draw(rt, "more") {
				come("t")
			}
			took := rapid.IntRange(20, 3000).Draw(rt, "run_ms")
			b.after(time.Duration(took) * time.Millisecond)
			b.done(at, "a", func(m *wire.Completion) {
				m.RunMs = float64(took)
				m.Sandboxes = []wire.SandboxReport{{Function: of + "/f@1", State: api.SandboxPrepared, Idle: 1, MemoryMB: 100}}
			})
			a := find(b.acts, ActRun, "")
			if a == nil {
				rt.Fatalf("a freed slot stays empty: %v", text(b.acts))
			}
			got, inClass, inTenant := waiting[a.ID], map[class]bool{}, map[string]bool{}
			for _, inv := range waiting {
				inClass[classOf(inv.Priority)], inTenant[inv.Tenant] = true, true
			}
			for k := range classes {
				switch {
				case classOf(got.Priority) == k || !inClass[k]:
					passed[k] = 0
				default:
					passed[k]++
				}
				if k != classLatency && passed[k] > map[class]uint32{classDeferrable: 16, classDefault: 4}[k] { // one more: both can be due at once
					rt.Fatalf("class %d waits, and %d freed slots have passed it", k, passed[k])
				}
			}
			if err := b.z.Check(); err != nil {
				rt.Fatal(err)
			}
			delete(waiting, a.ID)
			at, of = a.ID, got.Tenant
			if oneClass && len(inTenant) == len(tenants) {
				mean := 0.
				for _, name := range tenants {
					mean += b.z.tenant(b.now, name).fade(b.now) / float64(len(tenants))
				}
				for _, name := range tenants {
					if u := b.z.tenant(b.now, name).used; mean-u > farBehind+3*float64(len(tenants)) {
						rt.Fatalf("tenant %s waits, and is %v slot-seconds behind the mean of %v", name, mean-u, mean)
					}
				}
			}
		}
	})
}

// Property: whatever fails on whichever nodes, no more than a third of them are in quarantine, and never the only one.
func TestQuarantineLeavesTwoThirds(t *testing.T) {
	most := 0
	rapid.Check(t, func(rt *rapid.T) {
		b := newBed(t, nil)
		n := rapid.IntRange(1, 9).Draw(rt, "nodes")
		running := map[string]string{}
		for i := range rapid.IntRange(1, 60).Draw(rt, "calls") {
			for k := range n {
				if name := fmt.Sprint("n", k); b.z.byName[name] == nil || len(b.z.byName[name].running) == 0 {
					b.node(name, 1, 1)
				}
			}
			id := fmt.Sprint("i", i)
			b.invoke(id, "f")
			if a := find(b.acts, ActRun, id); a != nil {
				running[id] = a.Node
				outcome := rapid.SampledFrom([]api.Outcome{api.OutcomeInternal, api.OutcomeInternal, api.OutcomeInternal, api.OutcomeOK}).Draw(rt, "outcome")
				b.after(time.Millisecond)
				b.done(id, a.Node, func(c *wire.Completion) { c.Outcome = outcome })
			}
			out := 0
			for _, node := range b.z.nodes {
				if node.quarantined {
					out++
				}
			}
			if most = max(most, out); 3*out > n || out == n {
				rt.Fatalf("%d of %d nodes are in quarantine", out, n)
			}
			b.after(time.Duration(rapid.IntRange(0, 800).Draw(rt, "pause_ms")) * time.Millisecond)
			b.step(&Event{Kind: EvTick})
		}
	})
	if most == 0 {
		t.Error("no node was ever in quarantine: nothing was tested")
	}
}

// The last node that can do what another cannot is not taken out: draining nodes do not count, nor nodes with other labels. And a
// short pause does not end a quarantine.
func TestQuarantineNeverTakesTheLast(t *testing.T) {
	for name, alike := range map[string]func(n *node, i int){
		"the others drain":             func(n *node, i int) { n.draining = i > 0 },
		"the others have other labels": func(n *node, i int) { n.profile = &profile{} },
		"the others are quarantined":   func(n *node, i int) { n.quarantined = i > 0 },
		"":                             func(*node, int) {},
	} {
		b := newBed(t, nil)
		for i := range 4 {
			b.node(fmt.Sprint("n", i), 1, 1)
			alike(b.z.nodes[i], i)
		}
		n := b.z.nodes[0]
		for range quarantineAfter {
			b.z.quarantine(b.now, n)
		}
		if n.quarantined != (name == "") {
			t.Errorf("%s: quarantined %v", name, n.quarantined)
		}
		until := n.avoidUntil
		if n.pause(b.now); name == "" && n.avoidUntil != until {
			t.Errorf("a pause ends the quarantine at %v instead of %v", n.avoidUntil, until)
		}
	}
}

// Property (I13): whatever dies how often, retries of calls that may have run stay within their budget, and every call is answered once.
func TestRetriesStayWithinTheirBudget(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBed(t, func(c *Config) { c.RetryBudget = .1 })
		const nodes = 3
		boots := [nodes]uint64{}
		beat := func(k int) {
			hb := b.report(fmt.Sprint("n", k), 4, 4)
			hb.Boot = 1 + boots[k]
			b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
		}
		answers := map[string]int{}
		count := func() {
			for i := range b.acts {
				if a := &b.acts[i]; a.Kind == ActAnswer {
					answers[a.ID]++
				}
			}
		}
		for k := range nodes {
			beat(k)
		}
		calls := 0
		for range rapid.IntRange(50, 250).Draw(rt, "events") {
			if rapid.IntRange(0, 2).Draw(rt, "event") > 0 {
				b.invoke(fmt.Sprint("i", calls), "f", func(i *api.Invocation) { i.IdemKey = "k" })
				calls++
			} else {
				k := rapid.IntRange(0, nodes-1).Draw(rt, "node")
				boots[k]++
				beat(k) // its calls are lost
			}
			count()
			b.after(time.Millisecond)
			c := b.z.Counters()
			if limit := 11 + .1*float64(c.Accepted); float64(c.Retries) > limit {
				rt.Fatalf("%d retries of %d calls: want at most %v", c.Retries, c.Accepted, limit)
			}
		}
		for id, n := range answers {
			if n != 1 {
				rt.Fatalf("%s was answered %d times", id, n)
			}
		}
		if got := len(answers) + b.z.UnderWay(); got != calls {
			rt.Fatalf("%d answered and %d under way, of %d calls", len(answers), b.z.UnderWay(), calls)
		}
	})
}

// Property (I12): what is promised to other zones at one time is never more than the slots that are free then.
func TestPromisesNeverPassWhatIsFree(t *testing.T) {
	promised := 0
	rapid.Check(t, func(rt *rapid.T) {
		b := newBed(t, nil)
		shares := []api.Share{{Class: "*", From: "z", To: "a", Permille: 500}} // of no concern here
		for i := range rapid.IntRange(1, 5).Draw(rt, "zones") {
			shares = append(shares, api.Share{Class: "*", From: fmt.Sprint("from", i), To: "z", Permille: rapid.IntRange(0, 1000).Draw(rt, "permille")})
		}
		b.step(&Event{Kind: EvShares, Shares: shares})
		nodes := rapid.IntRange(1, 4).Draw(rt, "nodes")
		for i := range rapid.IntRange(1, 40).Draw(rt, "steps") {
			for k := range nodes {
				if name := fmt.Sprint("n", k); b.z.byName[name] == nil {
					b.node(name, rapid.IntRange(1, 4).Draw(rt, "slots"), 1)
				}
			}
			for range rapid.IntRange(0, 3).Draw(rt, "calls") {
				b.invoke(fmt.Sprintf("i%d-%d", i, b.z.Counters().Accepted), "f")
			}
			b.after(250 * time.Millisecond)
			free := 0
			for _, n := range b.z.nodes {
				if n.usable(b.now) {
					free += max(n.free(), 0)
				}
			}
			sum := 0
			b.step(&Event{Kind: EvTick})
			for k := range b.acts {
				if a := &b.acts[k]; a.Kind == ActGrant {
					sum += a.Grant.Slots
				}
			}
			if promised += sum; sum > free {
				rt.Fatalf("%d slots are promised, %d are free", sum, free)
			}
			for _, n := range b.z.nodes {
				if len(n.running) > 0 && rapid.Bool().Draw(rt, "ends") {
					b.done(n.running[0].id, n.name)
				}
			}
		}
	})
	if promised == 0 {
		t.Error("nothing was ever promised: nothing was tested")
	}
}

// Property: whatever sandboxes functions ask for, operators wish and nodes fail to bring up, prewarmings hold no more than half of the slots that
// are free when they begin, push out nothing that is asked for, come at most so many a tick, and wait longer after each failure. Where one node
// has room for all that functions ask for, they have at least that in the end.
func TestPrewarmingsKeepTheirLimits(t *testing.T) {
	begun, evicted, failed, settled := 0, 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		b := newBed(t, func(c *Config) { c.SlowStart = 0 })
		var fns []api.Function
		asked, askedMB := 0, 0
		for i := range rapid.IntRange(1, 5).Draw(rt, "functions") {
			f := api.Function{Tenant: "t", Name: fmt.Sprint("g", i), Version: 1, Runtime: api.RuntimeProcess, Artifact: strings.Repeat(fmt.Sprint(i), 64), Timeout: 10 * time.Second}
			f.MemoryMB, f.MinWarm = 100*rapid.IntRange(1, 3).Draw(rt, "memory"), rapid.IntRange(0, 4).Draw(rt, "min_warm")
			asked, askedMB = asked+f.MinWarm, askedMB+f.MinWarm*f.MemoryMB
			fns = append(fns, f)
		}
		b.step(&Event{Kind: EvFunctions, Functions: fns})
		nodes := rapid.IntRange(1, 4).Draw(rt, "nodes")
		for k := range nodes {
			hb := b.report(fmt.Sprint("n", k), rapid.IntRange(1, 6).Draw(rt, "slots"), 0)
			hb.MemMB = 300 * rapid.IntRange(1, 6).Draw(rt, "node_memory")
			b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
		}
		have := func(f *api.Function) int { return b.z.holdings[f.Key()].idle + b.z.holdings[f.Key()].refs }
		var underWay []*Action
		retryAt, pauses := map[string]time.Time{}, map[string]time.Duration{}
		event := func(ev *Event, most int) {
			before := map[string]int{}
			for i := range fns {
				before[fns[i].Key()] = have(&fns[i])
			}
			n := 0
			for _, a := range b.step(ev) {
				if a.Kind != ActRun {
					continue
				}
				n++
				underWay = append(underWay, &a)
				evicted += len(a.Run.Evict)
				if id := a.Run.Fn.ID(); ev.Kind == EvTick && b.now.Before(retryAt[id]) {
					rt.Fatalf("%s is tried again %v before its time", id, retryAt[id].Sub(b.now))
				}
			}
			if begun += n; n > most {
				rt.Fatalf("%d prewarmings at once: want at most %d", n, most)
			}
			if s := &b.z.sums; n > 0 && s.warming > s.free {
				rt.Fatalf("%d slots bring up sandboxes, %d are free", s.warming, s.free)
			}
			for i := range fns {
				if f := &fns[i]; have(f) < min(f.MinWarm, before[f.Key()]) {
					rt.Fatalf("%s asks for %d sandboxes, and has %d of the %d that it had", f.ID(), f.MinWarm, have(f), before[f.Key()])
				}
			}
			if err := b.z.Check(); err != nil {
				rt.Fatal(err)
			}
		}
		end := func(k int, outcome api.Outcome) {
			a := underWay[k]
			underWay = append(underWay[:k], underWay[k+1:]...)
			f, n := &a.Run.Fn, b.z.byName[a.Node]
			s := n.sandbox(b.z.holdings[f.Key()])
			m := &wire.Completion{Node: a.Node, Boot: 1, ID: a.ID, Epoch: b.z.Epoch(), Outcome: outcome, InitMs: 100, MemUsedMB: n.memUsed}
			box := wire.SandboxReport{Function: f.Key(), State: api.SandboxPrepared, Idle: s.idle, Busy: s.busy - 1, MemoryMB: f.MemoryMB}
			if outcome == api.OutcomeOK {
				box.Idle++
				pauses[f.ID()] = 0
			} else {
				m.MemUsedMB -= f.MemoryMB
				failed++
				pauses[f.ID()] = min(max(2*pauses[f.ID()], warmRetry), warmRetryMax)
				retryAt[f.ID()] = b.now.Add(pauses[f.ID()])
			}
			m.Sandboxes = []wire.SandboxReport{box}
			b.step(&Event{Kind: EvCompletion, Completion: m})
		}
		for range rapid.IntRange(1, 60).Draw(rt, "events") {
			switch rapid.IntRange(0, 3).Draw(rt, "event") {
			case 0:
				f := &fns[rapid.IntRange(0, len(fns)-1).Draw(rt, "function")]
				count := rapid.IntRange(1, 6).Draw(rt, "count")
				event(&Event{Kind: EvPrewarm, ID: f.ID(), Count: count}, count)
			case 1, 2:
				b.after(time.Duration(rapid.SampledFrom([]int{50, 200, 300, 600, 2000}).Draw(rt, "ms")) * time.Millisecond)
				event(&Event{Kind: EvTick}, warmStep)
			case 3:
				if len(underWay) > 0 {
					end(rapid.IntRange(0, len(underWay)-1).Draw(rt, "ends"), rapid.SampledFrom([]api.Outcome{api.OutcomeOK, api.OutcomeInternal}).Draw(rt, "outcome"))
				}
			}
			for k := range nodes {
				b.z.byName[fmt.Sprint("n", k)].lastSeen = b.now
			}
		}
		// From now on all goes well.
		for range 40 {
			for len(underWay) > 0 {
				end(0, api.OutcomeOK)
			}
			b.after(warmRetryMax)
			for k := range nodes {
				b.z.byName[fmt.Sprint("n", k)].lastSeen = b.now
			}
			event(&Event{Kind: EvTick}, warmStep)
		}
		if n := b.z.nodes[0]; nodes > 1 || b.z.sums.slots < 2 || n.memMB < askedMB+300 { // of several, one may have the slots and another the memory
			return
		}
		settled += min(asked, 1)
		for i := range fns {
			if f := &fns[i]; have(f) < f.MinWarm {
				rt.Fatalf("%s asks for %d sandboxes, and has %d though there is room", f.ID(), f.MinWarm, have(f))
			}
		}
	})
	if testing.Short() {
		return // too few tries
	}
	if begun == 0 || evicted == 0 || failed == 0 || settled == 0 {
		t.Errorf("%d prewarmings, %d sandboxes pushed out, %d failures, %d beds with room for all: hardly anything was tested", begun, evicted, failed, settled)
	}
}

// The price of pushing out a sandbox is what calls lose without it in ten seconds, at most what its function would pay for another:
// the only one is missed by each call, one of several by those that find the others busy.
func TestPriceOfAnEviction(t *testing.T) {
	b := newBed(t, nil)
	b.node("a", 8, 1)
	f, h := b.z.fns["t/f"], b.z.fns["t/f"].h
	f.lastAt = b.now
	for _, c := range []struct {
		rate, runMs, coldMs, prepMs float64
		idle, busy, gone            int
		silent                      time.Duration
		want                        float64
	}{
		{rate: .01, runMs: 100, coldMs: 2000, idle: 1, want: 200},                          // once in 100 s: a tenth
		{rate: 5, runMs: 100, coldMs: 2000, idle: 1, want: 2000},                           // wanted for certain, none to spare
		{rate: 5, runMs: 100, coldMs: 2000, prepMs: 30, idle: 1, want: 30},                 // what it compiled stays
		{rate: 2, runMs: 100, coldMs: 2000, idle: 2, want: 10 * 2 * 100 * .2 / (1 - .2)},   // the other one is busy for a fifth of the time: M/M/1
		{rate: 2, runMs: 100, coldMs: 2000, idle: 1, busy: 1, want: 20 * 100 * .2 / .8},    // whether it is at the moment or not
		{rate: 2, runMs: 100, coldMs: 2000, idle: 3, gone: 1, want: 20 * 100 * .2 / .8},    // one of three is pushed out already
		{rate: 2, runMs: 600, coldMs: 2000, idle: 2, want: 2000},                           // one cannot serve them
		{rate: 5, runMs: 100, coldMs: 2000, idle: 1, silent: 100 * time.Second, want: 200}, // it has fallen silent: once in 100 s
		{rate: 5, runMs: 100, coldMs: 0, idle: 1, want: 0},                                 // nothing is known of its starts
	} {
		f.gapMs, f.prepMs, h.loss = ewma{v: 1000 / c.rate, n: 1}, ewma{}, loss{}
		if c.prepMs > 0 {
			f.prepMs = ewma{v: c.prepMs, n: 1}
		}
		f.runMs.v, f.coldMs.v, h.idle, h.refs = c.runMs, c.coldMs, c.idle, c.busy
		if got := b.z.evictMs(b.now.Add(c.silent), h, c.gone); math.Abs(got-c.want) > 1e-6*(1+c.want) {
			t.Errorf("%+v: %v", c, got)
		}
	}
	// Of many, the last one is hardly missed: M/M/4 at half its capacity waits .087 of a run (Erlang C), and .112 by the approximation.
	f.gapMs, f.runMs.v, f.coldMs.v, h.idle, h.refs, h.loss = ewma{v: 50, n: 1}, 100, 2000, 5, 0, loss{}
	if got := h.lossMs(b.now, 0) / 20 / 100; got < .08 || got > .12 {
		t.Errorf("one of five, of which two are busy: a mean wait of %v runs", got)
	}
	if got := b.z.evictMs(b.now, &holding{key: "deleted@1"}, 0); got != 0 {
		t.Errorf("of a function that is gone: %v", got)
	}
}

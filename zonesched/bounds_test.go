package zonesched

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// crowdBed is a bed to which a lot happens, and which does what is asked of a shell: it knows the dispatches under way, and wakes.
type crowdBed struct {
	*bed
	rt      *rapid.T
	fns     []api.Function
	open    map[string]bool // calls without an answer
	runs    []dispatched    // under way, in order
	away    []Action        // forwarded, in order
	wakes   []Action
	answers int
	seen    map[ActionKind]int
}

type dispatched struct {
	id, node string
	attempt  uint8
	boot     uint64
}

func newCrowd(t *testing.T, rt *rapid.T) *crowdBed {
	b := &crowdBed{rt: rt, open: map[string]bool{}, seen: map[ActionKind]int{}, bed: newBed(t, func(c *Config) {
		c.MaxWaiting, c.MaxCalls, c.Records, c.SlowStart = 12, 20, 8, 0
	})}
	for i := range 4 {
		f := api.Function{
			Tenant: []string{"t", "u"}[i%2], Name: fmt.Sprint("g", i), Version: 1, Runtime: api.RuntimeProcess, Artifact: strings.Repeat("b", 64), ArtifactBytes: 1 << 20,
			MemoryMB: 100 << i, Timeout: 10 * time.Second, MinWarm: 3 * (i / 3),
		}
		f.Objective.Deadline = time.Duration(i) * time.Second
		b.fns = append(b.fns, f)
	}
	b.event(&Event{Kind: EvFunctions, Functions: b.fns})
	return b
}

// event gives the zone one, and takes what it wants done.
func (b *crowdBed) event(ev *Event) {
	for _, a := range b.step(ev) {
		b.seen[a.Kind]++
		switch a.Kind {
		case ActRun:
			b.runs = append(b.runs, dispatched{a.ID, a.Node, a.Run.Call.Attempt, b.z.byName[a.Node].boot})
		case ActWake:
			b.wakes = append(b.wakes, a)
		case ActForward:
			b.away = append(b.away, a)
			b.wakes = append(b.wakes, Action{Kind: ActWake, ID: a.ID, Gen: a.Gen, At: b.now.Add(time.Minute)})
		case ActAnswer:
			if !b.open[a.ID] {
				b.rt.Fatalf("%s is answered, and nobody waits for that", a.ID)
			}
			delete(b.open, a.ID)
			b.answers++
		}
	}
}

// later lets time pass, and wakes whoever is due meanwhile, in order.
func (b *crowdBed) later(d time.Duration) {
	for end := b.now.Add(d); ; {
		next := -1
		for i := range b.wakes {
			if !b.wakes[i].At.After(end) && (next < 0 || b.wakes[i].At.Before(b.wakes[next].At)) {
				next = i
			}
		}
		if next < 0 {
			b.now = end
			return
		}
		w := b.wakes[next]
		b.wakes = append(b.wakes[:next], b.wakes[next+1:]...)
		if w.At.After(b.now) {
			b.now = w.At
		}
		b.event(&Event{Kind: EvWake, ID: w.ID, Gen: w.Gen})
	}
}

// happen does one thing of many that can happen.
func (b *crowdBed) happen(i int) {
	rt, any := b.rt, func(n int, what string) int { return rapid.IntRange(0, n-1).Draw(b.rt, what) }
	node := fmt.Sprint("n", any(4, "node"))
	fn := &b.fns[any(len(b.fns), "function")]
	switch any(13, "event") {
	case 0, 1, 2, 3:
		inv := &api.Invocation{
			ID: fmt.Sprint("i", i), Tenant: fn.Tenant, Function: fn.Name, Priority: uint8(any(10, "priority")), BudgetMs: int64(any(2, "budget") * 3000),
			Affinity: []string{"", "k", fmt.Sprint("k", i)}[any(3, "affinity")], Inputs: []api.Object{{Key: fmt.Sprint("o", any(30, "object")), Bytes: 3 << 20}},
		}
		if any(3, "retryable") > 0 {
			inv.IdemKey = "k"
		}
		b.open[inv.ID] = true
		full := float64(b.z.Waiting()) >= (classRoom[classLatency]+quietRoom)*float64(b.z.cfg.MaxWaiting)
		if b.event(&Event{Kind: EvArrive, Call: inv}); full && b.open[inv.ID] {
			rt.Fatalf("%s was accepted, and %d calls waited already", inv.ID, b.z.Waiting())
		}
	case 4, 5, 6:
		if len(b.runs) == 0 {
			return
		}
		k := any(len(b.runs), "ends")
		r := b.runs[k]
		b.runs = append(b.runs[:k], b.runs[k+1:]...)
		m := &wire.Completion{Node: r.node, Boot: r.boot, ID: r.id, Attempt: r.attempt, Epoch: b.z.Epoch(), RunMs: 20, InitMs: 100, Start: api.SandboxNone, MemUsedMB: any(1000, "memory")}
		m.Outcome = rapid.SampledFrom([]api.Outcome{
			api.OutcomeOK, api.OutcomeOK, api.OutcomeOK, api.OutcomeInternal, api.OutcomeFunctionError, api.OutcomeRefused, api.OutcomeCanceled,
		}).Draw(rt, "outcome")
		m.Sandboxes = []wire.SandboxReport{{Function: fn.Key(), State: api.SandboxPrepared, Idle: any(3, "idle"), MemoryMB: fn.MemoryMB}}
		m.Evicted = []string{fmt.Sprint("o", any(30, "evicted"))}
		b.event(&Event{Kind: EvCompletion, Completion: m})
	case 7, 8:
		hb := b.report(node, 1+any(4, "slots"), any(3, "warm"))
		hb.Boot, hb.SeenSeq, hb.Draining = uint64(1+any(8, "boot")/7), uint64(any(2, "seen"))<<40, any(8, "draining") == 0
		hb.Class = uint8(any(3, "class"))
		for k := range any(4, "objects") {
			hb.Objects = append(hb.Objects, api.Object{Key: fmt.Sprint("o", any(30, "held")+k), Bytes: 1 << 20})
		}
		b.event(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	case 9:
		if len(b.open) > 0 {
			b.event(&Event{Kind: EvCancel, ID: fmt.Sprint("i", any(i+1, "canceled")), Reason: "gone"})
		}
	case 10:
		switch any(4, "change") {
		case 0:
			fn.Version++
			b.event(&Event{Kind: EvFunctions, Functions: []api.Function{*fn}})
		case 1:
			b.event(&Event{Kind: EvFunctions, Deleted: []string{fn.ID()}})
		case 2:
			b.event(&Event{Kind: EvPrewarm, ID: fn.ID(), Count: 1 + any(5, "count")})
		case 3:
			b.event(&Event{Kind: EvGrant, Grant: &wire.Grant{From: fmt.Sprint("z", any(3, "zone")), To: "z", ID: uint64(i + 1), Epoch: b.z.Epoch(), Slots: 2, MeanMs: 10, TTLMs: 2000}})
		}
	case 11:
		if len(b.away) > 0 {
			a := b.away[0]
			b.away = b.away[1:]
			if rapid.Bool().Draw(rt, "refused there") {
				b.event(&Event{Kind: EvForwardDone, ID: a.ID, Answer: &wire.Answer{ID: a.ID, Code: api.CodeOverloaded, Refused: true}})
			} else {
				b.event(&Event{Kind: EvForwardDone, ID: a.ID, Answer: &wire.Answer{ID: a.ID, Code: api.CodeOK}})
			}
		}
	case 12:
		b.later(time.Duration(any(3000, "ms")) * time.Millisecond)
		b.event(&Event{Kind: EvTick})
	}
}

// Property (I11): whatever of that happens, accepted calls stay within their limits, and the indices say what there is. And when all is
// over (each call's time, the nodes, the functions) nothing is left of calls, sandboxes, objects and tenants. What stays on purpose has limits of its
// own: records, affinity keys, what nodes' caches pushed out, places of lost nodes, grants.
func TestNothingIsLeftWhenAllIsOver(t *testing.T) {
	var most, answers int
	seen := map[ActionKind]int{}
	rapid.Check(t, func(rt *rapid.T) {
		b := newCrowd(t, rt)
		for i := range rapid.IntRange(1, 150).Draw(rt, "events") {
			b.happen(i)
			most = max(most, b.z.UnderWay())
			if calls := b.z.UnderWay(); calls > b.z.cfg.MaxCalls || calls != len(b.open) {
				rt.Fatalf("%d calls under way, %d have no answer: want at most %d", calls, len(b.open), b.z.cfg.MaxCalls)
			}
			if err := b.z.Check(); err != nil {
				rt.Fatal(err)
			}
			if len(b.z.prewarms) > 4*4 || len(b.z.ring.byID) > b.z.cfg.Records {
				rt.Fatalf("%d prewarmings under way on 16 slots at most, %d records", len(b.z.prewarms), len(b.z.ring.byID))
			}
		}
		b.later(b.z.cfg.NodeTimeout + time.Second)
		b.event(&Event{Kind: EvTick})
		for range 30 { // each call waits until its time is over, is lost with its node, or gets no answer from elsewhere
			b.later(time.Minute)
			b.event(&Event{Kind: EvTick})
		}
		b.event(&Event{Kind: EvFunctions, Deleted: sortedKeys(b.z.fns)})
		if len(b.open) > 0 {
			rt.Fatalf("no answer to %v", b.open)
		}
		left := map[string]int{
			"calls": len(b.z.calls), "waiting": len(b.z.waiting), "queues": len(b.z.queues), "tenants waiting": len(b.z.tenantsWaiting), "tenants": len(b.z.tenants), "holdings": len(b.z.holdings),
			"objects": len(b.z.objects), "prewarmings": len(b.z.prewarms), "functions": len(b.z.fns), "that ask for sandboxes": len(b.z.asking), "backlog": int(b.z.backlogMs),
		}
		for _, n := range b.z.nodes {
			left["slots of "+n.name] = len(n.running) + n.reserved + len(n.reservedF) + n.fallbacks + len(n.slotOf) + len(n.objects) + n.busyMB + n.warming
		}
		if maps.DeleteFunc(left, func(_ string, n int) bool { return n == 0 }); len(left) > 0 {
			rt.Fatalf("left when all is over: %v", left)
		}
		answers += b.answers
		for k, n := range b.seen {
			seen[k] += n
		}
	})
	if testing.Short() {
		return // too few tries
	}
	if most < 20 || answers == 0 || seen[ActForward] == 0 || seen[ActNodeLost] == 0 || seen[ActCancelRun] == 0 {
		t.Errorf("at most %d calls at once, %d answers, actions %v: hardly anything was tested", most, answers, seen)
	}
}

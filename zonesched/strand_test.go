package zonesched

import (
	"math"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// big deploys a function of 600 MB beside the bed's, which hold 100.
func big(b *bed) {
	g, _ := b.z.Function("t/f")
	g.Name, g.MemoryMB = "big", 600
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{g}})
}

// host reports a node of 1200 MB with three slots and idle warm sandboxes of both functions.
func host(b *bed, name string, small, bigs int) {
	hb := b.report(name, 3, 0)
	hb.MemMB, hb.MemUsedMB = 1200, 100*small+600*bigs
	hb.Sandboxes = []wire.SandboxReport{{Function: "t/f@1", State: api.SandboxPrepared, Idle: small, MemoryMB: 100}, {Function: "t/big@1", State: api.SandboxPrepared, Idle: bigs, MemoryMB: 600}}
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
}

// candidatesOn are the ways in which node can serve a call of fn that arrives now.
func candidatesOn(b *bed, fn, node string) (out []policy.Candidate) {
	f := b.z.fns["t/"+fn]
	b.z.gather(b.now, &call{inv: &api.Invocation{ID: "x", Tenant: "t", Function: fn}, fn: f, arrived: b.now, since: b.now}, nil)
	for i := range b.z.cands {
		if k := b.z.cands[i]; b.z.nodes[k.Node].name == node {
			out = append(out, k)
		}
	}
	return out
}

// What a call strands is priced for as long as it runs, as far as slots are busy: on the node whose memory it takes up, and there only.
func TestPriceOfStrandedSlots(t *testing.T) {
	b := newBed(t, nil)
	big(b)
	host(b, "a", 0, 2)
	host(b, "b", 3, 1)
	price := func(fn, node string) (ms, exec float64) {
		ks := candidatesOn(b, fn, node)
		if len(ks) == 0 || !ks[0].Free {
			t.Fatalf("%s cannot start on %s", fn, node)
		}
		return ks[0].StrandMs(), ks[0].Est.MedianMs()
	}
	if ms, _ := price("big", "a"); ms != 0 {
		t.Errorf("%v ms where nothing runs", ms)
	}
	b.invoke("big1", "big")
	b.ran("big1", "a")
	b.invoke("f1", "f")
	b.ran("f1", "b")
	// Two of six slots are busy, with 350 MB each in the mean. One more large call on a leaves no memory for the third slot, where there
	// was some for 600/350 of two before. On b it leaves 500 MB for the one that is left.
	ms, exec := price("big", "a")
	if want := 2. / 6 * (1 - (2 - 600./350)) * exec; math.Abs(ms-want) > 1e-9 {
		t.Errorf("%v ms on a, want %v", ms, want)
	}
	if ms, _ := price("big", "b"); ms != 0 {
		t.Errorf("%v ms on b, which has room", ms)
	}
	if k := candidatesOn(b, "big", "a")[0]; math.Abs(k.ExtraMs()-ms) > 1e-9 {
		t.Errorf("it costs others %v ms, want %v", k.ExtraMs(), ms)
	}
	// Nodes of other labels have other calls: what these hold says nothing.
	hb := b.report("arm", 8, 8)
	hb.Labels.Arch = "arm64"
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	if again, _ := price("big", "a"); again != ms {
		t.Errorf("%v ms beside nodes of another kind, %v without", again, ms)
	}
	if err := b.z.Check(); err != nil {
		t.Error(err)
	}
	b.done("big1", "a")
	if ms, _ := price("big", "a"); ms != 0 {
		t.Errorf("%v ms after the other one has ended", ms)
	}
}

// A place that a call waits for is one with memory: until enough of those that run there have ended, and the slots that they leave and it
// cannot use are charged to it.
func TestLargeCallWaitsForMemoryToo(t *testing.T) {
	b := newBed(t, nil)
	big(b)
	host(b, "a", 3, 0)
	for _, id := range []string{"f1", "f2", "f3"} {
		b.invoke(id, "f")
		b.ran(id, "a")
		b.after(time.Millisecond)
	}
	n := b.z.byName["a"]
	later := func() policy.Candidate {
		ks := candidatesOn(b, "big", "a")
		if len(ks) != 1 || ks[0].Free {
			t.Fatalf("candidates %+v, want one that starts later", ks)
		}
		return ks[0]
	}
	times := n.freeTimes(b.now, nil, nil)
	if k := later(); k.StartMs != math.Max(times[0], .1) || k.Strands != 0 { // 900 MB are free
		t.Errorf("with memory to spare it starts in %v ms of %v and strands %v", k.StartMs, times, k.Strands)
	}
	// Of 760 MB, 460 are free: two have to end. Three slots are busy, of 100 MB each; of the two it needs one, and leaves 60 MB.
	n.memMB = 760
	if k := later(); k.StartMs != times[1] || math.Abs(k.Strands-.4) > 1e-9 {
		t.Errorf("it starts in %v ms of %v and strands %v, want after the second and .4", k.StartMs, times, k.Strands)
	}
	if allocs := testing.AllocsPerRun(50, func() { n.roomAfter(b.now, 600) }); allocs > 0 {
		t.Errorf("%v allocations to find that out", allocs)
	}
	// A sandbox of its own that is busy leaves all that it needs: nothing but its slot is taken, and one call more is none the worse.
	n.memMB = 1200
	for _, id := range []string{"f1", "f2", "f3"} {
		b.done(id, "a")
	}
	b.invoke("big1", "big")
	b.ran("big1", "a")
	if ks := candidatesOn(b, "big", "a"); len(ks) != 2 || ks[1].Free || ks[1].Sandbox != api.SandboxWarm || ks[1].Strands != 0 {
		t.Errorf("candidates %+v, want a second one, warm when it frees, that strands nothing", ks)
	}
}

// In a full zone a sandbox that frees goes to the next call of its function, unless that would strand slots and the call has a better hope.
func TestFullZoneDoesNotStrandSlots(t *testing.T) {
	rule, err := policy.New("rubato", policy.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	c := policy.Call{DeadlineMs: math.Inf(1), Hope: -1, Load: policy.Load{Nodes: 2, Slots: 4, Waiting: 10}}
	k := policy.Candidate{Free: true, Sandbox: api.SandboxWarm, Est: api.Estimate{Mu: math.Log(100), Sigma: .1, UpperMs: 150}}
	ok, first := rule.Admit(&c, &k, 150, 100)
	k.Strands = .9
	if again, index := rule.Admit(&c, &k, 150, 100); !ok || again {
		t.Errorf("admitted: %v, and %v with index %v (%v) where it strands a slot", ok, again, index, first)
	}
	// If it hopes for nothing better it has a claim, behind whatever strands none.
	if again, index := rule.Admit(&c, &k, 1000, 100); !again || index >= first {
		t.Errorf("admitted: %v, with index %v, that of a call which strands none is %v", again, index, first)
	}
}

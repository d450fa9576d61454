package zonesched

import (
	"math"
	"testing"

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

// What a call strands is priced for as long as it runs, as far as slots are busy: on the node whose memory it takes up, and there only.
func TestPriceOfStrandedSlots(t *testing.T) {
	b := newBed(t, nil)
	big(b)
	host(b, "a", 0, 2)
	host(b, "b", 3, 1)
	price := func(fn, node string) (ms, exec float64) {
		f := b.z.fns["t/"+fn]
		c := &call{inv: &api.Invocation{ID: "x", Tenant: "t", Function: fn}, fn: f, arrived: b.now, since: b.now}
		b.z.gather(b.now, c, nil)
		for i := range b.z.cands {
			if k := &b.z.cands[i]; b.z.nodes[k.Node].name == node && k.Free {
				return k.StrandMs, k.Est.MedianMs()
			}
		}
		t.Fatalf("no candidate for %s on %s", fn, node)
		return 0, 0
	}
	if ms, _ := price("big", "a"); ms != 0 {
		t.Errorf("%v ms where nothing runs", ms)
	}
	b.invoke("big1", "big")
	b.ran("big1", "a")
	b.invoke("f1", "f")
	b.ran("f1", "b")
	// Two of six slots are busy, with 350 MB each in the mean. One more large call on a leaves no memory for the third slot, where there
	// was some for 600/350 of two before. On b there are 600 MB left for the slot that is left.
	ms, exec := price("big", "a")
	if want := 2. / 6 * (1 - (2 - 600./350)) * exec; math.Abs(ms-want) > 1e-9 {
		t.Errorf("%v ms on a, want %v", ms, want)
	}
	for _, at := range []struct{ fn, node string }{{"big", "b"}, {"f", "a"}, {"f", "b"}} {
		if ms, _ := price(at.fn, at.node); ms != 0 {
			t.Errorf("%s on %s: %v ms, though it leaves room", at.fn, at.node, ms)
		}
	}
	if err := b.z.Check(); err != nil {
		t.Error(err)
	}
	b.done("big1", "a")
	if ms, _ := price("big", "a"); ms != 0 {
		t.Errorf("%v ms after the other one has ended", ms)
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
	k.StrandMs = 90
	if again, index := rule.Admit(&c, &k, 150, 100); !ok || again {
		t.Errorf("admitted: %v, and %v with index %v (%v) where it strands a slot", ok, again, index, first)
	}
	// If it hopes for nothing better it has a claim, behind whatever strands none.
	if again, index := rule.Admit(&c, &k, 1000, 100); !again || index >= first {
		t.Errorf("admitted: %v, with index %v, that of a call which strands none is %v", again, index, first)
	}
}

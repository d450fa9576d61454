package zonesched

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// Whoever follows the calls that end sees each once, in order of ends, with what it brought along and how it went.
func TestEndedCallsAreToldOnceInOrder(t *testing.T) {
	b := newBed(t, nil)
	b.node("n1", 2, 2)
	_, next, _ := b.z.Ended(0, 10)
	b.invoke("first", "f", func(i *api.Invocation) {
		i.Inputs, i.PayBytes, i.BudgetMs, i.Priority, i.Affinity = []api.Object{{Key: "t/secret@0", Bytes: 5}}, 7, 900, 8, "a"
	})
	b.after(time.Millisecond)
	b.invoke("second", "f")
	b.done("second", "n1")
	b.after(9 * time.Millisecond)
	b.done("first", "n1", func(c *wire.Completion) { c.Start, c.InitMs = api.SandboxPrepared, 3 })
	got, next, lost := b.z.Ended(next, 10)
	if len(got) != 2 || lost != 0 || got[0].ID != "second" || got[1].ID != "first" {
		t.Fatalf("%d lost, ended: %+v", lost, got)
	}
	d := got[1]
	if d.Arrived != t0 || d.PayloadBytes != 7 || d.BudgetMs != 900 || d.Priority != 8 || d.Affinity == 0 || d.Start != "prepared" || d.ExecMs != 13 || d.TotalMs != 10 || d.Candidates != nil {
		t.Errorf("recorded %+v", d)
	}
	if len(d.Inputs) != 1 || d.Inputs[0] != (Input{hashOf("t/secret@0"), 5}) {
		t.Errorf("recorded inputs %+v", d.Inputs)
	}
	if got, _, _ = b.z.Ended(next, 10); len(got) != 0 {
		t.Errorf("told again: %+v", got)
	}
}

// What was overwritten before it was read is counted.
func TestOverwrittenEndsAreCounted(t *testing.T) {
	b := newBed(t, func(c *Config) { c.Records = 4 })
	b.node("n1", 1, 1)
	_, next, _ := b.z.Ended(0, 10)
	for _, id := range strings.Fields("a b c d e f") {
		b.invoke(id, "f")
		b.done(id, "n1")
	}
	got, after, lost := b.z.Ended(next, 3)
	if lost != 2 || len(got) != 3 || got[0].ID != "c" {
		t.Fatalf("%d lost, then %+v", lost, got)
	}
	if got, _, lost = b.z.Ended(after, 3); lost != 0 || len(got) != 1 || got[0].ID != "f" {
		t.Fatalf("%d lost, then %+v", lost, got)
	}
}

// A call that outlives its record has another one at its end, and one that was not taken has one too.
func TestLongAndRefusedCallsAreRecorded(t *testing.T) {
	b := newBed(t, func(c *Config) { c.Records, c.MaxCalls, c.MaxWaiting = 4, 2, 2 })
	b.node("n1", 2, 2)
	_, next, _ := b.z.Ended(0, 10)
	b.invoke("long", "f")
	for _, id := range strings.Fields("a b c d e f") {
		b.invoke(id, "f")
		b.done(id, "n1")
	}
	b.invoke("other", "f")
	b.invoke("other", "f")   // being worked on
	b.invoke("refused", "f") // the third
	b.invoke("nobody", "unheard-of")
	b.done("long", "n1")
	got, _, lost := b.z.Ended(next, 10)
	if lost != 5 || len(got) != 3 || got[1].ID != "refused" || got[2].ID != "long" {
		t.Fatalf("%d lost, ended %+v", lost, got)
	}
	if d := got[1]; d.Kind != "refused" || d.Code != api.CodeOverloaded || !strings.Contains(d.Explain(), "did not take it") {
		t.Errorf("refused: %+v, %s", d, d.Explain())
	}
	if d := got[2]; !d.Ended || d.Code != api.CodeOK || d.Arrived != t0 || !strings.Contains(d.Explain(), "no longer kept") {
		t.Errorf("long: %+v, %s", d, d.Explain())
	}
	if d, ok := b.z.Decision("other"); !ok || d.Ended {
		t.Errorf("the record of a call that is being worked on: %+v", d)
	}
}

// Property: whatever the candidates cost, those that a record keeps are the cheapest, besides the two that the rule spoke of.
func TestTheCheapestAreRecorded(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBed(t, nil)
		n := rapid.IntRange(1, 32).Draw(rt, "candidates")
		for i := range n {
			b.node(fmt.Sprint("n", i), 1, 0)
		}
		var all []float64
		for i := range n {
			start := float64(rapid.IntRange(0, 40).Draw(rt, "start_ms"))
			b.z.cands = append(b.z.cands[:i], policy.Candidate{Node: int32(i), StartMs: start, Est: api.Estimate{Mu: 1}})
			all = append(all, b.z.cands[i].CostMs())
		}
		take := rapid.IntRange(0, n-1).Draw(rt, "take")
		f := b.z.fns["t/f"]
		c := &call{inv: &api.Invocation{ID: "i", Tenant: "t", Function: "f"}, fn: f}
		b.z.remember(b.now, c, &policy.Call{}, &policy.Choice{Verb: policy.Run, Take: take, Now: -1})
		d, _ := b.z.Decision("i")
		if len(d.Candidates) > maxRecorded || d.Candidates[d.Best].Node != fmt.Sprint("n", take) {
			rt.Fatalf("%d candidates, the choice is %v", len(d.Candidates), d.Candidates[d.Best])
		}
		var others []float64
		for i := range d.Candidates {
			if i != d.Best {
				others = append(others, d.Candidates[i].CostMs)
			}
		}
		slices.Sort(others)
		slices.Sort(all)
		// The choice may itself be one of the cheapest: then the next one stands in its place.
		for i, cost := range others {
			if cost > all[min(i+1, len(all)-1)] {
				rt.Fatalf("%v is kept of %v", others, all)
			}
		}
		if want := min(n-1, maxRecorded-3); len(others) < want {
			rt.Fatalf("%d others are kept of %d", len(others), n)
		}
	})
}

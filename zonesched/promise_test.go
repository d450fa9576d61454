package zonesched

import (
	"fmt"
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

package zonesched

import (
	"fmt"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// A function that has paid for it gets a sandbox on hardware that it has not met, once for each class, and not at others' cost.
func TestFunctionsMeetHardware(t *testing.T) {
	type bedOf = func(b *bed)
	quiet := func(*bed) {}
	report := func(b *bed, change func(*wire.Heartbeat)) {
		hb := &wire.Heartbeat{Zone: "z", Node: "rare", Boot: 1, Epoch: b.z.Epoch(), Slots: 4, MemMB: 1000, Class: 2}
		change(hb)
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	}
	for name, c := range map[string]struct {
		cfg    func(*Config)
		before bedOf
		runMs  float64 // of ten calls; a start takes 100
		want   int
	}{
		"paid for":           {nil, quiet, 120, 1},
		"not yet":            {nil, quiet, 50, 0},
		"not wanted":         {func(c *Config) { c.Scout = 0 }, quiet, 1000, 0},
		"no memory to spare": {nil, func(b *bed) { report(b, func(hb *wire.Heartbeat) { hb.MemUsedMB = 950 }) }, 1000, 0},
		"met already":        {nil, func(b *bed) { report(b, func(hb *wire.Heartbeat) { hb.Class = 1 }) }, 1000, 0},
		"an earlier leader's": {nil, func(b *bed) {
			report(b, func(hb *wire.Heartbeat) {
				hb.Sandboxes = []wire.SandboxReport{{Function: "t/f@1", State: api.SandboxPrepared}}
			})
		}, 1000, 0},
		"it drains":       {nil, func(b *bed) { report(b, func(hb *wire.Heartbeat) { hb.Draining = true }) }, 1000, 0},
		"nobody learns":   {nil, func(b *bed) { b.step(&Event{Kind: EvModel}) }, 1000, 0},
		"rule is another": {func(c *Config) { c.Policy = "least-loaded" }, quiet, 1000, 0},
		"rule is off": {nil, func(b *bed) {
			b.step(&Event{Kind: EvPolicy, PolicyName: "rubato", PolicyConfig: policy.DefaultConfig(), Mode: Mode{Kind: ModeShadow}})
		}, 1000, 0},
		"forest is not believed": {nil, func(b *bed) { b.z.trust.lost = true }, 1000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, c.cfg)
			hb := b.report("common", 4, 1)
			hb.Class = 1
			b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
			report(b, func(*wire.Heartbeat) {})
			c.before(b)
			b.z.fns["t/f"].coldMs.add(100)
			b.z.fns["t/f"].met.add(1)
			for i := range 10 {
				id := fmt.Sprintf("i%d", i)
				b.invoke(id, "f")
				r := find(b.acts, ActRun, id)
				if r == nil {
					t.Fatalf("%s does not run: %s", id, text(b.acts))
				}
				b.after(time.Duration(c.runMs) * time.Millisecond)
				b.done(id, r.Node, func(m *wire.Completion) { m.RunMs = c.runMs })
			}
			if got := int(b.z.Counters().Scouted); got != c.want || got != int(b.z.Counters().Prewarmed) {
				t.Errorf("scouted %d times, prewarmed %d, want %d", got, b.z.Counters().Prewarmed, c.want)
			}
			if err := b.z.Check(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A scout that failed is sent again, and paid for again. A class that comes later is met, too.
func TestScoutsFail(t *testing.T) {
	b := newBed(t, nil)
	node := func(name string, class uint8) {
		hb := b.report(name, 4, 0)
		hb.Class = class
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
	}
	f := b.z.fns["t/f"]
	calls, sent := 0, 0
	call := func() (scout *Action) {
		id := fmt.Sprintf("i%d", calls)
		calls++
		b.invoke(id, "f")
		r := find(b.acts, ActRun, id)
		if r == nil {
			t.Fatalf("%s does not run: %s", id, text(b.acts))
		}
		b.after(500 * time.Millisecond)
		acts := b.done(id, r.Node, func(m *wire.Completion) { m.RunMs, m.InitMs, m.Start = 400, 100, api.SandboxNone })
		for i := range acts {
			if acts[i].Kind == ActRun && acts[i].Run.Prewarm {
				sent++
				return &acts[i]
			}
		}
		return nil
	}
	node("common", 1)
	for range 3 {
		if a := call(); a != nil {
			t.Fatalf("scouted where there is one class: %s", text([]Action{*a}))
		}
	}
	node("rare", 2)
	a := call()
	if a == nil || a.Node != "rare" {
		t.Fatalf("not scouted: %+v", a)
	}
	before := f.scoutedMs
	b.done(a.ID, a.Node, func(m *wire.Completion) {
		m.Outcome, m.Code, m.Sandboxes = api.OutcomeInternal, api.CodeInternal, []wire.SandboxReport{{Function: "t/f@1"}}
	})
	if a = call(); a == nil || a.Node != "rare" || f.scoutedMs <= before {
		t.Fatalf("not scouted again, or for nothing: %+v, %v ms", a, f.scoutedMs)
	}
	b.done(a.ID, a.Node)
	for range 10 {
		call()
	}
	if sent != 2 {
		t.Errorf("scouted %d times, want twice", sent)
	}
	if err := b.z.Check(); err != nil {
		t.Error(err)
	}
}

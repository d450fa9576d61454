package zonesched

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// A function that has paid for it gets a sandbox on hardware that it has not met, once for each class, and not where others need the room.
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
		"it drains": {nil, func(b *bed) { report(b, func(hb *wire.Heartbeat) { hb.Draining = true }) }, 1000, 0},
		"slots are taken": {nil, func(b *bed) {
			hb := b.report("busy", 16, 0)
			for i := range 16 {
				hb.Running = append(hb.Running, wire.RunningReport{ID: fmt.Sprint("r", i), Function: "t/deadline@1"})
			}
			hb.Class = 1
			b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
			report(b, func(hb *wire.Heartbeat) { hb.Slots = 2 })
		}, 1000, 0},
		"its only slot":              {nil, func(b *bed) { report(b, func(hb *wire.Heartbeat) { hb.Slots = 1 }) }, 1000, 0},
		"somebody's start is there":  {nil, func(b *bed) { b.z.prewarm(b.now, b.z.fns["t/deadline"], b.z.byName["rare"], 0, nil) }, 1000, 0},
		"another start is under way": {nil, func(b *bed) { b.z.prewarm(b.now, b.z.fns["t/f"], b.z.byName["common"], 0, nil) }, 1000, 0},
		"a function of its own mode": {nil, func(b *bed) {
			b.step(&Event{Kind: EvPolicy, PolicyName: "rubato", PolicyConfig: policy.DefaultConfig(), Modes: map[string]Mode{"t/f": {Kind: ModeOff}}})
		}, 1000, 0},
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
			if got := int(b.z.Counters().Scouted); got != c.want {
				t.Errorf("scouted %d times, want %d", got, c.want)
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
	if f.warmFails != 0 || !f.warmAt.IsZero() {
		t.Error("what the function asks for has to wait for its scouts")
	}
	if b.invoke("soon", "f"); find(b.acts, ActRun, "soon") == nil {
		t.Fatal(text(b.acts))
	}
	if acts := b.done("soon", find(b.acts, ActRun, "soon").Node, func(m *wire.Completion) { m.RunMs = 400 }); strings.Contains(text(acts), "prewarm") {
		t.Fatalf("scouted again at once: %s", text(acts))
	}
	if a = call(); a == nil || a.Node != "rare" || f.scoutedMs <= before {
		t.Fatalf("not scouted again, or for nothing: %+v, %v ms", a, f.scoutedMs)
	}
	before = f.scoutedMs
	b.done(a.ID, a.Node, func(m *wire.Completion) { m.Start, m.InitMs = api.SandboxNone, 3000 })
	if more := f.scoutedMs - before; more < 2000 || f.freshMs.n == 0 {
		t.Errorf("a start of 3 s is charged %v ms more", more)
	}
	for range 10 {
		call()
	}
	if sent != 2 {
		t.Errorf("scouted %d times, want twice", sent)
	}

	// A new version has been nowhere.
	v2 := *f.spec
	v2.Version++
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{v2}})
	if f.met != 0 {
		t.Errorf("a new version has met %b", f.met)
	}
	if err := b.z.Check(); err != nil {
		t.Error(err)
	}
}

// A call that ends after its function was deleted sends nobody out.
func TestDeletedFunctionsMeetNothing(t *testing.T) {
	for _, gone := range []bool{false, true} {
		b := newBed(t, nil)
		for class, name := range []string{"common", "rare"} {
			hb := b.report(name, 4, 1-class)
			hb.Class = uint8(class + 1)
			b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
		}
		b.z.fns["t/f"].coldMs.add(100)
		b.invoke("i", "f")
		b.ran("i", "common")
		if gone {
			b.step(&Event{Kind: EvFunctions, Deleted: []string{"t/f"}})
		}
		b.done("i", "common", func(m *wire.Completion) { m.RunMs = 5000 })
		if got := b.z.Counters().Scouted; (got == 1) == gone {
			t.Errorf("deleted %v: scouted %d times", gone, got)
		}
	}
}

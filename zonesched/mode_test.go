package zonesched

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

func TestParseMode(t *testing.T) {
	for text, want := range map[string]Mode{
		"on": {ModeOn, -1}, "off": {ModeOff, -1}, "shadow": {ModeShadow, -1}, "canary": {ModeCanary, -1}, "canary=0.25": {ModeCanary, .25}, "canary=0": {ModeCanary, 0},
	} {
		if got, err := ParseMode(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v (%s), %v", text, got, got, err)
		}
	}
	for text, want := range map[string]float64{"canary=5%": .05, "canary=100%": 1} {
		if m, err := ParseMode(text); err != nil || m != (Mode{ModeCanary, want}) {
			t.Errorf("%s: %+v, %v", text, m, err)
		}
	}
	for _, text := range []string{"", "of", "on=1", "canary=2", "canary=NaN", "canary=-1", "canary=", "canary=%", "canary=101%", "canary=5%%"} {
		if m, err := ParseMode(text); err == nil {
			t.Errorf("%q is read as %+v", text, m)
		}
	}
	for name, edit := range map[string]func(*Config){
		"mode": func(c *Config) { c.Mode = "maybe" }, "a share in the mode": func(c *Config) { c.Mode = "canary=.1" },
		"canary": func(c *Config) { c.Canary = 1.1 }, "a fallback that waits": func(c *Config) { c.Fallback = "rubato" }, "hedge_budget": func(c *Config) { c.HedgeBudget = .5 },
	} {
		c := DefaultConfig()
		if edit(&c); c.Validate() == nil {
			t.Errorf("a bad %s is accepted", name)
		}
	}
}

// A share of ids is that share, the draws of one id under two salts are independent, and the same id is always drawn alike.
func TestUnitIsEven(t *testing.T) {
	const n = 20000
	a, both := 0, 0
	for i := range n {
		id := fmt.Sprintf("i%05d", i)
		x := unit(id, saltCanary) < .1
		if x != (unit(id, saltCanary) < .1) {
			t.Fatal("drawn unlike")
		}
		if x {
			a++
			if unit(id, saltProbe) < .5 {
				both++
			}
		}
	}
	if a < n*9/100 || a > n*11/100 || both < a*4/10 || both > a*6/10 {
		t.Errorf("of %d ids %d are below .1, of them %d below .5 under another salt", n, a, both)
	}
}

// Property: in mode off and in shadow, whatever happens, no call waits while a node in service has a free slot; in every mode
// the indices stay true.
func TestOffNeverWaitsBesideAFreeSlot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.SampledFrom([]string{ModeOff, ModeShadow, ModeOn, ModeCanary}).Draw(t, "mode")
		fallback := rapid.SampledFrom([]string{"least-loaded", "round-robin", "hiku", "power-of-two"}).Draw(t, "fallback")
		b := newBed(nil, func(c *Config) { c.Mode, c.Canary, c.Fallback = start, .5, fallback })
		kind := start
		where := map[string]string{}
		for _, n := range []string{"a", "b", "c"} {
			b.node(n, rapid.IntRange(1, 3).Draw(t, "slots"), rapid.IntRange(0, 1).Draw(t, "warm"))
		}
		hear := func(acts []Action) {
			for i := range acts {
				switch acts[i].Kind {
				case ActRun:
					where[acts[i].ID] = acts[i].Node
				case ActAnswer:
					delete(where, acts[i].ID)
				}
			}
			if err := b.z.Check(); err != nil {
				t.Fatal(err)
			}
			if kind != ModeOff && kind != ModeShadow {
				return
			}
			for _, n := range b.z.nodes {
				if len(b.z.waiting) > 0 && n.usable(b.now) && n.free() > 0 {
					t.Fatalf("mode %s: %d calls wait, and %s has %d slots free", kind, len(b.z.waiting), n.name, n.free())
				}
			}
		}
		for i := range rapid.IntRange(5, 60).Draw(t, "steps") {
			b.after(time.Duration(rapid.IntRange(0, 30).Draw(t, "ms")) * time.Millisecond)
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				kind = rapid.SampledFrom([]string{ModeOff, ModeShadow, ModeOn, ModeCanary}).Draw(t, "to")
				hear(b.step(&Event{Kind: EvPolicy, PolicyName: "rubato", PolicyConfig: b.z.cfg.PolicyConfig, Mode: Mode{Kind: kind, Share: .5}}))
			case 1, 2, 3, 4:
				hear(b.invoke(fmt.Sprintf("i%d", i), "f"))
			case 5:
				hear(b.step(&Event{Kind: EvTick}))
			default:
				for _, id := range sortedKeys(where) {
					hear(b.done(id, where[id]))
					break
				}
			}
		}
	})
}

// Calls of both sides of a canary wait in one order: none starves while slots free.
func TestCanaryStarvesNobody(t *testing.T) {
	b := newBed(t, func(c *Config) { c.Mode, c.Canary = ModeCanary, .5 })
	b.node("a", 1, 1)
	b.invoke("first", "f")
	running := "first"
	longest := map[string]time.Duration{}
	since := map[string]time.Time{}
	for i := range 20 { // as many wait all the time
		id := fmt.Sprintf("w%03d", i)
		since[id] = b.now
		b.invoke(id, "f")
	}
	for i := range 400 {
		id := fmt.Sprintf("i%03d", i)
		since[id] = b.now
		b.invoke(id, "f")
		b.after(10 * time.Millisecond)
		b.done(running, "a")
		a := find(b.acts, ActRun, "")
		if a == nil {
			t.Fatalf("the slot went to nobody: %v", text(b.acts))
		}
		running = a.ID
		side := "fallback"
		if b.z.ruled(&call{inv: &api.Invocation{ID: running}}, b.z.Mode()) {
			side = "rule"
		}
		longest[side] = max(longest[side], b.now.Sub(since[running]))
	}
	if longest["rule"] == 0 || longest["fallback"] == 0 || longest["rule"] > 300*time.Millisecond || longest["fallback"] > 300*time.Millisecond {
		t.Errorf("longest waits by side: %v, want about 21 calls' time on both", longest)
	}
}

// A function with a mode of its own is decided by the rule though the zone is in shadow, where freed slots go by the fallback's order, which
// asks for no estimates: whoever is held back for a warm sandbox does not take a cold slot that frees for a quick one.
func TestOwnModeInAShadowZoneIsEstimated(t *testing.T) {
	b := newBed(t, nil)
	b.node("warm", 1, 1)
	b.node("bare", 2, 0)
	b.step(&Event{Kind: EvPolicy, PolicyName: "rubato", PolicyConfig: b.z.cfg.PolicyConfig, Mode: Mode{Kind: ModeShadow}, Modes: map[string]Mode{"t/f": {Kind: ModeOn}}})
	b.invoke("i1", "f")
	b.ran("i1", "warm")
	b.invoke("other", "deadline") // takes a slot of bare
	b.ran("other", "bare")
	b.invoke("i2", "f")
	if b.z.calls["i2"].state != callWaiting || !b.z.calls["i2"].delaying {
		t.Fatalf("i2 is not held back: %s", text(b.acts))
	}
	b.after(time.Millisecond)
	if a := find(b.done("other", "bare", func(c *wire.Completion) { c.Sandboxes = nil }), ActRun, "i2"); a != nil {
		t.Errorf("i2 took a cold slot on %s", a.Node)
	}
	if a := find(b.done("i1", "warm"), ActRun, "i2"); a == nil || a.Node != "warm" {
		t.Errorf("i2 did not take what it waited for: %s", text(b.acts))
	}
}

// A rule that gives freed slots by order needs no estimates to compare claims; whoever gets the slot has one all the same. When an
// operator changes the rule, the next one's needs count.
func TestWhoGetsAFreedSlotIsEstimated(t *testing.T) {
	for _, rules := range [][2]string{{"least-loaded", "rubato"}, {"rubato", "least-loaded"}} {
		b := newBed(t, func(c *Config) { c.Policy = rules[0] })
		b.node("a", 1, 1)
		next := func(running, waits string) {
			t.Helper()
			b.invoke(running, "f")
			b.ran(running, "a")
			b.invoke(waits, "f")
			b.after(time.Millisecond)
			acts := b.done(running, "a")
			if r := find(acts, ActRun, waits); r == nil || r.Run.Echo.Source == api.SourceNone || r.Run.Echo.Mu == 0 {
				t.Fatalf("%s with %s: %s", waits, b.z.cfg.Policy, text(acts))
			}
			b.done(waits, "a")
		}
		next("i1", "i2")
		b.step(&Event{Kind: EvPolicy, PolicyName: rules[1], PolicyConfig: b.z.cfg.PolicyConfig})
		if want := rules[1] == "least-loaded"; b.z.byOrder != want {
			t.Errorf("after %s %s goes by order: %v", rules[0], rules[1], b.z.byOrder)
		}
		next("i3", "i4")
	}
}

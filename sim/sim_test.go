package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/nodeagent"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

func config(t *rapid.T, seed uint64) Config {
	zone := zonesched.DefaultConfig()
	zone.Zone, zone.Seed = "z", max(seed, 1) // 0 would be drawn by the world
	zone.Policy = rapid.SampledFrom(policy.Names()).Draw(t, "policy")
	zone.Mode, zone.Canary = rapid.SampledFrom([]string{zonesched.ModeOn, zonesched.ModeOn, zonesched.ModeCanary, zonesched.ModeShadow, zonesched.ModeOff}).Draw(t, "mode"), .5
	zone.MaxWaiting = rapid.IntRange(4, 500).Draw(t, "max_waiting")
	nodeCfg := nodeagent.DefaultConfig()
	nodeCfg.Slots = rapid.IntRange(1, 4).Draw(t, "slots")
	nodeCfg.MemoryMB = rapid.SampledFrom([]int{256, 512, 2048}).Draw(t, "memory")
	nodeCfg.CacheBytes = 20 << 20
	nodeCfg.Artifacts = rapid.IntRange(1, 4).Draw(t, "artifacts")
	nodeCfg.LinkMbps = 400
	cfg := Config{
		Seed: seed, Zones: []Zone{{Core: zone, Nodes: []Nodes{{Count: rapid.IntRange(1, 6).Draw(t, "nodes"), Core: nodeCfg}}}}, Latency: time.Millisecond,
		Loss: rapid.SampledFrom([]float64{0, 0, .02, .2}).Draw(t, "loss"), Heartbeat: 500 * time.Millisecond, Record: true, Keep: true,
	}
	if rapid.Bool().Draw(t, "labels") { // some nodes have what f2 needs
		ssd := Nodes{Count: rapid.IntRange(1, 2).Draw(t, "ssd_nodes"), Core: nodeCfg}
		ssd.Core.Tags = []string{"ssd"}
		cfg.Zones[0].Nodes = append(cfg.Zones[0].Nodes, ssd)
	}
	for i, run := range []time.Duration{5 * time.Millisecond, 80 * time.Millisecond, 700 * time.Millisecond} {
		cfg.Functions = append(cfg.Functions, Function{
			Spec: api.Function{
				Tenant: "t", Name: fmt.Sprintf("f%d", i), Version: 1, Runtime: api.RuntimeProcess, Artifact: strings.Repeat(fmt.Sprint(i), 64),
				ArtifactBytes: 1 << 20, MemoryMB: 128, Timeout: 3 * time.Second, Objective: api.Objective{Deadline: time.Duration(i) * 500 * time.Millisecond},
			},
			Prepare: 20 * time.Millisecond, Start: 10 * time.Millisecond, Run: run, Spread: .3, Crash: .02, Hang: .01,
		})
		cfg.Functions[i].Spec.MinWarm = rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(t, "min_warm")
	}
	if len(cfg.Zones[0].Nodes) > 1 {
		cfg.Functions[2].Spec.Needs = api.Labels{Tags: []string{"ssd"}}
	}
	return cfg
}

func arrivals(w *World, rng *rand.Rand, n int, over time.Duration) (calls []*api.Invocation) {
	for i := range n {
		inv := &api.Invocation{
			ID: fmt.Sprintf("i%04d", i), Tenant: "t", Function: fmt.Sprintf("f%d", rng.IntN(3)),
			Async: rng.IntN(4) == 0, IdemKey: []string{"", "", "", fmt.Sprint("k", i)}[rng.IntN(4)], BudgetMs: []int64{0, 0, 400, 5000}[rng.IntN(4)],
		}
		if k := rng.IntN(12); k < 8 {
			inv.Inputs = []api.Object{{Key: fmt.Sprintf("t/o%d", k), Bytes: int64(k) << 20}}
		}
		at := time.Duration(rng.Float64() * float64(over))
		w.At(0, at, func() { w.Invoke(0, inv) })
		if rng.IntN(10) == 0 {
			w.At(0, at+time.Duration(rng.IntN(1000))*time.Millisecond, func() { w.Cancel(0, inv.ID) })
		}
		calls = append(calls, inv)
	}
	return calls
}

// Property: whatever the schedule of arrivals, completions, refusals, lost messages and node losses, every accepted
// invocation ends with exactly one answer, and no node uses more slots or memory than it has. A call that may not run again has been begun at
// most once, on all nodes together, one that may at most as often as it is tried, and one that succeeded at least once. (No function is
// idempotent here, so nothing is hedged.)
func TestEveryCallIsAnsweredOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		cfg := config(t, seed)
		w, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		n := rapid.IntRange(1, 150).Draw(t, "calls")
		rng := rand.New(rand.NewPCG(seed, 1))
		calls := arrivals(w, rng, n, 5*time.Second)
		for range rapid.IntRange(0, 4).Draw(t, "crashes") {
			i, at := rng.IntN(w.Nodes(0)), time.Duration(rng.IntN(5000))*time.Millisecond
			w.At(0, at, func() { w.Crash(0, i) })
			w.At(0, at+time.Duration(rng.IntN(8000))*time.Millisecond, func() { w.Restart(0, i) })
		}
		w.Run(10 * time.Minute)
		if v := w.Violation(); v != "" {
			t.Fatal(v)
		}
		if err := w.Core(0).Check(); err != nil {
			t.Fatal(err)
		}
		if answers, zone := w.Answers(0), w.Core(0); len(answers) != n || !zone.Quiet() || zone.Waiting() != 0 || w.Open() != 0 {
			t.Fatalf("%d of %d calls answered, %d wait, %d callers wait", len(answers), n, zone.Waiting(), w.Open())
		}
		for id, times := range w.Answers(0) {
			if times != 1 {
				t.Fatalf("call %s was answered %d times", id, times)
			}
		}
		for _, inv := range calls {
			most, runs := 1, w.Executions(0)[inv.ID]
			if inv.Retryable() {
				most = cfg.Zones[0].Core.MaxAttempts
			}
			if runs > most || runs == 0 && w.Result(0, inv.ID).Code == "" {
				t.Fatalf("call %s (async %v) was begun %d times, answered %+v", inv.ID, inv.Async, runs, w.Result(0, inv.ID))
			}
		}
	})
}

// Property: a zone's recorded events, fed to a new core, give the identical actions.
func TestReplayGivesTheSameActions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := config(t, rapid.Uint64().Draw(t, "seed"))
		w, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		arrivals(w, rand.New(rand.NewPCG(cfg.Seed, 1)), rapid.IntRange(1, 100).Draw(t, "calls"), 3*time.Second)
		w.Run(30 * time.Second)
		again, err := zonesched.New(cfg.Zones[0].Core)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range w.Steps(0) {
			ev := s.Event
			if ev.Call != nil { // the core counts attempts in the call: give it back as it arrived
				c := *ev.Call
				c.Attempt = 0
				ev.Call = &c
			}
			acts := again.Step(s.At, &ev, nil)
			if len(acts) != len(s.Actions) {
				t.Fatalf("step %d (%s): %d actions, were %d", i, ev.String(), len(acts), len(s.Actions))
			}
			for k := range acts {
				if got := acts[k].String(); got != s.Actions[k] {
					t.Fatalf("step %d (%s): %s, was %s", i, ev.String(), got, s.Actions[k])
				}
			}
		}
	})
}

// A world without faults answers everything with success, whatever the rule.
func TestCalmWorldSucceeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := config(t, rapid.Uint64().Draw(t, "seed"))
		cfg.Loss, cfg.Zones[0].Core.MaxWaiting = 0, 1000
		for i := range cfg.Functions {
			cfg.Functions[i].Crash, cfg.Functions[i].Hang = 0, 0
			cfg.Functions[i].Spec.Timeout = time.Minute
		}
		w, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		w.Run(time.Second) // nodes report
		for i := range 50 {
			w.Invoke(0, &api.Invocation{ID: fmt.Sprintf("i%d", i), Tenant: "t", Function: "f1"})
		}
		w.Run(5 * time.Minute)
		for i := range 50 {
			if a := w.Result(0, fmt.Sprintf("i%d", i)); a == nil || a.Code != api.CodeOK {
				t.Fatalf("call %d: %+v", i, a)
			}
		}
	})
}

// Property: with predictions that make waiting worth while, and whatever is lost, refused or crashes on the way, a call without
// a deadline is held back for DelayMax in sum at most, and one whose function has delay off never.
func TestHoldingBackIsBounded(t *testing.T) {
	held := 0
	rapid.Check(t, func(t *rapid.T) {
		cfg := config(t, rapid.Uint64().Draw(t, "seed"))
		cfg.Learn.Oracle = true
		cfg.Zones[0].Core.Policy = "rubato"
		delayMax := time.Duration(rapid.IntRange(0, 2000).Draw(t, "delay_max_ms")) * time.Millisecond
		cfg.Zones[0].Core.PolicyConfig.DelayMax = delayMax
		for i := range cfg.Functions {
			cfg.Functions[i].Spec.Objective, cfg.Functions[i].Spec.DelayOff = api.Objective{}, i == 2
			cfg.Functions[i].Start = 300 * time.Millisecond
		}
		w, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(cfg.Seed, 1))
		off := map[string]bool{}
		for i := range rapid.IntRange(1, 150).Draw(t, "calls") {
			inv := &api.Invocation{ID: fmt.Sprintf("i%04d", i), Tenant: "t", Function: fmt.Sprintf("f%d", rng.IntN(3)), Async: rng.IntN(4) == 0}
			off[inv.ID] = inv.Function == "f2"
			w.At(0, time.Duration(rng.Float64()*float64(5*time.Second)), func() { w.Invoke(0, inv) })
		}
		for range rapid.IntRange(0, 2).Draw(t, "crashes") {
			i, at := rng.IntN(w.Nodes(0)), time.Duration(rng.IntN(5000))*time.Millisecond
			w.At(0, at, func() { w.Crash(0, i) })
			w.At(0, at+time.Second, func() { w.Restart(0, i) })
		}
		w.Run(10 * time.Minute)
		for id, off := range off {
			limit := ms(int64(delayMax)) + 1 // no wake is sooner than a millisecond
			if off {
				limit = 0
			}
			got := w.Result(0, id).Timing.DelayMs
			if got > limit {
				t.Fatalf("%s was held back for %.3f ms, want at most %.0f", id, got, limit)
			}
			if got > 0 {
				held++
			}
		}
	})
	if held == 0 {
		t.Error("no call was ever held back: nothing was tested")
	}
}

package sim

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
)

// Property: keeping sandboxes warm refuses nobody. With a slot for every call that is under way, and twice as many slots
// as sandboxes that are asked for, each call runs at once however many sandboxes come and go.
func TestKeptWarmSandboxesRefuseNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(2, 8).Draw(t, "slots")
		g := nodesOf(rapid.IntRange(1, 3).Draw(t, "nodes"), slots)
		g.Core.MemoryMB = 128 * rapid.IntRange(slots, 3*slots).Draw(t, "sandboxes")
		g.Core.KeepAlive = rapid.SampledFrom([]time.Duration{time.Second, time.Minute}).Draw(t, "keep_alive") // the shorter, the more is brought up
		z := zoneOf("z", "rubato", g)
		z.Core.MaxWaiting = 1
		cfg := Config{Seed: rapid.Uint64().Draw(t, "seed"), Zones: []Zone{z}, Heartbeat: 500 * time.Millisecond, Keep: true}
		functions := rapid.IntRange(1, 4).Draw(t, "functions")
		for i := range functions {
			f := functionOf(i, 50*time.Millisecond)
			f.Spec.MinWarm = rapid.SampledFrom([]int{0, 1, 5, 100}).Draw(t, "min_warm")
			f.Start = 2 * time.Second // a prewarming holds its slot for long
			cfg.Functions = append(cfg.Functions, f)
		}
		w, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		calls := 0
		for at := 500 * time.Millisecond; at < 40*time.Second; at += 5 * time.Second { // one at a time: half of the slots is more than it needs
			id, fn := fmt.Sprintf("i%d", calls), fmt.Sprintf("f%d", rapid.IntRange(0, functions-1).Draw(t, "fn"))
			calls++
			w.At(0, at, func() { w.Invoke(0, &api.Invocation{ID: id, Tenant: "t", Function: fn}) })
		}
		w.Run(2 * time.Minute)
		if v := w.Violation(); v != "" {
			t.Fatal(v)
		}
		for i := range calls {
			// That a slot was free is seen by this: it did not queue.
			if a := w.Result(0, fmt.Sprintf("i%d", i)); a == nil || a.Code != api.CodeOK || a.Timing.QueueMs > 0 {
				t.Fatalf("call %d: %+v", i, a)
			}
		}
		if err := w.Core(0).Check(); err != nil {
			t.Fatal(err)
		}
	})
}

// In a scenario's world a function runs where its needs are met, and is kept warm there.
func TestNeedsInTheWorld(t *testing.T) {
	plain, gpu := nodesOf(6, 4), nodesOf(2, 4)
	gpu.Core.Accelerator = "gpu-a100"
	f := functionOf(0, 20*time.Millisecond)
	f.Spec.Needs, f.Spec.MinWarm = api.Labels{Accelerator: "gpu"}, 3
	cfg := Config{Seed: 1, Zones: []Zone{zoneOf("z", "rubato", plain, gpu)}, Functions: []Function{f}, Heartbeat: time.Second, Keep: true}
	w := advance(t, cfg, 10*time.Second)
	warm := 0
	for _, n := range w.Core(0).Nodes(time.Time{}) {
		for _, s := range n.Sandboxes {
			if n.Labels.Accelerator == "" {
				t.Errorf("node %s without an accelerator has %+v", n.Name, s)
			}
			warm += s.Idle
		}
	}
	if warm != 3 {
		t.Errorf("%d sandboxes are warm, want 3", warm)
	}
	w.Invoke(0, &api.Invocation{ID: "i", Tenant: "t", Function: "f0"})
	w.Run(20 * time.Second)
	if a := w.Result(0, "i"); a == nil || a.Code != api.CodeOK || a.Timing.Start != api.SandboxWarm {
		t.Errorf("the call ended with %+v", a)
	}
}

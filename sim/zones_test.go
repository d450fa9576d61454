package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/racetest"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// zones is a world of two to four zones with unlike numbers of nodes, of which some die, and with more calls than the smaller can take.
func zones(t *rapid.T, seed uint64) Config {
	cfg := several(seed)
	cfg.Record, cfg.Loss = true, rapid.SampledFrom([]float64{0, .001, .05}).Draw(t, "loss")
	cfg.Between = rapid.SampledFrom([]time.Duration{time.Millisecond, 20 * time.Millisecond}).Draw(t, "between")
	group, streams := cfg.Zones[0].Nodes, cfg.Streams[:3]
	cfg.Zones, cfg.Streams = nil, nil
	for z := range rapid.IntRange(2, 4).Draw(t, "zones") {
		zone := zoneOf(fmt.Sprintf("z%d", z), rapid.SampledFrom(policy.Names()).Draw(t, "policy"), group[0], group[1])
		zone.Core.WhenLate = rapid.SampledFrom([]string{zonesched.LateRun, zonesched.LateRefuse, zonesched.LateForward}).Draw(t, "when_late")
		zone.Core.MaxWaiting = rapid.IntRange(10, 300).Draw(t, "max_waiting")
		zone.Nodes[0].Count = rapid.SampledFrom([]int{1, 1, 6}).Draw(t, "nodes")
		zone.Nodes[1].Count = rapid.IntRange(0, 2).Draw(t, "mortal")
		if zone.Nodes[1].Count == 0 {
			zone.Nodes = zone.Nodes[:1]
		}
		if rapid.Bool().Draw(t, "special") { // only here is what f2 needs
			zone.Nodes[0].Core.Tags = []string{"ssd"}
			cfg.Functions[2].Spec.Needs = api.Labels{Tags: []string{"ssd"}}
		}
		cfg.Zones = append(cfg.Zones, zone)
		for _, st := range streams {
			st.Zone, st.PerS, st.Until = z, rapid.SampledFrom([]float64{2, 20, 60}).Draw(t, "rate"), 2*time.Second
			cfg.Streams = append(cfg.Streams, st)
		}
	}
	return cfg
}

// Property: whatever becomes of nodes, messages and zones, every call is answered once by the zone that it came to; a call that was given to a
// zone is not given on; and no zone takes more calls under a grant than it granted.
func TestZonesShareWithoutLoss(t *testing.T) {
	racetest.SkipSingle(t)
	forwarded := 0
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64Range(1, 1<<40).Draw(t, "seed")
		cfg := zones(t, seed)
		w, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(seed, 1))
		for range rapid.IntRange(0, 4).Draw(t, "crashes") {
			z := rng.IntN(len(cfg.Zones))
			i, at := rng.IntN(w.Nodes(z)), time.Duration(rng.IntN(2500))*time.Millisecond
			w.At(z, at, func() { w.Crash(z, i) })
			w.At(z, at+time.Duration(rng.IntN(4000))*time.Millisecond, func() { w.Restart(z, i) })
		}
		for at := 10 * time.Second; at == 10*time.Second || w.Open() > 0 && at <= 2*api.MaxTimeout; at += 10 * time.Second { // as long as a call may take
			w.Run(at)
		}
		if v := w.Violation(); v != "" || w.Open() != 0 {
			t.Fatalf("%d calls are not answered; %s", w.Open(), v)
		}
		calls, home := uint64(0), 0
		for _, s := range w.FunctionStats() {
			if calls += s.Calls; s.Answered+s.Refused+s.Failed != s.Calls {
				t.Fatalf("%d calls, but %d answered, %d refused, %d failed", s.Calls, s.Answered, s.Refused, s.Failed)
			}
		}
		for z := range cfg.Zones {
			if err := w.Core(z).Check(); err != nil {
				t.Fatalf("zone %d: %v", z, err)
			}
			for id, n := range w.Answers(z) {
				if strings.HasPrefix(id[1:], fmt.Sprintf("%04x", z)) {
					if home++; n != 1 {
						t.Fatalf("call %s: %d answers in zone %d", id, n, z)
					}
				}
			}
			forwarded += hops(t, z, w.Steps(z))
		}
		if uint64(home) != calls {
			t.Fatalf("%d of %d calls were answered at home", home, calls)
		}
	})
	if forwarded == 0 {
		t.Error("no call was forwarded in any of the worlds")
	}
}

// hops counts the calls that a zone took from others, and fails where one of them goes on or was not granted.
func hops(t *rapid.T, zone int, steps []Step) (taken int) {
	guests := map[string]bool{}
	grants, granted := map[string]int{}, 0 // places left, by whom they were granted to and number
	for i := range steps {
		s := &steps[i]
		refused := false
		for _, a := range s.Actions {
			var id, to string
			var n, slots int
			if _, err := fmt.Sscanf(a, "forward %s to %s grant=%d", &id, &to, &n); err == nil && guests[id] {
				t.Fatalf("zone %d gives call %s on to %s: it came from another zone", zone, id, to)
			}
			if _, err := fmt.Sscanf(a, "grant to %s slots=%d", &to, &slots); err == nil {
				granted++ // which is its number
				grants[fmt.Sprint(to, " ", granted)] = slots
			}
			refused = refused || strings.HasPrefix(a, "answer ") && s.Event.Kind == zonesched.EvArrive && strings.HasPrefix(a, "answer "+s.Event.Call.ID+" ")
		}
		if c := s.Event.Call; s.Event.Kind == zonesched.EvArrive && c.Forwarded != "" && !refused {
			guests[c.ID] = true
			taken++
			k := fmt.Sprint(c.Forwarded, " ", s.Event.GrantID)
			if grants[k]--; grants[k] < 0 {
				t.Fatalf("zone %d took more calls under grant %s than it granted", zone, k)
			}
		}
	}
	return taken
}

// Half of the nodes die, so that those that remain cannot do the work, and come back, empty: within thirty seconds nearly all calls are answered
// again before their deadlines (I14), under the rule as under the fallback.
func TestGoodputComesBack(t *testing.T) {
	for _, rule := range []string{"rubato", "least-loaded"} {
		cfg := Config{Seed: 7, Latency: time.Millisecond, Heartbeat: 500 * time.Millisecond, Learn: Learning{Every: 1, Publish: 100 * time.Millisecond}, Keep: true}
		f := functionOf(0, 60*time.Millisecond)
		f.Spec.Objective.Deadline = 500 * time.Millisecond
		cfg.Functions = []Function{f}
		g := nodesOf(8, 2)
		cfg.Zones = []Zone{zoneOf("z", rule, g)}
		cfg.Streams = []Stream{{PerS: 160, Objects: -1}} // .6 of what all can do
		w, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			w.At(0, 10*time.Second, func() { w.Crash(0, i) })
			w.At(0, 20*time.Second, func() { w.Restart(0, i) })
		}
		goodput := func(from, to time.Duration) float64 {
			w.Run(from)
			a := w.FunctionStats()[0]
			w.Run(to)
			b := w.FunctionStats()[0]
			return 1 - float64(b.Misses-a.Misses)/float64(b.Calls-a.Calls)
		}
		before, during, after := goodput(5*time.Second, 10*time.Second), goodput(10*time.Second, 20*time.Second), goodput(50*time.Second, 80*time.Second)
		if during > .9 || before < .95 || after < .95 {
			t.Errorf("%s: of all calls %.3f were in time before, %.3f while half of the nodes were away, %.3f half a minute after; want .95 and more but for the second", rule, before, during, after)
		}
	}
}

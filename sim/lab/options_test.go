package lab

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/internal/racetest"
	"github.com/rubato-faas/rubato/sim"
	"github.com/rubato-faas/rubato/zonesched"
)

// overloaded is a zone that has twice the calls that it can answer.
const overloaded = `
name: overloaded
duration: 20s
warmup: 5s
learn: {publish: 50ms}
scheduler: {max_waiting: 400}
functions:
  - {name: f, run: 20ms, spread: .2, calls: {per_s: 200}}
  - {name: g, run: 20ms, spread: .2, calls: {per_s: 200}}
zones: [{name: z, nodes: [{count: 2, slots: 2}]}]
`

// ran runs a scenario's world to the end of its arrivals.
func ran(t *testing.T, text string) (*sim.World, []sim.Stats) {
	racetest.SkipSingle(t)
	t.Helper()
	s := read(t, text)
	cfg, err := s.Config(policies(t, s.Policy)[0], 1)
	if err != nil {
		t.Fatal(err)
	}
	w, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Run(time.Duration(s.Duration))
	if v := w.Violation(); v != "" {
		t.Fatal(v)
	}
	return w, w.FunctionStats()
}

// changed is a text with some of its parts replaced, each of which must be there.
func changed(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("no %q in the scenario", pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

func meanTotal(s *sim.Stats) float64 { return s.TotalMs / float64(max(s.Answered, 1)) }

func TestWhenLateActs(t *testing.T) {
	text := changed(t, overloaded, "{name: f, run: 20ms", "{name: f, deadline: 10ms, run: 20ms")
	w, _ := ran(t, text)
	if n := w.Core(0).Counters().Hopeless; n != 0 {
		t.Errorf("%d hopeless calls refused, want them run as when_late is left out", n)
	}
	w, stats := ran(t, changed(t, text, "{max_waiting: 400}", "{max_waiting: 400, when_late: refuse}"))
	if n := w.Core(0).Counters().Hopeless; n < 1000 || stats[0].Refused < stats[0].Calls*9/10 || stats[0].Answered > stats[0].Calls/10 || stats[1].Answered < stats[1].Calls/2 {
		t.Errorf("when_late: refuse refused %d calls; of %d with a deadline that nobody meets %d were answered, of %d without %d", n, stats[0].Calls, stats[0].Answered, stats[1].Calls, stats[1].Answered)
	}
}

func TestMaxBacklogActs(t *testing.T) {
	_, before := ran(t, overloaded)
	_, after := ran(t, changed(t, overloaded, "{max_waiting: 400}", "{max_waiting: 400, max_backlog: 200ms}"))
	a, b := meanTotal(&before[0]), meanTotal(&after[0])
	if after[0].Refused == 0 || b > 350 || a < 2*b {
		t.Errorf("mean %.0f ms, with a backlog of 200 ms at most %.0f (%d refused): want no more than 350", a, b, after[0].Refused)
	}
	_, none := ran(t, changed(t, overloaded, "{max_waiting: 400}", "{max_waiting: 30000, max_backlog: 0s}"))
	if none[0].Refused+none[1].Refused != 0 {
		t.Errorf("%d refused with no bound", none[0].Refused+none[1].Refused)
	}
}

// Slow idempotent calls are sent twice, and functions meet the rare class although the common one has room for all of them, unless the
// scenario has no budget for that.
func TestBudgetsAct(t *testing.T) {
	for none, c := range map[string]struct {
		text string
		n    func(zonesched.Counters) uint64
	}{
		"hedge_budget: 0": {
			changed(t, overloaded, "{name: f, run: 20ms", "{name: f, idempotent: true, timeout: 10s, hang: .02, run: 20ms", "count: 2", "count: 8"),
			func(c zonesched.Counters) uint64 { return c.Hedged },
		},
		"scout: 0": {
			changed(t, overloaded, "nodes: [{count: 2, slots: 2}]", "nodes: [{class: common, count: 4, slots: 2}, {class: rare, count: 1, slots: 3}]"),
			func(c zonesched.Counters) uint64 { return c.Scouted },
		},
	} {
		text := changed(t, c.text, "per_s: 200", "per_s: 20", "per_s: 200", "per_s: 20")
		if w, _ := ran(t, text); c.n(w.Core(0).Counters()) == 0 {
			t.Errorf("without %s: none", none)
		}
		if w, _ := ran(t, changed(t, text, "{max_waiting: 400}", "{max_waiting: 400, "+none+"}")); c.n(w.Core(0).Counters()) != 0 {
			t.Errorf("with %s: %d", none, c.n(w.Core(0).Counters()))
		}
	}
}

func TestFallbackActs(t *testing.T) {
	text := changed(t, overloaded, "{max_waiting: 400}", "{max_waiting: 400, mode: off}")
	a, b := read(t, text), read(t, changed(t, text, "mode: off", "mode: off, fallback: round-robin"))
	r1, err := Compare(t.Context(), a, policies(t, "rubato"), []uint64{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r2, err := Compare(t.Context(), b, policies(t, "rubato"), []uint64{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r1.Runs[0].Hash == r2.Runs[0].Hash {
		t.Error("another fallback decides the same, with the rule turned off")
	}
	for to, want := range map[string]string{"fallback: metronome": "fallback", "when_late: maybe": "when_late \"maybe\"", "hedge_budget: 2": "hedge_budget 2", "scout: 2": "scout 2"} {
		if _, err := Read(strings.NewReader(changed(t, text, "mode: off", to))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", to, err, want)
		}
	}
}

// In overload, calls of priority 9 wait less than those of none, and those less than calls of priority 2.
func TestPriorityActs(t *testing.T) {
	text := changed(t, overloaded, "calls: {per_s: 200}", "calls: {per_s: 60, priority: 9}", "calls: {per_s: 200}", "calls: {per_s: 60, priority: 2}",
		"zones:", "  - {name: h, run: 20ms, spread: .2, calls: {per_s: 120}}\nzones:")
	_, stats := ran(t, text)
	high, low, none := meanTotal(&stats[0]), meanTotal(&stats[1]), meanTotal(&stats[2])
	if !(high < none/2 && none < low) || stats[0].Refused > 0 {
		t.Errorf("mean of priority 9: %.0f ms (%d refused), of none %.0f ms, of 2 %.0f ms", high, stats[0].Refused, none, low)
	}
	if _, err := Read(strings.NewReader(changed(t, text, "priority: 9", "priority: 10"))); err == nil {
		t.Error("priority 10 is taken")
	}
}

// Of two tenants one asks for a third of a full zone, the other for twice the zone: the one gets what it asks for. Where both are
// one tenant it does not.
func TestTenantsGetFairShares(t *testing.T) {
	text := changed(t, overloaded, "per_s: 200", "per_s: 400", "per_s: 200", "per_s: 60", "max_waiting: 400", "max_waiting: 30000, max_backlog: 0s") // nobody is refused
	_, one := ran(t, text)
	_, two := ran(t, changed(t, text, "{name: f,", "{name: f, tenant: loud,", "{name: g,", "{name: g, tenant: quiet,"))
	share := func(s []sim.Stats) float64 { return float64(s[1].Answered) / float64(s[1].Calls) }
	if share(two) < .95 || share(one) > .8 {
		t.Errorf("the quiet tenant got %.2f of its calls answered, as a part of the loud one %.2f", share(two), share(one))
	}
	if a, b := meanTotal(&two[1]), meanTotal(&two[0]); a > b/4 {
		t.Errorf("the quiet tenant's calls take %.0f ms, the loud one's %.0f", a, b)
	}
}

// Calls name as many keys as the scenario says, and none otherwise; with keys, decisions are others.
func TestAffinityActs(t *testing.T) {
	text := changed(t, overloaded, "per_s: 200}", "per_s: 40, affinity: 5}", "per_s: 200", "per_s: 40")
	keys := map[string]map[string]int{"f": {}, "g": {}}
	for _, c := range comings(t, read(t, text), 1) {
		keys[c.ev.Call.Function][c.ev.Call.Affinity]++
	}
	if len(keys["f"]) != 5 || keys["f"][""] > 0 || len(keys["g"]) != 1 || keys["g"][""] == 0 {
		t.Errorf("keys %v", keys)
	}
	w1, _ := ran(t, text)
	w2, _ := ran(t, changed(t, text, "affinity: 5", "affinity: 1"))
	w3, _ := ran(t, text)
	if w1.Hash() == w2.Hash() || w1.Hash() != w3.Hash() {
		t.Errorf("traces %x, with other keys %x, again %x", w1.Hash(), w2.Hash(), w3.Hash())
	}
}

// A link of its own is as long as it says, both ways, and what a forwarded call brings along takes time to cross it.
func TestLinksBetweenZones(t *testing.T) {
	const text = `
name: links
duration: 20s
warmup: 5s
network: {between_zones: 5ms}
objects: [{name: o, count: 4, size: 1MB}]
functions: [{name: f, run: 20ms, calls: {per_s: 120, objects: o}}]
zones:
  - {name: near, tier: edge, nodes: [{count: 1, slots: 2}]}
  - {name: far, share: 0, nodes: [{count: 8, slots: 4}]}
`
	means := []float64{}
	for _, links := range []string{"", ", links: [{from: near, to: far, rtt: 10ms}]", ", links: [{from: far, to: near, rtt: 60ms}]", ", links: [{from: far, to: near, rtt: 60ms, mbps: 800}]"} {
		_, stats := ran(t, strings.Replace(text, "between_zones: 5ms", "between_zones: 5ms"+links, 1))
		if stats[0].Forwarded < 100 {
			t.Fatalf("%q: %d calls forwarded of %d", links, stats[0].Forwarded, stats[0].Calls)
		}
		means = append(means, meanTotal(&stats[0]))
	}
	if means[0] != means[1] {
		t.Errorf("a link like the others changes the mean from %v to %v", means[0], means[1])
	}
	if !slices.IsSorted(means) || means[2] < means[0]+5 || means[3] < means[2]+5 {
		t.Errorf("means %v ms: want more with a longer way, and more with 10 ms for each input", means)
	}
	if _, err := Read(strings.NewReader(strings.Replace(text, "between_zones: 5ms", "links: [{from: near, to: nowhere}]", 1))); err == nil || !strings.Contains(err.Error(), "names of zones") {
		t.Errorf("a link to nowhere: %v", err)
	}
}

package policy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
)

func mustNew(t testing.TB, name string) Policy {
	t.Helper()
	p, err := New(name, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNew(t *testing.T) {
	for _, name := range Names() {
		if p := mustNew(t, name); p.Name() != name {
			t.Errorf("%q makes %q", name, p.Name())
		}
	}
	_, err := New("fastest", DefaultConfig())
	for _, name := range Names() {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not offer %q", err, name)
		}
	}
	for _, name := range []string{"fixed-delay", "fixed-delay-matched"} {
		if _, err := New(name, Config{}); err == nil {
			t.Errorf("%s without a wait was made", name)
		}
	}
	if numClauses > 32 {
		t.Errorf("%d clauses: the zone counts 32", numClauses)
	}
	for c := range numClauses {
		if c.String() == "" {
			t.Errorf("clause %d has no name", c)
		}
	}
}

// What each baseline is known for. take -2: any.
func TestCharacter(t *testing.T) {
	cs := func(c ...Candidate) []Candidate { return c }
	late, denied := unbound(), unbound()
	late.WaitedMs, denied.DelayOff = 2000, true
	hopes := func(node int32) Call { c := unbound(); c.Hope = node; return c }
	begun := func(waited float64) Call { c := unbound(); c.WaitedMs, c.Alike, c.Warming = waited, 2, 2; return c }
	due := func(ms float64) Call { c := unbound(); c.DeadlineMs = ms; return c }
	two := unbound()
	two.Nodes = 2
	for _, c := range []struct {
		policy, name string
		call         Call
		cands        []Candidate
		verb         Verb
		clause       Clause
		take         int
	}{
		{"random", "only the free ones are drawn", unbound(), cs(spot(0, 5, 2, warm), spot(1, 0, 1, none)), Run, ClauseRandom, 1},
		{"random", "none is free", unbound(), cs(spot(0, 5, 2, warm), spot(1, 3, 2, none)), Queue, ClauseNoSlot, 1},

		{"power-of-two", "the less loaded of two", unbound(), cs(spot(0, 0, 1, warm), spot(1, 0, 0, none)), Run, ClauseLeastLoaded, 1},
		{"power-of-two", "one alone", unbound(), cs(spot(0, 5, 2, warm), spot(1, 0, 1, none)), Run, ClauseLeastLoaded, 1},

		{"openwhisk", "home (hash 0 of 2)", two, cs(spot(0, 0, 1, none), spot(1, 0, 0, warm)), Run, ClauseHome, 0},
		{"openwhisk", "the next when home is full", two, cs(spot(0, 9, 2, warm), spot(1, 0, 1, none)), Run, ClauseOnRing, 1},
		{"openwhisk", "overload: any node, at its earliest", two, cs(spot(0, 9, 2, none), spot(0, 4, 2, warm)), Queue, ClauseNoSlot, 1},
		{"openwhisk", "bound: waits beside a free slot", hopes(0), cs(spot(0, 9, 2, none), spot(1, 0, 0, none)), Delay, ClauseBound, 0},
		{"openwhisk", "bound: its node has a slot", hopes(1), cs(spot(0, 0, 0, none), spot(1, 0, 1, none)), Run, ClauseBound, 1},
		{"openwhisk", "bound: none has a slot", hopes(1), cs(spot(0, 1, 2, none), spot(1, 9, 2, none)), Queue, ClauseBound, 1},
		{"openwhisk", "bound: at its node's earliest", hopes(1), cs(spot(0, 1, 2, none), spot(1, 9, 2, none), spot(1, 4, 2, warm)), Queue, ClauseBound, 2},
		{"openwhisk", "bound to a node that is gone", hopes(7), cs(spot(0, 0, 0, none)), Run, ClauseHome, 0},

		{"ch-rlu", "bound as openwhisk", hopes(0), cs(spot(0, 9, 2, none), spot(1, 0, 0, none)), Delay, ClauseBound, 0},
		{"ch-rlu", "overload: any node", two, cs(spot(0, 9, 2, none), spot(1, 4, 2, warm)), Queue, ClauseNoSlot, -2},

		{"hiku", "an idle sandbox pulls", unbound(), cs(spot(0, 0, 0, none), spot(1, 0, 1, warm)), Run, ClausePulled, 1},
		{"hiku", "of two that pull, fewer calls", unbound(), cs(spot(0, 0, 1, warm), spot(1, 0, 0, warm)), Run, ClausePulled, 1},
		{"hiku", "a busy sandbox does not pull", unbound(), cs(spot(0, 5, 2, warm), spot(1, 0, 1, none), spot(2, 0, 0, none)), Run, ClauseLeastLoaded, 2},
		{"hiku", "none is free", unbound(), cs(spot(0, 5, 2, warm), spot(1, 3, 2, none)), Queue, ClauseNoSlot, 1},

		{"hermod", "a node in use, not an empty one", unbound(), cs(spot(0, 0, 0, none), spot(1, 0, 1, none)), Run, ClausePacked, 1},
		{"hermod", "in use and warm before in use", unbound(), cs(spot(0, 0, 1, none), spot(1, 0, 1, warm)), Run, ClausePacked, 1},
		{"hermod", "in use before empty and warm", unbound(), cs(spot(0, 0, 0, warm), spot(1, 0, 1, none)), Run, ClausePacked, 1},
		{"hermod", "equal ones in a fixed order", unbound(), cs(spot(2, 0, 0, none), spot(1, 0, 0, none), spot(3, 0, 0, none)), Run, ClausePacked, 1},
		{"hermod", "its cores are taken: another node, though empty", unbound(), cs(shares(0, 2, 2, warm), shares(1, 0, 2, none)), Run, ClausePacked, 1},
		{"hermod", "packs up to the cores", unbound(), cs(shares(0, 1, 2, warm), shares(1, 0, 2, none)), Run, ClausePacked, 0},
		{"hermod", "all cores are taken: the least loaded", unbound(), cs(shares(0, 4, 2, warm), shares(1, 3, 2, none)), Run, ClauseLeastLoaded, 1},
		{"hermod", "as loaded for its cores: the warm one", unbound(), cs(shares(0, 2, 1, none), shares(1, 4, 2, warm)), Run, ClauseLeastLoaded, 1},
		{"hermod", "all full: bound to the least loaded", unbound(), cs(spot(0, 9, 2, warm), spot(1, 4, 2, none)), Queue, ClauseNoSlot, 1},
		{"hermod", "bound: waits beside a free slot", hopes(0), cs(spot(0, 9, 2, none), spot(1, 0, 0, none)), Delay, ClauseBound, 0},
		{"hermod", "bound, but its owner wants no waiting", Call{Hope: 0, DelayOff: true}, cs(spot(0, 9, 2, none), spot(1, 0, 0, none)), Run, ClausePacked, 1},

		{"fixed-delay-matched", "decides as fixed-delay", unbound(), cs(spot(0, 0, 0, none), spot(1, 9, 2, warm)), Delay, ClauseWaitLocal, 1},

		{"cidre", "an idle sandbox", unbound(), cs(timed(0, 0, 500, none), timed(1, 0, 50, warm)), Run, ClauseWarm, 1},
		{"cidre", "a busy one is sooner than a cold start", unbound(), cs(timed(0, 0, 500, none), timed(1, 400, 50, warm)), Delay, ClauseWaitWarm, 1},
		{"cidre", "as soon is not sooner: a cold start beside", unbound(), cs(timed(0, 0, 500, none), timed(1, 450.001, 50, warm)), Delay, ClauseColdSooner, 1},
		{"cidre", "its own start is under way: no second one", begun(0), cs(timed(0, 0, 500, none), timed(1, 450.001, 50, warm)), Delay, ClauseWaitWarm, 1},
		{"cidre", "its own start is under way, however long", begun(9000), cs(timed(0, 0, 500, none), timed(1, 450.001, 50, warm)), Delay, ClauseWaitWarm, 1},
		{"cidre", "no sandbox to wait for", unbound(), cs(timed(0, 0, 500, none), timed(1, 1, 500, prepared)), Run, ClauseLeastLoaded, 0},
		{"cidre", "no waiting wanted", denied, cs(timed(0, 0, 500, none), timed(1, 1, 50, warm)), Run, ClauseDelayOff, 0},
		{"cidre", "waited long enough", late, cs(timed(0, 0, 500, none), timed(1, 1, 50, warm)), Run, ClauseDelayMax, 0},
		{"cidre", "none is free", unbound(), cs(timed(0, 9, 500, none), timed(1, 1, 50, warm)), Queue, ClauseNoSlot, 1},

		{"metronome", "saves more than it waits", unbound(), cs(timed(0, 0, 500, none), timed(1, 440, 50, warm)), Delay, ClausePredicted, 1},
		{"metronome", "waits longer than it saves", unbound(), cs(timed(0, 0, 500, none), timed(1, 451, 50, warm)), Run, ClauseBestFree, 0},
		{"metronome", "no threshold", unbound(), cs(timed(0, 0, 500, none), timed(1, 449, 50, warm)), Delay, ClausePredicted, 1},
		{"metronome", "predicted to meet the deadline", due(500), cs(timed(0, 0, 500, none), timed(1, 440, 50, warm)), Delay, ClausePredicted, 1},
		{"metronome", "predicted to miss the deadline", due(480), cs(timed(0, 0, 500, none), timed(1, 440, 50, warm)), Run, ClauseDeadlineClose, 0},
		{"metronome", "no waiting wanted", denied, cs(timed(0, 0, 500, none), timed(1, 1, 50, warm)), Run, ClauseDelayOff, 0},
		{"metronome", "waited long enough", late, cs(timed(0, 0, 500, none), timed(1, 1, 50, warm)), Run, ClauseDelayMax, 0},
		{"metronome", "without a model, the nearer node", unbound(), cs(timed(0, 0, 100, none), timed(1, 0, 100, warm), timed(2, 0, 100, none)), Run, ClauseBestFree, 1},
		{"metronome", "none is free", unbound(), cs(timed(0, 9, 500, none), timed(1, 1, 50, warm)), Queue, ClauseNoSlot, 1},
	} {
		for seed := range uint64(20) { // whatever is drawn
			ch := mustNew(t, c.policy).Decide(&c.call, slices.Clone(c.cands), rand.New(rand.NewPCG(seed, 1)))
			if ch.Verb != c.verb || ch.Clause != c.clause || ch.Take != c.take && c.take != -2 {
				t.Errorf("%s, %s: verb %d clause %v take %d, want %d %v %d", c.policy, c.name, ch.Verb, ch.Clause, ch.Take, c.verb, c.clause, c.take)
				break
			}
		}
	}
}

// CIDRE brings a sandbox up beside the wait when the busy one is not expected to be idle sooner, one for each call that waits and no more.
func TestCIDREStartsBeside(t *testing.T) {
	for name, c := range map[string]struct {
		busyMs         float64
		alike, warming int
		beside         bool
		admitsCold     bool
	}{
		"the busy one is sooner":           {400, 1, 0, false, true},
		"the busy one is later":            {460, 1, 0, true, true},
		"one is under way, for another":    {460, 2, 1, true, true},
		"one is under way for each":        {460, 2, 2, false, false},
		"more are under way than wait":     {460, 1, 2, false, false},
		"the busy one is sooner all along": {400, 2, 2, false, false},
	} {
		call := unbound()
		call.Alike, call.Warming = c.alike, c.warming
		cold := timed(0, 0, 500, none)
		p := mustNew(t, "cidre")
		ch := p.Decide(&call, []Candidate{cold, timed(1, c.busyMs, 50, warm)}, rng())
		if ch.Verb != Delay || ch.Take != 1 || ch.Now != 0 || ch.Prewarm != c.beside {
			t.Errorf("%s: %+v, want it held back, and a start beside: %v", name, ch, c.beside)
		}
		if ok, _ := p.Admit(&call, &cold, 600, 50); ok != c.admitsCold {
			t.Errorf("%s: a freed slot for a cold start is taken: %v", name, ok)
		}
		idle := timed(0, 0, 50, warm)
		if ok, _ := p.Admit(&call, &idle, 1, 50); !ok {
			t.Errorf("%s: the sandbox that is ready first is not taken", name)
		}
	}
}

// Metronome has no calibrated bound: whatever bounds and spreads are said, it chooses the same.
func TestMetronomeKnowsNoBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.IntRange(1, 8).Draw(t, "nodes")
		c, cs := genCall(t, nodes), genCandidates(t, nodes)
		other := slices.Clone(cs)
		for i := range other {
			other[i].Est.UpperMs = rapid.SampledFrom([]float64{.1, 80, 1e4, math.Inf(1)}).Draw(t, "upper")
			other[i].Est.Sigma = rapid.Float64Range(.01, 2).Draw(t, "sigma")
		}
		p := Metronome{DelayMaxMs: 2000}
		if a, b := p.Decide(&c, cs, rng()), p.Decide(&c, other, rng()); a != b {
			t.Fatalf("%+v, and %+v with other bounds", a, b)
		}
		for i := range cs {
			okA, a := p.Admit(&c, &cs[i], 100, 50)
			okB, b := p.Admit(&c, &other[i], 100, 50)
			if okA != okB || a != b {
				t.Fatalf("admits %v with %v, and %v with %v with other bounds", okA, a, okB, b)
			}
		}
	})
}

func TestWakes(t *testing.T) {
	cands := []Candidate{timed(0, 0, 500, none), timed(1, 100, 50, warm)}
	for name, c := range map[string]struct {
		policy           string
		waited, deadline float64
		wake             float64
	}{
		"cidre, when the sandbox should be idle":  {"cidre", 0, math.Inf(1), 100},
		"cidre, at the longest wait":              {"cidre", 1940, math.Inf(1), 60},
		"metronome, when the node should be free": {"metronome", 0, math.Inf(1), 100},
		"metronome, at the longest wait":          {"metronome", 1999.5, math.Inf(1), 1},
		"metronome, while the fallback still can": {"metronome", 0, 540, 40},
		"metronome, the fallback cannot":          {"metronome", 0, 300, 100},
	} {
		call := Call{Hope: -1, WaitedMs: c.waited, DeadlineMs: c.deadline}
		if ch := mustNew(t, c.policy).Decide(&call, cands, rng()); ch.Verb != Delay || math.Abs(ch.WakeMs-c.wake) > 1e-9 {
			t.Errorf("%s: verb %d, wakes in %v, want %v", name, ch.Verb, ch.WakeMs, c.wake)
		}
	}
}

// Levels that no node has are not waited for, also where all slots are taken and Admit has to know of it.
func TestLevelsThatNoNodeHas(t *testing.T) {
	data := func(c Candidate) Candidate {
		c.HasInputs, c.MissingBytes = true, 0
		return c
	}
	cold := func(c Candidate) Candidate {
		c.HasInputs, c.MissingBytes = true, 1
		return c
	}
	free, full := spot(0, 0, 0, none), spot(0, 9, 2, none)
	for name, c := range map[string]struct {
		cands []Candidate
		off   bool
		want  [2]float64
		verb  Verb
	}{
		"neither, full":         {[]Candidate{full}, false, [2]float64{0, 0}, Queue},
		"neither, free":         {[]Candidate{free}, false, [2]float64{0, 0}, Run},
		"warm and cached, full": {[]Candidate{full, data(spot(1, 9, 2, warm))}, false, [2]float64{100, 200}, Queue},
		"warm and cached, busy": {[]Candidate{cold(free), data(spot(1, 9, 2, warm))}, false, [2]float64{100, 200}, Delay},
		"only cached, full":     {[]Candidate{full, data(spot(1, 9, 2, none))}, false, [2]float64{0, 100}, Queue},
		"only cached, busy":     {[]Candidate{cold(free), data(spot(1, 9, 2, none))}, false, [2]float64{0, 100}, Delay},
		"delay off":             {[]Candidate{full, data(spot(1, 9, 2, warm))}, true, [2]float64{0, 0}, Queue},
	} {
		call := unbound()
		call.DelayOff = c.off
		for _, policy := range []string{"fixed-delay", "fixed-delay-matched"} {
			ch := mustNew(t, policy).Decide(&call, c.cands, rng())
			if ch.Verb != c.verb || ch.Verb != Run && ch.LevelMs != c.want {
				t.Errorf("%s, %s: verb %d, levels from %v ms on, want %d, %v", policy, name, ch.Verb, ch.LevelMs, c.verb, c.want)
			}
		}
	}
}

// Which of two waiting calls gets a freed slot: a, b, or nobody.
func TestAdmit(t *testing.T) {
	inf := math.Inf(1)
	type claim struct {
		waited    float64
		hope      int32
		cand      Candidate
		elsewhere float64
		best      float64
	}
	cached := spot(0, 0, 1, none)
	cached.HasInputs = true
	for _, c := range []struct {
		policy, name string
		a, b         claim
		want         string
	}{
		{"random", "the older", claim{9, -1, spot(0, 0, 0, none), inf, inf}, claim{5, -1, spot(0, 0, 0, warm), inf, inf}, "a"},
		{"power-of-two", "the older", claim{9, -1, spot(0, 0, 0, none), inf, inf}, claim{5, -1, spot(0, 0, 0, warm), inf, inf}, "a"},
		{"hiku", "the one with an idle sandbox", claim{9, -1, spot(0, 0, 0, none), inf, inf}, claim{5, -1, spot(0, 0, 0, warm), inf, inf}, "b"},
		{"hiku", "else the older", claim{9, -1, spot(0, 0, 0, none), inf, inf}, claim{5, -1, spot(0, 0, 0, none), inf, inf}, "a"},
		{"hermod", "the one that is bound to it", claim{9, 1, spot(0, 0, 0, warm), inf, inf}, claim{5, 0, spot(0, 0, 0, none), inf, inf}, "b"},
		{"hermod", "nobody, when all are bound elsewhere", claim{9, 1, spot(0, 0, 0, warm), inf, inf}, claim{5, 2, spot(0, 0, 0, none), inf, inf}, ""},
		{"openwhisk", "the older of two that are bound to it", claim{5, 0, spot(0, 0, 0, none), inf, inf}, claim{9, 0, spot(0, 0, 0, none), inf, inf}, "b"},
		{"ch-rlu", "one that found no node", claim{5, 3, spot(0, 0, 0, none), inf, inf}, claim{1, -1, spot(0, 0, 0, none), inf, inf}, "b"},
		{"fixed-delay", "level two must have waited", claim{9, -1, cached, inf, inf}, claim{5, -1, spot(0, 0, 0, none), inf, inf}, ""},
		{"fixed-delay", "a match before an older one whose waits are over", claim{900, -1, spot(0, 0, 0, none), inf, inf}, claim{5, -1, spot(0, 0, 0, warm), inf, inf}, "b"},
		{"fixed-delay-matched", "level two at once", claim{9, -1, cached, inf, inf}, claim{500, -1, spot(0, 0, 0, none), inf, inf}, "a"},
		{"fixed-delay-matched", "level one before level two", claim{900, -1, cached, inf, inf}, claim{5, -1, spot(0, 0, 0, warm), inf, inf}, "b"},
		{"fixed-delay-matched", "no match: whose waits are over", claim{900, -1, spot(0, 0, 0, none), inf, inf}, claim{5, -1, spot(0, 0, 0, none), inf, inf}, "a"},
		{"fixed-delay-matched", "no match, waits not over", claim{150, -1, spot(0, 0, 0, none), inf, inf}, claim{5, -1, spot(0, 0, 0, none), inf, inf}, ""},
		{"cidre", "the one with an idle sandbox", claim{9, -1, timed(0, 0, 500, none), inf, inf}, claim{5, 0, timed(0, 0, 50, warm), 10, 50}, "b"},
		{"cidre", "no cold start while its sandbox is nearer", claim{9, 1, timed(0, 0, 500, none), 300, 50}, claim{5, 1, timed(0, 0, 500, none), 300, 50}, ""},
		{"cidre", "a cold start that is sooner", claim{9, 1, timed(0, 0, 200, none), 300, 50}, claim{5, 1, timed(0, 0, 500, none), 300, 50}, "a"},
		{"metronome", "the oldest that loses nothing", claim{9, 1, timed(0, 0, 500, none), 300, 50}, claim{5, 1, timed(0, 0, 200, none), 300, 50}, "b"},
		{"metronome", "its node was late", claim{9, 0, timed(0, 0, 50, warm), -20, 50}, claim{5, 1, timed(0, 0, 500, none), 300, 50}, "a"},
	} {
		p := mustNew(t, c.policy)
		admit := func(k *claim) (bool, float64) {
			call := unbound()
			call.WaitedMs, call.Hope, call.LevelMs = k.waited, k.hope, [2]float64{100, 200}
			return p.Admit(&call, &k.cand, k.elsewhere, k.best)
		}
		okA, a := admit(&c.a)
		okB, b := admit(&c.b)
		got := ""
		if okA && (!okB || a > b) {
			got = "a"
		} else if okB {
			got = "b"
		}
		if got != c.want {
			t.Errorf("%s, %s: %q, want %q", c.policy, c.name, got, c.want)
		}
	}
}

// Propensities are how often a choice is made.
func TestPropensities(t *testing.T) {
	cands := []Candidate{spot(0, 0, 0, none), spot(1, 0, 1, warm), spot(2, 0, 1, none), spot(3, 7, 2, warm), spot(4, 0, 1, warm), spot(5, 0, 0, warm)}
	full := []Candidate{spot(0, 5, 2, none), spot(1, 5, 2, none), spot(1, 3, 2, warm), spot(2, 5, 2, none)}
	popular := &CHRLU{}
	call := unbound()
	call.WaitedMs = 1
	for jump(mix(call.FnHash), 6) != 1 {
		call.FnHash++ // at home where half is busy, so that it may be declined
	}
	popular.popular.popular[popular.popular.bucket(call.FnHash)] = true
	call.Nodes, call.Slots, call.Free = 6, 12, 7
	for name, p := range map[string]Policy{
		"random": Random{}, "power-of-two": PowerOfTwo{}, "ch-rlu": popular, "openwhisk": &OpenWhisk{}, "hiku": Hiku{},
		"least-loaded": LeastLoaded{}, "fixed-delay": FixedDelay{WaitMs: 5}, "metronome": Metronome{DelayMaxMs: 5}, "cidre": CIDRE{DelayMaxMs: 5}, "hermod": Hermod{},
	} {
		for i, cs := range [][]Candidate{cands, full} {
			if i == 1 && name != "ch-rlu" && name != "openwhisk" {
				continue
			}
			const draws = 40000
			rng, seen, said := rng(), map[int]float64{}, map[int]float64{}
			for range draws {
				ch := p.Decide(&call, cs, rng)
				seen[ch.Take] += 1. / draws
				if old, ok := said[ch.Take]; ok && old != ch.Propensity {
					t.Fatalf("%s: choice %d has propensity %v and %v", name, ch.Take, old, ch.Propensity)
				}
				said[ch.Take] = ch.Propensity
			}
			for take, share := range seen {
				if math.Abs(share-said[take]) > .015 {
					t.Errorf("%s: choice %d made in %.3f, propensity %.3f", name, take, share, said[take])
				}
			}
		}
	}
}

// What Binds says is true: such rules, and no others, stay with the node that a call was bound to beside a better one that is free, and
// take no slot elsewhere.
func TestBindsStayWithTheirNode(t *testing.T) {
	for _, name := range Names() {
		p, err := New(name, DefaultConfig())
		if err != nil {
			t.Fatal(err)
		}
		call := unbound()
		call.Hope, call.Nodes, call.Slots, call.Free = 1, 2, 2, 1
		free, busy := timed(0, 0, 10, warm), timed(1, 50, 10, warm)
		free.Slots, busy.Slots, busy.Running = 1, 1, 1
		cands := []Candidate{free, busy}
		ch := p.Decide(&call, cands, rng())
		ok, _ := p.Admit(&call, &free, 50, 10)
		if stays := ch.Verb == Delay && ch.Take == 1 && !ok; stays != Binds(p) {
			t.Errorf("%s: verb %d, takes %d, a slot elsewhere %v; it binds: %v", name, ch.Verb, ch.Take, ok, Binds(p))
		}
	}
}

// What ByOrder says is true: such rules, and every work-conserving one is among them, say the same of a freed slot whatever is
// predicted of it.
func TestByOrderAdmitsWithoutEstimates(t *testing.T) {
	for _, name := range WorkConservingNames() {
		if !ByOrder(name) {
			t.Errorf("%s may be a fallback, and is not by order", name)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		c := genCall(t, 4)
		k := genCandidate(t, 1)
		bare := k
		bare.Est, bare.MissMs, bare.PriceMs, bare.UnderWay = api.Estimate{}, 0, 0, false
		for _, name := range Names() {
			if !ByOrder(name) {
				continue
			}
			p, err := New(name, DefaultConfig())
			if err != nil {
				t.Fatal(err)
			}
			ok, index := p.Admit(&c, &k, 700, 300)
			if ok2, index2 := p.Admit(&c, &bare, 700, 300); ok != ok2 || index != index2 {
				t.Fatalf("%s: %v %v with an estimate, %v %v without", name, ok, index, ok2, index2)
			}
		}
	})
}

func TestPickStaysInTheZone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := genCall(t, rapid.IntRange(0, 100).Draw(t, "nodes"))
		room := rapid.IntRange(0, 64).Draw(t, "room")
		for _, name := range Names() {
			p, err := New(name, DefaultConfig())
			if err != nil {
				t.Fatal(err)
			}
			picker, ok := p.(Picker)
			if !ok {
				continue
			}
			got := picker.Pick(&c, room, rng(), nil)
			if len(got) > room {
				t.Fatalf("%s picks %d nodes for %d places", name, len(got), room)
			}
			for _, i := range got {
				if i < 0 || int(i) >= c.Nodes {
					t.Fatalf("%s picks node %d of %d", name, i, c.Nodes)
				}
			}
		}
	})
}

func genCall(t *rapid.T, nodes int) Call {
	slots := rapid.IntRange(0, 40).Draw(t, "slots")
	return Call{
		WaitedMs: rapid.SampledFrom([]float64{0, 50, 150, 250, 3000}).Draw(t, "waited"), ErrEW: rapid.Float64Range(0, 2).Draw(t, "err"),
		DeadlineMs: rapid.SampledFrom([]float64{math.Inf(1), -5, 100, 10000}).Draw(t, "deadline"), MarginMs: 3,
		DelayOff: rapid.Bool().Draw(t, "delay_off"), FnHash: rapid.Uint64().Draw(t, "function"),
		Hope: int32(rapid.IntRange(-1, nodes-1).Draw(t, "hope")), Alike: rapid.IntRange(1, 3).Draw(t, "alike"), OwedMs: rapid.Float64Range(0, 200).Draw(t, "owed"), Warming: rapid.IntRange(0, 3).Draw(t, "warming"),
		ColdMs: rapid.Float64Range(0, 500).Draw(t, "cold"), RentMs: rapid.Float64Range(0, 500).Draw(t, "rent"), AgeTurn: rapid.Bool().Draw(t, "age_turn"),
		Load: Load{Nodes: nodes, Slots: slots, Free: rapid.IntRange(0, slots).Draw(t, "free"), Waiting: rapid.IntRange(0, 9).Draw(t, "waiting")},
	}
}

// genCandidates lists nodes as the zone does: each in one or two ways, the second one a busy sandbox.
func genCandidates(t *rapid.T, nodes int) []Candidate {
	var cs []Candidate
	for i := range nodes {
		c := genCandidate(t, i)
		c.Slots = rapid.IntRange(1, 4).Draw(t, "slots")
		c.Running = rapid.IntRange(0, c.Slots).Draw(t, "running")
		c.HasInputs = rapid.Bool().Draw(t, "inputs")
		c.Est.AveragesMu = rapid.Float64Range(-2, 9).Draw(t, "averages")
		c.Est.Source = api.Source(rapid.IntRange(0, 2).Draw(t, "source"))
		if rapid.Bool().Draw(t, "listed") {
			cs = append(cs, c)
			if c.Sandbox != warm && rapid.Bool().Draw(t, "busy") {
				c.Free, c.Sandbox, c.StartMs = false, warm, rapid.Float64Range(.1, 900).Draw(t, "busy_for")
				cs = append(cs, c)
			}
		}
	}
	return cs
}

// check says what is wrong with a choice, whichever policy made it.
func check(ch Choice, cands []Candidate) error {
	anyFree := slices.ContainsFunc(cands, func(c Candidate) bool { return c.Free })
	switch {
	case ch.Take < -1 || ch.Take >= len(cands) || ch.Now < -1 || ch.Now >= len(cands):
		return fmt.Errorf("takes %d, now %d of %d candidates", ch.Take, ch.Now, len(cands))
	case ch.Take < 0 && (len(cands) > 0 || ch.Verb != Queue):
		return fmt.Errorf("takes none of %d candidates", len(cands))
	case ch.Verb == Queue && anyFree:
		return fmt.Errorf("queues although a slot is free")
	case ch.Verb != Queue && !anyFree:
		return fmt.Errorf("verb %d although no slot is free", ch.Verb)
	case ch.Verb == Run && !cands[ch.Take].Free:
		return fmt.Errorf("runs where no slot is free")
	case ch.Verb == Delay && (cands[ch.Take].Free != (ch.Clause == ClauseMemory) || ch.Now < 0 || !cands[ch.Now].Free):
		return fmt.Errorf("delays for %d, now %d", ch.Take, ch.Now)
	case ch.Verb == Delay && !(ch.WakeMs >= minWakeMs):
		return fmt.Errorf("wakes in %v", ch.WakeMs)
	case ch.Prewarm && (ch.Cold < 0 || ch.Cold >= len(cands) || !cands[ch.Cold].Free || cands[ch.Cold].Sandbox == warm):
		return fmt.Errorf("brings up a sandbox at %d", ch.Cold)
	case ch.Prewarm && ch.Verb == Run && cands[ch.Cold].Node == cands[ch.Take].Node:
		return fmt.Errorf("brings up a sandbox at %d, in whose slot the call runs", ch.Cold)
	case !(ch.Propensity > 0 && ch.Propensity <= 1+1e-12):
		return fmt.Errorf("propensity %v", ch.Propensity)
	}
	return nil
}

// Properties of all policies: what is chosen can be carried out, and equal draws choose the same.
func TestPolicyProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom(Names()).Draw(t, "policy")
		cfg := Config{
			DelayMax: rapid.SampledFrom([]time.Duration{0, 100 * time.Millisecond, 2 * time.Second}).Draw(t, "delay_max"),
			Explore:  rapid.SampledFrom([]float64{0, .05}).Draw(t, "explore"), FixedDelay: 100 * time.Millisecond,
		}
		p, err := New(name, cfg)
		if err != nil {
			t.Fatal(err)
		}
		q, _ := New(name, cfg)
		seed := rapid.Uint64().Draw(t, "seed")
		rngP, rngQ := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 1))
		nodes := rapid.IntRange(0, 8).Draw(t, "nodes")
		for range rapid.IntRange(1, 5).Draw(t, "calls") {
			c, cs := genCall(t, nodes), genCandidates(t, nodes)
			twin, before := slices.Clone(cs), slices.Clone(cs)
			ch := p.Decide(&c, cs, rngP)
			if err := check(ch, cs); err != nil {
				t.Fatalf("%s %v", name, err)
			}
			if again := q.Decide(&c, twin, rngQ); again != ch {
				t.Fatalf("%s chooses %+v, and %+v with equal draws", name, ch, again)
			}
			if c.DelayOff && ch.Verb == Delay {
				t.Fatalf("%s delays a call whose owner wants no waiting", name)
			}
			if name != "averages" && !reflect.DeepEqual(cs, before) {
				t.Fatalf("%s changes its candidates", name)
			}
			for i := range cs {
				if cs[i].Free {
					most := math.Inf(1)
					if r, ok := p.(Ranker); ok {
						most = r.MostIndex(&c, &cs[i])
					}
					if _, index := p.Admit(&c, &cs[i], 100, 50); math.IsNaN(index) || index > most {
						t.Fatalf("%s admits with index %v, at most %v", name, index, most)
					}
				}
			}
		}
	})
}

// Deciding, admitting and picking allocate nothing: a zone does all three per call.
func TestNoAllocation(t *testing.T) {
	all := rapid.Custom(func(t *rapid.T) []Candidate { return genCandidates(t, 32) }).Example(1)
	var full []Candidate
	for _, c := range all {
		if !c.Free {
			full = append(full, c)
		}
	}
	out := make([]int32, 0, 64)
	for _, name := range Names() {
		p, rng, call := mustNew(t, name), rng(), unbound()
		call.Nodes, call.Slots, call.Free, call.ColdMs, call.RentMs = 1000, 4000, 2000, 100, 1000
		picker, picks := p.(Picker)
		got := testing.AllocsPerRun(600, func() {
			call.FnHash++
			p.Decide(&call, all, rng)
			p.Decide(&call, full, rng)
			p.Decide(&call, nil, rng)
			p.Admit(&call, &all[0], 100, 50)
			if picks {
				out = picker.Pick(&call, 32, rng, out[:0])
			}
		})
		if got != 0 {
			t.Errorf("%s: %v allocations", name, got)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	all := rapid.Custom(func(t *rapid.T) []Candidate { return genCandidates(t, 32) }).Example(1)
	for _, name := range Names() {
		b.Run(name, func(b *testing.B) {
			p, rng, call := mustNew(b, name), rng(), unbound()
			call.Nodes, call.Slots, call.Free = 32, 64, 20
			for b.Loop() {
				call.FnHash++
				p.Decide(&call, all, rng)
			}
		})
	}
}

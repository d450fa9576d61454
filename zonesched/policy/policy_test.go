package policy

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
)

func rng() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// cand is a candidate with a median execution time and a bound.
func cand(node int32, startMs, execMs, upperMs float64) Candidate {
	return Candidate{
		Node: node, Free: startMs == 0, StartMs: startMs, Slots: 2, Sandbox: api.SandboxWarm,
		Est: api.Estimate{Mu: math.Log(execMs), Sigma: .3, UpperMs: upperMs, Source: api.SourceForest},
	}
}

// spot is a candidate with what the baselines look at.
func spot(node int32, startMs float64, running int, sb api.SandboxState) Candidate {
	c := cand(node, startMs, 100, math.Inf(1))
	c.Running, c.Sandbox = running, sb
	return c
}

// shares is a free node of six slots on so many cores.
func shares(node int32, running int, cores float64, sb api.SandboxState) Candidate {
	c := spot(node, 0, running, sb)
	c.Slots, c.Cores = 6, cores
	return c
}

// timed is a candidate with a start and an execution time.
func timed(node int32, startMs, execMs float64, sb api.SandboxState) Candidate {
	c := cand(node, startMs, execMs, math.Inf(1))
	c.Sandbox, c.Est.AveragesMu, c.Est.Source = sb, math.Log(execMs), api.SourceAverages
	return c
}

const none, prepared, warm = api.SandboxNone, api.SandboxPrepared, api.SandboxWarm

// unbound is a call that has not been bound to a node and has no deadline.
func unbound() Call { return Call{Hope: -1, DeadlineMs: math.Inf(1)} }

// In a saturated zone what is in place goes first: what is local, and what is nowhere much better off. Who has to bring up a
// sandbox, or would fetch what another node has, comes behind.
func TestSaturatedOrder(t *testing.T) {
	p := &Rubato{cfg: DefaultConfig()}
	call := Call{WaitedMs: 100, DeadlineMs: math.Inf(1), Alike: 1, Load: Load{Slots: 8, Waiting: 8}}
	fetches := func(execMs float64, sb api.SandboxState) Candidate {
		c := timed(0, 0, execMs, sb)
		c.MissingBytes = 1 << 20
		return c
	}
	for name, c := range map[string]struct {
		cand   Candidate
		bestMs float64
		first  bool
	}{
		"local":                         {timed(0, 0, 10, warm), 10, true},
		"no node has its input":         {fetches(100, warm), 100, true},
		"another node is hardly better": {fetches(102, warm), 99, true},
		"another node has its input":    {fetches(100, warm), 20, false},
		"it needs a sandbox as well":    {fetches(100, prepared), 100, false},
		"it needs a sandbox, and so on": {timed(0, 0, 100, none), 100, false},
		"what it pushes out is dear":    {func() Candidate { k := fetches(100, warm); k.EvictMs = 80; return k }(), 100, false},
	} {
		if ok, index := p.Admit(&call, &c.cand, 1000, c.bestMs); !ok || (index >= localFirst) != c.first {
			t.Errorf("%s: admitted %v with index %v, want first %v", name, ok, index, c.first)
		}
	}
}

// Among old calls in a full zone the older goes first, but for DelayMax that what the node has prepared is ahead of what it has not.
func TestOldCallsPreferWhatIsPrepared(t *testing.T) {
	p := &Rubato{cfg: DefaultConfig()}
	index := func(waitedMs float64, sb api.SandboxState) float64 {
		call := Call{WaitedMs: waitedMs, DeadlineMs: math.Inf(1), Alike: 1, AgeTurn: true, Load: Load{Slots: 8, Waiting: 8}}
		cand := timed(0, 0, 1000, sb)
		ok, index := p.Admit(&call, &cand, 100, 100)
		if !ok || !ByAge(index) {
			t.Fatalf("waited %v ms: admitted %v with index %v, not for its age", waitedMs, ok, index)
		}
		return index
	}
	if index(9000, none) >= index(9001, none) || index(9000, prepared) >= index(9001, prepared) {
		t.Error("the younger goes first")
	}
	if index(10900, none) >= index(9000, prepared) {
		t.Error("what must be prepared goes before what is, though it is not much older")
	}
	if index(11100, none) <= index(9000, prepared) {
		t.Error("what is prepared goes before one that is older by more than DelayMax")
	}
}

// A sandbox is brought up beside a wait once waits have added up to what it costs where slots are missed as little as now, and only
// where it pushes out nothing.
func TestRentBuysASandbox(t *testing.T) {
	for name, c := range map[string]struct {
		call  Call
		evict float64
		want  bool
	}{
		"nothing is paid":            {Call{ColdMs: 100}, 0, false},
		"not enough":                 {Call{ColdMs: 100, RentMs: 15}, 0, false},
		"enough":                     {Call{ColdMs: 100, RentMs: 16}, 0, true},
		"its cost is not known":      {Call{RentMs: 16}, 0, false},
		"one is on its way":          {Call{ColdMs: 100, RentMs: 16, Warming: 1}, 0, false},
		"it would push out others":   {Call{ColdMs: 100, RentMs: 16}, 1, false},
		"those that wait are enough": {Call{ColdMs: 10}, 0, true},
		"no slot to spare":           {Call{ColdMs: 100, RentMs: 1000, Load: Load{Slots: 30, Free: 2}}, 0, false},
		"nearly all slots are busy":  {Call{ColdMs: 100, RentMs: 81, Load: Load{Slots: 20, Free: 2}}, 0, false},
		"and still it is paid for":   {Call{ColdMs: 100, RentMs: 82, Load: Load{Slots: 20, Free: 2}}, 0, true},
		"in an idle zone little is":  {Call{ColdMs: 100, RentMs: .03, Load: Load{Slots: 8, Free: 8}}, 0, true},
		"and less is not enough":     {Call{ColdMs: 100, RentMs: .02, Load: Load{Slots: 8, Free: 8}}, 0, false},
	} {
		if c.call.Slots == 0 {
			c.call.Load = Load{Slots: 8, Free: 4}
		}
		c.call.DeadlineMs, c.call.Alike = math.Inf(1), 1
		n := cand(0, 0, 100, 200)
		n.Sandbox, n.EvictMs = prepared, c.evict
		best := cand(1, 5, 10, 20)
		best.Sandbox = warm
		ch := (&Rubato{cfg: Config{DelayMax: 2 * time.Second}}).Decide(&c.call, []Candidate{n, best}, rng())
		if ch.Verb != Delay || ch.Prewarm != c.want {
			t.Errorf("%s: verb %d, brings up a sandbox: %v, want %v", name, ch.Verb, ch.Prewarm, c.want)
		}
	}
}

// What calls have paid while most slots were busy buys the sandbox beside a call that finds a warm one, once that is cheaper.
func TestRentBuysASandboxWhenItIsQuiet(t *testing.T) {
	usual := Call{ColdMs: 100, RentMs: 32, Load: Load{Slots: 8, Free: 4}, DeadlineMs: math.Inf(1), Alike: 1} // six busy, with the call's own
	for name, c := range map[string]struct {
		change func(c *Call, cold, other *Candidate)
		want   int // the candidate at which it is brought up, -1: at none
	}{
		"where it is cheapest":         {func(*Call, *Candidate, *Candidate) {}, 1},
		"not enough is paid":           {func(c *Call, _, _ *Candidate) { c.RentMs = 31 }, -1},
		"no slot to spare":             {func(c *Call, _, _ *Candidate) { c.RentMs, c.Load = 1000, Load{Slots: 20, Free: 2} }, -1},
		"one slot to spare":            {func(c *Call, _, _ *Candidate) { c.RentMs, c.Load = 1000, Load{Slots: 20, Free: 3} }, 1},
		"there a start is under way":   {func(_ *Call, cold, _ *Candidate) { cold.UnderWay = true }, 2},
		"nothing is":                   {func(c *Call, _, _ *Candidate) { c.RentMs, c.ColdMs = 0, 0 }, -1},
		"its cost is not known":        {func(c *Call, _, _ *Candidate) { c.ColdMs = 0 }, -1},
		"one is on its way":            {func(c *Call, _, _ *Candidate) { c.Warming = 1 }, -1},
		"there it pushes out others":   {func(_ *Call, cold, _ *Candidate) { cold.EvictMs = 1 }, 2},
		"there no slot is free":        {func(_ *Call, cold, _ *Candidate) { cold.Free, cold.StartMs = false, 500 }, 2},
		"one is idle on every node":    {func(_ *Call, cold, other *Candidate) { cold.Sandbox, other.Sandbox = warm, warm }, -1},
		"the call itself starts a new": {func(_ *Call, cold, _ *Candidate) { *cold = cand(1, 0, 1, 2); cold.Sandbox = prepared }, -1},
	} {
		call, best, cold, other := usual, cand(0, 0, 10, 20), cand(1, 0, 100, 200), cand(2, 0, 150, 300)
		best.Sandbox, cold.Sandbox, other.Sandbox = warm, prepared, none
		c.change(&call, &cold, &other)
		ch := (&Rubato{cfg: Config{DelayMax: 2 * time.Second}}).Decide(&call, []Candidate{best, cold, other}, rng())
		if ch.Verb != Run || ch.Prewarm != (c.want >= 0) || ch.Prewarm && ch.Cold != c.want {
			t.Errorf("%s: verb %d, brings up a sandbox: %v, at %d, want %d", name, ch.Verb, ch.Prewarm, ch.Cold, c.want)
		}
	}
}

func TestRubatoClauses(t *testing.T) {
	inf := math.Inf(1)
	for name, c := range map[string]struct {
		call   Call
		cands  []Candidate
		verb   Verb
		clause Clause
		take   int
	}{
		"the best is free":                       {Call{DeadlineMs: inf}, []Candidate{cand(0, 0, 10, 20), cand(1, 50, 5, 9)}, Run, ClauseBestFree, 0},
		"waiting gains and there is no deadline": {Call{DeadlineMs: inf}, []Candidate{cand(0, 0, 1000, 2000), cand(1, 50, 10, 20)}, Delay, ClauseNoDeadline, 1},
		"too little gain":                        {Call{DeadlineMs: inf}, []Candidate{cand(0, 0, 100, 200), cand(1, 60, 35, 70)}, Run, ClauseGainTooSmall, 0},
		"a worse model needs more gain":          {Call{DeadlineMs: inf, ErrEW: .35}, []Candidate{cand(0, 0, 100, 200), cand(1, 50, 20, 40)}, Run, ClauseGainTooSmall, 0},
		"the same gain with a good model":        {Call{DeadlineMs: inf}, []Candidate{cand(0, 0, 100, 200), cand(1, 50, 20, 40)}, Delay, ClauseNoDeadline, 1},
		"the latest safe start lies ahead":       {Call{DeadlineMs: 5000}, []Candidate{cand(0, 0, 1000, 2000), cand(1, 50, 10, 20)}, Delay, ClauseSafeWait, 1},
		"no bound, so no wait under a deadline":  {Call{DeadlineMs: 5000}, []Candidate{cand(0, 0, 1000, inf), cand(1, 50, 10, inf)}, Run, ClauseDeadlineClose, 0},
		"no bound of the better node":            {Call{DeadlineMs: 800}, []Candidate{cand(0, 0, 1000, 2000), cand(1, 50, 10, inf)}, Run, ClauseDeadlineClose, 0},
		"nor if it will miss anyway":             {Call{DeadlineMs: 1}, []Candidate{cand(0, 0, 5000, 9000), cand(1, 50, 10, inf)}, Run, ClauseDeadlineClose, 0},
		"the deadline is too close to wait":      {Call{DeadlineMs: 100}, []Candidate{cand(0, 0, 40, 98), cand(1, 20, 1, 90)}, Run, ClauseDeadlineClose, 0},
		"waiting makes a miss less likely":       {Call{DeadlineMs: 800}, []Candidate{cand(0, 0, 1000, 2000), cand(1, 50, 10, 20)}, Delay, ClauseMissesLess, 1},
		"it will miss anyway":                    {Call{DeadlineMs: 1}, []Candidate{cand(0, 0, 5000, 9000), cand(1, 50, 10, 20)}, Delay, ClauseMissesAnyway, 1},
		"it has waited long enough":              {Call{DeadlineMs: inf, WaitedMs: 2000}, []Candidate{cand(0, 0, 1000, 2000), cand(1, 50, 10, 20)}, Run, ClauseDelayMax, 0},
		"its owner wants no waiting":             {Call{DeadlineMs: inf, DelayOff: true}, []Candidate{cand(0, 0, 1000, 2000), cand(1, 50, 10, 20)}, Run, ClauseDelayOff, 0},
		"now waiting is only compared with":      {Call{DeadlineMs: inf, Stopped: true}, []Candidate{cand(0, 0, 1000, 2000), cand(1, 50, 10, 20)}, Run, ClauseDelayOff, 0},
		"it would not have waited":               {Call{DeadlineMs: inf, Stopped: true}, []Candidate{cand(0, 0, 100, 200), cand(1, 60, 35, 70)}, Run, ClauseGainTooSmall, 0},
		"no slot is free":                        {Call{DeadlineMs: inf}, []Candidate{cand(0, 30, 10, 20), cand(1, 5, 10, 20)}, Queue, ClauseNoSlot, 1},
		"no node at all":                         {Call{DeadlineMs: inf}, nil, Queue, ClauseNoSlot, -1},
	} {
		p := &Rubato{cfg: Config{DelayMax: 2 * time.Second}}
		ch := p.Decide(&c.call, c.cands, rng())
		if ch.Verb != c.verb || ch.Clause != c.clause || ch.Take != c.take {
			t.Errorf("%s: verb %d clause %v take %d, want %d %v %d", name, ch.Verb, ch.Clause, ch.Take, c.verb, c.clause, c.take)
		}
	}
}

// Where a start of the function is under way, a second one must be clearly quicker to be begun.
func TestSecondStarts(t *testing.T) {
	for name, c := range map[string]struct {
		startMs float64
		verb    Verb
	}{
		"behind the first it ends sooner":         {60, Delay},
		"about even":                              {92, Delay},
		"the first one's end is still a long way": {110, Run},
	} {
		cold := cand(0, 0, 100, 200)
		cold.Sandbox, cold.UnderWay = none, true
		p := &Rubato{cfg: Config{DelayMax: 2 * time.Second}}
		call := unbound()
		if ch := p.Decide(&call, []Candidate{cold, cand(1, c.startMs, 10, 20)}, rng()); ch.Verb != c.verb || ch.Verb == Delay && ch.Take != 1 {
			t.Errorf("%s: verb %d take %d, want %d", name, ch.Verb, ch.Take, c.verb)
		}
		call.ColdMs, call.Alike, call.Slots, call.Free = 100, 1, 10, 5
		if ch := p.Decide(&call, []Candidate{cold, cand(1, c.startMs, 10, 20)}, rng()); ch.Prewarm {
			t.Errorf("%s: a second one is brought up ahead", name)
		}
		// Under a deadline and without a bound: a second start does not end before the first, but of a busy sandbox nothing is known.
		due := unbound()
		due.DeadlineMs = 5000
		unsure, coming := cold, cand(1, c.startMs, 10, math.Inf(1))
		unsure.Est.UpperMs = math.Inf(1)
		if ch := p.Decide(&due, []Candidate{unsure, coming}, rng()); ch.Verb != Run {
			t.Errorf("%s: waits for a busy sandbox without a bound", name)
		}
		due.DeadlineMs = 2*c.startMs - 1
		coming.Coming = true
		if ch := p.Decide(&due, []Candidate{unsure, coming}, rng()); ch.Verb != Run {
			t.Errorf("%s: waits for more than half of its time", name)
		}
		due.DeadlineMs = 5000
		if ch := p.Decide(&due, []Candidate{unsure, coming}, rng()); ch.Verb != c.verb || ch.Verb == Delay && ch.Clause != ClauseComing {
			t.Errorf("%s, under a deadline: verb %d, %v", name, ch.Verb, ch.Clause)
		}
		if ok, _ := p.Admit(&call, &cold, c.startMs+10, 10); ok != (c.verb == Run) {
			t.Errorf("%s: a freed slot begins a second start: %v", name, ok)
		}
		cold.UnderWay = false
		if ch := p.Decide(&call, []Candidate{cold, cand(1, 92, 10, 20)}, rng()); ch.Verb != Run || ch.Take != 0 {
			t.Errorf("no start is under way: verb %d take %d", ch.Verb, ch.Take)
		}
	}
}

func TestEqualCostsGoToTheNearerNode(t *testing.T) {
	p := &Rubato{cfg: DefaultConfig()}
	for range 20 {
		cs := []Candidate{cand(0, 0, 100, math.Inf(1)), cand(1, 0, 100, math.Inf(1)), cand(2, 0, 100, math.Inf(1))}
		cs[0].MissingBytes, cs[1].Sandbox, cs[2].Sandbox = 1<<20, api.SandboxNone, api.SandboxFetched
		if ch := p.Decide(&Call{DeadlineMs: math.Inf(1)}, cs, rng()); ch.Take != 2 {
			t.Fatalf("took %d, want the node with the input and the artifact", ch.Take)
		}
	}
}

func TestBaselines(t *testing.T) {
	inf := math.Inf(1)
	cs := []Candidate{cand(0, 0, 1, 1), cand(1, 0, 1, 1), cand(2, 0, 1, 1)}
	cs[0].Running, cs[2].Running = 1, 1
	rr := &RoundRobin{}
	for _, want := range []int{0, 1, 2, 0} {
		if ch := rr.Decide(&Call{}, cs, rng()); ch.Take != want {
			t.Fatalf("round robin took %d, want %d", ch.Take, want)
		}
	}
	if ch := (LeastLoaded{}).Decide(&Call{}, cs, rng()); ch.Take != 1 {
		t.Fatalf("least loaded took %d", ch.Take)
	}
	fd := FixedDelay{WaitMs: 100}
	cold := cand(0, 0, 1, 1)
	cold.Sandbox = api.SandboxNone
	busy := cand(1, 30, 1, 1)
	for waited, want := range map[float64]Verb{0: Delay, 99: Delay, 250: Run} {
		if ch := fd.Decide(&Call{WaitedMs: waited, DeadlineMs: inf}, []Candidate{cold, busy}, rng()); ch.Verb != want {
			t.Errorf("fixed delay after %v ms: %d, want %d", waited, ch.Verb, want)
		}
	}
	if ch := fd.Decide(&Call{}, []Candidate{cold}, rng()); ch.Verb != Run {
		t.Error("fixed delay waits although no node has anything of the call")
	}
}

func genCandidate(t *rapid.T, i int) Candidate {
	free := rapid.Bool().Draw(t, "free")
	start := 0.0
	if !free {
		start = rapid.Float64Range(.1, 5000).Draw(t, "start")
	}
	upper := rapid.SampledFrom([]float64{math.Inf(1), 50, 500, 5000}).Draw(t, "upper")
	c := cand(int32(i), start, rapid.Float64Range(.1, 20000).Draw(t, "exec"), upper)
	c.Est.Sigma = rapid.Float64Range(0, 2).Draw(t, "sigma")
	c.Sandbox = api.SandboxState(rapid.IntRange(0, 3).Draw(t, "sandbox"))
	c.MissingBytes = rapid.SampledFrom([]int64{0, 1 << 20}).Draw(t, "missing")
	c.LinkMs, c.EvictMs = rapid.Float64Range(0, 5).Draw(t, "link"), rapid.SampledFrom([]float64{0, 50, 5000}).Draw(t, "evict")
	c.PushMs = rapid.SampledFrom([]float64{0, 20}).Draw(t, "push")
	c.UnderWay, c.Coming = rapid.Bool().Draw(t, "under_way"), rapid.Bool().Draw(t, "coming")
	return c
}

// Where a new sandbox pushes out those of others, calls of its function wait until that is paid for, within their deadlines.
func TestMemoryIsPaidFor(t *testing.T) {
	inf := math.Inf(1)
	dear := func(evict float64) Candidate {
		k := cand(0, 0, 1000, 1500)
		k.Sandbox, k.EvictMs = prepared, evict
		return k
	}
	for name, c := range map[string]struct {
		call  Call
		evict float64
		verb  Verb
		wake  float64
	}{
		"nothing is pushed out":          {Call{DeadlineMs: inf, Alike: 1}, 0, Run, 0},
		"less than errors can fake":      {Call{DeadlineMs: inf, Alike: 1}, 104, Run, 0},
		"the first call waits":           {Call{DeadlineMs: inf, Alike: 1}, 800, Delay, 800},
		"four pay four times as fast":    {Call{DeadlineMs: inf, Alike: 4, OwedMs: 400}, 800, Delay, 100},
		"it is paid for":                 {Call{DeadlineMs: inf, Alike: 4, OwedMs: 800}, 800, Run, 0},
		"not beyond DelayMax":            {Call{DeadlineMs: inf, Alike: 1, WaitedMs: 1900, OwedMs: 1900}, 5000, Delay, 100},
		"DelayMax is over":               {Call{DeadlineMs: inf, Alike: 1, WaitedMs: 2000, OwedMs: 2000}, 5000, Run, 0},
		"not beyond its latest start":    {Call{DeadlineMs: 1700, MarginMs: 20, Alike: 1}, 800, Delay, 180},
		"its latest start has passed":    {Call{DeadlineMs: 1500, MarginMs: 20, Alike: 1}, 800, Run, 0},
		"its owner wants no waiting":     {Call{DeadlineMs: inf, Alike: 1, DelayOff: true}, 800, Run, 0},
		"a call that waits elsewhere":    {Call{DeadlineMs: inf, Alike: 2, OwedMs: 700, WaitedMs: 100}, 800, Delay, 50},
		"less than the shortest wake":    {Call{DeadlineMs: inf, Alike: 8, OwedMs: 799}, 800, Delay, minWakeMs},
		"waiting as little as it can be": {Call{DeadlineMs: inf, Alike: 1, OwedMs: 799.5, WaitedMs: 799.5}, 800, Delay, minWakeMs},
	} {
		p := &Rubato{cfg: Config{DelayMax: 2 * time.Second}}
		k := dear(c.evict)
		ch := p.Decide(&c.call, []Candidate{k}, rng())
		if ch.Verb != c.verb || ch.Verb == Delay && (ch.Clause != ClauseMemory || ch.Take != 0 || math.Abs(ch.WakeMs-c.wake) > 1e-9) {
			t.Errorf("%s: verb %d clause %v take %d wake %v", name, ch.Verb, ch.Clause, ch.Take, ch.WakeMs)
		}
		if ok, _ := p.Admit(&c.call, &k, inf, inf); ok != (c.verb == Run) {
			t.Errorf("%s: takes a freed slot: %v", name, ok)
		}
	}
	// A node that has room costs nobody anything: it is taken if it is not dearer than waiting, 800 ms here, and then starting.
	for cost, verb := range map[float64]Verb{2500: Run, 2700: Delay} {
		roomy := cand(1, 0, cost, 2*cost)
		roomy.Sandbox = none
		call := Call{DeadlineMs: inf, Alike: 1}
		if ch := (&Rubato{cfg: Config{DelayMax: 2 * time.Second}}).Decide(&call, []Candidate{dear(800), roomy}, rng()); ch.Verb != verb || ch.Clause != ClauseMemory || verb == Run && ch.Take != 1 {
			t.Errorf("room at %v ms: verb %d clause %v take %d", cost, ch.Verb, ch.Clause, ch.Take)
		}
	}
	k := dear(800)
	k.Sandbox = warm
	if ch := (&Rubato{cfg: Config{DelayMax: 2 * time.Second}}).Decide(&Call{DeadlineMs: inf, Alike: 1}, []Candidate{k}, rng()); ch.Verb != Run {
		t.Errorf("a warm sandbox pushes out nothing: verb %d", ch.Verb)
	}
}

// Properties: what runs is free; what is delayed gains more than the threshold, has a free fallback and waits within
// its bounds.
func TestRubatoProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{DelayMax: 2 * time.Second, Explore: rapid.SampledFrom([]float64{0, .05}).Draw(t, "explore")}
		p := &Rubato{cfg: cfg}
		n := rapid.IntRange(0, 8).Draw(t, "candidates")
		cs := make([]Candidate, n)
		for i := range cs {
			cs[i] = genCandidate(t, i)
		}
		c := Call{
			WaitedMs: rapid.Float64Range(0, 3000).Draw(t, "waited"), ErrEW: rapid.Float64Range(0, 2).Draw(t, "err"),
			DeadlineMs: rapid.SampledFrom([]float64{math.Inf(1), -5, 100, 10000}).Draw(t, "deadline"), MarginMs: 3,
		}
		c.OwedMs = c.WaitedMs + rapid.Float64Range(0, 200).Draw(t, "owed")
		ch := p.Decide(&c, cs, rng())
		free := false
		for i := range cs {
			free = free || cs[i].Free
		}
		switch ch.Verb {
		case Run:
			if !cs[ch.Take].Free {
				t.Fatal("runs on a node without a free slot")
			}
		case Delay:
			if ch.Clause == ClauseMemory {
				k := &cs[ch.Take]
				if ch.Take != ch.Now || !k.Free || k.Sandbox == warm || k.EvictMs <= c.OwedMs || !math.IsInf(c.DeadlineMs, 1) && ch.WakeMs > c.DeadlineMs-k.LinkMs-k.Est.UpperMs {
					t.Fatalf("waits for %+v and %v ms since memory is short, though its calls have waited for %v", *k, ch.WakeMs, c.OwedMs)
				}
				for i := range cs {
					if o := &cs[i]; o.Free && (o.Sandbox == warm || o.EvictMs == 0) && o.CostMs() < k.CostMs() {
						t.Fatalf("waits although %+v costs nobody anything", *o)
					}
				}
			} else if gain := cs[ch.Now].CostMs() - cs[ch.Take].CostMs(); !cs[ch.Now].Free || gain <= threshold(c.ErrEW, cs[ch.Now].Est.MedianMs()) && !cs[ch.Now].UnderWay {
				t.Fatalf("delays for a gain of %v", gain)
			}
			if ch.Clause != ClauseMemory && !math.IsInf(c.DeadlineMs, 1) {
				now, best := &cs[ch.Now], &cs[ch.Take]
				latest := c.DeadlineMs - now.LinkMs - now.Est.UpperMs - c.MarginMs
				switch ch.Clause {
				case ClauseSafeWait: // both the fallback, after the wait, and the best meet the deadline by their bounds
					if latest <= minWakeMs || ch.WakeMs > math.Max(latest, minWakeMs) || best.StartMs+best.LinkMs+best.Est.UpperMs > c.DeadlineMs {
						t.Fatalf("%v ms of a safe wait for %+v beside %+v, deadline in %v", ch.WakeMs, *best, *now, c.DeadlineMs)
					}
				case ClauseComing:
					if !now.UnderWay || !best.Coming || !math.IsInf(now.Est.UpperMs, 1) {
						t.Fatalf("waits for a start under way: %+v beside %+v", *best, *now)
					}
				case ClauseMissesLess, ClauseMissesAnyway:
					if math.IsInf(now.Est.UpperMs, 1) || math.IsInf(best.Est.UpperMs, 1) {
						t.Fatalf("waits to miss less without a bound: %+v beside %+v", *best, *now)
					}
					if m := MissProb(now, c.DeadlineMs); m <= MissCertain && m <= MissProb(best, c.DeadlineMs)+missGain {
						t.Fatalf("waits though a start at once misses with %v only, and after the wait with %v", m, MissProb(best, c.DeadlineMs))
					}
				default:
					t.Fatalf("waits under a deadline by clause %v", ch.Clause)
				}
			}
			if c.WaitedMs >= 2000 || ch.WakeMs < minWakeMs || ch.WakeMs > math.Max(2000-c.WaitedMs, minWakeMs) {
				t.Fatalf("has waited %v and wakes in %v", c.WaitedMs, ch.WakeMs)
			}
		case Queue:
			if free {
				t.Fatal("queues although a slot is free")
			}
		}
		if ch.Propensity <= 0 || ch.Propensity > 1 {
			t.Fatalf("propensity %v", ch.Propensity)
		}
		if k := ch.Take; ch.Clause == ClauseExplore && (!cs[k].Free || cs[k].LinkMs+cs[k].Est.UpperMs > c.DeadlineMs || math.IsInf(cs[k].Est.UpperMs, 1)) {
			t.Fatalf("explores %+v, deadline in %v", cs[k], c.DeadlineMs)
		}
	})
}

// What is said of a choice's probability is how often it is made: among equals, explored or not, safe or not.
func TestRubatosPropensities(t *testing.T) {
	same := func(n int, startMs, upperMs float64) (out []Candidate) {
		for i := range n {
			out = append(out, cand(int32(i), startMs, 10, upperMs))
		}
		return out
	}
	underWay := func(cs []Candidate) []Candidate {
		for i := range cs[:3] {
			cs[i].UnderWay = true
		}
		return cs
	}
	for name, c := range map[string]struct {
		deadlineMs float64
		cands      []Candidate
	}{
		"three are alike and a fourth is explored":    {math.Inf(1), append(same(3, 0, 20), cand(3, 0, 14, 30))},
		"the best is not safe, two others are":        {60, append(same(1, 0, 90), cand(1, 0, 14, 30), cand(2, 0, 15, 30))},
		"three of whom none is explored":              {60, same(3, 0, 90)},
		"two are waited for":                          {math.Inf(1), append(same(2, 50, 20), cand(2, 0, 1000, 2000))},
		"two that are busy, two free ones far behind": {math.Inf(1), append(same(2, 50, 20), cand(2, 0, 1000, 2000), cand(3, 0, 1000, 2000))},
		"all are busy":                                {math.Inf(1), same(3, 50, 20)},
		"a start that others' are behind":             {math.Inf(1), underWay(append(same(3, 0, 20), cand(3, 5, 9, 20)))},
	} {
		const draws = 40000
		p := &Rubato{cfg: Config{DelayMax: 2 * time.Second, Explore: .3}}
		rng, seen, said := rng(), map[int]float64{}, map[int]float64{}
		call := unbound()
		call.DeadlineMs = c.deadlineMs
		for range draws {
			ch := p.Decide(&call, c.cands, rng)
			seen[ch.Take] += 1. / draws
			if old, ok := said[ch.Take]; ok && math.Abs(old-ch.Propensity) > 1e-12 {
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

// Property: among equals every node has its part, whatever the seed: "the lowest first" would be a herd's choice.
func TestTiesSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 16).Draw(t, "nodes")
		draw := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		cands := make([]Candidate, n)
		for i := range cands {
			cands[i] = cand(int32(i), 0, 10, 20)
		}
		const each = 200
		p := &Rubato{cfg: Config{DelayMax: 2 * time.Second}}
		got := make([]int, n)
		call := unbound()
		for range each * n {
			got[p.Decide(&call, cands, draw).Take]++
		}
		for i, k := range got {
			if k < each/2 || k > 2*each {
				t.Fatalf("node %d of %d has %d of %d calls: want about %d", i, n, k, each*n, each)
			}
		}
	})
}

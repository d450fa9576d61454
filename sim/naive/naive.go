// Package naive holds rules that are known to fail: each is a disaster of delay scheduling from the literature or from this
// project's own trials, made as small as it can be. Most are the product's rule with one part broken, so that a comparison
// shows what that part is for. Only the simulator uses them (sim/lab); production offers none of them by name. Pure: no clock
// but the one that is handed in, no I/O; not safe for concurrent use. Times are float64 milliseconds, as in zonesched/policy.
package naive

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// run chooses candidate i.
func run(i int, clause policy.Clause) policy.Choice {
	return policy.Choice{Verb: policy.Run, Clause: clause, Take: i, Now: i, WakeMs: math.Inf(1), Propensity: 1}
}

// cheapest finds the candidate with the smallest cost among those that want accepts; the lowest node wins ties. -1: none.
func cheapest(cands []policy.Candidate, want func(*policy.Candidate) bool) int {
	best, cost := -1, math.Inf(1)
	for i := range cands {
		c := &cands[i]
		if !want(c) {
			continue
		}
		if k := c.CostMs(); best < 0 || k < cost || k == cost && c.Node < cands[best].Node {
			best, cost = i, k
		}
	}
	return best
}

func free(c *policy.Candidate) bool { return c.Free }

func anyone(*policy.Candidate) bool { return true }

// HeadOfQueue is the given rule while slots are free. In a full zone a freed slot goes to the call that has waited longest,
// whatever has to be brought up for it there: first come, first served.
type HeadOfQueue struct{ policy.Policy }

// Name implements policy.Policy.
func (HeadOfQueue) Name() string { return "head-of-queue" }

// Admit implements policy.Policy.
func (p HeadOfQueue) Admit(c *policy.Call, k *policy.Candidate, elsewhereMs, execBestMs float64) (bool, float64) {
	if c.Free > 1 { // not only the slot that is offered
		return p.Policy.Admit(c, k, elsewhereMs, execBestMs)
	}
	return true, c.WaitedMs
}

// ResetTimer waits a fixed time for a node that has all that a call needs, and the time begins anew whenever one of the
// function's calls has found such a node: Spark before 3.1 (SPARK-18886).
type ResetTimer struct {
	WaitMs float64
	Clock  func() time.Duration
	hits   map[uint64]float64 // by function: when a call of it last found its place
}

// Name implements policy.Policy.
func (*ResetTimer) Name() string { return "reset-timer" }

func (p *ResetTimer) hit(fn uint64) {
	if p.hits == nil {
		p.hits = map[uint64]float64{}
	}
	p.hits[fn] = nowMs(p.Clock)
}

func nowMs(clock func() time.Duration) float64 { return float64(clock()) / float64(time.Millisecond) }

// leftMs is how long the call must still hold out.
func (p *ResetTimer) leftMs(c *policy.Call) float64 {
	waited := c.WaitedMs
	if at, ok := p.hits[c.FnHash]; ok {
		waited = math.Min(waited, nowMs(p.Clock)-at)
	}
	return p.WaitMs - waited
}

// Decide implements policy.Policy.
func (p *ResetTimer) Decide(c *policy.Call, cands []policy.Candidate, _ *rand.Rand) policy.Choice {
	local := func(k *policy.Candidate) bool { return k.Local() }
	if i := cheapest(cands, func(k *policy.Candidate) bool { return k.Free && k.Local() }); i >= 0 {
		p.hit(c.FnHash)
		return run(i, policy.ClauseLocal)
	}
	now, best := cheapest(cands, free), cheapest(cands, local)
	left := p.leftMs(c)
	switch {
	case best >= 0 && left > 0:
		ch := policy.Choice{Verb: policy.Delay, Clause: policy.ClauseWaitLocal, Take: best, Now: now, WakeMs: math.Max(left, 1), Propensity: 1}
		if now < 0 {
			ch.Verb = policy.Queue
		}
		return ch
	case now < 0:
		return policy.Choice{Verb: policy.Queue, Clause: policy.ClauseNoSlot, Take: cheapest(cands, anyone), Now: -1, WakeMs: math.Inf(1), Propensity: 1}
	}
	return run(now, policy.ClauseDelayMax)
}

// Admit implements policy.Policy.
func (p *ResetTimer) Admit(c *policy.Call, k *policy.Candidate, _, _ float64) (bool, float64) {
	if k.Local() {
		p.hit(c.FnHash)
		return true, c.WaitedMs
	}
	return p.leftMs(c) <= 0, c.WaitedMs
}

// Herd goes to the least loaded free node by a view that is looked up now and then only, the lowest of equal ones: between two
// looks everybody chooses the same.
type Herd struct {
	EveryMs float64
	Clock   func() time.Duration
	at      float64
	view    map[int32]int // calls that ran on each node when last looked
}

// Name implements policy.Policy.
func (*Herd) Name() string { return "herd" }

// Decide implements policy.Policy.
func (p *Herd) Decide(_ *policy.Call, cands []policy.Candidate, _ *rand.Rand) policy.Choice {
	if t := nowMs(p.Clock); p.view == nil || t-p.at >= p.EveryMs {
		p.at, p.view = t, map[int32]int{}
		for i := range cands {
			p.view[cands[i].Node] = cands[i].Running
		}
	}
	best := -1
	for i := range cands {
		k := &cands[i]
		if !k.Free {
			continue
		}
		if best < 0 || p.view[k.Node] < p.view[cands[best].Node] || p.view[k.Node] == p.view[cands[best].Node] && k.Node < cands[best].Node {
			best = i
		}
	}
	if best >= 0 {
		return run(best, policy.ClauseLeastLoaded)
	}
	return policy.Choice{Verb: policy.Queue, Clause: policy.ClauseNoSlot, Take: cheapest(cands, anyone), Now: -1, WakeMs: math.Inf(1), Propensity: 1}
}

// Admit implements policy.Policy.
func (*Herd) Admit(c *policy.Call, _ *policy.Candidate, _, _ float64) (bool, float64) {
	return true, c.WaitedMs
}

// BindHard is the given rule, but a call that waits takes no slot except one of the node that it was reserved at first.
type BindHard struct{ policy.Policy }

// Name implements policy.Policy.
func (BindHard) Name() string { return "bind-hard" }

// Decide implements policy.Policy.
func (p BindHard) Decide(c *policy.Call, cands []policy.Candidate, rng *rand.Rand) policy.Choice {
	if c.Hope < 0 {
		return p.Policy.Decide(c, cands, rng)
	}
	bound := func(k *policy.Candidate) bool { return k.Node == c.Hope }
	if i := cheapest(cands, func(k *policy.Candidate) bool { return k.Free && bound(k) }); i >= 0 {
		return run(i, policy.ClauseBound)
	}
	i := cheapest(cands, bound)
	if i < 0 { // the node is gone
		return p.Policy.Decide(c, cands, rng)
	}
	return policy.Choice{Verb: policy.Queue, Clause: policy.ClauseBound, Take: i, Now: -1, WakeMs: math.Inf(1), Propensity: 1}
}

// Admit implements policy.Policy.
func (p BindHard) Admit(c *policy.Call, k *policy.Candidate, elsewhereMs, execBestMs float64) (bool, float64) {
	_, index := p.Policy.Admit(c, k, elsewhereMs, execBestMs)
	return k.Node == c.Hope, index
}

// AlwaysWait holds a call back for a warm sandbox as long as there is one, whatever is expected of it, until MaxMs.
type AlwaysWait struct{ MaxMs float64 }

// Name implements policy.Policy.
func (AlwaysWait) Name() string { return "always-wait" }

// Decide implements policy.Policy.
func (p AlwaysWait) Decide(c *policy.Call, cands []policy.Candidate, _ *rand.Rand) policy.Choice {
	warm := func(k *policy.Candidate) bool { return k.Sandbox == api.SandboxWarm }
	if i := cheapest(cands, func(k *policy.Candidate) bool { return k.Free && warm(k) }); i >= 0 {
		return run(i, policy.ClauseWarm)
	}
	now, best := cheapest(cands, free), cheapest(cands, warm)
	switch {
	case now < 0:
		return policy.Choice{Verb: policy.Queue, Clause: policy.ClauseNoSlot, Take: cheapest(cands, anyone), Now: -1, WakeMs: math.Inf(1), Propensity: 1}
	case best >= 0 && c.WaitedMs < p.MaxMs:
		return policy.Choice{Verb: policy.Delay, Clause: policy.ClauseWaitWarm, Take: best, Now: now, WakeMs: math.Max(p.MaxMs-c.WaitedMs, 1), Propensity: 1}
	}
	return run(now, policy.ClauseDelayMax)
}

// Admit implements policy.Policy.
func (p AlwaysWait) Admit(c *policy.Call, k *policy.Candidate, _, _ float64) (bool, float64) {
	return k.Sandbox == api.SandboxWarm || c.WaitedMs >= p.MaxMs, c.WaitedMs
}

// Ageless is the given rule, but age earns a call nothing: in a full zone matches go first, always.
type Ageless struct{ policy.Policy }

// Name implements policy.Policy.
func (Ageless) Name() string { return "ageless" }

// Admit implements policy.Policy.
func (p Ageless) Admit(c *policy.Call, k *policy.Candidate, elsewhereMs, execBestMs float64) (bool, float64) {
	young := *c
	young.AgeTurn = false
	return p.Policy.Admit(&young, k, elsewhereMs, execBestMs)
}

// TakeAtWord believes its predictions to the last millisecond: it waits for every gain, however small, and has no order of its
// own for a full zone.
type TakeAtWord struct{ MaxMs float64 }

// Name implements policy.Policy.
func (TakeAtWord) Name() string { return "take-at-word" }

// Decide implements policy.Policy.
func (p TakeAtWord) Decide(c *policy.Call, cands []policy.Candidate, _ *rand.Rand) policy.Choice {
	now, best := cheapest(cands, free), cheapest(cands, anyone)
	switch {
	case now < 0:
		return policy.Choice{Verb: policy.Queue, Clause: policy.ClauseNoSlot, Take: best, Now: -1, WakeMs: math.Inf(1), Propensity: 1}
	case cands[best].Free:
		return run(best, policy.ClauseBestFree)
	case c.WaitedMs < p.MaxMs:
		wake := math.Min(p.MaxMs-c.WaitedMs, 1.5*cands[best].StartMs)
		return policy.Choice{Verb: policy.Delay, Clause: policy.ClausePredicted, Take: best, Now: now, WakeMs: math.Max(wake, 1), Propensity: 1}
	}
	return run(now, policy.ClauseDelayMax)
}

// Admit implements policy.Policy.
func (TakeAtWord) Admit(c *policy.Call, k *policy.Candidate, elsewhereMs, execBestMs float64) (bool, float64) {
	if k.CostMs() > math.Max(elsewhereMs, execBestMs) {
		return false, 0
	}
	exec := math.Max(k.Est.MedianMs(), .01)
	return true, (c.WaitedMs + exec) / exec
}

// ToTheLetter is the given rule, but under a deadline it waits only while a safe start lies ahead: also a call that will be
// late for certain is started cold rather than held back.
type ToTheLetter struct{ policy.Policy }

// Name implements policy.Policy.
func (ToTheLetter) Name() string { return "to-the-letter" }

// Decide implements policy.Policy.
func (p ToTheLetter) Decide(c *policy.Call, cands []policy.Candidate, rng *rand.Rand) policy.Choice {
	ch := p.Policy.Decide(c, cands, rng)
	if ch.Verb == policy.Delay && (ch.Clause == policy.ClauseMissesLess || ch.Clause == policy.ClauseMissesAnyway) {
		return run(ch.Now, policy.ClauseDeadlineClose)
	}
	return ch
}

// FIFO is the given rule for a call that arrives. Whatever slot frees, in a full zone or not, goes to the call that has waited
// longest, and what has to be brought up for it there does not matter.
type FIFO struct{ policy.Policy }

// Name implements policy.Policy.
func (FIFO) Name() string { return "fifo" }

// Admit implements policy.Policy.
func (FIFO) Admit(c *policy.Call, _ *policy.Candidate, _, _ float64) (bool, float64) {
	return true, c.WaitedMs
}

// ColdInFull takes calls one by one, in a full zone too: a freed slot goes to the one that has waited longest among those that expect
// to be done sooner by it than where they hope to run, warm there or not. Where all have to wait long, a cold start is sooner for
// nearly everybody.
type ColdInFull struct{ policy.Policy }

// Name implements policy.Policy.
func (ColdInFull) Name() string { return "cold-in-full" }

// Admit implements policy.Policy.
func (p ColdInFull) Admit(c *policy.Call, k *policy.Candidate, elsewhereMs, execBestMs float64) (bool, float64) {
	calm := *c
	calm.Waiting = 0
	ok, _ := p.Policy.Admit(&calm, k, elsewhereMs, execBestMs)
	return ok, c.WaitedMs
}

// ForceOld is the given rule, but what bounds holding back bounds queueing too: a call that has waited MaxMs takes the next slot
// that frees, the oldest first, and starts cold there if it must.
type ForceOld struct {
	policy.Policy
	MaxMs float64
}

// Name implements policy.Policy.
func (ForceOld) Name() string { return "force-old" }

// Admit implements policy.Policy.
func (p ForceOld) Admit(c *policy.Call, k *policy.Candidate, elsewhereMs, execBestMs float64) (bool, float64) {
	if c.WaitedMs >= p.MaxMs {
		return true, 1e15 + c.WaitedMs
	}
	return p.Policy.Admit(c, k, elsewhereMs, execBestMs)
}

// Speculate is the given rule, but whenever a call finds no idle sandbox another one is brought up for it on a free slot, whatever
// is on its way already and however few slots are left.
type Speculate struct{ policy.Policy }

// Name implements policy.Policy.
func (Speculate) Name() string { return "speculate" }

// Decide implements policy.Policy.
func (p Speculate) Decide(c *policy.Call, cands []policy.Candidate, rng *rand.Rand) policy.Choice {
	ch := p.Policy.Decide(c, cands, rng)
	if ch.Verb == policy.Queue || cands[ch.Now].Sandbox == api.SandboxWarm || cands[ch.Take].Free && cands[ch.Take].Sandbox == api.SandboxWarm {
		return ch
	}
	wake := ch.WakeMs
	if ch.Verb == policy.Run {
		wake = cands[ch.Take].CostMs()
	}
	return policy.Choice{Verb: policy.Delay, Clause: policy.ClauseWaitWarm, Take: ch.Take, Now: ch.Now, WakeMs: math.Max(wake, 1), Propensity: 1, Prewarm: true, Cold: ch.Now}
}

// Flock sends everybody to the one node that was warm first: the lowest that has a sandbox of the function, whatever runs there
// already. A call that finds no slot there waits up to MaxMs for one.
type Flock struct{ MaxMs float64 }

// Name implements policy.Policy.
func (Flock) Name() string { return "flock" }

// lowest is the candidate on the lowest node that want accepts, the one with the most of what the call needs there; -1 for none.
func lowest(cands []policy.Candidate, want func(*policy.Candidate) bool) int {
	best := -1
	for i := range cands {
		k := &cands[i]
		if want(k) && (best < 0 || k.Node < cands[best].Node || k.Node == cands[best].Node && k.Sandbox > cands[best].Sandbox) {
			best = i
		}
	}
	return best
}

// Decide implements policy.Policy.
func (p Flock) Decide(c *policy.Call, cands []policy.Candidate, _ *rand.Rand) policy.Choice {
	warm := lowest(cands, func(k *policy.Candidate) bool { return k.Sandbox == api.SandboxWarm })
	now := cheapest(cands, free)
	if warm >= 0 {
		if i := lowest(cands, func(k *policy.Candidate) bool { return k.Free && k.Node == cands[warm].Node }); i >= 0 {
			return run(i, policy.ClauseWarm) // in a sandbox of its own if the others are busy
		}
	}
	switch {
	case now < 0:
		return policy.Choice{Verb: policy.Queue, Clause: policy.ClauseNoSlot, Take: cheapest(cands, anyone), Now: -1, WakeMs: math.Inf(1), Propensity: 1}
	case warm >= 0 && c.WaitedMs < p.MaxMs:
		return policy.Choice{Verb: policy.Delay, Clause: policy.ClauseWaitWarm, Take: warm, Now: now, WakeMs: math.Max(p.MaxMs-c.WaitedMs, 1), Propensity: 1}
	}
	return run(now, policy.ClauseDelayMax)
}

// Admit implements policy.Policy.
func (p Flock) Admit(c *policy.Call, k *policy.Candidate, _, _ float64) (bool, float64) {
	return k.Node == c.Hope || c.WaitedMs >= p.MaxMs, c.WaitedMs
}

// PushOut is the given rule, but a cold start owes nothing to those whose sandboxes it pushes out: it begins at once.
type PushOut struct{ policy.Policy }

// Name implements policy.Policy.
func (PushOut) Name() string { return "push-out" }

func paid(c *policy.Call) *policy.Call {
	debtless := *c
	debtless.OwedMs = math.Inf(1)
	return &debtless
}

// Decide implements policy.Policy.
func (p PushOut) Decide(c *policy.Call, cands []policy.Candidate, rng *rand.Rand) policy.Choice {
	return p.Policy.Decide(paid(c), cands, rng)
}

// Admit implements policy.Policy.
func (p PushOut) Admit(c *policy.Call, k *policy.Candidate, elsewhereMs, execBestMs float64) (bool, float64) {
	return p.Policy.Admit(paid(c), k, elsewhereMs, execBestMs)
}

// CountsSlots is the given rule, but a slot is a slot: what slots a call strands, by the memory that it keeps from others, it does not ask.
type CountsSlots struct {
	policy.Policy
	cands []policy.Candidate
}

// Name implements policy.Policy.
func (*CountsSlots) Name() string { return "counts-slots" }

// Decide implements policy.Policy.
func (p *CountsSlots) Decide(c *policy.Call, cands []policy.Candidate, rng *rand.Rand) policy.Choice {
	p.cands = append(p.cands[:0], cands...)
	for i := range p.cands {
		p.cands[i].Strands = 0
	}
	return p.Policy.Decide(c, p.cands, rng)
}

// Admit implements policy.Policy.
func (p *CountsSlots) Admit(c *policy.Call, k *policy.Candidate, elsewhereMs, execBestMs float64) (bool, float64) {
	free := *k
	free.Strands = 0
	return p.Policy.Admit(c, &free, elsewhereMs, execBestMs)
}

// Unguarded is the given rule, hidden from the zone's guards of waiting and of the forest, which judge no rule but the product's.
type Unguarded struct{ policy.Policy }

// Boundless is the given rule, but no time is too long to be held back: each look is like the first.
type Boundless struct{ policy.Policy }

// Name implements policy.Policy.
func (Boundless) Name() string { return "boundless" }

// Decide implements policy.Policy.
func (p Boundless) Decide(c *policy.Call, cands []policy.Candidate, rng *rand.Rand) policy.Choice {
	fresh := *c
	fresh.WaitedMs = 0
	return p.Policy.Decide(&fresh, cands, rng)
}

// DeafToOff is the given rule, but it does not hear that a function's owner wants no waiting.
type DeafToOff struct{ policy.Policy }

// Name implements policy.Policy.
func (DeafToOff) Name() string { return "deaf-to-off" }

// Decide implements policy.Policy.
func (p DeafToOff) Decide(c *policy.Call, cands []policy.Candidate, rng *rand.Rand) policy.Choice {
	deaf := *c
	deaf.DelayOff = false
	return p.Policy.Decide(&deaf, cands, rng)
}

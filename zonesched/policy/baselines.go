package policy

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/rubato-faas/rubato/api"
)

// RoundRobin runs each call on the next node that has a free slot, whatever it holds.
type RoundRobin struct{ next int32 }

var _ Policy = (*RoundRobin)(nil)

// Name implements Policy.
func (*RoundRobin) Name() string { return "round-robin" }

// Decide implements Policy.
func (p *RoundRobin) Decide(_ *Call, cands []Candidate, _ *rand.Rand) Choice {
	take, dist := -1, int32(math.MaxInt32)
	for i := range cands {
		if !cands[i].Free {
			continue
		}
		d := cands[i].Node - p.next
		if d < 0 {
			d += math.MaxInt32 / 2
		}
		if d < dist {
			take, dist = i, d
		}
	}
	if take < 0 {
		return queue(cands)
	}
	p.next = cands[take].Node + 1
	return Choice{Verb: Run, Clause: ClauseNext, Take: take, Now: take, WakeMs: math.Inf(1), Propensity: 1}
}

// Admit implements Policy: first come, first served.
func (*RoundRobin) Admit(c *Call, _ *Candidate, _, _ float64) (bool, float64) {
	return true, c.WaitedMs
}

// LeastLoaded runs each call on the free node with the smallest share of busy slots; ties are drawn.
type LeastLoaded struct{}

var _ Policy = LeastLoaded{}

// Name implements Policy.
func (LeastLoaded) Name() string { return "least-loaded" }

// Decide implements Policy.
func (LeastLoaded) Decide(_ *Call, cands []Candidate, rng *rand.Rand) Choice {
	take := leastLoaded(cands, 3, rng)
	if take.at < 0 {
		return queue(cands)
	}
	return runOn(take.at, ClauseLeastLoaded, take.share())
}

// Admit implements Policy: first come, first served.
func (LeastLoaded) Admit(c *Call, _ *Candidate, _, _ float64) (bool, float64) {
	return true, c.WaitedMs
}

// FixedDelay is delay scheduling (Zaharia et al., EuroSys 2010) for functions, with locality levels as Spark has them:
// first a node with a warm sandbox and all inputs; then one with all inputs (for calls without inputs: with a prepared
// sandbox); then the least loaded. Each of the first two levels is waited for up to WaitMs while a node of that level
// exists and is only busy; a level that no node has is skipped at once. It knows neither how much is gained nor what
// the deadline allows.
type FixedDelay struct{ WaitMs float64 }

var _ Policy = FixedDelay{}

// Name implements Policy.
func (FixedDelay) Name() string { return "fixed-delay" }

// local reports whether c is at least of the level: 1 warm and cached, 2 cached (or prepared), 3 any.
func (c *Candidate) local(level int) bool {
	switch level {
	case 1:
		return c.Local()
	case 2:
		return c.HasInputs && c.MissingBytes == 0 || !c.HasInputs && c.Sandbox >= api.SandboxPrepared
	}
	return true
}

// Decide implements Policy.
func (p FixedDelay) Decide(c *Call, cands []Candidate, rng *rand.Rand) Choice {
	now := leastLoaded(cands, 3, rng)
	var levels [2]float64
	from := 0.0
	for k := range levels {
		if !c.DelayOff && ofLevel(cands, k+1) >= 0 {
			from += p.WaitMs
		}
		levels[k] = from
	}
	if now.at < 0 {
		ch := queue(cands)
		ch.LevelMs = levels
		return ch
	}
	for k := range levels {
		if l := leastLoaded(cands, k+1, rng); l.at >= 0 {
			return runOn(l.at, ClauseLocal, l.share())
		}
		if left := levels[k] - c.WaitedMs; left > 0 {
			return Choice{Verb: Delay, Clause: ClauseWaitLocal, Take: ofLevel(cands, k+1), Now: now.at, WakeMs: math.Max(left, minWakeMs), Propensity: 1, LevelMs: levels}
		}
	}
	return runOn(now.at, ClauseLeastLoaded, now.share())
}

// ofLevel finds the first candidate of at least the locality level, be it free or not.
func ofLevel(cands []Candidate, level int) int {
	return slices.IndexFunc(cands, func(c Candidate) bool { return c.local(level) })
}

// Admit implements Policy: of the calls whose waits, as far as they have come, let them go there, the most local, and of those the
// oldest, as Spark looks through the pending tasks of one set. In the order of their arrival alone, as in the loop over jobs of
// the paper, a full zone that has waited too long for locality never gets it back: in mixed.yaml at a load of .9 calls then take 37
// times as long.
func (FixedDelay) Admit(c *Call, cand *Candidate, _, _ float64) (bool, float64) {
	switch {
	case cand.local(1):
		return true, c.WaitedMs + 2*matchFirst
	case cand.local(2) && c.WaitedMs >= c.LevelMs[0]:
		return true, c.WaitedMs + matchFirst
	}
	return c.WaitedMs >= c.LevelMs[1], c.WaitedMs
}

// MostIndex implements Ranker.
func (FixedDelay) MostIndex(c *Call, _ *Candidate) float64 { return c.WaitedMs + 2*matchFirst }

func queue(cands []Candidate) Choice {
	ch := Choice{Verb: Queue, Clause: ClauseNoSlot, Take: -1, Now: -1, WakeMs: math.Inf(1), Propensity: 1}
	start := math.Inf(1)
	for i := range cands {
		if cands[i].StartMs < start {
			ch.Take, start = i, cands[i].StartMs
		}
	}
	return ch
}

// leastLoaded finds the free candidate of at least the locality level with the smallest share of busy slots.
func leastLoaded(cands []Candidate, level int, rng *rand.Rand) lot {
	l := newLot()
	for i := range cands {
		if k := &cands[i]; k.Free && k.local(level) {
			l.offer(i, k.load(), rng)
		}
	}
	return l
}

package policy

import (
	"math"
	"math/rand/v2"
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
	take := leastLoaded(cands, false, rng)
	if take < 0 {
		return queue(cands)
	}
	return Choice{Verb: Run, Clause: ClauseLeastLoaded, Take: take, Now: take, WakeMs: math.Inf(1), Propensity: 1}
}

// Admit implements Policy: first come, first served.
func (LeastLoaded) Admit(c *Call, _ *Candidate, _, _ float64) (bool, float64) {
	return true, c.WaitedMs
}

// FixedDelay is delay scheduling (Zaharia et al., EuroSys 2010) for functions: a node with a warm sandbox and all
// inputs is preferred, and while one exists that is only busy, the call waits for it up to WaitMs; then it runs on
// the least loaded free node. It knows neither how much is gained nor what the deadline allows.
type FixedDelay struct{ WaitMs float64 }

var _ Policy = FixedDelay{}

// Name implements Policy.
func (FixedDelay) Name() string { return "fixed-delay" }

// Decide implements Policy.
func (p FixedDelay) Decide(c *Call, cands []Candidate, rng *rand.Rand) Choice {
	if i := leastLoaded(cands, true, rng); i >= 0 {
		return Choice{Verb: Run, Clause: ClauseLocal, Take: i, Now: i, WakeMs: math.Inf(1), Propensity: 1}
	}
	now := leastLoaded(cands, false, rng)
	if now < 0 {
		return queue(cands)
	}
	if c.WaitedMs < p.WaitMs && !c.DelayOff {
		for i := range cands {
			if !cands[i].Free && cands[i].Local() {
				return Choice{Verb: Delay, Clause: ClauseWaitLocal, Take: i, Now: now, WakeMs: math.Max(p.WaitMs-c.WaitedMs, minWakeMs), Propensity: 1}
			}
		}
	}
	return Choice{Verb: Run, Clause: ClauseLeastLoaded, Take: now, Now: now, WakeMs: math.Inf(1), Propensity: 1}
}

// Admit implements Policy: local calls first, then those that have waited long enough, oldest first.
func (p FixedDelay) Admit(c *Call, cand *Candidate, elsewhereMs, _ float64) (bool, float64) {
	switch {
	case cand.Local():
		return true, c.WaitedMs + 1e9
	case c.WaitedMs >= p.WaitMs || math.IsInf(elsewhereMs, 1):
		return true, c.WaitedMs
	}
	return false, 0
}

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

func leastLoaded(cands []Candidate, local bool, rng *rand.Rand) int {
	best, ties, load := -1, 0, math.Inf(1)
	for i := range cands {
		k := &cands[i]
		if !k.Free || local && !k.Local() {
			continue
		}
		l := float64(k.Running) / float64(max(k.Slots, 1))
		switch {
		case l < load:
			best, ties, load = i, 1, l
		case l == load:
			if ties++; rng.IntN(ties) == 0 {
				best = i
			}
		}
	}
	return best
}

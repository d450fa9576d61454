package policy

import (
	"math"
	"math/rand/v2"
)

// Early binding: some schedulers push a call to a node at once, even to one without a free slot, and it stays in that
// node's queue. Here such a call waits in the zone, hopes for its node (Call.Hope) and takes no other slot.

// bound is what a call does that was bound to a node before: it runs there when it can, and waits for it otherwise, even
// beside a free slot. Not ok: it is not bound, its node is gone, or its owner wants no waiting and another has a slot.
func bound(c *Call, cands []Candidate) (ch Choice, ok bool) {
	if c.Hope < 0 {
		return Choice{}, false
	}
	take, now := -1, -1
	for i := range cands {
		k := &cands[i]
		if k.Node == c.Hope && (take < 0 || k.StartMs < cands[take].StartMs) {
			take = i
		}
		if k.Free && (now < 0 || k.load() < cands[now].load()) {
			now = i
		}
	}
	switch {
	case take < 0:
		return Choice{}, false
	case cands[take].Free:
		return runOn(take, ClauseBound, 1), true
	case now < 0:
		return Choice{Verb: Queue, Clause: ClauseBound, Take: take, Now: -1, WakeMs: math.Inf(1), Propensity: 1}, true
	case c.DelayOff:
		return Choice{}, false
	}
	return Choice{Verb: Delay, Clause: ClauseBound, Take: take, Now: now, WakeMs: math.Inf(1), Propensity: 1}, true
}

// Binds reports whether a call under this rule stays with the node that it was bound to for as long as that is in service, whatever
// other slots free.
func Binds(p Policy) bool {
	switch p.(type) {
	case Hermod, *CHRLU, *OpenWhisk:
		return true
	}
	return false
}

// admitBound gives a freed slot to calls bound to its node, first come, first served. A call that found no node to be
// bound to takes any.
func admitBound(c *Call, cand *Candidate) (bool, float64) {
	return c.Hope < 0 || c.Hope == cand.Node, c.WaitedMs
}

// queueRandom binds a call to a random node, whatever waits there: what hashing schedulers do in overload.
func queueRandom(cands []Candidate, rng *rand.Rand) Choice {
	l := newLot()
	for i := range cands {
		// The zone lists a node's candidates one after the other: one ticket each.
		if i == 0 || cands[i].Node != cands[i-1].Node {
			l.offer(i, 0, rng)
		}
	}
	if l.at < 0 {
		return queue(cands)
	}
	take := l.at
	for i := take + 1; i < len(cands) && cands[i].Node == cands[take].Node; i++ {
		if cands[i].StartMs < cands[take].StartMs {
			take = i
		}
	}
	return Choice{Verb: Queue, Clause: ClauseNoSlot, Take: take, Now: -1, WakeMs: math.Inf(1), Propensity: 1 / float64(l.ties)}
}

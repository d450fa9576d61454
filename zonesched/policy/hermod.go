package policy

import (
	"math"
	"math/rand/v2"
)

// Hermod binds early and balances in two ways (Kaffes, Yadwadkar and Kozyrakis, "Hermod: principled and practical
// scheduling for serverless functions", SoCC 2022; Hermes in arXiv 2111.07226): while some node has a free
// core, it packs calls onto nodes that are in use already, those with a warm sandbox first, in a fixed order; once all cores are
// taken, calls go to the least loaded node, where they share the cores as long as there are slots, and then wait in its queue.
type Hermod struct{}

var (
	_ Policy = Hermod{}
	_ Picker = Hermod{}
)

// Name implements Policy.
func (Hermod) Name() string { return "hermod" }

// Decide implements Policy.
func (Hermod) Decide(c *Call, cands []Candidate, rng *rand.Rand) Choice {
	if ch, ok := bound(c, cands); ok {
		return ch
	}
	take, rank := -1, -1
	for i := range cands {
		k := &cands[i]
		if !k.Free || float64(k.Running) >= k.cores() {
			continue
		}
		if r := k.packRank(); r > rank || r == rank && k.Node < cands[take].Node {
			take, rank = i, r
		}
	}
	if take >= 0 {
		return runOn(take, ClausePacked, 1)
	}
	l := newLot()
	for i := range cands {
		if k := &cands[i]; k.Free {
			key := float64(k.Running) / k.cores()
			if !k.warm() {
				key += coldLast
			}
			l.offer(i, key, rng)
		}
	}
	if l.at >= 0 {
		return runOn(l.at, ClauseLeastLoaded, 1/float64(l.ties))
	}
	// All are as full as each other; what differs is how soon the call's turn would come.
	for i := range cands {
		l.offer(i, cands[i].StartMs, rng)
	}
	if l.at < 0 {
		return queue(cands)
	}
	return Choice{Verb: Queue, Clause: ClauseNoSlot, Take: l.at, Now: -1, WakeMs: math.Inf(1), Propensity: 1 / float64(l.ties)}
}

// coldLast tells nodes of one load apart: those with a warm sandbox first. It is less than one call makes of a load.
const coldLast = 1e-9

// cores is how many calls of the node run without sharing.
func (c *Candidate) cores() float64 {
	if c.Cores > 0 {
		return c.Cores
	}
	return float64(max(c.Slots, 1))
}

// packRank orders free nodes: in use and warm, in use, unused but warm, unused.
func (c *Candidate) packRank() int {
	rank := 0
	if c.Running > 0 {
		rank = 2
	}
	if c.warm() {
		rank++
	}
	return rank
}

// Admit implements Policy: early binding.
func (Hermod) Admit(c *Call, cand *Candidate, _, _ float64) (bool, float64) {
	return admitBound(c, cand)
}

// Pick implements Picker. Packed in their order, nodes are busy up to about the share of busy slots and idle from there on:
// the nodes around that place are the ones to fill. The others the zone finds: those with a sandbox, and some free ones.
func (Hermod) Pick(c *Call, room int, _ *rand.Rand, out []int32) []int32 {
	if c.Hope >= 0 && room > 0 {
		out = append(out, c.Hope)
		room--
	}
	if c.Nodes <= 0 || c.Slots <= 0 {
		return out
	}
	count := min(room/2, c.Nodes)
	front := c.Nodes * (c.Slots - c.Free) / c.Slots
	from := max(0, min(front-count/2, c.Nodes-count))
	for i := range count {
		out = append(out, int32(from+i))
	}
	return out
}

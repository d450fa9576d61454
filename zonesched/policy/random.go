package policy

import "math/rand/v2"

// Random runs each call on a random node that has a free slot: the lower end of every comparison.
type Random struct{}

var (
	_ Policy = Random{}
	_ Picker = Random{}
)

// Name implements Policy.
func (Random) Name() string { return "random" }

// Decide implements Policy.
func (Random) Decide(_ *Call, cands []Candidate, rng *rand.Rand) Choice {
	l := newLot()
	for i := range cands {
		if cands[i].Free {
			l.offer(i, 0, rng)
		}
	}
	if l.at < 0 {
		return queue(cands)
	}
	return runOn(l.at, ClauseRandom, 1/float64(l.ties))
}

// Admit implements Policy: first come, first served.
func (Random) Admit(c *Call, _ *Candidate, _, _ float64) (bool, float64) { return true, c.WaitedMs }

// Pick implements Picker.
func (Random) Pick(c *Call, room int, rng *rand.Rand, out []int32) []int32 {
	return pickRandom(c, room, rng, out)
}

// PowerOfTwo draws two nodes that have a free slot and runs the call on the one with the smaller share of busy slots
// (Mitzenmacher, "The power of two choices in randomized load balancing", TPDS 2001): most of what looking at all nodes
// gains, for two looks.
type PowerOfTwo struct{}

var (
	_ Policy = PowerOfTwo{}
	_ Picker = PowerOfTwo{}
)

// Name implements Policy.
func (PowerOfTwo) Name() string { return "power-of-two" }

// Decide implements Policy.
func (PowerOfTwo) Decide(_ *Call, cands []Candidate, rng *rand.Rand) Choice {
	// A reservoir of two: every pair is as likely.
	a, b, free := -1, -1, 0
	for i := range cands {
		if !cands[i].Free {
			continue
		}
		switch free++; {
		case a < 0:
			a = i
		case b < 0:
			b = i
		default:
			switch rng.IntN(free) {
			case 0:
				a = i
			case 1:
				b = i
			}
		}
	}
	if a < 0 {
		return queue(cands)
	}
	if b < 0 {
		return runOn(a, ClauseLeastLoaded, 1)
	}
	take := a
	if la, lb := cands[a].load(), cands[b].load(); lb < la || la == lb && rng.IntN(2) == 0 {
		take = b
	}
	return runOn(take, ClauseLeastLoaded, twoChoices(cands, take, free))
}

// twoChoices is the probability that take wins: all pairs with a busier node, and half of those with an equally busy one.
func twoChoices(cands []Candidate, take, free int) float64 {
	wins, load := 0.0, cands[take].load()
	for i := range cands {
		if i == take || !cands[i].Free {
			continue
		}
		if l := cands[i].load(); l > load {
			wins++
		} else if l == load {
			wins += .5
		}
	}
	return wins / (float64(free) * float64(free-1) / 2)
}

// Admit implements Policy: first come, first served.
func (PowerOfTwo) Admit(c *Call, _ *Candidate, _, _ float64) (bool, float64) { return true, c.WaitedMs }

// Pick implements Picker.
func (PowerOfTwo) Pick(c *Call, room int, rng *rand.Rand, out []int32) []int32 {
	return pickRandom(c, room, rng, out)
}

// pickRandom wants random nodes, or a large zone would draw among those that hold something of the call. What is left of
// room the zone fills with nodes that have a free slot.
func pickRandom(c *Call, room int, rng *rand.Rand, out []int32) []int32 {
	if c.Nodes <= 0 {
		return out
	}
	for range wanted(room) {
		out = append(out, rng.Int32N(int32(c.Nodes)))
	}
	return out
}

// wanted is how many of room nodes a rule picks itself. The rest is left to the zone, which looks for free slots: with all
// of the picked nodes full, a call would queue beside them.
func wanted(room int) int { return room - room/4 }

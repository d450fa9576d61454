package policy

import (
	"math"
	"math/rand/v2"
	"slices"
)

// CHRLU is CH-RLU, consistent hashing with random load updates (Fuerst and Sharma, "Locality-aware load-balancing for
// serverless clusters", HPDC 2022): a function's home node by consistent hashing, and the next on the ring while the load is
// above a bound, so that a popular function spreads no further than it must. Popular functions see loads with noise
// added, since all of them would leave a loaded node at once, and for the same next one. A call that no node wants goes to a
// random one.
type CHRLU struct{ popular popularity }

var (
	_ Policy = (*CHRLU)(nil)
	_ Picker = (*CHRLU)(nil)
)

const (
	chBound = 1.2 // times the mean load that a node may have to be given more
	chNoise = .1  // standard deviation of the noise, as a share of a node's slots
)

// Name implements Policy.
func (*CHRLU) Name() string { return "ch-rlu" }

// Decide implements Policy.
func (p *CHRLU) Decide(c *Call, cands []Candidate, rng *rand.Rand) Choice {
	if ch, ok := bound(c, cands); ok {
		return ch
	}
	if c.WaitedMs == 0 { // decides for the first time
		p.popular.arrived(c.FnHash)
	}
	n := ringSize(c, cands)
	if n == 0 {
		return queue(cands)
	}
	w := chWalk{ring: chRing(c, n), cands: cands, limit: math.Inf(1), noisy: p.popular.is(c.FnHash)}
	if c.Slots > 0 {
		// The mean with this call: without it no node of an idle zone would be within the bound of 0.
		w.limit = chBound * float64(c.Slots-c.Free+1) / float64(c.Slots)
	}
	for i, steps := w.ring.next(cands, -1); i >= 0; i, steps = w.ring.next(cands, steps) {
		if a := w.accepts(i); a == 1 || a > 0 && rng.Float64() < a {
			clause := ClauseOnRing
			if steps == 0 {
				clause = ClauseHome
			}
			return runOn(i, clause, w.propensity(i))
		}
	}
	l := newLot()
	for i := range cands {
		if cands[i].Free {
			l.offer(i, 0, rng)
		}
	}
	if l.at < 0 {
		return queueRandom(cands, rng)
	}
	return runOn(l.at, ClauseRandom, w.propensity(l.at))
}

// Admit implements Policy: early binding.
func (*CHRLU) Admit(c *Call, cand *Candidate, _, _ float64) (bool, float64) {
	return admitBound(c, cand)
}

// Pick implements Picker: the nodes that the walk meets first.
func (*CHRLU) Pick(c *Call, room int, _ *rand.Rand, out []int32) []int32 {
	if c.Nodes <= 0 {
		return out
	}
	r := chRing(c, c.Nodes)
	return r.pick(c, room, out)
}

func chRing(c *Call, n int) ring { return newRing(n, jump(mix(c.FnHash), n), 1) }

// chWalk is one walk around the ring.
type chWalk struct {
	ring
	cands []Candidate
	limit float64
	noisy bool
}

// accepts is the probability that a node takes the call when the walk meets it: its load with noise, max(0, N(0, chNoise)),
// is within the limit.
func (w *chWalk) accepts(i int) float64 {
	room := w.limit - w.cands[i].load()
	switch {
	case room < 0:
		return 0
	case !w.noisy || math.IsInf(room, 1):
		return 1
	}
	return .5 * math.Erfc(-room/(chNoise*math.Sqrt2))
}

// propensity is the probability that the walk ends at candidate i: all before it decline and it accepts, or all decline and
// the draw finds it.
func (w *chWalk) propensity(i int) float64 {
	before, all, free := 1.0, 1.0, 0.0
	at := w.steps(w.cands[i].Node)
	for k := range w.cands {
		if !w.cands[k].Free {
			continue
		}
		free++
		declines := 1 - w.accepts(k)
		all *= declines
		if w.steps(w.cands[k].Node) < at {
			before *= declines
		}
	}
	return before*w.accepts(i) + all/free
}

// popularity finds the fifth of the functions that is called most often, in fixed space: arrivals are counted by hash, and
// counts halve each time they are looked at. (The authors estimate times between arrivals; a rule has no clock.)
type popularity struct {
	counts  [popularBuckets]float32
	popular [popularBuckets]bool
	sorted  [popularBuckets]float32
	seen    int
}

const (
	popularBuckets = 1024
	popularEvery   = 256 // arrivals between two looks
	popularShare   = .2
)

func (p *popularity) bucket(fn uint64) int { return int(mix(fn) % popularBuckets) }

func (p *popularity) is(fn uint64) bool { return p.popular[p.bucket(fn)] }

func (p *popularity) arrived(fn uint64) {
	p.counts[p.bucket(fn)]++
	if p.seen++; p.seen < popularEvery {
		return
	}
	p.seen = 0
	n := 0
	for _, x := range p.counts {
		if x >= 1 {
			p.sorted[n] = x
			n++
		}
	}
	slices.Sort(p.sorted[:n])
	least := p.sorted[n-max(1, int(popularShare*float64(n)))]
	for i, x := range p.counts {
		p.popular[i] = x >= least
		p.counts[i] = x / 2
	}
}

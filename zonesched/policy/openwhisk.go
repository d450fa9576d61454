package policy

import "math/rand/v2"

// OpenWhisk places as Apache OpenWhisk's ShardingContainerPoolBalancer does
// (core/controller/.../loadBalancer/ShardingContainerPoolBalancer.scala): a function's home node by its hash, then in
// steps of a size that the same hash picks among pairwise coprime ones, until a node has a free slot. It does not look for warm
// sandboxes: they are likely at home and less likely with each step, and the node takes a warm one by itself. In overload
// the call goes to a random node and waits there.
type OpenWhisk struct {
	nodes int // that sizes are for
	sizes []int64
}

var (
	_ Policy = (*OpenWhisk)(nil)
	_ Picker = (*OpenWhisk)(nil)
)

// Name implements Policy.
func (*OpenWhisk) Name() string { return "openwhisk" }

// Decide implements Policy.
func (p *OpenWhisk) Decide(c *Call, cands []Candidate, rng *rand.Rand) Choice {
	if ch, ok := bound(c, cands); ok {
		return ch
	}
	n := ringSize(c, cands)
	if n == 0 {
		return queue(cands)
	}
	r := p.ring(c, n)
	take, steps := r.next(cands, -1)
	switch {
	case take < 0:
		return queueRandom(cands, rng)
	case steps == 0:
		return runOn(take, ClauseHome, 1)
	}
	return runOn(take, ClauseOnRing, 1)
}

// Admit implements Policy: early binding.
func (*OpenWhisk) Admit(c *Call, cand *Candidate, _, _ float64) (bool, float64) {
	return admitBound(c, cand)
}

// Pick implements Picker: the nodes that the walk meets first.
func (p *OpenWhisk) Pick(c *Call, room int, _ *rand.Rand, out []int32) []int32 {
	if c.Nodes <= 0 {
		return out
	}
	r := p.ring(c, c.Nodes)
	return r.pick(c, room, out)
}

func (p *OpenWhisk) ring(c *Call, n int) ring {
	if p.nodes != n {
		p.nodes, p.sizes = n, coprimes(n, p.sizes[:0])
	}
	return newRing(n, int64(c.FnHash%uint64(n)), p.sizes[c.FnHash%uint64(len(p.sizes))])
}

// coprimes appends the step sizes for n nodes: from 1 up, what is coprime to n and to all sizes before. Those are 1 and
// the primes below n that do not divide it, so that a sieve finds them; the balancer tries all pairs.
func coprimes(n int, out []int64) []int64 {
	out = append(out, 1)
	composite := make([]bool, n+1)
	for p := 2; p < n; p++ {
		if composite[p] {
			continue
		}
		for m := p * p; m <= n; m += p {
			composite[m] = true
		}
		if n%p != 0 {
			out = append(out, int64(p))
		}
	}
	return out
}

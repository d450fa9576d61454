package policy

// ring is an order of the zone's nodes that a hash gives: home first, then in steps around. The step is coprime to the
// number of nodes, so that the walk meets each once.
type ring struct {
	n, home, step int64
	inverse       int64 // of step modulo n
}

func newRing(n int, home, step int64) ring {
	return ring{n: int64(n), home: home, step: step, inverse: inverse(step, int64(n))}
}

// steps is how far from home the walk meets a node.
func (r *ring) steps(node int32) int64 {
	d := (int64(node) - r.home) % r.n
	if d < 0 {
		d += r.n
	}
	return d * r.inverse % r.n
}

// pick appends the nodes that the walk meets first, and before them the one that the call is bound to.
func (r *ring) pick(c *Call, room int, out []int32) []int32 {
	count := int64(wanted(room))
	if c.Hope >= 0 && count > 0 {
		out = append(out, c.Hope)
		count--
	}
	at := r.home
	for range min(count, r.n) {
		out = append(out, int32(at))
		at = (at + r.step) % r.n
	}
	return out
}

// next finds the free candidate that the walk meets first after so many steps (-1: from home on); -1 for none.
func (r *ring) next(cands []Candidate, after int64) (i int, steps int64) {
	i = -1
	for k := range cands {
		if !cands[k].Free {
			continue
		}
		if s := r.steps(cands[k].Node); s > after && (i < 0 || s < steps) {
			i, steps = k, s
		}
	}
	return i, steps
}

// ringSize is the number of nodes, those not in service too: places must not move when one pauses.
func ringSize(c *Call, cands []Candidate) int {
	n := c.Nodes
	for i := range cands {
		n = max(n, int(cands[i].Node)+1)
	}
	return n
}

// inverse is the x in [0, n) with a x = 1 (mod n), for a coprime to n (extended Euclid); 0 for n = 1.
func inverse(a, n int64) int64 {
	x, y := int64(0), int64(1)
	for r, b := n, a%n; b != 0; {
		q := r / b
		r, b = b, r-q*b
		x, y = y, x-q*y
	}
	if x < 0 {
		x += n
	}
	return x % n
}

// jump is jump consistent hashing (Lamping and Veach, arXiv 1406.2294): key's bucket among n, evenly spread; when n grows
// by one, a key stays or moves to the new bucket. It needs no table, since the zone's places for nodes only ever
// become more.
func jump(key uint64, n int) int64 {
	b, j := int64(-1), int64(0)
	for j < int64(n) {
		b = j
		key = key*2862933555777941757 + 1
		j = int64(float64(b+1) * (float64(int64(1)<<31) / float64((key>>33)+1)))
	}
	return b
}

// mix spreads a hash over all bits (the finaliser of splitmix64): FNV of names that differ in the last letter alone differs
// little in the upper bits.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

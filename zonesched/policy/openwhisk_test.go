package policy

import (
	"slices"
	"testing"
)

// The walk of the balancer's own example: 10 invokers, hash 13, step 3.
func TestOpenWhiskWalk(t *testing.T) {
	if got := coprimes(10, nil); !slices.Equal(got, []int64{1, 3, 7}) {
		t.Fatalf("step sizes for 10 nodes: %v", got)
	}
	call := unbound()
	call.FnHash, call.Nodes = 13, 10
	var walk []int32
	var cands []Candidate
	for i := range int32(10) {
		cands = append(cands, spot(9-i, 0, 0, none)) // in another order than the walk
	}
	p := &OpenWhisk{}
	for range cands {
		ch := p.Decide(&call, cands, rng())
		walk = append(walk, cands[ch.Take].Node)
		cands[ch.Take].Free, cands[ch.Take].StartMs = false, 5
	}
	want := []int32{3, 6, 9, 2, 5, 8, 1, 4, 7, 0}
	if !slices.Equal(walk, want) {
		t.Errorf("walks %v, want %v", walk, want)
	}
	if got := p.Pick(&call, 8, rng(), nil); !slices.Equal(got, want[:6]) {
		t.Errorf("picks %v, want %v", got, want[:6])
	}
	call.Hope = 7
	if got := p.Pick(&call, 8, rng(), nil); !slices.Equal(got, []int32{7, 3, 6, 9, 2, 5}) {
		t.Errorf("bound to 7, picks %v", got)
	}
}

// The balancer's definition of step sizes, tried pair by pair.
func TestCoprimes(t *testing.T) {
	gcd := func(a, b int64) int64 {
		for b != 0 {
			a, b = b, a%b
		}
		return a
	}
	for n := int64(1); n <= 200; n++ {
		var want []int64
		for cur := int64(1); cur <= n; cur++ {
			if gcd(cur, n) == 1 && !slices.ContainsFunc(want, func(i int64) bool { return gcd(i, cur) != 1 }) {
				want = append(want, cur)
			}
		}
		got := coprimes(int(n), nil)
		if !slices.Equal(got, want) {
			t.Fatalf("%d nodes: %v, want %v", n, got, want)
		}
		for _, step := range got {
			r := newRing(int(n), n/2, step)
			at := r.home
			for s := range n {
				if got := r.steps(int32(at)); got != s {
					t.Fatalf("%d nodes, step %d: node %d after %d steps, want %d", n, step, at, got, s)
				}
				at = (at + step) % n
			}
		}
	}
}

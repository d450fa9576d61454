package policy

import (
	"math/rand/v2"
	"testing"
)

func TestCHRLUBound(t *testing.T) {
	call := unbound()
	call.Nodes, call.Load = 4, Load{Nodes: 4, Slots: 8, Free: 8}
	cands := []Candidate{spot(0, 0, 0, none), spot(1, 0, 0, none), spot(2, 0, 0, none), spot(3, 0, 0, none)}
	p := &CHRLU{}
	home := p.Decide(&call, cands, rng())
	if home.Clause != ClauseHome || home.Propensity != 1 {
		t.Fatalf("an idle zone: %v, propensity %v", home.Clause, home.Propensity)
	}
	next := (home.Take + 1) % 4
	busy := &CHRLU{}
	busy.popular.popular[busy.popular.bucket(call.FnHash)] = true
	if ch := busy.Decide(&call, cands, rand.New(rand.NewPCG(3, 1))); ch.Take != home.Take || ch.Propensity < .9 || ch.Propensity == 1 {
		// It sees noise, but seldom as much as the room that its own call makes.
		t.Errorf("a popular function in an idle zone: at %d with propensity %v", ch.Take, ch.Propensity)
	}
	// Half of home is busy. In a zone that is idle otherwise it is above 1.2 x the mean; in a busy one it is not.
	cands[home.Take].Running, call.Free = 1, 7
	if ch := p.Decide(&call, cands, rng()); ch.Take != next || ch.Clause != ClauseOnRing {
		t.Errorf("home above the bound: %v at %d, want the next, %d", ch.Clause, ch.Take, next)
	}
	for i := range cands {
		cands[i].Running = 1
	}
	call.Free = 4
	if ch := p.Decide(&call, cands, rng()); ch.Take != home.Take {
		t.Errorf("home at the mean: %v at %d", ch.Clause, ch.Take)
	}
	// Home is full: within no bound can it be taken.
	cands[home.Take].Free, cands[home.Take].StartMs, cands[home.Take].Running, call.Free = false, 9, 2, 3
	if ch := p.Decide(&call, cands, rng()); ch.Take != next {
		t.Errorf("home is full: %v at %d, want %d", ch.Clause, ch.Take, next)
	}
	// All that are free are above the bound, since others took slots out of service with them.
	call.Slots, call.Free = 100, 99
	if ch := p.Decide(&call, cands, rng()); ch.Clause != ClauseRandom || ch.Propensity != 1./3 {
		t.Errorf("all above the bound: %v, propensity %v", ch.Clause, ch.Propensity)
	}
}

// A function stays at home when a node is added, or moves to the new one; and homes are spread.
func TestHomesAreStable(t *testing.T) {
	const n = 16
	at := make([]int, n)
	for fn := range uint64(16000) {
		home, grown := jump(mix(fn), n), jump(mix(fn), n+1)
		at[home]++
		if grown != home && grown != n {
			t.Fatalf("function %d moves from %d to %d", fn, home, grown)
		}
	}
	for node, k := range at {
		if k < 850 || k > 1150 {
			t.Errorf("node %d is home to %d of 16000", node, k)
		}
	}
}

func TestPopularity(t *testing.T) {
	p := &popularity{}
	for i := range uint64(2 * popularEvery) { // functions 100-103 seldom, 7 often
		fn := uint64(7)
		if i%2 == 0 {
			fn = 100 + i/2%4
		}
		p.arrived(fn)
		if i < popularEvery-1 && p.is(7) {
			t.Fatal("popular before it was looked at")
		}
	}
	is := func(want map[uint64]bool) {
		t.Helper()
		for fn, popular := range want {
			if p.is(fn) != popular {
				t.Errorf("function %d popular: %v", fn, !popular)
			}
		}
	}
	is(map[uint64]bool{7: true, 100: false, 103: false, 555: false})
	for range popularEvery { // fashions pass
		p.arrived(8)
	}
	is(map[uint64]bool{7: false, 8: true})
}

package main

import (
	"context"
	"testing"

	"github.com/rubato-faas/rubato/sim/lab"
)

// One seed is one run, whether it is the first of a command or a later one, also of functions that vary within a group.
func TestASeedIsOneRun(t *testing.T) {
	policy, err := lab.ParsePolicy("rubato")
	if err != nil {
		t.Fatal(err)
	}
	hashes := func(seed uint64, seeds int) (out []string) {
		o := simFlags{seed: seed, duration: 12e9, traces: traceFlags{window: 1e9}}
		s, err := o.load("../../scenarios/init-heavy.yaml")
		if err != nil {
			t.Fatal(err)
		}
		var list []uint64
		for i := range seeds {
			list = append(list, o.first(s)+uint64(i))
		}
		r, err := lab.Compare(context.Background(), s, []lab.Policy{policy}, list, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.Runs {
			out = append(out, r.Runs[i].Hash)
		}
		return out
	}
	own, two := hashes(0, 2), hashes(2, 1)
	if own[1] != two[0] || own[0] == own[1] {
		t.Errorf("seeds 1 and 2 have the traces %s, seed 2 has %s", own, two)
	}
}

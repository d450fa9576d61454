package policy

import (
	"math"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

func TestAveragesForgetTheForest(t *testing.T) {
	// The forest says that node 1 is worth waiting for; averages say that both are the same.
	cands := []Candidate{timed(0, 0, 1000, none), timed(1, 50, 10, warm)}
	for i := range cands {
		e := &cands[i].Est
		e.Source, e.AveragesMu, e.UpperMs = api.SourceForest, math.Log(100), 2*e.MedianMs()
	}
	call := unbound()
	if ch := (&Rubato{cfg: DefaultConfig()}).Decide(&call, cands, rng()); ch.Verb != Delay {
		t.Fatal("the forest's estimates do not delay: the test shows nothing")
	}
	p := &Averages{rule: Rubato{cfg: DefaultConfig()}}
	for range 2 { // it changes nothing the second time
		if ch := p.Decide(&call, cands, rng()); ch.Verb != Run || ch.Take != 0 {
			t.Errorf("verb %d take %d", ch.Verb, ch.Take)
		}
		for i := range cands {
			if e := cands[i].Est; e.Mu != e.AveragesMu || e.Source != api.SourceAverages || math.Abs(e.UpperMs-200) > 1e-9 {
				t.Errorf("candidate %d: %+v", i, e)
			}
		}
	}
	unknown := Candidate{Free: true, Est: api.Estimate{Mu: 4, UpperMs: math.Inf(1)}}
	if ok, _ := p.Admit(&call, &unknown, math.Inf(1), math.Inf(1)); !ok || unknown.Est.Mu != 4 {
		t.Error("an estimate without averages is not left alone")
	}
}

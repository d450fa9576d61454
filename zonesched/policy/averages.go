package policy

import (
	"math"
	"math/rand/v2"

	"github.com/rubato-faas/rubato/api"
)

// Averages is Rubato's rule on averages per function, sandbox state and data state in place of the forest: what the
// forest is worth. It writes what it reckons with into the candidates, so that the dispatch, the error that the threshold
// grows with, the bound's calibration and explain speak of the same estimates.
type Averages struct{ rule Rubato }

var _ Policy = (*Averages)(nil)

// Name implements Policy.
func (*Averages) Name() string { return "averages" }

// Decide implements Policy.
func (p *Averages) Decide(c *Call, cands []Candidate, rng *rand.Rand) Choice {
	for i := range cands {
		cands[i].ForgetForest()
	}
	return p.rule.Decide(c, cands, rng)
}

// Admit implements Policy.
func (p *Averages) Admit(c *Call, cand *Candidate, elsewhereMs, execBestMs float64) (bool, float64) {
	cand.ForgetForest()
	return p.rule.Admit(c, cand, elsewhereMs, execBestMs)
}

// MostIndex implements Ranker.
func (p *Averages) MostIndex(c *Call, cand *Candidate) float64 { return p.rule.MostIndex(c, cand) }

// ForgetForest goes back to what averages said. The bound keeps its distance, which is calibrated on the errors of what was
// echoed: the averages'.
func (c *Candidate) ForgetForest() {
	e := &c.Est
	if e.Source != api.SourceForest {
		return
	}
	e.UpperMs *= math.Exp(e.AveragesMu - e.Mu)
	e.Mu, e.Source = e.AveragesMu, api.SourceAverages
}

package learner

import "math"

// Calibrator is the bound over plain keys: the same states (one for all, one per key) and rules that a zone uses, for a
// Regressor. Not safe for concurrent use.
type Calibrator struct {
	seed uint64
	n    uint64
	zone *aci
	own  table[*aci]
}

// NewCalibrator makes one that has seen nothing: every bound is infinite.
func NewCalibrator(seed uint64) *Calibrator {
	return &Calibrator{seed: seed, zone: newACI(zoneScores), own: newTable[*aci](maxHot)}
}

// Bound is what at most the share alpha (.05 or .01) of the key's outcomes exceeds in the long run, given the predicted
// mean and spread.
func (c *Calibrator) Bound(key uint64, alpha, mean, spread float64) float64 {
	var own *aci
	if a := c.own.get(mix(c.seed ^ key)); a != nil {
		own = *a
	}
	q := said(own, c.zone, classOf(alpha))
	if q >= noBound {
		return math.Inf(1)
	}
	return mean + float64(q)*spread
}

// Learn takes the outcome of a prediction.
func (c *Calibrator) Learn(key uint64, y, mean, spread float64) {
	if !(spread > 0) {
		return
	}
	c.n++
	a, _ := c.own.edit(mix(c.seed^key), c.n)
	if *a == nil {
		*a = newACI(hotScores)
	}
	score := float32(min(max((y-mean)/spread, -crashScore), crashScore))
	judge(*a, c.zone, score, false, nil)
}

package sim

import (
	"math"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/zonesched"
)

// Fault is a way in which a model is broken on purpose.
type Fault uint8

// The faults.
const (
	// NoFault: the model is what was learned.
	NoFault Fault = iota
	// FaultSign: what the forest adds to the averages has the wrong sign when it is asked. It learns as before, so that nobody can tell
	// by how well it learns.
	FaultSign
)

// distort breaks a predictor as the configuration wants.
func (s *shard) distort(p zonesched.Predictor) zonesched.Predictor {
	if s.cfg.Learn.Fault == FaultSign {
		p = &mirrored{p, s}
	}
	if s.cfg.Learn.Noise > 0 {
		p = &noisy{p, s}
	}
	return p
}

// noisy predicts wrongly by a known measure: what a rule makes of errors is a question of its own.
type noisy struct {
	zonesched.Predictor
	s *shard
}

// Estimate implements zonesched.Predictor. What is echoed for learning (bins, averages) stays as it was.
func (d *noisy) Estimate(req *api.Request, cands []api.Candidate, out []api.Estimate) {
	d.Predictor.Estimate(req, cands, out)
	fn := foldString(foldBasis, req.Function)
	for i := range cands {
		z, _ := luck(d.s.cfg.Seed, foldString(fn, cands[i].Node), 0)
		displace(&out[i], z*d.s.cfg.Learn.Noise)
	}
}

// mirrored is FaultSign.
type mirrored struct {
	zonesched.Predictor
	s *shard
}

// Estimate implements zonesched.Predictor.
func (d *mirrored) Estimate(req *api.Request, cands []api.Candidate, out []api.Estimate) {
	d.Predictor.Estimate(req, cands, out)
	if d.s.now < int64(d.s.cfg.Learn.FaultAt) {
		return
	}
	for i := range cands {
		if e := &out[i]; e.Source == api.SourceForest {
			displace(e, 2*(e.AveragesMu-e.Mu))
		}
	}
}

// displace moves an estimate with its bound.
func displace(e *api.Estimate, by float64) {
	e.Mu += by
	e.UpperMs *= math.Exp(by)
}

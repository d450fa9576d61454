package sim

import (
	"math"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/zonesched"
)

// noisy predicts wrongly by a known measure: what a rule makes of errors is a question of its own.
type noisy struct {
	zonesched.Predictor
	s *shard
}

func (s *shard) distort(p zonesched.Predictor) zonesched.Predictor {
	if s.cfg.Learn.Noise == 0 {
		return p
	}
	return &noisy{p, s}
}

// Estimate implements zonesched.Predictor. What is echoed for learning (bins, averages) stays as it was.
func (d *noisy) Estimate(req *api.Request, cands []api.Candidate, out []api.Estimate) {
	d.Predictor.Estimate(req, cands, out)
	fn := foldString(foldBasis, req.Function)
	for i := range cands {
		z, _ := luck(d.s.cfg.Seed, foldString(fn, cands[i].Node), 0)
		z *= d.s.cfg.Learn.Noise
		out[i].Mu += z
		out[i].UpperMs *= math.Exp(z)
	}
}

package sim

import (
	"math"

	"github.com/rubato-faas/rubato/api"
)

// oracle predicts with the true laws: medians, and the true spread. It does not know how lucky a call will be, nor who else
// will use a node's cores and link.
type oracle struct{ s *shard }

// Version implements zonesched.Predictor.
func (*oracle) Version() uint64 { return 0 }

// Columns implements zonesched.Predictor.
func (*oracle) Columns(*api.Candidate, *api.NodeColumns) {}

// Estimate implements zonesched.Predictor.
func (o *oracle) Estimate(req *api.Request, cands []api.Candidate, out []api.Estimate) {
	s := o.s
	fn := int32(0)
	for i := range s.cfg.Functions { // no string is made of each; there are few
		f := &s.cfg.Functions[i].Spec
		if len(req.Function) == len(f.Tenant)+1+len(f.Name) && req.Function[:len(f.Tenant)] == f.Tenant && req.Function[len(f.Tenant)+1:] == f.Name {
			fn = int32(i)
			break
		}
	}
	l := &s.laws[fn]
	run := l.medianMs(req.InputBytes + req.PayloadBytes)
	beyond := 1.645 // of a standard normal: 5 %
	if req.Alpha < .03 {
		beyond = 2.326
	}
	for i := range cands {
		c := &cands[i]
		speed := 1.0
		var mbps, rtt, perMB float64
		if c.Node != "" {
			n := &s.nodes[nodeOf(c.Node)]
			speed = n.speed[l.kernel]
			drift := 1.0
			if d := n.group.Drift; d > 0 {
				drift = math.Exp(d * math.Sin(n.phase+2*math.Pi*float64(s.now)/float64(n.group.DriftPeriod)))
			}
			speed *= drift
			mbps, rtt, perMB = n.group.Core.LinkMbps, ms(int64(n.group.StoreRTT)), ms(int64(n.group.FetchPerMB))/(n.speed[KernelCPU]*drift)
		} else {
			mbps = c.LinkMbps
		}
		fetch := c.MissingBytes
		exec := run / speed
		if c.Sandbox < api.SandboxWarm {
			exec += l.startMs / speed
			if c.Sandbox < api.SandboxPrepared {
				exec += l.prepareMs / speed
			}
			if c.Sandbox < api.SandboxFetched {
				fetch += l.artifactBytes
			}
		}
		if fetch > 0 {
			move := float64(fetch) / 1e6 * perMB
			if mbps > 0 {
				move = max(move, float64(fetch)*8/(mbps*1000))
			}
			exec += rtt + move
		}
		mu := math.Log(max(exec, 1e-3))
		sigma := max(l.spread, .01)
		out[i] = api.Estimate{Mu: mu, AveragesMu: mu, Sigma: sigma, UpperMs: math.Exp(mu + beyond*sigma), Source: api.SourceForest}
	}
}

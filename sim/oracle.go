package sim

import (
	"math"

	"github.com/rubato-faas/rubato/api"
)

// oracle predicts with the true laws. With Learning.Luck it also knows what chance has drawn for the very call, for its run and for a
// cold start, equally lucky on every node: its estimate is what will happen, unless something comes between that depends
// on what is decided later: who else uses a node's cores and link, how far a node drifts meanwhile, a start or a fetch of
// somebody else that serves this call too. Without, it says medians and the true spread.
type oracle struct{ s *shard }

// Version implements zonesched.Predictor.
func (*oracle) Version() uint64 { return 0 }

// Columns implements zonesched.Predictor.
func (*oracle) Columns(*api.Candidate, *api.NodeColumns) {}

// sure is the spread of what is known: of no use to a rule that it would divide by.
const sure = .01

// Estimate implements zonesched.Predictor.
func (o *oracle) Estimate(req *api.Request, cands []api.Candidate, out []api.Estimate) {
	s := o.s
	fn, call := o.find(req)
	l := &s.laws[fn]
	run, prepare, begin, hangs := l.medianMs(req.InputBytes+req.PayloadBytes), l.prepareMs, l.startMs, false
	sigma := max(l.spread, sure)
	if s.cfg.Learn.Luck && req.Call != "" {
		z, u := luck(s.cfg.Seed, luckOf(req.Call), req.Attempt)
		run *= math.Exp(l.spread * z)
		if call >= 0 && s.calls[call].knownMs > 0 {
			run = s.calls[call].knownMs
		}
		prepare = s.coldOf(req.Call, req.Attempt, doPrepare, prepare, l.coldSpread)
		begin = s.coldOf(req.Call, req.Attempt, doStart, begin, l.coldSpread)
		sigma, hangs = sure, u < l.hang
	}
	beyond := 1.645 // of a standard normal: 5 %
	if req.Alpha < .03 {
		beyond = 2.326
	}
	for i := range cands {
		exec := o.execMs(&cands[i], l, run, prepare, begin)
		if hangs { // only its timeout ends it
			exec = ms(int64(s.cfg.Functions[fn].Spec.Timeout))
		}
		mu := math.Log(max(exec, 1e-3))
		out[i] = api.Estimate{Mu: mu, AveragesMu: mu, Sigma: sigma, UpperMs: math.Exp(mu + beyond*sigma), Source: api.SourceForest}
	}
}

// find tells the function, and the unanswered call (-1: it is not said which).
func (o *oracle) find(req *api.Request) (fn, call int32) {
	s := o.s
	if call = -1; s.cfg.Learn.Luck && req.Call != "" {
		if call = s.callerOf(req.Call); call >= 0 {
			return s.calls[call].fn, call
		}
	}
	for i := range s.cfg.Functions { // no string is made of each; there are few
		f := &s.cfg.Functions[i].Spec
		if len(req.Function) == len(f.Tenant)+1+len(f.Name) && req.Function[:len(f.Tenant)] == f.Tenant && req.Function[len(f.Tenant)+1:] == f.Name {
			return int32(i), call
		}
	}
	return 0, call
}

// execMs is what c takes for steps of so many ms on a core of speed 1, if nobody is in the way. One thing is fetched after another,
// inputs first: each has its own round trip.
func (o *oracle) execMs(c *api.Candidate, l *law, run, prepare, begin float64) float64 {
	s := o.s
	speed, cpu := 1.0, 1.0 // unpacking and starting keep a core busy, whatever the function does
	mbps, rtt, perMB := c.LinkMbps, 0.0, 0.0
	if c.Node != "" {
		n := &s.nodes[nodeOf(c.Node)]
		drift := 1.0
		if d := n.group.Drift; d > 0 {
			drift = math.Exp(d * math.Sin(n.phase+2*math.Pi*float64(s.now)/float64(n.group.DriftPeriod)))
		}
		speed, cpu = n.speed[l.kernel]*drift, n.speed[KernelCPU]*drift
		mbps, rtt, perMB = n.group.Core.LinkMbps, ms(int64(n.group.StoreRTT)), ms(int64(n.group.FetchPerMB))/cpu
	}
	fetch := func(bytes int64) float64 {
		move := float64(bytes) / 1e6 * perMB
		if mbps > 0 {
			move = max(move, float64(bytes)*8/(mbps*1000))
		}
		return rtt + move
	}
	exec := run / speed
	if c.MissingBytes > 0 {
		exec += fetch(c.MissingBytes)
	}
	if c.Sandbox < api.SandboxFetched {
		exec += fetch(l.artifactBytes)
	}
	if c.Sandbox < api.SandboxPrepared {
		exec += prepare / cpu
	}
	if c.Sandbox < api.SandboxWarm {
		exec += begin / cpu
	}
	return exec
}

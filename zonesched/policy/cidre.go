package policy

import (
	"math"
	"math/rand/v2"

	"github.com/rubato-faas/rubato/api"
)

// CIDRE weighs a delayed warm start against a cold one (Liu et al., "Concurrency-informed orchestration for serverless
// functions", ASPLOS 2025): without an idle sandbox a call waits for a busy one iff that is expected to fall idle sooner than
// a cold start takes, by averages; else it starts cold. The original does both at once and takes what is ready first.
type CIDRE struct{ DelayMaxMs float64 }

var _ Policy = CIDRE{}

// Name implements Policy.
func (CIDRE) Name() string { return "cidre" }

// Decide implements Policy.
func (p CIDRE) Decide(c *Call, cands []Candidate, rng *rand.Rand) Choice {
	warm, cold, busy := newLot(), newLot(), newLot()
	for i := range cands {
		k := &cands[i]
		switch {
		case k.Free && k.warm():
			warm.offer(i, k.load(), rng)
		case k.Free:
			cold.offer(i, k.load(), rng)
		case k.warm():
			busy.offer(i, k.StartMs, rng)
		}
	}
	switch {
	case warm.at >= 0:
		return runOn(warm.at, ClauseWarm, 1/float64(warm.ties))
	case cold.at < 0:
		return queue(cands)
	}
	run := runOn(cold.at, ClauseColdSooner, 1/float64(cold.ties))
	switch {
	case busy.at < 0:
		run.Clause = ClauseLeastLoaded
	case c.DelayOff:
		run.Clause = ClauseDelayOff
	case c.WaitedMs >= p.DelayMaxMs:
		run.Clause = ClauseDelayMax
	case cands[busy.at].StartMs < averagesMs(&cands[cold.at])-averagesMs(&cands[busy.at]):
		return Choice{
			Verb: Delay, Clause: ClauseWaitWarm, Take: busy.at, Now: cold.at,
			WakeMs:     math.Max(math.Min(cands[busy.at].StartMs, p.DelayMaxMs-c.WaitedMs), minWakeMs),
			Propensity: 1 / float64(busy.ties),
		}
	}
	return run
}

// Admit implements Policy: calls that find an idle sandbox first. A cold start is taken by those that it serves no later
// than what they hope for.
func (CIDRE) Admit(c *Call, cand *Candidate, elsewhereMs, _ float64) (bool, float64) {
	if cand.warm() {
		return true, c.WaitedMs + matchFirst
	}
	return cand.LinkMs+averagesMs(cand) <= elsewhereMs, c.WaitedMs
}

// averagesMs is the execution time that averages alone predict.
func averagesMs(c *Candidate) float64 {
	if c.Est.Source == api.SourceForest {
		return math.Exp(c.Est.AveragesMu)
	}
	return c.Est.MedianMs()
}

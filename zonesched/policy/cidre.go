package policy

import (
	"math"
	"math/rand/v2"

	"github.com/rubato-faas/rubato/api"
)

// CIDRE weighs a delayed warm start against a cold one (Liu et al., "Concurrency-informed orchestration for serverless
// functions", ASPLOS 2025). Without an idle sandbox a call waits for a busy one. If that is expected to fall idle sooner than a
// cold start takes, by averages, nothing else is done; else a sandbox is brought up beside, and whichever is ready first takes
// the call. Who is brought up for nobody in the end stays warm for the next.
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
	if busy.at < 0 {
		run.Clause = ClauseLeastLoaded
		return run
	}
	if c.DelayOff {
		run.Clause = ClauseDelayOff
		return run
	}
	wait := Choice{Verb: Delay, Clause: ClauseWaitWarm, Take: busy.at, Now: cold.at, Cold: cold.at, WakeMs: math.Inf(1), Propensity: 1 / float64(busy.ties)}
	left := p.DelayMaxMs - c.WaitedMs
	switch start := cands[busy.at].StartMs; {
	case p.DelayMaxMs > 0 && c.starting():
		// Its own start is under way, and a second one would not be sooner. The slot that it frees wakes the call.
	case left <= 0:
		run.Clause = ClauseDelayMax
		return run
	case start < averagesMs(&cands[cold.at])-averagesMs(&cands[busy.at]):
		wait.WakeMs = math.Max(math.Min(start, left), minWakeMs)
	default:
		wait.Clause, wait.Prewarm = ClauseColdSooner, true
		wait.Propensity /= float64(cold.ties)
	}
	return wait
}

// starting: as many sandboxes are being brought up for calls of the function as there are waiting ones.
func (c *Call) starting() bool { return c.Warming > 0 && c.Warming >= c.Alike }

// Admit implements Policy: calls that find an idle sandbox first. A cold start is taken by those that it serves no later
// than what they hope for, and that have none under way.
func (p CIDRE) Admit(c *Call, cand *Candidate, elsewhereMs, _ float64) (bool, float64) {
	if cand.warm() {
		return true, c.WaitedMs + matchFirst
	}
	if p.DelayMaxMs > 0 && c.starting() && !c.DelayOff {
		return false, c.WaitedMs
	}
	return cand.LinkMs+averagesMs(cand) <= elsewhereMs, c.WaitedMs
}

// TakesMs implements Unpriced.
func (CIDRE) TakesMs(c *Candidate) float64 { return averagesMs(c) }

// MostIndex implements Ranker.
func (CIDRE) MostIndex(c *Call, cand *Candidate) float64 {
	if cand.warm() {
		return c.WaitedMs + matchFirst
	}
	return c.WaitedMs
}

// averagesMs is the execution time that averages alone predict.
func averagesMs(c *Candidate) float64 {
	if c.Est.Source == api.SourceForest {
		return math.Exp(c.Est.AveragesMu)
	}
	return c.Est.MedianMs()
}

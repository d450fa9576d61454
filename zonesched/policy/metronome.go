package policy

import (
	"math"
	"math/rand/v2"
)

// Metronome is differentiated delay scheduling (Chen, Zheng and Zheng, "Metronome: differentiated delay scheduling for
// serverless functions", ICSE 2026, arXiv 2512.05703): a forest predicts the execution time on each node, and a call is
// delayed iff it saves more there than it waits, and is predicted to meet its deadline. What separates Rubato from it: no
// threshold that grows with the errors of predictions, no calibrated bound, no price of what the choice costs others. Theirs is
// a batch of a window, trained now and then: so it is in the simulator's experiments; a zone has its own forest.
type Metronome struct{ DelayMaxMs float64 }

var _ Policy = Metronome{}

// Name implements Policy.
func (Metronome) Name() string { return "metronome" }

// Decide implements Policy.
func (p Metronome) Decide(c *Call, cands []Candidate, rng *rand.Rand) Choice {
	free, busy := soonest(cands, true, rng), soonest(cands, false, rng)
	now, best := free.at, busy.at
	switch {
	case now < 0 && best < 0:
		return queue(cands)
	case now < 0:
		return Choice{Verb: Queue, Clause: ClauseNoSlot, Take: best, Now: -1, WakeMs: math.Inf(1), Propensity: busy.share()}
	}
	run := runOn(now, ClauseBestFree, free.share())
	if best < 0 {
		return run
	}
	wait, execNow, execBest := cands[best].StartMs, cands[now].runsMs(), cands[best].runsMs()
	switch {
	case execNow-execBest <= wait:
		return run
	case c.DelayOff:
		run.Clause = ClauseDelayOff
		return run
	case c.WaitedMs >= p.DelayMaxMs:
		run.Clause = ClauseDelayMax
		return run
	case wait+execBest > c.DeadlineMs:
		run.Clause = ClauseDeadlineClose
		return run
	}
	wake := math.Min(wait, p.DelayMaxMs-c.WaitedMs)
	if latest := c.DeadlineMs - execNow; latest > 0 {
		wake = math.Min(wake, latest) // the last moment at which the fallback is predicted to meet the deadline
	}
	return Choice{Verb: Delay, Clause: ClausePredicted, Take: best, Now: now, WakeMs: math.Max(wake, minWakeMs), Propensity: busy.share()}
}

// Admit implements Policy: a freed slot goes to the oldest call that it serves no later than what the call hopes for.
func (Metronome) Admit(c *Call, cand *Candidate, elsewhereMs, execBestMs float64) (bool, float64) {
	return cand.runsMs() <= math.Max(elsewhereMs, cand.LinkMs+execBestMs), c.WaitedMs
}

// TakesMs implements Unpriced.
func (Metronome) TakesMs(c *Candidate) float64 { return c.Est.MedianMs() }

// MostIndex implements Ranker.
func (Metronome) MostIndex(c *Call, _ *Candidate) float64 { return c.WaitedMs }

// runsMs is the predicted time from dispatch to answer.
func (c *Candidate) runsMs() float64 { return c.LinkMs + c.Est.MedianMs() }

// soonest finds the candidate that is predicted to answer first among those that are free, or among those that are not.
// Equal ones are told apart as by Rubato.
func soonest(cands []Candidate, free bool, rng *rand.Rand) lot {
	l := newLot()
	for i := range cands {
		k := &cands[i]
		if k.Free != free {
			continue
		}
		at := k.StartMs + k.runsMs()
		if l.at >= 0 && at == l.key {
			if k.nearer(&cands[l.at]) {
				l = newLot()
			} else if cands[l.at].nearer(k) {
				continue
			}
		}
		l.offer(i, at, rng)
	}
	return l
}

package policy

import "math/rand/v2"

// Hiku is pull-based scheduling (Akbari and Hauswirth, "Hiku: pull-based scheduling for serverless computing", CCGrid 2025,
// arXiv 2502.15534; src/balancer/pull_based.go of their hiku-scheduler): a node whose sandbox of a function falls idle
// offers itself for the function's next call, and of those that offer themselves the one with the fewest running calls is
// taken. Without an offer the call goes to the node with the fewest running calls.
type Hiku struct{}

var _ Policy = Hiku{}

// Name implements Policy.
func (Hiku) Name() string { return "hiku" }

// Decide implements Policy.
func (Hiku) Decide(_ *Call, cands []Candidate, rng *rand.Rand) Choice {
	pull, least := newLot(), newLot()
	for i := range cands {
		k := &cands[i]
		if !k.Free {
			continue
		}
		// Running calls, not their share of the slots: "connections" in the source.
		least.offer(i, float64(k.Running), rng)
		if k.warm() {
			pull.offer(i, float64(k.Running), rng)
		}
	}
	switch {
	case pull.at >= 0:
		return runOn(pull.at, ClausePulled, 1/float64(pull.ties))
	case least.at >= 0:
		return runOn(least.at, ClauseLeastLoaded, 1/float64(least.ties))
	}
	return queue(cands)
}

// Admit implements Policy: the freed node pulls a call of a function that it has an idle sandbox of, the oldest first, else
// the oldest call.
func (Hiku) Admit(c *Call, cand *Candidate, _, _ float64) (bool, float64) {
	if cand.warm() {
		return true, c.WaitedMs + matchFirst
	}
	return true, c.WaitedMs
}

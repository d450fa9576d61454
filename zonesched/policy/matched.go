package policy

// FixedDelayMatched is FixedDelay with freed slots that look for a match over the whole queue: a call that finds everything
// on the node goes first, then one that finds its inputs (or its prepared sandbox), whatever it has waited, and only then
// one whose waits are over. FixedDelay leaves a slot to nobody while calls of the second kind have waited too little.
type FixedDelayMatched struct{ FixedDelay }

var _ Policy = FixedDelayMatched{}

// Name implements Policy.
func (FixedDelayMatched) Name() string { return "fixed-delay-matched" }

// Admit implements Policy; the oldest of the best match goes first.
func (FixedDelayMatched) Admit(c *Call, cand *Candidate, _, _ float64) (bool, float64) {
	switch {
	case cand.local(1):
		return true, c.WaitedMs + 2*matchFirst
	case cand.local(2):
		return true, c.WaitedMs + matchFirst
	}
	return c.WaitedMs >= c.LevelMs[1], c.WaitedMs
}

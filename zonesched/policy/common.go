package policy

import (
	"math"
	"math/rand/v2"

	"github.com/rubato-faas/rubato/api"
)

// What several baselines need.

// lot finds the candidate with the smallest key among those offered; equal ones are drawn, since "lowest first" herds.
type lot struct {
	at   int // -1: none offered
	ties int
	key  float64
}

func newLot() lot { return lot{at: -1, key: math.Inf(1)} }

func (l *lot) offer(i int, key float64, rng *rand.Rand) {
	switch {
	case key < l.key || l.at < 0:
		l.at, l.ties, l.key = i, 1, key
	case key == l.key:
		if l.ties++; rng.IntN(l.ties) == 0 {
			l.at = i
		}
	}
}

// share is how likely the one that was drawn was.
func (l *lot) share() float64 { return 1 / float64(max(l.ties, 1)) }

// load is the share of busy slots.
func (c *Candidate) load() float64 { return float64(c.Running) / float64(max(c.Slots, 1)) }

// warm: a ready sandbox of the function; inputs may be missing.
func (c *Candidate) warm() bool { return c.Sandbox == api.SandboxWarm }

// runOn is the choice of a rule that runs on i.
func runOn(i int, clause Clause, propensity float64) Choice {
	return Choice{Verb: Run, Clause: clause, Take: i, Now: i, WakeMs: math.Inf(1), Propensity: propensity}
}

// matchFirst is more than any call can have waited, in ms: it makes ranks out of ages.
const matchFirst = localFirst

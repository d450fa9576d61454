package zonesched

import (
	"math"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// resort is the guard of what stands in for the forest. Averages tell no node from another, so a rule that goes by them may do worse than the
// fallback, which looks at the load alone. Whether it does cannot be predicted, since nothing that predicts is left to trust: while averages
// stand in, a part of the calls goes where the fallback says, and what became of both parts is compared. While the rule loses
// beyond doubt, the fallback decides, but for a few calls that go on as probes; once those win beyond doubt, the rule decides again. Who is
// of which part is a hash of the call's id, as in mode canary. With the forest, the rule returns at once.
type resort struct {
	lost  bool  // the fallback decides
	round uint8 // counts changes: calls that were placed before the last one are not compared
	// What calls took of either part: the logarithm, less the function's mean of both.
	rule, other tally
	began       time.Time
}

const (
	resortWeight = .002 // of a call: about the last thousand count, since a better choice of nodes shows in few calls
	resortCalls  = 50   // of each part, before they are compared
	resortSure   = 4    // standard errors: it is looked at after each call
	// resortShare of the calls goes where the fallback says until it is known who does better. It costs little where that matters
	// little, and is over soon where it matters much.
	resortShare = 1. / 4
)

// side is the part of the calls that a call was of when its node was chosen.
type side uint8

const (
	sideNone side = iota
	sideRule
	sideOther
)

func newResort(round uint8) resort {
	return resort{round: round, rule: tally{w: resortWeight}, other: tally{w: resortWeight}}
}

// verdict is by how much the rule's calls take longer, as a logarithm, and how far that must be from 0 to mean anything: +Inf before enough is known.
func (r *resort) verdict() (loss, sure float64) {
	loss = r.rule.mean - r.other.mean
	if r.rule.n < resortCalls || r.other.n < resortCalls {
		return loss, math.Inf(1)
	}
	return loss, resortSure * math.Sqrt(r.rule.err2()+r.other.err2())
}

// share of the calls that the rule decides, 1 while the forest is trusted.
func (z *Zone) resortShare() float64 {
	if !z.trust.lost || z.cfg.KeepRule || !z.guarded() {
		return 1
	}
	r := &z.resort
	if r.lost {
		return probeShare
	}
	if loss, sure := r.verdict(); loss < -sure {
		return 1 - calmShare
	}
	return 1 - resortShare
}

// sided notes of which part a call is whose node is being chosen.
func (z *Zone) sided(c *call, ruled bool) {
	c.side, c.sideRound = sideNone, z.resort.round
	switch {
	case z.resortShare() == 1 || z.ownMode(c.fn).Kind != ModeOn:
	case ruled:
		c.side = sideRule
	default:
		c.side = sideOther
	}
}

// compare learns from a call that has run to its end.
func (z *Zone) compare(now time.Time, c *call, how api.Outcome) {
	r := &z.resort
	if c.side == sideNone || c.sideRound != r.round || how != api.OutcomeOK || c.losses > 0 {
		return
	}
	y := math.Log(math.Max(ms(now.Sub(c.arrived)), .01))
	f := c.fn
	x := y - f.logMs.v
	f.logMs.add(y)
	if f.logMs.n == 1 {
		return // there is nothing to compare the first one with
	}
	if c.side == sideRule {
		r.rule.add(x)
	} else {
		r.other.add(x)
	}
	loss, sure := r.verdict()
	switch {
	case !r.lost && loss > sure:
		z.counters.RuleDropped++
	case r.lost && loss < -sure:
		z.counters.RuleRestored++
	default:
		return
	}
	lost := !r.lost
	*r = newResort(r.round + 1)
	r.lost, r.began = lost, now
	z.redoDelayed()
}

// ResortView is what the zone thinks of its rule while averages stand in for the forest.
type ResortView struct {
	// Fallback: the fallback decides, but for probes. Since: when that last changed, zero for never.
	Fallback bool      `json:"fallback"`
	Since    time.Time `json:"since,omitzero"`
	// Rule and Other count the calls compared since, placed by the rule and by the fallback. Ratio is what the first take over what the others
	// do (geometric mean, each against its function's; below 1 the rule is better), 1 while nothing is compared.
	Rule  int     `json:"rule"`
	Other int     `json:"other"`
	Ratio float64 `json:"ratio"`
	// Share of the calls that the rule decides.
	Share float64 `json:"share"`
}

// Resort returns it.
func (z *Zone) Resort() ResortView {
	r := &z.resort
	loss, _ := r.verdict()
	return ResortView{Fallback: r.lost, Since: r.began, Rule: r.rule.n, Other: r.other.n, Ratio: math.Exp(loss), Share: z.resortShare()}
}

package zonesched

import (
	"math"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// resort is the guard of what stands in for the forest. Averages tell no node from another, so a rule that goes by them may do worse than the
// fallback, which looks at the load alone. Whether it does cannot be predicted, since nothing that predicts is left to trust: while averages
// stand in, a part of the calls goes where the fallback says, and what became of both parts is compared. Once one side loses beyond doubt,
// the other one decides all but a few calls, which go on being compared. Who is of which part is a hash of the call's id, as in mode canary.
// With the forest, the rule returns at once.
type resort struct {
	stage stage
	round uint8 // counts changes: calls that were decided about before the last one are not compared
	// What calls took of either side, over the mean of their function.
	rule, fallback tally
	began          time.Time
}

// stage is who decides while averages stand in for the forest.
type stage uint8

const (
	stageTrying   stage = iota // both, until it is known who does better
	stageRule                  // the rule, by averages
	stageFallback              // the fallback
)

const (
	resortWeight = .001 // of a call of the smaller side: about its last two thousand count, since a better choice of nodes shows in few calls
	resortCalls  = 200  // of each side, before they are compared
	resortSure   = 4    // standard errors: it is looked at after each call
	resortMost   = 32   // times its function's mean that a call counts as at most: one that hangs for a minute says nothing of either side
	// tryShare of the calls goes where the fallback says until it is known who does better. It costs little where that matters
	// little, and is over soon where it matters much.
	tryShare = 1. / 4
)

// ruleShare is the part of the calls that the rule decides.
var ruleShare = [...]float64{stageTrying: 1 - tryShare, stageRule: 1 - probeShare, stageFallback: probeShare}

// side is who decided about a call.
type side uint8

const (
	sideUnknown side = iota // nobody yet
	sideRule
	sideFallback
	sideNeither // it is not compared: both did, or nothing was compared when one did
)

// newResort has compared nothing yet. Both means look back over the same stretch of time, as far as the smaller side's calls carry: else whatever
// changes for all calls would seem to be one side's doing.
func newResort(st stage, round uint8) resort {
	s := ruleShare[st]
	return resort{stage: st, round: round, rule: tally{w: resortWeight * min(1, (1-s)/s)}, fallback: tally{w: resortWeight * min(1, s/(1-s))}}
}

// forgetResort ends what is compared and begins anew in a stage.
func (z *Zone) forgetResort(st stage) {
	if st != stageFallback && z.resort.stage == stageFallback {
		z.counters.RuleRestored++
	}
	z.resort = newResort(st, z.resort.round+1)
}

// verdict is how much more the rule's calls take, as a part of what calls take, and how far that must be from 0 to mean anything: +Inf before
// enough is known.
func (r *resort) verdict() (loss, sure float64) {
	loss = r.rule.mean - r.fallback.mean
	if r.rule.n < resortCalls || r.fallback.n < resortCalls {
		return loss, math.Inf(1)
	}
	return loss, resortSure * math.Sqrt(r.rule.err2()+r.fallback.err2())
}

// rules is the part of the calls that the rule decides in mode on, 1 while nothing is compared.
func (z *Zone) rules() float64 {
	if !z.trust.lost || z.cfg.KeepRule || !z.guarded() {
		return 1
	}
	return ruleShare[z.resort.stage]
}

// noteSide notes who decides about a call, now that it is decided about.
func (z *Zone) noteSide(c *call) {
	to := sideNeither
	if z.rules() < 1 && z.ownMode(c.fn).Kind == ModeOn {
		if to = sideFallback; z.ruled(c, z.modeOf(c.fn)) {
			to = sideRule
		}
	}
	switch {
	case c.side == sideUnknown:
		c.side, c.sideRound = to, z.resort.round
	case c.side != to || c.sideRound != z.resort.round:
		c.side = sideNeither
	}
}

// compare learns from a call that has ended after it was decided about. One that was cut off would have taken longer.
func (z *Zone) compare(now time.Time, c *call, how api.Outcome) {
	r := &z.resort
	if c.side != sideRule && c.side != sideFallback || c.sideRound != r.round || how != api.OutcomeOK && how != api.OutcomeTimeout || c.losses > 0 {
		return
	}
	took := ms(now.Sub(c.arrived)) + c.extraMs // with what the choice costs others, and the owner, as the guard of waiting has it
	f := c.fn
	mean := f.tookMs.v
	f.tookMs.add(took)
	if f.tookMs.n == 1 || !(mean > 0) {
		return // there is nothing to compare the first one with
	}
	if x := math.Min(took/mean, resortMost); c.side == sideRule {
		r.rule.add(x)
	} else {
		r.fallback.add(x)
	}
	switch loss, sure := r.verdict(); {
	case loss > sure && r.stage != stageFallback:
		z.counters.RuleDropped++
		z.forgetResort(stageFallback)
	case loss < -sure && r.stage != stageRule:
		z.forgetResort(stageRule)
	default:
		return
	}
	r.began = now
	z.redoDelayed()
}

// ResortView is what the zone thinks of its rule while averages stand in for the forest.
type ResortView struct {
	// Fallback: the fallback decides, but for probes. Since: when one of both was last found to be better, zero if that is not known.
	Fallback bool      `json:"fallback"`
	Since    time.Time `json:"since,omitzero"`
	// ByRule and ByFallback count the calls compared since. Loss is how much more the rule's take, as a part of what calls take: above 0 the
	// fallback is better. Doubt is how far it must be from 0 to change anything, -1 while too few calls were compared.
	ByRule     int     `json:"by_rule"`
	ByFallback int     `json:"by_fallback"`
	Loss       float64 `json:"loss"`
	Doubt      float64 `json:"doubt"`
	// Share of the calls that the rule decides in mode on, 1 while nothing is compared.
	Share float64 `json:"share"`
}

// Resort returns it.
func (z *Zone) Resort() ResortView {
	r := &z.resort
	loss, sure := r.verdict()
	v := ResortView{Since: r.began, ByRule: r.rule.n, ByFallback: r.fallback.n, Loss: loss, Doubt: finite(sure), Share: z.rules()}
	v.Fallback = r.stage == stageFallback && v.Share < 1
	return v
}

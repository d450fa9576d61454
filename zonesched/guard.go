package zonesched

import (
	"math"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// The guard judges waiting by what comes of it. A call that is held back declines now*, for a predicted cost; later it is known
// what the wait and the execution really took. The logarithm of their ratio, less the like ratio of calls that did run on now*
// (the control), is what waiting wins or loses. While it loses beyond doubt, waiting is stopped, but for a few calls that go on as
// probes; once those win beyond doubt, it returns. Between the two the state stays as it is. Who is in the control or a probe is a
// hash of the call's id: both sides see calls of the same kind, so that whatever is wrong with predictions of now* is wrong on both
// (while waiting wins, calls under a deadline are a larger part of the control: see sureShare).
type guard struct {
	stopped bool
	waits   tally // ln(what came true / predicted cost of now*, as the control has it), of calls held back
	control tally // ln(measured / predicted), of calls that ran on now* though another was predicted to be better
	doubt   ewma  // of the control's mean, squared, as it was when waits were judged
	began   time.Time
}

const (
	guardWeight = .02 // of a call in the means: about the last hundred count
	guardCalls  = 50  // calls held back before waiting is judged
	guardSure   = 3   // standard errors that a mean must be away from 0
	probeShare  = 1. / 16
	// controlShare of the calls that would be held back run at once while waiting seems to lose; calmShare while it does not, and
	// sureShare while it wins beyond doubt. One in sixteen until then was a tenth of all time in the demo, whose few calls never
	// get there; one in 128 ever after was 3 % of it in init-heavy.yaml, where each is a cold start. Not of calls under a deadline:
	// bursts live on the sandboxes that such starts leave behind (deadlines.yaml: 2.3 % late without them, 1.8 with).
	controlShare, calmShare, sureShare = 1. / 16, 1. / 128, 1. / 1024
	// Before there is a control, predictions of now* are taken to be right within a factor: e^(3 x .5 / sqrt(4)), about 2.
	controlPrior, controlSpread = 4, .5
)

// tally is an exponentially weighted mean and variance, plain ones at first.
type tally struct {
	n          int
	mean, dev2 float64
	w          float64 // of the newest value; 0: guardWeight
}

func (t *tally) weight() float64 {
	if t.w == 0 {
		return guardWeight
	}
	return t.w
}

func (t *tally) add(x float64) {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return
	}
	t.n++
	w := math.Max(t.weight(), 1/float64(t.n))
	d := x - t.mean
	t.mean += w * d
	t.dev2 = (1 - w) * (t.dev2 + w*d*d)
}

// err2 is the squared standard error of the mean.
func (t *tally) err2() float64 {
	return t.dev2 / math.Max(math.Min(float64(t.n), (2-t.weight())/t.weight()), 1)
}

func newGuard() guard {
	return guard{control: tally{n: controlPrior, dev2: controlSpread * controlSpread}, doubt: ewma{w: guardWeight}}
}

// wager is what a call that is held back declined.
type wager struct {
	at      time.Time
	costMs  float64 // predicted of now*
	extraMs float64 // the part of it that is not the call's own time
}

// declined notes the first time that c is held back.
func (c *call) declined(now time.Time, k *policy.Candidate) {
	if c.wager.at.IsZero() {
		c.wager = wager{at: now, costMs: k.CostMs(), extraMs: k.ExtraMs()}
	}
}

// mustRun says that c may not be held back: waiting is stopped and c is no probe, or it is not and c is of the control. share is
// the part of calls that fare like it.
func (z *Zone) mustRun(c *call) (must bool, share float64) {
	g := &z.guard
	switch {
	case !z.guarded():
		return false, 1
	case g.stopped:
		share = 1 - probeShare
	case g.waits.n >= guardCalls && g.waits.mean > 0:
		share = controlShare
	case g.wins() && c.soft.IsZero():
		share = sureShare
	default:
		share = calmShare
	}
	if c.draw == 0 {
		c.draw = unit(c.inv.ID, saltProbe)
	}
	if must = c.draw < share; !must {
		share = 1 - share
	}
	return must, share
}

// sure is how far the mean must be away from 0 to mean anything.
func (g *guard) sure() float64 { return guardSure * math.Sqrt(g.waits.err2()+g.doubt.v) }

// wins: waiting wins beyond doubt.
func (g *guard) wins() bool { return g.waits.n >= guardCalls && g.waits.mean < -g.sure() }

// guarded: only the product's rule is judged. What it is compared with stays what it is.
func (z *Zone) guarded() bool {
	_, ok := z.rule.(*policy.Rubato)
	return ok
}

// atNow are the clauses under which a call ran on now* though a busy node was predicted to be better.
func atNow(c policy.Clause) bool {
	switch c {
	case policy.ClauseGainTooSmall, policy.ClauseDelayMax, policy.ClauseDeadlineClose, policy.ClauseDelayOff:
		return true
	}
	return false
}

// judge learns from a call that has run to its end.
func (z *Zone) judge(now time.Time, c *call, how api.Outcome) {
	if how != api.OutcomeOK || c.losses > 0 || !z.guarded() {
		return // what failed tells nothing of time, and what was lost with a node nothing of waiting
	}
	g := &z.guard
	if atNow(c.clause) && c.ownMs > 0 && !c.fn.spec.DelayOff { // whose calls never wait tell nothing of those that might have
		g.control.add(math.Log(math.Max(ms(now.Sub(c.dispatched)), .01) / c.ownMs))
	}
	if c.wager.at.IsZero() {
		return
	}
	w := &c.wager
	// The same prices stand on both sides: what the declined node would have cost others, and what the taken one does.
	came := ms(now.Sub(w.at)) + c.extraMs
	declined := (w.costMs-w.extraMs)*math.Exp(g.control.mean) + w.extraMs
	g.waits.add(math.Log(math.Max(came, .01) / math.Max(declined, .01)))
	g.doubt.add(g.control.err2())
	if g.waits.n < guardCalls {
		return
	}
	switch {
	case !g.stopped && g.waits.mean > g.sure():
		g.stopped = true
		z.counters.WaitingStopped++
		z.redoDelayed()
	case g.stopped && g.wins():
		g.stopped = false
		z.counters.WaitingResumed++
	default:
		return
	}
	g.waits, g.doubt, g.began = tally{}, ewma{w: guardWeight}, now
}

// GuardView is what the guard thinks of waiting.
type GuardView struct {
	// Stopped: calls are not held back, but for probes. Since: when that last changed, zero for never.
	Stopped bool      `json:"stopped"`
	Since   time.Time `json:"since,omitzero"`
	// Calls are those judged since, Ratio is what came of them over what they declined (geometric mean; below 1 waiting wins), and
	// Doubt the factor that it must be away from 1 to change anything.
	Calls int     `json:"calls"`
	Ratio float64 `json:"ratio"`
	Doubt float64 `json:"doubt"`
	// Control is measured over predicted for calls that ran on a node like those declined.
	Control float64 `json:"control"`
}

// Guard returns it.
func (z *Zone) Guard() GuardView {
	g := &z.guard
	return GuardView{
		Stopped: g.stopped, Since: g.began, Calls: g.waits.n, Ratio: math.Exp(g.waits.mean),
		Doubt: math.Exp(g.sure()), Control: math.Exp(g.control.mean),
	}
}

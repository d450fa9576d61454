package zonesched

import (
	"math"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// A running call of an idempotent function that has taken longer than its calibrated bound, so longer than nearly all of its like,
// may be sent to a second node (Dean and Barroso, "The Tail at Scale", CACM 2013, call it hedging): if that node is expected to end
// it in less than half of what the first one still needs. The first answer wins, the other dispatch is canceled. The two are told
// apart by node and attempt.

// hedge is a call's second dispatch while both run; node is nil when there is none.
type hedge struct {
	node       *node
	attempt    uint8
	dispatched time.Time
	missing    int64
	ownMs      float64
	extraMs    float64
}

const (
	// hedgeGain is the part of what the first dispatch still needs that the second may take at most.
	hedgeGain = .5
	// hedgeSpare: one slot in so many must be free, or second dispatches would take the slots of first ones.
	hedgeSpare = 10
	// hedgeAgain: a call that was not worth a second dispatch is looked at again when it has run so many times as long.
	hedgeAgain = 1.5
)

// hedgeAt is when a call that was just dispatched is to be looked at: past its bound. Zero for calls that are never sent twice.
func (z *Zone) hedgeAt(now time.Time, c *call, k *policy.Candidate) time.Time {
	if !c.fn.spec.Idempotent || z.cfg.HedgeBudget == 0 || math.IsInf(k.Est.UpperMs, 1) || !(k.Est.UpperMs > 0) {
		return time.Time{}
	}
	return now.Add(duration(k.LinkMs + k.Est.UpperMs))
}

// watch asks for the wake at which a running call is looked at next: to hedge it, or to give it up.
func (z *Zone) watch(c *call, at time.Time, out []Action) []Action {
	if at.IsZero() || at.After(c.giveUp) {
		at = c.giveUp
	}
	c.gen++
	return append(out, Action{Kind: ActWake, ID: c.inv.ID, Gen: c.gen, At: at})
}

// overdue looks at a call that runs past its bound.
func (z *Zone) overdue(now time.Time, c *call, out []Action) []Action {
	if c.hedge.node != nil {
		return z.watch(c, time.Time{}, out)
	}
	out, sent := z.trySecond(now, c, out)
	if sent {
		return z.watch(c, time.Time{}, out)
	}
	return z.watch(c, now.Add(time.Duration((hedgeAgain-1)*float64(now.Sub(c.dispatched)))), out)
}

// mayHedge keeps second dispatches within their budget and out of a busy zone.
func (z *Zone) mayHedge(c *call) bool {
	return c.fn.spec.Idempotent && float64(z.counters.Hedged+1) <= z.cfg.HedgeBudget*float64(z.counters.Accepted) && hedgeSpare*z.sums.free >= z.sums.slots &&
		z.fns[c.fn.id] == c.fn && c.version == c.fn.spec.Version && c.tries < math.MaxUint8
}

// trySecond sends c to another node if one is expected to end it soon enough.
func (z *Zone) trySecond(now time.Time, c *call, out []Action) ([]Action, bool) {
	left := c.giveUp.Add(-z.cfg.DispatchGrace).Sub(now) // the call's own time: a second dispatch has what is left of it
	if !z.mayHedge(c) || left < time.Millisecond {
		return out, false
	}
	z.gather(now, c, nil)
	best := -1
	for i := range z.cands {
		k := &z.cands[i]
		if k.Free && z.nodes[k.Node] != c.node && k.Est.Source != api.SourceNone && (best < 0 || k.CostMs() < z.cands[best].CostMs()) {
			best = i
		}
	}
	if best < 0 || z.cands[best].CostMs() >= hedgeGain*stillNeeds(ms(now.Sub(c.dispatched)), c) {
		return out, false
	}
	k := z.cands[best]
	n := z.nodes[k.Node]
	z.counters.Hedged++
	z.counters.Clauses[policy.ClauseHedge]++
	z.counters.Estimates[k.Est.Source]++
	c.tries++
	c.hedge = hedge{node: n, attempt: c.tries, dispatched: now, missing: k.MissingBytes, ownMs: k.LinkMs + k.Est.MedianMs(), extraMs: k.ExtraMs()}
	if r := z.ring.at(c.rec); r != nil {
		r.Hedge = Hedge{From: c.node.name, Node: n.name, AfterMs: ms(now.Sub(c.dispatched)), BoundMs: c.upperMs}
	}
	evict := z.occupy(now, c, n, &k)
	run := z.run(c, n, &k, left, 1)
	run.Evict = evict
	run.Call.Attempt = c.hedge.attempt
	out = append(out, Action{Kind: ActRun, ID: c.inv.ID, Node: n.name, Run: run})
	if n.free() <= 0 {
		z.slotLost(n)
	}
	return out, true
}

// stillNeeds is the conditional median of what a call past its bound still needs. Its prediction has failed: the spread is taken to
// be at least what makes the time that it has run so far one deviation, or a call that hangs would be about to end for ever.
func stillNeeds(elapsedMs float64, c *call) float64 {
	return remaining(elapsedMs, c.mu, math.Max(c.sigma, math.Log(math.Max(elapsedMs, 1e-3))-c.mu))
}

// dispatchOf says which of c's dispatches a completion is of: 1 the first, 2 the second, 0 neither.
func (c *call) dispatchOf(n *node, attempt uint8) int {
	switch {
	case c == nil || c.state != callRunning:
		return 0
	case c.node == n && c.attempt == attempt:
		return 1
	case c.hedge.node == n && c.hedge.attempt == attempt:
		return 2
	}
	return 0
}

// on says that one of c's dispatches runs on n.
func (c *call) on(n *node) bool { return c.state == callRunning && (c.node == n || c.hedge.node == n) }

// promote makes the second dispatch the only one: the first has ended without an answer, or has lost.
func (c *call) promote() {
	h := c.hedge
	c.node, c.attempt, c.dispatched, c.missing, c.ownMs, c.extraMs = h.node, h.attempt, h.dispatched, h.missing, h.ownMs, h.extraMs
	c.clause, c.hedge, c.forestMu = policy.ClauseHedge, hedge{}, 0 // its first node is not judged by what the second one took
}

// stopOn tells a node to stop c. The slot stays taken until the node says otherwise: only it knows when the call has really ended.
func (z *Zone) stopOn(c *call, n *node, out []Action) []Action {
	for _, r := range n.running {
		if r.id == c.inv.ID {
			r.foreign = true
		}
	}
	return append(out, Action{Kind: ActCancelRun, ID: c.inv.ID, Node: n.name})
}

// stopAll stops c wherever it runs.
func (z *Zone) stopAll(c *call, out []Action) []Action {
	out = z.stopOn(c, c.node, out)
	if c.hedge.node != nil {
		out = z.stopOn(c, c.hedge.node, out)
		c.hedge = hedge{}
	}
	return out
}

// settleHedge decides between two dispatches when one has ended; false: the completion answers nothing, the other goes on.
func (z *Zone) settleHedge(c *call, which int, how api.Outcome, out []Action) ([]Action, bool) {
	if c.hedge.node == nil {
		return out, true
	}
	ran := how != api.OutcomeRefused && how != api.OutcomeInternal && how != api.OutcomeCanceled
	switch {
	case !ran && which == 2:
		c.hedge = hedge{}
		return out, false
	case !ran:
		c.promote()
		return out, false
	}
	first, second := c.node, c.hedge.node
	if which == 2 {
		c.promote()
		z.counters.HedgeWins++
		if r := z.ring.at(c.rec); r != nil {
			r.Hedge.Won = true
		}
		return z.stopOn(c, first, out), true
	}
	c.hedge = hedge{}
	return z.stopOn(c, second, out), true
}

// dispatchFailed notes that one of two dispatches came to nothing, while the other goes on.
func (z *Zone) dispatchFailed(now time.Time, n *node, m *wire.Completion, out []Action) []Action {
	switch {
	case m.Outcome == api.OutcomeInternal:
		z.quarantine(now, n)
	case m.Outcome == api.OutcomeRefused:
		n.pause(now)
		if m.Code == api.CodeFenced && m.Epoch.Compare(z.epoch) > 0 {
			z.counters.FencedCompletions++
			out = append(out, Action{Kind: ActFenced, Epoch: m.Epoch})
		}
	}
	return out
}

// Hedge is a call's second dispatch, in its record.
type Hedge struct {
	From    string  `json:"from"` // where the first one ran
	Node    string  `json:"node"`
	AfterMs float64 `json:"after_ms"` // since the first dispatch
	BoundMs float64 `json:"bound_ms"` // of the execution there
	Won     bool    `json:"won"`      // it answered first
}

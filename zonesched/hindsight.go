package zonesched

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// Once a call has ended, its record says what was expected of the choice and of its alternatives, what came true, and what was
// lost against the best alternative. What an alternative would have taken nobody knows; when the same function has just run there in
// the same state, it is known well.

// seen is one execution of a function.
type seen struct {
	node           int32
	sandbox        api.SandboxState
	missing, input int64
	execMs         float64
	at             time.Time
}

const (
	// maxSeen bounds the executions that are remembered of one function, seenFor how long they tell something.
	maxSeen = 32
	seenFor = time.Minute
	// interval holds 8 of 10 draws from a normal distribution: so many spreads to either side.
	interval = 1.2816
	// mostSpread keeps what is written finite.
	mostSpread = 8
)

// saw remembers an execution in place of the oldest one.
func (f *function) saw(s seen) {
	if len(f.seen) < maxSeen {
		f.seen = append(f.seen, s)
		return
	}
	f.seen[f.seenAt] = s
	f.seenAt = (f.seenAt + 1) % maxSeen
}

// measured is the latest execution that is like one on the candidate would have been; false for none.
func (f *function) measured(now time.Time, k *Candidate, input int64) (execMs float64, ok bool) {
	var at time.Time
	for i := range f.seen {
		s := &f.seen[i]
		if s.node == k.node && s.sandbox == k.sandbox && alike(s.missing, k.Missing) && alike(s.input, input) && now.Sub(s.at) <= seenFor && !s.at.Before(at) {
			execMs, at, ok = s.execMs, s.at, true
		}
	}
	return execMs, ok
}

// alike: within a quarter of each other.
func alike(a, b int64) bool {
	return 5*min(a, b) >= 4*max(a, b)
}

// Bases of what an alternative would have taken.
const (
	HindsightMeasured  = "measured"  // the function ran there in the same state within the last minute
	HindsightPredicted = "predicted" // as predicted when the call was decided
)

// Hindsight is what a call took from its decision on, against the best alternative. Times are the caller's, in ms: without what
// a choice costs others.
type Hindsight struct {
	CameMs float64 `json:"came_ms"`
	// Cut: there was no answer by then, so that the regret is at least as much as it says.
	Cut bool `json:"cut,omitempty"`
	// Node is the alternative that would have been best, with its Sandbox as it was: the node that the call ran on can be one, by a
	// start at once instead of a wait. AlternativeMs is what it would have taken, by Basis; LowMs and HighMs hold it 8 times of 10 (equal
	// when it was measured). Empty: there was none.
	Node          string  `json:"node,omitempty"`
	Sandbox       string  `json:"sandbox,omitempty"`
	AlternativeMs float64 `json:"alternative_ms,omitempty"`
	LowMs         float64 `json:"low_ms,omitempty"`
	HighMs        float64 `json:"high_ms,omitempty"`
	Basis         string  `json:"basis,omitempty"`
	// RegretMs is how much longer the call took than the alternative would have; below 0 the choice was the better one.
	RegretMs float64 `json:"regret_ms"`
}

// expected fills in when the call would be answered on the candidate, with its interval; ExecMs is there.
func (k *Candidate) expected(c *policy.Candidate) {
	k.node, k.sandbox = c.Node, c.Sandbox
	before := c.StartMs + c.LinkMs
	times := math.Exp(interval * math.Min(c.Est.Sigma, mostSpread))
	k.ExpectedMs, k.LowMs, k.HighMs = before+k.ExecMs, before+k.ExecMs/times, before+k.ExecMs*times
}

// lookBack compares a call that was answered with its alternatives: all candidates but what it was to do, or did at last. A start that it
// declined is one, though it may have come to that after all. waitedMs is how long it waited after the decision.
func (d *Decision) lookBack(now time.Time, f *function, ran int32, found api.SandboxState, input int64, waitedMs float64) {
	h := &d.Hindsight
	*h = Hindsight{CameMs: ms(now.Sub(d.At))}
	for i := range d.Candidates {
		k := &d.Candidates[i]
		k.HindsightMs, k.Hindsight = k.ExpectedMs, HindsightPredicted
		low, high := k.LowMs, k.HighMs
		if d.Best >= 0 && k.node == d.Candidates[d.Best].node && k.node != ran && waitedMs > k.StartMs && !k.Free {
			// Its node was hoped for and did not come: the call would have begun there later than it did at last.
			late := waitedMs - k.StartMs
			k.HindsightMs, low, high = k.HindsightMs+late, low+late, high+late
		}
		if exec, ok := f.measured(now, k, input); ok {
			k.HindsightMs += exec - k.ExecMs
			k.Hindsight = HindsightMeasured
			low, high = k.HindsightMs, k.HindsightMs
		}
		taken := k.node == ran && (i == d.Best || !k.Free && k.sandbox == found)
		if !taken && k.Node != d.Hedge.From && (h.Node == "" || k.HindsightMs < h.AlternativeMs) {
			h.Node, h.Sandbox, h.AlternativeMs, h.Basis, h.LowMs, h.HighMs = k.Node, k.Sandbox, k.HindsightMs, k.Hindsight, low, high
		}
	}
	if h.Node != "" {
		h.RegretMs = h.CameMs - h.AlternativeMs
	}
}

func (d *Decision) explainHindsight(b *strings.Builder) {
	if f := d.Forward; f.Zone != "" && !f.Back {
		fmt.Fprintf(b, "Expected of the choice, zone %s: %.1f ms from the decision on.\n", f.Zone, f.ExpectedMs)
	} else if d.Best >= 0 && d.Best < len(d.Candidates) {
		k := &d.Candidates[d.Best]
		fmt.Fprintf(b, "Expected of the choice, %s: %.1f ms from the decision on, 8 times of 10 within %.1f-%.1f ms.\n", k.Node, k.ExpectedMs, k.LowMs, k.HighMs)
	}
	h := &d.Hindsight
	switch {
	case h.CameMs == 0:
		return
	case h.Node == "":
		fmt.Fprintf(b, "It %s %.1f ms from then on; no alternative is recorded.\n", h.took(), h.CameMs)
		return
	}
	fmt.Fprintf(b, "It %s %.1f ms from then on. The best alternative, %s (sandbox %s), would have taken %.1f ms", h.took(), h.CameMs, h.Node, h.Sandbox, h.AlternativeMs)
	if h.Basis == HindsightMeasured {
		b.WriteString(", as the function did there in the same state a moment ago")
	} else {
		fmt.Fprintf(b, " as predicted, 8 times of 10 within %.1f-%.1f ms", h.LowMs, h.HighMs)
	}
	switch {
	case h.RegretMs > 0 && h.Cut:
		fmt.Fprintf(b, ": a regret of %.1f ms at least.\n", h.RegretMs)
	case h.RegretMs > 0:
		fmt.Fprintf(b, ": a regret of %.1f ms.\n", h.RegretMs)
	case h.Cut:
		b.WriteString(".\n")
	default:
		fmt.Fprintf(b, ": the choice gained %.1f ms.\n", -h.RegretMs)
	}
}

func (h *Hindsight) took() string {
	if h.Cut {
		return "was cut off after"
	}
	return "took"
}

// lookBackCut does that for a call whose time was up before its function answered. It would have taken longer than it had.
func (d *Decision) lookBackCut(now time.Time, c *call) {
	if len(d.Candidates) == 0 || d.Hindsight.CameMs > 0 || !now.After(d.At) {
		return
	}
	ran, waited := int32(-1), now
	if c.node != nil {
		ran, waited = c.node.index, c.dispatched
	}
	d.lookBack(now, c.fn, ran, d.sandboxOn(ran), c.inv.InputBytes(), ms(waited.Sub(d.At)))
	d.Hindsight.Cut = true
}

// sandboxOn is how the call was to find its sandbox on a node.
func (d *Decision) sandboxOn(node int32) api.SandboxState {
	if d.Freed.Slot.node == node && d.Freed.By != "" {
		return d.Freed.Slot.sandbox
	}
	for i := range d.Candidates {
		if d.Candidates[i].node == node {
			return d.Candidates[i].sandbox
		}
	}
	return api.SandboxNone
}

// relabel makes a record say what became of the call after the rule had decided. A delay stays one, since it is what needs explaining; but
// not of a call that no node can answer in time, which is not held back.
func (z *Zone) relabel(c *call, kind api.DecisionKind, clause policy.Clause) {
	d := z.ring.at(c.rec)
	if d != nil {
		d.Forward = c.sent
	}
	if d == nil || d.Kind == api.DecisionDelayed.String() && clause != policy.ClauseLate {
		return
	}
	d.Kind = kind.String()
	if clause == policy.ClauseLate {
		d.Clause, d.Final = clause.String(), clause.String()
	}
}

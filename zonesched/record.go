package zonesched

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// maxRecorded bounds the candidates kept of one decision.
const maxRecorded = 12

// Candidate is one candidate of a recorded decision. Infinite figures are recorded as -1.
type Candidate struct {
	Node     string  `json:"node"`
	Free     bool    `json:"free"`
	StartMs  float64 `json:"start_ms"`
	ExecMs   float64 `json:"exec_ms"`
	UpperMs  float64 `json:"upper_ms"` // -1: unbounded
	EvictMs  float64 `json:"evict_ms"`
	PushMs   float64 `json:"push_ms,omitempty"`   // of objects
	StrandMs float64 `json:"strand_ms,omitempty"` // of slots that nobody else can use meanwhile
	PriceMs  float64 `json:"price_ms,omitempty"`  // of the owner's weights
	MissMs   float64 `json:"miss_ms,omitempty"`
	CostMs   float64 `json:"cost_ms"`
	Sandbox  string  `json:"sandbox"`
	Missing  int64   `json:"missing_bytes"`
	Estimate string  `json:"estimate"`
	// ExpectedMs is the predicted time to the answer; 8 times of 10 it lies within LowMs and HighMs. HindsightMs is the same when the
	// call has ended, by what Hindsight says.
	ExpectedMs  float64 `json:"expected_ms"`
	LowMs       float64 `json:"low_ms"`
	HighMs      float64 `json:"high_ms"`
	HindsightMs float64 `json:"hindsight_ms,omitempty"`
	Hindsight   string  `json:"hindsight,omitempty"`

	node    int32
	sandbox api.SandboxState
}

// Input is an input of a recorded call: a hash instead of its key, which says more of a tenant than a record has to.
type Input struct {
	Hash  uint64 `json:"hash,string"`
	Bytes int64  `json:"bytes"`
}

// Decision is what was decided of one call, and why; the last decision about the call that mattered: a delay is kept
// when the later dispatch only carried it out.
type Decision struct {
	ID       string `json:"id"`
	Function string `json:"function"`
	Version  uint64 `json:"version"`
	// What the call brought along. Arrived is moved back by what a forwarded call waited in the zone From; BudgetMs is the
	// caller's (0: none), Affinity a hash (0: none), and of Inputs there are at most api.MaxInputs.
	Arrived      time.Time `json:"arrived"`
	From         string    `json:"from,omitempty"`
	PayloadBytes int64     `json:"payload_bytes"`
	Inputs       []Input   `json:"inputs,omitempty"`
	BudgetMs     int64     `json:"budget_ms,omitempty"`
	Priority     uint8     `json:"priority,omitempty"`
	Affinity     uint64    `json:"affinity,string,omitempty"`
	Async        bool      `json:"async,omitempty"`

	At     time.Time `json:"at"`
	Kind   string    `json:"kind"`
	Clause string    `json:"clause"`
	Policy string    `json:"policy"`
	Mode   string    `json:"mode"`            // how far the rule acted
	Shadow Shadow    `json:"shadow,omitzero"` // what the rule would have done where the fallback decided
	// Guarded: waiting was stopped in the zone since it lost. A call that was held back all the same was a probe. Control: it ran at
	// once, though it might have been held back, to measure what waiting wins.
	Guarded bool `json:"guarded,omitempty"`
	Control bool `json:"control,omitempty"`
	// Compared: averages stood in for the forest, and calls that go by them were compared with calls of the fallback; Policy says which this was.
	Compared bool `json:"compared,omitempty"`
	// Share of the calls like it that Policy decides: below 1 in mode canary, and where calls are compared.
	Share        float64     `json:"share"`
	Now          int         `json:"now"`  // index of the best candidate that could start at once, -1 none
	Best         int         `json:"best"` // index of the one taken or hoped for, -1 none
	Candidates   []Candidate `json:"candidates"`
	ThresholdMs  float64     `json:"threshold_ms"`
	DeadlineMs   float64     `json:"deadline_ms"` // remaining when deciding, -1 none
	WaitedMs     float64     `json:"waited_ms"`
	Propensity   float64     `json:"propensity"`
	ModelVersion uint64      `json:"model_version"`
	Forward      Forward     `json:"forward,omitzero"`
	Freed        Freed       `json:"freed,omitzero"` // the slot that it got in the end, if it waited for one
	Decisions    int         `json:"decisions"`      // how often it was decided about the call
	Final        string      `json:"final"`          // clause of the dispatch
	Ended        bool        `json:"ended"`
	Code         api.Code    `json:"code"`
	ExecMs       float64     `json:"exec_ms"`
	TotalMs      float64     `json:"total_ms"`
	Start        string      `json:"start,omitempty"` // how the sandbox was found, of a call that ran
	Timing       wire.Timing `json:"timing"`
	Hindsight    Hindsight   `json:"hindsight,omitzero"`
	Hedge        Hedge       `json:"hedge,omitzero"` // its second dispatch, if it ran past its bound
}

// Freed is how a call that was held back or queued came to a slot that was freed, before others that were looked at.
type Freed struct {
	At time.Time `json:"at"`
	// By is why it got the slot, of Waiting calls: match, age, order, class turn, fair share or kept node. Index is its place among those that
	// got it for that reason (response ratio, or ms of age); -1 for no finite one, 0 where none was asked for.
	By      string    `json:"by"`
	Index   float64   `json:"index"`
	Waiting int       `json:"waiting"`
	Slot    Candidate `json:"slot"`
}

// Forward is when and why a call was given to another zone, the last one that was asked: what it was expected to take there, with the way,
// and the best that was expected here (-1: no node could take it, or none was looked at). Back: the zone gave it back.
type Forward struct {
	Zone       string    `json:"zone"`
	At         time.Time `json:"at"`
	ExpectedMs float64   `json:"expected_ms"`
	HereMs     float64   `json:"here_ms"`
	Back       bool      `json:"back,omitempty"`
}

// Shadow is what the rule would have done.
type Shadow struct {
	Kind        string  `json:"kind"` // run, delayed or queued
	Clause      string  `json:"clause"`
	Node        string  `json:"node,omitempty"` // that it would have taken, or hoped for
	CostMs      float64 `json:"cost_ms"`        // predicted there
	ThresholdMs float64 `json:"threshold_ms"`
}

// ring keeps the last decisions, one slot per call, and beside them in which order calls ended, as many.
type ring struct {
	slots []Decision
	next  uint64
	byID  map[string]uint64

	ends    []uint64 // sequences in slots
	nextEnd uint64
}

func newRing(n int) ring {
	return ring{slots: make([]Decision, n), byID: make(map[string]uint64, n), next: 1, ends: make([]uint64, n), nextEnd: 1}
}

// end notes that the call with this record has ended.
func (r *ring) end(seq uint64) {
	r.ends[r.nextEnd%uint64(len(r.ends))] = seq
	r.nextEnd++
}

// at finds the record with the given sequence, nil when it was overwritten.
func (r *ring) at(seq uint64) *Decision {
	if seq == 0 || seq >= r.next || r.next-seq > uint64(len(r.slots)) {
		return nil
	}
	return &r.slots[seq%uint64(len(r.slots))]
}

func (r *ring) add(id string) (*Decision, uint64) {
	seq := r.next
	r.next++
	d := &r.slots[seq%uint64(len(r.slots))]
	if d.ID != "" && r.byID[d.ID]+uint64(len(r.slots)) == seq {
		delete(r.byID, d.ID)
	}
	*d = Decision{ID: id, Candidates: d.Candidates[:0], Inputs: d.Inputs[:0]}
	r.byID[id] = seq
	return d, seq
}

func finite(x float64) float64 {
	if math.IsInf(x, 0) || math.IsNaN(x) {
		return -1
	}
	return x
}

// record begins the record of a call with what the call brought along.
func (z *Zone) record(c *call) *Decision {
	var d *Decision
	d, c.rec = z.ring.add(c.inv.ID)
	d.Function, d.Version, d.Policy, d.Arrived = c.fn.id, c.fn.spec.Version, z.rule.Name(), c.arrived
	d.From, d.PayloadBytes, d.BudgetMs, d.Priority, d.Affinity, d.Async = c.inv.Forwarded, c.inv.PayBytes, c.inv.BudgetMs, c.inv.Priority, c.affinity, c.inv.Async
	for i := range c.inv.Inputs[:min(len(c.inv.Inputs), api.MaxInputs)] {
		o := &c.inv.Inputs[i]
		d.Inputs = append(d.Inputs, Input{hashOf(o.Key), o.Bytes})
	}
	d.Now, d.Best, d.DeadlineMs = -1, -1, -1
	return d
}

// recordEnd completes the record of a call that is answered. A call about which nothing was decided has none yet, and that
// of a long one may be overwritten: it gets another, without what was decided.
func (z *Zone) recordEnd(now time.Time, c *call, a *wire.Answer) {
	d := z.ring.at(c.rec)
	if d == nil {
		d = z.record(c)
		d.At, d.Kind = now, c.kind.String()
	}
	d.Forward = c.sent
	if a.Code == api.CodeDeadline {
		d.lookBackCut(now, c)
	}
	d.Ended, d.Code, d.Timing, d.TotalMs = true, a.Code, a.Timing, ms(now.Sub(c.arrived))
	if d.ExecMs = a.Timing.FetchMs + a.Timing.InitMs + a.Timing.RunMs; d.ExecMs > 0 {
		d.Start = a.Timing.Start.String()
	}
	z.ring.end(c.rec)
}

// remember writes the decision just taken into the ring. Once a delay is recorded, a later decision of the same call
// only adds its clause: the delay is what needs explaining. So is what a queued call hoped for, beside the slot that it got.
func (z *Zone) remember(now time.Time, c *call, pc *policy.Call, ch *policy.Choice) {
	if ch.Verb == policy.Delay && c.kind != api.DecisionDelayed {
		c.heldBy = ch.Clause
	}
	d := z.ring.at(c.rec)
	if d == nil {
		d = z.record(c)
	}
	d.Decisions++
	d.Freed = Freed{} // whoever gives it one says so afterwards
	d.Final = ch.Clause.String()
	if d.Kind == api.DecisionDelayed.String() || ch.Clause == policy.ClauseFreed && d.Kind == api.DecisionQueued.String() {
		return
	}
	d.Function, d.Version, d.At, d.Policy, d.Mode = c.fn.id, c.fn.spec.Version, now, z.rule.Name(), z.ownMode(c.fn).String()
	d.Compared = d.Mode == ModeOn && z.rules() < 1
	m := z.modeOf(c.fn)
	ruled := z.ruled(c, m)
	if d.Share = m.part(ruled); !ruled {
		d.Policy = z.fallback.Name()
	}
	d.Guarded = z.guard.stopped && z.guarded()
	d.Control = !d.Guarded && ch.Clause == policy.ClauseDelayOff && !c.fn.spec.DelayOff
	d.Shadow = Shadow{}
	if z.shadowed {
		d.Shadow = z.shadowOf()
	}
	d.Clause, d.ThresholdMs, d.WaitedMs, d.Propensity = ch.Clause.String(), ch.ThresholdMs, pc.WaitedMs, ch.Propensity
	d.DeadlineMs = finite(pc.DeadlineMs)
	d.Kind = kindOf(ch.Verb, c.kind).String()
	if z.pred != nil {
		d.ModelVersion = z.pred.Version()
	}
	d.Candidates, d.Now, d.Best = d.Candidates[:0], -1, -1
	most, ties := z.cheapest(maxRecorded - 2)
	for i := range z.cands {
		k := &z.cands[i]
		if i != ch.Take && i != ch.Now { // the two that matter are always kept
			if z.costs[i] > most || z.costs[i] == most && ties == 0 {
				continue
			}
			if z.costs[i] == most {
				ties--
			}
		}
		if i == ch.Take {
			d.Best = len(d.Candidates)
		}
		if i == ch.Now {
			d.Now = len(d.Candidates)
		}
		d.Candidates = append(d.Candidates, z.candidate(k, z.costs[i]))
	}
}

// candidate is what a record keeps of a candidate.
func (z *Zone) candidate(k *policy.Candidate, costMs float64) Candidate {
	c := Candidate{
		Node: z.nodes[k.Node].name, Free: k.Free, StartMs: k.StartMs, ExecMs: k.Est.MedianMs(), UpperMs: finite(k.Est.UpperMs),
		EvictMs: k.EvictMs, PushMs: k.PushMs, StrandMs: k.StrandMs(), PriceMs: k.PriceMs, MissMs: k.MissMs, CostMs: costMs, Sandbox: k.Sandbox.String(), Missing: k.MissingBytes, Estimate: k.Est.Source.String(),
	}
	c.expected(k)
	return c
}

// cheapest fills z.costs with what the candidates in hand cost and returns the n-th smallest, and how many that cost just as much are
// among the n: the best alternative, whichever it will have been, is likely one of them.
func (z *Zone) cheapest(n int) (most float64, ties int) {
	z.costs = z.costs[:0]
	for i := range z.cands {
		z.costs = append(z.costs, z.cands[i].CostMs())
	}
	if len(z.costs) <= n {
		return math.Inf(1), n
	}
	var low [maxRecorded]float64 // the n smallest so far, sorted
	kept := 0
	for _, c := range z.costs {
		if kept == n && c >= low[n-1] {
			continue
		}
		i := min(kept, n-1)
		for ; i > 0 && low[i-1] > c; i-- {
			low[i] = low[i-1]
		}
		low[i] = c
		kept = min(kept+1, n)
	}
	for i := n - 1; i >= 0 && low[i] == low[n-1]; i-- {
		ties++
	}
	return low[n-1], ties
}

// kindOf is the kind of a decision; a call that runs stays what it was.
func kindOf(v policy.Verb, was api.DecisionKind) api.DecisionKind {
	return [...]api.DecisionKind{policy.Run: was, policy.Delay: api.DecisionDelayed, policy.Queue: api.DecisionQueued}[v]
}

func (z *Zone) shadowOf() Shadow {
	s := Shadow{Kind: kindOf(z.shadow.Verb, api.DecisionRun).String(), Clause: z.shadow.Clause.String(), ThresholdMs: z.shadow.ThresholdMs}
	if k := z.shadow.Take; k >= 0 {
		s.Node, s.CostMs = z.nodes[z.shadowCands[k].Node].name, z.shadowCands[k].CostMs()
	}
	return s
}

// Decision returns a copy of the record of a call.
func (z *Zone) Decision(id string) (Decision, bool) {
	d := z.ring.at(z.ring.byID[id])
	if d == nil || d.ID != id {
		return Decision{}, false
	}
	return d.clone(), true
}

func (d *Decision) clone() Decision {
	cp := *d
	cp.Candidates = append([]Candidate(nil), d.Candidates...)
	cp.Inputs = append([]Input(nil), d.Inputs...)
	return cp
}

// DelayedBy is the clause by which a call was first held back, empty when it was not, or when it has ended and its record is gone.
func (z *Zone) DelayedBy(id string) string {
	if c := z.calls[id]; c != nil {
		if c.kind == api.DecisionDelayed {
			return c.heldBy.String()
		}
		return ""
	}
	if d := z.ring.at(z.ring.byID[id]); d != nil && d.ID == id && d.Kind == api.DecisionDelayed.String() {
		return d.Clause
	}
	return ""
}

// Decisions returns copies of records from sequence since on (0: the last limit ones), and the sequence to ask for next.
func (z *Zone) Decisions(since uint64, limit int) ([]Decision, uint64) {
	first := uint64(1)
	if z.ring.next > uint64(len(z.ring.slots)) {
		first = z.ring.next - uint64(len(z.ring.slots)) + 1
	}
	if since == 0 && z.ring.next > uint64(limit) {
		first = max(first, z.ring.next-uint64(limit))
	}
	var out []Decision
	seq := max(first, since)
	for ; seq < z.ring.next && len(out) < limit; seq++ {
		if d := z.ring.at(seq); d != nil {
			out = append(out, d.clone())
		}
	}
	return out, seq
}

// Ended returns copies, without candidates, of the records of calls that have ended, in order of their ends: from the
// since-th end on, at most limit (0: none, only where to go on from). next is what to ask for then, lost how many ended
// since and are overwritten.
func (z *Zone) Ended(since uint64, limit int) (out []Decision, next, lost uint64) {
	r := &z.ring
	if since == 0 || since > r.nextEnd {
		return nil, r.nextEnd, 0
	}
	if n := uint64(len(r.ends)); r.nextEnd-since > n {
		lost = r.nextEnd - n - since
		since += lost
	}
	for ; since < r.nextEnd && len(out) < limit; since++ {
		d := r.at(r.ends[since%uint64(len(r.ends))])
		if d == nil {
			lost++
			continue
		}
		cp := *d
		cp.Candidates, cp.Inputs = nil, append([]Input(nil), d.Inputs...)
		out = append(out, cp)
	}
	return out, since, lost
}

// UnderWay is how many accepted calls have not been answered.
func (z *Zone) UnderWay() int { return len(z.calls) }

// words describe a candidate.
func (k *Candidate) words() string {
	s := fmt.Sprintf("%s (sandbox %s", k.Node, k.Sandbox)
	if k.Missing > 0 {
		s += fmt.Sprintf(", %.1f MB of input to fetch", float64(k.Missing)/1e6)
	} else {
		s += ", no input to fetch"
	}
	s += fmt.Sprintf("; predicted execution %.1f ms by %s", k.ExecMs, k.Estimate)
	if k.UpperMs >= 0 {
		s += fmt.Sprintf(", at most %.1f ms", k.UpperMs)
	}
	return s + ")"
}

// Explain says in words why the call went where it went.
func (d *Decision) Explain() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Invocation %s of %s (version %d), policy %s, estimates from model version %d.\n", d.ID, d.Function, d.Version, d.Policy, d.ModelVersion)
	var now, best *Candidate
	if d.Now >= 0 && d.Now < len(d.Candidates) {
		now = &d.Candidates[d.Now]
	}
	if d.Best >= 0 && d.Best < len(d.Candidates) {
		best = &d.Candidates[d.Best]
	}
	switch {
	case d.Kind == api.DecisionRefused.String() && d.Clause != policy.ClauseLate.String():
		b.WriteString("The zone did not take it.\n")
	case d.Clause == "":
		b.WriteString("Nothing was decided about it, or what was is no longer kept.\n")
	case d.Kind == api.DecisionDelayed.String() && d.Clause == policy.ClauseMemory.String() && now != nil:
		fmt.Fprintf(&b, "It was held back: memory is short, and a new sandbox on %s pushes out others, at a cost of %.1f ms.\n", now.words(), now.EvictMs)
		fmt.Fprintf(&b, "It waits until the function's calls have waited for that long together, so that one start serves several; clause %s.\n", d.Clause)
	case d.Kind == api.DecisionDelayed.String() && now != nil && best != nil:
		fmt.Fprintf(&b, "It was held back: it could have started at once on %s, for a cost of %.1f ms,\n", now.words(), now.CostMs)
		fmt.Fprintf(&b, "but %s was predicted to be ready in %.1f ms, for a cost of %.1f ms in all:\n", best.words(), best.StartMs, best.CostMs)
		second := ""
		if d.ThresholdMs < 0 {
			second = " (a start of the function was under way: a second one must be clearly quicker)"
		}
		fmt.Fprintf(&b, "a gain of %.1f ms, above the threshold of %.1f ms%s; clause %s.\n", now.CostMs-best.CostMs, d.ThresholdMs, second, d.Clause)
	case d.Clause == policy.ClauseLate.String() && d.Kind == api.DecisionRefused.String():
		b.WriteString("It was refused at once: no node was expected to answer before its deadline.\n")
	case d.Clause == policy.ClauseLate.String():
		b.WriteString("It was given to another zone: no node here was expected to answer before its deadline.\n")
	case d.Kind == api.DecisionForwarded.String():
		b.WriteString("No slot was free in the zone, and it was expected to end sooner in another one.\n")
	case d.Kind == api.DecisionQueued.String() && best != nil:
		fmt.Fprintf(&b, "No slot was free in the zone: it queued, hoping for %s in %.1f ms.\n", best.words(), best.StartMs)
	case best != nil:
		fmt.Fprintf(&b, "It ran at once on %s; clause %s.\n", best.words(), d.Clause)
		if d.ThresholdMs != 0 {
			fmt.Fprintf(&b, "Waiting for a busy node was considered; the threshold was %.1f ms.\n", d.ThresholdMs)
		}
	default:
		fmt.Fprintf(&b, "No node could take it: it queued; clause %s.\n", d.Clause)
	}
	d.explainOthers(&b)
	if d.Mode != ModeOn {
		fmt.Fprintf(&b, "The rule's mode is %s: %s decided.\n", d.Mode, d.Policy)
	}
	if d.Compared {
		fmt.Fprintf(&b, "The forest was distrusted. Calls that go by averages and by the fallback were compared: %s decided this one.\n", d.Policy)
	}
	switch {
	case d.Guarded && d.Kind == api.DecisionDelayed.String():
		fmt.Fprintf(&b, "Waiting was stopped in the zone since it had lost; this call was one of the few that try whether it pays again.\n")
	case d.Control:
		fmt.Fprintf(&b, "It was one of the few calls that are not held back, to measure what waiting wins.\n")
	case d.Guarded:
		fmt.Fprintf(&b, "Waiting was stopped in the zone since it had lost: no call was held back but for a few that try whether it pays again.\n")
	}
	if s := d.Shadow; s.Kind != "" {
		fmt.Fprintf(&b, "The rule %s %s, for a cost of %.1f ms; clause %s.\n", map[string]string{
			"run": "would have run it at once on", "delayed": "would have held it back for", "queued": "would have let it queue for",
		}[s.Kind], orDash(s.Node), s.CostMs, s.Clause)
	}
	if d.DeadlineMs >= 0 {
		fmt.Fprintf(&b, "Its deadline was %.0f ms away.\n", d.DeadlineMs)
	}
	if f := d.Forward; f.Zone != "" {
		fmt.Fprintf(&b, "After %.1f ms it was given to zone %s, where an answer was expected in %.1f ms", ms(f.At.Sub(d.Arrived)), f.Zone, f.ExpectedMs)
		if f.HereMs >= 0 {
			fmt.Fprintf(&b, ", here in %.1f ms", f.HereMs)
		}
		if f.Back {
			b.WriteString("; it gave it back")
		}
		b.WriteString(".\n")
	}
	if f := d.Freed; f.By != "" {
		fmt.Fprintf(&b, "After %.1f ms it got a slot that was freed on %s, for a cost of %.1f ms: first of %d that waited by %s", ms(f.At.Sub(d.Arrived)), f.Slot.words(), f.Slot.CostMs, f.Waiting, f.By)
		if f.Index > 0 {
			fmt.Fprintf(&b, " (%.2f)", f.Index)
		}
		fmt.Fprintf(&b, ". It was expected to be answered %.1f ms later, 8 times of 10 within %.1f-%.1f ms.\n", f.Slot.ExpectedMs, f.Slot.LowMs, f.Slot.HighMs)
	}
	if h := d.Hedge; h.Node != "" {
		fmt.Fprintf(&b, "After %.1f ms, past its bound of %.1f ms, it was sent to %s as well", h.AfterMs, h.BoundMs, h.Node)
		if h.Won {
			b.WriteString(", which answered first: the first dispatch was canceled")
		}
		b.WriteString(".\n")
	}
	if d.Ended {
		t := d.Timing
		fmt.Fprintf(&b, "What happened: %s on %s after %.1f ms queued and %.1f ms held back (%d decisions, the last: %s); fetch %.1f + init %.1f + run %.1f = %.1f ms; answered after %.1f ms",
			orOK(d.Code), orDash(t.Node), t.QueueMs, t.DelayMs, d.Decisions, d.Final, t.FetchMs, t.InitMs, t.RunMs, t.FetchMs+t.InitMs+t.RunMs, d.TotalMs)
		if t.Missed {
			b.WriteString(", past its deadline")
		}
		b.WriteString(".\n")
		d.explainHindsight(&b)
	} else {
		b.WriteString("It has not ended yet.\n")
	}
	fmt.Fprintf(&b, "The choice had a propensity of %.4f.\n", d.Propensity)
	return b.String()
}

// explainOthers names the cheapest of the candidates that are not spoken of anyway.
func (d *Decision) explainOthers(b *strings.Builder) {
	var others []*Candidate
	for i := range d.Candidates {
		if i != d.Best && (i != d.Now || d.Kind != api.DecisionDelayed.String()) {
			others = append(others, &d.Candidates[i])
		}
	}
	if len(others) == 0 {
		return
	}
	slices.SortStableFunc(others, func(a, b *Candidate) int { return cmp.Compare(a.CostMs, b.CostMs) })
	for i, k := range others[:min(len(others), maxOthers)] {
		if i == 0 {
			b.WriteString("Other candidates: ")
		} else {
			b.WriteString("; ")
		}
		fmt.Fprintf(b, "%s in %.1f ms, for a cost of %.1f ms", k.words(), k.StartMs, k.CostMs)
	}
	b.WriteString(".\n")
}

// maxOthers bounds the candidates beside the two that matter that words are made about.
const maxOthers = 3

func orOK(c api.Code) string {
	if c == api.CodeOK {
		return "answered"
	}
	return string(c)
}

func orDash(s string) string {
	if s == "" {
		return "no node"
	}
	return s
}

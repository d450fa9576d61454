package zonesched

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

type callState uint8

const (
	callWaiting callState = iota
	callRunning
	callForwarded
)

// call is one accepted, unanswered invocation. It leaves z.calls exactly once, with exactly one ActAnswer.
type call struct {
	inv    *api.Invocation
	inputs []input // those that count for locality
	tenant *usage
	// affinity is affinityOf the caller's key.
	affinity uint64
	fn       *function
	state    callState
	kind     api.DecisionKind // the most telling one so far: delayed beats queued beats run
	arrived  time.Time        // moved back by what it waited elsewhere
	// soft is the deadline that decisions aim at; hard ends the call. Zero: none.
	soft, hard time.Time
	gen        uint32

	// While waiting: what it hopes for, and what it falls back on.
	hope     *node
	hopeFn   *holding   // the function whose busy sandbox it hopes for; nil: any slot
	fallback *node      // set by fallTo only
	redo     bool       // decides anew at the end of this step
	latest   time.Time  // when it must start there
	finishAt time.Time  // predicted finish at hope
	levelMs  [2]float64 // of the last choice, see policy.Choice
	execBest float64    // predicted execution there, ms, with what the owner's price weight makes of it
	planned  float64    // the same as the zone's backlog counts it
	delaying bool       // a free slot is being declined right now
	owing    bool       // since memory is short
	rents    bool       // since it was held back for want of a sandbox for which there was room: see function.rentMs
	since    time.Time  // of the present kind of waiting
	delayMs  float64
	queueMs  float64
	noFwd    bool     // may not be forwarded (again)
	asked    []string // zones that it was forwarded to; all but the last have refused it
	sent     Forward  // the last time
	judged   bool     // whether it can be in time was looked at
	shadowed bool     // it is counted among those beside which the rule was asked
	// heldBy is the clause by which it was first held back, once kind says that it was: its record may be overwritten before it ends.
	heldBy policy.Clause

	// While running.
	node       *node
	dispatched time.Time
	version    uint64 // of the function that the last dispatch carried
	attempt    uint8  // of the dispatch in hand; inv belongs to the event and stays as it came
	tries      uint8  // the highest attempt so far: none is used twice
	side       side   // who decided about it, and in which round of comparing
	sideRound  uint8
	missing    int64
	clause     policy.Clause // of the dispatch
	ownMs      float64       // predicted of the dispatch: link and execution
	extraMs    float64       // and what the choice costs beside
	mu, sigma  float64       // of the execution, as predicted
	upperMs    float64       // its bound
	forestMu   float64       // what the forest said of it, trusted or not; 0: nothing
	giveUp     time.Time     // when the node's silence is an answer
	hedge      hedge
	draw       float64 // decides whether it is of the control or a probe; 0: not drawn yet
	wager      wager   // what it declined when it was first held back
	refusals   int
	losses     int    // executions lost with their nodes
	rec        uint64 // sequence of its record in the ring
}

// input is an object that a call names. Its key is a hash: should two keys collide, one is taken for present where only the
// other is, and costs a fetch that was not foreseen.
type input struct {
	key   uint64
	bytes int64
}

func appendInputs(to []input, inv *api.Invocation) []input {
	for i := range inv.Inputs {
		if o := &inv.Inputs[i]; o.Bytes >= api.LocalityBytes {
			to = append(to, input{hashOf(o.Key), o.Bytes})
		}
	}
	return to
}

// arrive accepts a call, or answers at once why not.
func (z *Zone) arrive(now time.Time, ev *Event, out []Action) []Action {
	inv := ev.Call
	f := z.fns[inv.FunctionID()]
	refuse := func(code api.Code, retryMs int64, format string, args ...any) []Action {
		z.counters.Refused++
		a := &wire.Answer{
			ID: inv.ID, Code: code, Message: fmt.Sprintf(format, args...), RetryMs: retryMs, Refused: true,
			Timing: wire.Timing{Zone: z.cfg.Zone, Decision: api.DecisionRefused},
		}
		if f != nil && code != api.CodeExists { // the record of one that is being worked on is not this one's
			c := &call{inv: inv, affinity: affinityOf(inv.Affinity, f), fn: f, arrived: now.Add(-duration(inv.WaitedMs)), kind: api.DecisionRefused}
			z.recordEnd(now, c, a)
		}
		return append(out, Action{Kind: ActAnswer, ID: inv.ID, Answer: a})
	}
	room := classRoom[classOf(inv.Priority)]
	if n := z.tenantWaiting(inv.Tenant); n < z.cfg.MaxWaiting/quietPart && n < len(z.waiting) {
		room += quietRoom
	}
	switch {
	case z.calls[inv.ID] != nil:
		return refuse(api.CodeExists, 0, "invocation %s is being worked on", inv.ID)
	case f == nil:
		return refuse(api.CodeNotFound, 0, "no function %q", inv.Function)
	case len(z.calls) >= z.cfg.MaxCalls:
		return refuse(api.CodeOverloaded, z.retryMs(), "the zone works on %d calls, its limit", len(z.calls))
	case float64(len(z.waiting)) >= room*float64(z.cfg.MaxWaiting):
		return refuse(api.CodeOverloaded, z.retryMs(), "%d calls wait in zone %s, its limit for calls of this priority", len(z.waiting), z.cfg.Zone)
	case z.tenantWaiting(inv.Tenant) >= z.cfg.MaxWaiting/2 && len(z.tenantsWaiting) > 1:
		return refuse(api.CodeOverloaded, z.retryMs(), "%d calls of tenant %s wait, its limit while others wait too", z.tenantWaiting(inv.Tenant), inv.Tenant)
	case z.cfg.MaxBacklog > 0 && float64(z.backlog()) > room*float64(z.cfg.MaxBacklog):
		return refuse(api.CodeOverloaded, z.retryMs(), "what waits in zone %s will take %v, its limit for calls of this priority is %v", z.cfg.Zone, z.backlog().Round(time.Second), time.Duration(room*float64(z.cfg.MaxBacklog)))
	}
	code, why := z.misfit(f)
	switch {
	case inv.Forwarded == "":
	case why != "":
		return refuse(code, retryMisfitMs, "%s", why)
	case !z.useGrant(now, inv.Forwarded, ev.GrantID, ev.GrantEpoch): // last: what is refused above uses no grant up
		return refuse(api.CodeOverloaded, 100, "no grant %d for zone %s", ev.GrantID, inv.Forwarded)
	}
	c := &call{inv: inv, inputs: appendInputs(nil, inv), affinity: affinityOf(inv.Affinity, f), fn: f, arrived: now.Add(-duration(inv.WaitedMs)), since: now, version: f.spec.Version, attempt: inv.Attempt, tries: inv.Attempt}
	c.soft, c.hard = deadlines(c.arrived, now, inv, f.spec)
	var elsewhere *grantIn
	if why != "" {
		if elsewhere = z.grant(now, c); elsewhere == nil {
			return refuse(code, retryMisfitMs, "%s", why)
		}
	}
	z.calls[inv.ID] = c
	z.counters.Accepted++
	if inv.Forwarded != "" {
		z.counters.ForwardedIn++
		c.noFwd = true
	}
	f.arrival(now)
	z.wait(now, c)
	if elsewhere != nil {
		return append(out, z.send(now, c, elsewhere, z.remoteMs(now, c, elsewhere), math.Inf(1)))
	}
	return z.decide(now, c, out)
}

// retryMisfitMs: a node that fits may be on its way back.
const retryMisfitMs = 500

// deadlines: the soft one is the function's objective, counted from arrival, or the caller's budget if that is
// sooner; the hard one is the caller's budget.
func deadlines(arrived, now time.Time, inv *api.Invocation, spec *api.Function) (soft, hard time.Time) {
	if d := spec.Objective.Deadline; d > 0 {
		soft = arrived.Add(d)
	}
	if inv.BudgetMs > 0 {
		hard = now.Add(time.Duration(inv.BudgetMs) * time.Millisecond)
		if soft.IsZero() || hard.Before(soft) {
			soft = hard
		}
	}
	return soft, hard
}

func (f *function) arrival(now time.Time) {
	if !f.lastAt.IsZero() {
		f.gapMs.add(math.Max(ms(now.Sub(f.lastAt)), .1))
	}
	f.lastAt = now
}

func (z *Zone) slots() int {
	return z.sums.slots
}

// load is what rules may know of the zone's load.
func (z *Zone) load() policy.Load {
	return policy.Load{Nodes: len(z.nodes), Waiting: len(z.waiting), Slots: z.sums.slots, Free: z.sums.free}
}

func (z *Zone) tenantWaiting(name string) int {
	if u := z.tenants[name]; u != nil {
		return u.waiting
	}
	return 0
}

// retryMs is the Retry-After of a refusal: about the time in which the waiting calls are worked off.
func (z *Zone) retryMs() int64 {
	slots := max(z.slots(), 1)
	return min(max(int64(len(z.waiting)*100/slots), z.backlog().Milliseconds()/2, 100), 10_000)
}

func (z *Zone) reserve(c *call, n *node, byFn bool) {
	c.hope, c.hopeFn = n, nil
	n.reserved++
	if byFn {
		c.hopeFn = c.fn.h
		n.hope(c.hopeFn, 1)
	}
}

// fallTo has a call held back with n, nil for none, as the node that it falls back to.
func (c *call) fallTo(n *node) {
	if c.fallback != nil {
		c.fallback.fallbacks--
	}
	if c.fallback = n; n != nil {
		n.fallbacks++
	}
}

func (z *Zone) unreserve(c *call) {
	if c.hope == nil {
		return
	}
	c.hope.reserved--
	if c.hopeFn != nil { // not fn.key: a new version may have been deployed since
		c.hope.hope(c.hopeFn, -1)
	}
	c.hope = nil
}

// account closes the present stretch of waiting.
func (c *call) account(now time.Time) {
	d := ms(now.Sub(c.since))
	if c.delaying {
		c.delayMs += d
	} else {
		c.queueMs += d
	}
	if c.rents {
		c.fn.rent(c.since, now)
	}
	c.since = now
}

// rent adds a stretch of a call's waiting to what the function has paid since a sandbox of it was last begun.
func (f *function) rent(from, to time.Time) {
	if f.rentFrom.After(from) {
		from = f.rentFrom
	}
	f.rentMs += math.Max(ms(to.Sub(from)), 0)
}

// bought begins that account anew.
func (f *function) bought(now time.Time) { f.rentMs, f.rentFrom = 0, now }

// requeue makes a call wait again after a refusal or a lost node.
func (z *Zone) requeue(now time.Time, c *call, out []Action) []Action {
	c.tries++
	c.attempt = c.tries
	f := z.fns[c.fn.id]
	if f == nil {
		return z.answerError(now, c, api.CodeNotFound, "the function was deleted while the call was to run again", out)
	}
	c.fn = f
	c.node, c.delaying, c.rents, c.since = nil, false, false, now
	z.wait(now, c)
	return z.decide(now, c, out)
}

// wake decides anew for a call whose time has come, and ends calls past their hard limits.
func (z *Zone) wake(now time.Time, ev *Event, out []Action) []Action {
	c := z.calls[ev.ID]
	if p, under := z.prewarms[ev.ID]; under && c == nil {
		z.prewarmLost(now, ev.ID, p)
	}
	if c == nil || c.gen != ev.Gen {
		return out
	}
	switch c.state {
	case callRunning:
		if now.Before(c.giveUp) {
			return z.overdue(now, c, out)
		}
		return z.dispatchTimeout(now, c, out)
	case callForwarded:
		return z.answerError(now, c, api.CodeDeadline, "no answer from the zone it was forwarded to", out)
	}
	return z.decide(now, c, out)
}

// prewarmLost: no word of a prewarming. Its slot stays taken until the node says otherwise.
func (z *Zone) prewarmLost(now time.Time, id string, p prewarming) {
	z.warmed(now, p, nil)
	for _, r := range p.node.running {
		if r.id == id {
			r.foreign = true
		}
	}
	delete(z.prewarms, id)
}

// dispatchTimeout: the node has not answered within the call's time. It is told to stop; the answer is not waited for.
func (z *Zone) dispatchTimeout(now time.Time, c *call, out []Action) []Action {
	n := c.node
	out = z.stopAll(c, out)
	z.quarantine(now, n)
	z.compare(now, c, api.OutcomeTimeout)
	return z.answerError(now, c, api.CodeDeadline, fmt.Sprintf("node %s gave no answer within the call's time", n.name), out)
}

// cancel ends a call for its caller and stops it wherever it is.
func (z *Zone) cancel(now time.Time, id, reason string, out []Action) []Action {
	c := z.calls[id]
	if c == nil {
		return out
	}
	switch c.state {
	case callRunning:
		out = z.stopAll(c, out)
	case callForwarded:
		out = append(out, Action{Kind: ActCancelForward, ID: id, To: c.asked[len(c.asked)-1]})
	}
	return z.answerError(now, c, api.CodeCanceled, reason, out)
}

func (z *Zone) answerError(now time.Time, c *call, code api.Code, msg string, out []Action) []Action {
	a := &wire.Answer{ID: c.inv.ID, Code: code, Message: msg}
	if code == api.CodeUnavailable || code == api.CodeOverloaded {
		a.RetryMs = 100
	}
	return z.answer(now, c, a, out)
}

// answer is the only way out of z.calls.
func (z *Zone) answer(now time.Time, c *call, a *wire.Answer, out []Action) []Action {
	if c.state == callWaiting {
		z.unwait(now, c)
		c.account(now)
	}
	delete(z.calls, c.inv.ID)
	z.counters.Answered++
	t := &a.Timing
	if t.Zone == "" {
		t.Zone = z.cfg.Zone
	}
	t.QueueMs, t.DelayMs = t.QueueMs+c.queueMs, t.DelayMs+c.delayMs
	if c.state != callForwarded {
		t.Decision, t.Version = c.kind, c.version
	}
	if c.node != nil {
		t.Node = c.node.name
	}
	if !c.soft.IsZero() && now.After(c.soft) {
		t.Missed = true
		z.counters.Missed++
	}
	z.recordEnd(now, c, a)
	return append(out, Action{Kind: ActAnswer, ID: c.inv.ID, Answer: a})
}

// completion ends a dispatch. Every completion is acknowledged, also of calls nobody knows any more.
func (z *Zone) completion(now time.Time, m *wire.Completion, out []Action) []Action {
	out = append(out, Action{Kind: ActAck, ID: m.ID, Node: m.Node})
	n := z.byName[m.Node]
	if n == nil || n.boot != m.Boot {
		z.counters.UnknownCompletions++
		return out
	}
	c := z.calls[m.ID]
	p, warmed := z.prewarms[m.ID]
	if warmed {
		z.warmed(now, p, m)
		delete(z.prewarms, m.ID)
	}
	which := c.dispatchOf(n, m.Attempt)
	mine := which != 0
	if !mine && !warmed {
		z.counters.UnknownCompletions++
	}
	if mine || c == nil || !c.on(n) {
		n.drop(now, m.ID)
	}
	if n.live { // one that is lost says all that it has in its first report
		n.delta(now, m, &z.comeback)
	}
	known := mine
	if mine {
		if out, mine = z.settleHedge(c, which, m.Outcome, out); !mine {
			out = z.dispatchFailed(now, n, m, out)
		}
	}
	if m.Outcome == api.OutcomeRefused {
		if m.Code == api.CodeUnavailable && n.serves() { // it drains, and its word of that was lost or is late
			n.draining = true
			z.touch(n)
			z.hopeLost(n)
		}
		switch {
		case mine:
			out = z.refused(now, c, n, m, out)
		case warmed: // or it would be asked again at once, by the calls that wait
			n.pause(now)
		}
		return z.slotFreed(now, n, out)
	}
	if !m.Resent || known {
		out = z.sample(m, out)
	}
	switch {
	case mine && m.Outcome == api.OutcomeCanceled: // nobody here has: what this scheduler cancels it knows no more
		out = z.lost(now, c, "its node stopped it for an earlier leader", out)
	case mine:
		out = z.finish(now, c, n, m, out)
		return z.scout(now, c.fn, z.slotFreed(now, n, out))
	}
	return z.slotFreed(now, n, out)
}

// unsent: a dispatch never left. That is a refusal, which no node has to speak; the other dispatch of the call, if there is one,
// goes on.
func (z *Zone) unsent(now time.Time, m *wire.Completion, out []Action) []Action {
	n := z.byName[m.Node]
	if n == nil {
		return out
	}
	n.sentAt = time.Time{} // the node's reports are not behind for want of it
	return z.completion(now, &wire.Completion{
		ID: m.ID, Node: m.Node, Attempt: m.Attempt, Message: m.Message, Boot: n.boot, Outcome: api.OutcomeRefused, Code: api.CodeInternal, MemUsedMB: n.memUsed,
	}, out)
}

// delta takes over what a completion says of the node's caches.
func (n *node) delta(now time.Time, m *wire.Completion, comeback *ewma) {
	for i := range m.Sandboxes {
		n.setSandbox(now, &m.Sandboxes[i])
	}
	for i := range m.Objects {
		key := hashOf(m.Objects[i].Key)
		n.hold(key, m.Objects[i].Bytes)
		n.ghosts.fetched(key, comeback)
	}
	for _, k := range m.Evicted {
		key := hashOf(k)
		if bytes := n.unhold(key); bytes > 0 {
			n.ghosts.evicted(key, bytes, n.held, comeback)
		}
	}
	n.memUsed = m.MemUsedMB
	if m.SeenSeq == 0 || m.Epoch != n.z.epoch {
		return
	}
	for _, r := range n.running {
		if r.seq > m.SeenSeq && !r.foreign {
			n.coming(r, m)
		}
	}
}

// coming takes over again what r's dispatch changes of sandboxes and memory on n, which had not seen it when it told what m says. Where calls
// take a few milliseconds many completions cross a dispatch: a sandbox on its way to a call counted as idle once more.
func (n *node) coming(r *running, m *wire.Completion) {
	told := func(key string) bool {
		return slices.ContainsFunc(m.Sandboxes, func(b wire.SandboxReport) bool { return b.Function == key })
	}
	takesMB := r.takesMB
	if told(r.h.key) {
		s := n.sandboxFor(r.h, r.memMB)
		s.busy++
		switch {
		case s.idle > 0 && !r.prewarm: // the call finds it, whether or not one was idle when it was sent
			s.setIdle(s.idle - 1)
			return
		case r.tookIdle: // that one is no more
			takesMB = r.memMB
		}
	}
	for _, key := range r.evict {
		if s := n.sandbox(n.z.holdings[key]); s != nil && s.idle > 0 && told(key) {
			s.setIdle(s.idle - 1)
		}
	}
	n.memUsed += takesMB
}

func (z *Zone) sample(m *wire.Completion, out []Action) []Action {
	s := &api.Sample{Echo: m.Echo, Outcome: m.Outcome, FetchMs: m.FetchMs, InitMs: m.InitMs, RunMs: m.RunMs}
	if !s.Usable() {
		return out
	}
	return append(out, Action{Kind: ActSample, Sample: s})
}

// refused: the node could not take the call after all; nothing ran, so it is simply decided again.
func (z *Zone) refused(now time.Time, c *call, n *node, m *wire.Completion, out []Action) []Action {
	if m.Code == api.CodeFenced && m.Epoch.Compare(z.epoch) > 0 {
		z.counters.FencedCompletions++
		out = append(out, Action{Kind: ActFenced, Epoch: m.Epoch})
		return z.answer(now, c, &wire.Answer{
			ID: c.inv.ID, Code: api.CodeUnavailable, Message: "this scheduler was replaced by a new leader", RetryMs: 100,
			Refused: c.losses == 0, // it never ran: its door brings it to the new leader
		}, out)
	}
	// Fenced by the own epoch: the dispatch was sent under the one before, and is simply sent again.
	if c.refusals++; c.refusals > maxRefusals {
		return z.answerError(now, c, api.CodeUnavailable, "refused by its nodes again and again, last: "+m.Message, out)
	}
	n.pause(now)
	return z.requeue(now, c, out)
}

const maxRefusals = 16

func (z *Zone) finish(now time.Time, c *call, n *node, m *wire.Completion, out []Action) []Action {
	exec := m.FetchMs + m.InitMs + m.RunMs
	net := math.Max(ms(now.Sub(c.dispatched))-exec, 0)
	if m.Outcome == api.OutcomeOK { // of others the node leaves out the part that failed, which would count as the link's
		z.linkP99.add(net)
		z.linkMs.add(net)
	}
	if m.Outcome == api.OutcomeInternal {
		z.quarantine(now, n)
	} else {
		n.failures = 0
	}
	if exec > 0 && m.Outcome == api.OutcomeOK {
		f := c.fn
		if m.Echo.Source != api.SourceNone {
			f.errEW.add(math.Abs(math.Log(exec) - m.Echo.Mu))
			z.told(now, c, m.Echo.AveragesMu, exec)
		}
		f.spentMs += exec
		f.runMs.add(m.RunMs)
		f.began(m)
	}
	z.judge(now, c, m.Outcome)
	z.compare(now, c, m.Outcome)
	if r := z.ring.at(c.rec); r != nil && m.Outcome == api.OutcomeOK {
		r.ExecMs = exec
		r.lookBack(now, c.fn, n.index, m.Start, c.inv.InputBytes(), ms(c.dispatched.Sub(r.At)))
	}
	if exec > 0 && m.Outcome == api.OutcomeOK { // last: what it did itself is no measure of its alternatives
		c.fn.saw(seen{node: n.index, sandbox: m.Start, missing: c.missing, input: c.inv.InputBytes(), execMs: exec, at: now})
	}
	return z.answer(now, c, &wire.Answer{
		ID: m.ID, Code: m.Code, Message: m.Message, Result: m.Result, ResultRef: m.ResultRef,
		Timing: wire.Timing{
			FetchMs: m.FetchMs, InitMs: m.InitMs, RunMs: m.RunMs, NetMs: net, FetchedBytes: m.FetchedBytes, Start: m.Start,
			Source: m.Echo.Source, ModelVersion: m.Echo.ModelVersion,
		},
	}, out)
}

// began learns what bringing up a sandbox took, with a call or without.
func (f *function) began(m *wire.Completion) {
	if m.Start == api.SandboxWarm {
		return
	}
	f.coldMs.add(m.InitMs)
	if m.Start == api.SandboxPrepared {
		f.prepMs.add(m.InitMs)
	} else {
		f.freshMs.add(m.InitMs)
	}
}

// policyCall is what the rule may know of a call that hopes, or hoped until now, for a node.
func (z *Zone) policyCall(now time.Time, c *call, hope *node) policy.Call {
	p := policy.Call{
		WaitedMs: ms(now.Sub(c.arrived)), DeadlineMs: math.Inf(1), ErrEW: c.fn.errEW.v, DelayOff: c.fn.spec.DelayOff,
		MarginMs: 2 + z.linkP99.v, Alike: c.fn.alike(), OwedMs: c.fn.owedMs(now), RentMs: c.fn.rentMs, Warming: c.fn.h.warming(), FnHash: c.fn.hash, Affinity: c.affinity, Hope: -1, LevelMs: c.levelMs, Load: z.load(),
	}
	if must, _ := z.mustRun(c); must {
		p.Stopped = true
	}
	if c.fn.coldMs.n > 0 {
		p.ColdMs = c.fn.coldMs.v
	}
	if hope != nil {
		p.Hope = hope.index
	}
	if !c.soft.IsZero() {
		p.DeadlineMs = ms(c.soft.Sub(now))
	}
	return p
}

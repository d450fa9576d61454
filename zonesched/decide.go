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

// decide chooses for one waiting call and carries the choice out: dispatch, or a plan with a wake.
//
// Cost for 17 candidates in a zone of a thousand nodes: finding them 6 us, estimates 14 us on a forest of 48 trees (6 for a request like a
// recent one), the rule < 1 us. No allocation before the dispatch.
func (z *Zone) decide(now time.Time, c *call, out []Action) []Action {
	if !c.hard.IsZero() && !now.Before(c.hard) {
		z.compare(now, c, api.OutcomeTimeout)
		return z.answerError(now, c, api.CodeDeadline, "the caller's time ran out while the call waited for a slot", out)
	}
	if waited := now.Sub(c.arrived); waited > maxWait {
		z.compare(now, c, api.OutcomeTimeout)
		return z.answerError(now, c, api.CodeDeadline, "the call waited "+waited.Truncate(time.Millisecond).String()+" for a slot", out)
	}
	hope := c.hope
	z.unreserve(c)
	c.account(now)
	z.gather(now, c, hope)
	z.pc = z.policyCall(now, c, hope)
	ch := z.choose(c)
	if !c.judged {
		c.judged = true
		if z.cfg.WhenLate != LateRun && z.late() {
			if a, gone := z.whenLate(now, c, &ch); gone {
				return append(out, a)
			}
		}
	}
	z.remember(now, c, &z.pc, &ch)
	if ch.Verb == policy.Run {
		out = z.dispatch(now, c, &z.cands[ch.Take], ch.Clause, ch.Propensity, out)
		if ch.Prewarm {
			if n := z.nodes[z.cands[ch.Cold].Node]; n.profile.sums.spares() {
				out = z.ahead(now, c.fn, n, out)
			}
		}
		return out
	}
	if ch.Verb == policy.Queue && !c.noFwd {
		if fwd, ok := z.forward(now, c, &ch); ok {
			z.relabel(c, api.DecisionForwarded, ch.Clause)
			return append(out, fwd)
		}
	}
	return z.plan(now, c, &ch, out)
}

// What is done with a call that no node is expected to answer before its deadline.
const (
	LateRun     = "run"     // run it late
	LateForward = "forward" // give it to a zone that granted room, else run it late
	LateRefuse  = "refuse"  // answer at once that its deadline cannot be met
)

// late reports whether every candidate of the call in hand will miss its deadline for certain.
func (z *Zone) late() bool {
	if math.IsInf(z.pc.DeadlineMs, 1) || len(z.cands) == 0 {
		return false
	}
	for i := range z.cands {
		if policy.MissProb(&z.cands[i], z.pc.DeadlineMs) <= policy.MissCertain {
			return false
		}
	}
	return true
}

func (z *Zone) whenLate(now time.Time, c *call, ch *policy.Choice) (Action, bool) {
	if z.cfg.WhenLate == LateForward {
		if c.noFwd {
			return Action{}, false
		}
		fwd, ok := z.forward(now, c, ch)
		if ok {
			z.remember(now, c, &z.pc, ch)
			z.relabel(c, api.DecisionForwarded, policy.ClauseLate)
		}
		return fwd, ok
	}
	z.remember(now, c, &z.pc, ch)
	z.relabel(c, api.DecisionRefused, policy.ClauseLate)
	c.kind = api.DecisionRefused
	z.counters.Hopeless++
	acts := z.answerError(now, c, api.CodeDeadline, "no node is expected to answer before the deadline", nil)
	return acts[0], true
}

// maxWait bounds waiting in a zone whatever happens; it is far beyond every sane deadline.
const maxWait = api.MaxTimeout

// plan writes down what a waiting call hopes for and asks for the wake at which it decides again.
func (z *Zone) plan(now time.Time, c *call, ch *policy.Choice, out []Action) []Action {
	c.delaying, c.owing = ch.Verb == policy.Delay, ch.Clause == policy.ClauseMemory
	if c.delaying && c.kind != api.DecisionDelayed {
		c.kind = api.DecisionDelayed
		z.counters.Delayed++
	} else if !c.delaying && c.kind == api.DecisionRun {
		c.kind = api.DecisionQueued
		z.counters.Queued++
	}
	c.finishAt, c.execBest, c.levelMs = time.Time{}, math.Inf(1), ch.LevelMs
	c.fallTo(nil)
	wake := ch.WakeMs
	if ch.Take >= 0 {
		k := &z.cands[ch.Take]
		z.reserve(c, z.nodes[k.Node], z.feats[ch.Take].Sandbox == api.SandboxWarm && !k.Free)
		z.planned(c, k.Est.MedianMs())
		if own, ok := z.acting(c).(policy.Unpriced); ok {
			c.execBest = own.TakesMs(k)
			c.finishAt = now.Add(duration(k.StartMs + k.LinkMs + c.execBest))
		} else {
			c.execBest = k.Est.MedianMs() + k.StrandMs() + k.PriceMs // not MissMs: when a slot frees, what a miss costs is another matter
			c.finishAt = now.Add(duration(k.CostMs() - k.MissMs))
		}
	}
	if ch.Now >= 0 {
		k := &z.cands[ch.Now]
		switch {
		case ch.Clause == policy.ClauseMemory: // whoever waits for others' sake wins nothing by it
			c.wager = wager{}
		case c.delaying:
			c.declined(now, k)
		}
		if c.delaying { // another sandbox would not end a wait for data
			c.rents = !c.owing && k.Sandbox != api.SandboxWarm && k.EvictMs == 0 && k.MissingBytes <= z.cands[ch.Take].MissingBytes
		}
		c.fallTo(z.nodes[k.Node])
		c.latest = now.Add(duration(math.Max(math.Min(policy.LatestStart(&z.pc, k), ms(maxWait)), -ms(maxWait))))
		if ch.Prewarm {
			out = z.ahead(now, c.fn, z.nodes[z.cands[ch.Cold].Node], out)
			if now.Before(c.fn.warmAt) { // the rule counted on it
				wake = math.Min(wake, ms(c.fn.warmAt.Sub(now)))
			}
		}
	}
	if c.delaying {
		z.counters.IdleDeclined++
	}
	if !c.hard.IsZero() {
		wake = math.Min(wake, ms(c.hard.Sub(now)))
	}
	if math.IsInf(wake, 1) {
		wake = math.Max(queueWakeMs, ms(now.Sub(c.arrived)))
	}
	wake = math.Min(wake, math.Max(ms(maxWait-now.Sub(c.arrived)), 0)+1)
	c.gen++
	return append(out, Action{Kind: ActWake, ID: c.inv.ID, Gen: c.gen, At: now.Add(duration(math.Max(wake, 1)))})
}

// queueWakeMs: a queued call looks again now and then, so that no lost event can strand it; more and more seldom, since slots
// that free are offered to it anyway. A look a second by each of thousands of waiting calls was most of a full zone's work.
const queueWakeMs = 1000

// gather fills z.cands (and z.feats, z.ests beside it) with the call's candidates. A node can be two: cold now, and
// warm when the function's busy sandbox there frees.
func (z *Zone) gather(now time.Time, c *call, hope *node) {
	z.cands, z.feats = z.cands[:0], z.feats[:0]
	picks := z.pick(now, c, hope)
	for i := range picks {
		if p := &picks[i]; p.box == nil {
			p.box = p.n.sandbox(c.fn.h)
		}
	}
	if 2*len(picks) > z.cfg.Candidates {
		// Not all of what they could be has room. Whoever could serve the call at once and warm must not be what lacks it, nor the
		// node that it hopes for.
		first := 0
		for i := range picks {
			if p := picks[i]; p.n == hope || p.box != nil && p.box.idle > 0 && p.n.free() > 0 {
				picks[first], picks[i] = p, picks[first]
				first++
			}
		}
	}
	for _, p := range picks {
		if len(z.cands) >= z.cfg.Candidates {
			break // a node can be two
		}
		z.nodeCandidates(now, c, p.n, p.box, p.n.missing(c, p.holds))
	}
	z.estimate(now, c)
}

func (z *Zone) estimate(now time.Time, c *call) {
	for cap(z.ests) < len(z.feats) {
		z.ests = make([]api.Estimate, 2*len(z.feats))
	}
	ests := z.ests[:len(z.feats)]
	if z.pred != nil {
		z.req = api.Request{
			Function: c.fn.id, Runtime: c.fn.spec.Runtime, MemoryMB: c.fn.spec.MemoryMB, InputBytes: c.inv.InputBytes(),
			PayloadBytes: c.inv.PayBytes, Hour: now.Hour(), Alpha: c.fn.spec.Objective.Alpha(), Call: c.inv.ID, Attempt: c.attempt,
		}
		z.pred.Estimate(&z.req, z.feats, ests)
	} else {
		for i := range ests {
			ests[i] = unknown
		}
	}
	var under [api.SandboxWarm]float64 // startUnderWayMs by state, once it was asked for; -1 otherwise
	for i := range under {
		under[i] = -1
	}
	for i := range z.cands {
		z.believe(i, &ests[i])
		known := z.cands[i].Est.Source == api.SourceForest
		if len(c.fn.h.starting) == 0 || z.cands[i].Sandbox == api.SandboxWarm || known && z.cands[i].EvictMs == 0 {
			continue
		}
		from := z.cands[i].Sandbox
		if known {
			from = api.SandboxNone // its estimates tell a start from another
		}
		if under[from] < 0 {
			under[from] = z.startUnderWayMs(now, c.fn, from)
		}
		if longest := under[from]; longest > 0 {
			z.cands[i].UnderWay = true
			if !known {
				z.cands[i].Est.Mu = math.Max(z.cands[i].Est.Mu, math.Log(longest))
			}
		}
	}
	z.weigh(now, c)
}

// startUnderWayMs is what the function's cold starts that run now say of another one from a sandbox's state: it will take as long as
// the longest of them, which has not ended yet. 0 when none runs that began with as much. Without this evidence every call of a
// function that nobody knew yet began a cold start of its own, and all of them took the longer for it: eight compilations of one
// module at once, five seconds each instead of one. A call that was sent longer ago than twice what a start takes has
// its sandbox, whether the zone has heard of it or not.
func (z *Zone) startUnderWayMs(now time.Time, f *function, from api.SandboxState) float64 {
	longest := 0.0
	for _, r := range f.h.starting {
		if from == api.SandboxPrepared && r.from != from {
			continue // fetched or not is no difference: what another start has brought up so far stands in the state too
		}
		takes, known := f.startMs(r.from)
		if !known || ms(now.Sub(r.start)) < r.fetchMs+2*takes {
			e := math.Max(z.ranMs(now, r), 0)
			longest = math.Max(longest, e+remaining(e, r.mu, r.sigma))
		}
	}
	return longest
}

// startMs is what bringing up a sandbox from this state takes; not known until one was, from there or with more to do.
func (f *function) startMs(from api.SandboxState) (takesMs float64, known bool) {
	if from == api.SandboxPrepared && f.prepMs.n > 0 {
		return f.prepMs.v, true
	}
	return f.freshMs.v, f.freshMs.n > 0
}

// unknown is the estimate without any model: equal for all, so that only starting soon counts.
var unknown = api.Estimate{Mu: math.Log(100), Sigma: 1, UpperMs: math.Inf(1), Source: api.SourceNone}

func (z *Zone) add(now time.Time, n *node, c *call, missing int64, startMs float64, sb api.SandboxState, evictMs, strands float64) {
	affine := z.affine.of(c.affinity) == n.index
	free := startMs == 0
	linkMs := z.linkMs.v
	if missing > 0 || sb == api.SandboxNone {
		linkMs += math.Max(n.backlogMs(now)-startMs, 0) // it would share the link with what is being fetched
	}
	z.feats = append(z.feats, api.Candidate{
		Node: n.name, Class: n.class, Sandbox: sb, MissingBytes: missing, Running: len(n.running), Slots: n.total,
		LinkMbps: n.linkMbps, Delayed: !free, Columns: &n.columns,
	})
	if z.pred != nil && n.columnsOf != z.models {
		z.pred.Columns(&z.feats[len(z.feats)-1], &n.columns)
		n.columnsOf = z.models
	}
	z.cands = append(z.cands, policy.Candidate{
		Node: n.index, Free: free, StartMs: startMs, LinkMs: linkMs, EvictMs: evictMs, PushMs: z.pushOutMs(n, missing), Strands: strands, Sandbox: sb,
		MissingBytes: missing, HasInputs: c.inv.InputBytes() >= api.LocalityBytes, Affine: affine, Running: len(n.running), Slots: n.slots, Cores: n.cores,
	})
}

// nodeCandidates adds the one or two ways in which n, which has sb of c's function and lacks so many bytes of its inputs, can serve c.
func (z *Zone) nodeCandidates(now time.Time, c *call, n *node, sb *sandboxes, missing int64) {
	var buf [64]float64
	at := api.SandboxNone
	idle, busy := 0, 0
	if sb != nil {
		at, idle, busy = sb.reached(), sb.idle, sb.busy
	}
	evictMs, room := 0.0, true
	if idle > 0 {
		at = api.SandboxWarm
	} else {
		if at < api.SandboxPrepared {
			at = max(at, n.prepared(c.fn.h))
		}
		_, evictMs, room = z.victims(now, n, c.fn.spec.MemoryMB)
		if evictMs > 0 && at < api.SandboxPrepared {
			evictMs += z.anewMs(n, c.fn)
		}
	}
	memMB := c.fn.spec.MemoryMB
	if n.free() > 0 && room {
		z.add(now, n, c, missing, 0, at, evictMs, n.strands(memMB, 0, 0))
	} else if len(n.running) > 0 {
		ends, freedMB := 1, 0
		if n.memMB-n.busyMB < memMB {
			ends, freedMB = n.roomAfter(now, memMB)
		}
		times := n.freeTimes(now, nil, buf[:0])
		strands := n.strands(memMB, ends, freedMB)
		if r := max(n.reserved, ends-1); r < len(times) {
			z.add(now, n, c, missing, math.Max(times[r], .1), at, evictMs, strands)
		} else {
			// More hopes than slots: the queue on this node turns over once more.
			z.add(now, n, c, missing, math.Max(times[len(times)-1], .1)*float64(1+r/len(times)), at, evictMs, strands)
		}
	}
	if busy > 0 && idle == 0 && len(z.cands) < z.cfg.Candidates {
		times := n.freeTimes(now, c.fn.h, buf[:0])
		if len(times) == 0 {
			return
		}
		r := n.hope(c.fn.h, 0)
		start := times[min(r, len(times)-1)]
		if r >= len(times) {
			start += float64(r-len(times)+1) * math.Max(c.fn.runMs.v, 1) / float64(len(times))
		}
		z.add(now, n, c, missing, math.Max(start, .1), api.SandboxWarm, 0, n.strands(memMB, 1, memMB))
		z.cands[len(z.cands)-1].Coming = !slices.ContainsFunc(n.running, func(r *running) bool { return r.h == c.fn.h && !r.cold })
	}
}

// dispatch sends the call to the candidate's node and takes over, ahead of its report, what that changes there.
func (z *Zone) dispatch(now time.Time, c *call, k *policy.Candidate, clause policy.Clause, propensity float64, out []Action) []Action {
	n := z.nodes[k.Node]
	z.unwait(now, c)
	c.state, c.node, c.dispatched, c.delaying = callRunning, n, now, false
	c.missing, c.version = k.MissingBytes, c.fn.spec.Version
	c.clause, c.ownMs, c.extraMs = clause, k.LinkMs+k.Est.MedianMs(), k.ExtraMs()
	if k.Est.Source == api.SourceNone {
		c.ownMs = 0 // a guess is not a prediction
	}
	c.mu, c.sigma, c.upperMs, c.forestMu = k.Est.Mu, math.Min(k.Est.Sigma, sigmaMax), k.Est.UpperMs, k.ForestMu
	evict := z.occupy(now, c, n, k)
	z.affine.ran(c.affinity, n.index)
	z.counters.Clauses[clause]++
	z.counters.Estimates[k.Est.Source]++
	if clause == policy.ClauseExplore {
		z.counters.Explored++
	}
	timeout := c.fn.spec.Timeout
	if !c.hard.IsZero() {
		timeout = min(timeout, c.hard.Sub(now))
	}
	c.giveUp = now.Add(timeout + z.cfg.DispatchGrace)
	run := z.run(c, n, k, timeout, propensity)
	run.Evict = evict
	out = append(out, Action{Kind: ActRun, ID: c.inv.ID, Node: n.name, Run: run})
	out = z.watch(c, z.hedgeAt(now, c, k), out)
	if n.free() <= 0 {
		z.slotLost(n)
	}
	return out
}

// occupy takes over, ahead of n's report, what a dispatch of c changes there, and names what goes for it.
func (z *Zone) occupy(now time.Time, c *call, n *node, k *policy.Candidate) (evict []string) {
	before := n.memUsed
	if k.Sandbox != api.SandboxWarm {
		evict = z.makeRoom(now, n, c.fn.spec.MemoryMB)
		c.fn.bought(now)
	}
	n.sentSeq++
	n.sentAt = now
	fetch := k.MissingBytes
	if k.Sandbox == api.SandboxNone {
		fetch += c.fn.spec.ArtifactBytes
	}
	n.drop(now, c.inv.ID) // reported by a node that was taken for lost: what runs there serves this attempt, in the same slot
	r := &running{id: c.inv.ID, seq: n.sentSeq, evict: evict, h: c.fn.h, memMB: c.fn.spec.MemoryMB, tenant: c.tenant, start: now, mu: k.Est.Mu, sigma: math.Min(k.Est.Sigma, sigmaMax), fetchMs: n.transferMs(fetch), cold: k.Sandbox != api.SandboxWarm, from: k.Sandbox}
	n.begin(r)
	s := n.sandboxFor(c.fn.h, c.fn.spec.MemoryMB)
	if r.tookIdle = s.idle > 0; r.tookIdle {
		s.setIdle(s.idle - 1)
	} else {
		n.memUsed += c.fn.spec.MemoryMB
	}
	s.busy++
	r.takesMB = n.memUsed - before
	for _, o := range c.inputs {
		n.hold(o.key, o.bytes)
	}
	return evict
}

func (z *Zone) run(c *call, n *node, k *policy.Candidate, timeout time.Duration, propensity float64) *wire.Run {
	version := uint64(0)
	if z.pred != nil {
		version = z.pred.Version()
	}
	inv := *c.inv
	inv.Version, inv.Attempt = c.version, c.attempt
	return &wire.Run{
		Epoch: z.epoch, Seq: n.sentSeq, Call: inv, Fn: *c.fn.spec, TimeoutMs: max(timeout.Milliseconds(), 1), KeepMs: c.fn.keepMs(),
		Echo: api.Echo{
			Function: c.fn.id, Runtime: c.fn.spec.Runtime, Node: n.name, Bins: append([]byte(nil), k.Est.Bins[:]...),
			SchemaEpoch: api.SchemaEpoch, Grid: k.Est.Grid, ModelVersion: version, Mu: k.Est.Mu, AveragesMu: k.Est.AveragesMu, Sigma: k.Est.Sigma, UpperMs: k.Est.UpperMs,
			Alpha: c.fn.spec.Objective.Alpha(), Source: k.Est.Source, Kind: c.kind, Sandbox: k.Sandbox,
			MissingBytes: k.MissingBytes, InputBytes: c.inv.InputBytes(), LinkMbps: n.linkMbps, Propensity: propensity,
			PricePerHour: n.price, EnergyClass: n.energy,
		},
	}
}

// prewarm brings up a sandbox of f on n: a dispatch without a call. It holds a slot until it is up; then the sandbox is idle,
// and the slot is offered like any other. scoutMs is what a scout is expected to take, 0 for other reasons.
func (z *Zone) prewarm(now time.Time, f *function, n *node, scoutMs float64, out []Action) []Action {
	z.warmSeq++
	z.counters.Prewarmed++
	f.bought(now)
	id := fmt.Sprintf("prewarm-%d-%d-%d", z.epoch.Generation, z.epoch.Revision, z.warmSeq)
	n.sentSeq++
	n.sentAt = now
	from := n.prepared(f.h)
	if s := n.sandbox(f.h); s != nil {
		from = max(from, s.reached())
	}
	takesMs, known := f.startMs(from)
	if !known {
		takesMs = f.coldMs.v
	}
	fetchMs := 0.
	if from == api.SandboxNone {
		fetchMs = n.transferMs(f.spec.ArtifactBytes)
	}
	r := &running{id: id, seq: n.sentSeq, h: f.h, memMB: f.spec.MemoryMB, start: now, mu: math.Log(math.Max(takesMs, 1)), sigma: .5, fetchMs: fetchMs, cold: true, from: from, prewarm: true}
	n.begin(r)
	before := n.memUsed
	evict := z.makeRoom(now, n, f.spec.MemoryMB)
	n.sandboxFor(f.h, f.spec.MemoryMB).busy++
	n.memUsed += f.spec.MemoryMB
	r.evict, r.takesMB = evict, n.memUsed-before
	z.prewarms[id] = prewarming{n, f.id, scoutMs}
	out = append(out,
		Action{Kind: ActRun, ID: id, Node: n.name, Run: &wire.Run{
			Epoch: z.epoch, Seq: n.sentSeq, Fn: *f.spec, TimeoutMs: max(f.spec.Timeout.Milliseconds(), 1), Prewarm: true, KeepMs: f.keepMs(), Evict: evict,
			Call: api.Invocation{ID: id, Tenant: f.spec.Tenant, Function: f.spec.Name, Version: f.spec.Version},
		}},
		Action{Kind: ActWake, ID: id, At: now.Add(f.spec.Timeout + z.cfg.DispatchGrace)})
	if n.free() <= 0 {
		z.slotLost(n)
	}
	return out
}

// ahead brings up a sandbox that a rule wants beside a call, unless those of the function failed a moment ago.
func (z *Zone) ahead(now time.Time, f *function, n *node, out []Action) []Action {
	if now.Before(f.warmAt) {
		return out
	}
	return z.prewarm(now, f, n, 0, out)
}

// warming is how many sandboxes of the function are being brought up without a call.
func (h *holding) warming() int {
	n := 0
	for _, r := range h.starting {
		if r.prewarm {
			n++
		}
	}
	return n
}

// slotLost: calls that are held back with n as their fallback must decide anew, since n is full. Of those that named the same
// slot the one that must start first chooses first.
func (z *Zone) slotLost(n *node) {
	if n.fallbacks == 0 { // nearly always, in a full zone, where all calls would be looked at for each slot
		return
	}
	from := len(z.redo)
	for _, w := range z.waiting {
		if w.delaying && w.fallback == n {
			z.again(w)
		}
	}
	slices.SortStableFunc(z.redo[from:], func(a, b *call) int { return a.latest.Compare(b.latest) })
}

// slotFreed offers n's free slots to all waiting calls (late binding: a reservation informs estimates, it binds
// nobody). If nobody gains by n, the slot stays free and the waiting calls decide anew.
func (z *Zone) slotFreed(now time.Time, n *node, out []Action) []Action {
	kept, out := z.keptRoom(now, n, out)
	if kept {
		return out
	}
	for n.usable(now) && n.free() > 0 && n.wanted() {
		first := z.admit(now, n)
		if first.c == nil {
			binds := policy.Binds(z.order)
			left := redoScan
			for _, w := range z.waiting[:min(len(z.waiting), fitScan)] {
				if left == 0 {
					break
				}
				if !n.fits(w.fn) { // others of that kind, which nobody can take for now, must not be all that is looked at
					continue
				}
				left--
				if binds && w.hope != nil && w.hope != n && w.hope.serves() {
					continue
				}
				if n.memMB-n.busyMB >= w.fn.spec.MemoryMB && !w.owing && (!w.delaying || w.hope == n) { // who owes has been asked just now, and has a wake
					z.again(w)
				}
			}
			return out
		}
		by, index := first.why()
		out = z.take(now, first.c, first.cand, Freed{By: by, Index: finite(index)}, out)
	}
	return out
}

// take has a waiting call take a slot that was freed, and says why it and no other.
func (z *Zone) take(now time.Time, c *call, k policy.Candidate, why Freed, out []Action) []Action {
	why.Waiting = len(z.waiting)
	c.account(now)
	z.noteSide(c)
	ch := policy.Choice{Verb: policy.Run, Clause: policy.ClauseFreed, Take: 0, Now: 0, Propensity: 1}
	pc := z.policyCall(now, c, c.hope)
	z.cands, z.shadowed = append(z.cands[:0], k), false
	z.remember(now, c, &pc, &ch)
	if d := z.ring.at(c.rec); d != nil {
		why.At, why.Slot = now, z.candidate(&k, k.CostMs())
		d.Freed = why
	}
	return z.dispatch(now, c, &k, policy.ClauseFreed, 1, out)
}

// redoScan bounds the calls that decide anew when nobody takes a freed slot, oldest first, and fitScan those among which they are looked for.
const (
	redoScan = 128
	fitScan  = 8 * redoScan
)

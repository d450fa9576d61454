package nodeagent

import (
	"fmt"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

type phase uint8

const (
	phaseFetch phase = iota // inputs
	phaseArtifact
	phasePrepare
	phaseStart
	phaseExec
)

// run is one accepted call; it holds a slot until its completion.
type run struct {
	m        *wire.Run
	fnKey    string
	phase    phase
	accepted time.Time
	since    time.Time // of the phase
	gen      uint32
	fetchMs  float64
	initMs   float64
	fetched  int64
	start    api.SandboxState
	sb       *sandboxState
	pending  int // inputs still on their way
	stopping bool
	why      struct {
		outcome api.Outcome
		code    api.Code
		msg     string
	}
}

// accept takes a dispatch or refuses it at once.
func (n *Node) accept(now time.Time, m *wire.Run, out []Action) []Action {
	if m.Epoch.Compare(n.epoch) < 0 {
		a := n.refusal(m, api.CodeFenced, fmt.Sprintf("epoch %v is lower than %v", m.Epoch, n.epoch))
		a.Completion.Epoch = n.epoch // the sender may be this epoch's leader too, and sends the call again
		return append(out, a)
	}
	out = n.raise(m.Epoch, out)
	n.seenSeq = max(n.seenSeq, m.Seq)
	for _, key := range m.Evict[:min(len(m.Evict), wire.MaxEvict)] {
		n.touched[key] = true // the zone takes them for gone, and hears what has become of them whatever is done with the call
	}
	id := m.Call.ID
	switch {
	case n.runs[id] != nil:
		// A repeated dispatch of what is running. A later one comes from a zone that took this node for lost, or from a leader who was
		// brought the call anew and counts its attempts from the beginning: what runs serves it, and its completion must bear what the
		// zone now waits for.
		if r := n.runs[id]; later(m, r.m) {
			cp := *r.m // the shell reads the first one
			cp.Epoch, cp.Seq, cp.Call.Attempt = m.Epoch, m.Seq, m.Call.Attempt
			r.m = &cp
		}
		return out
	case n.find(id, m.Call.Attempt) != nil:
		n.find(id, m.Call.Attempt).sentAt = time.Time{}
		return n.resend(now, out)
	case n.draining:
		return append(out, n.refusal(m, api.CodeUnavailable, "the node is draining"))
	case len(n.order) >= n.cfg.Slots:
		return append(out, n.refusal(m, api.CodeOverloaded, fmt.Sprintf("all %d slots are taken", n.cfg.Slots)))
	}
	r := &run{m: m, fnKey: m.Fn.Key(), accepted: now, since: now}
	if out2, ok := n.claim(now, r, out); ok {
		out = out2
	} else {
		return append(out, n.refusal(m, api.CodeOverloaded, fmt.Sprintf("no room for a sandbox of %d MB", m.Fn.MemoryMB)))
	}
	n.runs[id], n.order = r, append(n.order, r)
	n.calls++
	r.gen++
	out = append(out, Action{Kind: ActDeadline, ID: id, Gen: r.gen, At: now.Add(time.Duration(m.TimeoutMs) * time.Millisecond)})
	return n.fetchInputs(now, r, out)
}

// later reports whether m was sent after the earlier one.
func later(m, earlier *wire.Run) bool {
	if c := m.Epoch.Compare(earlier.Epoch); c != 0 {
		return c > 0
	}
	return m.Seq > earlier.Seq || m.Call.Attempt > earlier.Call.Attempt
}

func (n *Node) refusal(m *wire.Run, code api.Code, msg string) Action {
	return Action{Kind: ActComplete, Completion: &wire.Completion{
		Epoch: m.Epoch, Node: n.cfg.Name, Boot: n.boot, ID: m.Call.ID, Attempt: m.Call.Attempt, Seq: m.Seq,
		Outcome: api.OutcomeRefused, Code: code, Message: msg, MemUsedMB: n.memUsed, SlotsInUse: len(n.order), SeenSeq: n.seen(m.Epoch),
	}}
}

// fetchInputs begins with what is missing; several calls may wait for one object, which is fetched once.
func (n *Node) fetchInputs(now time.Time, r *run, out []Action) []Action {
	for i := range r.m.Call.Inputs {
		in := &r.m.Call.Inputs[i]
		o := n.objs[in.Key]
		if o == nil {
			o = n.newObject(in)
			out = n.trim(out)
			out = append(out, Action{Kind: ActFetch, Key: in.Key, Bytes: in.Bytes})
			r.fetched += in.Bytes
		}
		o.pins++
		n.used.MoveToBack(o.place)
		if !o.here {
			o.waiting = append(o.waiting, r)
			r.pending++
		}
	}
	if r.pending == 0 {
		return n.needSandbox(now, r, out)
	}
	return out
}

func (n *Node) objectFetched(now time.Time, ev *Event, out []Action) []Action {
	o := n.objs[ev.Key]
	if o == nil || o.here {
		return out
	}
	waiting := o.waiting
	o.waiting = nil
	if ev.Err != "" {
		n.forget(o)
	} else {
		o.here = true
		n.fetchedBytes += o.bytes
		n.came(o)
	}
	for _, r := range waiting {
		if n.runs[r.m.Call.ID] != r {
			continue
		}
		if ev.Err != "" {
			o, code := ev.fault()
			out = n.end(now, r, o, code, "input "+ev.Key+": "+ev.Err, nil, "", out)
			continue
		}
		if r.pending--; r.pending == 0 {
			out = n.needSandbox(now, r, out)
		}
	}
	return n.trim(out)
}

// needSandbox goes the shortest way to a running sandbox: warm, or start, or prepare, or fetch first.
func (n *Node) needSandbox(now time.Time, r *run, out []Action) []Action {
	r.fetchMs = msBetween(r.since, now)
	r.since = now
	if r.sb.up {
		return n.exec(now, r, out)
	}
	return n.bringUp(now, r, out)
}

func (n *Node) bringUp(now time.Time, r *run, out []Action) []Action {
	a := n.arts[r.m.Fn.Artifact]
	switch {
	case a.state == artReady:
		r.phase = phaseStart
		return append(out, Action{Kind: ActStart, Sandbox: r.sb.id, Fn: &r.m.Fn, Run: r.m})
	case a.state == artHere:
		r.phase = phasePrepare
		a.state = artPreparing
		a.waiting = append(a.waiting, r)
		return append(out, Action{Kind: ActPrepare, Digest: r.m.Fn.Artifact, Fn: &r.m.Fn, Run: r.m})
	case a.state == artNone:
		r.phase = phaseArtifact
		a.state = artFetching
		a.waiting = append(a.waiting, r)
		r.fetched += r.m.Fn.ArtifactBytes
		return append(out, Action{Kind: ActFetchArtifact, Digest: r.m.Fn.Artifact, Fn: &r.m.Fn})
	}
	r.phase = phasePrepare
	a.waiting = append(a.waiting, r) // somebody else's fetch or prepare serves this call too
	return out
}

func (n *Node) artifactFetched(now time.Time, ev *Event, out []Action) []Action {
	a := n.arts[ev.Digest]
	if a == nil || a.state != artFetching {
		return out
	}
	if ev.Err != "" {
		a.state = artNone
		return n.failWaiting(now, a, "artifact: ", ev, out)
	}
	a.state = artHere
	n.fetchedBytes += a.bytes
	return n.continueWaiting(now, a, out)
}

func (n *Node) prepared(now time.Time, ev *Event, out []Action) []Action {
	a := n.arts[ev.Digest]
	if a == nil || a.state != artPreparing {
		return out
	}
	if ev.Err != "" {
		a.state = artHere
		return n.failWaiting(now, a, "prepare: ", ev, out)
	}
	a.state = artReady
	n.touch(a)
	return n.continueWaiting(now, a, out)
}

func (n *Node) continueWaiting(now time.Time, a *artifact, out []Action) []Action {
	waiting := a.waiting
	a.waiting = nil
	for _, r := range waiting {
		if n.runs[r.m.Call.ID] == r {
			out = n.bringUp(now, r, out)
		}
	}
	return out
}

func (n *Node) failWaiting(now time.Time, a *artifact, what string, ev *Event, out []Action) []Action {
	o, code := ev.fault()
	waiting := a.waiting
	a.waiting = nil
	for _, r := range waiting {
		if n.runs[r.m.Call.ID] == r {
			out = n.end(now, r, o, code, what+ev.Err, nil, "", out)
		}
	}
	return out
}

func (n *Node) started(now time.Time, ev *Event, out []Action) []Action {
	sb := n.sandboxByID(ev.Sandbox)
	if sb == nil {
		return append(out, Action{Kind: ActClose, Sandbox: ev.Sandbox})
	}
	r := sb.run
	if ev.Err != "" {
		out = n.dropSandbox(sb, out)
		if r != nil {
			out = n.end(now, r, ev.Outcome, ev.Code, ev.Err, nil, "", out)
		}
		return out
	}
	sb.up = true
	if r == nil { // its call was stopped meanwhile: keep the sandbox, it is warm now
		return n.idle(now, sb, out)
	}
	return n.exec(now, r, out)
}

func (n *Node) exec(now time.Time, r *run, out []Action) []Action {
	r.initMs = msBetween(r.since, now)
	if r.start != api.SandboxWarm {
		n.coldStarts++
	} else {
		r.initMs = 0
	}
	if r.m.Prewarm { // the sandbox was all that was wanted
		return n.end(now, r, api.OutcomeOK, api.CodeOK, "", nil, "", out)
	}
	r.since, r.phase = now, phaseExec
	return append(out, Action{Kind: ActExec, ID: r.m.Call.ID, Sandbox: r.sb.id, Run: r.m})
}

func (n *Node) executed(now time.Time, ev *Event, out []Action) []Action {
	r := n.runs[ev.ID]
	if r == nil || r.sb == nil || r.sb.id != ev.Sandbox {
		return out
	}
	sb := r.sb
	r.sb, sb.run = nil, nil
	if ev.Broken {
		out = n.dropSandbox(sb, out)
	} else {
		out = n.idle(now, sb, out)
	}
	o, code, msg := ev.Outcome, ev.Code, ev.Err
	if r.stopping && o != api.OutcomeOK {
		o, code, msg = r.why.outcome, r.why.code, r.why.msg
	}
	return n.endTook(now, r, o, code, msg, ev.Result, ev.Ref, ev.Took, out)
}

// stop ends a call early: a running one is told to stop and completes when it has; one still on its way completes now,
// and what was begun for it stays for the next.
func (n *Node) stop(now time.Time, id string, o api.Outcome, code api.Code, msg string, out []Action) []Action {
	r := n.runs[id]
	if r == nil || r.stopping {
		return out
	}
	if r.phase == phaseExec {
		r.stopping = true
		r.why.outcome, r.why.code, r.why.msg = o, code, msg
		return append(out, Action{Kind: ActStop, ID: id, Sandbox: r.sb.id, Outcome: o})
	}
	return n.end(now, r, o, code, msg, nil, "", out)
}

func (n *Node) end(now time.Time, r *run, o api.Outcome, code api.Code, msg string, result []byte, ref string, out []Action) []Action {
	return n.endTook(now, r, o, code, msg, result, ref, 0, out)
}

// endTook completes a call: frees its slot, and tells the zone until it acknowledges.
func (n *Node) endTook(now time.Time, r *run, o api.Outcome, code api.Code, msg string, result []byte, ref string, took time.Duration, out []Action) []Action {
	id := r.m.Call.ID
	delete(n.runs, id)
	for i, k := range n.order {
		if k == r {
			n.order = append(n.order[:i], n.order[i+1:]...)
			break
		}
	}
	for i := range r.m.Call.Inputs {
		if ob := n.objs[r.m.Call.Inputs[i].Key]; ob != nil {
			ob.pins--
		}
	}
	out = n.trim(out)
	if sb := r.sb; sb != nil { // it never ran
		sb.run = nil
		switch {
		case sb.up:
			out = n.idle(now, sb, out)
		case r.phase != phaseStart:
			out = n.dropSandbox(sb, out)
		}
	}
	runMs := 0.0
	if r.phase == phaseExec {
		if runMs = msBetween(r.since, now); took > 0 {
			runMs = float64(took) / float64(time.Millisecond)
		}
	}
	if len(msg) > wire.MaxMessage {
		msg = msg[:wire.MaxMessage]
	}
	n.touched[r.fnKey] = true
	c := &wire.Completion{
		Epoch: r.m.Epoch, Node: n.cfg.Name, Boot: n.boot, ID: id, Attempt: r.m.Call.Attempt, Seq: r.m.Seq, Outcome: o,
		Code: code, Message: msg, Result: result, ResultRef: ref, FetchMs: r.fetchMs, InitMs: r.initMs, RunMs: runMs,
		FetchedBytes: r.fetched, Start: r.start, Echo: r.m.Echo, SlotsInUse: len(n.order),
	}
	n.unacked = append(n.unacked, &unacked{c: c, sentAt: now})
	if len(n.unacked) > n.cfg.MaxUnacked {
		n.unacked = n.unacked[1:]
		n.dropped++
	}
	return append(out, Action{Kind: ActComplete, Completion: n.withDeltas(now, c)})
}

// seen is the highest dispatch of that epoch that the node has seen, 0 if it is not the node's.
func (n *Node) seen(e api.Epoch) uint64 {
	if e != n.epoch {
		return 0
	}
	return n.seenSeq
}

// unacked is a completion that the zone has not acknowledged.
type unacked struct {
	c      *wire.Completion
	sentAt time.Time
}

func (n *Node) find(id string, attempt uint8) *unacked {
	for _, u := range n.unacked {
		if u.c.ID == id && u.c.Attempt == attempt {
			return u
		}
	}
	return nil
}

func (n *Node) acked(ids []string) {
	kept := n.unacked[:0]
	for _, u := range n.unacked {
		done := false
		for _, id := range ids {
			done = done || id == u.c.ID
		}
		if !done {
			kept = append(kept, u)
		}
	}
	clear(n.unacked[len(kept):])
	n.unacked = kept
}

func (n *Node) resend(now time.Time, out []Action) []Action {
	for _, u := range n.unacked {
		if now.Sub(u.sentAt) < n.cfg.ResendAfter {
			continue
		}
		u.sentAt = now
		c := *u.c
		c.Resent = true
		c.Sandboxes, c.Objects, c.Evicted = nil, nil, nil
		c.MemUsedMB, c.SlotsInUse, c.SeenSeq = n.memUsed, len(n.order), n.seen(c.Epoch)
		out = append(out, Action{Kind: ActComplete, Completion: &c})
	}
	return out
}

func msBetween(a, b time.Time) float64 { return max(float64(b.Sub(a))/float64(time.Millisecond), 0) }

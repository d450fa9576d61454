package zoned

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/asyncq"
)

// pending is who waits for a call in flight: its own caller, and others with the same idempotency key, under ids of their own.
type pending struct {
	tell []waiter
	idem string
	// keep: the call goes on when its callers leave (an asynchronous call).
	keep bool
}

type waiter struct {
	id   string
	tell func(*wire.Answer)
}

// Limits of finished answers kept for callers that repeat an idempotency key.
const (
	idemKeep     = 10 * time.Minute
	idemMax      = 4096
	idemMaxBytes = 64 << 20
)

// answers remembers finished calls with an idempotency key, bounded in number, bytes and age.
type answers struct {
	byKey map[string]kept
	order []string
	bytes int
}

type kept struct {
	ans *wire.Answer
	at  time.Time
}

func newAnswers() *answers { return &answers{byKey: map[string]kept{}} }

func (a *answers) get(key string, now time.Time) *wire.Answer {
	k, ok := a.byKey[key]
	if !ok || now.Sub(k.at) > idemKeep {
		return nil
	}
	return k.ans
}

func (a *answers) put(key string, ans *wire.Answer, now time.Time) {
	a.trim(now) // an answer under this key that is too old makes room for the new one
	if _, ok := a.byKey[key]; ok {
		return
	}
	a.byKey[key] = kept{ans, now}
	a.order = append(a.order, key)
	a.bytes += len(ans.Result)
	a.trim(now)
}

// trim drops the oldest answers while a limit is passed.
func (a *answers) trim(now time.Time) {
	for len(a.order) > idemMax || a.bytes > idemMaxBytes || len(a.order) > 0 && now.Sub(a.byKey[a.order[0]].at) > idemKeep {
		a.bytes -= len(a.byKey[a.order[0]].ans.Result)
		delete(a.byKey, a.order[0])
		a.order = a.order[1:]
	}
}

// Invoke runs a call to its end: here when this scheduler leads, else at the leader. Every failure is an answer with a
// code. When ctx ends first, the call is canceled down to its sandbox.
func (d *Daemon) Invoke(ctx context.Context, inv *api.Invocation) *wire.Answer {
	if !d.takes() {
		return refusal(inv.ID, api.CodeUnavailable, "the scheduler is starting or stopping", 500)
	}
	began, whole := time.Now(), inv.BudgetMs
	for try := 0; ; try++ {
		if whole > 0 && try > 0 { // its caller's time went on
			again := *inv
			if again.BudgetMs = whole - time.Since(began).Milliseconds(); again.BudgetMs <= 0 {
				return &wire.Answer{ID: inv.ID, Code: api.CodeDeadline, Message: "the caller's time ran out while its door looked for a leader"}
			}
			inv = &again
		}
		r := d.role.Load()
		var ans *wire.Answer
		if r.Mine {
			ans = d.invokeHere(ctx, inv)
		} else {
			ans = d.invokeAtLeader(ctx, r, inv)
		}
		// Only what certainly did not run is tried again, once leadership has changed or soon. A leader that knows a function later than
		// this door does is a little behind.
		behind := false
		if ans.Code == api.CodeNotFound {
			_, behind = (*d.known.Load())[inv.FunctionID()]
		}
		if !ans.Refused || ans.Code != api.CodeUnavailable && !behind || try >= maxLeaderTries || !d.takes() || d.ctx.Err() != nil {
			return ans
		}
		if !waitRole(ctx, r) {
			return ans
		}
	}
}

// maxLeaderTries and leaderPause bound how long a door looks for a leader: as long as a take-over takes.
const (
	maxLeaderTries = 40
	leaderPause    = 100 * time.Millisecond
)

func waitRole(ctx context.Context, r *role) bool {
	t := time.NewTimer(leaderPause)
	defer t.Stop()
	select {
	case <-r.changed:
		return true
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func refusal(id string, code api.Code, msg string, retryMs int64) *wire.Answer {
	return &wire.Answer{ID: id, Code: code, Message: msg, RetryMs: retryMs, Refused: true}
}

func (d *Daemon) invokeHere(ctx context.Context, inv *api.Invocation) *wire.Answer {
	got := make(chan *wire.Answer, 1)
	ok := d.call(func() { d.accept(inv, 0, api.Epoch{}, false, func(a *wire.Answer) { got <- a }) })
	if !ok {
		return refusal(inv.ID, api.CodeUnavailable, "the scheduler has stopped", 500)
	}
	select {
	case a := <-got:
		return a
	case <-ctx.Done():
		id := inv.ID
		d.call(func() { d.leave(id) })
		return &wire.Answer{ID: inv.ID, Code: api.CodeCanceled, Message: "the caller went away"}
	case <-d.ctx.Done():
		// The loop answers everybody before it ends, but it may have ended before it took this call.
		select {
		case a := <-got:
			return a
		default:
			return &wire.Answer{ID: inv.ID, Code: api.CodeUnavailable, Message: "the scheduler stopped", RetryMs: 500}
		}
	}
}

func (d *Daemon) invokeAtLeader(caller context.Context, r *role, inv *api.Invocation) *wire.Answer {
	if r.nobody() {
		return refusal(inv.ID, api.CodeUnavailable, "zone "+d.cfg.Zone+" has no leader", 500)
	}
	within, cancelWithin := context.WithTimeout(caller, d.answerWithin(inv))
	defer cancelWithin()
	ctx, cancel := context.WithCancelCause(within)
	defer cancel(nil)
	stop, ended := make(chan struct{}), make(chan struct{})
	defer func() { close(stop); <-ended }()
	// A leader that dies takes the call with it: its callers learn so when the next one is elected. The goroutine is
	// this call's, not Run's: a door may still be here when Run waits for its own.
	go func() {
		defer close(ended)
		select {
		case <-r.changed:
			cancel(errLeaderLost)
		case <-stop:
		case <-d.ctx.Done():
			cancel(errLeaderLost)
		}
	}()
	ans := d.request(ctx, wire.SubjectLeader(d.cfg.Zone, "invoke"), &wire.Invoke{Call: *inv})
	switch {
	case errors.Is(context.Cause(ctx), errLeaderLost) && ans.Code != api.CodeOK && !ans.Refused:
		if inv.Retryable() {
			return refusal(inv.ID, api.CodeUnavailable, "the zone's leader changed", 100)
		}
		return &wire.Answer{ID: inv.ID, Code: api.CodeUnavailable, Message: "the zone's leader was lost while it worked on the call; it may or may not have run", RetryMs: 100}
	case within.Err() != nil && ans.Code != api.CodeOK: // not for a lost leader: the next one would stop the repetition
		d.send(wire.SubjectLeader(d.cfg.Zone, "cancel"), &wire.Cancel{ID: inv.ID, Left: true})
	}
	return ans
}

var errLeaderLost = errors.New("leader lost")

// accept runs on the loop: it joins a call with a known idempotency key, or gives the core a new one.
func (d *Daemon) accept(inv *api.Invocation, grant uint64, epoch api.Epoch, keep bool, tell func(*wire.Answer)) {
	if !d.leads() || d.draining.Load() {
		tell(refusal(inv.ID, api.CodeUnavailable, "this scheduler does not lead the zone", 100))
		return
	}
	key := ""
	if inv.IdemKey != "" && inv.Forwarded == "" {
		key = inv.Tenant + "/" + inv.Function + "/" + inv.IdemKey
		if a := d.done.get(key, time.Now()); a != nil {
			tell(a)
			return
		}
		if p := d.waiters[d.idem[key]]; p != nil {
			if len(p.tell) >= maxWaiters {
				tell(refusal(inv.ID, api.CodeOverloaded, fmt.Sprintf("%d callers wait for this idempotency key", maxWaiters), 1000))
				return
			}
			p.tell = append(p.tell, waiter{inv.ID, tell})
			d.joined[inv.ID] = d.idem[key]
			return
		}
	}
	if p := d.waiters[inv.ID]; p != nil {
		tell(refusal(inv.ID, api.CodeExists, "an invocation with this id is being worked on", 0))
		return
	}
	d.waiters[inv.ID] = &pending{tell: []waiter{{inv.ID, tell}}, idem: key, keep: keep}
	if key != "" {
		d.idem[key] = inv.ID
	}
	d.step(&zonesched.Event{Kind: zonesched.EvArrive, Call: inv, GrantID: grant, GrantEpoch: epoch})
}

// answered tells everybody who waits.
func (d *Daemon) answered(id string, a *wire.Answer) {
	p := d.waiters[id]
	if p == nil {
		return
	}
	delete(d.waiters, id)
	if p.idem != "" {
		delete(d.idem, p.idem)
		if !a.Refused && a.Code != api.CodeUnavailable && a.Code != api.CodeCanceled && a.Code != api.CodeDeadline {
			d.done.put(p.idem, a, time.Now())
		}
	}
	delete(d.old, id)
	for _, w := range p.tell {
		delete(d.joined, w.id)
		if w.id != id && a.Code == api.CodeDeadline { // the time that was up was the other caller's
			w.tell(refusal(id, api.CodeUnavailable, "the call with this idempotency key that it had joined ended: "+a.Message, 100))
			continue
		}
		w.tell(a)
	}
}

// leave: a caller went away. The call ends with the last of them.
func (d *Daemon) leave(id string) {
	call := id
	if joined, ok := d.joined[id]; ok {
		call = joined
		delete(d.joined, id)
	}
	p := d.waiters[call]
	if p == nil || p.keep {
		return
	}
	p.tell = slices.DeleteFunc(p.tell, func(w waiter) bool { return w.id == id })
	if len(p.tell) == 0 {
		d.step(&zonesched.Event{Kind: zonesched.EvCancel, ID: call, Reason: "the caller went away"})
	}
}

// abandon answers everybody when the loop ends or leadership is lost. Calls with an idempotency key go back to their
// doors, which bring them to the next leader.
func (d *Daemon) abandon(why string) {
	for id, p := range d.waiters { // each gets its own answer: the order does not matter
		d.answered(id, &wire.Answer{ID: id, Code: api.CodeUnavailable, Message: why + "; the call may or may not have run", RetryMs: 100, Refused: p.idem != ""})
	}
	d.unlead()
}

// onRequest is the reason of a call that somebody canceled by its id.
const onRequest = "canceled on request"

// Cancel ends a call wherever it is in the zone. An asynchronous one gets its terminal record first: it must not run
// when it is handed out later, not even by a leader that this cancellation does not reach.
func (d *Daemon) Cancel(ctx context.Context, tenant, id string) error {
	if d.deps.Async != nil {
		err := d.deps.Async.Cancel(ctx, tenant, id, &wire.Answer{ID: id, Code: api.CodeCanceled, Message: onRequest})
		if err != nil && !errors.Is(err, api.ErrNotFound) { // a synchronous call is not known there
			return err
		}
	}
	if d.role.Load().Mine {
		return d.view(ctx, func() { d.cancelHere(id, onRequest) })
	}
	d.send(wire.SubjectLeader(d.cfg.Zone, "cancel"), &wire.Cancel{ID: id})
	return nil
}

// cancelHere runs on the loop.
func (d *Daemon) cancelHere(id, reason string) {
	for it := range d.looked { // each is looked at by itself: the order does not matter
		if it.Call.ID == id {
			d.looked[it] = true
		}
	}
	d.step(&zonesched.Event{Kind: zonesched.EvCancel, ID: id, Reason: reason})
}

// InvokeAsync puts a call on disk; the leader runs it at least once and writes exactly one terminal record.
func (d *Daemon) InvokeAsync(ctx context.Context, inv *api.Invocation) error {
	if d.deps.Async == nil {
		return fmt.Errorf("%w: asynchronous calls are not configured in zone %s", api.ErrInvalid, d.cfg.Zone)
	}
	if _, ok := (*d.known.Load())[inv.FunctionID()]; !ok {
		return fmt.Errorf("%w: no function %q", api.ErrNotFound, inv.Function)
	}
	return d.deps.Async.Accept(ctx, inv)
}

// Result looks an asynchronous call up.
func (d *Daemon) Result(ctx context.Context, tenant, id string) (*wire.Answer, bool, error) {
	if d.deps.Async == nil {
		return nil, false, fmt.Errorf("%w: asynchronous calls are not configured in zone %s", api.ErrNotFound, d.cfg.Zone)
	}
	return d.deps.Async.Result(ctx, tenant, id)
}

// acceptAsync gives a queued call to the core unless it has ended. Who cancels writes the record and then tells the
// loop, so the loop knows of the call before its record is looked up: no cancellation falls between the two.
func (d *Daemon) acceptAsync(ctx context.Context, it *asyncq.Item, tell func(*wire.Answer)) bool {
	if !d.call(func() { d.looked[it] = false }) {
		return false
	}
	ended, err := it.Ended(ctx)
	if !ended && err == nil {
		return d.call(func() { d.lookedUp(it, tell) })
	}
	d.call(func() { delete(d.looked, it) })
	if err != nil {
		d.deps.Log.Warn("asynchronous call, asked for again: has it ended?", "id", it.Call.ID, "err", err)
		it.Return(time.Second)
	}
	return false
}

// lookedUp runs on the loop: a call whose record was not there goes to the core, unless it was canceled meanwhile.
func (d *Daemon) lookedUp(it *asyncq.Item, tell func(*wire.Answer)) {
	canceled := d.looked[it]
	delete(d.looked, it)
	if canceled {
		tell(&wire.Answer{ID: it.Call.ID, Code: api.CodeCanceled, Message: onRequest})
		return
	}
	if it.Late {
		tell(&wire.Answer{ID: it.Call.ID, Code: api.CodeDeadline, Message: "the caller's time ran out while the call waited in the queue"})
		return
	}
	d.accept(it.Call, 0, api.Epoch{}, true, tell)
}

// runAsync works on one queued call until its record is written, or hands it back. When the lead ends first, the next leader gets the call
// once its acknowledgement is overdue.
func (d *Daemon) runAsync(lead context.Context, it *asyncq.Item) {
	got := make(chan *wire.Answer, 1)
	if !d.acceptAsync(lead, it, func(a *wire.Answer) { got <- a }) {
		return
	}
	var a *wire.Answer
	select {
	case a = <-got:
	case <-lead.Done():
		select {
		case a = <-got: // the last answer before it ended
		default:
			return
		}
	}
	switch {
	case a.Code == api.CodeExists: // handed out twice; the first one is at work
	// The call was accepted, so there was such a function then: that it was deleted only a catalogue of after that can tell.
	case a.Refused && a.Code == api.CodeNotFound && !d.catalog.knows(it.Accepted()):
		it.Return(time.Second)
	case a.Code == api.CodeUnavailable && !a.Refused && d.vain.add(it.Call.ID) >= asyncTries && time.Since(it.Accepted()) > d.cfg.AsyncGiveUp:
		last := *a // others may have been told the same
		last.Message = fmt.Sprintf("given up %v after it was accepted, and after %d tries or more: %s", time.Since(it.Accepted()).Round(time.Second), asyncTries, a.Message)
		d.record(it, &last)
	// What is refused but may be asked for again did not run: a node that is large enough may be on its way back, too.
	case a.Code == api.CodeOverloaded, a.Code == api.CodeUnavailable, a.Refused && a.RetryMs > 0:
		it.Return(time.Duration(max(a.RetryMs, 100)) * time.Millisecond)
	default:
		d.record(it, a)
	}
}

// record ends an asynchronous call.
func (d *Daemon) record(it *asyncq.Item, a *wire.Answer) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), recordWithin) // also of a scheduler that stops
	defer cancel()
	if err := it.Done(ctx, a); err != nil {
		d.deps.Log.Warn("asynchronous record", "id", it.Call.ID, "err", err)
		return
	}
	d.vain.forget(it.Call.ID)
}

// asyncTries is how often at least an asynchronous call is handed to the scheduler, of those times that it may have run and nothing came back,
// before it is given up, and Config.AsyncGiveUp how long it is tried at least: a store or nodes may be away for a while. One that brings its
// nodes down would else go on from node to node for ever.
const asyncTries = 5

// tries counts those times. They are of this leader: the next one begins anew.
type tries struct {
	mu sync.Mutex
	of map[string]int
}

func (t *tries) add(id string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil || len(t.of) >= maxTries {
		t.of = map[string]int{}
	}
	t.of[id]++
	return t.of[id]
}

func (t *tries) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.of)
}

func (t *tries) forget(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.of, id)
}

// maxTries bounds the calls that are counted; beyond it, all begin anew.
const maxTries = 100_000

// recordWithin bounds the writing of a terminal record.
const recordWithin = 5 * time.Second

// onInvoke serves calls that the zone's other doors send to the leader, and calls of other zones.
func (d *Daemon) onInvoke(m *messaging.Msg) {
	req := &wire.Invoke{}
	if err := wire.Decode(m.Data, req); err != nil || m.Reply == "" {
		d.deps.Log.Warn("call refused", "subject", m.Subject, "err", err)
		return
	}
	reply, forwarded := m.Reply, m.Subject == wire.SubjectForward(d.cfg.Zone)
	if !forwarded {
		req.Call.Forwarded = ""
	} else if req.Call.Forwarded == "" {
		req.Call.Forwarded = "unknown" // no grant can match: refused by the core
	}
	d.call(func() {
		d.accept(&req.Call, req.GrantID, req.GrantEpoch, false, func(a *wire.Answer) { d.send(reply, a) })
	})
}

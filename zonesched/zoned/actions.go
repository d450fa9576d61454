package zoned

import (
	"context"
	"errors"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/membership"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/zonesched"
)

func (d *Daemon) carryOut(now time.Time, a *zonesched.Action) {
	switch a.Kind {
	case zonesched.ActRun:
		d.run(a)
	case zonesched.ActWake:
		d.wakes.set(a.ID, a.Gen, a.At)
	case zonesched.ActAnswer:
		d.wakes.remove(a.ID)
		d.answered(a.ID, a.Answer)
	case zonesched.ActCancelRun:
		d.send(wire.SubjectNode(d.cfg.Zone, a.Node, "cancel"), &wire.Cancel{Epoch: d.core.Epoch(), ID: a.ID})
	case zonesched.ActCancelForward:
		if stop := d.forwards[a.ID]; stop != nil {
			stop()
		}
	case zonesched.ActAck:
		if _, ok := d.acks[a.Node]; !ok {
			d.ackers = append(d.ackers, a.Node)
		}
		d.acks[a.Node] = append(d.acks[a.Node], a.ID)
		if len(d.acks[a.Node]) >= wire.MaxAcks {
			d.flushAcks()
		}
	case zonesched.ActSample:
		if len(d.batch) == 0 {
			d.since = now
		}
		d.batch = append(d.batch, wire.Record{Sample: a.Sample})
		if len(d.batch) >= wire.MaxBatch {
			d.flushSamples()
		}
	case zonesched.ActForward:
		d.forward(a)
	case zonesched.ActGrant:
		d.send(wire.SubjectGrants(a.To), a.Grant)
	case zonesched.ActHello:
		d.send(wire.SubjectAllNodes(d.cfg.Zone, "hello"), &wire.Hello{Epoch: d.core.Epoch(), Leader: d.cfg.Name, Since: d.began})
	case zonesched.ActFenced:
		d.deps.Elector.Heard(membership.Leadership{Epoch: a.Epoch})
	case zonesched.ActNodeLost:
		d.deps.Log.Warn("node lost", "zone", d.cfg.Zone, "node", a.Node)
	}
}

func (d *Daemon) send(subject string, v any) {
	b, err := wire.Encode(v)
	if err == nil {
		err = d.deps.Bus.Publish(subject, b)
	}
	if err != nil && d.ctx.Err() == nil {
		d.deps.Log.Warn("send", "zone", d.cfg.Zone, "subject", subject, "err", err)
	}
}

// run sends a dispatch. What cannot be sent comes back as if it had been refused, so that the call is not lost.
func (d *Daemon) run(a *zonesched.Action) {
	b, err := wire.Encode(a.Run)
	subject := wire.SubjectRun(d.cfg.Zone, a.Node)
	if a.Run.Prewarm {
		subject = wire.SubjectNode(d.cfg.Zone, a.Node, "prewarm")
	}
	if err == nil {
		err = d.deps.Bus.Publish(subject, b)
	}
	if err == nil {
		return
	}
	d.deps.Log.Error("dispatch", "zone", d.cfg.Zone, "node", a.Node, "id", a.ID, "err", err)
	m := &wire.Completion{ID: a.ID, Node: a.Node, Attempt: a.Run.Call.Attempt, Message: "dispatch: " + err.Error()}
	d.task(func() { d.post(zonesched.Event{Kind: zonesched.EvUnsent, Completion: m}) })
}

// flush sends what has waited long enough for company.
func (d *Daemon) flush(all bool) {
	d.flushAcks()
	if len(d.batch) > 0 && (all || time.Since(d.since) >= d.cfg.SampleFlush) {
		d.flushSamples()
	}
}

func (d *Daemon) flushAcks() {
	for _, n := range d.ackers {
		d.send(wire.SubjectNode(d.cfg.Zone, n, "ack"), &wire.Ack{Epoch: d.core.Epoch(), IDs: d.acks[n]})
		delete(d.acks, n)
	}
	d.ackers = d.ackers[:0]
}

// flushSamples publishes the next stretch of the zone's sample stream. The learner, here as on standbys, hears it from
// the bus only: all learn the same.
func (d *Daemon) flushSamples() {
	if len(d.batch) == 0 || !d.leads() {
		d.batch = nil
		return
	}
	d.send(wire.SubjectSamples(d.cfg.Zone), &wire.Batch{Zone: d.cfg.Zone, Epoch: d.core.Epoch(), First: d.next, Records: d.batch})
	d.next += uint64(len(d.batch))
	d.batch = nil
}

// forward sends a call to another zone's leader and brings its answer back as an event. When nobody waits for it any more the other
// zone is told so by the same goroutine, or that could arrive there before the call.
func (d *Daemon) forward(a *zonesched.Action) {
	m := wire.Invoke{Call: *a.Call, GrantID: a.GrantID, GrantEpoch: a.Epoch}
	id, to := a.ID, a.To
	ctx, cancel := context.WithTimeout(d.ctx, d.answerWithin(&m.Call))
	d.forwards[id] = cancel
	d.task(func() {
		defer cancel()
		ans := d.request(ctx, wire.SubjectForward(to), &m)
		if errors.Is(ctx.Err(), context.Canceled) && d.ctx.Err() == nil {
			d.send(wire.SubjectForwardCancel(to), &wire.Cancel{ID: id})
		}
		d.call(func() {
			delete(d.forwards, id)
			d.step(&zonesched.Event{Kind: zonesched.EvForwardDone, ID: id, Answer: ans})
		})
	})
}

// answerWithin is when a leader has surely answered a call that it was sent: it gives a silent node up some time after the end of the
// call's budget, and a call without one after the longest wait and the longest run. All zones are taken to be as patient as this one.
func (d *Daemon) answerWithin(inv *api.Invocation) time.Duration {
	most := 2 * api.MaxTimeout
	if inv.BudgetMs > 0 {
		most = time.Duration(inv.BudgetMs) * time.Millisecond
	}
	return most + d.cfg.Sched.DispatchGrace + answerGrace
}

// answerGrace is for the answer's way back.
const answerGrace = time.Second

// request sends a call to a leader and waits for its answer; every failure is an answer too.
func (d *Daemon) request(ctx context.Context, subject string, m *wire.Invoke) *wire.Answer {
	fail := func(err error, refused bool) *wire.Answer {
		return &wire.Answer{ID: m.Call.ID, Code: api.CodeOf(err), Message: err.Error(), Refused: refused, RetryMs: 100}
	}
	b, err := wire.Encode(m)
	if err != nil {
		return fail(err, true)
	}
	reply, err := d.deps.Bus.Request(ctx, subject, b)
	switch {
	case errors.Is(err, messaging.ErrNoResponders):
		return fail(errors.Join(api.ErrUnavailable, err), true)
	case errors.Is(err, context.DeadlineExceeded):
		return fail(api.CodeDeadline.Err("no answer in time"), false)
	case err != nil:
		return fail(errors.Join(api.ErrUnavailable, err), false)
	}
	ans := &wire.Answer{}
	if err := wire.Decode(reply, ans); err != nil {
		return fail(errors.Join(api.ErrUnavailable, err), false)
	}
	return ans
}

func (d *Daemon) sendDigest() {
	if !d.leads() {
		return
	}
	l := d.core.Load()
	d.digest++
	g := api.Digest{
		Zone: d.cfg.Zone, Tier: d.cfg.Sched.Tier, Region: d.cfg.Region, Epoch: d.core.Epoch(), Seq: d.digest,
		Slots: l.Slots, Busy: l.Busy, Queued: l.Queued, Delayed: l.Delayed,
		Policy: d.core.PolicyName(), Mode: d.core.Mode().String(), Guarded: d.core.Guard().Stopped, Distrusted: d.core.Trust().Lost, FallbackDecides: d.core.Resort().Fallback,
	}
	for _, f := range d.core.FunctionLoads(time.Now(), api.MaxDigestClasses) {
		g.Classes = append(g.Classes, api.ClassLoad{Class: f.Function, RatePerS: f.RatePerS, MeanMs: f.MeanMs})
	}
	d.send(wire.SubjectDigest, &g)
}

package zoned

import (
	"context"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/membership"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/asyncq"
)

// subscribe opens what leader and standbys alike hear.
func (d *Daemon) subscribe() ([]messaging.Subscription, error) {
	return d.open([]route{
		{wire.SubjectHeartbeat(d.cfg.Zone), d.onHeartbeat},
		{wire.SubjectSamples(d.cfg.Zone), d.learn.onBatch},
		{wire.SubjectGrants(d.cfg.Zone), d.onGrant},
		{wire.SubjectAllNodes(d.cfg.Zone, "hello"), d.onHello},
		{wire.SubjectAnnounce, d.catalog.onAnnounce},
	})
}

type route struct {
	subject string
	handle  messaging.Handler
}

func (d *Daemon) open(routes []route) ([]messaging.Subscription, error) {
	var subs []messaging.Subscription
	for _, r := range routes {
		s, err := d.deps.Bus.Subscribe(r.subject, "", r.handle)
		if err != nil {
			stopAll(subs, d.deps.Log)
			return nil, err
		}
		subs = append(subs, s)
	}
	return subs, nil
}

// decode reads a message or logs why not.
func decode[T any](d *Daemon, m *messaging.Msg) (*T, bool) {
	v := new(T)
	if err := wire.Decode(m.Data, v); err != nil {
		d.deps.Log.Warn("message refused", "zone", d.cfg.Zone, "subject", m.Subject, "err", err)
		return nil, false
	}
	return v, true
}

func (d *Daemon) onHeartbeat(m *messaging.Msg) {
	if hb, ok := decode[wire.Heartbeat](d, m); ok {
		d.post(zonesched.Event{Kind: zonesched.EvHeartbeat, Heartbeat: hb})
	}
}

func (d *Daemon) onDone(m *messaging.Msg) {
	if c, ok := decode[wire.Completion](d, m); ok {
		d.post(zonesched.Event{Kind: zonesched.EvCompletion, Completion: c})
	}
}

func (d *Daemon) onGrant(m *messaging.Msg) {
	if g, ok := decode[wire.Grant](d, m); ok {
		d.post(zonesched.Event{Kind: zonesched.EvGrant, Grant: g})
	}
}

// onHello: schedulers hear, as nodes do, who leads.
func (d *Daemon) onHello(m *messaging.Msg) {
	if h, ok := decode[wire.Hello](d, m); ok {
		d.deps.Elector.Heard(membership.Leadership{Leader: h.Leader, Epoch: h.Epoch, Since: h.Since})
	}
}

func (d *Daemon) onCancel(m *messaging.Msg) {
	if c, ok := decode[wire.Cancel](d, m); ok {
		d.call(func() {
			if c.Left {
				d.leave(c.ID)
			} else {
				d.cancelHere(c.ID, "canceled by its caller")
			}
		})
	}
}

// busEvery is how often a scheduler looks whether it still has its bus.
const busEvery = 200 * time.Millisecond

// elect takes part in elections for as long as the bus is there. Who lost it reaches neither nodes nor other doors, and would keep others
// from leading: nodes count as lost after zone.sched.node_timeout, and the lead goes with them.
func (d *Daemon) elect(ctx context.Context) {
	for {
		with, leave := context.WithCancel(ctx)
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			if d.await(with, d.cfg.Sched.NodeTimeout, false) {
				d.deps.Log.Warn("no bus: no part in the election until it is back", "zone", d.cfg.Zone)
				leave()
			}
		}()
		err := d.deps.Elector.Run(with, d.roleChanged)
		cut := with.Err() != nil && ctx.Err() == nil
		leave()
		<-watched
		if err != nil && ctx.Err() == nil && !cut {
			d.deps.Log.Error("election ended", "err", err)
		}
		if !cut || !d.await(ctx, 0, true) {
			return
		}
		d.deps.Log.Info("the bus is back", "zone", d.cfg.Zone)
	}
}

// await returns true once the bus has been there, or away, for a while, and false when ctx ends first.
func (d *Daemon) await(ctx context.Context, long time.Duration, there bool) bool {
	t := time.NewTicker(busEvery)
	defer t.Stop()
	since := time.Now()
	for {
		select {
		case now := <-t.C:
			if d.deps.Connected == nil || d.deps.Connected() != there {
				since = now
			}
			if now.Sub(since) > long {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

// roleChanged runs on the elector's goroutine.
func (d *Daemon) roleChanged(l membership.Leadership) {
	old := d.role.Load()
	if old.Leadership == l {
		return
	}
	d.deps.Log.Info("leadership", "zone", d.cfg.Zone, "leader", l.Leader, "epoch", l.Epoch.String(), "since", l.Since.String(), "mine", l.Mine)
	if l.Since == old.Since && l.Mine == old.Mine && !l.Since.IsZero() {
		if l.Mine {
			d.call(func() { d.leadOn(l.Epoch) })
		}
		d.role.Store(&role{Leadership: l, changed: old.changed})
		return
	}
	if old.Mine {
		d.call(func() { d.stepDown() })
	}
	if l.Mine {
		// The sample stream goes on where this learner stands once it has learned all that was published.
		seq := d.learn.drained()
		d.call(func() { d.lead(l.Epoch, seq) })
	}
	d.role.Store(&role{Leadership: l, changed: make(chan struct{})})
	close(old.changed)
	d.ready.Store(true)
}

// leadOn goes on leading under a higher epoch. Nothing that this scheduler works on is touched.
func (d *Daemon) leadOn(epoch api.Epoch) {
	if d.leads() {
		d.step(&zonesched.Event{Kind: zonesched.EvLead, Epoch: epoch})
	}
}

// lead begins to schedule under epoch.
func (d *Daemon) lead(epoch api.Epoch, seq uint64) {
	if d.ending {
		return
	}
	d.next, d.batch = seq, nil
	d.vain.clear() // what a lost lead had begun is not what it counts
	subs, err := d.open([]route{
		{wire.SubjectDone(d.cfg.Zone), d.onDone},
		{wire.SubjectLeader(d.cfg.Zone, "invoke"), d.onInvoke},
		{wire.SubjectLeader(d.cfg.Zone, "cancel"), d.onCancel},
		{wire.SubjectLeader(d.cfg.Zone, "query"), d.onQuery},
		{wire.SubjectLeader(d.cfg.Zone, "checkpoint"), d.learn.onCheckpoint},
		{wire.SubjectForward(d.cfg.Zone), d.onInvoke},
		{wire.SubjectForwardCancel(d.cfg.Zone), d.onCancel},
	})
	if err != nil {
		d.deps.Log.Error("leader cannot subscribe", "zone", d.cfg.Zone, "err", err)
		return
	}
	d.forSubs = subs
	ctx, cancel := context.WithCancel(d.ctx)
	d.leadEnd, d.began = cancel, epoch
	d.step(&zonesched.Event{Kind: zonesched.EvLead, Epoch: epoch})
	d.step(&zonesched.Event{Kind: zonesched.EvShares, Shares: d.shares})
	if d.deps.Async != nil {
		taking, cancel := context.WithCancel(ctx)
		d.takeNoMore = cancel
		d.task(func() { d.deps.Async.Serve(taking, func(it *asyncq.Item) { d.runAsync(ctx, it) }) })
	}
	d.task(func() { d.learn.offer(ctx) })
	d.task(func() { d.learn.pace(ctx) })
}

// unlead stops hearing what only leaders hear.
func (d *Daemon) unlead() {
	stopAll(d.forSubs, d.deps.Log)
	d.forSubs = nil
	if d.leadEnd != nil {
		d.leadEnd() // and the taking of asynchronous calls with it
		d.leadEnd, d.takeNoMore = nil, nil
	}
}

// stepDown ends leadership: callers get a typed answer, and the core begins anew as a standby's.
func (d *Daemon) stepDown() {
	d.abandon("the zone's leader was replaced")
	core, err := zonesched.New(d.cfg.Sched)
	if err != nil { // the same config made the first one
		d.deps.Log.Error("new core", "err", err)
		return
	}
	d.core, d.wakes, d.batch, d.idem, d.joined = core, wakes{}, nil, map[string]string{}, map[string]string{}
	d.catalog.replay()
	d.ahead = nil
	d.apply()
	if f := d.learn.forest.Load(); f != nil {
		d.step(&zonesched.Event{Kind: zonesched.EvModel, Predictor: f.Estimator(d.learn.scratch)})
	}
}

// onQuery answers what other doors of the zone want to see of the leader.
func (d *Daemon) onQuery(m *messaging.Msg) {
	if m.Reply == "" {
		return
	}
	reply := m.Reply
	q, ok := decode[wire.Query](d, m)
	if !ok {
		return
	}
	d.task(func() {
		b, err := d.queryHere(d.ctx, q.Kind, q.Arg)
		d.send(reply, wire.NewQueryReply(q, b, err))
	})
}

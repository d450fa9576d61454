// Package zoned is the shell of a zone's scheduler: it gives zonesched's core one goroutine, brings it calls, nodes'
// messages, models, the catalogue and time, and carries its actions out. It takes part in the zone's election: the
// leader schedules, standbys hear the same heartbeats and samples so that a take-over starts warm. It decides nothing
// about calls. Run owns every goroutine and returns when all have ended.
package zoned

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/membership"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/objectstore"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/asyncq"
)

// Config of one zone scheduler.
type Config struct {
	Zone   string `koanf:"zone" doc:"name of the zone"`
	Tier   string `koanf:"tier" doc:"edge or core"`
	Region string `koanf:"region" doc:"region of the zone"`
	// Name tells this scheduler from its standbys.
	Name string `koanf:"name" doc:"name of this scheduler, unique in its zone"`
	// Dir keeps the copy of the catalogue, so that the zone restarts without the coordinator.
	Dir   string           `koanf:"dir" doc:"folder for the copy of the catalogue"`
	Sched zonesched.Config `koanf:"scheduler"`
	// SampleFlush is the longest time that a sample waits for company.
	SampleFlush time.Duration `koanf:"sample_flush" doc:"longest time that a sample waits to be published"`
	// ModelEvery is the interval at which the leader offers trees to the coordinator.
	ModelEvery time.Duration `koanf:"model_every" doc:"interval at which new trees are offered to the coordinator"`
	// DigestEvery is the interval of digests to the coordinator.
	DigestEvery time.Duration `koanf:"digest_every" doc:"interval of load digests to the coordinator"`
	// CatalogEvery is the interval at which the catalogue is asked for when no announcement came.
	CatalogEvery time.Duration `koanf:"catalog_every" doc:"interval at which the catalogue is asked for"`
	// DrainTimeout bounds the wait for running calls when stopping.
	DrainTimeout time.Duration `koanf:"drain_timeout" doc:"longest wait for running calls when stopping"`
	// AsyncGiveUp is how long an asynchronous call is tried at least of which nothing comes back, before it ends as unavailable.
	AsyncGiveUp time.Duration `koanf:"async_give_up" doc:"how long an asynchronous call is tried at least that nodes do not bring back"`
}

// DefaultConfig has everything but names and folder.
func DefaultConfig() Config {
	return Config{
		Tier: "core", Region: "local", Sched: zonesched.DefaultConfig(), SampleFlush: 50 * time.Millisecond,
		ModelEvery: 30 * time.Second, DigestEvery: time.Second, CatalogEvery: 5 * time.Second, DrainTimeout: 20 * time.Second, AsyncGiveUp: 15 * time.Minute,
	}
}

// Validate reports all faults.
func (c Config) Validate() error {
	_, tierErr := api.ParseTier(c.Tier)
	errs := []error{api.CheckName("zone", c.Zone), api.CheckName("name", c.Name), api.CheckName("region", c.Region), tierErr, c.Sched.Validate()}
	if c.Dir == "" {
		errs = append(errs, fmt.Errorf("%w: dir: want a folder for the scheduler's state", api.ErrInvalid))
	}
	for name, d := range map[string]time.Duration{"sample_flush": c.SampleFlush, "model_every": c.ModelEvery, "digest_every": c.DigestEvery, "catalog_every": c.CatalogEvery, "async_give_up": c.AsyncGiveUp} {
		if d < time.Millisecond {
			errs = append(errs, fmt.Errorf("%w: %s %v: want at least 1ms", api.ErrInvalid, name, d))
		}
	}
	if c.DrainTimeout < 0 {
		errs = append(errs, fmt.Errorf("%w: drain_timeout %v: want at least 0", api.ErrInvalid, c.DrainTimeout))
	}
	return errors.Join(errs...)
}

// Deps are the technologies that a scheduler stands on.
type Deps struct {
	Bus     messaging.Bus
	Store   objectstore.Store // trees and checkpoints of the model
	Elector membership.Elector
	// Connected reports whether Bus reaches anybody; nil: it always does.
	Connected func() bool
	// Async keeps asynchronous calls; nil refuses them.
	Async *asyncq.Queue
	Log   *slog.Logger
	// Tap, if set, sees every step of the leading core on its goroutine: for recording and replaying.
	Tap func(now time.Time, ev *zonesched.Event, acts []zonesched.Action)
}

const (
	mailboxSize = 8192
	tickEvery   = 250 * time.Millisecond
	flushEvery  = 20 * time.Millisecond // acknowledgements to nodes
	maxWaiters  = 64                    // callers joined to one call
)

// mail is one thing for the loop to do: an event for the core, or a function with the daemon's state.
type mail struct {
	ev zonesched.Event
	do func()
}

// Daemon runs one scheduler.
type Daemon struct {
	cfg   Config
	deps  Deps
	mail  chan mail
	ctx   context.Context // ends when everything must stop
	stop  context.CancelFunc
	tasks sync.WaitGroup

	role    atomic.Pointer[role]
	learn   *learning
	catalog *catalogCopy
	known   atomic.Pointer[map[string]api.Function] // for doors, by "tenant/name"
	ready   atomic.Bool
	// leaving: Retire was called. draining: no more calls are taken, those that are worked on go on.
	leaving, draining atomic.Bool
	vain              tries // asynchronous calls that may have run, and nothing came back
	figures           atomic.Pointer[Figures]
	logging           chan struct{} // holds one for each request for logs that is worked on

	// Owned by the loop.
	core    *zonesched.Zone
	acts    []zonesched.Action
	wakes   wakes
	waiters map[string]*pending
	// forwards are the calls that another zone works on; each entry ends the wait for it.
	forwards map[string]context.CancelFunc
	idem     map[string]string     // idempotency key -> id of the call in flight
	joined   map[string]string     // id of a caller with the same key -> the same
	done     *answers              // of finished calls with an idempotency key
	looked   map[*asyncq.Item]bool // whose record is being looked up (asyncq.Config.MaxRunning); true: canceled meanwhile
	acks     map[string][]string
	ackers   []string // keys of acks in order of first use
	batch    []wire.Record
	next     uint64 // sequence of batch[0]
	since    time.Time
	began    api.Epoch // under which this scheduler began to lead
	forSubs  []messaging.Subscription
	leadEnd  context.CancelFunc
	// ending: Run's context has ended. old are the calls of before that are still worked on.
	ending bool
	old    map[string]struct{}
	// takeNoMore ends the taking of asynchronous calls, those that are worked on go on.
	takeNoMore context.CancelFunc
	digest     uint64
	shares     []api.Share
	// The operator's settings: as the catalogue had them at a revision, and over these what is in force ahead of it, by key.
	committed settings
	settled   uint64
	ahead     map[string]*setting
}

// role is who leads, as this scheduler sees it.
type role struct {
	membership.Leadership
	changed chan struct{} // closed when another leads; not when the leader goes on under a higher epoch
}

// nobody leads, as far as is known. A leader of whom only the epoch is known is asked by the zone's subject like any other.
func (r *role) nobody() bool { return r.Leader == "" && r.Epoch.IsZero() }

// New prepares a scheduler; Run starts it.
func New(cfg Config, deps Deps) (*Daemon, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("zoned config: %w", err)
	}
	d := &Daemon{
		cfg: cfg, deps: deps, mail: make(chan mail, mailboxSize), waiters: map[string]*pending{}, forwards: map[string]context.CancelFunc{}, idem: map[string]string{},
		done: newAnswers(), looked: map[*asyncq.Item]bool{}, acks: map[string][]string{}, old: map[string]struct{}{}, joined: map[string]string{}, logging: make(chan struct{}, logRequests),
	}
	d.cfg.Sched.Zone, d.cfg.Sched.Region = cfg.Zone, cfg.Region
	d.cfg.Sched.Tier, _ = api.ParseTier(cfg.Tier)
	d.role.Store(&role{changed: make(chan struct{})})
	d.known.Store(&map[string]api.Function{})
	d.ctx, d.stop = context.WithCancel(context.Background())
	var err error
	if d.core, err = zonesched.New(d.cfg.Sched); err != nil {
		return nil, err
	}
	if d.learn, err = newLearning(d); err != nil {
		return nil, err
	}
	d.catalog = newCatalogCopy(d)
	return d, nil
}

// Run serves until ctx ends; then it takes no more calls, finishes the accepted ones (DrainTimeout), resigns and ends.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.tasks.Wait()
	defer d.stop()
	if err := d.catalog.load(); err != nil {
		return err
	}
	subs, err := d.subscribe()
	if err != nil {
		return err
	}
	defer stopAll(subs, d.deps.Log)
	electCtx, resign := context.WithCancel(d.ctx)
	defer resign()
	d.task(func() { d.elect(electCtx) })
	d.task(d.learn.run)
	d.task(d.catalog.run)
	d.loop(ctx)
	return nil
}

// Retire makes Ready an error from now on, ahead of the end: whoever sends calls by it is to look for another door. Calls that come
// all the same are served.
func (d *Daemon) Retire() { d.leaving.Store(true) }

// age makes all calls that are worked on those of before.
func (d *Daemon) age() {
	for id := range d.waiters {
		d.old[id] = struct{}{}
	}
}

// refuseFor is how long a leader that ends refuses other doors' calls: once those that it had are done, for as long as it takes to be done
// with what came meanwhile, and at last before its time is up. What takes longer it waits for while it takes calls again: while it refuses
// nobody else can lead, and doors do not look for a leader for much longer (maxLeaderTries).
const refuseFor = maxLeaderTries * leaderPause / 2

// takes reports whether calls are taken at this scheduler's door.
func (d *Daemon) takes() bool { return d.ready.Load() && !d.draining.Load() }

// Kill ends the scheduler at once, as a crash would: nothing is drained and nobody told. For chaos tests.
func (d *Daemon) Kill() { d.stop() }

func (d *Daemon) loop(ctx context.Context) {
	tick := time.NewTicker(tickEvery)
	flush := time.NewTicker(flushEvery)
	digest := time.NewTicker(d.cfg.DigestEvery)
	timer := time.NewTimer(time.Hour)
	defer func() { tick.Stop(); flush.Stop(); digest.Stop(); timer.Stop() }()
	done := ctx.Done()
	var give, refuse <-chan time.Time
	again, last := time.NewTimer(time.Hour), false
	defer again.Stop()
	for {
		timer.Reset(d.wakes.wait(time.Now()))
		select {
		case m := <-d.mail:
			if m.do != nil {
				m.do()
			} else {
				d.step(&m.ev)
			}
		case <-timer.C:
			d.fire()
		case <-tick.C:
			d.step(&zonesched.Event{Kind: zonesched.EvTick})
			if d.leads() {
				d.figures.Store(&Figures{Counters: d.core.Counters(), Load: d.core.Load(), Guard: d.core.Guard(), Trust: d.core.Trust(), Resort: d.core.Resort()})
			}
		case <-flush.C:
			d.flush(false)
		case <-digest.C:
			d.sendDigest()
		case <-done:
			done = nil
			d.ending = true
			if d.takeNoMore != nil {
				d.takeNoMore()
			}
			d.age()
			t, u := time.NewTimer(d.cfg.DrainTimeout), time.NewTimer(d.cfg.DrainTimeout-min(refuseFor, d.cfg.DrainTimeout/2))
			defer t.Stop()
			defer u.Stop()
			give, refuse = t.C, u.C
		case <-refuse:
			last = true
			d.draining.Store(true)
		case <-again.C:
			if !last { // what came meanwhile takes longer than that
				d.draining.Store(false)
				d.age()
			}
		case <-give:
			d.deps.Log.Warn("scheduler stops with calls unanswered", "zone", d.cfg.Zone, "calls", len(d.waiters))
			d.abandon("the scheduler stopped")
			return
		case <-d.ctx.Done():
			d.abandon("the scheduler stopped")
			return
		}
		if d.ending && len(d.old) == 0 && !d.draining.Load() {
			d.draining.Store(true)
			again.Reset(refuseFor)
		}
		if d.draining.Load() && d.core.Quiet() && len(d.waiters) == 0 {
			d.flush(true)
			d.unlead()
			return
		}
	}
}

func (d *Daemon) leads() bool { return !d.core.Epoch().IsZero() }

// step gives the core one event and carries out what it wants.
func (d *Daemon) step(ev *zonesched.Event) {
	now := time.Now()
	d.acts = d.core.Step(now, ev, d.acts[:0])
	if d.deps.Tap != nil {
		d.deps.Tap(now, ev, d.acts)
	}
	for i := range d.acts {
		d.carryOut(now, &d.acts[i])
	}
	clear(d.acts)
}

// post brings an event to the loop. It waits when the mailbox is full (the loop empties it in microseconds) and gives
// up only when the daemon ends.
func (d *Daemon) post(ev zonesched.Event) { d.put(mail{ev: ev}) }

// call runs f on the loop.
func (d *Daemon) call(f func()) bool { return d.put(mail{do: f}) }

func (d *Daemon) put(m mail) bool {
	select {
	case d.mail <- m:
		return true
	case <-d.ctx.Done():
		return false
	}
}

// view runs f on the loop and waits for it.
func (d *Daemon) view(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	if !d.call(func() { f(); close(ran) }) {
		return fmt.Errorf("%w: the scheduler has stopped", api.ErrUnavailable)
	}
	select {
	case <-ran:
		return nil
	case <-d.ctx.Done():
		return fmt.Errorf("%w: the scheduler has stopped", api.ErrUnavailable)
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", api.ErrDeadline, ctx.Err())
	}
}

// task runs f on a goroutine that Run waits for.
func (d *Daemon) task(f func()) {
	d.tasks.Add(1)
	go func() { defer d.tasks.Done(); f() }()
}

// Ready reports why the scheduler cannot serve calls now, nil when it can.
func (d *Daemon) Ready() error {
	if !d.takes() || d.leaving.Load() {
		return fmt.Errorf("%w: not serving (starting or stopping)", api.ErrUnavailable)
	}
	if r := d.role.Load(); r.nobody() {
		return fmt.Errorf("%w: zone %s has no leader", api.ErrUnavailable, d.cfg.Zone)
	}
	return nil
}

// Leader tells who leads the zone and whether it is this scheduler.
func (d *Daemon) Leader() (name string, epoch api.Epoch, mine bool) {
	r := d.role.Load()
	return r.Leader, r.Epoch, r.Mine
}

// Zone is the zone's name.
func (d *Daemon) Zone() string { return d.cfg.Zone }

// Model is the learner's state: its stream position, digest and statistics.
func (d *Daemon) Model() ModelView { return d.learn.view() }

// Forest is the model in use; nil before the first.
func (d *Daemon) Forest() *learner.Forest { return d.learn.forest.Load() }

// Figures are the core's counters and load, as of the last tick.
type Figures struct {
	zonesched.Counters
	zonesched.Load
	Guard  zonesched.GuardView
	Trust  zonesched.TrustView
	Resort zonesched.ResortView
}

// Figures returns them; zeros before the first tick.
func (d *Daemon) Figures() Figures {
	if f := d.figures.Load(); f != nil {
		return *f
	}
	return Figures{}
}

// ModelStats are the learner's, as of the last published forest.
func (d *Daemon) ModelStats() learner.Stats {
	if s := d.learn.stats.Load(); s != nil {
		return *s
	}
	return learner.Stats{}
}

func stopAll(subs []messaging.Subscription, log *slog.Logger) {
	for _, s := range subs {
		if err := s.Stop(); err != nil && !errors.Is(err, messaging.ErrClosed) {
			log.Debug("stop subscription", "err", err)
		}
	}
}

// Package globald is the shell of a coordinator replica: it opens the replicated log, gives the planner core one
// goroutine, and, while its replica leads, answers the zones' wishes and carries the planner's out: committing the
// table of shares, merging the zones' trees and committing the pool's manifest. It is off the invocation path: no
// message of a single call comes here. Run owns every goroutine and returns when all have ended.
package globald

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/coordinator"
	"github.com/rubato-faas/rubato/coordinator/catalog"
	"github.com/rubato-faas/rubato/coordinator/raftlog"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/objectstore"
)

// Config of one coordinator replica.
type Config struct {
	Raft    raftlog.Config
	Planner coordinator.Config
	// PoolLimit is how many trees the pool keeps.
	PoolLimit int
	// AnnounceEvery is the interval at which the leader repeats what is in force, for zones that missed it.
	AnnounceEvery time.Duration
}

// DefaultConfig has everything but the replica's identity.
func DefaultConfig() Config {
	return Config{Raft: raftlog.DefaultConfig(), Planner: coordinator.DefaultConfig(), PoolLimit: 128, AnnounceEvery: 2 * time.Second}
}

// Validate reports all faults.
func (c *Config) Validate() error {
	errs := []error{c.Raft.Validate(), c.Planner.Validate()}
	if c.PoolLimit < 1 || c.PoolLimit > 256 {
		errs = append(errs, fmt.Errorf("%w: pool limit %d: want 1-256", api.ErrInvalid, c.PoolLimit))
	}
	if c.AnnounceEvery < 10*time.Millisecond {
		errs = append(errs, fmt.Errorf("%w: announce every %v: want at least 10ms", api.ErrInvalid, c.AnnounceEvery))
	}
	return errors.Join(errs...)
}

// Deps are the technologies that a coordinator stands on.
type Deps struct {
	Bus   messaging.Bus
	Store objectstore.Store // trees, scorecards and manifests
	Raft  raftlog.Deps
	Log   *slog.Logger
	// Merging, if set, is called in the middle of a merge, when the next manifest is stored under its digest and not
	// committed yet: for chaos tests.
	Merging func(digest string)
}

// Limits.
const (
	mailboxSize    = 1024
	requestTimeout = 10 * time.Second
	mergeTimeout   = 20 * time.Second
)

// Daemon runs one replica.
type Daemon struct {
	cfg   Config
	deps  Deps
	log   *raftlog.Log
	core  *coordinator.Planner
	mail  chan func()
	ctx   context.Context
	stop  context.CancelFunc
	tasks sync.WaitGroup

	// Owned by the loop.
	leads    bool
	leadSubs []messaging.Subscription
	known    map[string]bool // zones of the catalogue
	adding   map[string]bool
	acts     []coordinator.Action
	wake     *time.Timer
	seq      uint64
	merges   uint64
}

// New opens the log; Run starts the replica.
func New(cfg Config, deps Deps) (*Daemon, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("globald config: %w", err)
	}
	core, err := coordinator.New(cfg.Planner)
	if err != nil {
		return nil, err
	}
	d := &Daemon{
		cfg: cfg, deps: deps, core: core, mail: make(chan func(), mailboxSize), known: map[string]bool{}, adding: map[string]bool{},
		wake: time.NewTimer(time.Hour),
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	deps.Raft.Log = deps.Log
	deps.Raft.LeaderChanged = func(leader string, mine bool) {
		deps.Log.Info("coordinator leadership", "replica", cfg.Raft.ID, "leader", leader, "mine", mine)
		d.call(func() { d.lead(mine) })
	}
	if d.log, err = raftlog.Open(cfg.Raft, deps.Raft); err != nil {
		d.stop()
		return nil, err
	}
	return d, nil
}

// Run serves until ctx ends, then hands leadership over and closes the log.
func (d *Daemon) Run(ctx context.Context) error {
	subs, err := d.open(map[string]messaging.Handler{wire.SubjectDigest: d.onDigest, wire.SubjectUpdate: d.onUpdate})
	if err != nil {
		return errors.Join(err, d.close())
	}
	announce := time.NewTicker(d.cfg.AnnounceEvery)
	defer announce.Stop()
	for running := true; running; {
		select {
		case f := <-d.mail:
			f()
		case <-d.wake.C:
			d.step(&coordinator.Event{Kind: coordinator.Tick})
		case <-d.log.Applied():
			d.catalogChanged()
		case <-announce.C:
			d.announce()
		case <-ctx.Done():
			running = false
		case <-d.ctx.Done():
			running = false
		}
	}
	d.closeSubs(subs)
	d.closeSubs(d.leadSubs)
	err = d.close()
	d.tasks.Wait()
	return err
}

// Kill ends the replica at once, without handing leadership over. For chaos tests.
func (d *Daemon) Kill() { d.stop() }

// close hands leadership over, unless the replica was killed, and ends what still runs.
func (d *Daemon) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	if _, mine := d.log.Leader(); mine && d.ctx.Err() == nil {
		if err := d.log.TransferLeadership(ctx); err != nil {
			d.deps.Log.Debug("leadership not transferred", "err", err)
		}
	}
	d.stop()
	return d.log.Close(ctx)
}

// Leads reports whether this replica leads, as far as it knows.
func (d *Daemon) Leads() bool { _, mine := d.log.Leader(); return mine }

// ID is the replica's name.
func (d *Daemon) ID() string { return d.cfg.Raft.ID }

// Log is the replicated log, for tests and operators' tools.
func (d *Daemon) Log() *raftlog.Log { return d.log }

// Ready reports why the replica cannot serve, nil when it follows or leads.
func (d *Daemon) Ready() error {
	if leader, _ := d.log.Leader(); leader == "" {
		return fmt.Errorf("%w: the coordinator has no leader", api.ErrUnavailable)
	}
	return nil
}

func (d *Daemon) call(f func()) bool {
	select {
	case d.mail <- f:
		return true
	case <-d.ctx.Done():
		return false
	}
}

func (d *Daemon) task(f func()) {
	d.tasks.Add(1)
	go func() { defer d.tasks.Done(); f() }()
}

func (d *Daemon) open(routes map[string]messaging.Handler) ([]messaging.Subscription, error) {
	var subs []messaging.Subscription
	for subject, h := range routes {
		s, err := d.deps.Bus.Subscribe(subject, "", h)
		if err != nil {
			d.closeSubs(subs)
			return nil, fmt.Errorf("globald subscribe %s: %w", subject, err)
		}
		subs = append(subs, s)
	}
	return subs, nil
}

func (d *Daemon) closeSubs(subs []messaging.Subscription) {
	for _, s := range subs {
		if err := s.Stop(); err != nil && !errors.Is(err, messaging.ErrClosed) {
			d.deps.Log.Debug("stop subscription", "err", err)
		}
	}
}

// lead begins or ends answering the zones.
func (d *Daemon) lead(mine bool) {
	if mine == d.leads {
		return
	}
	d.leads = mine
	d.closeSubs(d.leadSubs)
	d.leadSubs = nil
	if mine {
		subs, err := d.open(map[string]messaging.Handler{
			wire.SubjectControl: d.onControl, wire.SubjectCatalog: d.onCatalog, wire.SubjectStatus: d.onStatus,
		})
		if err != nil {
			d.deps.Log.Error("coordinator leader cannot subscribe", "err", err)
		}
		d.leadSubs = subs
	}
	d.catalogChanged()
	d.step(&coordinator.Event{Kind: coordinator.LeaderChanged, Leading: mine})
}

func (d *Daemon) step(ev *coordinator.Event) {
	d.acts = d.core.Step(time.Now(), ev, d.acts[:0])
	for i := range d.acts {
		d.carryOut(d.acts[i])
	}
	clear(d.acts)
}

func (d *Daemon) carryOut(a coordinator.Action) {
	switch a.Kind {
	case coordinator.Wake:
		d.wake.Reset(a.After)
	case coordinator.ProposeShares:
		d.commit(catalog.Command{Kind: catalog.PutShares, Shares: a.Shares}, nil)
	case coordinator.Merge:
		d.task(func() {
			err := d.merge(a.Updates)
			if err != nil && d.ctx.Err() == nil {
				d.deps.Log.Warn("merge", "replica", d.cfg.Raft.ID, "err", err)
			}
			d.call(func() {
				if err == nil {
					d.merges++
				}
				d.step(&coordinator.Event{Kind: coordinator.MergeDone, MergeID: a.MergeID, OK: err == nil})
			})
		})
	}
}

// commit proposes beside the loop; what came of it comes back as a change of the catalogue. then, if given, runs on the
// loop afterwards, whatever came of it.
func (d *Daemon) commit(cmd catalog.Command, then func()) {
	d.task(func() {
		ctx, cancel := context.WithTimeout(d.ctx, requestTimeout)
		defer cancel()
		if r, err := d.log.Apply(ctx, cmd); err != nil || r.Code != api.CodeOK {
			d.deps.Log.Debug("not committed", "command", cmd.String(), "code", r.Code, "message", r.Message, "err", err)
		}
		if then != nil {
			d.call(then)
		}
	})
}

// catalogChanged tells the planner and the zones what is in force now.
func (d *Daemon) catalogChanged() {
	var zones []string
	var shares []api.Share
	if err := d.log.ReadStale(func(c *catalog.Catalog) {
		for _, z := range c.Zones() {
			zones = append(zones, z.Name)
		}
		shares = c.Shares()
	}); err != nil {
		d.deps.Log.Error("catalogue unreadable", "replica", d.cfg.Raft.ID, "err", err)
		return
	}
	clear(d.known)
	for _, z := range zones {
		d.known[z] = true
	}
	d.step(&coordinator.Event{Kind: coordinator.ZonesChanged, Zones: zones})
	d.step(&coordinator.Event{Kind: coordinator.SharesChanged, Shares: shares})
	d.announce()
}

// announce tells all zones what is in force; they pull what they lack.
func (d *Daemon) announce() {
	if !d.leads {
		return
	}
	d.seq++
	a := wire.Announce{CoordinatorSeq: d.seq}
	if err := d.log.ReadStale(func(c *catalog.Catalog) {
		a.CatalogRev, a.Shares = c.Revision(), c.Shares()
		if p := c.Pool(); p != nil {
			a.PoolVersion, a.PoolDigest = p.Version, p.Digest
		}
	}); err == nil {
		d.send(wire.SubjectAnnounce, &a)
	}
}

func (d *Daemon) send(subject string, v any) {
	b, err := wire.Encode(v)
	if err == nil {
		err = d.deps.Bus.Publish(subject, b)
	}
	if err != nil && d.ctx.Err() == nil {
		d.deps.Log.Warn("send", "subject", subject, "err", err)
	}
}

// Package noded is the shell of a node: it gives nodeagent's core one goroutine, brings it what happens (dispatches
// from the bus, ends of fetches, starts and runs, time) and carries its actions out (fetching objects over a limited
// link, starting and running sandboxes, reporting). It decides nothing. One Daemon per node; Run owns every goroutine
// and returns when all have ended.
package noded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/nodeagent"
	"github.com/rubato-faas/rubato/objectstore"
	"github.com/rubato-faas/rubato/sandbox"
)

// Config of one node daemon.
type Config struct {
	Zone string `koanf:"zone" doc:"zone that the node belongs to"`
	Name string `koanf:"name" doc:"name of the node, unique in its zone"`
	// Dir holds the epoch, cached objects, artifacts and sandboxes.
	Dir string `koanf:"dir" doc:"folder for the epoch, caches and sandboxes"`
	// Heartbeat is the interval of reports.
	Heartbeat time.Duration    `koanf:"heartbeat" doc:"interval of reports to the zone"`
	Node      nodeagent.Config `koanf:"node"`
	// FetchTimeout bounds one fetch of an object or artifact.
	FetchTimeout time.Duration `koanf:"fetch_timeout" doc:"longest fetch of one object or artifact"`
	// DrainTimeout bounds how long Run waits for running calls once its context has ended.
	DrainTimeout time.Duration `koanf:"drain_timeout" doc:"longest wait for running calls when stopping"`
}

// DefaultConfig has everything but names and folder.
func DefaultConfig() Config {
	node := nodeagent.DefaultConfig()
	node.Arch = runtime.GOARCH
	return Config{Heartbeat: 500 * time.Millisecond, Node: node, FetchTimeout: 2 * time.Minute, DrainTimeout: 20 * time.Second}
}

// Validate reports all faults.
func (c Config) Validate() error {
	errs := []error{api.CheckName("zone", c.Zone), api.CheckName("name", c.Name), c.Node.Validate()}
	if c.Dir == "" {
		errs = append(errs, fmt.Errorf("%w: dir: want a folder for the node's state", api.ErrInvalid))
	}
	if c.Heartbeat < 10*time.Millisecond || c.Heartbeat > time.Minute {
		errs = append(errs, fmt.Errorf("%w: heartbeat %v: want 10ms-1m", api.ErrInvalid, c.Heartbeat))
	}
	if c.FetchTimeout <= 0 || c.DrainTimeout < 0 {
		errs = append(errs, fmt.Errorf("%w: fetch_timeout and drain_timeout: want positive durations", api.ErrInvalid))
	}
	return errors.Join(errs...)
}

// Deps are the technologies that a node stands on.
type Deps struct {
	Bus   messaging.Bus
	Store objectstore.Store // inputs, artifacts, payloads
	// Results takes results above api.InlineBytes; it drops them by their age.
	Results  objectstore.Store
	Runtimes map[api.Runtime]sandbox.Runtime
	Log      *slog.Logger
}

// mailboxSize bounds events on their way to the core. Senders wait when it is full: the core never blocks, so it
// empties in microseconds.
const mailboxSize = 4096

// Daemon runs one node.
type Daemon struct {
	cfg   Config
	deps  Deps
	core  *nodeagent.Node
	mail  chan nodeagent.Event
	link  *rate.Limiter
	logs  *logbook
	tasks sync.WaitGroup // fetches, starts, runs

	serving atomic.Bool     // Run takes calls
	ctx     context.Context // ends when the daemon must stop at once
	cancel  context.CancelFunc

	// Owned by the loop.
	boxes   map[uint64]*box
	cancels map[string]context.CancelCauseFunc
	acts    []nodeagent.Action
	timers  map[string]*time.Timer
	failed  error // why the daemon stopped itself

	view chan func(*nodeagent.Node)
}

// box is a sandbox as the shell knows it.
type box struct {
	sb     sandbox.Sandbox
	closed bool // asked to close before it was up
}

// New prepares a daemon: folders, the persisted epoch, the core. Run starts it.
func New(cfg Config, deps Deps) (*Daemon, error) {
	cfg.Node.Zone, cfg.Node.Name = cfg.Zone, cfg.Name
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("noded config: %w", err)
	}
	// Caches are soft state: a node starts cold, so that nothing half-written is ever used.
	for _, d := range []string{"objects", "artifacts"} {
		if err := os.RemoveAll(filepath.Join(cfg.Dir, d)); err != nil {
			return nil, fmt.Errorf("noded clear %s: %w", d, err)
		}
		if err := os.MkdirAll(filepath.Join(cfg.Dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("noded make %s: %w", d, err)
		}
	}
	epoch, err := loadEpoch(filepath.Join(cfg.Dir, epochFile))
	if err != nil {
		return nil, err
	}
	core, err := nodeagent.New(cfg.Node, uint64(time.Now().UnixNano()), epoch)
	if err != nil {
		return nil, err
	}
	d := &Daemon{
		cfg: cfg, deps: deps, core: core, mail: make(chan nodeagent.Event, mailboxSize), logs: newLogbook(),
		boxes: map[uint64]*box{}, cancels: map[string]context.CancelCauseFunc{}, timers: map[string]*time.Timer{},
		view: make(chan func(*nodeagent.Node)),
	}
	if cfg.Node.LinkMbps > 0 {
		d.link = rate.NewLimiter(rate.Limit(cfg.Node.LinkMbps*1e6/8), linkChunk)
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d, nil
}

// Run serves until ctx ends; then it refuses new calls, finishes running ones (DrainTimeout), hands over their
// completions and closes its sandboxes.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.cancel()
	subs, err := d.subscribe()
	if err != nil {
		return err
	}
	beat := time.NewTicker(d.cfg.Heartbeat)
	defer beat.Stop()
	d.step(nodeagent.Event{Kind: nodeagent.EvTick})
	d.serving.Store(true)
	defer d.serving.Store(false)
	d.deps.Log.Info("node up", "zone", d.cfg.Zone, "node", d.cfg.Name, "slots", d.cfg.Node.Slots)
	done := ctx.Done()
	var give <-chan time.Time
	for {
		select {
		case ev := <-d.mail:
			d.step(ev)
		case <-beat.C:
			d.step(nodeagent.Event{Kind: nodeagent.EvTick})
		case f := <-d.view:
			f(d.core)
		case <-done:
			done = nil
			d.serving.Store(false)
			d.step(nodeagent.Event{Kind: nodeagent.EvDrain})
			t := time.NewTimer(d.cfg.DrainTimeout)
			defer t.Stop()
			give = t.C
		case <-d.ctx.Done(): // killed, or the epoch could not be kept
			d.shutdown(subs)
			return d.failed
		case <-give:
			d.deps.Log.Warn("node stops with calls unfinished", "node", d.cfg.Name, "running", d.core.InUse())
			d.shutdown(subs)
			return nil
		}
		if done == nil && d.core.Idle() {
			d.shutdown(subs)
			return d.failed // when it could not keep the epoch while it drained
		}
	}
}

// Ready is nil while Run takes calls: not before, and not once it drains.
func (d *Daemon) Ready() error {
	if !d.serving.Load() {
		return fmt.Errorf("%w: not serving (starting or stopping)", api.ErrUnavailable)
	}
	return nil
}

// Kill ends the daemon at once, as a crash would: no drain, no farewell. For chaos tests.
func (d *Daemon) Kill() { d.cancel() }

func (d *Daemon) shutdown(subs []messaging.Subscription) {
	for _, s := range subs {
		if err := s.Stop(); err != nil {
			d.deps.Log.Debug("stop subscription", "err", err)
		}
	}
	d.cancel()
	for _, c := range d.cancels {
		c(api.ErrCanceled)
	}
	for _, t := range d.timers {
		t.Stop()
	}
	idle := make(chan struct{})
	go func() { d.tasks.Wait(); close(idle) }()
	for waiting := true; waiting; {
		select {
		case <-d.mail: // tasks that end now find nobody who cares
		case <-idle:
			waiting = false
		}
	}
	for _, b := range d.boxes {
		if b.sb != nil {
			d.closeBox(b.sb)
		}
	}
}

func (d *Daemon) closeBox(sb sandbox.Sandbox) {
	if err := sb.Close(); err != nil {
		d.deps.Log.Warn("close sandbox", "node", d.cfg.Name, "err", err)
	}
}

// View runs f with the core on the daemon's goroutine (for tests and metrics). It returns false when the daemon ended.
func (d *Daemon) View(f func(*nodeagent.Node)) bool {
	ran := make(chan struct{})
	select {
	case d.view <- func(n *nodeagent.Node) { f(n); close(ran) }:
		<-ran
		return true
	case <-d.ctx.Done():
		return false
	}
}

// post brings an event to the core; it gives up only when the daemon ends.
func (d *Daemon) post(ev nodeagent.Event) {
	select {
	case d.mail <- ev:
	case <-d.ctx.Done():
	}
}

func (d *Daemon) subscribe() ([]messaging.Subscription, error) {
	z, n := d.cfg.Zone, d.cfg.Name
	var subs []messaging.Subscription
	for _, s := range []struct {
		subject string
		handle  messaging.Handler
	}{
		{wire.SubjectRun(z, n), d.onRun},
		{wire.SubjectNode(z, n, "prewarm"), d.onRun},
		{wire.SubjectNode(z, n, "cancel"), d.onCancel},
		{wire.SubjectNode(z, n, "ack"), d.onAck},
		{wire.SubjectNode(z, n, "flush"), d.onFlush},
		{wire.SubjectNode(z, n, "logs"), d.onLogs},
		{wire.SubjectAllNodes(z, "hello"), d.onHello},
		{wire.SubjectAllNodes(z, "flush"), d.onFlush},
	} {
		sub, err := d.deps.Bus.Subscribe(s.subject, "", s.handle)
		if err != nil {
			for _, opened := range subs {
				err = errors.Join(err, opened.Stop())
			}
			return nil, fmt.Errorf("noded subscribe %s: %w", s.subject, err)
		}
		subs = append(subs, sub)
	}
	return subs, nil
}

// decode reads a message or logs why not; a malformed message concerns nobody else.
func decode[T any](d *Daemon, m *messaging.Msg) (*T, bool) {
	v := new(T)
	if err := wire.Decode(m.Data, v); err != nil {
		d.deps.Log.Warn("message refused", "node", d.cfg.Name, "subject", m.Subject, "err", err)
		return nil, false
	}
	return v, true
}

func (d *Daemon) onRun(m *messaging.Msg) {
	if r, ok := decode[wire.Run](d, m); ok {
		d.post(nodeagent.Event{Kind: nodeagent.EvRun, Run: r})
	}
}

func (d *Daemon) onCancel(m *messaging.Msg) {
	if c, ok := decode[wire.Cancel](d, m); ok {
		d.post(nodeagent.Event{Kind: nodeagent.EvCancel, ID: c.ID, Epoch: c.Epoch})
	}
}

func (d *Daemon) onAck(m *messaging.Msg) {
	if a, ok := decode[wire.Ack](d, m); ok {
		d.post(nodeagent.Event{Kind: nodeagent.EvAck, IDs: a.IDs})
	}
}

func (d *Daemon) onHello(m *messaging.Msg) {
	if h, ok := decode[wire.Hello](d, m); ok {
		d.post(nodeagent.Event{Kind: nodeagent.EvHello, Epoch: h.Epoch})
	}
}

func (d *Daemon) onFlush(m *messaging.Msg) {
	if _, ok := decode[wire.Flush](d, m); ok {
		d.post(nodeagent.Event{Kind: nodeagent.EvFlush})
	}
}

func (d *Daemon) onLogs(m *messaging.Msg) {
	p, ok := decode[wire.LogsPull](d, m)
	if !ok || m.Reply == "" {
		return
	}
	b, err := wire.Encode(&wire.Logs{Lines: d.logs.last(p.Function, p.Last)})
	if err == nil {
		err = d.deps.Bus.Publish(m.Reply, b)
	}
	if err != nil {
		d.deps.Log.Warn("answer logs", "node", d.cfg.Name, "err", err)
	}
}

func (d *Daemon) step(ev nodeagent.Event) {
	d.acts = d.core.Step(time.Now(), &ev, d.acts[:0])
	for i := range d.acts {
		if d.ctx.Err() != nil {
			break // the epoch was not kept: nothing may happen under it
		}
		d.carryOut(&d.acts[i])
	}
	clear(d.acts)
}

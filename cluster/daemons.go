package cluster

import (
	"context"

	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/coordinator/globald"
	"github.com/rubato-faas/rubato/coordinator/raftlog"
	"github.com/rubato-faas/rubato/gateway"
	"github.com/rubato-faas/rubato/internal/ops"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/membership/etcdreg"
	"github.com/rubato-faas/rubato/nodeagent/noded"
	"github.com/rubato-faas/rubato/sandbox"
	"github.com/rubato-faas/rubato/sandbox/process"
	"github.com/rubato-faas/rubato/sandbox/wasm"
	"github.com/rubato-faas/rubato/zonesched/asyncq"
	"github.com/rubato-faas/rubato/zonesched/zoned"
)

// Zone is an assembled zone scheduler with its front door.
type Zone struct {
	Daemon *zoned.Daemon
	// Addr is where the door listens.
	Addr string

	cfg     ZoneConfig
	conn    *connection
	etcd    *clientv3.Client
	ln      net.Listener
	limits  ops.Limits
	handler http.Handler
	log     *slog.Logger
}

// Hooks reach into daemons of tests; zero in production.
type Hooks struct {
	Zone func(zoned.Deps) zoned.Deps
	// Merging is called in the middle of a coordinator's merge: the manifest is stored, and not committed yet.
	Merging func(replica, digest string)
}

// NewZone connects a scheduler and opens its door; Run serves.
func NewZone(ctx context.Context, cfg ZoneConfig, log *slog.Logger, hooks Hooks) (*Zone, error) {
	z := &Zone{cfg: cfg, log: log}
	var err error
	defer func() {
		if err != nil {
			z.close()
		}
	}()
	if z.conn, err = connect(ctx, named(cfg.NATS, "zone-"+cfg.Zone.Zone+"-"+cfg.Zone.Name), cfg.Store, log); err != nil {
		return nil, err
	}
	if err = checkResults(z.conn.results.TTL(), cfg.Async.Keep); err != nil { // as the bucket was made
		return nil, err
	}
	if z.etcd, err = etcdClient(ctx, cfg.Etcd); err != nil {
		return nil, err
	}
	elect := etcdreg.DefaultConfig()
	elect.Zone, elect.Candidate, elect.TTL, elect.Generation, elect.Log = cfg.Zone.Zone, cfg.Zone.Name, cfg.Etcd.TTL, cfg.Etcd.Generation, log
	elector, err := etcdreg.New(z.etcd, elect)
	if err != nil {
		return nil, err
	}
	async := cfg.Async
	async.Zone = cfg.Zone.Zone
	openCtx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	queue, err := asyncq.Open(openCtx, z.conn.js, z.conn.objects, async, log)
	if err != nil {
		return nil, err
	}
	deps := zoned.Deps{Bus: z.conn.bus, Connected: z.conn.bus.Conn().IsConnected, Store: z.conn.models, Elector: elector, Async: queue, Log: log}
	if hooks.Zone != nil {
		deps = hooks.Zone(deps)
	}
	if z.Daemon, err = zoned.New(cfg.Zone, deps); err != nil {
		return nil, err
	}
	reg := ops.NewRegistry()
	registerZone(reg, z)
	gw, err := gateway.New(cfg.Gateway, gateway.Deps{Zone: z.Daemon, Objects: z.conn.objects, Results: z.conn.results, Log: log, Registry: reg})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", gw.Handler())
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		mux.Handle(path, ops.Handler(reg, z.ready))
	}
	z.handler = mux
	if z.ln, z.limits, err = listen(cfg.HTTP); err != nil {
		return nil, err
	}
	z.limits.Grace = cfg.Zone.DrainTimeout
	z.Addr = z.ln.Addr().String()
	return z, nil
}

// ready: a scheduler that lost the bus reaches neither nodes nor a leader.
func (z *Zone) ready() error { return errors.Join(z.conn.connected(), z.Daemon.Ready()) }

func listen(cfg HTTPConfig) (net.Listener, ops.Limits, error) {
	limits, err := cfg.limits()
	if err != nil {
		return nil, limits, err
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, limits, fmt.Errorf("cluster listen: %w", err)
	}
	return ln, limits, nil
}

// Run serves until ctx ends: the door says that it is not ready (http.linger), closes and finishes what runs (zone.drain_timeout),
// then the scheduler drains (as long again at most), resigns and closes its connections.
func (z *Zone) Run(ctx context.Context) error {
	daemonCtx, stopDaemon := context.WithCancel(context.WithoutCancel(ctx))
	defer stopDaemon()
	doorCtx, closeDoor := context.WithCancel(context.WithoutCancel(ctx))
	defer closeDoor()
	door := make(chan error, 1)
	go func() {
		err := ops.Serve(doorCtx, z.ln, z.handler, z.limits)
		stopDaemon()
		door <- err
	}()
	go func() {
		select {
		case <-ctx.Done():
			z.Daemon.Retire()
			linger, stop := context.WithTimeout(doorCtx, z.cfg.HTTP.Linger)
			defer stop()
			<-linger.Done()
		case <-doorCtx.Done():
		}
		closeDoor()
	}()
	err := z.Daemon.Run(daemonCtx)
	closeDoor()
	err = errors.Join(err, <-door)
	z.close()
	return err
}

func (z *Zone) close() {
	if z.etcd != nil {
		if err := z.etcd.Close(); err != nil && !errors.Is(err, context.Canceled) {
			z.log.Debug("close etcd client", "err", err)
		}
	}
	if z.conn != nil {
		if err := z.conn.bus.Close(); err != nil {
			z.log.Debug("close bus", "err", err)
		}
	}
}

func registerZone(reg *prometheus.Registry, z *Zone) {
	labels := prometheus.Labels{"zone": z.cfg.Zone.Zone, "scheduler": z.cfg.Zone.Name}
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, f))
	}
	gauge("rubato_zone_leader", "1 on the scheduler that leads its zone.", func() float64 {
		if _, _, mine := z.Daemon.Leader(); mine {
			return 1
		}
		return 0
	})
	gauge("rubato_model_version", "Pool manifest that the zone predicts with.", func() float64 {
		if f := z.Daemon.Forest(); f != nil {
			return float64(f.Version())
		}
		return 0
	})
	counter := func(name, help string, f func() uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return float64(f()) }))
	}
	model := func(name, help string, f func(s learner.Stats) float64) {
		gauge("rubato_model_"+name, help, func() float64 { return f(z.Daemon.ModelStats()) })
	}
	model("error", "Mean absolute error of the forest, in ln ms, on samples that it had not learned.", func(s learner.Stats) float64 { return s.MAEForest })
	model("averages_error", "The same of averages alone, on the same samples.", func(s learner.Stats) float64 { return s.MAEAverages })
	model("guarded", "1 while estimates come from averages because the forest is worse.", func(s learner.Stats) float64 {
		if s.Guarded {
			return 1
		}
		return 0
	})
	model("trees_own", "Own base trees that predict.", func(s learner.Stats) float64 { return float64(s.Own) })
	model("trees_foreign", "Trees of the pool that predict.", func(s learner.Stats) float64 { return float64(s.Foreign) })
	model("grid_epoch", "Epoch of the grid in use.", func(s learner.Stats) float64 { return float64(s.Grid) })
	model("regrow_samples", "Samples between two growths of a tree.", func(s learner.Stats) float64 { return float64(s.Regrow) })
	counter("rubato_model_samples_total", "Samples learned.", func() uint64 { return z.Daemon.ModelStats().Usable })
	counter("rubato_model_drifts_total", "Abrupt drifts noticed.", func() uint64 { return z.Daemon.ModelStats().Drifts })
	counter("rubato_bound_delayed_total", "Delayed calls that had a bound.", func() uint64 { return z.Daemon.ModelStats().DelayedCalls })
	counter("rubato_bound_delayed_misses_total", "Those that ran past it.", func() uint64 { return z.Daemon.ModelStats().DelayedMisses })
	counter("rubato_bound_immediate_total", "Immediate calls that had a bound.", func() uint64 { return z.Daemon.ModelStats().ImmediateCalls })
	counter("rubato_bound_immediate_misses_total", "Those that ran past it.", func() uint64 { return z.Daemon.ModelStats().ImmediateMisses })
	figure := func(name, help string, f func(z zoned.Figures) uint64) {
		counter("rubato_zone_"+name+"_total", help, func() uint64 { return f(z.Daemon.Figures()) })
	}
	figure("calls", "Calls accepted.", func(f zoned.Figures) uint64 { return f.Accepted })
	figure("refused", "Calls refused at the door.", func(f zoned.Figures) uint64 { return f.Refused })
	figure("delayed", "Calls held back for a better node while a slot was free.", func(f zoned.Figures) uint64 { return f.Counters.Delayed })
	figure("queued", "Calls that found no free slot.", func(f zoned.Figures) uint64 { return f.Counters.Queued })
	figure("idle_declined", "Decisions that left a free slot idle to wait for a better node.", func(f zoned.Figures) uint64 { return f.IdleDeclined })
	figure("forwarded", "Calls given to another zone.", func(f zoned.Figures) uint64 { return f.ForwardedOut })
	figure("missed", "Calls answered after their deadline.", func(f zoned.Figures) uint64 { return f.Missed })
	figure("nodes_lost", "Nodes that fell silent.", func(f zoned.Figures) uint64 { return f.NodesLost })
	figure("nodes_ignored", "Reports of nodes for which the zone has no place.", func(f zoned.Figures) uint64 { return f.NodesIgnored })
	figure("scouted", "Sandboxes brought up on hardware that a function had not met.", func(f zoned.Figures) uint64 { return f.Scouted })
	figure("prewarmed", "Sandboxes brought up without a call.", func(f zoned.Figures) uint64 { return f.Prewarmed })
	figure("retries", "Calls run again after their node was lost.", func(f zoned.Figures) uint64 { return f.Retries })
	figure("hopeless", "Calls refused since no node could be in time.", func(f zoned.Figures) uint64 { return f.Hopeless })
	figure("shadowed", "Calls beside whose decision the rule was only asked.", func(f zoned.Figures) uint64 { return f.Shadowed })
	figure("shadow_delayed", "Those among them that the rule would have held back.", func(f zoned.Figures) uint64 { return f.ShadowDelayed })
	figure("shadow_elsewhere", "Those among them that the rule would have sent to another node.", func(f zoned.Figures) uint64 { return f.ShadowElsewhere })
	figure("hedged", "Slow idempotent calls sent to a second node.", func(f zoned.Figures) uint64 { return f.Hedged })
	figure("hedge_wins", "Those among them that the second node answered first.", func(f zoned.Figures) uint64 { return f.HedgeWins })
	figure("waiting_stopped", "Times that waiting was stopped since it lost.", func(f zoned.Figures) uint64 { return f.WaitingStopped })
	figure("waiting_resumed", "Times that waiting was resumed since it paid again.", func(f zoned.Figures) uint64 { return f.WaitingResumed })
	figure("forest_dropped", "Times that averages came to stand in for the forest since they predicted better.", func(f zoned.Figures) uint64 { return f.ForestDropped })
	figure("forest_restored", "Times that the forest was trusted again.", func(f zoned.Figures) uint64 { return f.ForestRestored })
	figure("rule_dropped", "Times that the fallback came to decide since calls took less time by it than by averages.", func(f zoned.Figures) uint64 { return f.RuleDropped })
	figure("rule_restored", "Times that the rule came to decide again.", func(f zoned.Figures) uint64 { return f.RuleRestored })
	gauge("rubato_zone_fallback_decides", "1 while the fallback decides since neither the forest nor averages do better.", func() float64 {
		if z.Daemon.Figures().Resort.Fallback {
			return 1
		}
		return 0
	})
	gauge("rubato_zone_forest_distrusted", "1 while averages stand in for the forest since they predict better.", func() float64 {
		if z.Daemon.Figures().Trust.Lost {
			return 1
		}
		return 0
	})
	gauge("rubato_zone_waiting_guarded", "1 while waiting is stopped since it loses.", func() float64 {
		if z.Daemon.Figures().Guard.Stopped {
			return 1
		}
		return 0
	})
	gauge("rubato_zone_waiting_ratio", "What came of calls that were held back, over what they declined: below 1 waiting wins.", func() float64 { return z.Daemon.Figures().Guard.Ratio })
	gauge("rubato_zone_slots", "Slots in service.", func() float64 { return float64(z.Daemon.Figures().Slots) })
	gauge("rubato_zone_busy", "Slots in use.", func() float64 { return float64(z.Daemon.Figures().Busy) })
	gauge("rubato_zone_waiting", "Calls that wait.", func() float64 { f := z.Daemon.Figures(); return float64(f.Load.Queued + f.Load.Delayed) })
}

// Node is an assembled node.
type Node struct {
	Daemon   *noded.Daemon
	runtimes []sandbox.Runtime
	conn     *connection
	ln       net.Listener
	limits   ops.Limits
	reg      *prometheus.Registry
	log      *slog.Logger
}

// NewNode connects a node; Run serves.
func NewNode(ctx context.Context, cfg NodeConfig, log *slog.Logger) (*Node, error) {
	n := &Node{log: log, reg: ops.NewRegistry()}
	var err error
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if n.conn, err = connect(ctx, named(cfg.NATS, "node-"+cfg.Node.Zone+"-"+cfg.Node.Name), cfg.Store, log); err != nil {
		return nil, err
	}
	pc := process.DefaultConfig()
	pc.Dir, pc.Log = filepath.Join(cfg.Node.Dir, "process"), log
	p, err := process.New(pc)
	if err != nil {
		return nil, err
	}
	n.runtimes = append(n.runtimes, p)
	wc := wasm.DefaultConfig()
	wc.Dir, wc.Log, wc.CompileWorkers = filepath.Join(cfg.Node.Dir, "wasm"), log, cfg.CompileWorkers
	w, err := wasm.New(wc)
	if err != nil {
		return nil, err
	}
	n.runtimes = append(n.runtimes, w)
	n.Daemon, err = noded.New(cfg.Node, noded.Deps{
		Bus: n.conn.bus, Store: n.conn.objects, Results: n.conn.results, Log: log,
		Runtimes: map[api.Runtime]sandbox.Runtime{api.RuntimeProcess: p, api.RuntimeWasm: w},
	})
	if err != nil {
		return nil, err
	}
	if cfg.HTTP.Listen != "" {
		if n.ln, n.limits, err = listen(cfg.HTTP); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// Run serves until ctx ends, then drains.
func (n *Node) Run(ctx context.Context) error {
	err := beside(ctx, n.ln, n.limits, ops.Handler(n.reg, n.ready), n.Daemon.Run)
	n.close()
	return err
}

// ready: a node that lost the bus takes no calls, and can give nobody its results.
func (n *Node) ready() error { return errors.Join(n.conn.connected(), n.Daemon.Ready()) }

func (n *Node) close() {
	for _, rt := range n.runtimes {
		if err := rt.Close(); err != nil {
			n.log.Debug("close runtime", "err", err)
		}
	}
	if n.conn != nil {
		if err := n.conn.bus.Close(); err != nil {
			n.log.Debug("close bus", "err", err)
		}
	}
}

// beside runs a daemon with its operators' endpoints (none without a listener) for as long as the daemon lives.
func beside(ctx context.Context, ln net.Listener, limits ops.Limits, h http.Handler, run func(context.Context) error) error {
	if ln == nil {
		return run(ctx)
	}
	opsCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	served := make(chan error, 1)
	go func() { served <- ops.Serve(opsCtx, ln, h, limits) }()
	err := run(ctx)
	stop()
	return errors.Join(err, <-served)
}

// Global is an assembled coordinator replica.
type Global struct {
	Daemon *globald.Daemon
	conn   *connection
	ln     net.Listener
	limits ops.Limits
	reg    *prometheus.Registry
	log    *slog.Logger
}

// NewGlobal connects a replica and opens its log; Run serves. raftLn, when given, is used in place of raft.bind.
func NewGlobal(ctx context.Context, cfg GlobalConfig, log *slog.Logger, raftLn net.Listener, hooks Hooks) (*Global, error) {
	g := &Global{log: log, reg: ops.NewRegistry()}
	var err error
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	if g.conn, err = connect(ctx, named(cfg.NATS, "global-"+cfg.Raft.ID), cfg.Store, log); err != nil {
		return nil, err
	}
	dc := cfg.daemon()
	if cfg.Raft.TLS.Enabled() {
		if dc.Raft.TLS, err = cfg.Raft.TLS.Server(); err != nil {
			return nil, err
		}
		client, cerr := cfg.Raft.TLS.Client()
		if err = cerr; err != nil {
			return nil, err
		}
		dc.Raft.TLS.RootCAs = client.RootCAs
	}
	deps := globald.Deps{Bus: g.conn.bus, Store: g.conn.models, Log: log, Raft: raftlog.Deps{Listener: raftLn}}
	if hooks.Merging != nil {
		id := cfg.Raft.ID
		deps.Merging = func(digest string) { hooks.Merging(id, digest) }
	}
	if g.Daemon, err = globald.New(dc, deps); err != nil {
		return nil, err
	}
	if cfg.HTTP.Listen != "" {
		if g.ln, g.limits, err = listen(cfg.HTTP); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Run serves until ctx ends.
func (g *Global) Run(ctx context.Context) error {
	err := beside(ctx, g.ln, g.limits, ops.Handler(g.reg, g.Daemon.Ready), g.Daemon.Run)
	g.close()
	return err
}

func (g *Global) close() {
	if g.conn != nil {
		if err := g.conn.bus.Close(); err != nil {
			g.log.Debug("close bus", "err", err)
		}
	}
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/freeport"
)

// Substrate is an embedded NATS server (JetStream on, every acknowledged write synced) and an embedded etcd, both on
// loopback and on disk.
type Substrate struct {
	NATS    *server.Server
	NATSURL string
	EtcdURL string

	etcd *embed.Etcd
}

// substrateTimeout bounds the start of each server.
const substrateTimeout = 20 * time.Second

// StartSubstrate starts both servers with their state under dir.
func StartSubstrate(dir string, log *slog.Logger) (*Substrate, error) {
	ns, err := server.NewServer(&server.Options{
		ServerName: "rubato", Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: filepath.Join(dir, "nats"),
		// A 202 is promised to be on disk: the default syncs every two minutes.
		SyncAlways: true, NoSigs: true, NoLog: true, JetStreamMaxMemory: 1 << 30, JetStreamMaxStore: 256 << 30, MaxPending: 256 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("cluster nats: %w", err)
	}
	ns.Start()
	if !ns.ReadyForConnections(substrateTimeout) {
		ns.Shutdown()
		return nil, fmt.Errorf("cluster nats: %w: not ready after %v", api.ErrUnavailable, substrateTimeout)
	}
	s := &Substrate{NATS: ns, NATSURL: ns.ClientURL()}
	if err := s.startEtcd(dir); err != nil {
		s.Stop()
		return nil, err
	}
	log.Debug("embedded servers up", "nats", s.NATSURL, "etcd", s.EtcdURL)
	return s, nil
}

func (s *Substrate) startEtcd(dir string) error {
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(dir, "etcd")
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop()) // it logs errors on a normal close
	// One member on loopback: short ticks let a leader's lease of two seconds be two seconds.
	cfg.TickMs, cfg.ElectionMs = 10, 100
	client, err := freeURL()
	if err != nil {
		return err
	}
	peer, err := freeURL()
	if err != nil {
		return err
	}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = client, client
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = peer, peer
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	if s.etcd, err = embed.StartEtcd(cfg); err != nil {
		return fmt.Errorf("cluster etcd: %w", err)
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
	case err := <-s.etcd.Err():
		return fmt.Errorf("cluster etcd: %w", err)
	case <-time.After(substrateTimeout):
		return fmt.Errorf("cluster etcd: %w: not ready after %v", api.ErrUnavailable, substrateTimeout)
	}
	s.EtcdURL = client[0].String()
	return nil
}

// freeURL is for etcd, which cannot be given a listener.
func freeURL() ([]url.URL, error) {
	addr, err := freeport.Address()
	if err != nil {
		return nil, fmt.Errorf("cluster etcd: %w", err)
	}
	return []url.URL{{Scheme: "http", Host: addr}}, nil
}

// Stop ends both servers.
func (s *Substrate) Stop() {
	if s.etcd != nil {
		s.etcd.Close()
	}
	s.NATS.Shutdown()
	s.NATS.WaitForShutdown()
}

// ZoneSpec names a zone of an embedded cluster.
type ZoneSpec struct {
	Name   string
	Tier   string
	Region string
}

// Options size an embedded cluster.
type Options struct {
	Dir   string
	Zones []ZoneSpec
	// Nodes per zone; Schedulers per zone (a leader and standbys); Coordinators (1, 3 or 5).
	Nodes, Schedulers, Coordinators int
	// Node, Zone and Global are what each daemon begins with; names, folders and addresses are filled in.
	Node   NodeConfig
	Zone   ZoneConfig
	Global GlobalConfig
	// Listen is the address of the first zone's first door; the others get free ports. Empty: all get free ports.
	Listen string
	Log    *slog.Logger
	Hooks  Hooks
}

// DefaultOptions is what `rubato up` starts: an edge and a core zone in two regions. Everything shares one process, and
// that process one machine with the functions: while modules are compiled, a message that takes ten goroutines' turns
// can take a second. Timeouts that are right between machines would depose leaders here that are only waiting for
// their turn (seen: eight compilations at once, lease of 2 s lost), so they are longer.
func DefaultOptions(dir string, log *slog.Logger) Options {
	o := Options{
		Dir: dir, Zones: []ZoneSpec{{"edge", "edge", "city"}, {"core", "core", "valley"}}, Nodes: 4, Schedulers: 2, Coordinators: 3,
		Node: DefaultNodeConfig(), Zone: DefaultZoneConfig(), Global: DefaultGlobalConfig(), Log: log,
	}
	o.Zone.Etcd.TTL = 10 * time.Second
	o.Zone.Zone.Sched.NodeTimeout = 15 * time.Second
	o.Global.Raft.Heartbeat, o.Global.Raft.Election, o.Global.Raft.Lease = time.Second, time.Second, 500*time.Millisecond
	o.Node.CompileWorkers = 1
	return o
}

// Cluster is a whole cluster in this process.
type Cluster struct {
	Substrate *Substrate
	Globals   []*Global
	Zones     []*Zone // schedulers, zone by zone
	Nodes     []*Node

	log     *slog.Logger
	lock    *os.File // held on the folder
	parts   []*part
	stopped bool
}

// part is one daemon that runs.
type part struct {
	name string
	stop context.CancelFunc
	done chan struct{}
	err  error
}

// Up starts everything and returns once every zone has a leader that sees its nodes.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	c := &Cluster{log: o.Log, lock: lock}
	if c.Substrate, err = StartSubstrate(o.Dir, o.Log); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if err = c.start(ctx, o); err == nil {
		err = c.ready(ctx, o)
	}
	if err != nil {
		return nil, errors.Join(err, c.Down())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, o Options) error {
	if err := c.startGlobals(ctx, o); err != nil {
		return err
	}
	listen := o.Listen
	for _, z := range o.Zones {
		for i := range o.Schedulers {
			cfg := o.Zone
			cfg.NATS.InProcess, cfg.Etcd.Endpoints = c.Substrate.NATS, []string{c.Substrate.EtcdURL}
			cfg.Zone.Zone, cfg.Zone.Tier, cfg.Zone.Region = z.Name, z.Tier, z.Region
			cfg.Zone.Name = fmt.Sprintf("%s-s%d", z.Name, i+1)
			cfg.Zone.Dir = filepath.Join(o.Dir, "zones", cfg.Zone.Name)
			if cfg.HTTP.Listen = "127.0.0.1:0"; listen != "" {
				cfg.HTTP.Listen, listen = listen, ""
			}
			s, err := NewZone(ctx, cfg, o.Log, o.Hooks)
			if err != nil {
				return err
			}
			c.Zones = append(c.Zones, s)
			c.run("zone "+cfg.Zone.Name, s.Run)
		}
		for i := range o.Nodes {
			cfg := o.Node
			cfg.NATS.InProcess, cfg.HTTP.Listen = c.Substrate.NATS, ""
			cfg.Node.Zone, cfg.Node.Name = z.Name, fmt.Sprintf("%s-n%d", z.Name, i+1)
			cfg.Node.Dir = filepath.Join(o.Dir, "nodes", cfg.Node.Name)
			n, err := NewNode(ctx, cfg, o.Log)
			if err != nil {
				return err
			}
			c.Nodes = append(c.Nodes, n)
			c.run("node "+cfg.Node.Name, n.Run)
		}
	}
	return nil
}

func (c *Cluster) startGlobals(ctx context.Context, o Options) error {
	peers, lns := map[string]string{}, []net.Listener{}
	for i := range o.Coordinators {
		// The addresses of a restarted cluster must be those its log remembers.
		ln, addr, err := raftListener(filepath.Join(o.Dir, "global", fmt.Sprintf("g%d", i+1)))
		if err != nil {
			return err
		}
		lns = append(lns, ln)
		peers[fmt.Sprintf("g%d", i+1)] = addr
	}
	for i, ln := range lns {
		cfg := o.Global
		cfg.NATS.InProcess, cfg.HTTP.Listen = c.Substrate.NATS, ""
		cfg.Raft.ID, cfg.Raft.Peers = fmt.Sprintf("g%d", i+1), peers
		cfg.Raft.Bind, cfg.Raft.Dir = ln.Addr().String(), filepath.Join(o.Dir, "global", cfg.Raft.ID)
		g, err := NewGlobal(ctx, cfg, o.Log, ln, o.Hooks)
		if err != nil {
			return err
		}
		c.Globals = append(c.Globals, g)
		c.run("global "+cfg.Raft.ID, g.Run)
	}
	return nil
}

func (c *Cluster) run(name string, run func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	p := &part{name: name, stop: stop, done: make(chan struct{})}
	c.parts = append(c.parts, p)
	go func() {
		defer close(p.done)
		if p.err = run(ctx); p.err != nil {
			c.log.Error("daemon ended", "daemon", name, "err", p.err)
		}
	}()
}

// readyTimeout bounds the start of a whole cluster.
const readyTimeout = 30 * time.Second

// ready waits until every door answers, every zone has a leader and every leader sees its nodes.
func (c *Cluster) ready(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		why := c.notReady(ctx, o)
		if why == "" {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: cluster not ready after %v: %s", api.ErrUnavailable, readyTimeout, why)
		}
	}
}

func (c *Cluster) notReady(ctx context.Context, o Options) string {
	leads := 0
	for _, g := range c.Globals {
		if g.Daemon.Leads() {
			leads++
		}
	}
	if leads == 0 && len(c.Globals) > 0 {
		return "the coordinator has no leader"
	}
	for _, z := range c.Zones {
		if err := z.Daemon.Ready(); err != nil {
			return err.Error()
		}
		if n, err := liveNodes(ctx, z); err != nil || n < o.Nodes {
			return fmt.Sprintf("zone %s sees %d of %d nodes (%v)", z.Daemon.Zone(), n, o.Nodes, err)
		}
	}
	return ""
}

// Down stops everything in order: doors and schedulers first, so that nodes can finish what was accepted.
func (c *Cluster) Down() error {
	if c.stopped {
		return nil
	}
	c.stopped = true
	var errs []error
	for _, kind := range []string{"zone", "node", "global"} {
		var kin []*part
		for _, p := range c.parts {
			if len(p.name) > len(kind) && p.name[:len(kind)] == kind {
				kin = append(kin, p)
				p.stop()
			}
		}
		for _, p := range kin {
			<-p.done
			if p.err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", p.name, p.err))
			}
		}
	}
	c.Substrate.Stop()
	return errors.Join(append(errs, c.lock.Close())...)
}

// Doors are the base URLs of all front doors, zone by zone.
func (c *Cluster) Doors() []string {
	var out []string
	for _, z := range c.Zones {
		out = append(out, "http://"+z.Addr)
	}
	return out
}

// Door is a zone's first front door.
func (c *Cluster) Door(zone string) string {
	for _, z := range c.Zones {
		if z.Daemon.Zone() == zone {
			return "http://" + z.Addr
		}
	}
	return ""
}

// Leader is the scheduler that leads a zone now, nil while there is none.
func (c *Cluster) Leader(zone string) *Zone {
	for _, z := range c.Zones {
		if _, _, mine := z.Daemon.Leader(); mine && z.Daemon.Zone() == zone {
			return z
		}
	}
	return nil
}

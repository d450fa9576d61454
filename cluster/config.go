// Package cluster assembles daemons: it connects a coordinator, a zone scheduler or a node to its bus, store and
// election and runs it (what cmd/global, cmd/zone and cmd/node do), and it runs a whole cluster in one process with
// embedded NATS and etcd (`rubato up`, the demo, tests). It decides nothing; each part owns its goroutines and ends
// with its context.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/coordinator/globald"
	"github.com/rubato-faas/rubato/gateway"
	"github.com/rubato-faas/rubato/internal/ops"
	"github.com/rubato-faas/rubato/membership/etcdreg"
	"github.com/rubato-faas/rubato/messaging/natsbus"
	"github.com/rubato-faas/rubato/nodeagent/noded"
	"github.com/rubato-faas/rubato/objectstore/jsstore"
	"github.com/rubato-faas/rubato/sandbox/wasm"
	"github.com/rubato-faas/rubato/zonesched/asyncq"
	"github.com/rubato-faas/rubato/zonesched/zoned"
)

// LogConfig is common to all daemons.
type LogConfig struct {
	Level  string `koanf:"level" doc:"debug, info, warn or error"`
	Format string `koanf:"format" doc:"text or json"`
}

func (c LogConfig) validate() error {
	if _, err := ops.NewLogger(io.Discard, c.Level, c.Format); err != nil {
		return fmt.Errorf("%w: log: %w", api.ErrInvalid, err)
	}
	return nil
}

// StoreConfig names the buckets: what tenants put, large results, and what the model is made of.
type StoreConfig struct {
	Objects jsstore.Config `koanf:"objects"`
	// Results drops a result by its age, so that none is left behind, whoever dies when.
	Results jsstore.Config `koanf:"results"`
	Models  jsstore.Config `koanf:"models"`
}

func (c *StoreConfig) validate() error {
	return errors.Join(c.Objects.Validate(), c.Results.Validate(), c.Models.Validate())
}

func defaultStores() StoreConfig {
	s := StoreConfig{Objects: jsstore.DefaultConfig(), Results: jsstore.DefaultConfig(), Models: jsstore.DefaultConfig()}
	s.Objects.Bucket, s.Results.Bucket, s.Models.Bucket = "rubato_objects", "rubato_results", "rubato_models"
	s.Objects.MaxBytes, s.Results.MaxBytes, s.Models.MaxBytes = 64<<30, 16<<30, 4<<30
	s.Results.TTL = 2 * time.Hour
	return s
}

// resultSlack is how much longer a result must be kept than the record that names it: the record is written later, by a
// leader that may have to be elected first.
const resultSlack = 15 * time.Minute

// checkResults refuses a bucket of results that would drop one while its record can still be looked up.
func checkResults(ttl, keep time.Duration) error {
	if ttl > 0 && ttl < keep+resultSlack {
		return fmt.Errorf("%w: store.results: the bucket drops results after %v: want at least async.keep (%v) and %v more; remove it or change its maximal age",
			api.ErrInvalid, ttl, keep, resultSlack)
	}
	return nil
}

// EtcdConfig reaches the etcd that elects zone leaders.
type EtcdConfig struct {
	Endpoints []string     `koanf:"endpoints" doc:"etcd servers, e.g. http://10.0.0.1:2379"`
	User      string       `koanf:"user" doc:"etcd user"`
	Password  string       `koanf:"password" secret:"true" doc:"password of user"`
	TLS       ops.TLSFiles `koanf:"tls"`
	// TTL of the leader's lease, whole seconds.
	TTL time.Duration `koanf:"ttl" doc:"life of a zone leader's lease without keep-alives, whole seconds"`
	// Generation is the first part of epochs.
	Generation uint64 `koanf:"generation" doc:"raise it after etcd was restored from a backup"`
}

func (c *EtcdConfig) validate() error {
	var errs []error
	if len(c.Endpoints) == 0 {
		errs = append(errs, fmt.Errorf("%w: etcd.endpoints: want at least one", api.ErrInvalid))
	}
	for _, e := range c.Endpoints {
		// The client would drop TLS without a word.
		if c.TLS.Enabled() && strings.HasPrefix(e, "http://") {
			errs = append(errs, fmt.Errorf("%w: etcd.endpoints: %s with etcd.tls: want https://", api.ErrInvalid, e))
		}
	}
	if c.TTL < time.Second || c.TTL%time.Second != 0 {
		errs = append(errs, fmt.Errorf("%w: etcd.ttl %v: want whole seconds, at least one", api.ErrInvalid, c.TTL))
	}
	if c.Generation < 1 {
		errs = append(errs, fmt.Errorf("%w: etcd.generation: want at least 1", api.ErrInvalid))
	}
	if err := c.TLS.Validate(false); err != nil {
		errs = append(errs, fmt.Errorf("%w: etcd.tls: %w", api.ErrInvalid, err))
	}
	return errors.Join(errs...)
}

// HTTPConfig is a daemon's listening side.
type HTTPConfig struct {
	Listen string       `koanf:"listen" doc:"address to listen on, host:port"`
	TLS    ops.TLSFiles `koanf:"tls"`
	// MaxConns bounds open connections; further clients wait unheard, so a front door wants more than gateway.max_in_flight.
	MaxConns int `koanf:"max_conns" doc:"open connections at most; further clients wait unheard"`
	// Linger keeps a scheduler's door open, but not ready, before a stop: balancers that ask /readyz take it out meanwhile. Other
	// daemons have no door.
	Linger time.Duration `koanf:"linger" doc:"how long a scheduler's door stays open, and not ready, before it closes for good"`
}

func (c HTTPConfig) validate() error {
	var errs []error
	if c.Listen != "" {
		if _, _, err := net.SplitHostPort(c.Listen); err != nil {
			errs = append(errs, fmt.Errorf("%w: http.listen %q: want host:port", api.ErrInvalid, c.Listen))
		}
	}
	if c.MaxConns < 1 {
		errs = append(errs, fmt.Errorf("%w: http.max_conns %d: want at least 1", api.ErrInvalid, c.MaxConns))
	}
	if c.Linger < 0 || c.Linger > time.Hour {
		errs = append(errs, fmt.Errorf("%w: http.linger %v: want 0-1h", api.ErrInvalid, c.Linger))
	}
	if err := c.TLS.Validate(true); err != nil {
		errs = append(errs, fmt.Errorf("%w: http.tls: %w", api.ErrInvalid, err))
	}
	return errors.Join(errs...)
}

func (c HTTPConfig) noDoor() error {
	if c.Linger != 0 {
		return fmt.Errorf("%w: http.linger %v: only a scheduler has a door", api.ErrInvalid, c.Linger)
	}
	return nil
}

// limits are those of the server.
func (c HTTPConfig) limits() (ops.Limits, error) {
	l := ops.DefaultLimits()
	l.MaxConns = c.MaxConns
	var err error
	if c.TLS.Enabled() {
		l.TLS, err = c.TLS.Server()
	}
	return l, err
}

// ZoneConfig is the file of rubato-zone.
type ZoneConfig struct {
	Log     LogConfig      `koanf:"log"`
	NATS    natsbus.Config `koanf:"nats"`
	Etcd    EtcdConfig     `koanf:"etcd"`
	Store   StoreConfig    `koanf:"store"`
	Async   asyncq.Config  `koanf:"async"`
	HTTP    HTTPConfig     `koanf:"http"`
	Gateway gateway.Config `koanf:"gateway"`
	Zone    zoned.Config   `koanf:"zone"`
}

// DefaultZoneConfig has everything but names and addresses.
func DefaultZoneConfig() ZoneConfig {
	return ZoneConfig{
		Log: LogConfig{"info", "text"}, NATS: natsbus.DefaultConfig(), Etcd: defaultEtcd(), Store: defaultStores(),
		Async: asyncq.DefaultConfig(), HTTP: defaultHTTP("127.0.0.1:7070"), Gateway: gateway.DefaultConfig(), Zone: zoned.DefaultConfig(),
	}
}

func defaultHTTP(listen string) HTTPConfig { return HTTPConfig{Listen: listen, MaxConns: 20000} }

func defaultEtcd() EtcdConfig {
	return EtcdConfig{Endpoints: []string{"http://127.0.0.1:2379"}, TTL: 2 * time.Second, Generation: 1}
}

// Validate reports all faults.
func (c *ZoneConfig) Validate() error {
	errs := []error{
		c.Log.validate(), c.NATS.Validate(), filesThere(&c.NATS), c.Store.validate(), c.Etcd.validate(), c.HTTP.validate(), c.Async.Validate(),
		c.Zone.Validate(), c.Gateway.Validate(), checkResults(c.Store.Results.TTL, c.Async.Keep),
	}
	if int64(c.HTTP.MaxConns) <= c.Gateway.MaxInFlight {
		errs = append(errs, fmt.Errorf("%w: http.max_conns %d: want more than gateway.max_in_flight (%d), or a full door cannot even say so",
			api.ErrInvalid, c.HTTP.MaxConns, c.Gateway.MaxInFlight))
	}
	return errors.Join(errs...)
}

// NodeConfig is the file of rubato-node.
type NodeConfig struct {
	Log   LogConfig      `koanf:"log"`
	NATS  natsbus.Config `koanf:"nats"`
	Store StoreConfig    `koanf:"store"`
	HTTP  HTTPConfig     `koanf:"http"`
	Node  noded.Config   `koanf:"node"`
	// CompileWorkers is how many threads one compilation of a WASM module may use.
	CompileWorkers int `koanf:"compile_workers" doc:"threads that compile one WASM module"`
}

// DefaultNodeConfig has everything but names and addresses.
func DefaultNodeConfig() NodeConfig {
	return NodeConfig{
		Log: LogConfig{"info", "text"}, NATS: natsbus.DefaultConfig(), Store: defaultStores(),
		HTTP: defaultHTTP("127.0.0.1:7090"), Node: noded.DefaultConfig(), CompileWorkers: wasm.DefaultConfig().CompileWorkers,
	}
}

// Validate reports all faults.
func (c *NodeConfig) Validate() error {
	errs := []error{c.Log.validate(), c.NATS.Validate(), filesThere(&c.NATS), c.Store.validate(), c.HTTP.validate(), c.HTTP.noDoor(), c.Node.Validate()}
	if c.CompileWorkers < 1 {
		errs = append(errs, fmt.Errorf("%w: compile_workers %d: want at least 1", api.ErrInvalid, c.CompileWorkers))
	}
	return errors.Join(errs...)
}

// filesThere finds files of the connection to NATS that are named and cannot be read: it would fail at the start, and only there.
func filesThere(c *natsbus.Config) error {
	var errs []error
	for _, f := range []struct{ key, path string }{
		{"creds_file", c.CredsFile}, {"nkey_seed_file", c.NKeySeedFile}, {"tls.ca", c.TLS.CA}, {"tls.cert", c.TLS.Cert}, {"tls.key", c.TLS.Key},
	} {
		if f.path == "" {
			continue
		}
		if _, err := os.ReadFile(f.path); err != nil {
			errs = append(errs, fmt.Errorf("%w: nats.%s: %w", api.ErrInvalid, f.key, err))
		}
	}
	return errors.Join(errs...)
}

// RaftConfig says who this coordinator replica is.
type RaftConfig struct {
	ID        string            `koanf:"id" doc:"name of this replica, for good"`
	Bind      string            `koanf:"bind" doc:"address to listen on for the other replicas, host:port"`
	Peers     map[string]string `koanf:"peers" doc:"every replica's address by its id, this one's included"`
	Dir       string            `koanf:"dir" doc:"folder of the log, the vote and the snapshots"`
	TLS       ops.TLSFiles      `koanf:"tls"`
	Heartbeat time.Duration     `koanf:"heartbeat" doc:"silence after which a follower stands for election"`
	Election  time.Duration     `koanf:"election" doc:"how long a candidate waits for votes"`
	Lease     time.Duration     `koanf:"lease" doc:"how long a leader goes on without a majority"`
}

// GlobalConfig is the file of rubato-global.
type GlobalConfig struct {
	Log        LogConfig      `koanf:"log"`
	NATS       natsbus.Config `koanf:"nats"`
	Store      StoreConfig    `koanf:"store"`
	HTTP       HTTPConfig     `koanf:"http"`
	Raft       RaftConfig     `koanf:"raft"`
	PoolLimit  int            `koanf:"pool_limit" doc:"trees in the pool"`
	PlanEvery  time.Duration  `koanf:"plan_every" doc:"interval of new tables of shares"`
	MergeEvery time.Duration  `koanf:"merge_every" doc:"least interval between merges of trees"`
}

// DefaultGlobalConfig has everything but the replica's identity.
func DefaultGlobalConfig() GlobalConfig {
	g := globald.DefaultConfig()
	return GlobalConfig{
		Log: LogConfig{"info", "text"}, NATS: natsbus.DefaultConfig(), Store: defaultStores(), HTTP: defaultHTTP("127.0.0.1:7080"),
		Raft:      RaftConfig{Heartbeat: g.Raft.Heartbeat, Election: g.Raft.Election, Lease: g.Raft.Lease, Bind: "127.0.0.1:7081"},
		PoolLimit: g.PoolLimit, PlanEvery: g.Planner.PlanEvery, MergeEvery: g.Planner.MergeEvery,
	}
}

func (c *GlobalConfig) daemon() globald.Config {
	g := globald.DefaultConfig()
	r := &g.Raft
	r.ID, r.Bind, r.Peers, r.Dir = c.Raft.ID, c.Raft.Bind, c.Raft.Peers, c.Raft.Dir
	r.Heartbeat, r.Election, r.Lease = c.Raft.Heartbeat, c.Raft.Election, c.Raft.Lease
	g.PoolLimit, g.Planner.PlanEvery, g.Planner.MergeEvery = c.PoolLimit, c.PlanEvery, c.MergeEvery
	g.Planner.StaleAfter = max(g.Planner.StaleAfter, 2*c.PlanEvery)
	g.Planner.MergeTimeout = max(g.Planner.MergeTimeout, c.MergeEvery)
	return g
}

// Validate reports all faults.
func (c *GlobalConfig) Validate() error {
	g := c.daemon()
	errs := []error{c.Log.validate(), c.NATS.Validate(), filesThere(&c.NATS), c.Store.validate(), c.HTTP.validate(), c.HTTP.noDoor(), g.Validate()}
	if c.Raft.TLS.Enabled() { // it is client to its peers, too
		if _, err := c.Raft.TLS.Client(); err != nil {
			errs = append(errs, fmt.Errorf("%w: raft.tls: %w", api.ErrInvalid, err))
		}
	}
	if err := c.Raft.TLS.Validate(true); err != nil {
		errs = append(errs, fmt.Errorf("%w: raft.tls: %w", api.ErrInvalid, err))
	}
	return errors.Join(errs...)
}

// connection is a daemon's bus and what is built on it.
type connection struct {
	bus     *natsbus.Bus
	js      jetstream.JetStream
	objects *jsstore.Store
	results *jsstore.Store
	models  *jsstore.Store
}

// connected reports the loss of the bus, nil while it is there.
func (c *connection) connected() error {
	if nc := c.bus.Conn(); !nc.IsConnected() {
		return fmt.Errorf("%w: not connected to NATS (%s)", api.ErrUnavailable, nc.Status())
	}
	return nil
}

// openTimeout bounds connecting and making buckets.
const openTimeout = 30 * time.Second

func connect(ctx context.Context, cfg natsbus.Config, stores StoreConfig, log *slog.Logger) (*connection, error) {
	bus, err := natsbus.Connect(cfg, log)
	if err != nil {
		return nil, err
	}
	c := &connection{bus: bus}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if c.js, err = jetstream.New(bus.Conn()); err == nil {
		c.objects, err = jsstore.New(ctx, c.js, stores.Objects)
	}
	if err == nil {
		c.results, err = jsstore.New(ctx, c.js, stores.Results)
	}
	if err == nil {
		c.models, err = jsstore.New(ctx, c.js, stores.Models)
	}
	if err != nil {
		return nil, errors.Join(err, bus.Close())
	}
	return c, nil
}

// etcdClient makes the client. etcd may be away at that time, but a handshake that fails is a matter of files: it should
// stop a daemon at its start, since the client itself would only ever tell of a deadline.
func etcdClient(ctx context.Context, cfg EtcdConfig) (*clientv3.Client, error) {
	c := clientv3.Config{
		Endpoints: cfg.Endpoints, Username: cfg.User, Password: cfg.Password, DialTimeout: 5 * time.Second,
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 3 * time.Second, Logger: zap.NewNop(),
		DialOptions: etcdreg.DialOptions(),
	}
	if cfg.TLS.Enabled() {
		t, err := cfg.TLS.Client()
		if err != nil {
			return nil, err
		}
		c.TLS = t
	}
	if c.TLS != nil {
		if err := handshake(ctx, c); err != nil {
			return nil, fmt.Errorf("cluster etcd: %w: %w", api.ErrUnavailable, err)
		}
	}
	cl, err := clientv3.New(c)
	if err != nil {
		return nil, fmt.Errorf("cluster etcd: %w", err)
	}
	return cl, nil
}

// handshake connects once, without a user, since that would wait for the answer to a password first.
func handshake(ctx context.Context, c clientv3.Config) error {
	c.Username, c.Password = "", ""
	cl, err := clientv3.New(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, c.DialTimeout)
	defer cancel()
	// Past the client's own method, which repeats a failed call until the deadline and forgets why it failed.
	_, err = etcdserverpb.NewMaintenanceClient(cl.ActiveConnection()).Status(ctx, &etcdserverpb.StatusRequest{})
	// A server that refuses the client's certificate cuts the connection, and whether its reason arrives is a matter of
	// luck: everything counts but that there was no connection to begin with.
	if status.Code(err) == codes.Unavailable && !strings.Contains(err.Error(), "while dialing") {
		return fmt.Errorf("connect with etcd.tls (are ca, cert and key those that the servers want?): %w", err)
	}
	return nil
}

func named(c natsbus.Config, name string) natsbus.Config {
	c.Name = cmp.Or(c.Name, name)
	return c
}

package cluster

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/conf"
	"github.com/rubato-faas/rubato/internal/natstest"
	"github.com/rubato-faas/rubato/messaging/natsbus"
)

var quiet = slog.New(slog.DiscardHandler)

// A record must never name a result that was dropped before it.
func TestResultsOutliveTheirRecords(t *testing.T) {
	cfg := DefaultZoneConfig()
	for _, c := range []struct {
		ttl, keep time.Duration
		good      bool
	}{
		{cfg.Store.Results.TTL, cfg.Async.Keep, true}, {0, time.Hour, true}, {2 * time.Hour, 2 * time.Hour, false}, {time.Minute, time.Hour, false},
	} {
		cfg.Store.Results.TTL, cfg.Async.Keep = c.ttl, c.keep
		if err := cfg.Validate(); strings.Contains(text(err), "store.results") == c.good {
			t.Errorf("results for %v, records for %v: %v", c.ttl, c.keep, err)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// What counts is the bucket as somebody made it, not what this scheduler would have made.
func TestBucketOfResultsThatForgetsEarlyIsRefused(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	// Buckets reserve their bounds, which are above what a server allows itself on a small disk.
	s := natstest.Start(t, func(o *server.Options) { o.JetStreamMaxStore = 256 << 30 })
	bus := natsbus.DefaultConfig()
	bus.InProcess = s
	stores := defaultStores()
	stores.Results.TTL = 30 * time.Minute
	maker, err := connect(ctx, bus, stores, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := maker.bus.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultZoneConfig()
	cfg.NATS = bus
	cfg.Zone.Zone, cfg.Zone.Name = "z", "s1"
	if _, err := NewZone(ctx, cfg, quiet, Hooks{}); !errors.Is(err, api.ErrInvalid) || !strings.Contains(text(err), "store.results") {
		t.Fatalf("a scheduler over it: %v", err)
	}
}

// What would stop a daemon at its start, or be silently something else, is a fault of its configuration.
func TestFaultsOfConfigurations(t *testing.T) {
	zone := func(change func(*ZoneConfig)) error {
		c := DefaultZoneConfig()
		c.Zone.Zone, c.Zone.Name, c.Zone.Region, c.Zone.Tier, c.Zone.Dir = "z", "a", "r", "edge", "x"
		change(&c)
		return c.Validate()
	}
	node := func(change func(*NodeConfig)) error {
		c := DefaultNodeConfig()
		c.Node.Zone, c.Node.Name, c.Node.Dir = "z", "n", "x"
		change(&c)
		return c.Validate()
	}
	global := func(change func(*GlobalConfig)) error {
		c := DefaultGlobalConfig()
		c.Raft.ID, c.Raft.Dir, c.Raft.Peers = "g1", "x", map[string]string{"g1": "127.0.0.1:7081"}
		change(&c)
		return c.Validate()
	}
	if err := zone(func(*ZoneConfig) {}); err != nil {
		t.Errorf("a good zone: %v", err)
	}
	if err := node(func(*NodeConfig) {}); err != nil {
		t.Errorf("a good node: %v", err)
	}
	if err := global(func(*GlobalConfig) {}); err != nil {
		t.Errorf("a good coordinator: %v", err)
	}
	for want, err := range map[string]error{
		`level "loud"`:     zone(func(c *ZoneConfig) { c.Log.Level = "loud" }),
		`format "xml"`:     zone(func(c *ZoneConfig) { c.Log.Format = "xml" }),
		"etcd.ttl 100ms":   zone(func(c *ZoneConfig) { c.Etcd.TTL = 100 * time.Millisecond }),
		"etcd.ttl 1.5s":    zone(func(c *ZoneConfig) { c.Etcd.TTL = 1500 * time.Millisecond }),
		"etcd.generation":  zone(func(c *ZoneConfig) { c.Etcd.Generation = 0 }),
		"http.listen":      zone(func(c *ZoneConfig) { c.HTTP.Listen = "nonsense" }),
		"http.tls":         zone(func(c *ZoneConfig) { c.HTTP.TLS.Cert, c.HTTP.TLS.Key = "no-such.pem", "no-such.key" }),
		"gateway tokens":   zone(func(c *ZoneConfig) { c.Gateway.TokensFile = "no-such.yaml" }),
		"drain_timeout":    zone(func(c *ZoneConfig) { c.Zone.DrainTimeout = -time.Second }),
		"nats.creds_file":  zone(func(c *ZoneConfig) { c.NATS.CredsFile = "no-such.creds" }),
		"http.linger":      zone(func(c *ZoneConfig) { c.HTTP.Linger = -time.Second }),
		"a full door":      zone(func(c *ZoneConfig) { c.HTTP.MaxConns = int(c.Gateway.MaxInFlight) }),
		"compile_workers":  node(func(c *NodeConfig) { c.CompileWorkers = -3 }),
		"max_bytes -4":     node(func(c *NodeConfig) { c.Store.Models.MaxBytes = -4 }),
		"http.linger 1s":   node(func(c *NodeConfig) { c.HTTP.Linger = time.Second }),
		"http.max_conns 0": node(func(c *NodeConfig) { c.HTTP.MaxConns = 0 }),
		"max_bytes -1":     global(func(c *GlobalConfig) { c.Store.Objects.MaxBytes = -1 }),
		"raft.tls":         global(func(c *GlobalConfig) { c.Raft.TLS.Cert = "only-a-cert.pem" }),
	} {
		if !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("want a fault that names %s, got %v", want, err)
		}
	}
}

// The files that are shipped as examples are valid, and all three keep what a model is made of alike.
func TestShippedConfigurations(t *testing.T) {
	tokens := filepath.Join(t.TempDir(), "tokens.yaml") // the shipped file names one of /etc
	if err := os.WriteFile(tokens, []byte("[{token: 0123456789abcdef, tenant: acme}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("T_GATEWAY_TOKENS_FILE", tokens)
	zone, node, global := DefaultZoneConfig(), DefaultNodeConfig(), DefaultGlobalConfig()
	for file, cfg := range map[string]any{"zone": &zone, "node": &node, "global": &global} {
		opts := conf.Options{File: "../deploy/config/" + file + ".yaml"}
		var err error
		switch c := cfg.(type) {
		case *ZoneConfig:
			opts.EnvPrefix = "T_"
			err = conf.Load(c, opts)
		case *NodeConfig:
			err = conf.Load(c, opts)
		case *GlobalConfig:
			err = conf.Load(c, opts)
		}
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	if zone.Store != node.Store || zone.Store != global.Store {
		t.Errorf("daemons open the same buckets by other settings:\nzone   %+v\nnode   %+v\nglobal %+v", zone.Store, node.Store, global.Store)
	}
	if zone.Store.Models.TTL != 0 {
		t.Error("the model's bucket drops trees by age, while the pool's manifest may still name them")
	}
}

// A node is ready while it takes calls: not before it runs, not without NATS, not once it drains.
func TestNodeSaysWhetherItIsReady(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := natstest.Start(t, func(o *server.Options) { o.JetStreamMaxStore = 256 << 30 })
	cfg := DefaultNodeConfig()
	cfg.NATS.InProcess, cfg.HTTP.Listen = s, ""
	cfg.Node.Zone, cfg.Node.Name, cfg.Node.Dir, cfg.Node.DrainTimeout = "z", "n", t.TempDir(), 0
	n, err := NewNode(ctx, cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.ready(); err == nil {
		t.Error("ready before it runs")
	}
	runCtx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- n.Run(runCtx) }()
	until := func(what string, ok func(error) bool) {
		t.Helper()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			err := n.ready()
			if ok(err) {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("%s: ready says %v", what, err)
			}
		}
	}
	until("it runs", func(err error) bool { return err == nil })
	s.Shutdown()
	until("NATS is gone", func(err error) bool { return err != nil && strings.Contains(err.Error(), "not connected to NATS") })
	stop()
	<-ended // the bus is gone: how it ends is not the question
	if err := n.Daemon.Ready(); err == nil {
		t.Error("ready after its end")
	}
}

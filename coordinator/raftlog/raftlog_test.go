package raftlog

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/coordinator/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is replicas "a", "b", "c" in one process, over TCP and with disks.
type cluster struct {
	t     *testing.T
	ctx   context.Context
	dir   string
	peers map[string]string
	tls   *tls.Config
	keep  uint64
	logs  map[string]*Log
	told  map[string]chan bool
}

func newCluster(t *testing.T, mod func(*cluster)) *cluster {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	c := &cluster{t: t, ctx: ctx, dir: t.TempDir(), peers: map[string]string{}, keep: 10240, logs: map[string]*Log{}, told: map[string]chan bool{}}
	if mod != nil {
		mod(c)
	}
	listeners := map[string]net.Listener{}
	for _, id := range []string{"a", "b", "c"} {
		listeners[id] = listen(t)
		c.peers[id] = listeners[id].Addr().String()
	}
	for _, id := range []string{"a", "b", "c"} {
		c.open(id, listeners[id])
	}
	t.Cleanup(func() {
		for _, l := range c.logs {
			if err := l.Close(ctx); err != nil {
				t.Error(err)
			}
		}
		cancel()
	})
	return c
}

func (c *cluster) open(id string, l net.Listener) {
	c.t.Helper()
	cfg := DefaultConfig()
	cfg.ID, cfg.Bind, cfg.Peers, cfg.Dir, cfg.TLS, cfg.KeepEntries = id, c.peers[id], c.peers, filepath.Join(c.dir, id), c.tls, c.keep
	told := make(chan bool, 64)
	log, err := Open(cfg, Deps{Log: slog.New(slog.DiscardHandler), Listener: l, LeaderChanged: func(_ string, mine bool) { told <- mine }})
	if err != nil {
		c.t.Fatal(err)
	}
	c.logs[id], c.told[id] = log, told
}

func (c *cluster) kill(id string) {
	c.t.Helper()
	if err := c.logs[id].Close(c.ctx); err != nil {
		c.t.Fatal(err)
	}
	delete(c.logs, id)
}

// until polls, since what it waits for happens on other replicas.
func (c *cluster) until(what string, ok func() bool) {
	c.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			c.t.Fatalf("gave up waiting: %s", what)
		}
	}
}

func (c *cluster) leader() (id string) {
	c.t.Helper()
	c.until("a leader", func() bool {
		for k, l := range c.logs {
			if _, mine := l.Leader(); mine {
				id = k
				return true
			}
		}
		return false
	})
	return id
}

// put commits through whoever leads, as a client would.
func (c *cluster) put(key, value string) {
	c.t.Helper()
	cmd := catalog.Command{Kind: catalog.PutPolicy, Policy: map[string]string{key: value}}
	c.until("commit "+key, func() bool {
		r, err := c.logs[c.leader()].Apply(c.ctx, cmd)
		if err != nil && !errors.Is(err, api.ErrUnavailable) {
			c.t.Fatal(err)
		}
		return err == nil && r.Code == api.CodeOK
	})
}

func (c *cluster) chain(id string) (index uint64, hash catalog.Hash, policy map[string]string) {
	c.t.Helper()
	if err := c.logs[id].ReadStale(func(s *catalog.Catalog) { index, hash = s.Chain(); policy = s.Policy() }); err != nil {
		c.t.Fatal(err)
	}
	return index, hash, policy
}

// agree waits until all replicas have applied the same commands and compares their chains.
func (c *cluster) agree(key, value string) {
	c.t.Helper()
	hashes := map[catalog.Hash]uint64{}
	for id := range c.logs {
		c.until(id+" has "+key, func() bool { _, _, p := c.chain(id); return p[key] == value })
		index, hash, _ := c.chain(id)
		hashes[hash] = index
	}
	if len(hashes) != 1 {
		c.t.Fatalf("chains differ: %v", hashes)
	}
}

func TestCommitLeaderLossAndRestart(t *testing.T) {
	c := newCluster(t, nil)
	c.put("k", "1")
	c.agree("k", "1")
	first := c.leader()

	for id, l := range c.logs {
		if id == first {
			continue
		}
		c.until("follower knows the leader", func() bool { leader, _ := l.Leader(); return leader == first })
		_, err := l.Apply(c.ctx, catalog.Command{Kind: catalog.PutTenant, Tenant: "t"})
		var not *NotLeaderError
		if !errors.As(err, &not) || not.Leader != first || !errors.Is(err, api.ErrUnavailable) {
			t.Fatalf("follower %s took a command or does not tell the leader: %v", id, err)
		}
		if err := l.Read(c.ctx, func(*catalog.Catalog) { t.Error("read on a follower") }); !errors.As(err, &not) {
			t.Fatalf("read on follower: %v", err)
		}
	}
	if _, err := c.logs[first].Apply(c.ctx, catalog.Command{}); !errors.Is(err, api.ErrInvalid) {
		t.Fatalf("nonsense: %v", err)
	}

	c.kill(first)
	c.put("k", "2")
	second := c.leader()
	err := c.logs[second].Read(c.ctx, func(s *catalog.Catalog) {
		if s.Policy()["k"] != "2" {
			t.Errorf("read %v after the commit of 2", s.Policy())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	c.open(first, nil)
	c.put("k", "3")
	c.agree("k", "3")
}

func TestRestartFromDiskAlone(t *testing.T) {
	c := newCluster(t, nil)
	for i := range 20 {
		c.put("k", fmt.Sprint(i))
	}
	c.agree("k", "19")
	id := c.leader()
	index, hash, _ := c.chain(id)
	for k := range c.peers {
		c.kill(k)
	}
	for k := range c.peers {
		c.open(k, nil)
	}
	c.until("the same index", func() bool { i, _, _ := c.chain(id); return i >= index })
	if i, h, _ := c.chain(id); i != index || h != hash {
		t.Fatalf("chain at %d is %x, was %x at %d", i, h[:4], hash[:4], index)
	}
	c.put("k", "after")
	c.agree("k", "after")
}

// TestSnapshot: a replica that restarts from a snapshot, and one that was away while the log was cut and must be
// sent one, both end up the same as the others. Over TLS.
func TestSnapshot(t *testing.T) {
	c := newCluster(t, func(c *cluster) { c.tls, c.keep = selfSigned(c.t), 0 })
	c.put("k", "0")
	c.agree("k", "0")
	away := "a"
	if c.leader() == away {
		away = "b"
	}
	c.kill(away)
	for i := range 10 {
		c.put("k", fmt.Sprint(i))
	}
	for _, l := range c.logs {
		c.until("caught up", func() bool {
			ok := false
			if err := l.ReadStale(func(s *catalog.Catalog) { ok = s.Policy()["k"] == "9" }); err != nil {
				t.Fatal(err)
			}
			return ok
		})
		if err := l.Snapshot(c.ctx); err != nil {
			t.Fatal(err)
		}
	}
	restart := c.leader()
	c.kill(restart)
	c.open(restart, nil)
	c.open(away, nil)
	c.put("k", "end")
	c.agree("k", "end")
}

func TestLeadershipIsTold(t *testing.T) {
	c := newCluster(t, nil)
	old := c.leader()
	for mine := range c.told[old] {
		if mine {
			break
		}
	}
	c.put("k", "1")
	select {
	case <-c.logs[old].Applied():
	case <-c.ctx.Done():
		t.Fatal("no signal of the change")
	}
	if err := c.logs[old].TransferLeadership(c.ctx); err != nil {
		t.Fatal(err)
	}
	for mine := range c.told[old] {
		if !mine {
			break
		}
	}
	c.until("another leader", func() bool { id := c.leader(); return id != old })
	c.put("k", "2")
	c.agree("k", "2")
}

func TestUnreadableEntryStopsTheReplica(t *testing.T) {
	c := newCluster(t, nil)
	c.put("k", "1")
	l := c.logs[c.leader()]
	if err := l.raft.Apply([]byte{0xff, 1, 2}, time.Second).Error(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Apply(c.ctx, catalog.Command{Kind: catalog.PutTenant, Tenant: "t"}); !errors.Is(err, api.ErrUnavailable) {
		t.Fatalf("went on past an entry that it cannot read: %v", err)
	}
	if err := l.ReadStale(func(*catalog.Catalog) {}); !errors.Is(err, api.ErrUnavailable) {
		t.Fatalf("read: %v", err)
	}
	if err := l.Snapshot(c.ctx); err == nil {
		t.Fatal("made a snapshot of a state that skipped an entry")
	}
}

func TestBounds(t *testing.T) {
	c := newCluster(t, nil)
	l := c.logs[c.leader()]
	for range MaxInFlight {
		l.slots <- struct{}{}
	}
	if err := l.Read(c.ctx, func(*catalog.Catalog) {}); !errors.Is(err, api.ErrOverloaded) {
		t.Fatalf("above the limit: %v", err)
	}
	for range MaxInFlight {
		<-l.slots
	}
	done, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Close(done); err != nil && !errors.Is(err, api.ErrDeadline) {
		t.Fatal(err)
	}
	if err := l.Close(c.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Apply(c.ctx, catalog.Command{Kind: catalog.PutTenant, Tenant: "t"}); !errors.Is(err, api.ErrUnavailable) {
		t.Fatalf("after Close: %v", err)
	}
}

func TestConfigValidate(t *testing.T) {
	good := DefaultConfig()
	good.ID, good.Peers, good.Dir = "a", map[string]string{"a": "127.0.0.1:1"}, "d"
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"id": func(c *Config) { c.ID = "B!" }, "peers": func(c *Config) { c.Peers = nil }, "dir": func(c *Config) { c.Dir = "" },
		"address": func(c *Config) { c.Peers = map[string]string{"a": "nowhere"} },
		"lease":   func(c *Config) { c.Lease = time.Second }, "heartbeat": func(c *Config) { c.Heartbeat = 0 },
		"snapshots": func(c *Config) { c.SnapshotEvery = 0 },
	} {
		bad := good
		spoil(&bad)
		if err := bad.Validate(); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Open(bad, Deps{}); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

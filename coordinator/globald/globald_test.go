package globald

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/coordinator/catalog"
	"github.com/rubato-faas/rubato/coordinator/raftlog"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/messaging/membus"
	"github.com/rubato-faas/rubato/objectstore"
	"github.com/rubato-faas/rubato/objectstore/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// replica is a daemon that runs.
type replica struct {
	*Daemon
	stop func() error // as a signal would; waits
	kill func() error
	dead bool
}

// bed is a coordinator of some replicas, with the test as the zones. It checks every announcement: the pool that it
// names must be whole.
type bed struct {
	t        *testing.T
	ctx      context.Context
	hub      *membus.Hub
	bus      *membus.Bus
	store    *memstore.Store
	replicas []*replica
	merging  func(string)

	mu    sync.Mutex
	pools map[uint64]string // announced digests by version
}

func newBed(t *testing.T, replicas int, change func(*Config), merging func(string)) *bed {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	hub, err := membus.NewHub(membus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, ctx: ctx, hub: hub, bus: hub.Connect(), store: memstore.New(64 << 20), merging: merging, pools: map[uint64]string{}}
	t.Cleanup(func() {
		if err := b.bus.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := b.bus.Subscribe(wire.SubjectAnnounce, "", b.announced); err != nil {
		t.Fatal(err)
	}
	peers, listeners := map[string]string{}, map[string]net.Listener{}
	ids := []string{"a", "b", "c"}[:replicas]
	for _, id := range ids {
		if listeners[id], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		peers[id] = listeners[id].Addr().String()
	}
	for _, id := range ids {
		cfg := DefaultConfig()
		cfg.Raft.ID, cfg.Raft.Peers, cfg.Raft.Dir = id, peers, t.TempDir()
		cfg.Planner.MergeEvery, cfg.AnnounceEvery = 20*time.Millisecond, 20*time.Millisecond
		if change != nil {
			change(&cfg)
		}
		b.start(cfg, listeners[id])
	}
	b.leader()
	return b
}

func (b *bed) start(cfg Config, l net.Listener) {
	b.t.Helper()
	bus := b.hub.Connect()
	d, err := New(cfg, Deps{Bus: bus, Store: b.store, Raft: raftlog.Deps{Listener: l}, Log: slog.New(slog.DiscardHandler), Merging: b.merging})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	r := &replica{Daemon: d}
	wait := func() error {
		r.dead = true
		select {
		case err := <-ended:
			ended <- err
			return err
		case <-time.After(15 * time.Second):
			return errors.New("the replica does not stop")
		}
	}
	r.stop = func() error { cancel(); return wait() }
	r.kill = func() error { d.Kill(); return wait() }
	b.replicas = append(b.replicas, r)
	b.t.Cleanup(func() {
		cancel()
		if err := r.kill(); err != nil {
			b.t.Error(err)
		}
		if err := bus.Close(); err != nil {
			b.t.Error(err)
		}
	})
}

func (b *bed) announced(m *messaging.Msg) {
	var a wire.Announce
	if err := wire.Decode(m.Data, &a); err != nil {
		b.t.Error(err)
		return
	}
	if a.PoolVersion == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if d, ok := b.pools[a.PoolVersion]; ok {
		if d != a.PoolDigest {
			b.t.Errorf("pool %d was announced as %s and as %s", a.PoolVersion, d, a.PoolDigest)
		}
		return
	}
	b.pools[a.PoolVersion] = a.PoolDigest
	if _, err := b.pool(a.PoolDigest); err != nil {
		b.t.Errorf("pool %d: %v", a.PoolVersion, err)
	}
}

// pool reads a manifest and all its trees, as a zone does.
func (b *bed) pool(digest string) (map[string]int, error) {
	raw, err := b.object(digest)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	m, err := learner.DecodeManifest(raw)
	if err != nil {
		return nil, err
	}
	byZone := map[string]int{}
	for _, e := range m.Entries {
		raw, err := b.object(e.Digest)
		if err != nil {
			return nil, fmt.Errorf("tree: %w", err)
		}
		if _, err := learner.DecodeTree(raw); err != nil {
			return nil, err
		}
		byZone[e.Zone]++
	}
	return byZone, nil
}

func (b *bed) object(digest string) ([]byte, error) {
	r, _, err := b.store.Get(context.Background(), objectstore.ModelKey(digest))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func (b *bed) put(raw []byte) string {
	b.t.Helper()
	sum := sha256.Sum256(raw)
	digest := hex.EncodeToString(sum[:])
	if _, err := b.store.Put(b.ctx, objectstore.ModelKey(digest), bytes.NewReader(raw)); err != nil {
		b.t.Fatal(err)
	}
	return digest
}

// newest is the highest pool announced, by zone of its trees.
func (b *bed) newest() (version uint64, byZone map[string]int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for v := range b.pools { // a maximum: the order does not matter
		version = max(version, v)
	}
	if version > 0 {
		byZone, _ = b.pool(b.pools[version]) // checked when it was announced
	}
	return version, byZone
}

func (b *bed) until(what string, ok func() bool) {
	b.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-b.ctx.Done():
			b.t.Fatalf("gave up waiting: %s", what)
		}
	}
}

func (b *bed) leader() (lead *replica) {
	b.t.Helper()
	b.until("a leader", func() bool {
		for _, r := range b.replicas {
			if !r.dead && r.Leads() {
				lead = r
				return true
			}
		}
		return false
	})
	return lead
}

// request asks the coordinator until its leader answers.
func request[T any](b *bed, subject string, v any) (reply T) {
	b.t.Helper()
	raw, err := wire.Encode(v)
	if err != nil {
		b.t.Fatal(err)
	}
	b.until("an answer on "+subject, func() bool {
		ctx, cancel := context.WithTimeout(b.ctx, time.Second)
		defer cancel()
		got, err := b.bus.Request(ctx, subject, raw)
		if errors.Is(err, messaging.ErrNoResponders) || errors.Is(err, api.ErrDeadline) {
			return false // no leader now; offers are heard by all replicas, but answered by the leader only
		}
		if err := errors.Join(err, wire.Decode(got, &reply)); err != nil {
			b.t.Fatal(err)
		}
		return true
	})
	return reply
}

func (b *bed) control(cmd catalog.Command) wire.Reply {
	b.t.Helper()
	raw, err := catalog.EncodeCommand(cmd)
	if err != nil {
		b.t.Fatal(err)
	}
	return request[wire.Reply](b, wire.SubjectControl, &wire.Control{RequestID: cmd.RequestID, Command: raw})
}

// offered makes a zone known and offers trees of it; bad spoils one of them.
func (b *bed) offered(zone string, seq uint64, bad bool) {
	b.t.Helper()
	u := b.update(zone, seq)
	if bad {
		u.Trees[0] = b.put([]byte("this is no tree of " + zone))
	}
	b.offer(u)
}

// offer sends digests until all replicas know the zone, then the offer until it is heard. A follower that does not know
// the zone yet drops the offer, and could not merge it later.
func (b *bed) offer(u *wire.ModelUpdate) {
	b.t.Helper()
	raw, err := wire.Encode(&api.Digest{Zone: u.Zone, Seq: u.Seq, Slots: 4, Epoch: u.Epoch})
	if err != nil {
		b.t.Fatal(err)
	}
	b.until(u.Zone+" is registered", func() bool {
		if err := b.bus.Publish(wire.SubjectDigest, raw); err != nil {
			b.t.Fatal(err)
		}
		for _, r := range b.replicas {
			if !r.dead && !r.knows(u.Zone) {
				return false
			}
		}
		return true
	})
	b.until("the offer of "+u.Zone+" is heard", func() bool {
		return request[wire.Reply](b, wire.SubjectUpdate, u).Code == api.CodeOK
	})
}

// knows looks on the replica's loop.
func (r *replica) knows(zone string) bool {
	known := make(chan bool, 1)
	if !r.call(func() { known <- r.known[zone] }) {
		return false
	}
	select {
	case k := <-known:
		return k
	case <-r.ctx.Done():
		return false
	}
}

// update is what a zone with some samples offers.
func (b *bed) update(zone string, seq uint64) *wire.ModelUpdate {
	b.t.Helper()
	cfg := learner.DefaultConfig()
	cfg.Zone, cfg.Seed, cfg.Window, cfg.Trees, cfg.ResidualTrees, cfg.Pick = zone, seq, 256, 2, 0, 2
	l, err := learner.New(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	for i := range 120 {
		bins := make([]byte, api.NumFeatures)
		bins[api.InputSize] = byte(1 + i%50)
		l.Learn(&api.Sample{RunMs: float64(10 + i%50), Echo: api.Echo{Function: "t/f", Runtime: api.RuntimeWasm, Node: "n", Bins: bins, SchemaEpoch: api.SchemaEpoch}})
	}
	u := &wire.ModelUpdate{Zone: zone, Epoch: api.Epoch{Generation: 1, Revision: 1}, Seq: seq}
	for _, t := range l.Export(2) {
		u.Trees = append(u.Trees, b.put(learner.EncodeTree(t)))
	}
	if len(u.Trees) == 0 {
		b.t.Fatal("the zone has no trees to offer")
	}
	card, err := learner.EncodeScorecard(l.Scorecard())
	if err != nil {
		b.t.Fatal(err)
	}
	u.Card = b.put(card)
	return u
}

func function(name string) *api.Function {
	return &api.Function{Tenant: "t", Name: name, Runtime: api.RuntimeWasm, Artifact: strings.Repeat("a", 64), ArtifactBytes: 1, MemoryMB: 64, Timeout: time.Second}
}

func quick(c *Config) {
	c.Raft.Heartbeat, c.Raft.Election, c.Raft.Lease = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
}

func TestDeployAndPull(t *testing.T) {
	b := newBed(t, 1, quick, nil)
	first := b.control(catalog.Command{Kind: catalog.PutFunction, RequestID: "r1", Function: function("f")})
	if first.Code != api.CodeOK || first.Version != 1 {
		t.Fatalf("deploy: %+v", first)
	}
	if again := b.control(catalog.Command{Kind: catalog.PutFunction, RequestID: "r1", Function: function("f")}); again.Version != 1 {
		t.Fatalf("the same request again: %+v", again)
	}
	b.control(catalog.Command{Kind: catalog.PutFunction, RequestID: "r2", Function: function("f")})
	b.control(catalog.Command{Kind: catalog.PutFunction, RequestID: "r3", Function: function("g")})
	all := request[wire.CatalogChanges](b, wire.SubjectCatalog, &wire.CatalogPull{Zone: "z"})
	if all.Code != api.CodeOK || len(all.Functions) != 2 || len(all.Deleted) != 0 || all.Rev == 0 || all.More {
		t.Fatalf("everything: %+v", all)
	}
	for _, f := range all.Functions {
		if want := map[string]uint64{"f": 2, "g": 1}[f.Name]; f.Version != want {
			t.Errorf("%s is at version %d, want %d", f.Name, f.Version, want)
		}
	}
	if r := b.control(catalog.Command{Kind: catalog.DeleteFunction, RequestID: "r4", Tenant: "t", Name: "f"}); r.Code != api.CodeOK {
		t.Fatalf("delete: %+v", r)
	}
	since := request[wire.CatalogChanges](b, wire.SubjectCatalog, &wire.CatalogPull{Since: all.Rev, Zone: "z"})
	if len(since.Functions) != 0 || len(since.Deleted) != 1 || since.Deleted[0] != "t/f" || since.Rev <= all.Rev {
		t.Fatalf("since then: %+v", since)
	}
	if r := b.control(catalog.Command{Kind: catalog.DeleteFunction, RequestID: "r5", Tenant: "t", Name: "f"}); r.Code != api.CodeNotFound {
		t.Fatalf("delete what is gone: %+v", r)
	}
	if r := request[wire.Reply](b, wire.SubjectControl, &wire.Control{Command: []byte{0xff}}); r.Code == api.CodeOK {
		t.Fatal("an unreadable command was carried out")
	}
}

func TestOffersOfTwoZonesBecomeOnePool(t *testing.T) {
	b := newBed(t, 1, quick, nil)
	b.offered("x", 1, false)
	b.offered("y", 2, false)
	b.until("a pool of both", func() bool {
		_, zones := b.newest()
		return zones["x"] > 0 && zones["y"] > 0
	})
	ask, err := wire.Encode(&wire.Query{Kind: "status"})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.bus.Request(b.ctx, wire.SubjectStatus, ask)
	var r wire.QueryReply
	var s Status
	if err := errors.Join(err, wire.Decode(raw, &r), json.Unmarshal(r.Data, &s)); err != nil {
		t.Fatal(err)
	}
	if s.Leader != "a" || len(s.Zones) != 2 || s.Pool.Version == 0 || s.Pool.Trees["x"] == 0 {
		t.Fatalf("status %+v", s)
	}
}

func TestBadTreeIsLeftOut(t *testing.T) {
	b := newBed(t, 1, quick, nil)
	b.offered("bad", 1, true)
	b.offered("good", 2, false)
	b.until("a pool of the good zone", func() bool { _, zones := b.newest(); return zones["good"] > 0 })
	if _, zones := b.newest(); zones["bad"] != 0 {
		t.Fatalf("trees by zone: %v", zones)
	}
	b.offered("bad", 3, false) // it mends its ways
	b.until("a pool of both", func() bool { _, zones := b.newest(); return zones["good"] > 0 && zones["bad"] > 0 })
}

func TestTreesOfAnotherZoneAreLeftOut(t *testing.T) {
	b := newBed(t, 1, quick, nil)
	b.offered("x", 1, false)
	u := b.update("x", 2)
	u.Zone = "thief"
	b.offer(u)
	b.offered("y", 1, false) // a later merge, after the thief's
	b.until("a pool with y", func() bool { _, zones := b.newest(); return zones["y"] > 0 })
	if _, zones := b.newest(); zones["thief"] != 0 {
		t.Fatalf("trees by zone: %v", zones)
	}
}

// The leader dies in the middle of a merge, before it committed: the offers are not lost with it.
func TestLeaderKilledInTheMiddleOfAMerge(t *testing.T) {
	inMerge, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b := newBed(t, 3, nil, func(string) {
		once.Do(func() { close(inMerge); <-release })
	})
	defer once.Do(func() {}) // a failing test must not block a later merge
	b.offered("x", 1, false)
	select {
	case <-inMerge:
	case <-b.ctx.Done():
		t.Fatal("no merge began")
	}
	if v, _ := b.newest(); v != 0 {
		t.Fatalf("pool %d before any merge ended", v)
	}
	old := b.leader()
	old.Kill()
	old.dead = true
	next := b.leader()
	close(release)
	if next.ID() == old.ID() {
		t.Fatal("the dead replica leads")
	}
	b.until("a pool under the new leader", func() bool { _, zones := b.newest(); return zones["x"] > 0 })
	b.offered("y", 2, false)
	b.until("the next pool", func() bool { _, zones := b.newest(); return zones["x"] > 0 && zones["y"] > 0 })
	b.until("equal hash chains", func() bool {
		var sums []string
		for _, r := range b.replicas {
			if r.dead {
				continue
			}
			if err := r.Log().ReadStale(func(c *catalog.Catalog) {
				i, h := c.Chain()
				sums = append(sums, fmt.Sprint(i, h))
			}); err != nil {
				t.Fatal(err)
			}
		}
		return len(sums) == 2 && sums[0] == sums[1]
	})
}

// A replica that is stopped hands leadership over: nobody waits for its heartbeats to be missed.
func TestStoppedLeaderHandsOver(t *testing.T) {
	const heartbeat = 2 * time.Second
	b := newBed(t, 3, func(c *Config) { c.Raft.Heartbeat, c.Raft.Election = heartbeat, heartbeat }, nil)
	b.control(catalog.Command{Kind: catalog.PutFunction, RequestID: "r1", Function: function("f")}) // all is set up
	old := b.leader()
	began := time.Now()
	if err := old.stop(); err != nil {
		t.Fatal(err)
	}
	b.leader()
	if took := time.Since(began); took >= heartbeat/2 {
		t.Fatalf("the next leader came after %v, as after a crash", took)
	}
	if r := b.control(catalog.Command{Kind: catalog.PutFunction, RequestID: "r2", Function: function("f")}); r.Version != 2 {
		t.Fatalf("under the next leader: %+v", r)
	}
}

func TestConfigFaultsAreAllReported(t *testing.T) {
	cfg := DefaultConfig()
	cfg.PoolLimit, cfg.AnnounceEvery = 0, 0
	err := cfg.Validate()
	for _, want := range []string{"pool limit", "announce every", "replica id"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not complained about: %v", want, err)
		}
	}
}

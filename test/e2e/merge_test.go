package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/client"
	"github.com/rubato-faas/rubato/cluster"
	"github.com/rubato-faas/rubato/coordinator/catalog"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/objectstore"
	"github.com/rubato-faas/rubato/objectstore/jsstore"
)

// adoption is a record of a zone's sample stream.
type adoption struct {
	zone, digest string
	version      uint64
	committed    bool // in a replica's log when it was heard of
}

// mergers is a cluster in this process whose coordinator dies in the middle of a merge.
type mergers struct {
	t *testing.T
	*cluster.Cluster
	store *jsstore.Store

	mu      sync.Mutex
	armed   bool
	victim  string
	orphan  string // digest of the manifest that the victim stored and did not commit
	adopted []adoption
}

// newMergers runs two zones and three coordinators over real NATS, etcd, and raft on disk and TCP.
func newMergers(t *testing.T) *mergers {
	t.Helper()
	dir, err := os.MkdirTemp("", "rubato-e2e-merge-*")
	if err != nil {
		t.Fatal(err)
	}
	m := &mergers{t: t}
	o := cluster.DefaultOptions(dir, slog.New(slog.DiscardHandler))
	o.Nodes, o.Schedulers, o.Zone.Gateway.Auth, o.Zone.Zone.ModelEvery = 1, 1, "off", 300*time.Millisecond
	o.Global.MergeEvery = 500 * time.Millisecond
	o.Hooks.Merging = m.merging
	if m.Cluster, err = cluster.Up(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(m.Down(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	nc, err := nats.Connect(m.Substrate.NATSURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if m.store, err = jsstore.New(context.Background(), js, o.Zone.Store.Models); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Subscribe("rb.z.*.samples", func(msg *nats.Msg) { m.heard(msg.Data) }); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return m
}

// merging kills the replica that is about to commit, once, and lets the merge go on only when another one leads: then
// the dead one's log is closed, and nothing of the merge can be committed by it.
func (m *mergers) merging(replica, digest string) {
	m.mu.Lock()
	if !m.armed {
		m.mu.Unlock()
		return
	}
	m.armed, m.victim, m.orphan = false, replica, digest
	m.mu.Unlock()
	for _, g := range m.Globals {
		if g.Daemon.ID() == replica {
			g.Daemon.Kill()
		}
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); m.leader() == "" && time.Now().Before(deadline); {
		<-tick.C
	}
}

// leader is the coordinator's leader; the victim does not count.
func (m *mergers) leader() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.Globals {
		if g.Daemon.ID() != m.victim && g.Daemon.Leads() {
			return g.Daemon.ID()
		}
	}
	return ""
}

// pool is the newest pool that a living replica has committed.
func (m *mergers) pool() (p catalog.Pool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.Globals {
		if g.Daemon.ID() == m.victim {
			continue
		}
		if err := g.Daemon.Log().ReadStale(func(c *catalog.Catalog) {
			if q := c.Pool(); q != nil && q.Version > p.Version {
				p = *q
			}
		}); err != nil {
			m.t.Error(err)
		}
	}
	return p
}

// heard notes which pools zones adopt, and whether they were committed by then.
func (m *mergers) heard(data []byte) {
	var b wire.Batch
	if err := wire.Decode(data, &b); err != nil {
		m.t.Error(err)
		return
	}
	for _, r := range b.Records {
		if r.AdoptDigest != "" {
			a := adoption{zone: b.Zone, digest: r.AdoptDigest, version: r.AdoptVersion, committed: m.pool().Version >= r.AdoptVersion}
			m.mu.Lock()
			m.adopted = append(m.adopted, a)
			m.mu.Unlock()
		}
	}
}

// adoptedBy is the newest version that a zone adopted.
func (m *mergers) adoptedBy(zone string) (version uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.adopted {
		if a.zone == zone {
			version = max(version, a.version)
		}
	}
	return version
}

// object reads bytes of the model and checks them against their name.
func (m *mergers) object(digest string) []byte {
	m.t.Helper()
	r, _, err := m.store.Get(context.Background(), objectstore.ModelKey(digest))
	if err != nil {
		m.t.Fatalf("object %s: %v", digest, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		m.t.Fatal(err)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != digest {
		m.t.Fatalf("object %s has other content", digest)
	}
	return b
}

// history is every committed version's digest: each manifest names the one that it was merged from.
func (m *mergers) history() map[uint64]string {
	m.t.Helper()
	out := map[uint64]string{}
	first := learner.Manifest{}
	for digest := m.pool().Digest; digest != first.Digest(); {
		man, err := learner.DecodeManifest(m.object(digest))
		if err != nil {
			m.t.Fatal(err)
		}
		out[man.Version] = digest
		if man.Version == 1 {
			break
		}
		digest = man.Parent
	}
	return out
}

// load calls in every zone until the test ends.
func (m *mergers) load() {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	m.t.Cleanup(func() { cancel(); wg.Wait() })
	call := client.Invocation{Function: "matmul", Payload: []byte(`{"n":8}`)}
	for i, zone := range []string{"edge", "core"} {
		addr := strings.TrimPrefix(m.Door(zone), "http://")
		c := connect(m.t, "default", addr)
		if i == 0 {
			// No module: it would be compiled in this process, for half a minute under the race detector.
			rubato(m.t, addr, "deploy", "matmul", filepath.Join(bin, "functions", "matmul"), "--memory", "128")
		}
		until(m.t, 20*time.Second, "known in "+zone, func() error {
			_, err := c.Invoke(context.Background(), call)
			return err
		})
		wg.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				<-tick.C
				if _, err := c.Invoke(context.Background(), call); err != nil {
					m.t.Errorf("call in %s: %v", zone, err)
					return
				}
			}
		})
	}
}

// The leader of the coordinator dies when it has stored the next pool and not committed it. The next leader merges on;
// zones adopt what was committed and nothing else.
func TestLeaderKilledInTheMiddleOfAMerge(t *testing.T) {
	t.Parallel() // it mostly waits
	m := newMergers(t)
	m.load()
	both := func(above uint64) func() error {
		return func() error {
			if e, c := m.adoptedBy("edge"), m.adoptedBy("core"); min(e, c) <= above {
				return fmt.Errorf("edge adopted %d, core %d; want more than %d (pool %d)", e, c, above, m.pool().Version)
			}
			return nil
		}
	}
	until(t, 30*time.Second, "a pool in use in both zones", both(0))
	m.mu.Lock()
	m.armed = true
	m.mu.Unlock()
	until(t, 20*time.Second, "killed in the middle of a merge", func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.victim == "" {
			return errors.New("no merge has come so far")
		}
		return nil
	})
	m.object(m.orphan) // it was stored
	before := m.pool()
	if before.Digest == m.orphan {
		t.Fatalf("pool %d of the killed merge is committed", before.Version)
	}
	until(t, 30*time.Second, "the next pool in use in both zones", both(before.Version))
	if l := m.leader(); l == "" || l == m.victim {
		t.Fatalf("leader %q after %s was killed", l, m.victim)
	}

	m.mu.Lock()
	adopted := append([]adoption(nil), m.adopted...)
	m.mu.Unlock()
	history := m.history()
	zones := map[string]int{}
	for _, a := range adopted {
		if !a.committed || history[a.version] != a.digest {
			t.Errorf("zone %s adopted %s as version %d (committed by then: %v); committed is %q", a.zone, a.digest, a.version, a.committed, history[a.version])
		}
		man, err := learner.DecodeManifest(m.object(a.digest))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range man.Entries {
			if _, err := learner.DecodeTree(m.object(e.Digest)); err != nil {
				t.Errorf("tree %s: %v", e.Digest, err)
			}
			zones[e.Zone]++
		}
	}
	if zones["edge"] == 0 || zones["core"] == 0 {
		t.Errorf("the pools hold trees of %v", zones)
	}
	t.Logf("%d adoptions of %d committed pools; %s was killed at version %d", len(adopted), len(history), m.victim, before.Version)
}

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/client"
	"github.com/rubato-faas/rubato/coordinator/globald"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/zoned"
)

// nodesUp waits until the zone's leader sees n nodes.
func nodesUp(t *testing.T, c *client.Client, n int) {
	t.Helper()
	until(t, 20*time.Second, fmt.Sprintf("%d nodes up", n), func() error {
		var nodes []zonesched.NodeView
		if err := c.Look(context.Background(), "nodes", &nodes); err != nil {
			return err
		}
		if len(nodes) < n {
			return fmt.Errorf("%d nodes", len(nodes))
		}
		return nil
	})
}

// The daemons as processes, joined by NATS and etcd URLs, used through the command line.
func TestProcessesServeCalls(t *testing.T) {
	s := newSystem(t)
	s.globals(3)
	door := s.zone("edge", "edge", "edge-s1")
	s.node("edge", "edge-n1", 2)
	s.node("edge", "edge-n2", 2)
	c := connect(t, "default", door)
	nodesUp(t, c, 2)

	text := filepath.Join(s.dir, "text.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("to be or not to be\n", 50_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	rubato(t, door, "deploy", "wordcount", filepath.Join(bin, "functions", "wordcount"), "--memory", "256")
	rubato(t, door, "deploy", "upper", filepath.Join(bin, "functions", "upper.wasm"))
	rubato(t, door, "put", "books/hamlet.txt", text)
	if out := rubato(t, door, "invoke", "wordcount", "--input", "books/hamlet.txt"); !strings.Contains(out, `"total":300000`) {
		t.Fatalf("wordcount said %s", out)
	}
	if out := rubato(t, door, "invoke", "upper", "hello"); out != "HELLO" {
		t.Fatalf("upper said %q", out)
	}
	if out := rubato(t, door, "invoke", "upper", "later", "--async", "--wait"); out != "LATER" {
		t.Fatalf("upper, asynchronous, said %q", out)
	}
	res, err := c.Invoke(context.Background(), client.Invocation{Function: "wordcount", Inputs: []string{"books/hamlet.txt"}})
	if err != nil {
		t.Fatal(err)
	}
	if h := res.Header; h.Get("X-Start-Type") != "warm" || h.Get("X-Fetched-Bytes") != "0" {
		t.Fatalf("the second call found start %s and fetched %s bytes: want warm and 0", h.Get("X-Start-Type"), h.Get("X-Fetched-Bytes"))
	}
	if out := rubato(t, door, "explain", res.ID); !strings.Contains(out, "It ran at once on") {
		t.Fatalf("explain said %s", out)
	}
	for _, view := range []string{"functions", "objects", "nodes", "zones", "model"} {
		if out := rubato(t, door, view, "-o", "json"); !json.Valid([]byte(out)) {
			t.Fatalf("%s -o json printed %s", view, out)
		}
	}
	var e *client.Error
	if _, err := c.Invoke(context.Background(), client.Invocation{Function: "nothing"}); !errors.As(err, &e) || e.Status != 404 {
		t.Fatalf("unknown function: %v", err)
	}
	rubato(t, door, "delete", "upper")
	if _, err := c.Invoke(context.Background(), client.Invocation{Function: "upper"}); !errors.As(err, &e) || e.Status != 404 {
		t.Fatalf("deleted function: %v", err)
	}
}

// SIGKILL of a zone's leader under load: every call gets an answer or a typed error, success comes back within 5 s, and
// a standby's forest equals its leader's at equal sequence.
func TestLeaderKilledUnderLoad(t *testing.T) {
	s := newSystem(t)
	s.globals(1)
	a := s.zone("edge", "edge", "edge-s1")
	ca := connect(t, "default", a)
	s.node("edge", "edge-n1", 4)
	s.node("edge", "edge-n2", 4)
	nodesUp(t, ca, 2)
	b := s.zone("edge", "edge", "edge-s2")
	cb := connect(t, "default", b)
	nodesUp(t, cb, 2)
	rubato(t, a, "deploy", "noop", filepath.Join(bin, "functions", "noop.wasm"), "--memory", "32")
	until(t, 10*time.Second, "known at the standby", func() error {
		_, err := cb.Invoke(context.Background(), client.Invocation{Function: "noop"})
		return err
	})

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var sent, answered, failed atomic.Int64
	var mu sync.Mutex
	var firstOK time.Time
	var killedAt atomic.Int64
	untyped := map[string]int{}
	var wg sync.WaitGroup
	for range 8 { // callers at the standby's door: it outlives the leader
		wg.Add(1)
		go func() {
			defer wg.Done()
			for ctx.Err() == nil {
				sent.Add(1)
				began := time.Now().UnixNano()
				_, err := cb.Invoke(context.Background(), client.Invocation{Function: "noop"})
				var e *client.Error
				switch {
				case err == nil:
					answered.Add(1)
					if k := killedAt.Load(); k > 0 && began > k { // answers that were under way do not count
						mu.Lock()
						if firstOK.IsZero() {
							firstOK = time.Now()
						}
						mu.Unlock()
					}
				case errors.As(err, &e) && e.Code != api.CodeInternal:
					failed.Add(1)
				default:
					mu.Lock()
					untyped[err.Error()]++
					mu.Unlock()
				}
			}
		}()
	}
	until(t, 20*time.Second, "500 calls answered", func() error {
		if n := answered.Load(); n < 500 {
			return fmt.Errorf("%d answered", n)
		}
		return nil
	})
	equalForests(t, ca, cb)
	killed := time.Now()
	s.procs["edge-s1"].kill()
	killedAt.Store(time.Now().UnixNano())
	until(t, 15*time.Second, "serving again", func() error {
		mu.Lock()
		defer mu.Unlock()
		if firstOK.IsZero() {
			return errors.New("no success yet")
		}
		return nil
	})
	before := answered.Load()
	until(t, 10*time.Second, "500 more calls answered", func() error {
		if n := answered.Load() - before; n < 500 {
			return fmt.Errorf("%d answered", n)
		}
		return nil
	})
	cancel()
	wg.Wait()
	t.Logf("first success %v after the kill; %d sent, %d answered, %d typed errors", firstOK.Sub(killed), sent.Load(), answered.Load(), failed.Load())
	if len(untyped) > 0 {
		t.Fatalf("calls without a typed answer: %v", untyped)
	}
	if sent.Load() != answered.Load()+failed.Load() {
		t.Fatalf("%d calls sent, %d answered, %d typed errors", sent.Load(), answered.Load(), failed.Load())
	}
	if d := firstOK.Sub(killed); d > 5*time.Second {
		t.Fatalf("first success %v after the kill: want at most 5 s", d)
	}
}

// equalForests compares leader and standby at an equal sequence.
func equalForests(t *testing.T, leader, standby *client.Client) {
	t.Helper()
	until(t, 20*time.Second, "equal at equal sequence", func() error {
		var l, f zoned.ModelView
		if err := leader.Look(context.Background(), "model", &l); err != nil {
			return err
		}
		if err := standby.Look(context.Background(), "model?here=1", &f); err != nil {
			return err
		}
		if l.Name == f.Name {
			return fmt.Errorf("both views are %s's", l.Name)
		}
		if l.Stats.Seq != f.Stats.Seq {
			return fmt.Errorf("sequences %d and %d", l.Stats.Seq, f.Stats.Seq)
		}
		if l.Stats.Seq == 0 || l.Stats.Own+l.Stats.Foreign == 0 {
			return fmt.Errorf("nothing to compare: sequence %d, %d own and %d foreign trees", l.Stats.Seq, l.Stats.Own, l.Stats.Foreign)
		}
		if l.Digest != f.Digest {
			t.Fatalf("at sequence %d the forests differ: %s and %s", l.Stats.Seq, l.Digest, f.Digest)
		}
		return nil
	})
}

// A saturated edge zone forwards under grants, and the coordinator sees no message of a call.
func TestSaturatedEdgeForwards(t *testing.T) {
	s := newSystem(t)
	s.globals(1)
	edge := s.zone("edge", "edge", "edge-s1")
	core := s.zone("core", "core", "core-s1")
	s.node("edge", "edge-n1", 1)
	s.node("core", "core-n1", 4)
	ce, cc := connect(t, "default", edge), connect(t, "default", core)
	nodesUp(t, ce, 1)
	nodesUp(t, cc, 1)
	rubato(t, edge, "deploy", "matmul", filepath.Join(bin, "functions", "matmul"), "--memory", "128")
	call := client.Invocation{Function: "matmul", Payload: []byte(`{"n":300}`)}
	until(t, 20*time.Second, "known in core", func() error {
		_, err := cc.Invoke(context.Background(), call)
		return err
	})
	nc, err := nats.Connect(s.sub.NATSURL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var global, periodic atomic.Int64
	if _, err := nc.Subscribe("rb.g.>", func(m *nats.Msg) {
		switch m.Subject {
		case "rb.g.digest", "rb.g.announce", "rb.g.catalog", "rb.g.model":
			periodic.Add(1)
		default:
			global.Add(1)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	began := time.Now()
	var forwarded, done atomic.Int64
	var wg sync.WaitGroup
	for range 6 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for ctx.Err() == nil {
				c := call
				if forwarded.Load() >= 3 {
					c.Payload = []byte(`{"n":2}`) // quick ones: see below
				}
				res, err := ce.Invoke(context.Background(), c)
				if err != nil {
					t.Errorf("call: %v", err)
					return
				}
				done.Add(1)
				if res.Header.Get("X-Decision") == "forwarded" {
					if z := res.Header.Get("X-Zone"); z != "core" {
						t.Errorf("forwarded, but ran in %q", z)
					}
					forwarded.Add(1)
				}
			}
		}()
	}
	// So many that one message a call would stand out from those that come anyway.
	until(t, 40*time.Second, "forwarding", func() error {
		if anyway := periodicLimit(began); forwarded.Load() < 3 || done.Load() < 2*anyway {
			return fmt.Errorf("%d of %d calls forwarded, want 3 of %d", forwarded.Load(), done.Load(), 2*anyway)
		}
		return nil
	})
	cancel()
	wg.Wait()
	took := time.Since(began).Seconds()
	t.Logf("%d of %d calls forwarded; %d periodic messages at the coordinator in %.0f s, %d others", forwarded.Load(), done.Load(), periodic.Load(), took, global.Load())
	if global.Load() != 0 {
		t.Fatalf("%d messages reached the coordinator that are not periodic: want 0 per invocation", global.Load())
	}
	// Two zones: a digest, an announcement and a pull each second, offers and announcements of pools: nothing that grows
	// with calls.
	if limit := periodicLimit(began); periodic.Load() > limit {
		t.Fatalf("%d periodic messages in %.0f s for %d calls: want at most %d", periodic.Load(), took, done.Load(), limit)
	}
}

// periodicLimit is how many messages may have reached the coordinator since, whatever was called.
func periodicLimit(began time.Time) int64 { return int64(time.Since(began).Seconds()*10) + 30 }

// usesForeignTrees: a zone that has grown no trees predicts with those of another. GET /v1/model says whose they are; once
// the zone has the 20 samples of a function without which no forest speaks for it, decisions rest on them.
func usesForeignTrees(t *testing.T, zone, origin string, c *client.Client) {
	t.Helper()
	foreign := func() error {
		var m zoned.ModelView
		if err := c.Look(context.Background(), "model", &m); err != nil {
			return err
		}
		if m.Stats.Version == 0 || m.Stats.Own > 0 || m.Stats.Foreign == 0 || m.Trees[origin] == 0 {
			return fmt.Errorf("%s uses version %d with trees %v, %d own and %d foreign", zone, m.Stats.Version, m.Trees, m.Stats.Own, m.Stats.Foreign)
		}
		return nil
	}
	until(t, 60*time.Second, "predicting with trees of "+origin, foreign)
	var res *client.Result
	until(t, 10*time.Second, "estimated by the forest", func() (err error) {
		for range 5 {
			if res, err = c.Invoke(context.Background(), client.Invocation{Function: "noop"}); err != nil {
				return err
			}
		}
		if e := res.Header.Get("X-Estimate"); e != "forest" {
			return fmt.Errorf("estimated by %q", e)
		}
		return nil
	})
	if err := foreign(); err != nil { // it was so before the call and is so after it
		t.Fatal(err)
	}
	var x zoned.Explanation
	if err := c.Look(context.Background(), "invocations/"+res.ID+"/explain", &x); err != nil {
		t.Fatal(err)
	}
	if x.Best < 0 || x.Candidates[x.Best].Estimate != "forest" || x.ModelVersion == 0 {
		t.Fatalf("decided by %+v, model version %d", x.Candidates, x.ModelVersion)
	}
}

// A new zone begins with the trees of the one that has samples; then the pool holds trees of both, zones use it, and the
// loss of the raft leader does not stop it.
func TestPoolMovesOnWithoutTheRaftLeader(t *testing.T) {
	t.Parallel() // it mostly waits
	s := newSystem(t)
	s.globals(3)
	doors := map[string]*client.Client{}
	for _, z := range []string{"edge", "core"} {
		addr := s.zone(z, z, z+"-s1")
		s.node(z, z+"-n1", 4)
		doors[z] = connect(t, "default", addr)
		nodesUp(t, doors[z], 1)
		if z == "edge" {
			rubato(t, addr, "deploy", "noop", filepath.Join(bin, "functions", "noop.wasm"), "--memory", "32")
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	for _, z := range []string{"edge", "core"} {
		c := doors[z]
		until(t, 20*time.Second, "known in "+z, func() error {
			var all []map[string]any
			if err := c.Look(context.Background(), "functions", &all); err != nil || len(all) == 0 {
				return fmt.Errorf("%d functions (%v)", len(all), err)
			}
			return nil
		})
		if z == "core" {
			usesForeignTrees(t, "core", "edge", c)
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				<-tick.C
				if _, err := c.Invoke(context.Background(), client.Invocation{Function: "noop"}); err != nil {
					t.Errorf("call in %s: %v", z, err)
					return
				}
			}
		}()
	}
	status := func() (st globald.Status, err error) {
		return st, doors["edge"].Look(context.Background(), "zones", &st)
	}
	var first globald.Status
	until(t, 60*time.Second, "a pool of both zones in use", func() (err error) {
		if first, err = status(); err != nil {
			return err
		}
		if first.Pool.Trees["edge"] == 0 || first.Pool.Trees["core"] == 0 {
			return fmt.Errorf("pool version %d has trees %v", first.Pool.Version, first.Pool.Trees)
		}
		var m zoned.ModelView
		if err := doors["edge"].Look(context.Background(), "model", &m); err != nil {
			return err
		}
		if m.Stats.Version == 0 {
			return errors.New("edge has adopted no version")
		}
		return nil
	})
	s.procs[first.Leader].kill()
	until(t, 60*time.Second, "merging under a new leader", func() error {
		st, err := status()
		if err != nil {
			return err
		}
		if st.Leader == first.Leader || st.Pool.Version <= first.Pool.Version {
			return fmt.Errorf("leader %s, pool version %d (was %d)", st.Leader, st.Pool.Version, first.Pool.Version)
		}
		return nil
	})
	until(t, 60*time.Second, "the new pool in use", func() error {
		var m zoned.ModelView
		if err := doors["core"].Look(context.Background(), "model", &m); err != nil {
			return err
		}
		if m.Stats.Version <= first.Pool.Version {
			return fmt.Errorf("core uses version %d", m.Stats.Version)
		}
		return nil
	})
}

package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/rubato-faas/rubato/client"
	"github.com/rubato-faas/rubato/internal/etcdtest"
	"github.com/rubato-faas/rubato/zonesched/zoned"
)

// A zone goes on without etcd: calls at both doors succeed throughout while etcd is stopped for longer than the lease and
// started again on its data, and while it forgets the zone's schedulers because it cannot hear them.
func TestZoneGoesOnWithoutEtcd(t *testing.T) {
	t.Parallel() // it mostly waits
	s := newSystem(t)
	etcd := etcdtest.StartRestartable(t)
	s.etcd = etcd.URL
	s.globals(1)
	a := s.zone("edge", "edge", "edge-s1")
	ca := connect(t, "default", a)
	s.node("edge", "edge-n1", 4)
	nodesUp(t, ca, 1)
	b := s.zone("edge", "edge", "edge-s2")
	cb := connect(t, "default", b)
	nodesUp(t, cb, 1)
	rubato(t, a, "deploy", "noop", filepath.Join(bin, "functions", "noop.wasm"), "--memory", "32")
	doors := map[string]*client.Client{"leader": ca, "standby": cb}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	var done atomic.Int64
	for name, c := range doors {
		until(t, 10*time.Second, "known at the "+name, func() error {
			_, err := c.Invoke(context.Background(), client.Invocation{Function: "noop"})
			return err
		})
		wg.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				<-tick.C
				if _, err := c.Invoke(context.Background(), client.Invocation{Function: "noop"}); err != nil {
					t.Errorf("call at the %s: %v", name, err)
					return
				}
				done.Add(1)
			}
		})
	}
	view := func() (v zoned.ZoneView) {
		t.Helper()
		if err := ca.Look(context.Background(), "zone", &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	before := view()

	etcd.Stop()
	more := func(what string, d time.Duration) { // calls go on for so long
		t.Helper()
		began, n := time.Now(), done.Load()
		until(t, d+10*time.Second, what, func() error {
			if time.Since(began) < d || done.Load() < n+100 {
				return fmt.Errorf("%d calls in %v", done.Load()-n, time.Since(began))
			}
			return nil
		})
	}
	more("serving without etcd", 3*time.Second) // the lease is 2 s
	etcd.Start()
	more("serving with etcd again", time.Second)
	if v := view(); v.Leader != before.Leader {
		t.Fatalf("%s led before, %s after", before.Leader, v.Leader)
	}

	etcd.Cut()
	forgotten(t, etcd.Direct)
	etcd.Mend()
	until(t, 10*time.Second, "leading under a new epoch", func() error {
		if v := view(); v.Leader == before.Leader && v.Epoch == before.Epoch {
			return errors.New("the epoch is the old one")
		}
		return nil
	})
	more("serving under a new epoch", time.Second)
	if v := view(); v.Leader != before.Leader || v.Epoch.Compare(before.Epoch) <= 0 {
		t.Fatalf("%s led under %v before, %s under %v after", before.Leader, before.Epoch, v.Leader, v.Epoch)
	}
	t.Logf("%d calls", done.Load())
}

// forgotten waits until etcd holds no candidate any more.
func forgotten(t *testing.T, url string) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	until(t, 20*time.Second, "forgotten by etcd", func() error {
		r, err := c.Get(context.Background(), "/rubato/leaders/", clientv3.WithPrefix())
		if err == nil && len(r.Kvs) > 0 {
			err = fmt.Errorf("%d keys", len(r.Kvs))
		}
		return err
	})
}

package etcdreg_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/etcdtest"
	"github.com/rubato-faas/rubato/membership"
	"github.com/rubato-faas/rubato/membership/etcdreg"
	"github.com/rubato-faas/rubato/membership/membershiptest"
)

func dial(t *testing.T, url string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{url}, DialTimeout: 5 * time.Second, Logger: zap.NewNop(), DialOptions: etcdreg.DialOptions(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func config(zone, candidate string) etcdreg.Config {
	cfg := etcdreg.DefaultConfig()
	cfg.Zone, cfg.Candidate, cfg.TTL, cfg.Generation = zone, candidate, time.Second, 7
	cfg.Log = slog.New(slog.DiscardHandler)
	return cfg
}

func harness(client *clientv3.Client) membershiptest.Harness {
	return membershiptest.Harness{
		Elector: func(t *testing.T, zone, candidate string) membership.Elector {
			r, err := etcdreg.New(client, config(zone, candidate))
			if err != nil {
				t.Fatal(err)
			}
			return r
		},
		// Revoking the lease is what etcd does when it runs out, without the wait.
		Lose: func(t *testing.T, zone, candidate string) {
			resp, err := client.Get(context.Background(), "/rubato/leaders/"+zone+"/", clientv3.WithPrefix())
			if err != nil {
				t.Fatal(err)
			}
			for _, kv := range resp.Kvs {
				if string(kv.Value) == candidate {
					if _, err := client.Revoke(context.Background(), clientv3.LeaseID(kv.Lease)); err != nil {
						t.Fatal(err)
					}
				}
			}
		},
		Patience: 10 * time.Second,
	}
}

func TestConformance(t *testing.T) {
	membershiptest.Run(t, harness(dial(t, etcdtest.Start(t))))
}

// settle waits for d without an event to wait for: that nothing happens is what is tested.
func settle(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// TestSilentEtcd: a leader goes on while etcd is gone, beyond its lease, and under the same epoch when etcd is back with
// its data: etcd gives every lease its whole time again. What is heard meanwhile counts at once. Run ends promptly.
func TestSilentEtcd(t *testing.T) {
	etcd := etcdtest.StartRestartable(t)
	h := harness(dial(t, etcd.URL))
	a := h.Start(t, "z", "a")
	first := a.Until("leadership", func(l membership.Leadership) bool { return l.Mine })
	if first.Epoch.Generation != 7 {
		t.Fatalf("epoch %v", first.Epoch)
	}
	etcd.Stop()
	settle(2500 * time.Millisecond) // the lease was 1s
	etcd.Start()
	b := h.Start(t, "z", "b")
	b.Until("the leader", func(l membership.Leadership) bool {
		return l == membership.Leadership{Leader: "a", Epoch: first.Epoch, Since: first.Epoch}
	})
	if l := a.Last(); l != first {
		t.Fatalf("was %+v, is %+v", first, l)
	}
	etcd.Stop()
	start := time.Now()
	a.Elector.Heard(membership.Leadership{Leader: "c", Epoch: api.Epoch{Generation: 7, Revision: first.Epoch.Revision + 100}})
	a.Until("the end of leadership", func(l membership.Leadership) bool { return l.Leader == "c" && !l.Mine })
	if took := time.Since(start); took > 200*time.Millisecond {
		t.Errorf("led for %v after it had heard of another", took)
	}
	a.Stop()
	b.Stop()
}

// TestForgottenWhileAway: etcd comes back without the leader's key. It takes a new one and leads on.
func TestForgottenWhileAway(t *testing.T) {
	etcd := etcdtest.StartRestartable(t)
	a := harness(dial(t, etcd.URL)).Start(t, "z", "a")
	first := a.Until("leadership", func(l membership.Leadership) bool { return l.Mine })
	client := dial(t, etcd.Direct)
	etcd.Cut()
	for { // etcd forgets who does not report
		resp, err := client.Get(context.Background(), "/rubato/leaders/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Kvs) == 0 {
			break
		}
		settle(20 * time.Millisecond)
	}
	if l := a.Last(); l != first {
		t.Fatalf("while cut off it was told %+v", l)
	}
	etcd.Mend()
	second := a.Until("a new epoch", func(l membership.Leadership) bool { return l.Epoch != first.Epoch })
	if !second.Mine || second.Since != first.Epoch || second.Epoch.Compare(first.Epoch) <= 0 {
		t.Fatalf("was %+v, is %+v", first, second)
	}
}

// TestKeptAlive: leadership outlives the lease's time several times over.
func TestKeptAlive(t *testing.T) {
	client := dial(t, etcdtest.Start(t))
	a := harness(client).Start(t, "z", "a")
	first := a.Until("leadership", func(l membership.Leadership) bool { return l.Mine })
	settle(2500 * time.Millisecond)
	if l := a.Last(); l != first {
		t.Fatalf("was %+v, is %+v", first, l)
	}
	a.Stop()
	resp, err := client.Get(context.Background(), "/rubato/leaders/", clientv3.WithPrefix())
	if err != nil || len(resp.Kvs) != 0 {
		t.Fatalf("keys left after resigning: %v %v", resp, err)
	}
	leases, err := client.Leases(context.Background())
	if err != nil || len(leases.Leases) != 0 {
		t.Fatalf("leases left after resigning: %v %v", leases, err)
	}
}

// TestDeposedByStandby: a standby that is sure of the leader's death deletes its key and leads at once.
func TestDeposedByStandby(t *testing.T) {
	client := dial(t, etcdtest.Start(t))
	h := harness(client)
	a := h.Start(t, "z", "a")
	first := a.Until("leadership", func(l membership.Leadership) bool { return l.Mine })
	b := h.Start(t, "z", "b")
	b.Until("the leader", func(l membership.Leadership) bool { return l.Leader == "a" })
	get, err := client.Get(context.Background(), "/rubato/leaders/z/", clientv3.WithFirstCreate()...)
	if err != nil || len(get.Kvs) != 1 || get.Kvs[0].CreateRevision != first.Epoch.Revision {
		t.Fatalf("the leader's key: %v %v", get, err)
	}
	if _, err := client.Delete(context.Background(), string(get.Kvs[0].Key)); err != nil {
		t.Fatal(err)
	}
	second := b.Until("leadership", func(l membership.Leadership) bool { return l.Mine })
	if second.Epoch.Compare(first.Epoch) <= 0 {
		t.Fatalf("epoch %v after %v", second.Epoch, first.Epoch)
	}
	a.Until("the new leader", func(l membership.Leadership) bool { return l.Leader == "b" && !l.Mine })
}

func TestConfigValidate(t *testing.T) {
	for name, spoil := range map[string]func(*etcdreg.Config){
		"zone": func(c *etcdreg.Config) { c.Zone = "" }, "candidate": func(c *etcdreg.Config) { c.Candidate = "a/b" },
		"prefix": func(c *etcdreg.Config) { c.Prefix = "/x/" }, "short": func(c *etcdreg.Config) { c.TTL = 0 },
		"fraction": func(c *etcdreg.Config) { c.TTL = 1500 * time.Millisecond },
	} {
		cfg := config("z", "a")
		spoil(&cfg)
		if _, err := etcdreg.New(nil, cfg); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

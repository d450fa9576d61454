// Package etcdtest starts a real etcd inside a test, on loopback and in a temporary directory, in about 100 ms. It
// is for tests only and keeps no data: writes are not synced to disk.
package etcdtest

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// startTimeout bounds the wait for the server to be ready.
const startTimeout = 20 * time.Second

// Start runs a server until the test ends and returns the URL for its clients. The options may change what clients must
// show before the start.
func Start(t testing.TB, options ...func(*embed.Config)) string {
	t.Helper()
	clientURL, _ := StartStoppable(t, options...)
	return clientURL
}

// StartStoppable is Start for tests in which etcd goes away: stop ends the server and waits for it.
func StartStoppable(t testing.TB, options ...func(*embed.Config)) (clientURL string, stop func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcdtest") // not t.TempDir: its clean-up fails the test on files still being closed
	if err != nil {
		t.Fatal(err)
	}
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(dir, "etcd")
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop()) // a normal Close logs errors otherwise
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.UnsafeNoFsync = true
	for _, change := range options {
		change(cfg)
	}
	client, peer := unused(t), unused(t)
	if !cfg.ClientTLSInfo.Empty() {
		client[0].Scheme = "https"
	}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = client, client
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = peer, peer
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			e.Close()
			_ = os.RemoveAll(dir) // a leftover in the temporary directory is no fault of the test
		})
	}
	t.Cleanup(stop)
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		t.Fatal(err)
	case <-time.After(startTimeout):
		t.Fatal("etcd was not ready in time")
	}
	return client[0].String(), stop
}

// unused is a loopback URL on a port that was free a moment ago; etcd cannot be given a listener.
func unused(t testing.TB) []url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return []url.URL{{Scheme: "http", Host: l.Addr().String()}}
}

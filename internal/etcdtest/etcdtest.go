// Package etcdtest starts a real etcd inside a test, on loopback and in a temporary directory, in about 100 ms. It
// is for tests only and keeps no data: writes are not synced to disk.
package etcdtest

import (
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/rubato-faas/rubato/internal/freeport"
)

// startTimeout bounds the wait for the server to be ready.
const startTimeout = 20 * time.Second

// Start runs a server until the test ends and returns the URL for its clients. The options may change what clients must
// show before the start.
func Start(t testing.TB, options ...func(*embed.Config)) string {
	t.Helper()
	return StartRestartable(t, options...).Direct
}

// Server is an etcd that a test stops and starts again, on the same data and address, or cuts off from its clients.
type Server struct {
	// URL is for clients that lose it with Cut and Stop, Direct for the test.
	URL, Direct string

	t     testing.TB
	cfg   *embed.Config
	etcd  *embed.Etcd
	proxy *proxy
}

// StartRestartable is Start for tests in which etcd goes away.
func StartRestartable(t testing.TB, options ...func(*embed.Config)) *Server {
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
	s := &Server{Direct: client[0].String(), t: t, cfg: cfg, proxy: newProxy(t, client[0].Host)}
	s.URL = s.proxy.url
	t.Cleanup(func() {
		s.Stop()
		_ = os.RemoveAll(dir) // a leftover in the temporary directory is no fault of the test
	})
	s.Start()
	return s
}

// Start starts the server, again if it was stopped, and waits until it is ready.
func (s *Server) Start() {
	s.t.Helper()
	var err error
	if s.etcd, err = embed.StartEtcd(s.cfg); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
	case err := <-s.etcd.Err():
		s.t.Fatal(err)
	case <-time.After(startTimeout):
		s.t.Fatal("etcd was not ready in time")
	}
	s.Mend()
}

// Cut breaks the connections of clients and lets none through until Mend.
func (s *Server) Cut() { s.proxy.set(true) }

// Mend ends Cut.
func (s *Server) Mend() { s.proxy.set(false) }

// Stop ends the server and waits for it. It may be called again.
func (s *Server) Stop() {
	s.Cut() // else etcd waits for them, seconds in which it lets leases run out
	if s.etcd != nil {
		s.etcd.Close()
		s.etcd = nil
	}
}

// proxy stands between etcd and its clients.
type proxy struct {
	url string
	to  string
	all sync.WaitGroup

	mu   sync.Mutex
	cut  bool
	open map[net.Conn]bool
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{url: "http://" + l.Addr().String(), to: to, open: map[net.Conn]bool{}}
	p.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.all.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.set(true)
		p.all.Wait()
	})
	return p
}

func (p *proxy) set(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	for c := range p.open { // all are closed: the order does not matter
		if cut {
			_ = c.Close()
		}
	}
}

// keep remembers a connection so that it can be cut; it refuses while the proxy is cut.
func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.cut {
		p.open[c] = true
	}
	return !p.cut
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
	_ = c.Close()
}

func (p *proxy) serve(in net.Conn) {
	defer p.drop(in)
	out, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer p.drop(out)
	if !p.keep(in) || !p.keep(out) {
		return
	}
	p.all.Go(func() {
		_, _ = io.Copy(out, in) // it ends with the connection
		_ = out.Close()
	})
	_, _ = io.Copy(in, out)
}

// unused is for etcd, which cannot be given a listener.
func unused(t testing.TB) []url.URL {
	t.Helper()
	addr, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	return []url.URL{{Scheme: "http", Host: addr}}
}

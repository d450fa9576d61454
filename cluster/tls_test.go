package cluster

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/etcdtest"
	"github.com/rubato-faas/rubato/internal/natstest"
	"github.com/rubato-faas/rubato/internal/ops"
	"github.com/rubato-faas/rubato/messaging/natsbus"
)

// secured is a zone's surroundings that demand TLS and client certificates everywhere.
type secured struct {
	t          *testing.T
	ctx        context.Context
	ca, other  *natstest.CA
	cfg        ZoneConfig
	cert, key  string
	otherFiles ops.TLSFiles // of an authority that nobody here trusts
}

func newSecured(t *testing.T) *secured {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	s := &secured{t: t, ctx: ctx, ca: natstest.NewCA(t), other: natstest.NewCA(t), cfg: DefaultZoneConfig()}
	s.cert, s.key = s.ca.Issue()
	cert, key := s.other.Issue()
	s.otherFiles = ops.TLSFiles{CA: s.other.File, Cert: cert, Key: key}
	nats := natstest.Start(t, s.ca.TLS(), func(o *server.Options) {
		o.Username, o.Password, o.JetStreamMaxStore = "u", "right", 256<<30
	})
	etcd := etcdtest.Start(t, func(c *embed.Config) {
		i := &c.ClientTLSInfo
		i.CertFile, i.KeyFile = s.ca.Issue()
		i.TrustedCAFile, i.ClientCertAuth = s.ca.File, true
	})
	files := ops.TLSFiles{CA: s.ca.File, Cert: s.cert, Key: s.key}
	s.cfg.NATS.URLs, s.cfg.NATS.User, s.cfg.NATS.Password = []string{nats.ClientURL()}, "u", "right"
	s.cfg.NATS.TLS = natsbus.TLSFiles(files)
	s.cfg.Etcd.Endpoints, s.cfg.Etcd.TLS = []string{etcd}, files
	s.cfg.HTTP.Listen, s.cfg.HTTP.TLS = "127.0.0.1:0", files
	s.cfg.Gateway.Auth = "off"
	s.cfg.Zone.Zone, s.cfg.Zone.Name, s.cfg.Zone.Dir = "z", "s1", t.TempDir()
	return s
}

// get asks the door as a client with these files.
func (s *secured) get(url string, files ops.TLSFiles) (status int, body string, err error) {
	s.t.Helper()
	c, err := files.Client()
	if err != nil {
		s.t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, url, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// A scheduler comes to lead its zone and serves its door where NATS, etcd and the door demand certificates of both sides.
func TestZoneOverTLS(t *testing.T) {
	s := newSecured(t)
	if err := s.cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	z, err := NewZone(s.ctx, s.cfg, quiet, Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(s.ctx)
	ended := make(chan error, 1)
	go func() { ended <- z.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	ours := ops.TLSFiles{CA: s.ca.File, Cert: s.cert, Key: s.key}
	s.answers(z, ours, http.StatusOK)
	if _, _, mine := z.Daemon.Leader(); !mine {
		t.Error("the only scheduler does not lead")
	}
	if status, body, err := s.get("https://"+z.Addr+"/v1/objects", ours); err != nil || status != http.StatusOK || strings.TrimSpace(body) != "[]" {
		t.Errorf("objects: %d %q, %v", status, body, err)
	}
	s.refused(z.Addr)
}

// Told to stop, a door first says that it is not ready, and serves whoever has not noticed yet.
func TestDoorLingersBeforeItCloses(t *testing.T) {
	s := newSecured(t)
	s.cfg.HTTP.Linger = 10 * time.Second
	z, err := NewZone(s.ctx, s.cfg, quiet, Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(s.ctx)
	ended := make(chan error, 1)
	go func() { ended <- z.Run(ctx) }()
	ours := ops.TLSFiles{CA: s.ca.File, Cert: s.cert, Key: s.key}
	s.answers(z, ours, http.StatusOK)
	stop()
	s.answers(z, ours, http.StatusServiceUnavailable)
	if status, body, err := s.get("https://"+z.Addr+"/v1/functions/none", ours); err != nil || status != http.StatusNotFound {
		t.Errorf("a request at a door that lingers: %d %s, %v", status, body, err)
	}
	if a := z.Daemon.Invoke(s.ctx, &api.Invocation{ID: "i", Tenant: "t", Function: "f"}); a.Code != api.CodeNotFound {
		t.Errorf("a call at a door that lingers: %+v", a)
	}
	select {
	case err := <-ended:
		t.Fatalf("it did not linger: %v", err)
	default:
	}
	z.Daemon.Kill() // the rest of ten seconds is of no interest
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What runs at a door that closes has zone.drain_timeout, no other time.
func TestDoorWaitsAsLongAsItIsTold(t *testing.T) {
	s := newSecured(t)
	s.cfg.Zone.DrainTimeout = 50 * time.Millisecond
	z, err := NewZone(s.ctx, s.cfg, quiet, Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	running, let := make(chan struct{}), make(chan struct{})
	z.handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(running); <-let })
	ctx, stop := context.WithCancel(s.ctx)
	ended, asked := make(chan error, 1), make(chan struct{})
	go func() { ended <- z.Run(ctx) }()
	go func() {
		defer close(asked)
		_, _, _ = s.get("https://"+z.Addr+"/", ops.TLSFiles{CA: s.ca.File, Cert: s.cert, Key: s.key}) // it is cut off
	}()
	<-running
	stop()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "still ran after 50ms") {
		t.Errorf("stopped with %v", err)
	}
	close(let)
	<-asked
}

// answers waits until /readyz does with this status.
func (s *secured) answers(z *Zone, files ops.TLSFiles, want int) {
	s.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		status, body, err := s.get("https://"+z.Addr+"/readyz", files)
		if err != nil {
			s.t.Fatal(err)
		}
		if status == want {
			return
		}
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			s.t.Fatalf("status %d %s, want %d", status, body, want)
		}
	}
}

// refused are clients that the door must not serve.
func (s *secured) refused(addr string) {
	s.t.Helper()
	for _, c := range []struct {
		name, url string
		files     ops.TLSFiles
		part      string
	}{
		{"the client trusts another CA", "https://" + addr, ops.TLSFiles{CA: s.other.File, Cert: s.cert, Key: s.key}, "unknown authority"},
		{"no client certificate", "https://" + addr, ops.TLSFiles{CA: s.ca.File}, ""},
		{"a foreign client certificate", "https://" + addr, ops.TLSFiles{CA: s.ca.File, Cert: s.otherFiles.Cert, Key: s.otherFiles.Key}, ""},
		{"plain text", "http://" + addr, ops.TLSFiles{}, ""},
	} {
		status, body, err := s.get(c.url+"/healthz", c.files)
		if status == http.StatusOK || err != nil && !strings.Contains(err.Error(), c.part) {
			s.t.Errorf("%s: %d %q, %v; want a refusal with %q", c.name, status, body, err, c.part)
		}
	}
}

// Whoever lacks what NATS or etcd demands hears of it when it starts, not by a zone without a leader.
func TestZoneWithoutTheRightFilesDoesNotStart(t *testing.T) {
	s := newSecured(t)
	for _, c := range []struct {
		name   string
		change func(*ZoneConfig)
		part   string
	}{
		{"nats: wrong password", func(c *ZoneConfig) { c.NATS.Password = "wrong" }, "Authorization Violation"},
		{"nats: wrong CA", func(c *ZoneConfig) { c.NATS.TLS.CA = s.other.File }, "unknown authority"},
		{"etcd: wrong CA", func(c *ZoneConfig) { c.Etcd.TLS.CA = s.other.File }, "unknown authority"},
		{"etcd: wrong CA, with a user", func(c *ZoneConfig) { c.Etcd.TLS.CA, c.Etcd.User, c.Etcd.Password = s.other.File, "u", "p" }, "unknown authority"},
		{"etcd: no client certificate", func(c *ZoneConfig) { c.Etcd.TLS.Cert, c.Etcd.TLS.Key = "", "" }, "etcd.tls"},
		{"etcd: file missing", func(c *ZoneConfig) { c.Etcd.TLS.CA = "/nowhere/ca.pem" }, "/nowhere/ca.pem"},
		{"door: no certificate", func(c *ZoneConfig) { c.HTTP.TLS = ops.TLSFiles{CA: s.ca.File} }, "no cert and key"},
	} {
		cfg := s.cfg
		c.change(&cfg)
		z, err := NewZone(s.ctx, cfg, quiet, Hooks{})
		if err == nil {
			z.ln.Close()
			z.close()
		}
		if err == nil || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: %v; want an error with %q", c.name, err, c.part)
		}
	}
}

// The etcd client drops TLS without a word for an endpoint that says http: the password would travel in the clear.
func TestEtcdTLSNeedsHTTPSEndpoints(t *testing.T) {
	cfg := DefaultZoneConfig()
	cfg.Etcd.TLS.CA = "ca.pem"
	for endpoint, good := range map[string]bool{"http://10.0.0.1:2379": false, "https://10.0.0.1:2379": true, "10.0.0.1:2379": true} {
		cfg.Etcd.Endpoints = []string{"https://10.0.0.2:2379", endpoint}
		err := cfg.Validate()
		if told := errors.Is(err, api.ErrInvalid) && strings.Contains(text(err), "etcd.endpoints"); told == good {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

// etcd may be away when a scheduler starts: it waits for it, with TLS as without.
func TestEtcdMayBeAwayAtTheStart(t *testing.T) {
	ca := natstest.NewCA(t)
	cfg := defaultEtcd()
	cfg.Endpoints, cfg.TLS.CA = []string{"https://127.0.0.1:1"}, ca.File
	cl, err := etcdClient(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := cl.Close(); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

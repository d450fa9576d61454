package ops_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/internal/ops"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

func receive[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("%s: nothing after %v", what, patience)
	}
	return v
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log, err := ops.NewLogger(&out, "warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	log.Warn("loud", "n", 1)
	if s := out.String(); strings.Contains(s, "quiet") || !strings.Contains(s, `"msg":"loud","n":1`) {
		t.Errorf("logged %s", s)
	}
	for _, c := range [][2]string{{"loud", "text"}, {"info", "xml"}} {
		if _, err := ops.NewLogger(&out, c[0], c[1]); err == nil {
			t.Errorf("level %s, format %s went through", c[0], c[1])
		}
	}
}

func TestHandler(t *testing.T) {
	var notReady error
	h := ops.Handler(ops.NewRegistry(), func() error { return notReady })
	get := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Code, w.Body.String()
	}
	for _, c := range []struct {
		method, path string
		ready        error
		code         int
		body         string
	}{
		{"GET", "/healthz", errors.New("no leader"), 200, "ok"},
		{"GET", "/readyz", nil, 200, "ok"},
		{"GET", "/readyz", errors.New("no leader"), 503, "no leader"},
		{"GET", "/metrics", nil, 200, "go_goroutines"},
		{"POST", "/readyz", nil, 405, ""},
		{"GET", "/other", nil, 404, ""},
	} {
		notReady = c.ready
		if code, body := get(c.method, c.path); code != c.code || !strings.Contains(body, c.body) {
			t.Errorf("%s %s: %d %q, want %d with %q", c.method, c.path, code, body, c.code, c.body)
		}
	}
}

// server runs Serve with one handler that waits until it is released or its request ends.
type server struct {
	url     string
	started chan struct{}
	release chan struct{}
	stop    context.CancelFunc
	ended   chan error
}

func start(t *testing.T, l ops.Limits) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := &server{
		url: "http://" + ln.Addr().String(), stop: cancel,
		started: make(chan struct{}), release: make(chan struct{}), ended: make(chan error, 1),
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(s.started)
		select {
		case <-s.release:
			_, _ = io.WriteString(w, "done")
		case <-r.Context().Done():
		}
	})
	go func() { s.ended <- ops.Serve(ctx, ln, h, l) }()
	return s
}

func (s *server) get() <-chan string {
	got := make(chan string, 1)
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := client.Get(s.url)
		if err != nil {
			got <- "error"
			return
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		got <- string(b)
	}()
	return got
}

func TestServeLetsRunningRequestsFinish(t *testing.T) {
	s := start(t, ops.DefaultLimits())
	got := s.get()
	receive(t, s.started, "request")
	s.stop()
	select {
	case err := <-s.ended:
		t.Fatalf("ended (%v) before its request", err)
	case <-time.After(30 * time.Millisecond):
	}
	close(s.release)
	if body := receive(t, got, "answer"); body != "done" {
		t.Errorf("answer %q, want done", body)
	}
	if err := receive(t, s.ended, "end"); err != nil {
		t.Errorf("end: %v", err)
	}
}

func TestServeCutsOffAfterTheGrace(t *testing.T) {
	l := ops.DefaultLimits()
	l.Grace = 20 * time.Millisecond
	s := start(t, l)
	got := s.get()
	receive(t, s.started, "request")
	s.stop()
	if err := receive(t, s.ended, "end"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("end: %v, want a deadline error", err)
	}
	if body := receive(t, got, "answer"); body == "done" {
		t.Error("the request finished")
	}
}

func TestServeTellsOfABrokenListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := ops.Serve(t.Context(), ln, http.NotFoundHandler(), ops.DefaultLimits()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("end: %v, want ErrClosed", err)
	}
	if err := ops.ListenAndServe(t.Context(), "256.0.0.1:0", nil, ops.DefaultLimits()); err == nil {
		t.Error("listened on an impossible address")
	}
}

func TestFirstSignalSoftSecondHard(t *testing.T) {
	soft, hard, stop := ops.SignalContext(t.Context())
	defer stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	receive(t, soft.Done(), "soft end")
	if hard.Err() != nil {
		t.Error("the first signal was hard")
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	receive(t, hard.Done(), "hard end")
}

func TestStopEndsBothWithoutASignal(t *testing.T) {
	soft, hard, stop := ops.SignalContext(t.Context())
	stop()
	if soft.Err() == nil || hard.Err() == nil {
		t.Error("contexts go on after stop")
	}
}

// authority signs certificates for 127.0.0.1.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func write(t *testing.T, path, kind string, der []byte) string {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert, a.key, _ = a.issue(t, "ca", true)
	return a
}

func (a *authority) issue(t *testing.T, name string, ca bool) (*x509.Certificate, *ecdsa.PrivateKey, ops.TLSFiles) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	parent, signer := a.cert, a.key
	if ca {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := ops.TLSFiles{
		CA:   filepath.Join(a.dir, "ca.crt"),
		Cert: write(t, filepath.Join(a.dir, name+".crt"), "CERTIFICATE", der),
		Key:  write(t, filepath.Join(a.dir, name+".key"), "PRIVATE KEY", keyDER),
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed, key, f
}

func TestMutualTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	_, _, serverFiles := ours.issue(t, "server", false)
	_, _, good := ours.issue(t, "client", false)
	_, _, stranger := theirs.issue(t, "client", false)
	stranger.CA = good.CA

	l := ops.DefaultLimits()
	var err error
	if l.TLS, err = serverFiles.Server(); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- ops.Serve(ctx, ln, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), l)
	}()
	for _, c := range []struct {
		who   string
		files ops.TLSFiles
		ok    bool
	}{
		{"our client", good, true},
		{"a client without certificate", ops.TLSFiles{CA: good.CA}, false},
		{"a client of another authority", stranger, false},
		{"a client that trusts another authority", ops.TLSFiles{CA: filepath.Join(theirs.dir, "ca.crt"), Cert: good.Cert, Key: good.Key}, false},
	} {
		tlsConfig, err := c.files.Client()
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true}}
		r, err := client.Get("https://" + ln.Addr().String())
		if (err == nil) != c.ok {
			t.Errorf("%s: %v, want success %t", c.who, err, c.ok)
		}
		if err == nil {
			r.Body.Close()
		}
	}
	cancel()
	if err := receive(t, ended, "end"); err != nil {
		t.Error(err)
	}
}

func TestTLSFilesRefused(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (ops.TLSFiles{}).Server(); err == nil {
		t.Error("a server without certificate")
	}
	for _, f := range []ops.TLSFiles{{Cert: "x"}, {Cert: "none", Key: "none"}, {CA: "none"}, {CA: empty}} {
		if _, err := f.Client(); err == nil {
			t.Errorf("%+v went through", f)
		}
	}
	if (ops.TLSFiles{}).Enabled() || !(ops.TLSFiles{CA: "x"}).Enabled() {
		t.Error("Enabled does not tell set from unset")
	}
}

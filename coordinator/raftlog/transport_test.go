package raftlog

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// heartbeat sends a heartbeat over TCP to a transport on which raft asked for the fast path, and reports which way
// it came.
func heartbeat(t *testing.T, wrap bool) (fast bool) {
	log := newLogger(slog.New(slog.DiscardHandler))
	open := func() transport {
		l := listen(t)
		tr := newTransport(newStreamLayer(l, l.Addr().String(), nil), log)
		t.Cleanup(func() { _ = tr.Close() })
		return tr
	}
	from, to := open(), open()
	var wasFast atomic.Bool
	handler := func(rpc raft.RPC) { wasFast.Store(true); rpc.Respond(&raft.AppendEntriesResponse{}, nil) }
	var asRaftSeesIt raft.Transport = to
	if !wrap {
		asRaftSeesIt = to.NetworkTransport
	}
	asRaftSeesIt.SetHeartbeatHandler(handler)

	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // raft's main loop
		defer close(done)
		select {
		case rpc := <-to.Consumer():
			rpc.Respond(&raft.AppendEntriesResponse{}, nil)
		case <-stop:
		}
	}()
	req := raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, Addr: []byte("leader")}, Term: 2}
	//lint:ignore SA1019 part of what makes it a heartbeat
	req.Leader = req.Addr
	var resp raft.AppendEntriesResponse
	if err := from.AppendEntries("to", to.LocalAddr(), &req, &resp); err != nil {
		t.Fatal(err)
	}
	close(stop)
	<-done
	return wasFast.Load()
}

func TestHeartbeatsTakeNoFastPath(t *testing.T) {
	if !heartbeat(t, false) {
		t.Error("the plain transport has no fast path any more: is the cure still needed, and does this test still see it?")
	}
	if heartbeat(t, true) {
		t.Error("a heartbeat passed by raft's main loop")
	}
}

func TestStreamLayerOverTLS(t *testing.T) {
	cfg := selfSigned(t)
	l := listen(t)
	s := newStreamLayer(l, l.Addr().String(), cfg)
	got := make(chan string, 1)
	go func() {
		conn, err := s.Accept()
		if err != nil {
			got <- err.Error()
			return
		}
		buf := make([]byte, 5)
		if _, err := conn.Read(buf); err != nil {
			got <- err.Error()
			return
		}
		got <- string(buf)
	}()
	conn, err := s.Dial(raft.ServerAddress(s.Addr().String()), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if g := <-got; g != "hello" {
		t.Fatalf("got %q", g)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// Close ended the accepted side: the dialer sees the end of the stream.
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatal("the connection outlived its layer")
	}
	_ = conn.Close()
}

func TestLoggerIsQuiet(t *testing.T) {
	var buf bytes.Buffer
	l := newLogger(slog.New(slog.NewTextHandler(&buf, nil)))
	l.Info("daily business")
	l.Named("x").Error("bad", "k", 1)
	if bytes.Contains(buf.Bytes(), []byte("daily")) || !bytes.Contains(buf.Bytes(), []byte(`level=WARN msg="raft: bad" k=1`)) {
		t.Fatalf("log: %s", buf.String())
	}
}

func selfSigned(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "replica"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}
}

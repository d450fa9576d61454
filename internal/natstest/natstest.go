// Package natstest starts an embedded NATS server with JetStream for tests and benchmarks. It is not for
// production wiring (cluster does that) and only _test.go files may import it. Each Start is a server of its own
// on a loopback port and a temporary directory, so tests run in parallel.
package natstest

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// StartTimeout bounds how long Start waits for the server to accept connections; a start takes about 30 ms.
const StartTimeout = 10 * time.Second

// Start runs a server until the test ends. Connect to its ClientURL, or pass it as the in-process provider. The
// options may change ports, authorization or limits before the start.
func Start(t testing.TB, options ...func(*server.Options)) *server.Server {
	t.Helper()
	opts := &server.Options{
		ServerName: "natstest",
		Host:       "127.0.0.1",
		Port:       server.RANDOM_PORT,
		JetStream:  true,
		StoreDir:   t.TempDir(), // removed after the shutdown below: cleanups run last in, first out
		NoLog:      true,
		NoSigs:     true,
	}
	for _, change := range options {
		change(opts)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatalf("natstest start: %v", err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(StartTimeout) {
		t.Fatalf("natstest start: not ready after %v", StartTimeout)
	}
	return s
}

// JetStream is a connection to a server of its own, closed when the test ends.
func JetStream(t testing.TB) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(Start(t)))
	if err != nil {
		t.Fatalf("natstest connect: %v", err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatalf("natstest jetstream: %v", err)
	}
	return js
}

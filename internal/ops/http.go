package ops

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
)

// MaxScrapes bounds the metrics requests answered at once.
const MaxScrapes = 4

// Handler serves /metrics, /healthz (the process answers) and /readyz (ready returns nil; else 503 and the reason).
// A balancer that asks /readyz takes a draining daemon out without a supervisor killing it.
func Handler(reg *prometheus.Registry, ready func() error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg, MaxRequestsInFlight: MaxScrapes}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			answer(w, http.StatusServiceUnavailable, err.Error()+"\n")
			return
		}
		answer(w, http.StatusOK, "ok\n")
	})
	return mux
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // the client went away: nobody is left to tell
}

// Limits bound an HTTP server.
type Limits struct {
	// ReadHeader bounds how long a client may take for its headers (default 5s): slow ones must not hold connections.
	ReadHeader time.Duration
	// Read and Write bound a whole request and answer; 0 (default) leaves that to the handlers, which know deadlines.
	Read, Write time.Duration
	// Idle bounds a kept connection between requests (default 60s).
	Idle time.Duration
	// Grace bounds how long running requests may go on once the context ended (default 10s); then they are cut off.
	Grace time.Duration
	// MaxHeaderBytes bounds the headers (default 64 KiB).
	MaxHeaderBytes int
	// MaxConns bounds open connections (default 4096); further clients wait in the kernel's backlog.
	MaxConns int
	// TLS, if set, is served instead of plain text.
	TLS *tls.Config
	// Log receives what the server itself has to say; nil for silence.
	Log *slog.Logger
}

// DefaultLimits suits a daemon's own endpoints and the front door.
func DefaultLimits() Limits {
	return Limits{
		ReadHeader: 5 * time.Second, Idle: 60 * time.Second, Grace: 10 * time.Second,
		MaxHeaderBytes: 64 << 10, MaxConns: 4096,
	}
}

// ListenAndServe is Serve on an address.
func ListenAndServe(ctx context.Context, addr string, h http.Handler, l Limits) error {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("ops serve: %w", err)
	}
	return Serve(ctx, ln, h, l)
}

// Serve answers until ctx ends, then lets running requests finish for at most l.Grace. It closes ln. The error is nil
// after an orderly end. Requests' contexts outlive ctx, so that they can finish; they end when the grace is over.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, l Limits) error {
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: l.ReadHeader, ReadTimeout: l.Read, WriteTimeout: l.Write, IdleTimeout: l.Idle,
		MaxHeaderBytes: l.MaxHeaderBytes,
		BaseContext:    func(net.Listener) context.Context { return base },
	}
	log := l.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	srv.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	if l.MaxConns > 0 {
		ln = netutil.LimitListener(ln, l.MaxConns)
	}
	if l.TLS != nil {
		ln = tls.NewListener(ln, withHTTP(l.TLS))
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()

	select {
	case err := <-served: // the listener broke
		cut()
		return errors.Join(fmt.Errorf("ops serve: %w", err), srv.Close())
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(base, l.Grace)
	defer cancel()
	err := srv.Shutdown(grace)
	<-served
	if err != nil {
		cut()
		return errors.Join(fmt.Errorf("ops serve: requests still ran after %v: %w", l.Grace, err), srv.Close())
	}
	return nil
}

// withHTTP offers both protocol versions, as http.Server.ServeTLS would.
func withHTTP(c *tls.Config) *tls.Config {
	c = c.Clone()
	if len(c.NextProtos) == 0 {
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	return c
}

// Package ops is what every daemon needs to be operated: a logger, metrics with health endpoints, an HTTP server that
// ends gracefully, signals, TLS from files. It holds no state of its own and decides nothing. Called by the mains and
// by tests.
package ops

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewLogger writes to w what is at least of the level (debug, info, warn, error), as text or json.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("ops logger: level %q: want debug, info, warn or error", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("ops logger: format %q: want text or json", format)
}

// NewRegistry makes a registry with the collectors of the process and the Go runtime. There is no global one: two
// daemons in one process must not share counters.
func NewRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	return reg
}

// SignalContext turns SIGINT and SIGTERM into contexts: the first signal ends soft (drain and stop in order), the
// second ends hard (stop waiting), which is the parent of soft. stop ends both, gives the signals back to the
// runtime and waits for the watching goroutine.
func SignalContext(parent context.Context) (soft, hard context.Context, stop func()) {
	hard, cancelHard := context.WithCancel(parent)
	soft, cancelSoft := context.WithCancel(hard)
	signals := make(chan os.Signal, 2) // room for both, so that neither is lost
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, cancel := range []context.CancelFunc{cancelSoft, cancelHard} {
			select {
			case <-signals:
				cancel()
			case <-hard.Done():
				return
			}
		}
	})
	return soft, hard, func() {
		signal.Stop(signals)
		cancelHard()
		wg.Wait()
	}
}

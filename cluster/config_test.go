package cluster

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/natstest"
	"github.com/rubato-faas/rubato/messaging/natsbus"
)

var quiet = slog.New(slog.DiscardHandler)

// A record must never name a result that was dropped before it.
func TestResultsOutliveTheirRecords(t *testing.T) {
	cfg := DefaultZoneConfig()
	for _, c := range []struct {
		ttl, keep time.Duration
		good      bool
	}{
		{cfg.Store.Results.TTL, cfg.Async.Keep, true}, {0, time.Hour, true}, {2 * time.Hour, 2 * time.Hour, false}, {time.Minute, time.Hour, false},
	} {
		cfg.Store.Results.TTL, cfg.Async.Keep = c.ttl, c.keep
		if err := cfg.Validate(); strings.Contains(text(err), "store.results") == c.good {
			t.Errorf("results for %v, records for %v: %v", c.ttl, c.keep, err)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// What counts is the bucket as somebody made it, not what this scheduler would have made.
func TestBucketOfResultsThatForgetsEarlyIsRefused(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	// Buckets reserve their bounds, which are above what a server allows itself on a small disk.
	s := natstest.Start(t, func(o *server.Options) { o.JetStreamMaxStore = 256 << 30 })
	bus := natsbus.DefaultConfig()
	bus.InProcess = s
	stores := defaultStores()
	stores.Results.TTL = 30 * time.Minute
	maker, err := connect(ctx, bus, stores, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := maker.bus.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultZoneConfig()
	cfg.NATS = bus
	cfg.Zone.Zone, cfg.Zone.Name = "z", "s1"
	if _, err := NewZone(ctx, cfg, quiet, Hooks{}); !errors.Is(err, api.ErrInvalid) || !strings.Contains(text(err), "store.results") {
		t.Fatalf("a scheduler over it: %v", err)
	}
}

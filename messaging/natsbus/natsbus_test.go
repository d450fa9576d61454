package natsbus_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/natstest"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/messaging/messagingtest"
	"github.com/rubato-faas/rubato/messaging/natsbus"
	"go.uber.org/goleak"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func connect(t testing.TB, s *server.Server, change func(*natsbus.Config)) *natsbus.Bus {
	t.Helper()
	b, err := natsbus.Connect(config(s, change), quiet)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func config(s *server.Server, change func(*natsbus.Config)) natsbus.Config {
	cfg := natsbus.DefaultConfig()
	cfg.URLs = []string{s.ClientURL()}
	if change != nil {
		change(&cfg)
	}
	return cfg
}

func TestConformance(t *testing.T) {
	t.Run("tcp", func(t *testing.T) {
		messagingtest.Run(t, func(t *testing.T) messagingtest.Connect {
			s := natstest.Start(t)
			return func() messaging.Bus { return connect(t, s, nil) }
		})
	})
	t.Run("in process", func(t *testing.T) {
		messagingtest.Run(t, func(t *testing.T) messagingtest.Connect {
			s := natstest.Start(t)
			return func() messaging.Bus { return connect(t, s, func(c *natsbus.Config) { c.InProcess = s }) }
		})
	})
}

func TestConfigFaultsAllAtOnce(t *testing.T) {
	cfg := natsbus.Config{User: "u", Token: "t", TLS: natsbus.TLSFiles{Cert: "c"}}
	_, err := natsbus.Connect(cfg, quiet)
	if !errors.Is(err, api.ErrInvalid) {
		t.Fatalf("error %v, want ErrInvalid", err)
	}
	for _, part := range []string{"no urls", "exclude each other", "tls.cert", "connect_timeout", "pending_msgs"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not tell of %q: %v", part, err)
		}
	}
	good := natsbus.DefaultConfig()
	if err := good.Validate(); err != nil {
		t.Errorf("default config: %v", err)
	}
}

func TestConnectNobodyThereHidesThePassword(t *testing.T) {
	cfg := natsbus.DefaultConfig()
	cfg.URLs = []string{"nats://joe:hush@127.0.0.1:1"}
	_, err := natsbus.Connect(cfg, quiet)
	if !errors.Is(err, api.ErrUnavailable) || strings.Contains(err.Error(), "hush") {
		t.Errorf("error %v, want ErrUnavailable without the password", err)
	}
}

func TestCredentials(t *testing.T) {
	file, public := seedFile(t)
	for _, c := range []struct {
		name   string
		server func(*server.Options)
		client func(*natsbus.Config)
	}{
		{"password", func(o *server.Options) { o.Username, o.Password = "u", "p" }, func(c *natsbus.Config) { c.User, c.Password = "u", "p" }},
		{"token", func(o *server.Options) { o.Authorization = "tok" }, func(c *natsbus.Config) { c.Token = "tok" }},
		{"nkey", func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} }, func(c *natsbus.Config) { c.NKeySeedFile = file }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := natstest.Start(t, c.server)
			if err := connect(t, s, c.client).Close(); err != nil {
				t.Error(err)
			}
			if b, err := natsbus.Connect(config(s, nil), quiet); err == nil {
				b.Close()
				t.Error("connected without credentials")
			}
		})
	}
}

func TestSlowHandlerDropsCounted(t *testing.T) {
	s := natstest.Start(t)
	b := connect(t, s, func(c *natsbus.Config) { c.PendingMsgs = 4 })
	defer b.Close()
	started, release := make(chan struct{}, 64), make(chan struct{})
	sub, err := b.Subscribe("slow", "g", func(*messaging.Msg) { started <- struct{}{}; <-release })
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := b.Publish("slow", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(t.Context()); err != nil { // its answer comes behind the messages
		t.Fatal(err)
	}
	<-started
	st := b.Stats()
	if len(st.Subs) != 1 || st.Subs[0].Pattern != "slow" || st.Subs[0].Group != "g" {
		t.Fatalf("subscriptions %+v", st.Subs)
	}
	if d, p := st.Subs[0].Dropped, st.Subs[0].Pending; d == 0 || d+uint64(p) != 20 || st.Dropped != d {
		t.Errorf("20 messages: %d dropped, %d pending, sum %d", d, p, st.Dropped)
	}
	close(release)
	if err := sub.Stop(); err != nil {
		t.Error(err)
	}
	if after := b.Stats(); after.Dropped != st.Dropped || len(after.Subs) != 0 {
		t.Errorf("after stop: %+v, want the sum %d kept", after, st.Dropped)
	}
}

// The server goes and comes back on the same port: the bus and its subscription go on.
func TestReconnects(t *testing.T) {
	s := natstest.Start(t)
	b := connect(t, s, func(c *natsbus.Config) { c.ReconnectWait, c.ReconnectJitter = time.Millisecond, time.Millisecond })
	defer b.Close()
	heard := make(chan string, 64)
	if _, err := b.Subscribe("x", "", func(m *messaging.Msg) { heard <- string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	port := s.Addr().(*net.TCPAddr).Port
	s.Shutdown()
	s.WaitForShutdown()
	natstest.Start(t, func(o *server.Options) { o.Port = port })
	if err := b.Flush(t.Context()); err != nil { // waits for the connection to be back
		t.Logf("flush across the gap: %v", err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(messagingtest.Patience)
	for {
		if err := b.Publish("x", []byte("again")); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-heard:
			if st := b.Stats(); got != "again" || st.Reconnects != 1 {
				t.Errorf("heard %q after %d reconnects", got, st.Reconnects)
			}
			return
		case <-tick.C:
		case <-deadline:
			t.Fatal("nothing heard after the server came back")
		}
	}
}

func TestCloseGivesUpOnAHandlerThatHangs(t *testing.T) {
	s := natstest.Start(t)
	b := connect(t, s, func(c *natsbus.Config) { c.DrainTimeout = 50 * time.Millisecond })
	started, release := make(chan struct{}), make(chan struct{})
	if _, err := b.Subscribe("x", "", func(*messaging.Msg) { close(started); <-release }); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish("x", nil); err != nil {
		t.Fatal(err)
	}
	<-started
	if err := b.Close(); !errors.Is(err, api.ErrDeadline) {
		t.Errorf("close: %v, want ErrDeadline", err)
	}
	close(release)
}

func TestCloseLeavesNothingRunning(t *testing.T) {
	s := natstest.Start(t)
	connect(t, s, nil).Close() // what the server starts once
	ignore := goleak.IgnoreCurrent()
	b := connect(t, s, nil)
	for i := range 5 {
		if _, err := b.Subscribe(fmt.Sprint("x.", i), "", func(*messaging.Msg) {}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, ignore)
}

func both(b *testing.B, run func(b *testing.B, bus *natsbus.Bus)) {
	s := natstest.Start(b)
	for _, c := range []struct {
		name   string
		change func(*natsbus.Config)
	}{{"tcp", nil}, {"inprocess", func(c *natsbus.Config) { c.InProcess = s }}} {
		b.Run(c.name, func(b *testing.B) {
			bus := connect(b, s, c.change)
			defer bus.Close()
			b.ReportAllocs()
			run(b, bus)
		})
	}
}

// BenchmarkPublishSubscribe is one publisher and one subscriber of 200-byte messages, at most 1,000 in flight.
func BenchmarkPublishSubscribe(b *testing.B) {
	both(b, func(b *testing.B, bus *natsbus.Bus) {
		const inFlight = 1000
		var got atomic.Int64
		credit := make(chan struct{}, inFlight)
		if _, err := bus.Subscribe("bench", "", func(m *messaging.Msg) {
			if len(m.Data) == 200 {
				got.Add(1)
			}
			<-credit
		}); err != nil {
			b.Fatal(err)
		}
		data := make([]byte, 200)
		var sent int64
		for b.Loop() {
			credit <- struct{}{}
			if err := bus.Publish("bench", data); err != nil {
				b.Fatal(err)
			}
			sent++
		}
		for range inFlight { // full again: all were handled
			credit <- struct{}{}
		}
		if got.Load() != sent {
			b.Fatalf("handled %d of %d", got.Load(), sent)
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	both(b, func(b *testing.B, bus *natsbus.Bus) {
		if _, err := bus.Subscribe("echo", "", func(m *messaging.Msg) { _ = bus.Publish(m.Reply, m.Data) }); err != nil {
			b.Fatal(err)
		}
		body := make([]byte, 200)
		for b.Loop() {
			if got, err := bus.Request(b.Context(), "echo", body); err != nil || len(got) != len(body) {
				b.Fatal(len(got), err)
			}
		}
	})
}

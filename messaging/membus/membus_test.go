package membus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/messaging/membus"
	"github.com/rubato-faas/rubato/messaging/messagingtest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func hub(t testing.TB, change func(*membus.Config)) *membus.Hub {
	t.Helper()
	cfg := membus.DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	h, err := membus.NewHub(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestConformance(t *testing.T) {
	messagingtest.Run(t, func(t *testing.T) messagingtest.Connect {
		h := hub(t, nil)
		return func() messaging.Bus { return h.Connect() }
	})
}

func TestConfigRefused(t *testing.T) {
	if _, err := membus.NewHub(membus.Config{}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("error %v, want ErrInvalid", err)
	}
}

// A full buffer drops the newest messages and counts them; the publisher never waits.
func TestSlowHandlerDropsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := hub(t, func(c *membus.Config) { c.PendingMsgs = 3 }).Connect()
		release := make(chan struct{})
		var got []string
		if _, err := b.Subscribe("x", "", func(m *messaging.Msg) {
			<-release
			got = append(got, string(m.Data))
		}); err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			if err := b.Publish("x", []byte(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the first message is now with the handler
		}
		if n := b.Dropped(); n != 6 {
			t.Errorf("dropped %d, want 6", n)
		}
		close(release)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if want := []string{"0", "1", "2", "3"}; !slices.Equal(got, want) {
			t.Errorf("handled %v, want %v", got, want)
		}
		if n := b.Dropped(); n != 6 {
			t.Errorf("dropped %d after close, want 6", n)
		}
	})
}

func TestCloseGivesUpOnAHandlerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := hub(t, nil).Connect()
		release := make(chan struct{})
		if _, err := b.Subscribe("x", "", func(*messaging.Msg) { <-release }); err != nil {
			t.Fatal(err)
		}
		if err := b.Publish("x", nil); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); !errors.Is(err, api.ErrDeadline) {
			t.Errorf("close: %v, want ErrDeadline", err)
		}
		close(release)
	})
}

func TestDropLosesRequestsNotResponders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hub(t, func(c *membus.Config) { c.Drop = func(s string) bool { return strings.HasPrefix(s, "cut.") } })
		b := h.Connect()
		for _, s := range []string{"cut.a", "ok"} {
			if _, err := b.Subscribe(s, "", func(m *messaging.Msg) {
				if err := b.Publish(m.Reply, nil); err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := b.Request(t.Context(), "ok", nil); err != nil {
			t.Errorf("uncut: %v", err)
		}
		if _, err := b.Request(t.Context(), "cut.a", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a lost request: %v, want the default deadline", err)
		}
		if _, err := b.Request(t.Context(), "cut.nobody", nil); !errors.Is(err, messaging.ErrNoResponders) {
			t.Errorf("nobody behind the cut: %v, want ErrNoResponders", err)
		}
		if n := h.Lost(); n != 2 {
			t.Errorf("lost %d, want 2", n)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A delayed message holds back those behind it: order survives, as on a slow link.
func TestDelayKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hub(t, func(c *membus.Config) {
			c.Delay = func(s string) time.Duration {
				if s == "x.slow" {
					return time.Second
				}
				return 0
			}
		})
		b := h.Connect()
		begin := time.Now()
		var got []string
		if _, err := b.Subscribe("x.*", "", func(m *messaging.Msg) {
			got = append(got, fmt.Sprint(m.Subject, " ", time.Since(begin)))
		}); err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"x.a", "x.slow", "x.b"} {
			if err := b.Publish(s, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if want := []string{"x.a 0s", "x.slow 1s", "x.b 1s"}; !slices.Equal(got, want) {
			t.Errorf("handled %v, want %v", got, want)
		}
	})
}

func TestStopDiscardsWhatIsDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := hub(t, func(c *membus.Config) { c.Delay = func(string) time.Duration { return time.Hour } }).Connect()
		s, err := b.Subscribe("x", "", func(*messaging.Msg) { t.Error("handled after stop") })
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Publish("x", nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := errors.Join(s.Stop(), b.Close()); err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	bus := hub(b, nil).Connect()
	defer bus.Close()
	if _, err := bus.Subscribe("x", "", func(m *messaging.Msg) { _ = bus.Publish(m.Reply, m.Data) }); err != nil {
		b.Fatal(err)
	}
	body := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		if got, err := bus.Request(b.Context(), "x", body); err != nil || len(got) != len(body) {
			b.Fatal(len(got), err)
		}
	}
}

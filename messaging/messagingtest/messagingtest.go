// Package messagingtest is the conformance suite of the messaging port: what every bus must do alike, so that a
// daemon proved on the in-memory bus runs on the real one. Only _test.go files import it. Each property gets a
// fresh bus; waits are on channels, bounded by Patience.
package messagingtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/messaging"
)

// Patience bounds each wait for something that must happen.
const Patience = 10 * time.Second

// Connect gives one more party on the same bus. The suite closes what it opened.
type Connect func() messaging.Bus

// Run checks every property. open starts a fresh, empty bus and returns how to connect to it; its limit of one
// message is 1 MiB.
func Run(t *testing.T, open func(t *testing.T) Connect) {
	for _, p := range []struct {
		name  string
		check func(t *testing.T, connect Connect)
	}{
		{"patterns choose who hears", patterns},
		{"a group hears each message once", groups},
		{"one publisher's messages keep their order", order},
		{"reply and trace travel, absent ones stay absent", envelope},
		{"publisher and handlers keep their own bytes", ownership},
		{"request gets its answer", request},
		{"many requests at once get each their own answer", manyRequests},
		{"request to nobody fails at once", noResponders},
		{"request without answer ends with its context", unanswered},
		{"bad subjects and large bodies are refused", refusals},
		{"stop ends delivery", stop},
		{"close handles what came and waits for the handler", closeWaits},
		{"a closed bus refuses everything", closed},
	} {
		t.Run(p.name, func(t *testing.T) { p.check(t, open(t)) })
	}
}

func dial(t *testing.T, connect Connect) messaging.Bus {
	t.Helper()
	b := connect()
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

// subscribe also makes sure that the bus knows of it.
func subscribe(t *testing.T, b messaging.Bus, pattern, group string, h messaging.Handler) messaging.Subscription {
	t.Helper()
	s, err := b.Subscribe(pattern, group, h)
	if err != nil {
		t.Fatalf("subscribe %s: %v", pattern, err)
	}
	flush(t, b)
	return s
}

func flush(t *testing.T, b messaging.Bus) {
	t.Helper()
	if err := b.Flush(t.Context()); err != nil {
		t.Fatalf("flush: %v", err)
	}
}

func publish(t *testing.T, b messaging.Bus, subject, data string) {
	t.Helper()
	if err := b.Publish(subject, []byte(data)); err != nil {
		t.Fatalf("publish %s: %v", subject, err)
	}
}

func receive[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(Patience):
		t.Fatalf("%s: nothing after %v", what, Patience)
		panic("unreachable")
	}
}

func patterns(t *testing.T, connect Connect) {
	a, b := dial(t, connect), dial(t, connect)
	subjects := []string{"z.a.n.1.run", "z.a.n.2.run", "z.a.n.2.stop", "z.b.n.1.run", "z.a", "y"}
	for _, p := range []struct {
		pattern string
		want    []string
	}{
		{"z.a.n.1.run", []string{"z.a.n.1.run"}},
		{"z.a.n.*.run", []string{"z.a.n.1.run", "z.a.n.2.run"}},
		{"z.*.n.1.*", []string{"z.a.n.1.run", "z.b.n.1.run"}},
		{"z.a.>", []string{"z.a.n.1.run", "z.a.n.2.run", "z.a.n.2.stop"}},
		{"*", []string{"y"}},
		{">", subjects},
	} {
		heard := make(chan string, 16)
		s := subscribe(t, a, p.pattern, "", func(m *messaging.Msg) { heard <- m.Subject })
		for _, subject := range subjects {
			publish(t, b, subject, "x")
		}
		var got []string
		for range p.want {
			got = append(got, receive(t, heard, p.pattern))
		}
		// A last message that the pattern surely takes shows that no other came before it.
		publish(t, b, p.want[0], "x")
		if last := receive(t, heard, p.pattern); last != p.want[0] || !slices.Equal(got, p.want) {
			t.Errorf("pattern %s heard %v then %s, want %v then %s", p.pattern, got, last, p.want, p.want[0])
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func groups(t *testing.T, connect Connect) {
	const n, members = 300, 3
	pub := dial(t, connect)
	heard := make(chan string, 2*n)
	var each [members]atomic.Int64
	for i := range members {
		subscribe(t, dial(t, connect), "work.*", "g", func(m *messaging.Msg) {
			each[i].Add(1)
			heard <- string(m.Data)
		})
	}
	all := make(chan string, 2*n)
	subscribe(t, dial(t, connect), "work.>", "", func(m *messaging.Msg) { all <- string(m.Data) })
	for i := range n {
		publish(t, pub, "work.x", fmt.Sprint(i))
	}
	times := map[string]int{}
	for range n {
		times[receive(t, heard, "group")]++
		receive(t, all, "plain subscriber")
	}
	if len(times) != n {
		t.Errorf("the group heard %d different messages of %d", len(times), n)
	}
	for i := range each {
		if each[i].Load() == 0 {
			t.Errorf("member %d of the group heard none of %d messages", i, n)
		}
	}
}

func order(t *testing.T, connect Connect) {
	const n = 2000
	a, b := dial(t, connect), dial(t, connect)
	heard := make(chan string, n)
	subscribe(t, a, "o.>", "", func(m *messaging.Msg) { heard <- string(m.Data) })
	for i := range n {
		publish(t, b, "o.x", fmt.Sprint(i))
	}
	for i := range n {
		if got := receive(t, heard, "message"); got != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, got)
		}
	}
}

func envelope(t *testing.T, connect Connect) {
	a, b := dial(t, connect), dial(t, connect)
	heard := make(chan messaging.Msg, 4)
	subscribe(t, a, "e", "", func(m *messaging.Msg) { heard <- *m })
	for _, data := range []string{"", "d"} {
		publish(t, b, "e", data)
		if got := receive(t, heard, "message"); got.Subject != "e" || got.Reply != "" || string(got.Data) != data {
			t.Errorf("sent %q, heard %+v", data, got)
		}
	}
}

func ownership(t *testing.T, connect Connect) {
	a, b := dial(t, connect), dial(t, connect)
	kept := make(chan []byte, 4)
	for range 2 {
		subscribe(t, a, "own", "", func(m *messaging.Msg) { kept <- m.Data })
	}
	buf := []byte("first")
	publishBytes := func() {
		if err := b.Publish("own", buf); err != nil {
			t.Fatal(err)
		}
	}
	publishBytes()
	copy(buf, "SECON") // the buffer is the publisher's again
	publishBytes()
	var got [][]byte
	for range 4 {
		got = append(got, receive(t, kept, "message"))
	}
	slices.SortFunc(got, bytes.Compare)
	got[0][0] = '!' // must not show in another receiver's bytes
	if want := "!ECON SECON first first"; string(bytes.Join(got, []byte(" "))) != want {
		t.Errorf("receivers hold %s, want %s", bytes.Join(got, []byte(" ")), want)
	}
}

func request(t *testing.T, connect Connect) {
	a, b := dial(t, connect), dial(t, connect)
	subscribe(t, a, "echo.*", "g", func(m *messaging.Msg) {
		if err := a.Publish(m.Reply, append([]byte(m.Subject+" "), m.Data...)); err != nil {
			t.Error(err)
		}
	})
	got, err := b.Request(t.Context(), "echo.x", []byte("hello"))
	if err != nil || string(got) != "echo.x hello" {
		t.Errorf("answer %q, %v", got, err)
	}
	subscribe(t, a, "empty", "", func(m *messaging.Msg) {
		if err := a.Publish(m.Reply, nil); err != nil {
			t.Error(err)
		}
	})
	if got, err := b.Request(t.Context(), "empty", nil); err != nil || len(got) != 0 {
		t.Errorf("empty answer %q, %v", got, err)
	}
}

func manyRequests(t *testing.T, connect Connect) {
	a, b := dial(t, connect), dial(t, connect)
	subscribe(t, a, "twice", "", func(m *messaging.Msg) {
		if err := a.Publish(m.Reply, append(m.Data, m.Data...)); err != nil {
			t.Error(err)
		}
	})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for k := range 20 {
				in := fmt.Sprintf("%d/%d ", i, k)
				if got, err := b.Request(t.Context(), "twice", []byte(in)); err != nil || string(got) != in+in {
					t.Errorf("answer to %q: %q, %v", in, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func noResponders(t *testing.T, connect Connect) {
	b := dial(t, connect)
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if _, err := b.Request(ctx, "nobody.home", []byte("x")); !errors.Is(err, messaging.ErrNoResponders) {
		t.Errorf("error %v, want ErrNoResponders", err)
	}
}

func unanswered(t *testing.T, connect Connect) {
	a, b := dial(t, connect), dial(t, connect)
	asked := make(chan struct{}, 2)
	subscribe(t, a, "mute", "", func(*messaging.Msg) { asked <- struct{}{} })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := b.Request(ctx, "mute", nil)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, api.ErrDeadline) {
		t.Errorf("error %v, want a deadline error of both kinds", err)
	}
	receive(t, asked, "first request")
	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := b.Request(ctx, "mute", nil)
		done <- err
	}()
	receive(t, asked, "second request")
	cancel()
	if err := receive(t, done, "canceled request"); !errors.Is(err, api.ErrCanceled) {
		t.Errorf("error %v, want ErrCanceled", err)
	}
}

func refusals(t *testing.T, connect Connect) {
	b := dial(t, connect)
	for _, s := range []string{"", "a b", "a\r\nPUB b"} {
		if err := b.Publish(s, nil); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("publish to %q: %v, want ErrInvalid", s, err)
		}
	}
	for _, s := range []string{"", "a b", "a..b", "a.>.b"} {
		if _, err := b.Subscribe(s, "", func(*messaging.Msg) {}); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("subscribe to %q: %v, want ErrInvalid", s, err)
		}
	}
	if err := b.Publish("big", make([]byte, 1<<20+1)); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("publish of 1 MiB and a byte: %v, want ErrTooLarge", err)
	}
	if err := b.Publish("big", make([]byte, 1<<20)); err != nil {
		t.Errorf("publish of 1 MiB: %v", err)
	}
}

func stop(t *testing.T, connect Connect) {
	a, b := dial(t, connect), dial(t, connect)
	heard := make(chan string, 4)
	s := subscribe(t, a, "s", "", func(m *messaging.Msg) { heard <- "stopped " + string(m.Data) })
	subscribe(t, a, "s", "", func(m *messaging.Msg) { heard <- "other " + string(m.Data) })
	publish(t, b, "s", "1")
	first := []string{receive(t, heard, "one"), receive(t, heard, "two")}
	slices.Sort(first)
	if want := []string{"other 1", "stopped 1"}; !slices.Equal(first, want) {
		t.Errorf("heard %v, want %v", first, want)
	}
	for range 2 { // the second is harmless
		if err := s.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
	flush(t, a)
	publish(t, b, "s", "2")
	publish(t, b, "s", "3")
	for _, want := range []string{"other 2", "other 3"} {
		if got := receive(t, heard, want); got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
}

func closeWaits(t *testing.T, connect Connect) {
	a, b := connect(), dial(t, connect)
	started, release := make(chan struct{}), make(chan struct{})
	var handled atomic.Int64
	subscribe(t, a, "c", "", func(*messaging.Msg) {
		if handled.Add(1) == 1 {
			close(started)
			<-release
		}
	})
	publish(t, b, "c", "1")
	publish(t, b, "c", "2")
	flush(t, b)
	receive(t, started, "handler")
	flush(t, a) // an answer that comes after "2" on the same connection
	done := make(chan error, 1)
	go func() { done <- a.Close() }()
	select {
	case err := <-done:
		t.Errorf("close returned (%v) while a handler ran", err)
	case <-time.After(30 * time.Millisecond):
	}
	close(release)
	if err := receive(t, done, "close"); err != nil {
		t.Errorf("close: %v", err)
	}
	if n := handled.Load(); n != 2 {
		t.Errorf("handled %d messages before close returned, want 2", n)
	}
}

func closed(t *testing.T, connect Connect) {
	b := connect()
	s := subscribe(t, b, "x", "", func(*messaging.Msg) {})
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
	}
	if err := s.Stop(); err != nil {
		t.Errorf("stop after close: %v", err)
	}
	_, subErr := b.Subscribe("x", "", func(*messaging.Msg) {})
	_, reqErr := b.Request(t.Context(), "x", nil)
	for _, c := range []struct {
		verb string
		err  error
	}{
		{"publish", b.Publish("x", nil)}, {"subscribe", subErr}, {"request", reqErr}, {"flush", b.Flush(t.Context())},
	} {
		if !errors.Is(c.err, messaging.ErrClosed) {
			t.Errorf("%s after close: %v, want ErrClosed", c.verb, c.err)
		}
	}
}

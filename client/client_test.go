package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/client"
	"github.com/rubato-faas/rubato/gateway"
	"github.com/rubato-faas/rubato/objectstore"
	"github.com/rubato-faas/rubato/objectstore/memstore"
)

type unasked = gateway.Zone

// zone is a scheduler that answers with the payload; only the function "fail" fails.
type zone struct {
	unasked // what no test asks for
	store   objectstore.Store

	mu       sync.Mutex
	deployed map[string]api.Function
	records  map[string]*wire.Answer
}

func (z *zone) Invoke(_ context.Context, inv *api.Invocation) *wire.Answer {
	t := wire.Timing{Zone: "edge", Node: "n1", Start: api.SandboxWarm}
	if inv.Function == "fail" {
		return &wire.Answer{ID: inv.ID, Code: api.CodeFunction, Message: "it failed", Result: []byte(`{"errorType":"Bad"}`), Timing: t}
	}
	return &wire.Answer{ID: inv.ID, Result: inv.Payload, Timing: t}
}

// InvokeAsync ends the call at once, with a result by reference.
func (z *zone) InvokeAsync(ctx context.Context, inv *api.Invocation) error {
	ref := objectstore.BodyKey(inv.Tenant, inv.ID+"/result")
	if _, err := z.store.Put(ctx, ref, bytes.NewReader(inv.Payload)); err != nil {
		return err
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[inv.Tenant+"/"+inv.ID] = &wire.Answer{ID: inv.ID, ResultRef: ref}
	return nil
}

func (z *zone) Result(_ context.Context, tenant, id string) (*wire.Answer, bool, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if id == "waiting" {
		return nil, true, nil
	}
	if a := z.records[tenant+"/"+id]; a != nil {
		return a, false, nil
	}
	return nil, false, fmt.Errorf("%w: invocation %s", api.ErrNotFound, id)
}

func (z *zone) Function(id string) (api.Function, bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f, ok := z.deployed[id]
	return f, ok
}

func (z *zone) Functions(string) []api.Function {
	f, ok := z.Function("default/echo")
	if !ok {
		return nil
	}
	return []api.Function{f}
}

func (z *zone) Deploy(_ context.Context, f api.Function, _ string) (uint64, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f.Version = z.deployed[f.ID()].Version + 1
	z.deployed[f.ID()] = f
	return f.Version, nil
}

func (z *zone) Delete(_ context.Context, tenant, name, _ string) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	delete(z.deployed, tenant+"/"+name)
	return nil
}

func (z *zone) Logs(context.Context, string, int) ([]wire.LogLine, error) {
	return []wire.LogLine{{ID: "i1", Node: "n1", Text: "hello"}}, nil
}

func (z *zone) Query(_ context.Context, kind, arg string) (json.RawMessage, error) {
	return json.RawMessage(`{"kind":"` + kind + `","arg":"` + arg + `"}`), nil
}

func (z *zone) QueryZone(_ context.Context, of, kind, arg string) (json.RawMessage, error) {
	if kind == "policy" && arg == "nonsense" {
		return nil, fmt.Errorf("%w: policy %q", api.ErrInvalid, arg)
	}
	return json.Marshal(map[string]string{"zone": of, "kind": kind, "arg": arg})
}

func (z *zone) Cancel(context.Context, string, string) error { return nil }
func (z *zone) Zone() string                                 { return "edge" }

// serve starts a door without authentication and returns a client of it.
func serve(t *testing.T) *client.Client {
	t.Helper()
	store := memstore.New(256 << 20)
	z := &zone{store: store, deployed: map[string]api.Function{}, records: map[string]*wire.Answer{}}
	for _, name := range []string{"echo", "fail"} {
		z.deployed["default/"+name] = api.Function{Tenant: "default", Name: name, Version: 1, Runtime: api.RuntimeWasm}
	}
	cfg := gateway.DefaultConfig()
	cfg.Auth = "off"
	g, err := gateway.New(cfg, gateway.Deps{Zone: z, Objects: store, Results: store, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return dial(t, g.Handler())
}

// dial serves a handler on loopback for the length of the test.
func dial(t *testing.T, h http.Handler, before ...string) *client.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := client.New(append(before, s.URL))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func opener(b []byte) func() (io.Reader, error) {
	return func() (io.Reader, error) { return bytes.NewReader(b), nil }
}

func TestInvokeTellsResultAndFailure(t *testing.T) {
	c := serve(t)
	res, err := c.Invoke(t.Context(), client.Invocation{Function: "echo", Payload: []byte("hi"), Deadline: time.Second, Priority: 3})
	if err != nil || string(res.Body) != "hi" || res.ID == "" || res.Header.Get("X-Node") != "n1" {
		t.Fatalf("result %+v, %v", res, err)
	}
	_, err = c.Invoke(t.Context(), client.Invocation{Function: "fail"})
	var e *client.Error
	if !errors.As(err, &e) || e.Status != 502 || !errors.Is(err, api.ErrFunction) || string(e.Detail) != `{"errorType":"Bad"}` || e.RequestID == "" {
		t.Fatalf("a failed function: %v (%+v)", err, e)
	}
	if _, err = c.Invoke(t.Context(), client.Invocation{Function: "none"}); !errors.Is(err, api.ErrNotFound) {
		t.Fatalf("an unknown function: %v", err)
	}
	if _, err = c.Invoke(t.Context(), client.Invocation{Function: "echo", Priority: 12}); !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), "X-Priority") {
		t.Fatalf("a bad header: %v", err)
	}
}

func TestAsyncResultOfAnySize(t *testing.T) {
	c := serve(t)
	want := bytes.Repeat([]byte("r"), api.InlineBytes/2)
	id, err := c.InvokeAsync(t.Context(), client.Invocation{Function: "echo", Payload: want})
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Result(t.Context(), id)
	if err != nil || s.State != "done" || !s.Large {
		t.Fatalf("state %+v, %v", s, err)
	}
	body, err := c.RawResult(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v; want %d", len(got), err, len(want))
	}
	if _, err := c.RawResult(t.Context(), "waiting"); !errors.Is(err, api.ErrUnavailable) {
		t.Fatalf("a call that has not ended: %v", err)
	}
	if _, err := c.RawResult(t.Context(), "nothing"); !errors.Is(err, api.ErrNotFound) {
		t.Fatalf("an unknown call: %v", err)
	}
}

// counted counts the bytes that are read of it.
type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// An artifact that the door has already is not sent a second time.
func TestLargeArtifactTravelsOnce(t *testing.T) {
	c := serve(t)
	art := bytes.Repeat([]byte("artifact"), 2<<20)
	sum := sha256.Sum256(art)
	digest := hex.EncodeToString(sum[:])
	if has, err := c.HasArtifact(t.Context(), digest); has || err != nil {
		t.Fatalf("has it before it was put: %v, %v", has, err)
	}
	for _, want := range []int64{int64(len(art)), 0, 0} {
		var sent atomic.Int64
		err := c.PutArtifact(t.Context(), digest, int64(len(art)), func() (io.Reader, error) { return counted{bytes.NewReader(art), &sent}, nil })
		if err != nil || sent.Load() != want {
			t.Fatalf("%d bytes were sent, want %d: %v", sent.Load(), want, err)
		}
	}
	if has, err := c.HasArtifact(t.Context(), digest); !has || err != nil {
		t.Fatalf("has it: %v, %v", has, err)
	}
	v, err := c.Deploy(t.Context(), client.Function{Name: "echo", Runtime: api.RuntimeProcess, Artifact: digest, MemoryMB: 64, TimeoutMs: 1000}, "once")
	if err != nil || v != 2 {
		t.Fatalf("version %d, %v", v, err)
	}
	f, err := c.Function(t.Context(), "echo")
	if err != nil || f.Version != 2 || f.ArtifactBytes != int64(len(art)) {
		t.Fatalf("function %+v, %v", f, err)
	}
	if err := c.Delete(t.Context(), "echo"); err != nil {
		t.Fatal(err)
	}
	if fns, err := c.Functions(t.Context()); err != nil || len(fns) != 0 {
		t.Fatalf("functions %+v, %v", fns, err)
	}
}

func TestObjects(t *testing.T) {
	c := serve(t)
	if o, err := c.Put(t.Context(), "a/b.txt", 3, opener([]byte("one"))); err != nil || o.Bytes != 3 || o.Key != "a/b.txt" {
		t.Fatalf("put %+v, %v", o, err)
	}
	if _, err := c.Put(t.Context(), "a/b.txt", 3, opener([]byte("two"))); !errors.Is(err, api.ErrExists) {
		t.Fatalf("other content: %v", err)
	}
	body, n, err := c.Get(t.Context(), "a/b.txt")
	if err != nil || n != 3 {
		t.Fatalf("get %d, %v", n, err)
	}
	defer body.Close()
	if b, err := io.ReadAll(body); err != nil || string(b) != "one" {
		t.Fatalf("read %q, %v", b, err)
	}
	if l, err := c.Objects(t.Context(), "a/", 10); err != nil || len(l) != 1 {
		t.Fatalf("list %+v, %v", l, err)
	}
	if err := c.Remove(t.Context(), "a/b.txt"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Get(t.Context(), "a/b.txt"); !errors.Is(err, api.ErrNotFound) {
		t.Fatalf("after removal: %v", err)
	}
}

func TestViewsAndSwitches(t *testing.T) {
	c := serve(t)
	var v struct{ Zone, Kind, Arg string }
	if err := c.Look(t.Context(), "decisions?since=7", &v); err != nil || v.Kind != "decisions" || v.Arg != "7" {
		t.Fatalf("look %+v, %v", v, err)
	}
	if err := c.SetPolicy(t.Context(), client.PolicyChange{Zone: "core", Policy: "fixed-delay", WaitMs: 100}, &v); err != nil || v.Zone != "core" || v.Kind != "policy" || v.Arg != "fixed-delay,100ms" {
		t.Fatalf("set %+v, %v", v, err)
	}
	if err := c.SetPolicy(t.Context(), client.PolicyChange{Policy: "nonsense"}, nil); !errors.Is(err, api.ErrInvalid) {
		t.Fatalf("an unknown policy: %v", err)
	}
	if err := errors.Join(c.Flush(t.Context(), ""), c.Cancel(t.Context(), "i1")); err != nil {
		t.Fatal(err)
	}
	if l, err := c.Logs(t.Context(), "echo", 5); err != nil || len(l) != 1 || l[0].Text != "hello" {
		t.Fatalf("logs %+v, %v", l, err)
	}
}

// refusing answers status a number of times, then {}.
func refusing(status, times int, seen *atomic.Int64) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if seen.Add(1) <= int64(times) {
			w.WriteHeader(status)
			fmt.Fprint(w, `{"code":"unavailable","message":"no leader","request_id":"r1"}`)
			return
		}
		fmt.Fprint(w, `{}`)
	}
}

func TestOnlySafeRequestsAreSentAgain(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		ask    func(c *client.Client) error
		want   int64
	}{
		{"a look", 503, func(c *client.Client) error { return c.Look(context.Background(), "zone", nil) }, 2},
		{"a call with a key", 429, func(c *client.Client) error {
			_, err := c.Invoke(context.Background(), client.Invocation{Function: "f", IdempotencyKey: "k"})
			return err
		}, 2},
		{"a call without one", 503, func(c *client.Client) error {
			_, err := c.Invoke(context.Background(), client.Invocation{Function: "f"})
			return err
		}, 1},
		{"what cannot help", 400, func(c *client.Client) error { return c.Look(context.Background(), "zone", nil) }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var seen atomic.Int64
			err := tt.ask(dial(t, refusing(tt.status, 1, &seen)))
			if seen.Load() != tt.want || (tt.want > 1) != (err == nil) {
				t.Fatalf("sent %d times, %v; want %d", seen.Load(), err, tt.want)
			}
		})
	}
}

func TestRetryAfterIsHonouredWithinTheContext(t *testing.T) {
	var seen atomic.Int64
	c := dial(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "5")
		refusing(503, 1, &seen)(w, r)
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := c.Look(ctx, "zone", nil)
	if seen.Load() != 1 || !errors.Is(err, api.ErrDeadline) || !strings.Contains(err.Error(), "no leader") {
		t.Fatalf("sent %d times, %v; want one, and the reason", seen.Load(), err)
	}
}

func TestTheNextDoorServes(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	var seen atomic.Int64
	if err := dial(t, refusing(0, 0, &seen), gone.URL).SetPolicy(t.Context(), client.PolicyChange{Policy: "rubato"}, nil); err != nil || seen.Load() != 1 {
		t.Fatalf("the second door saw %d requests, %v", seen.Load(), err)
	}
	c, err := client.New([]string{gone.URL})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Invoke(t.Context(), client.Invocation{Function: "f"}); !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), "rubato up") {
		t.Fatalf("no door: %v", err)
	}
	for _, bad := range [][]string{nil, {"127.0.0.1:7070"}, {"ftp://x"}, {""}} {
		if _, err := client.New(bad); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("servers %q: %v", bad, err)
		}
	}
}

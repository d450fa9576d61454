package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/objectstore"
	"github.com/rubato-faas/rubato/objectstore/memstore"
)

// zone is a scheduler that answers as told.
type zone struct {
	mu       sync.Mutex
	answer   func(ctx context.Context, inv *api.Invocation) *wire.Answer
	seen     []*api.Invocation
	accepted map[string]*api.Invocation
	records  map[string]*wire.Answer
	canceled []string
	refuse   error // of asynchronous calls
	deployed map[string]api.Function
}

func (z *zone) Invoke(ctx context.Context, inv *api.Invocation) *wire.Answer {
	z.mu.Lock()
	z.seen = append(z.seen, inv)
	z.mu.Unlock()
	return z.answer(ctx, inv)
}

func (z *zone) InvokeAsync(_ context.Context, inv *api.Invocation) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.refuse != nil {
		return z.refuse
	}
	z.accepted[inv.ID] = inv
	return nil
}

func (z *zone) Result(_ context.Context, tenant, id string) (*wire.Answer, bool, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if a := z.records[tenant+"/"+id]; a != nil {
		return a, false, nil
	}
	if inv := z.accepted[id]; inv != nil && inv.Tenant == tenant {
		return nil, true, nil
	}
	return nil, false, fmt.Errorf("%w: invocation %s", api.ErrNotFound, id)
}

func (z *zone) Cancel(_ context.Context, tenant, id string) error {
	z.canceled = append(z.canceled, tenant+"/"+id)
	return nil
}

func (z *zone) Function(id string) (api.Function, bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f, ok := z.deployed[id]
	return f, ok
}

func (z *zone) Functions(tenant string) []api.Function {
	z.mu.Lock()
	defer z.mu.Unlock()
	var out []api.Function
	for _, f := range z.deployed {
		if tenant == "" || f.Tenant == tenant {
			out = append(out, f)
		}
	}
	return out
}

func (z *zone) QueryZone(ctx context.Context, zone, kind, arg string) (json.RawMessage, error) {
	if zone != "test" || kind == "ended" {
		return json.Marshal([]string{zone, kind, arg})
	}
	return z.Query(ctx, kind, arg)
}

func (z *zone) Query(_ context.Context, kind, arg string) (json.RawMessage, error) {
	switch {
	case kind == "explain" && arg == "known":
		return json.RawMessage(`{"id":"known","function":"acme/f"}`), nil
	case kind == "explain":
		return nil, fmt.Errorf("%w: invocation %s", api.ErrNotFound, arg)
	case kind == "prewarm":
		return json.RawMessage(`{"begun":1,"asked":"` + arg + `"}`), nil
	case kind == "decisions":
		return json.RawMessage(`{"next":3,"decisions":[{"function":"acme/f"},{"function":"other/g"}]}`), nil
	}
	return json.RawMessage(`{}`), nil
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
	if _, ok := z.deployed[tenant+"/"+name]; !ok {
		return fmt.Errorf("%w: function %s", api.ErrNotFound, name)
	}
	delete(z.deployed, tenant+"/"+name)
	return nil
}

func (z *zone) Logs(context.Context, string, int) ([]wire.LogLine, error) { return nil, nil }
func (z *zone) Zones(context.Context) (json.RawMessage, error)            { return json.RawMessage(`{}`), nil }
func (z *zone) Ready() error                                              { return nil }
func (z *zone) Zone() string                                              { return "test" }

func ok(_ context.Context, inv *api.Invocation) *wire.Answer {
	return &wire.Answer{ID: inv.ID, Result: []byte("result"), Timing: wire.Timing{Node: "n1", Zone: "test", Start: api.SandboxWarm, RunMs: 1.5}}
}

const (
	acmeToken  = "acme-token-0123456789"
	otherToken = "other-token-0123456789"
	opToken    = "operator-token-0123456789"
)

type door struct {
	t       testing.TB
	z       *zone
	cfg     Config
	store   objectstore.Store
	results objectstore.Store
	h       http.Handler
}

func newDoor(t testing.TB, auth string) *door {
	t.Helper()
	d := &door{t: t, store: memstore.New(64 << 20), results: memstore.New(64 << 20), z: &zone{
		answer: ok, accepted: map[string]*api.Invocation{}, records: map[string]*wire.Answer{},
		deployed: map[string]api.Function{"acme/f": {Tenant: "acme", Name: "f", Version: 1}, "default/f": {Tenant: "default", Name: "f", Version: 1}},
	}}
	d.cfg = DefaultConfig()
	d.cfg.Auth = auth
	d.cfg.Tokens = []Token{{acmeToken, "acme", false}, {otherToken, "other", false}, {opToken, "ops", true}}
	d.rewire(t)
	return d
}

// rewire makes the door anew, after its store or configuration was changed.
func (d *door) rewire(t testing.TB) {
	t.Helper()
	g, err := New(d.cfg, Deps{Zone: d.z, Objects: d.store, Results: d.results, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	d.h = g.Handler()
}

// do sends a request; headers are "Name: value".
func (d *door) do(method, path, token, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	d.h.ServeHTTP(w, r)
	return w
}

func (d *door) want(w *httptest.ResponseRecorder, status int, part string) {
	d.t.Helper()
	if w.Code != status || !strings.Contains(w.Body.String(), part) {
		d.t.Fatalf("answered %d %q, want %d and %q", w.Code, w.Body.String(), status, part)
	}
	if status >= 400 {
		var e Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code == "" || e.RequestID == "" {
			d.t.Fatalf("error body %q: want code and request_id (%v)", w.Body.String(), err)
		}
	}
	if (status == 429 || status == 503) && w.Header().Get("Retry-After") == "" {
		d.t.Fatal("no Retry-After")
	}
}

const invokeF = "/v1/functions/f/invoke"

func TestInvokeAnswersWithTiming(t *testing.T) {
	d := newDoor(t, "on")
	w := d.do("POST", invokeF, acmeToken, "hello", "X-Deadline-Ms: 900", "Idempotency-Key: k1",
		"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	d.want(w, 200, "result")
	for h, v := range map[string]string{"X-Node": "n1", "X-Zone": "test", "X-Start-Type": "warm", "X-Decision": "run"} {
		if w.Header().Get(h) != v {
			t.Errorf("header %s is %q, want %q", h, w.Header().Get(h), v)
		}
	}
	if s := w.Header().Get("Server-Timing"); !strings.Contains(s, "run;dur=1.500") {
		t.Errorf("Server-Timing %q", s)
	}
	inv := d.z.seen[0]
	if inv.Tenant != "acme" || inv.BudgetMs != 900 || inv.IdemKey != "k1" || string(inv.Payload) != "hello" || inv.Trace == "" || inv.ID != w.Header().Get("X-Request-Id") {
		t.Errorf("invocation %+v", inv)
	}
}

func TestBadRequestsNameWhatIsWrong(t *testing.T) {
	d := newDoor(t, "on")
	for _, c := range []struct {
		header string
		status int
		part   string
	}{
		{"X-Deadline-Ms: soon", 400, "X-Deadline-Ms"},
		{"X-Deadline-Ms: 0", 504, "had passed"},
		{"X-Deadline-Ms: -5", 504, "had passed"},
		{"X-Priority: 12", 400, "X-Priority"},
		{"traceparent: 00-zz-1-1", 400, "traceparent"},
		{"X-Input: ../etc/passwd", 400, "X-Input"},
		{"X-Input: nothing/there", 404, "nothing/there"},
		{"X-Input: " + strings.Repeat("a,", 20), 400, "at most 16"},
		{"Idempotency-Key: " + strings.Repeat("k", 300), 400, "Idempotency-Key"},
	} {
		d.want(d.do("POST", invokeF, acmeToken, "", c.header), c.status, c.part)
	}
	d.want(d.do("POST", "/v1/functions/nope/invoke", acmeToken, ""), 404, "nope")
	d.want(d.do("POST", "/v1/functions/F%20x/invoke", acmeToken, ""), 400, "want 1-64")
	d.want(d.do("GET", "/v1/nothing", acmeToken, ""), 404, "no route")
	if len(d.z.seen) != 0 {
		t.Fatalf("%d bad requests reached the scheduler", len(d.z.seen))
	}
}

func TestAnswersMapToStatuses(t *testing.T) {
	d := newDoor(t, "on")
	for code, status := range map[api.Code]int{
		api.CodeOverloaded: 429, api.CodeUnavailable: 503, api.CodeDeadline: 504, api.CodeFunction: 502, api.CodeNotFound: 404,
		api.CodeTooLarge: 413, api.CodeCanceled: 499, api.CodeInternal: 500,
	} {
		d.z.answer = func(_ context.Context, inv *api.Invocation) *wire.Answer {
			return &wire.Answer{ID: inv.ID, Code: code, Message: "why", Result: []byte(`{"errorType":"E"}`), RetryMs: 1500}
		}
		w := d.do("POST", invokeF, acmeToken, "")
		d.want(w, status, `"errorType":"E"`)
		if r := w.Header().Get("Retry-After"); (status == 429 || status == 503) && r != "2" {
			t.Errorf("Retry-After %q, want 2", r)
		}
	}
}

func TestPayloadLimits(t *testing.T) {
	d := newDoor(t, "on")
	d.want(d.do("POST", invokeF, acmeToken, strings.Repeat("x", api.MaxPayloadBytes+1)), 413, "want at most")
	big := strings.Repeat("y", api.InlineBytes+1)
	d.z.answer = func(ctx context.Context, inv *api.Invocation) *wire.Answer {
		r, _, err := d.store.Get(ctx, inv.PayRef)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if b, err := io.ReadAll(r); err != nil || string(b) != big || inv.PayBytes != int64(len(big)) || inv.Payload != nil {
			t.Fatalf("payload by reference: %d bytes, %v", len(b), err)
		}
		ref := objectstore.BodyKey(inv.Tenant, inv.ID+"/result")
		if _, err := d.results.Put(ctx, ref, strings.NewReader(big)); err != nil {
			t.Fatal(err)
		}
		return &wire.Answer{ID: inv.ID, ResultRef: ref}
	}
	w := d.do("POST", invokeF, acmeToken, big)
	if w.Code != 200 || w.Body.String() != big {
		t.Fatalf("answered %d with %d bytes", w.Code, w.Body.Len())
	}
	if _, err := d.store.Stat(context.Background(), d.z.seen[0].PayRef); err == nil {
		t.Fatal("the payload was left in the store")
	}
}

// The first of several callers with one key leaves: the call goes on for the others, with the first one's payload.
func TestPayloadStaysForJoinedCallers(t *testing.T) {
	d := newDoor(t, "on")
	d.z.answer = func(_ context.Context, inv *api.Invocation) *wire.Answer {
		return &wire.Answer{ID: inv.ID, Code: api.CodeCanceled, Message: "the caller went away"}
	}
	for key, kept := range map[string]bool{"": false, "k": true} {
		d.do("POST", invokeF, acmeToken, strings.Repeat("y", api.InlineBytes+1), "Idempotency-Key: "+key)
		inv := d.z.seen[len(d.z.seen)-1]
		if _, err := d.store.Stat(context.Background(), inv.PayRef); (err == nil) != kept {
			t.Errorf("key %q: payload kept: %v, want %v", key, err == nil, kept)
		}
	}
}

func TestCallerWhoLeavesCancels(t *testing.T) {
	d := newDoor(t, "off")
	entered := make(chan struct{})
	d.z.answer = func(ctx context.Context, inv *api.Invocation) *wire.Answer {
		close(entered)
		<-ctx.Done()
		return &wire.Answer{ID: inv.ID, Code: api.CodeCanceled, Message: "the caller went away"}
	}
	ctx, leave := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", invokeF, nil).WithContext(ctx))
	}()
	<-entered
	leave()
	<-done
}

func TestWhoMayDoWhat(t *testing.T) {
	d := newDoor(t, "on")
	d.want(d.do("POST", invokeF, "", ""), 401, "Authorization")
	d.want(d.do("POST", invokeF, "wrong-token-0123456789", ""), 401, "not known")
	d.want(d.do("POST", invokeF, otherToken, ""), 404, "tenant other")
	d.want(d.do("GET", "/v1/nodes", acmeToken, ""), 403, "operators")
	d.want(d.do("GET", "/v1/nodes", opToken, ""), 200, "")
	d.want(d.do("GET", "/v1/nodes?zone=other", opToken, ""), 200, `["other","nodes",""]`)
	d.want(d.do("GET", "/v1/calls?since=7", opToken, ""), 200, `["test","ended","7"]`)
	d.want(d.do("GET", "/v1/calls", acmeToken, ""), 403, "operators")
	d.want(d.do("GET", "/v1/functions?all=1", acmeToken, ""), 403, "operators")
	d.want(d.do("GET", "/v1/functions?all=1", opToken, ""), 200, "")
	d.want(d.do("GET", "/v1/invocations/known/explain", acmeToken, ""), 200, "acme/f")
	d.want(d.do("GET", "/v1/invocations/known/explain", otherToken, ""), 404, "known")
	d.want(d.do("DELETE", "/v1/invocations/known", otherToken, ""), 404, "known")
	if len(d.z.canceled) != 0 {
		t.Fatal("another tenant's call was canceled")
	}
	d.want(d.do("DELETE", "/v1/invocations/known", acmeToken, ""), 202, "canceling")
	w := d.do("GET", "/v1/decisions", otherToken, "")
	if d.want(w, 200, "other/g"); strings.Contains(w.Body.String(), "acme") {
		t.Fatal("a tenant sees another's decisions")
	}
}

func TestAsyncFlow(t *testing.T) {
	d := newDoor(t, "on")
	w := d.do("POST", invokeF, acmeToken, "x", "Prefer: respond-async")
	d.want(w, 202, "pending")
	at := w.Header().Get("Location")
	d.want(d.do("GET", at, acmeToken, ""), 200, `"pending"`)
	d.want(d.do("GET", at, otherToken, ""), 404, "")
	id := strings.TrimPrefix(at, "/v1/invocations/")
	d.z.records["acme/"+id] = &wire.Answer{ID: id, Result: []byte(`{"n":1}`)}
	d.want(d.do("GET", at, acmeToken, ""), 200, `"result":{"n":1}`)
	d.want(d.do("GET", at, acmeToken, "", "Accept: application/octet-stream"), 200, `{"n":1}`)
}

// The payload of a call that was surely not accepted is removed; where that is in doubt it stays.
func TestRefusedAsyncLeavesNoPayload(t *testing.T) {
	d := newDoor(t, "on")
	for _, c := range []struct {
		refuse error
		status int
		left   int
	}{{api.ErrOverloaded, 429, 0}, {api.ErrUnavailable, 503, 1}} {
		d.z.refuse = c.refuse
		d.want(d.do("POST", invokeF, acmeToken, strings.Repeat("y", api.InlineBytes+1), "Prefer: respond-async"), c.status, "")
		if left, err := d.store.List(t.Context(), "", 10); err != nil || len(left) != c.left {
			t.Errorf("%v: the store has %v (%v), want %d", c.refuse, left, err, c.left)
		}
	}
}

// A queued call is canceled although nothing was decided of it; one that has ended is told as it ended.
func TestCancelAsync(t *testing.T) {
	d := newDoor(t, "on")
	w := d.do("POST", invokeF, acmeToken, "x", "Prefer: respond-async")
	at := w.Header().Get("Location")
	id := strings.TrimPrefix(at, "/v1/invocations/")
	d.want(d.do("DELETE", at, otherToken, ""), 404, "")
	d.want(d.do("DELETE", "/v1/invocations/unknown", acmeToken, ""), 404, "unknown")
	if len(d.z.canceled) != 0 {
		t.Fatalf("canceled %v", d.z.canceled)
	}
	d.want(d.do("DELETE", at, acmeToken, ""), 202, "canceling")
	d.want(d.do("DELETE", "/v1/invocations/known", opToken, ""), 202, "canceling")
	if got := strings.Join(d.z.canceled, " "); got != "acme/"+id+" acme/known" {
		t.Fatalf("canceled %q", got)
	}
	d.z.records["acme/"+id] = &wire.Answer{ID: id, Code: api.CodeCanceled, Message: "canceled on request"}
	d.want(d.do("DELETE", at, acmeToken, ""), 200, `"state":"done","code":"canceled"`)
	if len(d.z.canceled) != 2 {
		t.Fatalf("canceled once more: %v", d.z.canceled)
	}
}

func TestObjectsAreImmutable(t *testing.T) {
	d := newDoor(t, "on")
	d.want(d.do("PUT", "/v1/objects/a/b.txt", acmeToken, "one"), 201, `"bytes":3`)
	d.want(d.do("PUT", "/v1/objects/a/b.txt", acmeToken, "one"), 200, `"bytes":3`)
	d.want(d.do("PUT", "/v1/objects/a/b.txt", acmeToken, "two"), 409, "immutable")
	d.want(d.do("GET", "/v1/objects/a/b.txt", acmeToken, ""), 200, "one")
	d.want(d.do("GET", "/v1/objects/a/b.txt", otherToken, ""), 404, "")
	d.want(d.do("GET", "/v1/objects?prefix=a/", acmeToken, ""), 200, `"key":"a/b.txt"`)
	d.want(d.do("POST", invokeF, acmeToken, "", "X-Input: a/b.txt"), 200, "result")
	if in := d.z.seen[0].Inputs; len(in) != 1 || !strings.HasPrefix(in[0].Key, "acme/a/b.txt@") || in[0].Bytes != 3 {
		t.Fatalf("inputs %+v", in)
	}
	d.want(d.do("DELETE", "/v1/objects/a/b.txt", acmeToken, ""), 204, "")
	d.want(d.do("PUT", "/v1/objects/a/b.txt", acmeToken, "two"), 201, "")
}

func TestDeploy(t *testing.T) {
	d := newDoor(t, "on")
	const digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" // of "test"
	body := `{"runtime":"process","artifact":"` + digest + `"}`
	d.want(d.do("PUT", "/v1/functions/g", acmeToken, body), 400, "put it under")
	d.want(d.do("PUT", "/v1/artifacts/"+digest, acmeToken, "other bytes"), 400, "SHA-256")
	d.want(d.do("PUT", "/v1/artifacts/"+digest, acmeToken, "test"), 201, digest)
	d.want(d.do("PUT", "/v1/functions/g", acmeToken, body), 200, `"version":1`)
	d.want(d.do("PUT", "/v1/functions/g", acmeToken, body), 200, `"version":2`)
	d.want(d.do("PUT", "/v1/functions/g", acmeToken, `{"colour":1}`), 400, "colour")
	for _, env := range []string{`"A=B":"x"`, `"":"x"`, `"A":"x\u0000"`} {
		d.want(d.do("PUT", "/v1/functions/g", acmeToken, strings.TrimSuffix(body, "}")+`,"env":{`+env+`}}`), 400, "environment variable")
	}
	d.want(d.do("PUT", "/v1/functions/g", acmeToken, `{"runtime":"jvm","artifact":"`+digest+`"}`), 400, "process or wasm")
	d.want(d.do("GET", "/v1/functions/g", acmeToken, ""), 200, `"memory_mb":128`)
	d.want(d.do("DELETE", "/v1/functions/g", acmeToken, ""), 204, "")
	d.want(d.do("DELETE", "/v1/functions/g", acmeToken, ""), 404, "")
}

func TestNeedsAndWarmSandboxes(t *testing.T) {
	d := newDoor(t, "off")
	const digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" // of "test"
	d.want(d.do("PUT", "/v1/artifacts/"+digest, "", "test"), 201, "")
	body := func(more string) string { return `{"runtime":"process","artifact":"` + digest + `",` + more + `}` }
	d.want(d.do("PUT", "/v1/functions/g", "", body(`"arch":"arm64","accelerator":"gpu","tags":["ssd"],"min_warm":2`)), 200, `"version":1`)
	d.want(d.do("GET", "/v1/functions/g", "", ""), 200, `"arch":"arm64","accelerator":"gpu","tags":["ssd"],"min_warm":2`)
	d.want(d.do("PUT", "/v1/functions/g", "", body(`"tags":["No Name"]`)), 400, "tag")
	d.want(d.do("PUT", "/v1/functions/g", "", body(`"min_warm":101`)), 400, "min_warm 101: want 0-100")
	d.want(d.do("POST", "/v1/functions/g/prewarm", "", `{"count":3}`), 202, `"asked":"default/g,3"`)
	d.want(d.do("POST", "/v1/functions/g/prewarm", "", `{}`), 202, `"asked":"default/g,1"`)
	d.want(d.do("POST", "/v1/functions/g/prewarm", "", `{"count":9}`), 400, "want 1-8")
	d.want(d.do("POST", "/v1/functions/none/prewarm", "", `{}`), 404, "none")
}

func TestPanicIsAnswered(t *testing.T) {
	d := newDoor(t, "off")
	d.z.answer = func(context.Context, *api.Invocation) *wire.Answer { panic("bug") }
	d.want(d.do("POST", invokeF, "", ""), 500, "internal")
}

func FuzzInvoke(f *testing.F) {
	f.Add("f", "100", "a/b", "k", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "respond-async", []byte("x"))
	f.Add("..", "-1", ",,", "\x00", "00", "", []byte(nil))
	d := newDoor(f, "off")
	f.Fuzz(func(t *testing.T, name, deadline, input, key, trace, prefer string, body []byte) {
		r := httptest.NewRequest("POST", "/v1/functions/f/invoke", strings.NewReader(string(body)))
		r.SetPathValue("name", name)
		for k, v := range map[string]string{"X-Deadline-Ms": deadline, "X-Input": input, "Idempotency-Key": key, "traceparent": trace, "Prefer": prefer, "X-Tenant": name} {
			r.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		d.h.ServeHTTP(w, r)
		if w.Code >= 500 && w.Code != 504 {
			t.Fatalf("answered %d: %s", w.Code, w.Body.String())
		}
	})
}

// Every route, whatever stands in its path, query and body: an answer below 500, in JSON where it is an error.
func FuzzRoutes(f *testing.F) {
	digest := strings.Repeat("0f", 32)
	for _, seed := range []struct{ method, path, body string }{
		{"GET", "/v1/functions", ""}, {"GET", "/v1/functions/f", ""}, {"PUT", "/v1/functions/g", `{"runtime":"wasm","artifact":"` + digest + `","memory_mb":64}`},
		{"PUT", "/v1/functions/g", `{"env":{"":""},"tags":[""],"timeout_ms":-1,"objective_share":2}`}, {"DELETE", "/v1/functions/f?request_id=x", ""},
		{"GET", "/v1/functions/f/logs?last=-1", ""}, {"POST", "/v1/functions/f/prewarm", `{"count":1e9}`}, {"GET", "/v1/invocations/x", ""},
		{"DELETE", "/v1/invocations/x", ""}, {"GET", "/v1/invocations/x/explain", ""}, {"PUT", "/v1/artifacts/" + digest, "bytes"}, {"GET", "/v1/artifacts/xyz", ""},
		{"GET", "/v1/objects?prefix=a&limit=-3&after=%00", ""}, {"PUT", "/v1/objects/a/b%2f..%2fc", "x"}, {"GET", "/v1/objects/a/b", ""}, {"DELETE", "/v1/objects/", ""},
		{"GET", "/v1/decisions?since=-1", ""}, {"GET", "/v1/nodes?zone=..", ""}, {"GET", "/v1/zone", ""}, {"GET", "/v1/calls?since=x", ""}, {"GET", "/v1/model?here=2", ""},
		{"GET", "/v1/zones", ""}, {"POST", "/v1/policy", `{"policy":"x","wait_ms":-1}`}, {"POST", "/v1/flush", ""}, {"PATCH", "/", ""},
	} {
		f.Add(seed.method, seed.path, "t", []byte(seed.body))
	}
	d := newDoor(f, "off")
	f.Fuzz(func(t *testing.T, method, path, tenant string, body []byte) {
		u, err := url.ParseRequestURI(path)
		if err != nil || !strings.HasPrefix(path, "/") {
			t.Skip("no client can send it")
		}
		if _, err := http.NewRequest(method, "http://x/", nil); err != nil {
			t.Skip("no client can send it")
		}
		r := httptest.NewRequest("GET", "/", strings.NewReader(string(body)))
		r.Method, r.URL, r.RequestURI = method, u, path
		r.Header.Set("X-Tenant", tenant)
		w := httptest.NewRecorder()
		d.h.ServeHTTP(w, r)
		if w.Code >= 500 && w.Code != 504 {
			t.Fatalf("%s %s answered %d: %s", method, path, w.Code, w.Body.String())
		}
		if w.Code >= 400 && method != "HEAD" && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%s %s answered %d without JSON: %q", method, path, w.Code, w.Body.String())
		}
	})
}

func BenchmarkInvoke(b *testing.B) {
	d := newDoor(b, "on")
	b.ReportAllocs()
	for b.Loop() {
		if w := d.do("POST", invokeF, acmeToken, "hello"); w.Code != 200 {
			b.Fatal(w.Code)
		}
		d.z.seen = d.z.seen[:0]
	}
}

// A token is one tenant's; where two share it, nobody can say whom it speaks for.
func TestTokensAreOneTenantsEach(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	const a, b = "0123456789abcdef", "fedcba9876543210"
	for text, want := range map[string]string{
		"[{token: " + a + ", tenant: x}, {token: " + b + ", tenant: y}]": "",
		"[{token: " + a + ", tenant: x}, {token: " + a + ", tenant: y}]": "is tenant x's, too",
		"[{token: short, tenant: x}]":                                    "16 characters",
		"[{token: " + a + ", tennant: x}]":                               "tennant",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := DefaultConfig()
		cfg.TokensFile = file
		switch err := cfg.Validate(); {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

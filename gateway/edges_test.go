package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/objectstore"
)

// A large result is dropped once its caller has it; with an idempotency key it stays, since the same answer is given to
// whoever repeats the call.
func TestLargeResultsAreNotLeftBehind(t *testing.T) {
	d := newDoor(t, "on")
	var ref string
	d.z.answer = func(ctx context.Context, inv *api.Invocation) *wire.Answer {
		ref = objectstore.BodyKey(inv.Tenant, inv.ID+"/result")
		if _, err := d.results.Put(ctx, ref, strings.NewReader("large")); err != nil {
			t.Fatal(err)
		}
		return &wire.Answer{ID: inv.ID, ResultRef: ref}
	}
	d.want(d.do("POST", invokeF, acmeToken, ""), 200, "large")
	if _, err := d.results.Stat(t.Context(), ref); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("the result was left in the store: %v", err)
	}
	d.want(d.do("POST", invokeF, acmeToken, "", "Idempotency-Key: k"), 200, "large")
	if _, err := d.results.Stat(t.Context(), ref); err != nil {
		t.Errorf("the result of a call that may be repeated is gone: %v", err)
	}
}

// List headers may come on several lines (RFC 9110), preferences in any case and with parameters (RFC 7240).
func TestListHeaders(t *testing.T) {
	d := newDoor(t, "on")
	for _, k := range []string{"a", "b", "c"} {
		d.want(d.do("PUT", "/v1/objects/"+k, acmeToken, k), 201, "")
	}
	r := httptest.NewRequest("POST", invokeF, nil)
	r.Header = http.Header{"Authorization": {"Bearer " + acmeToken}, "X-Input": {"a", "b, c"}, "Prefer": {"wait=5", "Respond-Async; q=1"}}
	w := httptest.NewRecorder()
	d.h.ServeHTTP(w, r)
	d.want(w, 202, "pending")
	for _, inv := range d.z.accepted {
		if len(inv.Inputs) != 3 {
			t.Errorf("inputs %+v, want three", inv.Inputs)
		}
	}
	d.want(d.do("POST", invokeF, acmeToken, "", "Prefer: respond-asynchronously"), 200, "")
}

// A key that cannot be remembered is refused: ignored, it would let a repetition deploy twice.
func TestChangeKeysAreNotIgnored(t *testing.T) {
	d := newDoor(t, "on")
	long := "Idempotency-Key: " + strings.Repeat("k", maxChangeKey+1)
	d.want(d.do("DELETE", "/v1/functions/f", acmeToken, "", long), 400, "Idempotency-Key")
	d.want(d.do("DELETE", "/v1/functions/f", acmeToken, "", "Idempotency-Key: k"), 204, "")
}

// peeking looks into the store whenever something is created.
type peeking struct {
	objectstore.Store
	after func()
}

func (p peeking) Create(ctx context.Context, key string, r io.Reader) (objectstore.Info, error) {
	info, err := p.Store.Create(ctx, key, r)
	p.after()
	return info, err
}

func TestWrongArtifactIsNeverStored(t *testing.T) {
	d := newDoor(t, "on")
	key := objectstore.ArtifactKey("acme", strings.Repeat("a", 64))
	looked := false
	d.store = peeking{d.store, func() {
		looked = true
		if _, err := d.store.Stat(t.Context(), key); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("other bytes stood under the artifact's name: %v", err)
		}
	}}
	d.rewire(t)
	d.want(d.do("PUT", "/v1/artifacts/"+strings.Repeat("a", 64), acmeToken, "other bytes"), 400, "SHA-256")
	if !looked {
		t.Fatal("the store was not asked")
	}
}

// Two who put one key at the same time cannot both succeed with different content; with the same content they can.
func TestUploadsOfOneKeyAtOnce(t *testing.T) {
	for _, c := range []struct {
		name, first, second string
		status              [2]int // in the order of their end, the winner first
	}{
		{"other content", "one", "two", [2]int{201, 409}},
		{"the same content", "one", "one", [2]int{201, 200}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDoor(t, "off")
			var begun sync.WaitGroup // both are past any look at the store before either has sent its content
			begun.Add(2)
			put := func(content string) (int, string) {
				var once sync.Once
				gate := readFunc(func([]byte) (int, error) { once.Do(begun.Done); begun.Wait(); return 0, io.EOF })
				w := httptest.NewRecorder()
				d.h.ServeHTTP(w, httptest.NewRequest("PUT", "/v1/objects/k", io.MultiReader(gate, strings.NewReader(content))))
				return w.Code, content
			}
			type end struct {
				status  int
				content string
			}
			ends := make(chan end, 2)
			for _, content := range []string{c.first, c.second} {
				go func() { status, content := put(content); ends <- end{status, content} }()
			}
			a, b := <-ends, <-ends
			if a.status != 201 {
				a, b = b, a
			}
			if got := [2]int{a.status, b.status}; got != c.status {
				t.Fatalf("answered %v, want %v", got, c.status)
			}
			d.want(d.do("GET", "/v1/objects/k", "", ""), 200, a.content)
		})
	}
}

type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// torn breaks while it is read.
type torn struct{ objectstore.Store }

func (s torn) Get(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	body, info, err := s.Store.Get(ctx, key)
	if err != nil {
		return nil, info, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(body, 1), broken{}), body}, info, nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("torn") }

// Half an object must not look whole: the connection is cut.
func TestTornBodyCutsTheConnection(t *testing.T) {
	d := newDoor(t, "off")
	d.want(d.do("PUT", "/v1/objects/a", "", "whole"), 201, "")
	d.store = torn{d.store}
	d.rewire(t)
	defer func() {
		if p := recover(); p != http.ErrAbortHandler {
			t.Fatalf("the handler ended with %v, want it to abort", p)
		}
	}()
	d.do("GET", "/v1/objects/a", "", "")
}

func TestLimitsOfRequestsUnderWay(t *testing.T) {
	d := newDoor(t, "on")
	d.cfg.MaxTenantInFlight, d.cfg.MaxInFlight = 1, 2
	d.rewire(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	d.z.answer = func(ctx context.Context, inv *api.Invocation) *wire.Answer {
		entered <- struct{}{}
		<-leave
		return ok(ctx, inv)
	}
	done := make(chan int, 1)
	go func() { done <- d.do("POST", invokeF, acmeToken, "").Code }()
	<-entered
	d.want(d.do("GET", "/v1/functions", acmeToken, ""), 429, "tenant acme")
	d.want(d.do("GET", "/v1/functions", otherToken, ""), 200, "")
	close(leave)
	if code := <-done; code != 200 {
		t.Fatalf("the first call was answered %d", code)
	}
	d.want(d.do("GET", "/v1/functions", acmeToken, ""), 200, "")
}

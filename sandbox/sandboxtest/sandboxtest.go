// Package sandboxtest is the conformance suite of the sandbox port: what every runtime must do, whatever it runs.
// Tests of sandbox/process, sandbox/wasm and sandbox/fake call Run; nothing else imports it. A runtime is tested
// with the guest, a function that does what its payload says (see the command guest), built by Build; a runtime
// that runs nothing imitates it.
package sandboxtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sandbox"
)

// Env is one runtime with the guest to run in it. Run closes the runtime.
type Env struct {
	Runtime  sandbox.Runtime
	Function *api.Function
	// Artifact is the guest's file on the node.
	Artifact string
	// SkipForget leaves out the test of Forget, which prepares again: for a guest that takes seconds to prepare, when
	// the runtime's own tests do it with a lighter one.
	SkipForget bool
}

// stopBudget is how long after the end of its context an Invoke may take to return: the port's 200 ms, and as
// much again for machines that are busy with other tests.
const stopBudget = 400 * time.Millisecond

// callBudget bounds every call of the suite that is expected to succeed.
const callBudget = 30 * time.Second

// Run puts the runtimes that newRuntime makes (a new one for each test) through the port's contract.
func Run(t *testing.T, newRuntime func(t *testing.T) Env) {
	t.Helper()
	tests := []struct {
		name string
		run  func(t *testing.T, e Env)
	}{
		{"success", success},
		{"function error leaves the sandbox good", functionError},
		{"crash", crash},
		{"hang stopped at the deadline", hangDeadline},
		{"hang stopped by cancellation", hangCanceled},
		{"sleep stopped", sleepStopped},
		{"close ends a hung call", closeEndsCall},
		{"inputs visible, then gone", inputs},
		{"bad input name", badInput},
		{"payload too large", payloadTooLarge},
		{"result too large", resultTooLarge},
		{"logs are the call's own", logs},
		{"logs are clipped", logsClipped},
		{"close is idempotent", closeTwice},
		{"prepare is idempotent", prepareTwice},
		{"forget, then prepare again", forget},
		{"broken artifact", brokenArtifact},
		{"side by side", sideBySide},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newRuntime(t)
			t.Cleanup(func() {
				if err := e.Runtime.Close(); err != nil {
					t.Errorf("close runtime: %v", err)
				}
			})
			tt.run(t, e)
		})
	}
}

// start prepares the guest and brings up one sandbox, which is closed when the test ends.
func (e Env) start(t *testing.T) sandbox.Sandbox {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callBudget)
	defer cancel()
	if err := e.Runtime.Prepare(ctx, e.Function, e.Artifact); err != nil {
		t.Fatalf("prepare: %v", err)
	}
	s, err := e.Runtime.Start(ctx, e.Function, e.Artifact)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close sandbox: %v", err)
		}
	})
	return s
}

func newCall(payload string, in ...sandbox.Input) *sandbox.Call {
	return &sandbox.Call{ID: "call-1", Payload: []byte(payload), Inputs: in, Deadline: time.Now().Add(callBudget)}
}

// invoke makes a call that must not fail.
func invoke(t *testing.T, s sandbox.Sandbox, c *sandbox.Call) *sandbox.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callBudget)
	defer cancel()
	r, err := s.Invoke(ctx, c)
	if err != nil {
		t.Fatalf("invoke %.80s: %v", c.Payload, err)
	}
	return r
}

// invokeErr makes a call that must fail with an error of the given kind.
func invokeErr(t *testing.T, ctx context.Context, s sandbox.Sandbox, c *sandbox.Call, want error) {
	t.Helper()
	r, err := s.Invoke(ctx, c)
	if !errors.Is(err, want) {
		t.Fatalf("invoke %.80s: got %+v, %v; want an error that wraps %q", c.Payload, r, err, want)
	}
}

func success(t *testing.T, e Env) {
	s := e.start(t)
	for i := range 20 {
		payload := fmt.Sprintf(`"echo:%d"`, i)
		r := invoke(t, s, newCall(payload))
		if string(r.Payload) != payload || r.FunctionError != nil {
			t.Fatalf("call %d: %q, function error %q", i, r.Payload, r.FunctionError)
		}
	}
}

func functionError(t *testing.T, e Env) {
	s := e.start(t)
	r := invoke(t, s, newCall(`"fail:no such luck"`))
	var doc struct {
		Message string `json:"errorMessage"`
		Type    string `json:"errorType"`
	}
	if err := json.Unmarshal(r.FunctionError, &doc); err != nil || doc.Message != "no such luck" || doc.Type == "" || r.Payload != nil {
		t.Fatalf("payload %q, function error %q: %v", r.Payload, r.FunctionError, err)
	}
	if r := invoke(t, s, newCall(`"echo:again"`)); string(r.Payload) != `"echo:again"` || r.FunctionError != nil {
		t.Fatalf("the call after it: %+v", r)
	}
}

func crash(t *testing.T, e Env) {
	s := e.start(t)
	ctx, cancel := context.WithTimeout(t.Context(), callBudget)
	defer cancel()
	invokeErr(t, ctx, s, newCall(`"crash"`), sandbox.ErrCrashed)
	if r, err := s.Invoke(ctx, newCall(`"echo:1"`)); err == nil {
		t.Fatalf("a crashed sandbox answered %q", r.Payload)
	}
	if s := e.start(t); string(invoke(t, s, newCall(`"echo:2"`)).Payload) != `"echo:2"` {
		t.Fatal("a new sandbox of a function that crashed does not work")
	}
}

// stopped makes a call that never ends by itself, ends its context and checks how fast Invoke returns.
func stopped(t *testing.T, e Env, payload string, cause, want error) {
	t.Helper()
	s := e.start(t)
	invoke(t, s, newCall(`"echo:warm"`))
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var ended time.Time // written before cancel, read after Invoke has seen it
	timer := time.AfterFunc(50*time.Millisecond, func() {
		ended = time.Now()
		cancel(cause)
	})
	defer timer.Stop()
	invokeErr(t, ctx, s, newCall(payload), want)
	if took := time.Since(ended); took > stopBudget {
		t.Errorf("returned %v after its context ended, want at most %v", took, stopBudget)
	}
	begin := time.Now()
	if err := s.Close(); err != nil || time.Since(begin) > stopBudget {
		t.Errorf("close after it: %v, took %v", err, time.Since(begin))
	}
}

func hangDeadline(t *testing.T, e Env) {
	stopped(t, e, `"spin"`, context.DeadlineExceeded, api.ErrDeadline)
}

func hangCanceled(t *testing.T, e Env) {
	stopped(t, e, `"spin"`, api.ErrCanceled, api.ErrCanceled)
}

func sleepStopped(t *testing.T, e Env) {
	stopped(t, e, `"sleep"`, api.ErrDeadline, api.ErrDeadline)
}

func closeEndsCall(t *testing.T, e Env) {
	s := e.start(t)
	invoke(t, s, newCall(`"echo:warm"`))
	done := make(chan error, 1)
	go func() {
		_, err := s.Invoke(t.Context(), newCall(`"spin"`))
		done <- err
	}()
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	select {
	case err := <-done:
		if err == nil {
			t.Fatal("the call that was closed under succeeded")
		}
	case <-time.After(callBudget):
		t.Fatal("the call outlived its sandbox")
	}
}

func inputs(t *testing.T, e Env) {
	dir := t.TempDir()
	paths := make([]string, 3)
	for i := range paths {
		paths[i] = filepath.Join(dir, fmt.Sprint("object", i))
		if err := os.WriteFile(paths[i], fmt.Appendf(nil, "content-%d", i), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	s := e.start(t)
	r := invoke(t, s, newCall(`"read"`, sandbox.Input{Name: "b.txt", Path: paths[1]}, sandbox.Input{Name: "a.txt", Path: paths[0]}))
	if string(r.Payload) != `"a.txt=content-0,b.txt=content-1"` {
		t.Fatalf("first call saw %s, function error %s", r.Payload, r.FunctionError)
	}
	r = invoke(t, s, newCall(`"read"`, sandbox.Input{Name: "a.txt", Path: paths[2]}))
	if string(r.Payload) != `"a.txt=content-2"` {
		t.Fatalf("second call saw %s, function error %s", r.Payload, r.FunctionError)
	}
	if r = invoke(t, s, newCall(`"read"`)); string(r.Payload) != `""` {
		t.Fatalf("third call saw %s, function error %s", r.Payload, r.FunctionError)
	}
	for i, p := range paths {
		if b, err := os.ReadFile(p); err != nil || string(b) != fmt.Sprint("content-", i) {
			t.Errorf("the node's copy: %q, %v", b, err)
		}
	}
}

func badInput(t *testing.T, e Env) {
	s := e.start(t)
	invokeErr(t, t.Context(), s, newCall(`"read"`, sandbox.Input{Name: "../up", Path: e.Artifact}), api.ErrInvalid)
}

func payloadTooLarge(t *testing.T, e Env) {
	s := e.start(t)
	c := newCall("")
	c.Payload = make([]byte, api.MaxPayloadBytes+1)
	invokeErr(t, t.Context(), s, c, api.ErrTooLarge)
}

func resultTooLarge(t *testing.T, e Env) {
	s := e.start(t)
	if r := invoke(t, s, newCall(fmt.Sprintf(`"big:%d"`, api.MaxPayloadBytes))); len(r.Payload) != api.MaxPayloadBytes {
		t.Fatalf("the largest result: got %d bytes, function error %.100q", len(r.Payload), r.FunctionError)
	}
	ctx, cancel := context.WithTimeout(t.Context(), callBudget)
	defer cancel()
	invokeErr(t, ctx, s, newCall(fmt.Sprintf(`"big:%d"`, api.MaxPayloadBytes+1)), api.ErrTooLarge)
}

func logs(t *testing.T, e Env) {
	s := e.start(t)
	for _, word := range []string{"first", "second"} {
		if r := invoke(t, s, newCall(`"log:`+word+`"`)); string(r.Logs) != word+"\n" {
			t.Fatalf("logs of the %s call: %q", word, r.Logs)
		}
	}
	if r := invoke(t, s, newCall(`"echo:1"`)); len(r.Logs) != 0 {
		t.Fatalf("logs of a silent call: %q", r.Logs)
	}
}

func logsClipped(t *testing.T, e Env) {
	s := e.start(t)
	r := invoke(t, s, newCall(fmt.Sprintf(`"flood:%d"`, 20*api.MaxLogBytes)))
	if len(r.Logs) != api.MaxLogBytes || !bytes.HasSuffix(r.Logs, []byte("yyend")) {
		t.Fatalf("got %d bytes of logs that end in %q", len(r.Logs), r.Logs[max(0, len(r.Logs)-5):])
	}
}

func closeTwice(t *testing.T, e Env) {
	s := e.start(t)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := s.Invoke(t.Context(), newCall(`"echo:1"`)); err == nil {
		t.Fatalf("a closed sandbox answered %q", r.Payload)
	}
}

func prepareTwice(t *testing.T, e Env) {
	for range 2 {
		if err := e.Runtime.Prepare(t.Context(), e.Function, e.Artifact); err != nil {
			t.Fatal(err)
		}
	}
	success(t, e)
}

func forget(t *testing.T, e Env) {
	if e.SkipForget {
		t.Skip("tested by the runtime's own tests")
	}
	s := e.start(t)
	e.Runtime.Forget(e.Function.Artifact)
	if r := invoke(t, s, newCall(`"echo:still"`)); string(r.Payload) != `"echo:still"` {
		t.Fatalf("a sandbox that was up when its function was forgotten: %+v", r)
	}
	success(t, e)
	e.Runtime.Forget(strings.Repeat("0", 64)) // never prepared
}

func brokenArtifact(t *testing.T, e Env) {
	ctx, cancel := context.WithTimeout(t.Context(), callBudget)
	defer cancel()
	fn := *e.Function
	fn.Artifact = "../escape"
	if err := e.Runtime.Prepare(ctx, &fn, e.Artifact); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("prepare of a digest that is none: %v", err)
	}
	fn.Artifact = strings.Repeat("ab", 32)
	err := e.Runtime.Prepare(ctx, &fn, filepath.Join(t.TempDir(), "missing"))
	if err == nil {
		t.Error("prepare of a file that does not exist succeeded")
	}
}

func sideBySide(t *testing.T, e Env) {
	const sandboxes, calls = 4, 10
	errs := make(chan error, sandboxes)
	for i := range sandboxes {
		s := e.start(t)
		go func() {
			for k := range calls {
				payload := fmt.Sprintf(`"echo:%d-%d"`, i, k)
				r, err := s.Invoke(t.Context(), newCall(payload))
				if err != nil || string(r.Payload) != payload {
					errs <- fmt.Errorf("sandbox %d call %d: %+v, %w", i, k, r, err)
					return
				}
			}
			errs <- nil
		}()
	}
	for range sandboxes {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

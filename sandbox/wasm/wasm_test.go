package wasm_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sandbox"
	"github.com/rubato-faas/rubato/sandbox/sandboxtest"
	"github.com/rubato-faas/rubato/sandbox/wasm"
)

// newRuntime makes a runtime over dir.
func newRuntime(t testing.TB, dir string) *wasm.Runtime {
	t.Helper()
	cfg := wasm.DefaultConfig()
	cfg.Dir, cfg.Log = dir, slog.New(slog.DiscardHandler)
	r, err := wasm.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestConformanceReactor(t *testing.T) { conformance(t, built.reactor) }

// TestConformanceCommand is left to runs without the race detector, under which wazero takes ten times as long to
// compile; a command differs from a reactor only within its own goroutine.
func TestConformanceCommand(t *testing.T) {
	if raceDetector {
		t.Skip("compiling a second Go guest takes too long under the race detector")
	}
	conformance(t, built.command)
}

func conformance(t *testing.T, artifact string) {
	sandboxtest.Run(t, func(t *testing.T) sandboxtest.Env {
		return sandboxtest.Env{
			Runtime:  newRuntime(t, built.codeDir),
			Function: sandboxtest.Function(t, api.RuntimeWasm, artifact), Artifact: artifact,
			SkipForget: true, // TestForgetSparesSandboxes
		}
	})
}

// closeRuntime closes r now; nothing may be left running.
func closeRuntime(t testing.TB, r *wasm.Runtime) {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func prepare(t testing.TB, r *wasm.Runtime, fn *api.Function, artifact string) {
	t.Helper()
	if err := r.Prepare(t.Context(), fn, artifact); err != nil {
		t.Fatal(err)
	}
}

func TestNothingIsCompiledTwice(t *testing.T) {
	dir := t.TempDir()
	artifact := writeModule(t, fibReactor(1))
	fn := sandboxtest.Function(t, api.RuntimeWasm, artifact)
	r := newRuntime(t, dir)
	errs := make(chan error)
	for i := range 8 {
		other := *fn
		other.MemoryMB += i % 2 // another limit needs another program, but not other code
		go func() { errs <- r.Prepare(t.Context(), &other, artifact) }()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := r.Compiles(); n != 1 {
		t.Errorf("8 at once: compiled %d times", n)
	}
	closeRuntime(t, r)
	if err := r.Prepare(t.Context(), fn, artifact); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("prepare after close: %v", err)
	}

	r = newRuntime(t, dir)
	defer closeRuntime(t, r)
	prepare(t, r, fn, artifact)
	if n := r.Compiles(); n != 0 {
		t.Errorf("after a restart: compiled %d times", n)
	}
	r.Forget(fn.Artifact)
	if _, err := os.Stat(filepath.Join(dir, "code", fn.Artifact)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("forgotten code on disk: %v", err)
	}
	prepare(t, r, fn, artifact)
	if n := r.Compiles(); n != 1 {
		t.Errorf("after forgetting: compiled %d times", n)
	}
}

func TestForgetSparesSandboxes(t *testing.T) {
	artifact := writeModule(t, fibReactor(1))
	r := newRuntime(t, t.TempDir())
	defer closeRuntime(t, r)
	old := start(t, r, artifact)
	r.Forget(sandboxtest.Function(t, api.RuntimeWasm, artifact).Artifact)
	for _, s := range []sandbox.Sandbox{old, start(t, r, artifact), old} {
		if res, err := s.Invoke(t.Context(), &sandbox.Call{}); err != nil || res.FunctionError != nil {
			t.Errorf("invoke: %+v, %v", res, err)
		}
	}
	if n := r.Compiles(); n != 2 {
		t.Errorf("compiled %d times, want 2", n)
	}
}

func TestIdleCodeLeavesMemoryNotDisk(t *testing.T) {
	cfg := wasm.DefaultConfig()
	cfg.Dir, cfg.Log, cfg.MaxIdle = t.TempDir(), slog.New(slog.DiscardHandler), 0
	r, err := wasm.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closeRuntime(t, r)
	artifact := writeModule(t, fibReactor(1))
	fn := sandboxtest.Function(t, api.RuntimeWasm, artifact)
	for range 3 {
		prepare(t, r, fn, artifact)
	}
	if n := r.Compiles(); n != 1 {
		t.Errorf("compiled %d times", n)
	}
}

func TestDamagedCodeIsCompiledAgain(t *testing.T) {
	dir := t.TempDir()
	artifact := writeModule(t, fibReactor(1))
	fn := sandboxtest.Function(t, api.RuntimeWasm, artifact)
	r := newRuntime(t, dir)
	prepare(t, r, fn, artifact)
	closeRuntime(t, r)
	files, err := filepath.Glob(filepath.Join(dir, "code", fn.Artifact, "*", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("compiled code: %v, %v", files, err)
	}
	if err := os.Truncate(files[0], 20); err != nil {
		t.Fatal(err)
	}
	r = newRuntime(t, dir)
	defer closeRuntime(t, r)
	prepare(t, r, fn, artifact)
	if n := r.Compiles(); n != 1 {
		t.Errorf("compiled %d times", n)
	}
}

// TestRecursionIsLeftBehind: wazero cannot stop a guest in recursion; the caller must not wait for it, and what the
// guest uses must not be freed under it.
func TestRecursionIsLeftBehind(t *testing.T) {
	// A collection has to stop the world and waits for the guest, which has no safe point: so does everything else then.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	artifact := writeModule(t, fibReactor(44)) // seconds
	r := newRuntime(t, t.TempDir())
	s, err := r.Start(t.Context(), sandboxtest.Function(t, api.RuntimeWasm, artifact), artifact)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Invoke(ctx, &sandbox.Call{}); !errors.Is(err, api.ErrDeadline) {
		t.Errorf("invoke: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	closeRuntime(t, r)
	if n := r.Abandoned(); n != 1 {
		t.Errorf("%d abandoned, want 1: invoke and close waited for the guest", n)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(90 * time.Second); r.Abandoned() != 0; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the guest is still counted")
		}
	}
}

func TestInputsAreReadOnly(t *testing.T) {
	r := newRuntime(t, built.codeDir)
	defer closeRuntime(t, r)
	s := start(t, r, built.reactor)
	for _, name := range []string{"new", "a", "../up"} {
		in := sandbox.Input{Name: "a", Path: writeModule(t, lonely())}
		res, err := s.Invoke(t.Context(), &sandbox.Call{Payload: []byte(`"write:` + name + `"`), Inputs: []sandbox.Input{in}})
		if err != nil || res.FunctionError == nil {
			t.Errorf("writing %s: %+v, %v", name, res, err)
		}
	}
}

func TestUnfitModules(t *testing.T) {
	r := newRuntime(t, built.codeDir)
	defer closeRuntime(t, r)
	none := writeModule(t, lonely())
	if err := r.Prepare(t.Context(), sandboxtest.Function(t, api.RuntimeWasm, none), none); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a module without exports: %v", err)
	}
	text := writeModule(t, []byte("hello"))
	if err := r.Prepare(t.Context(), sandboxtest.Function(t, api.RuntimeWasm, text), text); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a file that is no module: %v", err)
	}
	fn := sandboxtest.Function(t, api.RuntimeWasm, built.reactor)
	fn.MemoryMB = 1
	if err := r.Prepare(t.Context(), fn, built.reactor); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a module that needs more memory than it may have: %v", err)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	err := wasm.Config{}.Validate()
	for _, want := range []string{"folder", "logger", "memory cap", "response limit", "compile workers", "stop grace"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %q in: %v", want, err)
		}
	}
}

// start brings up a sandbox that ends with the test.
func start(t testing.TB, r *wasm.Runtime, artifact string) sandbox.Sandbox {
	t.Helper()
	s, err := r.Start(t.Context(), sandboxtest.Function(t, api.RuntimeWasm, artifact), artifact)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// buildNoop builds the example that does nothing; only benchmarks need it.
func buildNoop(b *testing.B) string {
	b.Helper()
	file, err := sandboxtest.Build(b.TempDir(), "github.com/rubato-faas/rubato/examples/functions/noop", sandboxtest.Reactor)
	if err != nil {
		b.Fatal(err)
	}
	return file
}

// BenchmarkCall is a warm call of a reactor that does nothing: budget 10 us.
func BenchmarkCall(b *testing.B) {
	r := newRuntime(b, built.codeDir)
	b.Cleanup(func() { closeRuntime(b, r) })
	s := start(b, r, buildNoop(b))
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	c := &sandbox.Call{ID: "1", Payload: []byte("{}")}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Invoke(ctx, c); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStart is a start of a prepared reactor, by where its code is.
func BenchmarkStart(b *testing.B) {
	noop := buildNoop(b)
	for _, where := range []struct {
		name string
		idle int
	}{{"memory", 1}, {"disk", 0}} {
		b.Run(where.name, func(b *testing.B) {
			cfg := wasm.DefaultConfig()
			cfg.Dir, cfg.Log, cfg.MaxIdle = built.codeDir, slog.New(slog.DiscardHandler), where.idle
			r, err := wasm.New(cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer closeRuntime(b, r)
			fn := sandboxtest.Function(b, api.RuntimeWasm, noop)
			prepare(b, r, fn, noop)
			for b.Loop() {
				s, err := r.Start(b.Context(), fn, noop)
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

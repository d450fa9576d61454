package process_test

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/examples/inputs"
	"github.com/rubato-faas/rubato/sandbox"
	"github.com/rubato-faas/rubato/sandbox/process"
	"github.com/rubato-faas/rubato/sandbox/sandboxtest"
)

// newRuntime makes a runtime whose configuration change may alter.
func newRuntime(t testing.TB, change func(*process.Config)) *process.Runtime {
	t.Helper()
	cfg := process.DefaultConfig()
	cfg.Dir, cfg.Log = t.TempDir(), slog.New(slog.DiscardHandler)
	if change != nil {
		change(&cfg)
	}
	r, err := process.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestConformance(t *testing.T) {
	sandboxtest.Run(t, func(t *testing.T) sandboxtest.Env {
		return sandboxtest.Env{
			Runtime:  newRuntime(t, nil),
			Function: sandboxtest.Function(t, api.RuntimeProcess, built.guest), Artifact: built.guest,
		}
	})
}

// script is a runtime and a function whose artifact is a shell script.
func script(t *testing.T, body string, change func(*process.Config)) (*process.Runtime, *api.Function, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+body+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return newRuntime(t, change), sandboxtest.Function(t, api.RuntimeProcess, file), file
}

func TestStartThatDiesNamesTheReason(t *testing.T) {
	r, fn, file := script(t, "echo no such library >&2; exit 7", nil)
	_, err := r.Start(t.Context(), fn, file)
	if !errors.Is(err, sandbox.ErrCrashed) || !strings.Contains(err.Error(), "exit status 7") || !strings.Contains(err.Error(), "no such library") {
		t.Fatalf("start: %v", err)
	}
}

func TestStartThatReportsAnErrorNamesIt(t *testing.T) {
	r := newRuntime(t, nil)
	fn := sandboxtest.Function(t, api.RuntimeProcess, built.guest)
	fn.Env = map[string]string{"GUEST_INIT": "fail"}
	_, err := r.Start(t.Context(), fn, built.guest)
	if !errors.Is(err, sandbox.ErrCrashed) || !strings.Contains(err.Error(), "no database") {
		t.Fatalf("start: %v", err)
	}
}

func TestStartThatHangsIsBounded(t *testing.T) {
	r, fn, file := script(t, "sleep 1000", func(c *process.Config) { c.StartTimeout = 50 * time.Millisecond })
	if _, err := r.Start(t.Context(), fn, file); !errors.Is(err, api.ErrDeadline) {
		t.Fatalf("start: %v", err)
	}
}

// TestChildrenDieWithTheSandbox: what a function leaves running would go on at the cost of the next.
func TestChildrenDieWithTheSandbox(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	r, fn, file := script(t, "sleep 1000 & echo $! >"+pidFile+"; exit 1", nil)
	if _, err := r.Start(t.Context(), fn, file); !errors.Is(err, sandbox.ErrCrashed) {
		t.Fatalf("start: %v", err)
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); alive(strings.TrimSpace(string(b))); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("child %s is still there", b)
		}
	}
}

// alive reports whether the process runs; a dead one may wait for its parent as a zombie.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// TestPanicBreaksTheSandbox: aws-lambda-go reports a panic as an error first and exits then.
func TestPanicBreaksTheSandbox(t *testing.T) {
	s := start(t, built.guest, nil)
	res, err := s.Invoke(t.Context(), &sandbox.Call{ID: "1", Payload: []byte(`"panic:index out of range"`), Deadline: time.Now().Add(time.Minute)})
	if !errors.Is(err, sandbox.ErrCrashed) || !strings.Contains(string(res.FunctionError), "index out of range") {
		t.Fatalf("invoke: %+v, %v", res, err)
	}
}

func TestEnvironmentIsTheFunctionsOwn(t *testing.T) {
	t.Setenv("SECRET_OF_THE_NODE", "x")
	s := start(t, built.guest, map[string]string{"COLOUR": "blue", "AWS_LAMBDA_FUNCTION_NAME": "another"})
	for name, want := range map[string]string{
		"COLOUR": "blue", "SECRET_OF_THE_NODE": "", "AWS_LAMBDA_FUNCTION_NAME": "guest",
		"AWS_LAMBDA_FUNCTION_VERSION": "1", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
	} {
		res, err := s.Invoke(t.Context(), &sandbox.Call{ID: name, Payload: []byte(`"env:` + name + `"`)})
		if err != nil || string(res.Payload) != `"`+want+`"` {
			t.Errorf("%s: %+v, %v; want %q", name, res, err, want)
		}
	}
}

// start brings up a sandbox that ends with the test.
func start(t testing.TB, artifact string, env map[string]string) sandbox.Sandbox {
	t.Helper()
	fn := sandboxtest.Function(t, api.RuntimeProcess, artifact)
	fn.Env = env
	s, err := newRuntime(t, nil).Start(t.Context(), fn, artifact)
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

func textFile(t testing.TB, size int) string {
	t.Helper()
	b, err := io.ReadAll(inputs.Text(1, size))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(file, b, 0o444); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestLambdaProgramRunsUnmodified runs an example that knows nothing of Rubato but two names in its client context.
func TestLambdaProgramRunsUnmodified(t *testing.T) {
	file := textFile(t, 100_000)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, built.wordcount, nil)
	for range 2 {
		res, err := s.Invoke(t.Context(), &sandbox.Call{
			ID: "1", Payload: []byte("{}"), Inputs: []sandbox.Input{{Name: "a", Path: file}, {Name: "b", Path: file}},
		})
		if err != nil || res.FunctionError != nil {
			t.Fatalf("invoke: %+v, %v", res, err)
		}
		var got struct{ Total, Distinct int }
		if err := json.Unmarshal(res.Payload, &got); err != nil {
			t.Fatal(err)
		}
		if want := 2 * len(strings.Fields(string(b))); got.Total != want || got.Distinct < 1000 {
			t.Fatalf("got %+v, want a total of %d", got, want)
		}
	}
	res, err := s.Invoke(t.Context(), &sandbox.Call{ID: "2", Payload: []byte("{}")})
	if err != nil || !strings.Contains(string(res.FunctionError), "no input objects") {
		t.Fatalf("without inputs: %+v, %v", res, err)
	}
}

func BenchmarkCall(b *testing.B) {
	s := start(b, built.guest, nil)
	c := &sandbox.Call{ID: "1", Payload: []byte(`"echo:1"`)}
	b.ReportAllocs()
	for b.Loop() {
		if res, err := s.Invoke(b.Context(), c); err != nil || string(res.Payload) != `"echo:1"` {
			b.Fatal(res, err)
		}
	}
}

func BenchmarkStart(b *testing.B) {
	r := newRuntime(b, nil)
	fn := sandboxtest.Function(b, api.RuntimeProcess, built.guest)
	for b.Loop() {
		s, err := r.Start(b.Context(), fn, built.guest)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWordcount is the warm run time per MB of input.
func BenchmarkWordcount(b *testing.B) {
	const size = 4 << 20
	file := textFile(b, size)
	s := start(b, built.wordcount, nil)
	c := &sandbox.Call{ID: "1", Payload: []byte("{}"), Inputs: []sandbox.Input{{Name: "a", Path: file}}}
	b.SetBytes(size)
	for b.Loop() {
		if res, err := s.Invoke(b.Context(), c); err != nil || res.FunctionError != nil {
			b.Fatal(res, err)
		}
	}
}

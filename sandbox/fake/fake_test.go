package fake_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sandbox"
	"github.com/rubato-faas/rubato/sandbox/fake"
	"github.com/rubato-faas/rubato/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func noSleep(context.Context, time.Duration) error { return nil }

// act and answer imitate the conformance suite's guest.
func act(_ *api.Function, c *sandbox.Call) fake.Act {
	switch verb, _, _ := strings.Cut(strings.Trim(string(c.Payload), `"`), ":"); verb {
	case "crash":
		return fake.Crash
	case "spin", "sleep":
		return fake.Hang
	}
	return fake.Answer
}

func answer(_ *api.Function, c *sandbox.Call) (*sandbox.Result, error) {
	verb, arg, _ := strings.Cut(strings.Trim(string(c.Payload), `"`), ":")
	n, _ := strconv.Atoi(arg) // 0 for verbs without a number
	switch verb {
	case "fail":
		return &sandbox.Result{FunctionError: fmt.Appendf(nil, `{"errorMessage":%q,"errorType":"errorString"}`, arg)}, nil
	case "read":
		var all []string
		for _, in := range c.Inputs {
			b, err := os.ReadFile(in.Path)
			if err != nil {
				return nil, err
			}
			all = append(all, in.Name+"="+string(b))
		}
		slices.Sort(all)
		return &sandbox.Result{Payload: []byte(`"` + strings.Join(all, ",") + `"`)}, nil
	case "big":
		return &sandbox.Result{Payload: make([]byte, n)}, nil
	case "log":
		return &sandbox.Result{Logs: []byte(arg + "\n")}, nil
	case "flood":
		return &sandbox.Result{Logs: []byte(strings.Repeat("y", n) + "end")}, nil
	}
	return &sandbox.Result{Payload: c.Payload}, nil
}

func TestConformance(t *testing.T) {
	sandboxtest.Run(t, func(t *testing.T) sandboxtest.Env {
		r, err := fake.New(fake.Config{Sleep: noSleep, Act: act, Answer: answer})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "artifact")
		if err := os.WriteFile(file, []byte("anything"), 0o444); err != nil {
			t.Fatal(err)
		}
		return sandboxtest.Env{Runtime: r, Function: sandboxtest.Function(t, api.RuntimeWasm, file), Artifact: file}
	})
}

func TestTimesPassBySleep(t *testing.T) {
	var slept []time.Duration
	r, err := fake.New(fake.Config{
		Sleep: func(_ context.Context, d time.Duration) error { slept = append(slept, d); return nil },
		Times: func(_ *api.Function, c *sandbox.Call) fake.Times {
			tm := fake.Times{Prepare: time.Hour, Start: time.Minute}
			if c != nil {
				tm.Run = time.Duration(len(c.Payload)) * time.Second
			}
			return tm
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	fn := &api.Function{Artifact: strings.Repeat("ab", 32)}
	for range 2 {
		s, err := r.Start(t.Context(), fn, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Invoke(t.Context(), &sandbox.Call{Payload: []byte("123")}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	want := []time.Duration{time.Hour, time.Minute, 3 * time.Second, time.Minute, 3 * time.Second}
	if !slices.Equal(slept, want) {
		t.Errorf("slept %v, want %v", slept, want)
	}
	if got, want := r.Stats(), (fake.Stats{Prepares: 1, Starts: 2, Calls: 2}); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
	if _, err := fake.New(fake.Config{}); err == nil {
		t.Error("a runtime without sleep was made")
	}
}

package e2e

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"path/filepath"

	"github.com/rubato-faas/rubato/client"
	"github.com/rubato-faas/rubato/sandbox/sandboxtest"
	"github.com/rubato-faas/rubato/zonesched"
)

// Functions that crash, panic, spin, hang or flood, in both runtimes, give their callers typed errors within their timeout. The node
// lives on, and no call of another function beside them is lost.
func TestFunctionsThatFailHarmNobody(t *testing.T) {
	s := newSystem(t)
	s.globals(1)
	door := s.zone("edge", "edge", "edge-s1")
	s.node("edge", "edge-n1", 4)
	c := connect(t, "default", door)
	nodesUp(t, c, 1)
	dir := t.TempDir()
	process, err := sandboxtest.Build(dir, sandboxtest.Guest, sandboxtest.Process)
	if err != nil {
		t.Fatal(err)
	}
	wasm, err := sandboxtest.Build(dir, sandboxtest.Guest, sandboxtest.Command)
	if err != nil {
		t.Fatal(err)
	}
	const timeout = 1500 * time.Millisecond
	rubato(t, door, "deploy", "noop", filepath.Join(bin, "functions", "noop.wasm"), "--memory", "32")
	rubato(t, door, "deploy", "bad-process", process, "--memory", "64", "--run-timeout", timeout.String())
	rubato(t, door, "deploy", "bad-wasm", wasm, "--memory", "64", "--run-timeout", timeout.String())
	for _, f := range []string{"noop", "bad-process", "bad-wasm"} {
		until(t, 30*time.Second, f+" runs", func() error {
			_, err := c.Invoke(context.Background(), client.Invocation{Function: f, Payload: []byte(`"echo"`)})
			return err
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var good atomic.Int64
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := c.Invoke(context.Background(), client.Invocation{Function: "noop"}); err != nil {
					t.Errorf("a call beside those that fail: %v", err)
					return
				}
				good.Add(1)
			}
		})
	}
	for _, f := range []string{"bad-process", "bad-wasm"} {
		for payload, status := range map[string]int{
			`"crash"`: http.StatusBadGateway, `"panic:x"`: http.StatusBadGateway, `"fail:y"`: http.StatusBadGateway,
			`"spin"`: http.StatusGatewayTimeout, `"sleep"`: http.StatusGatewayTimeout,
		} {
			before, began := good.Load(), time.Now()
			_, err := c.Invoke(context.Background(), client.Invocation{Function: f, Payload: []byte(payload)})
			var e *client.Error
			if !errors.As(err, &e) || e.Status != status {
				t.Errorf("%s %s: %v, want status %d", f, payload, err, status)
			}
			if took := time.Since(began); took > 20*time.Second { // the longest that an execution may take by default is 30 s
				t.Errorf("%s %s took %v, with a timeout of %v", f, payload, took, timeout)
			}
			if status == http.StatusGatewayTimeout && good.Load() == before {
				t.Errorf("%s %s: no other call was answered meanwhile", f, payload)
			}
		}
		until(t, 20*time.Second, f+" runs again", func() error {
			_, err := c.Invoke(context.Background(), client.Invocation{Function: f, Payload: []byte(`"echo"`)})
			return err
		})
	}
	cancel()
	wg.Wait()
	var nodes []zonesched.NodeView
	if err := c.Look(context.Background(), "nodes", &nodes); err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 1 || !nodes[0].Live {
		t.Errorf("nodes afterwards: %+v", nodes)
	}
	select {
	case <-s.procs["edge-n1"].done:
		t.Error("the node's process ended")
	default:
	}
	t.Logf("%d calls were answered beside those that failed", good.Load())
}

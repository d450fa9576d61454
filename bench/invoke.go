package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/cluster"
	"github.com/rubato-faas/rubato/sandbox"
	"github.com/rubato-faas/rubato/sandbox/wasm"
)

// InvokeOptions size the invoke benchmark.
type InvokeOptions struct {
	// Functions is the folder with the built example functions.
	Functions string
	// Calls are made one after another for the latency figures; Callers at once for Saturate for the throughput.
	Calls    int
	Callers  int
	Saturate time.Duration
	Log      *slog.Logger
}

// DefaultInvokeOptions takes about fifteen seconds.
func DefaultInvokeOptions() InvokeOptions {
	return InvokeOptions{Calls: 4000, Callers: 64, Saturate: 6 * time.Second, Log: slog.New(slog.DiscardHandler)}
}

// Invoke measures what Rubato adds to a call: a no-op WASM function through the HTTP front door on loopback against the
// same function called in its runtime directly, and how many calls a second go through with many callers at once.
func Invoke(ctx context.Context, o InvokeOptions) (r *Report, err error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "rubato-bench-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	direct, err := directNoop(ctx, filepath.Join(dir, "direct"), o)
	if err != nil {
		return nil, fmt.Errorf("bench invoke: %w", err)
	}
	opts := cluster.DefaultOptions(filepath.Join(dir, "cluster"), o.Log)
	opts.Zones, opts.Nodes, opts.Schedulers, opts.Coordinators = opts.Zones[1:], 2, 1, 1
	opts.Zone.Gateway.Auth = "off"
	opts.Node.Node.Node.Slots = o.Callers
	opts.Node.Node.Node.MemoryMB = 32 * o.Callers * 2
	cl, err := cluster.Up(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cl.Down()) }()
	door := cl.Door("core")
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * o.Callers, DisableCompression: true}}
	defer hc.CloseIdleConnections()
	l := &load{function: "noop", example: "noop", tenant: "default", memoryMB: 32}
	if err := deployAll(ctx, hc, []string{door}, nil, []*load{l}, nil, o.Functions); err != nil {
		return nil, err
	}
	one := func() call { return invoke(ctx, hc, door, "", &arrival{load: l}, time.Now()) }
	for range 200 { // sandboxes warm up, the model learns
		if c := one(); !c.ok {
			return nil, fmt.Errorf("bench invoke: call answered %d: %s", c.status, c.body)
		}
	}
	e2e, parts, err := latencies(one, o.Calls)
	if err != nil {
		return nil, err
	}
	perS, p50, p99, err := saturate(ctx, one, o)
	if err != nil {
		return nil, err
	}
	r = &Report{Bench: "invoke", Env: environment()}
	r.add("direct_p50_ms", quantile(direct, .5), "ms")
	r.add("door_p50_ms", quantile(e2e, .5), "ms")
	r.add("door_p99_ms", quantile(e2e, .99), "ms")
	r.add("added_p50_ms", quantile(e2e, .5)-quantile(direct, .5), "ms")
	r.add("added_p99_ms", quantile(e2e, .99)-quantile(direct, .99), "ms")
	r.add("saturation_per_s", perS, "1/s")
	r.add("saturated_p50_ms", p50, "ms")
	r.add("saturated_p99_ms", p99, "ms")
	r.Notes = append(r.Notes, fmt.Sprintf("mean of one call: run %.3f ms in the sandbox, the rest (HTTP, decision, bus there and back) %.3f ms", parts, mean(e2e)-parts),
		"callers, front door, scheduler, bus and node share the machine's cores")
	return r, nil
}

// directNoop times calls of the no-op function in its runtime.
func directNoop(ctx context.Context, dir string, o InvokeOptions) ([]float64, error) {
	cfg := wasm.DefaultConfig()
	cfg.Dir, cfg.Log = dir, o.Log
	rt, err := wasm.New(cfg)
	if err != nil {
		return nil, err
	}
	defer rt.Close()
	fn := &api.Function{Tenant: "default", Name: "noop", Version: 1, Runtime: api.RuntimeWasm, Artifact: strings.Repeat("0", 64), MemoryMB: 32, Timeout: time.Minute}
	path := filepath.Join(o.Functions, "noop.wasm")
	if err := rt.Prepare(ctx, fn, path); err != nil {
		return nil, fmt.Errorf("%w (make build makes the example functions)", err)
	}
	sb, err := rt.Start(ctx, fn, path)
	if err != nil {
		return nil, err
	}
	defer sb.Close()
	ctx, cancel := context.WithCancel(ctx) // as the node calls it: it can be stopped
	defer cancel()
	var out []float64
	for i := range o.Calls + 200 {
		t := time.Now()
		if _, err := sb.Invoke(ctx, &sandbox.Call{ID: "direct", Deadline: t.Add(time.Minute)}); err != nil {
			return nil, err
		}
		if i >= 200 {
			out = append(out, msSince(t))
		}
	}
	return out, nil
}

func latencies(one func() call, n int) (e2e []float64, runMean float64, err error) {
	var runs []float64
	for range n {
		c := one()
		if !c.ok {
			return nil, 0, fmt.Errorf("bench invoke: call answered %d: %s", c.status, c.body)
		}
		e2e, runs = append(e2e, c.e2eMs), append(runs, c.execMs())
	}
	return e2e, mean(runs), nil
}

// saturate keeps many callers busy and counts answers; the first half second does not count.
func saturate(ctx context.Context, one func() call, o InvokeOptions) (perS, p50, p99 float64, err error) {
	var counting atomic.Bool
	var mu sync.Mutex
	var all []float64
	var failed error
	var wg sync.WaitGroup
	end := time.Now().Add(o.Saturate)
	for range o.Callers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var mine []float64
			for time.Now().Before(end) && ctx.Err() == nil {
				c := one()
				if !c.ok {
					mu.Lock()
					failed = fmt.Errorf("bench invoke: under load a call answered %d: %s", c.status, c.body)
					mu.Unlock()
					return
				}
				if counting.Load() {
					mine = append(mine, c.e2eMs)
				}
			}
			mu.Lock()
			all = append(all, mine...)
			mu.Unlock()
		}()
	}
	warm := time.NewTimer(500 * time.Millisecond)
	defer warm.Stop()
	select {
	case <-warm.C:
	case <-ctx.Done():
	}
	counting.Store(true)
	began := time.Now()
	wg.Wait()
	took := time.Since(began).Seconds()
	return float64(len(all)) / took, quantile(all, .5), quantile(all, .99), failed
}

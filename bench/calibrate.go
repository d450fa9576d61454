package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sandbox"
	"github.com/rubato-faas/rubato/sandbox/process"
)

// remoteOverLocal is what the link's speed is chosen for: the function that is quickest per byte takes about this many
// times longer with its input remote than local, all others less. The largest ratio measured on real clouds is 3.5.
const remoteOverLocal = 2.6

// referenceSecondsPerByte is how long wordcount, the function that takes most of the host's time, takes per byte with one
// running on every core of the machine that the arrival rates were chosen for. Cores that are shared with others, or are
// two threads of one, show only when all of them work.
const referenceSecondsPerByte = 7.5e-9

// calibration is what the demo adapts to the machine: the speed of the nodes' links, and the scale of the arrival
// rates, so that a slow machine is as busy as a fast one and queueing for the host does not drown everything else.
type calibration struct{ linkMbps, rate float64 }

// calibrate measures how long each function with inputs takes per byte on this machine, with nothing else running. It
// chooses the link speed from the quickest, and the rate from wordcount.
func calibrate(ctx context.Context, o DemoOptions, loads []*load) (c calibration, err error) {
	dir, err := os.MkdirTemp("", "rubato-calibrate-*")
	if err != nil {
		return c, err
	}
	c.rate = 1
	defer os.RemoveAll(dir)
	for _, l := range loads {
		if len(l.objects) == 0 {
			continue
		}
		perByte, err := secondsPerByte(ctx, filepath.Join(dir, l.function), filepath.Join(o.Functions, l.example), l, o)
		if err != nil {
			return c, fmt.Errorf("demo measure %s: %w", l.function, err)
		}
		o.Log.Debug("measured", "function", l.function, "ns_per_byte", perByte*1e9)
		c.linkMbps = max(c.linkMbps, 8/1e6/((remoteOverLocal-1)*perByte))
		if l.example == "wordcount" {
			if perByte, err = busyPerByte(ctx, dir, filepath.Join(o.Functions, l.example), l, o); err != nil {
				return c, fmt.Errorf("demo measure %s: %w", l.function, err)
			}
			o.Log.Debug("measured on all cores", "function", l.function, "ns_per_byte", perByte*1e9)
			c.rate = min(1, referenceSecondsPerByte/perByte)
		}
	}
	return c, nil
}

// busyPerByte is secondsPerByte with one sandbox on every core, the mean over all.
func busyPerByte(ctx context.Context, dir, artifact string, l *load, o DemoOptions) (float64, error) {
	n := runtime.NumCPU()
	took, errs := make([]float64, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			took[i], errs[i] = secondsPerByte(ctx, filepath.Join(dir, fmt.Sprintf("busy-%d", i)), artifact, l, o)
		})
	}
	wg.Wait()
	return mean(took), errors.Join(errs...)
}

// secondsPerByte is the quickest of five warm runs over one of the function's objects.
func secondsPerByte(ctx context.Context, dir, artifact string, l *load, o DemoOptions) (float64, error) {
	cfg := process.DefaultConfig()
	cfg.Dir, cfg.Log = dir, o.Log
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	rt, err := process.New(cfg)
	if err != nil {
		return 0, err
	}
	defer rt.Close()
	fn := &api.Function{Tenant: "demo", Name: l.function, Version: 1, Runtime: api.RuntimeProcess, Artifact: strings.Repeat("0", 64), MemoryMB: l.memoryMB, Timeout: time.Minute}
	if err := rt.Prepare(ctx, fn, artifact); err != nil {
		return 0, fmt.Errorf("%w (make build makes the example functions)", err)
	}
	sb, err := rt.Start(ctx, fn, artifact)
	if err != nil {
		return 0, err
	}
	defer sb.Close()
	data := l.objects[len(l.objects)/2].data()
	path := filepath.Join(dir, "input")
	if err := os.WriteFile(path, data, 0o400); err != nil {
		return 0, err
	}
	payload := ""
	if l.payload != nil {
		payload = l.payload(rand.New(rand.NewPCG(1, 1)))
	}
	best := time.Duration(1<<63 - 1)
	for i := range 6 {
		began := time.Now()
		res, err := sb.Invoke(ctx, &sandbox.Call{
			ID: fmt.Sprintf("calibrate-%d", i), Payload: []byte(payload), Inputs: []sandbox.Input{{Name: "00-input", Path: path}},
			Deadline: began.Add(time.Minute), ARN: "arn:rubato:function:demo:" + l.function,
		})
		if err != nil {
			return 0, err
		}
		if res.FunctionError != nil {
			return 0, fmt.Errorf("%w: %s", api.ErrFunction, res.FunctionError)
		}
		if i > 0 {
			best = min(best, time.Since(began))
		}
	}
	return best.Seconds() / float64(len(data)), nil
}

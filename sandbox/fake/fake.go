// Package fake is a sandbox runtime that runs nothing: preparing, starting and running take the times they are
// given, by a sleep that the caller supplies. The simulator sleeps in virtual time, tests mostly not at all. It
// keeps the port's contract, so that what is tested with it holds for real runtimes. A Runtime is safe for
// concurrent use if the functions in its Config are.
package fake

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sandbox"
	"github.com/rubato-faas/rubato/sandbox/internal/stage"
)

// Times are how long the steps of one function take.
type Times struct {
	Prepare, Start, Run time.Duration
}

// Act is what a pretended call does when its time has passed.
type Act uint8

const (
	// Answer: the call ends with what Config.Answer says.
	Answer Act = iota
	// Crash: the sandbox dies.
	Crash
	// Hang: the call never ends by itself.
	Hang
)

// Config says what is pretended.
type Config struct {
	// Sleep lets d pass, or ends early with an error when ctx ends.
	Sleep func(ctx context.Context, d time.Duration) error
	// Times of a function; nil means that all takes no time. Run times may depend on the call, which is nil for
	// the other steps.
	Times func(fn *api.Function, c *sandbox.Call) Times
	// Act of a call; nil means Answer.
	Act func(fn *api.Function, c *sandbox.Call) Act
	// Answer makes a call's result; nil echoes the payload.
	Answer func(fn *api.Function, c *sandbox.Call) (*sandbox.Result, error)
}

// Runtime makes pretended sandboxes.
type Runtime struct {
	cfg Config

	mu       sync.Mutex
	prepared map[string]bool // by digest; leaves with Forget
	stats    Stats
}

// Stats counts what a runtime has pretended.
type Stats struct {
	Prepares, Starts, Calls, Open int
}

var _ sandbox.Runtime = (*Runtime)(nil)

// New makes a runtime that sleeps by cfg.Sleep.
func New(cfg Config) (*Runtime, error) {
	if cfg.Sleep == nil {
		return nil, fmt.Errorf("fake new: %w: no sleep", api.ErrInvalid)
	}
	if cfg.Times == nil {
		cfg.Times = func(*api.Function, *sandbox.Call) Times { return Times{} }
	}
	if cfg.Act == nil {
		cfg.Act = func(*api.Function, *sandbox.Call) Act { return Answer }
	}
	if cfg.Answer == nil {
		cfg.Answer = func(_ *api.Function, c *sandbox.Call) (*sandbox.Result, error) {
			return &sandbox.Result{Payload: c.Payload}, nil
		}
	}
	return &Runtime{cfg: cfg, prepared: make(map[string]bool)}, nil
}

// Stats is what was counted up to now.
func (r *Runtime) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

// Prepare takes the function's prepare time, once per digest. The artifact is not looked at unless it has a path:
// the simulator has none.
func (r *Runtime) Prepare(ctx context.Context, fn *api.Function, artifact string) error {
	if err := r.prepare(ctx, fn, artifact); err != nil {
		return fmt.Errorf("fake prepare %s: %w", fn.Key(), err)
	}
	return nil
}

func (r *Runtime) prepare(ctx context.Context, fn *api.Function, artifact string) error {
	if err := stage.CheckDigest(fn.Artifact); err != nil {
		return err
	}
	r.mu.Lock()
	done := r.prepared[fn.Artifact]
	r.mu.Unlock()
	if done {
		return nil
	}
	if artifact != "" {
		if err := stage.CheckFile(artifact); err != nil {
			return err
		}
	}
	if err := r.sleep(ctx, r.cfg.Times(fn, nil).Prepare); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prepared[fn.Artifact] = true
	r.stats.Prepares++
	return nil
}

func (r *Runtime) sleep(ctx context.Context, d time.Duration) error {
	if err := r.cfg.Sleep(ctx, d); err != nil {
		return errors.Join(sandbox.StopError(ctx), err)
	}
	return sandbox.StopError(ctx)
}

// Start takes the function's start time, and its prepare time before if that has not passed.
func (r *Runtime) Start(ctx context.Context, fn *api.Function, artifact string) (sandbox.Sandbox, error) {
	if err := r.Prepare(ctx, fn, artifact); err != nil {
		return nil, err
	}
	if err := r.sleep(ctx, r.cfg.Times(fn, nil).Start); err != nil {
		return nil, fmt.Errorf("fake start %s: %w", fn.Key(), err)
	}
	b := &box{rt: r, fn: fn}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Starts++
	r.stats.Open++
	return b, nil
}

// Forget makes the next Prepare of digest take its time again.
func (r *Runtime) Forget(digest string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.prepared, digest)
}

// Isolation says that there is nothing to be separated.
func (r *Runtime) Isolation() string { return "fake" }

// Close forgets everything.
func (r *Runtime) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.prepared)
	return nil
}

// box is one pretended sandbox.
type box struct {
	rt     *Runtime
	fn     *api.Function
	ctx    context.Context // ends with Close or with the first error
	cancel context.CancelFunc
	once   sync.Once
}

var _ sandbox.Sandbox = (*box)(nil)

// Invoke lets the call's run time pass and then does what Config.Act says.
func (b *box) Invoke(ctx context.Context, c *sandbox.Call) (*sandbox.Result, error) {
	res, err := b.invoke(ctx, c)
	if err != nil {
		b.cancel()
		return nil, fmt.Errorf("fake invoke %s: %w", b.fn.Key(), err)
	}
	return res, nil
}

func (b *box) invoke(ctx context.Context, c *sandbox.Call) (*sandbox.Result, error) {
	if len(c.Payload) > api.MaxPayloadBytes {
		return nil, fmt.Errorf("%w: payload of %d bytes", api.ErrTooLarge, len(c.Payload))
	}
	if b.ctx.Err() != nil {
		return nil, fmt.Errorf("%w: sandbox is broken or closed", api.ErrUnavailable)
	}
	for _, in := range c.Inputs {
		if err := stage.CheckInput(in.Name); err != nil {
			return nil, err
		}
	}
	b.rt.mu.Lock()
	b.rt.stats.Calls++
	b.rt.mu.Unlock()
	if err := b.rt.sleep(ctx, b.rt.cfg.Times(b.fn, c).Run); err != nil {
		return nil, err
	}
	switch b.rt.cfg.Act(b.fn, c) {
	case Crash:
		return nil, sandbox.ErrCrashed
	case Hang:
		select {
		case <-ctx.Done():
			return nil, sandbox.StopError(ctx)
		case <-b.ctx.Done():
			return nil, fmt.Errorf("%w: sandbox was closed", api.ErrCanceled)
		}
	}
	return b.answer(c)
}

func (b *box) answer(c *sandbox.Call) (*sandbox.Result, error) {
	res, err := b.rt.cfg.Answer(b.fn, c)
	if err != nil {
		return nil, err
	}
	if len(res.Payload) > api.MaxPayloadBytes {
		return nil, fmt.Errorf("%w: result of %d bytes", api.ErrTooLarge, len(res.Payload))
	}
	out := *res
	out.Logs = out.Logs[max(0, len(out.Logs)-api.MaxLogBytes):]
	return &out, nil
}

// Close ends a call that hangs.
func (b *box) Close() error {
	b.once.Do(func() {
		b.cancel()
		b.rt.mu.Lock()
		defer b.rt.mu.Unlock()
		b.rt.stats.Open--
	})
	return nil
}

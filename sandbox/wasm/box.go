package wasm

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero"
	wasmapi "github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sandbox"
	"github.com/rubato-faas/rubato/sandbox/internal/stage"
)

// box is one sandbox. Its guest runs on a goroutine of its own, not on the caller's, because a guest in recursion
// cannot be stopped: the caller then leaves and the goroutine frees what the guest used when the guest is done.
// Handing a call over costs about a microsecond.
type box struct {
	rt     *Runtime
	prog   *program
	fn     *api.Function
	dir    string
	inputs *stage.Folder
	logs   *stage.Tail

	// ctx ends when the guest is to stop; wazero then closes the module at its next loop.
	ctx    context.Context
	cancel context.CancelFunc
	// calls and replies hand in, out and the right to touch them to the guest's goroutine and back.
	calls    chan struct{}
	replies  chan reply
	in       stdin
	out      stdout
	finished chan struct{} // closed when the guest's goroutine has freed everything
	life     atomic.Int32  // running, abandoned or ended

	// of the guest's goroutine only:
	module wasmapi.Module
	handle wasmapi.Function
	stack  [1]uint64
}

// What life says.
const (
	running int32 = iota
	abandoned
	ended
)

var _ sandbox.Sandbox = (*box)(nil)

// reply is how a call ended inside the guest.
type reply struct {
	status uint32 // other than 0: the function failed by its own word
	err    error  // the guest is no more
}

// newBox makes the sandbox around a program in use; once start was called, it releases the program when it ends.
func newBox(r *Runtime, p *program, fn *api.Function) (*box, error) {
	dir := filepath.Join(r.runDir(), strconv.FormatUint(r.serial.Add(1), 10))
	inputs, err := stage.NewFolder(filepath.Join(dir, "inputs"))
	if err != nil {
		return nil, err
	}
	b := &box{
		rt: r, prog: p, fn: fn, dir: dir, inputs: inputs, logs: stage.NewTail(api.MaxLogBytes),
		calls: make(chan struct{}, 1), replies: make(chan reply, 1), finished: make(chan struct{}),
		out: stdout{limit: r.cfg.MaxResponseBytes},
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b, nil
}

// start runs the guest's goroutine and waits until it is ready for calls.
func (b *box) start(ctx context.Context) error {
	ready := make(chan error, 1)
	go b.guest(ready)
	select {
	case err := <-ready:
		if err != nil {
			return fmt.Errorf("%w%s", err, b.lastWords())
		}
		return nil
	case <-ctx.Done():
		return sandbox.StopError(ctx)
	}
}

// guest owns the module: it makes it, runs calls one after the other, and frees all when told to stop.
func (b *box) guest(ready chan<- error) {
	defer close(b.finished)
	defer b.free()
	if b.prog.reactor {
		if err := b.initialise(); err != nil {
			ready <- err
			return
		}
	}
	ready <- nil
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-b.calls:
			r := b.serve()
			b.replies <- r
			if r.err != nil {
				return
			}
		}
	}
}

func (b *box) initialise() error {
	m, err := b.prog.runtime.InstantiateModule(b.ctx, b.prog.module, b.moduleConfig().WithStartFunctions("_initialize"))
	if err != nil {
		return fmt.Errorf("%w: _initialize: %w", sandbox.ErrCrashed, err)
	}
	b.module, b.handle = m, m.ExportedFunction(handleExport)
	return nil
}

// free gives everything back. It runs on the guest's goroutine, since code and memory must outlive the guest.
func (b *box) free() {
	var errs []error
	if b.module != nil {
		errs = append(errs, b.module.Close(context.Background()))
	}
	b.rt.release(b.prog)
	errs = append(errs, os.RemoveAll(b.dir))
	if err := errors.Join(errs...); err != nil {
		b.rt.cfg.Log.Warn("wasm free sandbox", "function", b.fn.Key(), "err", err)
	}
	if b.life.Swap(ended) == abandoned {
		b.rt.abandoned.Add(-1)
	}
}

func (b *box) serve() reply {
	if !b.prog.reactor {
		return b.runCommand()
	}
	if err := b.handle.CallWithStack(b.ctx, b.stack[:]); err != nil {
		return reply{err: fmt.Errorf("%w: %w", sandbox.ErrCrashed, err)}
	}
	return reply{status: uint32(b.stack[0])}
}

// runCommand instantiates the module, which runs _start, and takes its exit code.
func (b *box) runCommand() reply {
	m, err := b.prog.runtime.InstantiateModule(b.ctx, b.prog.module, b.moduleConfig())
	if m != nil {
		err = errors.Join(err, m.Close(context.Background()))
	}
	var exit *sys.ExitError
	switch {
	case err == nil:
		return reply{}
	case errors.As(err, &exit) && b.ctx.Err() == nil:
		return reply{status: exit.ExitCode()}
	default:
		return reply{err: fmt.Errorf("%w: %w", sandbox.ErrCrashed, err)}
	}
}

func (b *box) moduleConfig() wazero.ModuleConfig {
	c := wazero.NewModuleConfig().WithName("").WithArgs(b.fn.Name).
		WithStdin(&b.in).WithStdout(&b.out).WithStderr(b.logs).
		WithFSConfig(wazero.NewFSConfig().WithReadOnlyDirMount(b.inputs.Dir(), "/inputs")).
		WithSysWalltime().WithSysNanotime().WithNanosleep(b.sleep).WithRandSource(rand.Reader)
	for _, k := range slices.Sorted(maps.Keys(b.fn.Env)) {
		c = c.WithEnv(k, b.fn.Env[k])
	}
	return c.WithEnv("RUBATO_INPUTS", "/inputs").
		WithEnv("AWS_LAMBDA_FUNCTION_NAME", b.fn.Name).
		WithEnv("AWS_LAMBDA_FUNCTION_VERSION", strconv.FormatUint(b.fn.Version, 10)).
		WithEnv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", strconv.Itoa(b.fn.MemoryMB))
}

// sleep is the guest's sleep. wazero's own cannot be interrupted.
func (b *box) sleep(ns int64) {
	t := time.NewTimer(time.Duration(ns))
	defer t.Stop()
	select {
	case <-t.C:
	case <-b.ctx.Done():
	}
}

// Invoke hands the call to the guest's goroutine and waits for the earlier of its reply and the end of ctx.
func (b *box) Invoke(ctx context.Context, c *sandbox.Call) (*sandbox.Result, error) {
	r, err := b.invoke(ctx, c)
	if err != nil {
		b.cancel() // a broken sandbox runs nothing more
		return r, fmt.Errorf("wasm invoke %s: %w", b.fn.Key(), err)
	}
	return r, nil
}

func (b *box) invoke(ctx context.Context, c *sandbox.Call) (*sandbox.Result, error) {
	if len(c.Payload) > api.MaxPayloadBytes {
		return nil, fmt.Errorf("%w: payload of %d bytes, limit %d", api.ErrTooLarge, len(c.Payload), api.MaxPayloadBytes)
	}
	if b.ctx.Err() != nil {
		return nil, fmt.Errorf("%w: sandbox is broken or closed", api.ErrUnavailable)
	}
	if err := b.inputs.Place(c.Inputs); err != nil {
		return nil, err
	}
	b.in.rest = c.Payload
	b.out.reset()
	b.logs.Reset()
	b.calls <- struct{}{}
	select {
	case r := <-b.replies:
		return b.result(r)
	case <-ctx.Done():
		b.stop()
		return &sandbox.Result{Logs: b.logs.Bytes()}, sandbox.StopError(ctx)
	case <-b.ctx.Done():
		return &sandbox.Result{Logs: b.logs.Bytes()}, fmt.Errorf("%w: sandbox was closed", api.ErrCanceled)
	}
}

// result makes the answer of a call that has ended.
func (b *box) result(r reply) (*sandbox.Result, error) {
	b.in.rest = nil
	res := &sandbox.Result{Logs: b.logs.Bytes()}
	switch {
	case r.err != nil && b.ctx.Err() != nil:
		return res, fmt.Errorf("%w: sandbox was closed", api.ErrCanceled)
	case r.err != nil:
		return res, fmt.Errorf("%w%s", r.err, b.lastWords())
	case b.out.over:
		return res, fmt.Errorf("%w: result above %d bytes", api.ErrTooLarge, b.out.limit)
	case r.status != 0:
		res.FunctionError = b.errorDocument(r.status)
	default:
		res.Payload = b.out.take()
	}
	return res, b.inputs.Clear()
}

// errorDocument is what the guest wrote, if that is JSON, else one made of its status.
func (b *box) errorDocument(status uint32) []byte {
	if doc := b.out.take(); json.Valid(doc) {
		return doc
	}
	return fmt.Appendf(nil, `{"errorMessage":"ended with status %d","errorType":"Runtime.ExitError"}`, status)
}

// lastWords is the end of the guest's log for an error's text.
func (b *box) lastWords() string {
	const shown = 200
	l := b.logs.Bytes()
	if len(l) == 0 {
		return ""
	}
	return fmt.Sprintf(" (log ends in %q)", l[max(0, len(l)-shown):])
}

// stop tells the guest to stop and waits a while for it; one that does not is left behind and counted.
func (b *box) stop() {
	b.cancel()
	t := time.NewTimer(b.rt.cfg.StopGrace)
	defer t.Stop()
	select {
	case <-b.finished:
	case <-t.C:
		if b.life.CompareAndSwap(running, abandoned) {
			n := b.rt.abandoned.Add(1)
			b.rt.cfg.Log.Warn("wasm guest does not stop, left behind", "function", b.fn.Key(), "abandoned", n)
		}
	}
}

// Close stops the guest. It does not wait longer than Config.StopGrace for one that does not stop.
func (b *box) Close() error {
	if b.life.Load() != abandoned {
		b.stop()
	}
	return nil
}

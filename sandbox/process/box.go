package process

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sandbox"
	"github.com/rubato-faas/rubato/sandbox/internal/stage"
)

// box is one sandbox: a process, its Runtime API and its folder.
type box struct {
	rt     *Runtime
	fn     *api.Function
	dir    string
	inputs *stage.Folder
	lambda *lambda
	out    *output
	cmd    *exec.Cmd

	broken atomic.Bool

	exited chan struct{} // closed when the process is gone; exitErr is set before
	// exitErr is how the process ended.
	exitErr error
	mu      sync.Mutex
	reaped  bool // guarded by mu: the process group's number may be another's from then on

	closing  sync.Once
	closeErr error
}

var _ sandbox.Sandbox = (*box)(nil)

func newBox(r *Runtime, fn *api.Function) (*box, error) {
	b := &box{rt: r, fn: fn, dir: r.newDir(), exited: make(chan struct{})}
	var err error
	if b.inputs, err = stage.NewFolder(filepath.Join(b.dir, "inputs")); err != nil {
		return nil, err
	}
	if err = os.Mkdir(filepath.Join(b.dir, "tmp"), 0o755); err != nil {
		return nil, errors.Join(err, os.RemoveAll(b.dir))
	}
	if b.lambda, err = newLambda(r.cfg.MaxResponseBytes); err != nil {
		return nil, errors.Join(err, os.RemoveAll(b.dir))
	}
	return b, nil
}

// start runs the process and waits for its first poll.
func (b *box) start(ctx context.Context) error {
	env, err := b.environment()
	if err != nil {
		return err
	}
	if err := b.run(ctx, env); err != nil {
		return err
	}
	select {
	case <-b.lambda.polled:
		b.lambda.poll() // for the first call to take
		return nil
	case doc := <-b.lambda.failed:
		return fmt.Errorf("%w: init: %s", sandbox.ErrCrashed, doc)
	case <-b.exited:
		select {
		case doc := <-b.lambda.failed: // it said why before it went
			return fmt.Errorf("%w: init: %s", sandbox.ErrCrashed, doc)
		default:
			return b.crashError()
		}
	case <-ctx.Done():
		return sandbox.StopError(ctx)
	}
}

// run starts the process in a group of its own, to die with this program, and watches over its end.
func (b *box) run(ctx context.Context, env []string) error {
	out, w, err := newOutput(api.MaxLogBytes)
	if err != nil {
		return err
	}
	b.out = out
	for {
		b.cmd = &exec.Cmd{
			Path: b.rt.executable(b.fn.Artifact), Args: []string{b.fn.Name}, Env: env, Dir: b.dir, Stdout: w, Stderr: w,
			SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
		}
		err = b.cmd.Start()
		if !isTextBusy(err) || ctx.Err() != nil {
			break
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			break
		}
	}
	if err != nil {
		b.cmd = nil
		return errors.Join(fmt.Errorf("%w: %w", sandbox.ErrCrashed, err), w.Close())
	}
	go b.watch()
	return w.Close()
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return sandbox.StopError(ctx)
	}
}

// watch waits for the process to end. It looks before it reaps: as long as the dead leader is not reaped, its group
// is surely its own, so what is left of the group can be killed.
func (b *box) watch() {
	defer close(b.exited)
	pid := b.cmd.Process.Pid
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	b.kill()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reaped = true
	if b.exitErr = b.cmd.Wait(); b.exitErr == nil {
		b.exitErr = errors.New("exit status 0")
	}
}

// kill ends the whole process group, if it is still there.
func (b *box) kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.reaped {
		_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL) // ESRCH: gone already
	}
}

// environment is all that the process inherits. The function's own variables do not override the runtime's.
func (b *box) environment() ([]string, error) {
	if err := api.CheckEnv(b.fn.Env); err != nil {
		return nil, err
	}
	var env []string
	for _, k := range slices.Sorted(maps.Keys(b.fn.Env)) {
		env = append(env, k+"="+b.fn.Env[k])
	}
	// Of two entries with one name the later counts.
	return append(env,
		"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME="+b.dir, "TMPDIR="+filepath.Join(b.dir, "tmp"),
		"LAMBDA_TASK_ROOT="+b.dir, "_HANDLER="+b.fn.Name,
		"AWS_LAMBDA_RUNTIME_API="+b.lambda.addr(),
		"AWS_LAMBDA_FUNCTION_NAME="+b.fn.Name,
		"AWS_LAMBDA_FUNCTION_VERSION="+strconv.FormatUint(b.fn.Version, 10),
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE="+strconv.Itoa(b.fn.MemoryMB),
		"RUBATO_INPUTS="+b.inputs.Dir()), nil
}

// Invoke gives the call to the process's long poll and waits for its answer, its end, or the end of ctx. When the
// call fails, the result still carries its logs.
func (b *box) Invoke(ctx context.Context, c *sandbox.Call) (*sandbox.Result, error) {
	if b.broken.Load() {
		return nil, fmt.Errorf("process invoke %s: %w: sandbox is broken or closed", b.fn.Key(), api.ErrUnavailable)
	}
	res := &sandbox.Result{}
	err := b.invoke(ctx, c, res)
	b.out.drain()
	res.Logs = b.out.tail.Bytes()
	if err = errors.Join(err, b.inputs.Clear()); err != nil {
		b.broken.Store(true)
		return res, fmt.Errorf("process invoke %s: %w", b.fn.Key(), err)
	}
	return res, nil
}

func (b *box) invoke(ctx context.Context, c *sandbox.Call, res *sandbox.Result) error {
	if len(c.Payload) > api.MaxPayloadBytes {
		return fmt.Errorf("%w: payload of %d bytes, limit %d", api.ErrTooLarge, len(c.Payload), api.MaxPayloadBytes)
	}
	if err := b.inputs.Place(c.Inputs); err != nil {
		return err
	}
	h, err := headers(c, b.fn, b.inputs.Dir())
	if err != nil {
		return err
	}
	// What was printed since the last call is no call's.
	b.out.drain()
	b.out.tail.Reset()
	if err := b.polled(ctx); err != nil {
		return err
	}
	inv := &invocation{call: c, header: h, answers: make(chan answer, 1)}
	select {
	case b.lambda.work <- inv:
	case <-b.exited:
		return b.crashError()
	case <-ctx.Done():
		return b.abort(ctx)
	}
	select {
	case a := <-inv.answers:
		return b.take(ctx, a, res)
	case <-b.exited:
		return b.crashError()
	case <-ctx.Done():
		return b.abort(ctx)
	}
}

// polled waits until the process asks for work.
func (b *box) polled(ctx context.Context) error {
	select {
	case <-b.lambda.polled:
		return nil
	case <-b.exited:
		return b.crashError()
	case <-ctx.Done():
		return b.abort(ctx)
	}
}

// take makes the result of an answer. After an error document it waits for the next poll: aws-lambda-go reports a
// panic as an error and then exits, and a sandbox that is about to end must not look good to its next caller.
func (b *box) take(ctx context.Context, a answer, res *sandbox.Result) error {
	switch {
	case a.err != nil:
		return a.err
	case a.doc != nil:
		res.FunctionError = a.doc
		if err := b.polled(ctx); err != nil {
			return err
		}
		b.lambda.poll() // for the next call to take
		return nil
	default:
		res.Payload = a.payload
		return nil
	}
}

// abort kills the process because ctx has ended, and names why.
func (b *box) abort(ctx context.Context) error {
	b.broken.Store(true)
	b.kill()
	t := time.NewTimer(b.rt.cfg.KillWait)
	defer t.Stop()
	select {
	case <-b.exited:
	case <-t.C:
	}
	return sandbox.StopError(ctx)
}

// crashError tells how the process ended; only after exited.
func (b *box) crashError() error {
	if b.broken.Load() {
		return fmt.Errorf("%w: sandbox was closed", api.ErrCanceled)
	}
	const shown = 200
	b.out.drain()
	log := b.out.tail.Bytes()
	return fmt.Errorf("%w: %w (log ends in %q)", sandbox.ErrCrashed, b.exitErr, log[max(0, len(log)-shown):])
}

// Close kills the process group, waits for it and removes the sandbox's folder.
func (b *box) Close() error {
	b.closing.Do(func() {
		b.broken.Store(true)
		var errs []error
		if b.cmd != nil {
			b.kill()
			<-b.exited
		}
		if b.out != nil {
			errs = append(errs, b.out.close())
		}
		errs = append(errs, b.lambda.close(), os.RemoveAll(b.dir))
		if b.closeErr = errors.Join(errs...); b.closeErr != nil {
			b.closeErr = fmt.Errorf("process close %s: %w", b.fn.Key(), b.closeErr)
		}
	})
	return b.closeErr
}

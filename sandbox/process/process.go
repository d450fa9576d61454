// Package process runs functions that are ordinary executables speaking the AWS Lambda Runtime API 2018-06-01, such
// as any binary built on aws-lambda-go. noded calls it through the sandbox port. Each sandbox is one process with
// one HTTP listener on loopback that only that process is told of.
//
// A call's inputs are files in the folder $RUBATO_INPUTS; the function also finds the folder and the names in its
// client context, as custom.rubato_inputs and custom.rubato_input_names (separated by commas).
//
// The isolation is that of a process and no more: its own memory, its own process group that is killed as one, a
// small environment. It runs as the node's user, can reach the network and other sandboxes' listeners, could write
// to its inputs (hard links to the node's copies) and is not held to its memory size. Sizes are bytes. A Runtime is
// safe for concurrent use, a sandbox as the port says. Linux only.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sandbox"
	"github.com/rubato-faas/rubato/sandbox/internal/stage"
)

// Config says where sandboxes live and what bounds them.
type Config struct {
	// Dir is the node's folder for this runtime: executables under bin/ (kept), one folder per sandbox under run/
	// (emptied by New).
	Dir string
	// Log gets what no caller sees, such as clean-up that went wrong.
	Log *slog.Logger
	// MaxResponseBytes bounds a result (default api.MaxPayloadBytes).
	MaxResponseBytes int64
	// StartTimeout bounds the time from fork to the first poll for work (default 10s, as AWS Lambda's init phase).
	StartTimeout time.Duration
	// KillWait is how long a killed process is waited for before Invoke returns without it (default 100 ms; the
	// port allows 200). Close always waits, since a killed process does end.
	KillWait time.Duration
}

// DefaultConfig is the Config that is right unless measured otherwise; Dir and Log have no default.
func DefaultConfig() Config {
	return Config{MaxResponseBytes: api.MaxPayloadBytes, StartTimeout: 10 * time.Second, KillWait: 100 * time.Millisecond}
}

// Validate reports every fault of c at once.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: "+format, append([]any{api.ErrInvalid}, args...)...))
		}
	}
	check(c.Dir != "", "no folder")
	check(c.Log != nil, "no logger")
	check(c.MaxResponseBytes >= 1, "response limit %d: want at least 1", c.MaxResponseBytes)
	check(c.StartTimeout > 0, "start timeout %v: want more than 0", c.StartTimeout)
	check(c.KillWait > 0 && c.KillWait <= 150*time.Millisecond, "kill wait %v: want up to 150ms", c.KillWait)
	return errors.Join(errs...)
}

// Runtime makes process sandboxes.
type Runtime struct {
	cfg    Config
	serial atomic.Uint64 // names the sandboxes' folders
	mu     sync.Mutex    // held while an executable is put into bin/
}

var _ sandbox.Runtime = (*Runtime)(nil)

// New makes a runtime over the folder cfg.Dir. Executables that an earlier one left there may be torn by a power cut: they go.
func New(cfg Config) (*Runtime, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("process new: %w", err)
	}
	abs, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("process new: %w", err)
	}
	cfg.Dir = abs
	r := &Runtime{cfg: cfg}
	if err := errors.Join(os.RemoveAll(r.runDir()), os.RemoveAll(r.executable("")), os.MkdirAll(r.runDir(), 0o755), os.MkdirAll(r.executable(""), 0o755)); err != nil {
		return nil, fmt.Errorf("process new: %w", err)
	}
	return r, nil
}

func (r *Runtime) runDir() string                  { return filepath.Join(r.cfg.Dir, "run") }
func (r *Runtime) executable(digest string) string { return filepath.Join(r.cfg.Dir, "bin", digest) }

// Prepare links the artifact to an executable file, once per digest. It is copied when it cannot be linked or is
// not executable: the mode belongs to the file and the node's copy must stay as it is.
func (r *Runtime) Prepare(ctx context.Context, fn *api.Function, artifact string) error {
	if err := r.prepare(ctx, fn, artifact); err != nil {
		return fmt.Errorf("process prepare %s: %w", fn.Key(), err)
	}
	return nil
}

func (r *Runtime) prepare(ctx context.Context, fn *api.Function, artifact string) error {
	if err := stage.CheckDigest(fn.Artifact); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	to := r.executable(fn.Artifact)
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	if err := sandbox.StopError(ctx); err != nil {
		return err
	}
	st, err := os.Stat(artifact)
	if err != nil {
		return err
	}
	if st.Mode().Perm() == 0o555 && os.Link(artifact, to) == nil {
		return nil
	}
	return stage.CopyExecutable(artifact, to)
}

// Start runs the executable and returns when it has asked for work the first time. Its error wraps
// sandbox.ErrCrashed when the process ended or reported that it cannot start, api.ErrDeadline when it took longer
// than Config.StartTimeout.
func (r *Runtime) Start(ctx context.Context, fn *api.Function, artifact string) (sandbox.Sandbox, error) {
	if err := r.Prepare(ctx, fn, artifact); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.cfg.StartTimeout,
		fmt.Errorf("%w: did not ask for work within %v", api.ErrDeadline, r.cfg.StartTimeout))
	defer cancel()
	b, err := newBox(r, fn)
	if err != nil {
		return nil, fmt.Errorf("process start %s: %w", fn.Key(), err)
	}
	if err := b.start(ctx); err != nil {
		return nil, fmt.Errorf("process start %s: %w", fn.Key(), errors.Join(err, b.Close()))
	}
	return b, nil
}

// Forget removes the executable of digest. Processes that run it go on.
func (r *Runtime) Forget(digest string) {
	if stage.CheckDigest(digest) != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.Remove(r.executable(digest)); err != nil && !errors.Is(err, os.ErrNotExist) {
		r.cfg.Log.Warn("process forget", "digest", digest, "err", err)
	}
}

// Isolation says that a process separates a sandbox from the node.
func (r *Runtime) Isolation() string { return "process" }

// Close has nothing to drop: executables stay for the next runtime over the folder.
func (r *Runtime) Close() error { return nil }

func (r *Runtime) newDir() string {
	return filepath.Join(r.runDir(), strconv.FormatUint(r.serial.Add(1), 10))
}

// isTextBusy: exec refuses a file that any process has open for writing, and a fork elsewhere in this program may
// have inherited the descriptor that wrote it for the moment until its own exec.
func isTextBusy(err error) bool { return errors.Is(err, syscall.ETXTBSY) }

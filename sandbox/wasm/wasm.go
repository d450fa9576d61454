// Package wasm runs functions that are WASI (preview 1) modules, in wazero. noded calls it through the sandbox
// port. A module is either a command, which exports _start and is instantiated for every call, or a reactor, which
// exports _initialize and "handle" () -> i32 and is instantiated once per sandbox. Either reads the payload from
// standard input until its end and writes its result to standard output; standard error is its log. A command
// fails by exiting with another code than 0, a reactor by returning another number than 0, and then what it wrote to
// standard output is the error document. Inputs are files in /inputs, read-only.
//
// Prepared means compiled: the machine code of a digest lies in a folder of its own under Config.Dir and survives
// the process, so that no artifact is compiled twice by one version of wazero.
//
// It is not a wall against hostile code on its own: wazero checks for a stop at loops and not at calls, so a module
// deep in recursion cannot be stopped, only left behind (see Abandoned). Functions of tenants who do not trust each
// other need a killable process around the node. Sizes are bytes unless a name says otherwise. A Runtime is safe
// for concurrent use, a sandbox as the port says.
package wasm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sandbox"
	"github.com/rubato-faas/rubato/sandbox/internal/stage"
)

// Config says where compiled code lives and how much a module may use.
type Config struct {
	// Dir is the node's folder for this runtime: compiled code under code/ (kept), inputs of sandboxes under run/
	// (emptied by New).
	Dir string
	// Log gets what no caller sees: guests that could not be stopped, clean-up that went wrong.
	Log *slog.Logger
	// MaxMemoryMB caps the memory of one module, whatever its function asks for (default 4096, WASM's own limit).
	MaxMemoryMB int
	// MaxResponseBytes bounds a result (default api.MaxPayloadBytes).
	MaxResponseBytes int
	// MaxIdle is how many compiled functions without a sandbox stay in memory (default 16). A start that finds its
	// code there instantiates in milliseconds; from disk it takes 50-100 ms more for a Go guest. Each holds some 10 MB.
	MaxIdle int
	// CompileWorkers is how many threads one compilation may use (default 2). More is faster and takes the cores
	// from functions that run.
	CompileWorkers int
	// StopGrace is how long a stopped guest is waited for before it is left behind (default 100 ms; the port
	// allows 200).
	StopGrace time.Duration
}

// DefaultConfig is the Config that is right unless measured otherwise; Dir and Log have no default.
func DefaultConfig() Config {
	return Config{
		MaxMemoryMB: 4096, MaxResponseBytes: api.MaxPayloadBytes, MaxIdle: 16, CompileWorkers: 2,
		StopGrace: 100 * time.Millisecond,
	}
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
	check(c.MaxMemoryMB >= 1 && c.MaxMemoryMB <= 4096, "memory cap %d MB: want 1-4096", c.MaxMemoryMB)
	check(c.MaxResponseBytes >= 1, "response limit %d: want at least 1", c.MaxResponseBytes)
	check(c.MaxIdle >= 0, "%d idle functions: want at least 0", c.MaxIdle)
	check(c.CompileWorkers >= 1, "%d compile workers: want at least 1", c.CompileWorkers)
	check(c.StopGrace > 0 && c.StopGrace <= 150*time.Millisecond, "stop grace %v: want up to 150ms", c.StopGrace)
	return errors.Join(errs...)
}

// Runtime makes WASM sandboxes.
type Runtime struct {
	cfg       Config
	compiles  atomic.Int64
	abandoned atomic.Int64
	serial    atomic.Uint64 // names the sandboxes' folders

	mu     sync.Mutex
	closed bool
	codes  map[string]*code // by digest; leaves with Forget
	idle   []*program       // in memory without a sandbox, the longest idle first, at most cfg.MaxIdle
}

var _ sandbox.Runtime = (*Runtime)(nil)

// New makes a runtime over the folder cfg.Dir, with the code that an earlier one left there.
func New(cfg Config) (*Runtime, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("wasm new: %w", err)
	}
	abs, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("wasm new: %w", err)
	}
	cfg.Dir = abs
	r := &Runtime{cfg: cfg, codes: make(map[string]*code)}
	if err := errors.Join(os.RemoveAll(r.runDir()), os.MkdirAll(r.runDir(), 0o755), os.MkdirAll(r.codeDir(""), 0o700)); err != nil {
		return nil, fmt.Errorf("wasm new: %w", err)
	}
	return r, nil
}

func (r *Runtime) runDir() string               { return filepath.Join(r.cfg.Dir, "run") }
func (r *Runtime) codeDir(digest string) string { return filepath.Join(r.cfg.Dir, "code", digest) }

// Prepare compiles the artifact unless its machine code is in memory or on disk.
func (r *Runtime) Prepare(ctx context.Context, fn *api.Function, artifact string) error {
	p, err := r.acquire(ctx, fn, artifact)
	if err != nil {
		return fmt.Errorf("wasm prepare %s: %w", fn.Key(), err)
	}
	r.release(p)
	return nil
}

// Start brings up a sandbox. A reactor is instantiated and initialised here; of a command only the code is made
// ready, since each call takes an instance of its own.
func (r *Runtime) Start(ctx context.Context, fn *api.Function, artifact string) (sandbox.Sandbox, error) {
	p, err := r.acquire(ctx, fn, artifact)
	if err != nil {
		return nil, fmt.Errorf("wasm start %s: %w", fn.Key(), err)
	}
	b, err := newBox(r, p, fn)
	if err != nil {
		r.release(p)
		return nil, fmt.Errorf("wasm start %s: %w", fn.Key(), err)
	}
	if err := b.start(ctx); err != nil {
		return nil, fmt.Errorf("wasm start %s: %w", fn.Key(), errors.Join(err, b.Close()))
	}
	return b, nil
}

// Forget drops the machine code of digest from disk at once and from memory as soon as no sandbox runs it.
func (r *Runtime) Forget(digest string) {
	if stage.CheckDigest(digest) != nil {
		return
	}
	r.mu.Lock()
	var drop []*program
	if c := r.codes[digest]; c != nil {
		drop = r.forgetLocked(c)
	}
	r.mu.Unlock()
	r.drop(drop)
	if err := os.RemoveAll(r.codeDir(digest)); err != nil {
		r.cfg.Log.Warn("wasm forget", "digest", digest, "err", err)
	}
}

// Isolation says that a module's own memory separates it from the node.
func (r *Runtime) Isolation() string { return "wasm" }

// Compiles counts the artifacts compiled, those not counted whose code was found on disk.
func (r *Runtime) Compiles() int64 { return r.compiles.Load() }

// Abandoned is the number of guests that run on although their sandbox has given them up.
func (r *Runtime) Abandoned() int64 { return r.abandoned.Load() }

// Close drops all code from memory; what is on disk stays. Code that an abandoned guest runs goes with the guest.
func (r *Runtime) Close() error {
	r.mu.Lock()
	r.closed = true
	var drop []*program
	for _, c := range r.codes {
		drop = append(drop, r.forgetLocked(c)...)
	}
	r.mu.Unlock()
	r.drop(drop)
	return nil
}

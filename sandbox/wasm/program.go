package wasm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/tetratelabs/wazero"
	wasmapi "github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sandbox"
	"github.com/rubato-faas/rubato/sandbox/internal/stage"
)

// pagesPerMB: a WASM page is 64 KiB.
const pagesPerMB = 16

// handleExport is the function that a reactor answers calls with.
const handleExport = "handle"

// code is all programs of one digest.
type code struct {
	// loading is held (by its one token) while a program of the digest is loaded, so that no two compile at once. It
	// is a channel so that waiting for it ends with the waiter's context.
	loading chan struct{}
	// programs by memory limit in pages; nearly always one. Guarded by Runtime.mu.
	programs map[uint32]*program
	// forgotten says that programs are to be dropped when their last sandbox is gone. Guarded by Runtime.mu.
	forgotten bool
}

// program is compiled code in memory with the wazero runtime that enforces its memory limit. Everything but refs
// is constant.
type program struct {
	code    *code
	pages   uint32
	runtime wazero.Runtime
	cache   wazero.CompilationCache
	module  wazero.CompiledModule
	reactor bool
	refs    int // sandboxes, guests left behind and calls of acquire that use it; guarded by Runtime.mu
}

// acquire finds or loads the program of fn and counts one more user of it, who must release it.
func (r *Runtime) acquire(ctx context.Context, fn *api.Function, artifact string) (*program, error) {
	if err := stage.CheckDigest(fn.Artifact); err != nil {
		return nil, err
	}
	pages := uint32(min(fn.MemoryMB, r.cfg.MaxMemoryMB)) * pagesPerMB
	c, p, err := r.lookup(fn.Artifact, pages)
	if p != nil || err != nil {
		return p, err
	}
	select {
	case c.loading <- struct{}{}:
		defer func() { <-c.loading }()
	case <-ctx.Done():
		return nil, sandbox.StopError(ctx)
	}
	// Another may have loaded it while this one waited.
	if p := r.use(c, pages); p != nil {
		return p, nil
	}
	// A compilation is not thrown away because the first who wanted it went away: others wait for it.
	p, err = r.load(context.WithoutCancel(ctx), fn.Artifact, pages, artifact)
	if err != nil {
		return nil, err
	}
	p.code, p.refs = c, 1
	r.mu.Lock()
	c.programs[pages] = p
	r.mu.Unlock()
	return p, nil
}

// lookup is the digest's code and, when it is in memory, its program with one more user.
func (r *Runtime) lookup(digest string, pages uint32) (*code, *program, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil, fmt.Errorf("%w: runtime is closed", api.ErrUnavailable)
	}
	c := r.codes[digest]
	if c == nil {
		c = &code{loading: make(chan struct{}, 1), programs: make(map[uint32]*program)}
		r.codes[digest] = c
	}
	return c, r.useLocked(c, pages), nil
}

func (r *Runtime) use(c *code, pages uint32) *program {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.useLocked(c, pages)
}

func (r *Runtime) useLocked(c *code, pages uint32) *program {
	p := c.programs[pages]
	if p != nil {
		p.refs++
		r.idle = slices.DeleteFunc(r.idle, func(q *program) bool { return q == p })
	}
	return p
}

// release gives back what acquire gave. The last user of a program leaves it in memory for the next, within bounds.
func (r *Runtime) release(p *program) {
	r.mu.Lock()
	p.refs--
	var drop []*program
	switch {
	case p.refs > 0:
	case p.code.forgotten || r.closed:
		drop = append(drop, p)
	default:
		r.idle = append(r.idle, p)
		for len(r.idle) > r.cfg.MaxIdle {
			delete(r.idle[0].code.programs, r.idle[0].pages)
			drop = append(drop, r.idle[0])
			r.idle = slices.Delete(r.idle, 0, 1)
		}
	}
	r.mu.Unlock()
	r.drop(drop)
}

// forgetLocked takes c out of the books and answers its programs that nobody uses, to be dropped without the lock.
func (r *Runtime) forgetLocked(c *code) []*program {
	var unused []*program
	r.idle = slices.DeleteFunc(r.idle, func(p *program) bool {
		if p.code == c {
			unused = append(unused, p)
		}
		return p.code == c
	})
	c.forgotten = true
	for digest, have := range r.codes {
		if have == c {
			delete(r.codes, digest)
		}
	}
	return unused
}

func (r *Runtime) drop(programs []*program) {
	for _, p := range programs {
		if err := p.close(); err != nil {
			r.cfg.Log.Warn("wasm drop program", "err", err)
		}
	}
}

func (p *program) close() error {
	ctx := context.Background()
	return errors.Join(p.runtime.Close(ctx), p.cache.Close(ctx))
}

// load reads, compiles (or finds compiled) and checks the artifact.
func (r *Runtime) load(ctx context.Context, digest string, pages uint32, artifact string) (*program, error) {
	bin, err := os.ReadFile(artifact)
	if err != nil {
		return nil, err
	}
	dir := r.codeDir(digest)
	before := codeFiles(dir)
	p, err := r.compile(ctx, dir, pages, bin)
	if err != nil && before > 0 {
		// wazero refuses damaged code rather than compiling anew.
		r.cfg.Log.Warn("wasm compiled code unusable, compiling again", "digest", digest, "err", err)
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
		before = 0
		p, err = r.compile(ctx, dir, pages, bin)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	if codeFiles(dir) > before {
		r.compiles.Add(1)
	}
	if p.reactor, err = isReactor(p.module); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (r *Runtime) compile(ctx context.Context, dir string, pages uint32, bin []byte) (*program, error) {
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return nil, err
	}
	rt := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().
		WithCompilationCache(cache).WithMemoryLimitPages(pages).WithCloseOnContextDone(true))
	p := &program{pages: pages, runtime: rt, cache: cache}
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, rt); err != nil {
		return nil, errors.Join(err, p.close())
	}
	p.module, err = rt.CompileModule(experimental.WithCompilationWorkers(ctx, r.cfg.CompileWorkers), bin)
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// codeFiles is how many modules' machine code lies in dir. wazero writes one file per module, in a folder per
// version of its own, and reads it back without a word: a new file is how one sees that it has compiled.
func codeFiles(dir string) int {
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		return 0 // only for a malformed pattern
	}
	return len(slices.DeleteFunc(files, func(f string) bool { return filepath.Ext(f) == ".tmp" }))
}

// isReactor tells the kind of a module by what it exports.
func isReactor(m wazero.CompiledModule) (bool, error) {
	exports := m.ExportedFunctions()
	if h, ok := exports[handleExport]; ok && exports["_initialize"] != nil {
		if len(h.ParamTypes()) != 0 || !slices.Equal(h.ResultTypes(), []wasmapi.ValueType{wasmapi.ValueTypeI32}) {
			return false, fmt.Errorf("%w: %s is not () -> i32", api.ErrInvalid, handleExport)
		}
		return true, nil
	}
	if exports["_start"] != nil {
		return false, nil
	}
	return false, fmt.Errorf("%w: module exports neither _start nor _initialize and %s", api.ErrInvalid, handleExport)
}

// Package sandbox is the port to what runs functions on a node. process runs binaries that speak the AWS Lambda
// Runtime API, wasm runs WASI modules in wazero, fake pretends with given times; sandboxtest is the suite
// that all pass. It does not decide anything: nodeagent does, and noded carries it out.
package sandbox

import (
	"context"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// Runtime makes sandboxes of one kind on one node. Safe for concurrent use.
type Runtime interface {
	// Prepare makes the artifact file ready to start: for wasm it compiles (and keeps the machine code on disk, so
	// that the same artifact is never compiled twice), for process it checks and marks it executable. Idempotent.
	Prepare(ctx context.Context, fn *api.Function, artifact string) error
	// Start brings up a warm sandbox of a prepared function.
	Start(ctx context.Context, fn *api.Function, artifact string) (Sandbox, error)
	// Forget drops what Prepare made of the artifact (by digest).
	Forget(digest string)
	// Isolation says in one word what separates a sandbox from the node ("process", "wasm").
	Isolation() string
	// Close drops everything. Sandboxes must be closed before.
	Close() error
}

// Input is one object of an invocation as a file on the node.
type Input struct {
	// Name is what the function sees as the file's name in its inputs folder (unique, no slash).
	Name string
	// Path is the node's cached copy. It must not be changed.
	Path string
}

// Call is one invocation as the sandbox sees it.
type Call struct {
	ID      string
	Payload []byte
	Inputs  []Input
	// Deadline is when the function will be stopped.
	Deadline time.Time
	// Trace is the call's W3C traceparent; runtimes without a place for it (wasm) drop it.
	Trace string
	ARN   string // function name as the Lambda dialect wants it
}

// Result is what a function answered. One that failed by its own word answers, too: its sandbox is still good.
type Result struct {
	Payload []byte
	// FunctionError is the error document of a function that failed by its own word ({"errorMessage","errorType"}).
	FunctionError []byte
	// Logs is what the call wrote to stdout and stderr, clipped to api.MaxLogBytes.
	Logs []byte
}

// Sandbox is one warm environment. Invoke is called by one goroutine at a time.
type Sandbox interface {
	// Invoke runs one call. When ctx ends first it stops the function and returns an error that wraps
	// api.ErrDeadline or api.ErrCanceled (from context.Cause) within 200 ms; when the function dies, one that wraps
	// ErrCrashed. After any error the sandbox is broken and must be closed.
	Invoke(ctx context.Context, c *Call) (*Result, error)
	// Close stops and frees it. Idempotent.
	Close() error
}

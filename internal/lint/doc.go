// Package lint holds the laws of this code base as tests: which package may import which, what a pure core may not
// touch, where the process may end, who may know a technology. It has no code to call, and it is no style checker:
// gofmt, vet and staticcheck do that. The laws read the source with go/parser, without type checking and without
// starting a tool, so a run takes well under a second. Each refusal says what to use instead and why; each law is
// itself tested against source that breaks it.
package lint

package wasm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/rubato-faas/rubato/sandbox/sandboxtest"
)

// built holds the guests that TestMain built, and codeDir the folder where their machine code is shared by tests.
var built struct{ command, reactor, codeDir string }

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "wasm-test")
	if err != nil {
		panic(err)
	}
	built.codeDir = filepath.Join(dir, "shared")
	code := 1
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else if code = m.Run(); code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func build(dir string) (err error) {
	if built.command, err = sandboxtest.Build(dir, sandboxtest.Guest, sandboxtest.Command); err != nil {
		return err
	}
	built.reactor, err = sandboxtest.Build(dir, sandboxtest.Guest, sandboxtest.Reactor)
	return err
}

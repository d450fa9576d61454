package process_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/rubato-faas/rubato/sandbox/sandboxtest"
)

// built holds the artifacts that TestMain built.
var built struct{ guest, wordcount string }

// examples is where the example functions are.
const examples = "github.com/rubato-faas/rubato/examples/functions/"

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "process-test")
	if err != nil {
		panic(err)
	}
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
	if built.guest, err = sandboxtest.Build(dir, sandboxtest.Guest, sandboxtest.Process); err != nil {
		return err
	}
	built.wordcount, err = sandboxtest.Build(dir, examples+"wordcount", sandboxtest.Process)
	return err
}

//go:build wasip1

// Command upper answers its payload in upper case: the example of a WASI command, a plain program from standard
// input to standard output that gets a fresh instance for every call. It builds for
// GOOS=wasip1 only.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	b, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(bytes.ToUpper(b))
	return err
}

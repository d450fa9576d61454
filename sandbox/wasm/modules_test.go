package wasm_test

import (
	"os"
	"path/filepath"
	"testing"
)

// Modules made by hand: they compile in a millisecond, where a Go guest takes a second.

// section is one section of a module.
func section(id byte, body ...byte) []byte { return append([]byte{id, byte(len(body))}, body...) }

// export is one entry of an export section: a function by its index.
func export(name string, fn byte) []byte {
	return append(append([]byte{byte(len(name))}, name...), 0, fn)
}

// fibReactor is a reactor whose handle computes fib(n) by plain recursion, without a loop, and returns 0.
func fibReactor(n byte) []byte {
	m := []byte("\x00asm\x01\x00\x00\x00")
	// types: 0 = () -> (), 1 = () -> i32, 2 = (i32) -> i32
	m = append(m, section(1, 3, 0x60, 0, 0, 0x60, 0, 1, 0x7f, 0x60, 1, 0x7f, 1, 0x7f)...)
	m = append(m, section(3, 3, 0, 1, 2)...)
	exports := append([]byte{2}, export("_initialize", 0)...)
	m = append(m, section(7, append(exports, export("handle", 1)...)...)...)
	handle := []byte{0, 0x41, n, 0x10, 2, 0x1a, 0x41, 0, 0x0b} // call fib(n), drop, 0
	fib := []byte{
		0, 0x20, 0, 0x41, 2, 0x48, 0x04, 0x7f, // if n < 2
		0x20, 0, 0x05, // n, else
		0x20, 0, 0x41, 1, 0x6b, 0x10, 2, // fib(n-1)
		0x20, 0, 0x41, 2, 0x6b, 0x10, 2, // fib(n-2)
		0x6a, 0x0b, 0x0b,
	}
	code := []byte{3, 2, 0, 0x0b}
	code = append(append(code, byte(len(handle))), handle...)
	code = append(append(code, byte(len(fib))), fib...)
	return append(m, section(10, code...)...)
}

// lonely is a module that exports nothing.
func lonely() []byte { return []byte("\x00asm\x01\x00\x00\x00") }

func writeModule(t testing.TB, module []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "module.wasm")
	if err := os.WriteFile(file, module, 0o444); err != nil {
		t.Fatal(err)
	}
	return file
}

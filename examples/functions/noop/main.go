//go:build wasip1

// Command noop does nothing and answers nothing: what is measured with it is Rubato's own share of a call. It is a
// WASM reactor; it builds for GOOS=wasip1 only.
package main

func main() {}

//go:wasmexport handle
func handle() int32 { return 0 }

//go:build wasip1

package main

import (
	"io"
	"os"
	"strconv"
	"unsafe"
)

// run is one call: payload on standard input, result or error document on standard output.
func run() bool {
	payload, err := io.ReadAll(os.Stdin)
	if err != nil {
		return answer(`{"errorMessage":`+strconv.Quote(err.Error())+`}`, false)
	}
	out, err := perform(string(payload), os.Getenv("RUBATO_INPUTS"))
	if err != nil {
		return answer(`{"errorMessage":`+strconv.Quote(err.Error())+`,"errorType":"errorString"}`, false)
	}
	return answer(out, true)
}

func answer(s string, ok bool) bool {
	_, err := os.Stdout.WriteString(s)
	return ok && err == nil
}

func main() {
	if !run() {
		os.Exit(1)
	}
}

//go:wasmexport handle
func handle() int32 {
	if !run() {
		return 1
	}
	return 0
}

// crash reads far outside of the module's memory, which is a trap; an exit would be a command's own failure.
func crash() {
	var x byte
	sink = int(*(*byte)(unsafe.Add(unsafe.Pointer(&x), 0x7fff0000)))
}

//go:build wasip1

// Command jsonround decodes its payload as JSON and encodes it again: the example of a short WASM call that does
// what most small functions do. It is a reactor; it builds for GOOS=wasip1 only.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {}

//go:wasmexport handle
func handle() int32 {
	var v any
	if err := json.NewDecoder(os.Stdin).Decode(&v); err != nil {
		fmt.Printf(`{"errorMessage":%q,"errorType":"InvalidPayload"}`, err.Error())
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

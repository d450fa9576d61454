// Package functions lists the example functions, each a program in a folder of its own, with the settings that they
// are deployed with. Demos, benchmarks and tests read it; build.sh builds what it lists. It holds no functions
// itself and keeps no state.
package functions

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"

	"github.com/rubato-faas/rubato/api"
)

//go:embed manifest.json
var manifest []byte

// Spec is one example function.
type Spec struct {
	// Name of the function and of its folder.
	Name    string      `json:"name"`
	Runtime api.Runtime `json:"runtime"`
	// Mode is how it is built: "process" (a static binary), "command" or "reactor" (WASM modules).
	Mode                string `json:"mode"`
	MemoryMB            int    `json:"memory_mb"`
	TimeoutMs           int64  `json:"timeout_ms"`
	ObjectiveDeadlineMs int64  `json:"objective_deadline_ms"` // 0 means none
	Description         string `json:"description"`
}

// File is the name of the built artifact in build.sh's output folder.
func (s Spec) File() string {
	if s.Runtime == api.RuntimeWasm {
		return s.Name + ".wasm"
	}
	return s.Name
}

// List is all example functions in the manifest's order.
func List() ([]Spec, error) {
	d := json.NewDecoder(bytes.NewReader(manifest))
	d.DisallowUnknownFields()
	var specs []Spec
	if err := d.Decode(&specs); err != nil {
		return nil, fmt.Errorf("functions list: %w", err)
	}
	return specs, nil
}

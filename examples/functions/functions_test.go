package functions_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/examples/functions"
)

func TestManifestIsDeployable(t *testing.T) {
	specs, err := functions.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range specs {
		fn := api.Function{
			Tenant: "demo", Name: s.Name, Runtime: s.Runtime, Artifact: strings.Repeat("0", 64), ArtifactBytes: 1,
			MemoryMB: s.MemoryMB, Timeout: time.Duration(s.TimeoutMs) * time.Millisecond,
			Objective: api.Objective{Deadline: time.Duration(s.ObjectiveDeadlineMs) * time.Millisecond},
		}
		if err := fn.Validate(); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		if (s.Mode == "process") != (s.Runtime == api.RuntimeProcess) || s.Description == "" {
			t.Errorf("%s: runtime %s, mode %q, description %q", s.Name, s.Runtime, s.Mode, s.Description)
		}
	}
}

// TestManifestAndScriptAgree: a folder that is not listed or not built is an example that nobody sees.
func TestManifestAndScriptAgree(t *testing.T) {
	specs, err := functions.List()
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("build.sh")
	if err != nil {
		t.Fatal(err)
	}
	folders, err := filepath.Glob("*/main.go")
	if err != nil || len(folders) != len(specs) {
		t.Errorf("%d programs, %d listed: %v", len(folders), len(specs), err)
	}
	words := strings.FieldsFunc(string(script), func(r rune) bool { return strings.ContainsRune(" ;\n", r) })
	for _, s := range specs {
		built := 0
		for _, w := range words {
			if w == s.Name {
				built++
			}
		}
		if _, err := os.Stat(filepath.Join(s.Name, "main.go")); err != nil || built != 1 {
			t.Errorf("%s: built %d times by build.sh, %v", s.Name, built, err)
		}
	}
}

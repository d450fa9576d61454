package sandboxtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// Mode is how a Go program is built into an artifact.
type Mode string

const (
	// Process is a static Linux binary.
	Process Mode = "process"
	// Command is a WASI module that runs once per call.
	Command Mode = "command"
	// Reactor is a WASI module whose exported handle runs once per call.
	Reactor Mode = "reactor"
)

// Guest is the import path of the suite's function.
const Guest = "github.com/rubato-faas/rubato/sandbox/sandboxtest/guest"

// Build compiles the package at an import path into dir and returns the artifact's path. It is called from
// TestMain, once per artifact and test binary; go's build cache makes all but the first build cheap.
func Build(dir, pkg string, mode Mode) (string, error) {
	out := filepath.Join(dir, filepath.Base(pkg)+"-"+string(mode))
	args := []string{"build", "-trimpath", "-ldflags=-s -w", "-o", out}
	env := append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if mode != Process {
		env = append(env, "GOOS=wasip1", "GOARCH=wasm")
	}
	if mode == Reactor {
		args = append(args, "-buildmode=c-shared")
	}
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Env = env
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("sandboxtest build %s: %w: %s", pkg, err, b)
	}
	return out, nil
}

// Function describes the artifact file as a deployed function.
func Function(t testing.TB, rt api.Runtime, artifact string) *api.Function {
	t.Helper()
	b, err := os.ReadFile(artifact)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	fn := &api.Function{
		Tenant: "acme", Name: "guest", Version: 1, Runtime: rt,
		Artifact: hex.EncodeToString(sum[:]), ArtifactBytes: int64(len(b)),
		MemoryMB: 128, Timeout: time.Minute,
	}
	if err := fn.Validate(); err != nil {
		t.Fatal(err)
	}
	return fn
}

package stage_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sandbox"
	"github.com/rubato-faas/rubato/sandbox/internal/stage"
)

func TestTailKeepsTheEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 40).Draw(t, "limit")
		tail := stage.NewTail(limit)
		var all []byte
		for _, chunk := range rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 90)).Draw(t, "chunks") {
			if n, err := tail.Write(chunk); n != len(chunk) || err != nil {
				t.Fatalf("Write of %d bytes: %d, %v", len(chunk), n, err)
			}
			all = append(all, chunk...)
		}
		want := all[max(0, len(all)-limit):]
		if got := tail.Bytes(); !bytes.Equal(got, want) {
			t.Fatalf("tail of %d after %d bytes: got %x, want %x", limit, len(all), got, want)
		}
	})
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "cached")
	if err := os.WriteFile(src, []byte("data"), 0o444); err != nil {
		t.Fatal(err)
	}
	f, err := stage.NewFolder(filepath.Join(dir, "inputs"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Place([]sandbox.Input{{Name: "a", Path: src}, {Name: "b", Path: src}}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(f.Dir(), "b")); err != nil || string(b) != "data" {
		t.Fatalf("placed input: %q, %v", b, err)
	}
	if err := f.Clear(); err != nil {
		t.Fatal(err)
	}
	bad := []string{"", ".", "..", "../x", "a/b", "a,b", "a\x00", strings.Repeat("n", api.MaxKeyLen+1)}
	for _, name := range bad {
		err := f.Place([]sandbox.Input{{Name: "good", Path: src}, {Name: name, Path: src}})
		if !errors.Is(err, api.ErrInvalid) {
			t.Errorf("input name %q: %v", name, err)
		}
	}
	if err := f.Place(make([]sandbox.Input, api.MaxInputs+1)); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("too many inputs: %v", err)
	}
	left, err := os.ReadDir(f.Dir())
	if err != nil || len(left) != 0 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
	if _, err := os.Stat(src); err != nil {
		t.Fatalf("the cached copy is gone: %v", err)
	}
}

func TestCheckDigest(t *testing.T) {
	if err := stage.CheckDigest(strings.Repeat("ab", 32)); err != nil {
		t.Error(err)
	}
	for _, d := range []string{"", "../../etc", strings.Repeat("a", 63), strings.Repeat("/.", 32)} {
		if err := stage.CheckDigest(d); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("digest %q: %v", d, err)
		}
	}
}

func TestCopyExecutable(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.WriteFile(from, []byte("#!/bin/true\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second copy replaces the first
		if err := stage.CopyExecutable(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(to); err != nil || st.Mode().Perm() != 0o555 {
		t.Fatalf("mode %v, %v", st.Mode(), err)
	}
}

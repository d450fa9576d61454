package durable

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWriteReplacesAndLeavesNothingElse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.json")
	for _, s := range []string{"first", "2nd"} {
		if err := Write(path, []byte(s)); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != s {
			t.Errorf("read %q, %v; want %q", b, err, s)
		}
	}
	if err := Write(filepath.Join(dir, "none", "x"), nil); !os.IsNotExist(err) {
		t.Errorf("into a folder that is not there: %v", err)
	}
	if err := Write(dir, nil); err == nil {
		t.Error("a folder was replaced by a file")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Package durable writes small files that must survive a power cut: whoever reads one finds what was there before or all of what was
// written last, and once Write has returned, the latter.
package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// Write replaces the file at path, for its owner only to read.
func Write(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone by then, but for a failure
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

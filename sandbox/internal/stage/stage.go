// Package stage holds what the runtimes need around one call: the folder in which a call finds its inputs and the
// bounded tail of what it printed. It runs nothing itself; sandbox/process and sandbox/wasm call it. Sizes are
// bytes. A Folder belongs to one sandbox and is used by one goroutine at a time; a Tail is safe for concurrent use.
package stage

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sandbox"
)

// CheckDigest reports whether digest is a SHA-256 in hex. Runtimes name files after it, so anything else could
// point out of their folder.
func CheckDigest(digest string) error {
	if b, err := hex.DecodeString(digest); err != nil || len(b) != 32 {
		return fmt.Errorf("%w: artifact digest %.80q: want the SHA-256 in hex", api.ErrInvalid, digest)
	}
	return nil
}

// CheckFile reports whether path is a regular file.
func CheckFile(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is not a regular file", api.ErrInvalid, path)
	}
	return nil
}

// CheckInput reports whether name can be a file in a call's inputs folder. A comma would be taken for two names
// where names are listed.
func CheckInput(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > api.MaxKeyLen || strings.ContainsAny(name, "/,\x00") {
		return fmt.Errorf("%w: input name %.80q", api.ErrInvalid, name)
	}
	return nil
}

// Folder shows a call its inputs as plain files. A file is a hard link to the node's cached copy, so showing a
// gigabyte costs one system call; only across file systems is it copied.
type Folder struct {
	dir    string
	placed []string
}

// NewFolder makes the folder dir, which must not hold anything that is to be kept.
func NewFolder(dir string) (*Folder, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("stage folder: %w", err)
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return nil, fmt.Errorf("stage folder: %w", err)
	}
	return &Folder{dir: abs}, nil
}

// Dir is the folder's absolute path.
func (f *Folder) Dir() string { return f.dir }

// Place puts the inputs into the folder. After an error nothing stays behind.
func (f *Folder) Place(inputs []sandbox.Input) error {
	if len(inputs) > api.MaxInputs {
		return fmt.Errorf("stage place: %w: %d inputs, want at most %d", api.ErrInvalid, len(inputs), api.MaxInputs)
	}
	for _, in := range inputs {
		if err := f.place(in); err != nil {
			return errors.Join(fmt.Errorf("stage place: %w", err), f.Clear())
		}
	}
	return nil
}

func (f *Folder) place(in sandbox.Input) error {
	if err := CheckInput(in.Name); err != nil {
		return err
	}
	to := filepath.Join(f.dir, in.Name)
	err := os.Link(in.Path, to)
	if errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EMLINK) {
		err = copyFile(in.Path, to)
	}
	if err != nil {
		return err
	}
	f.placed = append(f.placed, to)
	return nil
}

// Clear takes the last call's inputs out again. It is free when there were none.
func (f *Folder) Clear() error {
	var errs []error
	for _, p := range f.placed {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	f.placed = f.placed[:0]
	return errors.Join(errs...)
}

func copyFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	if _, err = io.Copy(dst, src); err != nil {
		return errors.Join(err, dst.Close(), os.Remove(to))
	}
	return dst.Close()
}

// CopyExecutable makes to an executable copy of from, whole or not at all.
func CopyExecutable(from, to string) error {
	part := to + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("stage copy: %w", err)
	}
	if err := copyFile(from, part); err != nil {
		return fmt.Errorf("stage copy: %w", err)
	}
	if err := errors.Join(os.Chmod(part, 0o555), os.Rename(part, to)); err != nil {
		return fmt.Errorf("stage copy: %w", errors.Join(err, os.Remove(part)))
	}
	return nil
}

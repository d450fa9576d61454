package lint

import (
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/rubato-faas/rubato"

// file is one parsed source file.
type file struct {
	path string // below the module's root
	pkg  string // its directory below the root
	test bool   // _test.go
	ast  *ast.File
	fset *token.FileSet
}

func (f *file) at(pos token.Pos) string {
	return fmt.Sprintf("%s:%d", f.path, f.fset.Position(pos).Line)
}

// imports lists the import paths with their positions.
func (f *file) imports() []imported {
	var out []imported
	for _, s := range f.ast.Imports {
		p, err := strconv.Unquote(s.Path.Value)
		if err != nil {
			continue // the parser let it through; the compiler will not
		}
		name := ""
		if s.Name != nil {
			name = s.Name.Name
		}
		out = append(out, imported{path: p, name: name, at: f.at(s.Pos())})
	}
	return out
}

type imported struct{ path, name, at string }

// own cuts the module from an import path; ok says that it is the project's.
func (i imported) own() (string, bool) {
	return strings.CutPrefix(i.path, module+"/")
}

// nameOf is what the file calls an imported package; empty when it does not import it.
func (f *file) nameOf(importPath string) string {
	for _, i := range f.imports() {
		if i.path != importPath {
			continue
		}
		if i.name != "" {
			return i.name
		}
		if base := path.Base(importPath); base != "v2" {
			return base
		}
		return path.Base(path.Dir(importPath))
	}
	return ""
}

// uses calls found for each use of a package's exported name below n.
func (f *file) uses(n ast.Node, importPath string, found func(name, at string)) {
	local := f.nameOf(importPath)
	if local == "" {
		return
	}
	ast.Inspect(n, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := sel.X.(*ast.Ident); ok && id.Name == local && id.Obj == nil {
				found(sel.Sel.Name, f.at(sel.Pos()))
			}
		}
		return true
	})
}

func parse(name, source string) (*file, error) {
	fset := token.NewFileSet()
	var src any
	if source != "" {
		src = source
	}
	tree, err := parser.ParseFile(fset, name, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	return &file{path: name, pkg: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), ast: tree, fset: fset}, nil
}

// ignored: programs that only go run starts stand beside a package without being part of it.
func (f *file) ignored() bool {
	for _, g := range f.ast.Comments {
		for _, c := range g.List {
			if c.Pos() < f.ast.Package && constraint.IsGoBuild(c.Text) && strings.Contains(c.Text, "ignore") {
				return true
			}
		}
	}
	return false
}

// source parses the module once for all tests.
var source = sync.OnceValues(func() ([]*file, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	var files []*file
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skip(root, p, d.Name())
		}
		if !strings.HasSuffix(p, ".go") || strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		f, err := parse(filepath.ToSlash(rel), string(text))
		if err != nil {
			return err
		}
		if !f.ignored() {
			files = append(files, f)
		}
		return nil
	})
	return files, err
})

// skip leaves out what the go tool leaves out too, and modules within the module.
func skip(root, dir, name string) error {
	if dir == root {
		return nil
	}
	if name == "testdata" || name == "vendor" || name == "node_modules" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fs.ErrNotExist
		}
		dir = up
	}
}

// obey fails with every breach of a law.
func obey(t *testing.T, law func([]*file) []string) {
	t.Helper()
	files, err := source()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("only %d source files found: the law would hold by not looking", len(files))
	}
	for _, breach := range law(files) {
		t.Error(breach)
	}
}

// packages groups files by directory, sorted.
func packages(files []*file) ([]string, map[string][]*file) {
	by := map[string][]*file{}
	var names []string
	for _, f := range files {
		if by[f.pkg] == nil {
			names = append(names, f.pkg)
		}
		by[f.pkg] = append(by[f.pkg], f)
	}
	slices.Sort(names)
	return names, by
}

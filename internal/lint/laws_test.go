package lint

import (
	"fmt"
	"go/ast"
	"slices"
	"strings"
)

// packageComments: one comment a package, or nobody knows which of two is true. A directory that has only tests
// needs one too.
func packageComments(files []*file) []string {
	var out []string
	names, by := packages(files)
	for _, pkg := range names {
		group := slices.DeleteFunc(slices.Clone(by[pkg]), func(f *file) bool { return f.test })
		if len(group) == 0 {
			group = by[pkg]
		}
		var with []string
		for _, f := range group {
			if f.ast.Doc == nil {
				continue
			}
			with = append(with, f.path)
			name := f.ast.Name.Name
			if text := f.ast.Doc.Text(); name != "main" && !strings.HasPrefix(text, "Package "+name+" ") {
				out = append(out, fmt.Sprintf("%s: the package comment begins %.30q: begin with \"Package %s \", because go doc shows that line alone", f.path, text, name))
			}
		}
		switch {
		case len(with) == 0:
			out = append(out, fmt.Sprintf("%s: no package comment: say what it is, what it is not, who calls it, units and concurrency", pkg))
		case len(with) > 1:
			out = append(out, fmt.Sprintf("%s: package comments in %s: keep one, because two drift apart", pkg, strings.Join(with, " and ")))
		}
	}
	return out
}

// importFloors: imports go strictly down.
func importFloors(files []*file) []string {
	var out []string
	known := map[string]bool{}
	for _, f := range files {
		if !known[f.pkg] && !f.test {
			known[f.pkg] = true
			if floorOf(f.pkg) < 0 && !isHelper(f.pkg) && !isExample(f.pkg) {
				out = append(out, fmt.Sprintf("%s: on no floor: add it to the table in internal/lint/floors_test.go, on the lowest floor above what it imports", f.pkg))
			}
		}
		for _, i := range f.imports() {
			to, ok := i.own()
			if !ok {
				continue
			}
			if why := refuse(f, to); why != "" {
				out = append(out, fmt.Sprintf("%s: %s imports %s: %s", i.at, f.pkg, to, why))
			}
		}
	}
	return out
}

// refuse says why a file may not import a package of the project; empty when it may.
func refuse(f *file, to string) string {
	from := floorOf(f.pkg)
	above := f.test || from >= floorCluster
	switch {
	case isHelper(to):
		if f.test || isHelper(f.pkg) {
			return ""
		}
		return "use it from _test.go files, because it is a test helper and drags testing into binaries"
	case isExample(to):
		if f.pkg == to || above && matchAny(sharedExamples, to) || isExample(f.pkg) && matchAny(sharedExamples, to) {
			return ""
		}
		return "pass what it offers in from cmd, cluster or a test, because examples are programs of their own"
	case isExample(f.pkg) && !f.test:
		if isBeside(f.pkg, to) {
			return ""
		}
		return "use the public HTTP interface or copy the few lines, because an example must work outside this repository"
	case f.test:
		return "" // tests may reach up: they prove what the floors build together
	case isHelper(f.pkg):
		if floorOf(to) > floorAdapters {
			return "keep helpers below the shells, because every floor's tests use them"
		}
		return ""
	}
	return refuseFloor(f.pkg, to)
}

// refuseFloor is the rule for production code between packages of the table.
func refuseFloor(from, to string) string {
	for _, n := range never {
		if match(n[0], from) && match(n[1], to) {
			return n[2]
		}
	}
	a, b := floorOf(from), floorOf(to)
	if a < 0 || b < 0 || b < a {
		return "" // a package on no floor is a breach of its own
	}
	if b > a {
		return fmt.Sprintf("let floor %d declare an interface that floor %d is handed, because imports go strictly down", a, b)
	}
	if isBeside(from, to) {
		return ""
	}
	if a == floorShells {
		return "talk over subjects of the bus, because daemons run on different machines and shells never import each other"
	}
	return fmt.Sprintf("share what both need one floor down, because packages of floor %d do not know each other", a)
}

// purity: what a core may not touch, with what to use instead.
var (
	impureImports = map[string]string{
		"sync":      "leave locking to the shell, because one goroutine owns a core",
		"math/rand": "use math/rand/v2 with a source seeded from the configuration, because a replay must draw the same numbers",
		"log":       "return an action that says it, because the shell logs",
		"log/slog":  "return an action that says it, because the shell logs",
		"context":   "take deadlines as times in the event, because a core never waits",
	}
	impureTrees = map[string]string{
		"net": "return an action, because the shell does the I/O",
		"os":  "return an action or take it as configuration, because the shell does the I/O",
	}
	clock = map[string]string{
		"Now": "use the now that Step was given", "Since": "use now.Sub", "Until": "use at.Sub(now)",
		"After": "return a wake action", "AfterFunc": "return a wake action", "Sleep": "return a wake action",
		"NewTimer": "return a wake action", "NewTicker": "return a wake action", "Tick": "return a wake action",
	}
	// seeded are the names of math/rand/v2 that do not draw from the global source.
	seeded = []string{"New", "NewPCG", "NewChaCha8", "NewZipf", "Rand", "Source", "PCG", "ChaCha8", "Zipf"}
)

func purity(files []*file) []string {
	var out []string
	for _, f := range files {
		if f.test || !slices.Contains(pure, f.pkg) {
			continue
		}
		for _, i := range f.imports() {
			why := impureImports[i.path]
			if tree, _, _ := strings.Cut(i.path, "/"); why == "" {
				why = impureTrees[tree]
			}
			if why == "" && i.name == "." {
				why = "name the package, because a dot import hides what it touches"
			}
			if why != "" {
				out = append(out, fmt.Sprintf("%s: pure package %s imports %s: %s", i.at, f.pkg, i.path, why))
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				out = append(out, fmt.Sprintf("%s: go statement in a pure package: return an action, because a goroutine's order differs from run to run", f.at(g.Pos())))
			}
			return true
		})
		f.uses(f.ast, "time", func(name, at string) {
			if instead := clock[name]; instead != "" {
				out = append(out, fmt.Sprintf("%s: time.%s in a pure package: %s, because simulation and replay have a time of their own", at, name, instead))
			}
		})
		f.uses(f.ast, "math/rand/v2", func(name, at string) {
			if !slices.Contains(seeded, name) {
				out = append(out, fmt.Sprintf("%s: global rand.%s in a pure package: use rand.New with a seeded source, because a replay must draw the same numbers", at, name))
			}
		})
	}
	return out
}

// exits: the process ends in main, after everything was closed. A TestMain may end its test binary, and a program
// that tests start is a main like others.
func exits(files []*file) []string {
	var out []string
	for _, f := range files {
		if f.ast.Name.Name == "main" && (strings.HasPrefix(f.pkg, "cmd/") || isExample(f.pkg) || isHelper(f.pkg)) {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test && fn.Name.Name == "TestMain" {
				continue
			}
			breach := func(what, at string) {
				out = append(out, fmt.Sprintf("%s: %s: return an error, because only main knows what is still open", at, what))
			}
			f.uses(d, "os", func(name, at string) {
				if name == "Exit" {
					breach("os.Exit", at)
				}
			})
			f.uses(d, "log", func(name, at string) {
				if strings.HasPrefix(name, "Fatal") {
					breach("log."+name, at)
				}
			})
		}
	}
	return out
}

// sleeps: a test that sleeps is slow when it is right and wrong when the machine is slow.
func sleeps(files []*file) []string {
	var out []string
	for _, f := range files {
		if !f.test && (!isHelper(f.pkg) || f.ast.Name.Name == "main") {
			continue
		}
		f.uses(f.ast, "time", func(name, at string) {
			if name == "Sleep" {
				out = append(out, fmt.Sprintf("%s: time.Sleep in a test: wait on a channel, use testing/synctest, or poll with a ticker and a deadline, because a sleep is slow when right and flaky when wrong", at))
			}
		})
	}
	return out
}

// technologies: each has its few packages.
func technologies(files []*file) []string {
	var out []string
	for _, f := range files {
		for _, i := range f.imports() {
			for _, t := range technology {
				of := i.path == t.module || strings.HasPrefix(i.path, t.module+"/")
				if of && !matchAny(t.by, f.pkg) {
					out = append(out, fmt.Sprintf("%s: %s imports %s: go through the port, because only %s know this technology", i.at, f.pkg, i.path, strings.Join(t.by, ", ")))
				}
			}
		}
	}
	return out
}

// prescribed: each technology is what the product stands on, not a line in go.mod.
func prescribed(files []*file) []string {
	used := map[string]bool{}
	for _, f := range files {
		for _, i := range f.imports() {
			for _, t := range technology {
				if !f.test && (i.path == t.module || strings.HasPrefix(i.path, t.module+"/")) {
					used[t.module] = true
				}
			}
		}
	}
	var out []string
	for _, t := range technology {
		if !used[t.module] {
			out = append(out, fmt.Sprintf("%s is imported by no package of the product: use it in %s, because it is a prescribed part", t.module, strings.Join(t.by, ", ")))
		}
	}
	return out
}

// directRequirements: go.mod names each technology as direct.
func directRequirements(gomod string) []string {
	var out []string
	for _, t := range technology {
		found := false
		for line := range strings.Lines(gomod) {
			fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
			if len(fields) >= 2 && fields[0] == t.module && !strings.Contains(line, "// indirect") {
				found = true
			}
		}
		if !found {
			out = append(out, fmt.Sprintf("go.mod: %s is no direct requirement: import it where it belongs and run go mod tidy, because it is a prescribed part", t.module))
		}
	}
	return out
}

package lint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryPackageHasOneComment(t *testing.T)    { obey(t, packageComments) }
func TestImportsGoDownTheFloors(t *testing.T)       { obey(t, importFloors) }
func TestCoresArePure(t *testing.T)                 { obey(t, purity) }
func TestOnlyMainEndsTheProcess(t *testing.T)       { obey(t, exits) }
func TestNoTestSleeps(t *testing.T)                 { obey(t, sleeps) }
func TestTechnologiesStayWhereTheyAre(t *testing.T) { obey(t, technologies) }
func TestPrescribedModulesAreUsed(t *testing.T)     { obey(t, prescribed) }
func TestPrescribedModulesAreDirect(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, breach := range directRequirements(string(text)) {
		t.Error(breach)
	}
}

// Each law against source that breaks it, and source that nearly does.
func TestTheLawsCanFail(t *testing.T) {
	laws := map[string]func([]*file) []string{
		"comments": packageComments, "floors": importFloors, "purity": purity, "exits": exits, "sleeps": sleeps,
		"technologies": technologies,
	}
	imp := func(pkg, of string) string { return "package " + pkg + "\nimport _ \"" + module + "/" + of + "\"" }
	body := func(pkg, imports, code string) string {
		return "package " + pkg + "\nimport (\n" + imports + "\n)\nfunc f() {\n" + code + "\n}"
	}
	for _, c := range []struct {
		law, path, source string
		want              string // part of the one breach; empty for none
	}{
		{"comments", "api/a.go", "// Package api is it.\npackage api", ""},
		{"comments", "api/a.go", "package api", "no package comment"},
		{"comments", "api/a.go", "// Here is api.\npackage api", "begin with"},
		{"comments", "cmd/x/main.go", "// The x command.\npackage main", ""},
		{"comments", "test/e2e/a_test.go", "package e2e", "no package comment"},

		{"floors", "api/wire/a.go", imp("wire", "api"), ""},
		{"floors", "api/a.go", imp("api", "api/wire"), "one floor down"},
		{"floors", "zonesched/a.go", imp("zonesched", "api"), ""},
		{"floors", "zonesched/a.go", imp("zonesched", "zonesched/policy"), ""},
		{"floors", "zonesched/policy/a.go", imp("policy", "zonesched"), "do not know each other"},
		{"floors", "zonesched/a.go", imp("zonesched", "nodeagent"), "do not know each other"},
		{"floors", "zonesched/a.go", imp("zonesched", "learner"), "Predictor"},
		{"floors", "zonesched/a.go", imp("zonesched", "messaging/natsbus"), "strictly down"},
		{"floors", "zonesched/a_test.go", imp("zonesched", "messaging/natsbus"), ""},
		{"floors", "zonesched/zoned/a.go", imp("zoned", "learner"), ""},
		{"floors", "zonesched/zoned/a.go", imp("zoned", "nodeagent/noded"), "subjects"},
		{"floors", "messaging/natsbus/a.go", imp("natsbus", "messaging"), ""},
		{"floors", "messaging/natsbus/a.go", imp("natsbus", "messaging/membus"), "do not know each other"},
		{"floors", "sim/a.go", imp("sim", "sandbox/fake"), ""},
		{"floors", "sim/a.go", imp("sim", "messaging/membus"), "virtual time"},
		{"floors", "sim/a.go", imp("sim", "zonesched/zoned"), "subjects"},
		{"floors", "bench/a.go", imp("bench", "cluster"), ""},
		{"floors", "cluster/a.go", imp("cluster", "bench"), "do not know each other"},
		{"floors", "cmd/x/a.go", imp("main", "cmd/y"), "do not know each other"},
		{"floors", "utils/a.go", "package utils", "on no floor"},
		{"floors", "cmd/x/a.go", imp("main", "internal/natstest"), "test helper"},
		{"floors", "zonesched/a_test.go", imp("zonesched", "internal/natstest"), ""},
		{"floors", "objectstore/storetest/a.go", imp("storetest", "objectstore"), ""},
		{"floors", "objectstore/storetest/a.go", imp("storetest", "cluster"), "below the shells"},
		{"floors", "examples/functions/f/a.go", imp("main", "api"), "outside this repository"},
		{"floors", "bench/a.go", imp("bench", "examples/inputs"), ""},
		{"floors", "zonesched/zoned/a.go", imp("zoned", "examples/inputs"), "programs of their own"},

		{"purity", "learner/a.go", body("learner", `"time"`, "_ = time.Second"), ""},
		{"purity", "learner/a.go", body("learner", `"time"`, "_ = time.Now()"), "time.Now"},
		{"purity", "learner/a.go", body("learner", `clock "time"`, "_ = clock.Since"), "now.Sub"},
		{"purity", "learner/a.go", body("learner", "", "var time struct{ Now int }; _ = time.Now"), ""},
		{"purity", "learner/a_test.go", body("learner", `"time"`, "_ = time.Now()"), ""},
		{"purity", "client/a.go", body("client", `"time"`, "_ = time.Now()"), ""},
		{"purity", "nodeagent/a.go", body("nodeagent", "", "go f()"), "go statement"},
		{"purity", "nodeagent/a.go", body("nodeagent", `_ "net/http"`, ""), "does the I/O"},
		{"purity", "nodeagent/a.go", body("nodeagent", `_ "os"`, ""), "does the I/O"},
		{"purity", "nodeagent/a.go", body("nodeagent", `_ "sync"`, ""), "owns a core"},
		{"purity", "nodeagent/a.go", body("nodeagent", `_ "context"`, ""), "never waits"},
		{"purity", "nodeagent/a.go", body("nodeagent", `_ "log/slog"`, ""), "shell logs"},
		{"purity", "nodeagent/a.go", body("nodeagent", `_ "math/rand"`, ""), "math/rand/v2"},
		{"purity", "nodeagent/a.go", body("nodeagent", `. "time"`, ""), "dot import"},
		{"purity", "nodeagent/a.go", body("nodeagent", `"math/rand/v2"`, "_ = rand.New(rand.NewPCG(1, 2))"), ""},
		{"purity", "nodeagent/a.go", body("nodeagent", `"math/rand/v2"`, "_ = rand.IntN(3)"), "global rand.IntN"},

		{"exits", "cmd/x/main.go", body("main", `"os"`, "os.Exit(1)"), ""},
		{"exits", "cmd/x/a.go", body("other", `"os"`, "os.Exit(1)"), "os.Exit"},
		{"exits", "client/a.go", body("client", `"log"`, "log.Fatalf(`x`)"), "log.Fatalf"},
		{"exits", "client/a_test.go", body("client", `"os"`, "os.Exit(1)"), "os.Exit"},
		{"exits", "client/a_test.go", "package client\nimport \"os\"\nfunc TestMain() { os.Exit(1) }", ""},

		{"exits", "sandbox/sandboxtest/guest/a.go", body("main", `"os"`, "os.Exit(1)"), ""},
		{"exits", "sandbox/sandboxtest/a.go", body("sandboxtest", `"os"`, "os.Exit(1)"), "os.Exit"},

		{"sleeps", "sandbox/sandboxtest/guest/a.go", body("main", `"time"`, "time.Sleep(1)"), ""},
		{"sleeps", "sandbox/sandboxtest/a.go", body("sandboxtest", `"time"`, "time.Sleep(1)"), "time.Sleep"},
		{"sleeps", "client/a.go", body("client", `"time"`, "time.Sleep(1)"), ""},
		{"sleeps", "client/a_test.go", body("client", `"time"`, "time.Sleep(1)"), "time.Sleep"},

		{"technologies", "messaging/natsbus/a.go", body("natsbus", `_ "github.com/nats-io/nats.go"`, ""), ""},
		{"technologies", "zonesched/zoned/a.go", body("zoned", `_ "github.com/nats-io/nats.go/jetstream"`, ""), "go through the port"},
		{"technologies", "client/a.go", body("client", `_ "github.com/nats-io/nats.golang"`, ""), ""},
		{"technologies", "cluster/a.go", body("cluster", `_ "github.com/hashicorp/raft"`, ""), "coordinator/raftlog"},
		{"technologies", "coordinator/raftlog/a.go", body("raftlog", `_ "github.com/hashicorp/raft-wal"`, ""), ""},
	} {
		f, err := parse(c.path, c.source)
		if err != nil {
			t.Fatalf("%s: %v\n%s", c.path, err, c.source)
		}
		got := laws[c.law]([]*file{f})
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)) {
			t.Errorf("%s on %s:\n%s\nsays %q, want %q", c.law, c.path, c.source, got, c.want)
		}
	}
}

func TestTwoCommentsAreABreach(t *testing.T) {
	var files []*file
	for _, name := range []string{"api/a.go", "api/b.go"} {
		f, err := parse(name, "// Package api is it.\npackage api")
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if got := packageComments(files); len(got) != 1 || !strings.Contains(got[0], "api/a.go and api/b.go") {
		t.Errorf("says %q", got)
	}
}

func TestUnusedIsNotPrescribed(t *testing.T) {
	var files []*file
	for i, m := range technology {
		name := "learner/a.go"
		if i == 0 {
			name = "learner/a_test.go"
		}
		f, err := parse(name, "package learner\nimport _ \""+m.module+"/sub\"")
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if got := prescribed(files); len(got) != 1 || !strings.Contains(got[0], technology[0].module+" is imported by no package") {
		t.Errorf("says %q where a test alone imports the first", got)
	}
}

func TestIndirectIsNotDirect(t *testing.T) {
	good := ""
	for _, m := range technology {
		good += "\t" + m.module + " v1.0.0\n"
	}
	if got := directRequirements("require (\n" + good + ")"); len(got) != 0 {
		t.Errorf("says %q of direct ones", got)
	}
	if got := directRequirements(strings.ReplaceAll(good, "v1.0.0", "v1.0.0 // indirect")); len(got) != len(technology) {
		t.Errorf("says %q of indirect ones", got)
	}
}

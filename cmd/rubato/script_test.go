package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/rubato-faas/rubato/client"
	"github.com/rubato-faas/rubato/cluster"
	"github.com/rubato-faas/rubato/coordinator"
	"github.com/rubato-faas/rubato/coordinator/globald"
)

// TestMain puts this very binary into PATH as rubato, for what needs a process of its own. Most lines of the scripts
// run the command in this process instead: under the race detector a start alone takes a good part of a second.
func TestMain(m *testing.M) { testscript.Main(suite{m}, map[string]func(){"rubato": main}) }

// suite runs the tests beside one small cluster that all scripts share, each as a tenant of its own.
type suite struct{ m *testing.M }

// What scripts find in their environment.
var door, function string

func (s suite) Run() int {
	code, err := s.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func (s suite) run() (code int, err error) {
	dir, err := os.MkdirTemp("", "rubato-script-*")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if function, err = buildEcho(dir); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o := cluster.DefaultOptions(filepath.Join(dir, "cluster"), slog.New(slog.DiscardHandler))
	o.Nodes, o.Schedulers, o.Coordinators = 1, 1, 1
	o.Zone.Gateway.Auth = "off"
	o.Node.Node.Node.Slots, o.Node.Node.Node.Tags = 16, []string{"ssd"}
	cl, err := cluster.Up(ctx, o)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, cl.Down()) }()
	door = cl.Door("edge")
	if err := zonesKnown(ctx, door, len(o.Zones)); err != nil {
		return 0, err
	}
	return s.m.Run(), nil
}

func buildEcho(dir string) (string, error) {
	file := filepath.Join(dir, "echo")
	build := exec.Command("go", "build", "-o", file, "./testdata/echo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build echo: %w: %s", err, out)
	}
	return file, nil
}

// zonesKnown waits for the first digests, without which the coordinator knows no more of a zone than its name.
func zonesKnown(ctx context.Context, door string, n int) error {
	c, err := client.New([]string{door})
	if err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var s globald.Status
		err := c.Look(ctx, "zones", &s)
		if silent := func(z coordinator.ZoneStatus) bool { return !z.Heard }; err == nil && len(s.Zones) == n && !slices.ContainsFunc(s.Zones, silent) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for zones: %w", ctx.Err())
		}
	}
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("RUBATO_SERVER", door)
			e.Setenv("RUBATO_TENANT", filepath.Base(e.WorkDir)) // script-NAME
			e.Setenv("ECHO", function)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"rb": rb, "exits": exits, "process": process, "id": id, "isjson": isJSON},
	})
}

// command runs a command line in this process and gives its exit code. A first argument "<FILE" is its standard input.
// Files are given by $WORK: the process has a folder of its own.
func command(ts *testscript.TestScript, args []string) int {
	stdin := ""
	if len(args) > 0 && strings.HasPrefix(args[0], "<") {
		stdin, args = ts.ReadFile(args[0][1:]), args[1:]
	}
	return run(context.Background(), args, ts.Getenv, strings.NewReader(stdin), ts.Stdout(), ts.Stderr())
}

// rb ARG... must succeed.
func rb(ts *testscript.TestScript, _ bool, args []string) {
	if code := command(ts, args); code != 0 {
		ts.Fatalf("exit code %d, want 0", code)
	}
}

// exits CODE ARG... must end with just that exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if code := command(ts, args[1:]); code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// process CODE PROGRAM ARG... is exits for a process of its own.
func process(ts *testscript.TestScript, _ bool, args []string) {
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("ended with %v, want exit code %s", err, args[0])
	}
}

var idPattern = regexp.MustCompile(`\b[0-9a-z]{26}\b`)

// id NAME stdout|stderr puts the first call's id of the last output into the environment.
func id(ts *testscript.TestScript, _ bool, args []string) {
	found := idPattern.FindString(ts.ReadFile(args[1]))
	if found == "" {
		ts.Fatalf("no id in %s", args[1])
	}
	ts.Setenv(args[0], found)
}

// isjson: the last command printed one JSON document and nothing else.
func isJSON(ts *testscript.TestScript, _ bool, _ []string) {
	if out := ts.ReadFile("stdout"); !json.Valid([]byte(out)) {
		ts.Fatalf("no JSON document: %s", out)
	}
}

// silent are the commands that print no data of their own: bytes as they are, or nothing.
var silent = []string{"rubato sim experiments", "rubato up", "rubato get", "rubato delete", "rubato rm", "rubato cancel", "rubato flush"}

func TestEveryCommandExplainsItself(t *testing.T) {
	each(newRoot(os.Getenv), func(cmd *cobra.Command) {
		name := cmd.CommandPath()
		if f := strings.Fields(name); len(f) > 1 && (f[1] == "help" || f[1] == "completion") {
			return // cobra's own
		}
		if cmd.Short == "" {
			t.Errorf("%s: no Short", name)
		}
		if !strings.Contains(cmd.Example, name) && cmd.HasParent() {
			t.Errorf("%s: its Example does not call it", name)
		}
		if cmd.Example == "" {
			t.Errorf("%s: no Example", name)
		}
		if !cmd.HasSubCommands() && !slices.Contains(silent, name) && cmd.Flags().Lookup("output") == nil {
			t.Errorf("%s: prints data without -o", name)
		}
	})
}

// startUp runs "rubato up" on a folder and gives the address of its door; stop interrupts it and waits.
func startUp(t *testing.T, dir string) (door string, stop func() error) {
	t.Helper()
	cmd := exec.Command("rubato", "up", "--data", dir, "--listen", "127.0.0.1:0", "--zones", "1", "--nodes", "1", "--slots", "2", "--schedulers", "1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has ended, unless the test failed before stop
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, after, ok := strings.Cut(lines.Text(), "rubato --server "); ok {
			door, _, _ = strings.Cut(after, " ")
			return door, func() error { return errors.Join(cmd.Process.Signal(syscall.SIGINT), cmd.Wait()) }
		}
	}
	t.Fatalf("rubato up ended without a door: %v", cmd.Wait())
	return "", nil
}

func TestUpServesUntilInterruptedAndComesBack(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	rubato := func(want int, args ...string) string {
		t.Helper()
		var out strings.Builder
		if code := run(t.Context(), args, func(string) string { return "" }, strings.NewReader(""), &out, &out); code != want {
			t.Errorf("rubato %v: exit code %d, want %d: %s", args, code, want, &out)
		}
		return out.String()
	}
	at, stop := startUp(t, dir)
	rubato(0, "deploy", "echo", function, "--server", at)
	if out := rubato(1, "up", "--data", dir, "--listen", "127.0.0.1:0"); !strings.Contains(out, dir+" is in use") {
		t.Errorf("a second up on the same folder said %q", out)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	at, stop = startUp(t, dir)
	if out := rubato(0, "invoke", "echo", "again", "--server", at); out != "AGAIN" {
		t.Errorf("called after a restart: %q", out)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

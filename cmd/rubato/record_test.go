package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/client"
	"github.com/rubato-faas/rubato/sim/lab"
)

// What was called while a record was made is called again in the simulator: the same calls, functions and inputs.
func TestARecordedRunIsReplayed(t *testing.T) {
	t.Parallel()
	env := func(k string) string {
		return map[string]string{"RUBATO_SERVER": door, "RUBATO_TENANT": "recorded"}[k]
	}
	rubato := func(ctx context.Context, stderr io.Writer, args ...string) string {
		t.Helper()
		var out strings.Builder
		root := newRoot(env) // not run: the end of ctx is to be the first signal, not the second
		root.SetArgs(args)
		root.SetOut(&out)
		root.SetErr(stderr)
		if err := root.ExecuteContext(ctx); err != nil {
			t.Errorf("rubato %v: %v", args, err)
		}
		return out.String()
	}
	rubato(t.Context(), os.Stderr, "deploy", "echo", function)
	c, err := client.New([]string{door}, client.WithTenant("recorded"))
	if err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 300<<10)
	if _, err := c.Put(t.Context(), "private-name", int64(len(big)), func() (io.Reader, error) { return strings.NewReader(big), nil }); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "calls.jsonl.gz")
	ctx, stop := context.WithCancel(t.Context())
	said, says := io.Pipe()
	ended := make(chan string)
	go func() { ended <- rubato(ctx, says, "record", "--out", file, "--zone", "edge"); says.Close() }()
	lines := bufio.NewScanner(said)
	if !lines.Scan() || lines.Text() != "recording 1 zones" {
		t.Fatalf("record began with %q, %v", lines.Text(), lines.Err())
	}
	go func() { _, _ = io.Copy(io.Discard, said) }() // the rest is progress
	const calls = 12
	for i := range calls {
		inv := client.Invocation{Function: "echo", Payload: []byte("hello"), Deadline: 20 * time.Second, Priority: 8, Affinity: "private-affinity"}
		if i%2 == 0 {
			inv.Inputs = []string{"private-name"}
		}
		if _, err := c.Invoke(t.Context(), inv); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if out := <-ended; !strings.Contains(out, "; 0 lost, ") {
		t.Errorf("record said %q", out)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rec, err := lab.ReadRecord(f)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(fmt.Sprintf("%+v", *rec), "private") {
		t.Error("the record names what it must not")
	}
	mine, objects, last := 0, map[string]bool{}, 0.
	for _, x := range rec.Calls { // scripts call functions meanwhile
		if x.Function != "recorded/echo" {
			continue
		}
		mine++
		if x.Code != "" || x.RunMs <= 0 || x.PayloadBytes != 5 || x.BudgetMs != 20000 || x.Priority != 8 || x.Affinity == "" || x.Node != "edge-n1" || x.AtMs < last || x.Policy != "rubato" || x.Share != 1 || x.Clause == "" || x.Mode != "on" || !(x.Propensity > 0 && x.Propensity <= 1) {
			t.Errorf("recorded %+v", x)
		}
		last = x.AtMs
		for _, o := range x.Inputs {
			objects[fmt.Sprint(o)] = true
		}
	}
	if mine != calls || len(objects) != 1 || rec.End == nil || len(rec.Nodes) != 1 || rec.Nodes[0].Slots != 16 || rec.Nodes[0].CacheBytes == 0 {
		t.Fatalf("%d calls with objects %v recorded, end %+v, nodes %+v; want %d with one object, on one node", mine, objects, rec.End, rec.Nodes, calls)
	}
	out := rubato(t.Context(), io.Discard, "sim", "run", "--replay", file, "--policy", "least-loaded", "-o", "csv")
	if !strings.Contains(out, fmt.Sprintf("\nleast-loaded,replay,recorded/echo,1,%d,%d,0,0,", calls, calls)) && !strings.Contains(out, fmt.Sprintf("\nleast-loaded,replay,all,1,%d,%d,0,0,", calls, calls)) {
		t.Errorf("replayed:\n%s", out)
	}
}

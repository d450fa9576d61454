package cluster_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/client"
	"github.com/rubato-faas/rubato/cluster"
)

// up starts a cluster as small as they come on a folder and gives a client of its edge zone.
func up(ctx context.Context, t *testing.T, dir string) (*cluster.Cluster, *client.Client) {
	t.Helper()
	o := cluster.DefaultOptions(dir, slog.New(slog.DiscardHandler))
	o.Nodes = 1
	o.Zone.Gateway.Auth = "off"
	cl, err := cluster.Up(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { down(t, cl) })
	c, err := client.New([]string{cl.Door("edge")})
	if err != nil {
		t.Fatal(err)
	}
	return cl, c
}

func down(t *testing.T, cl *cluster.Cluster) {
	t.Helper()
	if err := cl.Down(); err != nil {
		t.Error(err)
	}
}

// wordcount builds the example and deploys it.
func wordcount(ctx context.Context, t *testing.T, c *client.Client) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "wordcount")
	build := exec.Command("go", "build", "-o", file, "../examples/functions/wordcount")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	art, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(art)
	digest := hex.EncodeToString(sum[:])
	if err := c.PutArtifact(ctx, digest, int64(len(art)), reader(art)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Deploy(ctx, client.Function{Name: "wordcount", Runtime: api.RuntimeProcess, Artifact: digest, MemoryMB: 256}, ""); err != nil {
		t.Fatal(err)
	}
}

func reader(b []byte) func() (io.Reader, error) {
	return func() (io.Reader, error) { return bytes.NewReader(b), nil }
}

// finished waits for an asynchronous call and gives its result.
func finished(ctx context.Context, t *testing.T, c *client.Client, id string) string {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := c.Result(ctx, id)
		if err != nil || s.Code != api.CodeOK {
			t.Fatalf("result of %s: %+v, %v", id, s, err)
		}
		if s.State == "done" {
			return string(s.Result)
		}
		<-tick.C
	}
}

// metricsTell waits until a door's metrics are at least as large as wanted, on the tick after the next.
func metricsTell(ctx context.Context, t *testing.T, door string, want map[string]float64) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, door+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		missing := ""
		for name, least := range want {
			got := -1.
			for line := range strings.Lines(string(b)) {
				if rest, ok := strings.CutPrefix(line, name+"{"); ok {
					fields := strings.Fields(rest)
					got, _ = strconv.ParseFloat(fields[len(fields)-1], 64) // what is no number is too small
				}
			}
			if got < least {
				missing += fmt.Sprintf(" %s is %v, want %v;", name, got, least)
			}
		}
		if missing == "" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(missing)
		}
	}
}

// What `rubato up --data` promises: functions, objects and results are there again after a restart.
func TestRestartKeepsFunctionsObjectsAndResults(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	dir := t.TempDir()
	cl, c := up(ctx, t, dir)
	wordcount(ctx, t, c)
	text := []byte("to be or not to be")
	if _, err := c.Put(ctx, "books/one.txt", int64(len(text)), reader(text)); err != nil {
		t.Fatal(err)
	}
	call := client.Invocation{Function: "wordcount", Inputs: []string{"books/one.txt"}}
	id, err := c.InvokeAsync(ctx, call)
	if err != nil {
		t.Fatal(err)
	}
	before := finished(ctx, t, c, id)
	down(t, cl)

	cl, c = up(ctx, t, dir)
	fns, err := c.Functions(ctx)
	if err != nil || len(fns) != 1 || fns[0].Name != "wordcount" || fns[0].Version != 1 {
		t.Fatalf("functions after the restart: %+v, %v", fns, err)
	}
	objs, err := c.Objects(ctx, "", 10)
	if err != nil || len(objs) != 1 || objs[0].Key != "books/one.txt" {
		t.Fatalf("objects after the restart: %+v, %v", objs, err)
	}
	res, err := c.Invoke(ctx, call)
	if err != nil || !strings.Contains(string(res.Body), `"total":6`) {
		t.Fatalf("call after the restart: %+v, %v", res, err)
	}
	if after := finished(ctx, t, c, id); after != before {
		t.Errorf("result was %s and is %s after the restart", before, after)
	}
	metricsTell(ctx, t, "http://"+cl.Leader("edge").Addr, map[string]float64{"rubato_zone_calls_total": 1, "rubato_zone_slots": 1, "rubato_model_samples_total": 1, "rubato_model_regrow_samples": 48, "rubato_zone_leader": 1})
	// The coordinator came back too, and goes on counting versions where it was.
	wordcount(ctx, t, c)
	if f, err := c.Function(ctx, "wordcount"); err != nil || f.Version <= 1 {
		t.Errorf("deployed again: %+v, %v", f, err)
	}
}

func TestFolderServesOneClusterAtATime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	up(ctx, t, dir)
	_, err := cluster.Up(ctx, cluster.DefaultOptions(dir, slog.New(slog.DiscardHandler)))
	if !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second cluster on the same folder: %v", err)
	}
}

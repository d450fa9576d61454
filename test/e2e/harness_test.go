// Package e2e tests the whole system with the daemons as processes of their own, joined by real NATS and etcd, and
// with real faults: it builds the binaries and example functions once, starts them on loopback, and talks to their front
// doors. It is above everything else and nothing imports it.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/client"
	"github.com/rubato-faas/rubato/cluster"
	"github.com/rubato-faas/rubato/internal/freeport"
)

// bin is where TestMain has built everything.
var bin string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "rubato-e2e-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	for _, c := range [][]string{
		{"go", "build", "-o", dir + "/", "../../cmd/zone", "../../cmd/node", "../../cmd/global", "../../cmd/rubato"},
		{"sh", "../../examples/functions/build.sh", filepath.Join(dir, "functions")},
	} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %v\n%s", c, err, out)
			return 1
		}
	}
	return m.Run()
}

// proc is one daemon.
type proc struct {
	name string
	cmd  *exec.Cmd
	log  *buffer
	done chan struct{}
}

// buffer collects a daemon's log.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// system is a cluster of processes.
type system struct {
	t     *testing.T
	dir   string
	sub   *cluster.Substrate
	etcd  string // URL of the zones' etcd
	procs map[string]*proc
}

func newSystem(t *testing.T) *system {
	t.Helper()
	dir, err := os.MkdirTemp("", "rubato-e2e-state-*")
	if err != nil {
		t.Fatal(err)
	}
	s := &system{t: t, dir: dir, procs: map[string]*proc{}}
	if s.sub, err = cluster.StartSubstrate(filepath.Join(dir, "substrate"), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	s.etcd = s.sub.EtcdURL
	t.Cleanup(func() {
		for _, p := range s.procs {
			p.stop()
			if t.Failed() {
				t.Logf("== log of %s\n%s", p.name, tail(p.log.String(), 4000))
			}
		}
		s.sub.Stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Log(err)
		}
	})
	return s
}

func tail(s string, n int) string {
	if len(s) > n {
		return "..." + s[len(s)-n:]
	}
	return s
}

// start writes a daemon's configuration and starts it.
func (s *system) start(name, binary, yaml string) *proc {
	s.t.Helper()
	file := filepath.Join(s.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		s.t.Fatal(err)
	}
	p := &proc{name: name, cmd: exec.Command(filepath.Join(bin, binary), "--config", file), log: &buffer{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { defer close(p.done); _ = p.cmd.Wait() }()
	s.procs[name] = p
	return p
}

// kill is SIGKILL; stop is SIGTERM, and SIGKILL when that takes too long.
func (p *proc) kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

func (p *proc) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.kill()
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	addr, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func (s *system) globals(n int) {
	peers, addrs := "", make([]string, n)
	for i := range n {
		addrs[i] = freePort(s.t)
		peers += fmt.Sprintf("    g%d: %s\n", i+1, addrs[i])
	}
	for i := range n {
		name := fmt.Sprintf("g%d", i+1)
		s.start(name, "global", fmt.Sprintf("nats:\n  urls: [%q]\nhttp:\n  listen: 127.0.0.1:0\nmerge_every: 500ms\nraft:\n  id: %s\n  bind: %s\n  dir: %s\n  peers:\n%s",
			s.sub.NATSURL, name, addrs[i], filepath.Join(s.dir, name), peers))
	}
}

// zone starts a scheduler and returns the address of its door.
func (s *system) zone(zone, tier, name string) string {
	addr := freePort(s.t)
	s.start(name, "zone", fmt.Sprintf("nats:\n  urls: [%q]\netcd:\n  endpoints: [%q]\nhttp:\n  listen: %s\ngateway:\n  auth: \"off\"\nzone:\n  zone: %s\n  tier: %s\n  region: r1\n  name: %s\n  dir: %s\n  model_every: 1s\n",
		s.sub.NATSURL, s.etcd, addr, zone, tier, name, filepath.Join(s.dir, name)))
	return addr
}

func (s *system) node(zone, name string, slots int) {
	s.start(name, "node", fmt.Sprintf("nats:\n  urls: [%q]\nhttp:\n  listen: 127.0.0.1:0\nnode:\n  zone: %s\n  name: %s\n  dir: %s\n  node:\n    slots: %d\n",
		s.sub.NATSURL, zone, name, filepath.Join(s.dir, name), slots))
}

func connect(t *testing.T, tenant string, addrs ...string) *client.Client {
	t.Helper()
	var urls []string
	for _, a := range addrs {
		urls = append(urls, "http://"+a)
	}
	c, err := client.New(urls, client.WithTenant(tenant))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// until polls until ok or the time is over.
func until(t *testing.T, d time.Duration, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not %s: %v", d, what, err)
		}
		<-tick.C
	}
}

// rubato runs the command line against a door.
func rubato(t *testing.T, addr string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "rubato"), args...)
	cmd.Env = append(os.Environ(), "RUBATO_SERVER=http://"+addr)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("rubato %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

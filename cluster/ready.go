package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/freeport"
	"github.com/rubato-faas/rubato/zonesched"
)

// liveNodes asks a zone's leader how many nodes it sees.
func liveNodes(ctx context.Context, z *Zone) (int, error) {
	raw, err := z.Daemon.Query(ctx, "nodes", "")
	if err != nil {
		return 0, err
	}
	var nodes []zonesched.NodeView
	if err := json.Unmarshal(raw, &nodes); err != nil {
		return 0, err
	}
	live := 0
	for _, n := range nodes {
		if n.Live {
			live++
		}
	}
	return live, nil
}

// lockDir takes a folder for one cluster at a time. Without it a second one waits for etcd's own lock for good, deaf to
// signals, while two NATS servers write to one store. The lock ends with the process, however that ends.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cluster dir: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cluster lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: folder %s is in use by another cluster that runs: %w", api.ErrUnavailable, dir, err), f.Close())
	}
	return f, nil
}

// raftListener listens where this replica listened before, as its peers' logs remember; a new one takes a free port
// and writes it down.
func raftListener(dir string) (net.Listener, string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", fmt.Errorf("cluster raft dir: %w", err)
	}
	file := filepath.Join(dir, "address")
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, "", fmt.Errorf("cluster raft address: %w", err)
	}
	addr := strings.TrimSpace(string(b))
	var ln net.Listener
	if addr == "" {
		ln, err = freeport.Listen()
	} else {
		ln, err = net.Listen("tcp", addr)
	}
	if err != nil {
		return nil, "", fmt.Errorf("cluster raft listen (the address is remembered in %s): %w", file, err)
	}
	addr = ln.Addr().String()
	if err := os.WriteFile(file, []byte(addr+"\n"), 0o600); err != nil {
		return nil, "", errors.Join(fmt.Errorf("cluster raft address: %w", err), ln.Close())
	}
	return ln, addr, nil
}

package raftlog

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// Limits.
const (
	// MaxPeers bounds a coordinator's replicas: each entry is written by all of them.
	MaxPeers = 9
	// MaxInFlight bounds commands and reads under way at a time; one more is refused as overloaded.
	MaxInFlight = 256
	// maxConns bounds the connections taken from peers, and so what a stranger can hold open.
	maxConns = 256
)

// Config says who this replica is and how patient it is.
type Config struct {
	// ID names this replica for good. A replica that lost its disk must come back under another one: it has
	// forgotten whom it voted for and what it acknowledged.
	ID string
	// Bind is the TCP address to listen on. Deps.Listener, when given, is used instead.
	Bind string
	// Peers maps every replica's id, this one's included, to the address at which the others reach it. It makes
	// the first configuration when Dir is empty, and must then be the same on all; later the log's own counts.
	Peers map[string]string
	// Dir keeps the log, the vote and the snapshots. One process at a time.
	Dir string
	// TLS, when set, is used for both sides of every connection; it should demand and verify certificates. Nil
	// speaks plain TCP, fit for loopback and for networks that only the coordinator is on.
	TLS *tls.Config
	// Heartbeat is how long a follower waits for its leader before it stands for election, Election how long a
	// candidate waits for votes (default 300ms each; 50ms-10s). Loss of a leader costs about twice that. Shorter
	// ones elect in vain when a disk or the scheduler of the machine stalls for as long.
	Heartbeat, Election time.Duration
	// Lease is how long a leader goes on without hearing from a majority (default 150ms; at most Heartbeat).
	Lease time.Duration
	// SnapshotEvery is how many entries make a snapshot worthwhile (default 8192), KeepEntries how many stay in
	// the log behind one, so that a follower that was away for a moment needs no snapshot (default 10240).
	SnapshotEvery, KeepEntries uint64
}

// DefaultConfig is a Config but for ID, Bind, Peers and Dir.
func DefaultConfig() Config {
	return Config{
		Heartbeat: 300 * time.Millisecond, Election: 300 * time.Millisecond, Lease: 150 * time.Millisecond,
		SnapshotEvery: 8192, KeepEntries: 10240,
	}
}

// Validate reports every fault of the configuration at once.
func (c *Config) Validate() error {
	errs := []error{api.CheckName("replica id", c.ID)}
	if len(c.Peers) < 1 || len(c.Peers) > MaxPeers {
		errs = append(errs, fmt.Errorf("%w: %d peers: want 1-%d", api.ErrInvalid, len(c.Peers), MaxPeers))
	}
	if c.Peers[c.ID] == "" {
		errs = append(errs, fmt.Errorf("%w: peers do not name %q itself", api.ErrInvalid, c.ID))
	}
	for _, id := range c.peerIDs() {
		errs = append(errs, api.CheckName("peer id", id))
		if _, _, err := net.SplitHostPort(c.Peers[id]); err != nil {
			errs = append(errs, fmt.Errorf("%w: peer %s: %w", api.ErrInvalid, id, err))
		}
	}
	if c.Dir == "" {
		errs = append(errs, fmt.Errorf("%w: no directory", api.ErrInvalid))
	}
	for _, d := range [...]time.Duration{c.Heartbeat, c.Election} {
		if d < 50*time.Millisecond || d > 10*time.Second {
			errs = append(errs, fmt.Errorf("%w: timeout %v: want 50ms-10s", api.ErrInvalid, d))
		}
	}
	if c.Election < c.Heartbeat || c.Lease > c.Heartbeat || c.Lease < 10*time.Millisecond {
		errs = append(errs, fmt.Errorf("%w: want 10ms <= lease %v <= heartbeat %v <= election %v", api.ErrInvalid, c.Lease, c.Heartbeat, c.Election))
	}
	if c.SnapshotEvery < 1 {
		errs = append(errs, fmt.Errorf("%w: snapshot every %d entries: want at least 1", api.ErrInvalid, c.SnapshotEvery))
	}
	return errors.Join(errs...)
}

// Deps are what Open needs from its caller.
type Deps struct {
	// Log gets what the log has to say; nil means slog.Default.
	Log *slog.Logger
	// Listener, when given, is used in place of Config.Bind and closed by Close.
	Listener net.Listener
	// LeaderChanged, when given, hears who leads, from one goroutine and in order; a change that is undone before
	// it could be told is left out. mine is told only once everything that earlier leaders committed is applied
	// here. It must not call Close.
	LeaderChanged func(leader string, mine bool)
}

func (d Deps) log() *slog.Logger { return cmp.Or(d.Log, slog.Default()) }

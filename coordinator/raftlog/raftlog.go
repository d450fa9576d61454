// Package raftlog replicates the coordinator's catalogue with raft: a log on disk, snapshots, leader election. It
// is the only importer of hashicorp/raft and holds no rules of its own about what may be decided; those are the
// catalogue's. globald is its user. Two weaknesses of the library are cured here: see voteStore and transport.
//
// A Log is safe for concurrent use. Commands and reads are bounded by MaxInFlight. Nothing on the path of an
// invocation may wait for it: a command costs a majority's disk writes, and a lost leader about twice the
// heartbeat timeout.
package raftlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/coordinator/catalog"
)

const (
	// keepSnapshots is how many stay on disk: the newest, and one in case that is damaged.
	keepSnapshots = 2
	// lockTimeout bounds the wait for another process that still has the directory open.
	lockTimeout = time.Second
	// enqueueTimeout bounds the wait for raft's own queue, which is short when raft is well.
	enqueueTimeout = time.Second
)

// NotLeaderError says that this replica cannot take the request, and who could.
type NotLeaderError struct {
	// Leader is the id of the present leader as far as this replica knows; empty when there is none.
	Leader string
}

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return "no leader: " + api.ErrUnavailable.Error()
	}
	return fmt.Sprintf("not the leader, %s is: %v", e.Leader, api.ErrUnavailable)
}

// Unwrap makes it an api.ErrUnavailable.
func (e *NotLeaderError) Unwrap() error { return api.ErrUnavailable }

// Log is one replica. Close it.
type Log struct {
	cfg     Config
	log     *slog.Logger
	raft    *raft.Raft
	fsm     *fsm
	store   *raftboltdb.BoltStore
	streams transport

	slots chan struct{}
	// ready is the term in which this replica, as leader, has applied all that earlier leaders committed.
	ready atomic.Uint64

	changed  func(string, bool)
	observer *raft.Observer
	observed chan raft.Observation
	stop     chan struct{}
	once     sync.Once
	done     chan struct{}
	closeErr error

	mu      sync.Mutex // guards closing against waits.Add
	closing bool
	waits   sync.WaitGroup
}

// Open starts a replica on its directory. In an empty directory it begins a new cluster of the configured peers.
func Open(cfg Config, deps Deps) (*Log, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("raftlog open: %w", err)
	}
	l := &Log{
		cfg: cfg, log: deps.log().With("replica", cfg.ID), fsm: newFSM(), changed: deps.LeaderChanged,
		slots: make(chan struct{}, MaxInFlight), observed: make(chan raft.Observation, 16),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	if err := l.open(deps.Listener); err != nil {
		return nil, fmt.Errorf("raftlog open %s: %w", cfg.Dir, err)
	}
	l.observer = raft.NewObserver(l.observed, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	l.raft.RegisterObserver(l.observer)
	l.waits.Add(1)
	go l.watch()
	return l, nil
}

func (l *Log) open(listener net.Listener) (err error) {
	var undo []func()
	defer func() {
		if err == nil {
			return
		}
		for _, f := range slices.Backward(undo) {
			f()
		}
	}()
	if listener != nil {
		undo = append(undo, func() { _ = listener.Close() })
	}
	logger := newLogger(l.log)
	if err := os.MkdirAll(l.cfg.Dir, 0o700); err != nil {
		return err
	}
	l.store, err = raftboltdb.New(raftboltdb.Options{
		Path: filepath.Join(l.cfg.Dir, "raft.db"), BoltOptions: &bbolt.Options{Timeout: lockTimeout},
	})
	if err != nil {
		return fmt.Errorf("raft.db (is another process using it?): %w", err)
	}
	undo = append(undo, func() { _ = l.store.Close() })
	snaps, err := raft.NewFileSnapshotStoreWithLogger(l.cfg.Dir, keepSnapshots, logger)
	if err != nil {
		return err
	}
	if listener == nil {
		if listener, err = net.Listen("tcp", l.cfg.Bind); err != nil {
			return err
		}
		undo = append(undo, func() { _ = listener.Close() })
	}
	l.streams = newTransport(newStreamLayer(listener, l.cfg.Peers[l.cfg.ID], l.cfg.TLS), logger)
	undo = append(undo, func() { _ = l.streams.Close() })

	conf, stable := l.raftConfig(), &voteStore{StableStore: l.store}
	conf.Logger = logger
	old, err := raft.HasExistingState(l.store, stable, snaps)
	if err != nil {
		return err
	}
	if !old {
		if err := raft.BootstrapCluster(conf, l.store, stable, snaps, l.streams, l.cfg.servers()); err != nil {
			return err
		}
	}
	l.raft, err = raft.NewRaft(conf, l.fsm, l.store, stable, snaps, l.streams)
	return err
}

func (l *Log) raftConfig() *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(l.cfg.ID)
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = l.cfg.Heartbeat, l.cfg.Election, l.cfg.Lease
	conf.SnapshotThreshold, conf.TrailingLogs = l.cfg.SnapshotEvery, l.cfg.KeepEntries
	conf.NoLegacyTelemetry = true
	return conf
}

func (c *Config) peerIDs() []string {
	ids := make([]string, 0, len(c.Peers))
	for id := range c.Peers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (c *Config) servers() raft.Configuration {
	var out raft.Configuration
	for _, id := range c.peerIDs() {
		out.Servers = append(out.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(c.Peers[id])})
	}
	return out
}

// Apply has the command committed and applied, and returns the catalogue's answer. On another replica than the
// leader it is refused with a NotLeaderError. After an error that is api.ErrUnavailable or api.ErrDeadline the
// command may still come to be committed: send it again with the same RequestID.
func (l *Log) Apply(ctx context.Context, cmd catalog.Command) (catalog.Result, error) {
	if err := cmd.Validate(); err != nil {
		return catalog.Result{}, fmt.Errorf("raftlog apply %v: %w", cmd, err)
	}
	raw, err := catalog.EncodeCommand(cmd)
	if err != nil {
		return catalog.Result{}, fmt.Errorf("raftlog apply: %w", err)
	}
	var answer any
	err = l.do(ctx, func() error {
		f := l.raft.Apply(raw, enqueueTimeout)
		if err := f.Error(); err != nil {
			return err
		}
		answer = f.Response()
		return nil
	})
	if err != nil {
		return catalog.Result{}, fmt.Errorf("raftlog apply %v: %w", cmd, err)
	}
	switch a := answer.(type) {
	case catalog.Result:
		return a, nil
	case error:
		return catalog.Result{}, a
	}
	return catalog.Result{}, fmt.Errorf("raftlog apply %v: answer of type %T", cmd, answer)
}

// Read calls fn with a state that holds everything that was committed before the call. It works on the leader only
// and costs a round of heartbeats. fn must not block: entries wait for it. What it takes out stays valid.
func (l *Log) Read(ctx context.Context, fn func(*catalog.Catalog)) error {
	err := l.do(ctx, func() error {
		term := l.raft.CurrentTerm()
		if err := l.catchUp(term); err != nil {
			return err
		}
		if err := l.raft.VerifyLeader().Error(); err != nil {
			return err
		}
		if l.raft.CurrentTerm() != term { // lost and regained meanwhile: what came between may not be applied yet
			return raft.ErrLeadershipLost
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("raftlog read: %w", err)
	}
	return l.fsm.read(fn)
}

// catchUp returns when all that was committed in earlier terms is applied here. One barrier per term is enough:
// later commands of this leader are answered only after they were applied.
func (l *Log) catchUp(term uint64) error {
	if l.ready.Load() == term {
		return nil
	}
	if err := l.raft.Barrier(enqueueTimeout).Error(); err != nil {
		return err
	}
	if l.raft.CurrentTerm() != term {
		return raft.ErrLeadershipLost
	}
	l.ready.Store(term)
	return nil
}

// ReadStale calls fn with this replica's state, however old. fn must not block. It fails only when this replica
// has stopped at an entry that it cannot read.
func (l *Log) ReadStale(fn func(*catalog.Catalog)) error { return l.fsm.read(fn) }

// Leader is who leads as far as this replica knows (empty: nobody), and whether it is this one.
func (l *Log) Leader() (id string, mine bool) {
	_, leader := l.raft.LeaderWithID()
	return string(leader), l.raft.State() == raft.Leader && string(leader) == l.cfg.ID
}

// Applied gets a signal after the catalogue changed; several changes may make one. It is for one reader.
func (l *Log) Applied() <-chan struct{} { return l.fsm.applied }

// TransferLeadership hands leadership to the most advanced follower, which takes milliseconds instead of an
// election: call it before Close on a leader.
func (l *Log) TransferLeadership(ctx context.Context) error {
	if err := l.do(ctx, func() error { return l.raft.LeadershipTransfer().Error() }); err != nil {
		return fmt.Errorf("raftlog transfer leadership: %w", err)
	}
	return nil
}

// Snapshot writes a snapshot now, for instance before an upgrade. It is no fault when there is nothing new.
func (l *Log) Snapshot(ctx context.Context) error {
	err := l.do(ctx, func() error { return l.raft.Snapshot().Error() })
	if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("raftlog snapshot: %w", err)
	}
	return nil
}

// do runs f, which waits for raft, for at most as long as ctx allows. Raft's waits have no context but do end,
// with an answer, the loss of leadership or the shutdown; Close waits for those that outlived their ctx.
func (l *Log) do(ctx context.Context, f func() error) error {
	select {
	case l.slots <- struct{}{}:
	default:
		return fmt.Errorf("%w: %d requests under way", api.ErrOverloaded, MaxInFlight)
	}
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		<-l.slots
		return l.errorOf(raft.ErrRaftShutdown)
	}
	l.waits.Add(1)
	l.mu.Unlock()

	result := make(chan error, 1)
	go func() {
		defer l.waits.Done()
		defer func() { <-l.slots }()
		result <- f()
	}()
	select {
	case err := <-result:
		return l.errorOf(err)
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("%w: %w", api.ErrDeadline, ctx.Err())
		}
		return fmt.Errorf("%w: %w", api.ErrCanceled, ctx.Err())
	}
}

func (l *Log) errorOf(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader):
		leader, _ := l.Leader()
		return &NotLeaderError{Leader: leader}
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: %w", api.ErrOverloaded, err)
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrLeadershipTransferInProgress),
		errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, raft.ErrAbortedByRestore):
		return fmt.Errorf("%w: %w", api.ErrUnavailable, err)
	}
	return err
}

// watch tells the owner who leads. It looks at the present state at each signal, so that a dropped signal loses
// nothing: the channel then holds others yet to be looked at.
func (l *Log) watch() {
	defer l.waits.Done()
	var leader string
	var mine bool
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		nowLeader, nowMine := l.Leader()
		if nowMine && !mine {
			if err := l.catchUp(l.raft.CurrentTerm()); err != nil {
				l.log.Debug("leadership not told: earlier entries are not applied", "err", err)
				nowLeader, nowMine = "", false
				retry.Reset(l.cfg.Lease)
			}
		}
		if nowLeader != leader || nowMine != mine {
			leader, mine = nowLeader, nowMine
			l.log.Info("coordinator leadership", "leader", leader, "mine", mine)
			if l.changed != nil {
				l.changed(leader, mine)
			}
		}
		select {
		case <-l.observed:
		case <-retry.C:
		case <-l.stop:
			return
		}
	}
}

// Close stops the replica and releases its directory. It does not hand over leadership. When ctx ends first,
// stopping goes on by itself and Close says so.
func (l *Log) Close(ctx context.Context) error {
	l.once.Do(func() {
		l.mu.Lock()
		l.closing = true
		l.mu.Unlock()
		go func() {
			defer close(l.done)
			l.closeErr = l.shutdown()
		}()
	})
	select {
	case <-l.done:
		return l.closeErr
	case <-ctx.Done():
		return fmt.Errorf("raftlog close: %w: %w", api.ErrDeadline, ctx.Err())
	}
}

// shutdown waits for requests under way *before* it stops raft: while raft runs each of them ends (at the latest
// when a leader without a majority steps down, after Lease), but an entry that is committed and not yet applied
// when raft stops is never answered, and its waiter would wait for good.
func (l *Log) shutdown() error {
	close(l.stop)
	l.waits.Wait()
	l.raft.DeregisterObserver(l.observer)
	errs := []error{l.raft.Shutdown().Error()} // closes the transport too
	errs = append(errs, l.store.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("raftlog close: %w", err)
	}
	return nil
}

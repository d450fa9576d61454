package raftlog

import (
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/coordinator/catalog"
)

// fsm applies committed entries to the catalogue. Raft calls it from one goroutine; mu is for the readers.
type fsm struct {
	mu  sync.RWMutex
	cat *catalog.Catalog
	// fault is why this replica stopped applying: an entry that its release cannot read, most likely written by
	// a newer one. To skip it would make another catalogue, so the replica answers no more reads and makes no
	// more snapshots; after an upgrade and a restart it reads the entry again from its log.
	fault error

	applied chan struct{} // capacity 1: a signal, not a count
}

var _ raft.FSM = (*fsm)(nil)

func newFSM() *fsm { return &fsm{cat: catalog.New(), applied: make(chan struct{}, 1)} }

// Apply returns a catalog.Result, or an error once the replica has stopped.
func (f *fsm) Apply(entry *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fault != nil {
		return f.fault
	}
	r, err := f.cat.ApplyEncoded(entry.Index, entry.Data)
	if err != nil {
		f.fault = fmt.Errorf("raftlog apply entry %d: %w: this replica cannot go on: %w", entry.Index, api.ErrUnavailable, err)
		return f.fault
	}
	f.signal()
	return r
}

func (f *fsm) signal() {
	select {
	case f.applied <- struct{}{}:
	default: // the reader has not yet come for the last one, and will see this change too
	}
}

func (f *fsm) read(fn func(*catalog.Catalog)) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fault != nil {
		return f.fault
	}
	fn(f.cat)
	return nil
}

// Snapshot freezes the state; writing it happens beside further entries.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fault != nil {
		return nil, f.fault
	}
	return frozen{f.cat.Snapshot()}, nil
}

// Restore replaces the state by a snapshot, at start or when this replica has fallen far behind.
func (f *fsm) Restore(r io.ReadCloser) error {
	cat, err := catalog.Restore(r)
	if err != nil {
		_ = r.Close() // the fault of the content says more
		return err
	}
	f.mu.Lock()
	f.cat, f.fault = cat, nil
	f.mu.Unlock()
	f.signal()
	return r.Close()
}

type frozen struct{ snap *catalog.Snapshot }

func (s frozen) Persist(sink raft.SnapshotSink) error {
	if _, err := s.snap.WriteTo(sink); err != nil {
		_ = sink.Cancel() // the write's fault says more
		return err
	}
	return sink.Close()
}

func (frozen) Release() {}

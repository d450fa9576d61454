// Package memreg is the election in memory: the same behaviour as etcdreg's, for one process: tests,
// and clusters that live in one. It survives nothing and reaches nobody outside the process.
//
// A Registry is safe for concurrent use. Epochs count all campaigns of the registry, as revisions of etcd do.
package memreg

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/membership"
)

// MaxCandidates bounds the candidates of one zone.
const MaxCandidates = 64

// Registry holds the elections of all zones.
type Registry struct {
	generation uint64

	mu    sync.Mutex
	rev   int64
	zones map[string]*election
}

// election is a queue: the first campaign leads. changed is closed, and replaced, at each change.
type election struct {
	queue   []campaign
	changed chan struct{}
}

type campaign struct {
	candidate string
	rev       int64
}

// New makes an empty registry. generation is the first part of its epochs.
func New(generation uint64) *Registry {
	return &Registry{generation: generation, zones: map[string]*election{}}
}

// Elector is a candidate for the lead of a zone. Candidate names are unique in a zone.
func (r *Registry) Elector(zone, candidate string) (membership.Elector, error) {
	for _, err := range []error{api.CheckName("zone", zone), api.CheckName("candidate", candidate)} {
		if err != nil {
			return nil, fmt.Errorf("memreg elector: %w", err)
		}
	}
	return &elector{r, zone, candidate}, nil
}

// Kill ends the candidate's sessions in all zones, as if their leases had run out. While its Run goes on, it
// campaigns again, behind all others.
func (r *Registry) Kill(candidate string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.zones {
		e.removeLocked(func(c campaign) bool { return c.candidate == candidate })
	}
}

func (r *Registry) enter(zone, candidate string) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.zones[zone]
	if e == nil {
		e = &election{changed: make(chan struct{})}
		r.zones[zone] = e
	}
	if len(e.queue) >= MaxCandidates {
		return 0, fmt.Errorf("%w: zone %s has %d candidates", api.ErrOverloaded, zone, MaxCandidates)
	}
	r.rev++
	e.queue = append(e.queue, campaign{candidate, r.rev})
	e.notifyLocked()
	return r.rev, nil
}

func (r *Registry) leave(zone string, rev int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.zones[zone].removeLocked(func(c campaign) bool { return c.rev == rev })
}

// view is the leadership as the campaign rev sees it. alive says that the campaign is still there; changed is closed
// at the next change.
func (r *Registry) view(zone string, rev int64) (l membership.Leadership, alive bool, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.zones[zone]
	if !slices.ContainsFunc(e.queue, func(c campaign) bool { return c.rev == rev }) {
		return membership.Leadership{}, false, e.changed
	}
	first := e.queue[0]
	return membership.Leadership{
		Leader: first.candidate, Epoch: api.Epoch{Generation: r.generation, Revision: first.rev}, Mine: first.rev == rev,
	}, true, e.changed
}

func (e *election) removeLocked(which func(campaign) bool) {
	before := len(e.queue)
	if e.queue = slices.DeleteFunc(e.queue, which); len(e.queue) != before {
		e.notifyLocked()
	}
}

func (e *election) notifyLocked() {
	close(e.changed)
	e.changed = make(chan struct{})
}

type elector struct {
	reg             *Registry
	zone, candidate string
}

var _ membership.Elector = (*elector)(nil)

// Run implements membership.Elector.
func (e *elector) Run(ctx context.Context, changed func(membership.Leadership)) error {
	var last membership.Leadership
	tell := func(l membership.Leadership) {
		if l != last {
			last = l
			changed(l)
		}
	}
	for ctx.Err() == nil {
		rev, err := e.reg.enter(e.zone, e.candidate)
		if err != nil {
			return fmt.Errorf("memreg run %s: %w", e.candidate, err)
		}
		e.hold(ctx, rev, tell)
		if last.Mine { // told before the key goes, so that never two hold themselves for the leader
			tell(membership.Leadership{})
		}
		e.reg.leave(e.zone, rev)
	}
	return nil
}

// hold follows the election until ctx ends or the campaign is lost.
func (e *elector) hold(ctx context.Context, rev int64, tell func(membership.Leadership)) {
	for {
		l, alive, next := e.reg.view(e.zone, rev)
		if !alive {
			return
		}
		tell(l)
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
	}
}

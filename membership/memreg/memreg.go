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
	claim     api.Epoch // since when the candidate leads, if it did before this campaign
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
	return &elector{reg: r, zone: zone, candidate: candidate, news: make(chan struct{}, 1)}, nil
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

// enter appends to the queue. above is what the zone has heard of: revisions go on beyond it.
func (r *Registry) enter(zone, candidate string, claim, above api.Epoch) (int64, error) {
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
	r.rev = max(r.rev, above.Revision) + 1
	e.queue = append(e.queue, campaign{candidate, r.rev, claim})
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
		Leader: first.candidate, Epoch: api.Epoch{Generation: r.generation, Revision: first.rev}, Since: first.claim, Mine: first.rev == rev,
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

	mu    sync.Mutex
	heard membership.Leadership
	news  chan struct{}
}

var _ membership.Elector = (*elector)(nil)

// Heard implements membership.Elector. Epochs of another generation cannot be of this registry, and count for nothing.
func (e *elector) Heard(l membership.Leadership) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !l.Newer(e.heard) || l.Epoch.Generation != e.reg.generation {
		return
	}
	e.heard = l
	select {
	case e.news <- struct{}{}:
	default:
	}
}

func (e *elector) lastHeard() membership.Leadership {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.heard
}

// Run implements membership.Elector.
func (e *elector) Run(ctx context.Context, changed func(membership.Leadership)) error {
	v := membership.NewView(changed)
	for ctx.Err() == nil {
		claim := v.Leading()
		rev, err := e.reg.enter(e.zone, e.candidate, claim, e.lastHeard().Epoch)
		if err != nil {
			return fmt.Errorf("memreg run %s: %w", e.candidate, err)
		}
		e.hold(ctx, rev, claim, v)
		if ctx.Err() != nil {
			v.Resign() // before the key goes, so that never two hold themselves for the leader
		}
		e.reg.leave(e.zone, rev)
	}
	return nil
}

// hold follows the election until ctx ends, the campaign is lost, or it stands below what was heard.
func (e *elector) hold(ctx context.Context, rev int64, claim api.Epoch, v *membership.View) {
	for {
		l, alive, next := e.reg.view(e.zone, rev)
		if !alive {
			return
		}
		if !v.Saw(l) && l.Mine || claim != (api.Epoch{}) && claim != v.Leading() {
			return
		}
		select {
		case <-next:
		case <-e.news:
			v.Heard(e.lastHeard())
		case <-ctx.Done():
			return
		}
	}
}

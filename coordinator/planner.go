// Package coordinator plans for all zones: which part of a zone's work may go where, and when the models that the
// zones offer are merged. It is the pure core of the coordinator, a plain state machine without goroutines, clock
// or I/O: globald gives it one goroutine and carries out its actions, the simulator does so in virtual time. It
// decides nothing about a single invocation, knows no nodes, and holds no durable state: what was decided is in
// the catalogue, and comes back to it as events. See DESIGN.md.
//
// Every replica feeds its planner, so that a new leader knows the zones at once; only the leader's gets to act.
// Shares are in thousandths, durations are time.Duration. Not safe for concurrent use.
package coordinator

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// Limits.
const (
	// MaxPending bounds the updates of one zone that wait for a merge; the oldest makes room for the newest,
	// which was trained on all that the older ones were and more.
	MaxPending = 4
	// MaxUpdateTrees bounds the trees of one update, and maxDigestLen a digest (SHA-256 in hex).
	MaxUpdateTrees = 256
	maxDigestLen   = 64
	// MaxTargets bounds the zones that one zone may send to. Few are enough: a zone draws two and takes the better.
	MaxTargets = 8
)

// Config sets the planner's pace.
type Config struct {
	// PlanEvery is the time between two looks at the table of shares (default 2s; 100ms-1m). Each changed table is
	// an entry in the log, and zones need some seconds to act on the last one before the next can be judged.
	PlanEvery time.Duration
	// StaleAfter is the age from which a digest counts for nothing (default 5s; above PlanEvery).
	StaleAfter time.Duration
	// MergeEvery is the least time between the starts of two merges (default 2s; 10ms-1h).
	MergeEvery time.Duration
	// MergeTimeout is when a merge that did not answer is given up and its updates are offered again (default 30s).
	MergeTimeout time.Duration
	// MinChange is the change of a share, in thousandths, that is worth a log entry (default 100; 1-1000).
	MinChange int
}

// DefaultConfig is the pace meant for production.
func DefaultConfig() Config {
	return Config{
		PlanEvery: 2 * time.Second, StaleAfter: 5 * time.Second, MergeEvery: 2 * time.Second,
		MergeTimeout: 30 * time.Second, MinChange: 100,
	}
}

// Validate reports every fault of the configuration at once.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: "+format, append([]any{api.ErrInvalid}, args...)...))
		}
	}
	check(c.PlanEvery >= 100*time.Millisecond && c.PlanEvery <= time.Minute, "plan every %v: want 100ms-1m", c.PlanEvery)
	check(c.StaleAfter > c.PlanEvery, "stale after %v: want more than plan every %v", c.StaleAfter, c.PlanEvery)
	check(c.MergeEvery >= 10*time.Millisecond && c.MergeEvery <= time.Hour, "merge every %v: want 10ms-1h", c.MergeEvery)
	check(c.MergeTimeout >= c.MergeEvery, "merge timeout %v: want at least merge every %v", c.MergeTimeout, c.MergeEvery)
	check(c.MinChange >= 1 && c.MinChange <= api.MaxPermille, "least change %d: want 1-%d permille", c.MinChange, api.MaxPermille)
	return errors.Join(errs...)
}

// zone is what the planner knows of one zone of the catalogue.
type zone struct {
	name    string
	digest  api.Digest
	heard   time.Time // when digest arrived, by this replica's clock; zero before the first
	pending []ModelUpdate
	newest  ModelUpdate // highest (epoch, seq) ever taken, without its trees
}

// Planner is the state machine. Make one with New.
type Planner struct {
	cfg     Config
	leading bool
	zones   []*zone     // in order of name
	shares  []api.Share // in force, as the catalogue last told
	planned []string    // zones that the last proposal reckoned with

	nextPlan  time.Time
	nextMerge time.Time
	merge     struct {
		id      uint64 // of the merge under way, or the last one
		running bool
		until   time.Time
		updates []ModelUpdate
	}
	woken   time.Time // the wake that was last asked for
	dropped uint64
}

// New makes a planner that leads nothing and knows no zone.
func New(cfg Config) (*Planner, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("coordinator new: %w", err)
	}
	return &Planner{cfg: cfg}, nil
}

// Step takes in one event and appends what is to be done to out. now must not go back. A planner that does not
// lead takes in everything and asks for nothing.
func (p *Planner) Step(now time.Time, ev *Event, out []Action) []Action {
	switch ev.Kind {
	case LeaderChanged:
		p.lead(now, ev.Leading)
	case ZonesChanged:
		p.setZones(ev.Zones)
	case SharesChanged:
		p.shares = ev.Shares
	case DigestArrived:
		p.hear(now, &ev.Digest)
	case ModelOffered:
		p.offer(&ev.Update)
	case MergeDone:
		p.mergeDone(ev.MergeID, ev.OK)
	}
	if !p.leading {
		return out
	}
	out = p.mergeIfDue(now, out)
	out = p.planIfDue(now, out)
	return p.wake(now, out)
}

// lead waits a full round before the first plan, so that every zone that lives has been heard by then. A merge
// of an earlier leadership is forgotten: its commit is refused unless the pool is still the one that it began with.
func (p *Planner) lead(now time.Time, leading bool) {
	if leading == p.leading {
		return
	}
	p.leading = leading
	if p.merge.running {
		p.putBack()
	}
	if leading {
		p.nextPlan, p.nextMerge, p.woken, p.planned = now.Add(p.cfg.PlanEvery), now, time.Time{}, nil
	}
}

func (p *Planner) setZones(names []string) {
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > api.MaxZones {
		p.dropped += uint64(len(names) - api.MaxZones)
		names = names[:api.MaxZones]
	}
	next := make([]*zone, 0, len(names))
	for _, n := range names {
		z := p.zone(n)
		if z == nil {
			z = &zone{name: n}
		}
		next = append(next, z)
	}
	p.zones = next
}

func (p *Planner) zone(name string) *zone {
	i := sort.Search(len(p.zones), func(i int) bool { return p.zones[i].name >= name })
	if i < len(p.zones) && p.zones[i].name == name {
		return p.zones[i]
	}
	return nil
}

// hear takes a digest unless it is malformed, of a zone that the catalogue does not name, or older than the last.
func (p *Planner) hear(now time.Time, d *api.Digest) {
	z := p.zone(d.Zone)
	if z == nil || d.Validate() != nil {
		p.dropped++
		return
	}
	if !z.heard.IsZero() && !d.Newer(&z.digest) {
		return
	}
	z.digest, z.heard = *d, now
}

func (p *Planner) fresh(now time.Time, z *zone) bool {
	return !z.heard.IsZero() && now.Sub(z.heard) <= p.cfg.StaleAfter
}

// wake asks for a tick at the next time that something is due, once.
func (p *Planner) wake(now time.Time, out []Action) []Action {
	due := p.nextPlan
	if p.merge.running && p.merge.until.Before(due) {
		due = p.merge.until
	}
	if !p.merge.running && p.pendingUpdates() && p.nextMerge.Before(due) {
		due = p.nextMerge
	}
	if due.Equal(p.woken) {
		return out
	}
	p.woken = due
	return append(out, Action{Kind: Wake, After: due.Sub(now)})
}

// ZoneStatus is one zone as this replica last heard of it.
type ZoneStatus struct {
	Name string
	// Heard says that there is a digest at all, Age how old it is, Stale that it counts for nothing.
	Heard, Stale bool
	Age          time.Duration
	Digest       api.Digest
	// Pending counts the updates of its model that wait for a merge.
	Pending int
}

// Status lists all zones of the catalogue in order of name. Any replica can answer.
func (p *Planner) Status(now time.Time) []ZoneStatus {
	out := make([]ZoneStatus, 0, len(p.zones))
	for _, z := range p.zones {
		s := ZoneStatus{Name: z.name, Heard: !z.heard.IsZero(), Stale: !p.fresh(now, z), Digest: z.digest, Pending: len(z.pending)}
		if s.Heard {
			s.Age = now.Sub(z.heard)
		}
		out = append(out, s)
	}
	return out
}

// Dropped counts digests and updates that were malformed or came from zones that the catalogue does not name.
func (p *Planner) Dropped() uint64 { return p.dropped }

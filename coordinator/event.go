package coordinator

import (
	"fmt"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// EventKind says what an Event tells.
type EventKind uint8

// The kinds of events.
const (
	// Tick tells only that time has passed. Send one at each Wake.
	Tick EventKind = iota + 1
	// LeaderChanged tells in Leading whether this replica leads now.
	LeaderChanged
	// ZonesChanged tells in Zones all zones that the catalogue names.
	ZonesChanged
	// SharesChanged tells in Shares the table in force, in the catalogue's order.
	SharesChanged
	// DigestArrived brings Digest from a zone.
	DigestArrived
	// ModelOffered brings Update from a zone.
	ModelOffered
	// MergeDone tells that merge MergeID ended, and in OK whether its pool was committed.
	MergeDone
)

// Event is what the shell tells the planner. It is one tagged struct, passed by pointer; which fields count
// depends on Kind. The planner keeps no reference to it, but to the slices within.
type Event struct {
	Kind    EventKind
	Leading bool
	OK      bool
	MergeID uint64
	Digest  api.Digest
	Update  ModelUpdate
	Zones   []string
	Shares  []api.Share
}

func (e *Event) String() string {
	switch e.Kind {
	case Tick:
		return "tick"
	case LeaderChanged:
		return fmt.Sprintf("leader-changed leading=%v", e.Leading)
	case ZonesChanged:
		return "zones-changed " + strings.Join(e.Zones, " ")
	case SharesChanged:
		return "shares-changed" + shareList(e.Shares)
	case DigestArrived:
		d := &e.Digest
		return fmt.Sprintf("digest %s epoch=%v seq=%d slots=%d busy=%d queued=%d", d.Zone, d.Epoch, d.Seq, d.Slots, d.Busy, d.Queued)
	case ModelOffered:
		return fmt.Sprintf("model-offered %v", e.Update)
	case MergeDone:
		return fmt.Sprintf("merge-done %d ok=%v", e.MergeID, e.OK)
	}
	return fmt.Sprintf("event(%d)", e.Kind)
}

// ModelUpdate is a zone's offer: the trees that it exported and the scorecard that judges them, by digest. The
// planner does not look into either.
type ModelUpdate struct {
	Zone string
	// Epoch and Seq order the updates of one zone.
	Epoch     api.Epoch
	Seq       uint64
	Trees     []string
	Scorecard string
}

func (u ModelUpdate) String() string {
	return fmt.Sprintf("%s#%v/%d(%d trees)", u.Zone, u.Epoch, u.Seq, len(u.Trees))
}

func (u *ModelUpdate) newer(o *ModelUpdate) bool {
	if c := u.Epoch.Compare(o.Epoch); c != 0 {
		return c > 0
	}
	return u.Seq > o.Seq
}

func (u *ModelUpdate) valid() bool {
	if len(u.Trees) == 0 || len(u.Trees) > MaxUpdateTrees || len(u.Scorecard) > maxDigestLen {
		return false
	}
	for _, d := range u.Trees {
		if len(d) == 0 || len(d) > maxDigestLen {
			return false
		}
	}
	return true
}

// ActionKind says what an Action asks for.
type ActionKind uint8

// The kinds of actions.
const (
	// ProposeShares asks to commit Shares as the new table. It needs no answer: SharesChanged tells of success,
	// and after a failure the next round proposes again.
	ProposeShares ActionKind = iota + 1
	// Merge asks to merge Updates into the pool, to commit it, and to answer with MergeDone for MergeID.
	Merge
	// Wake asks for a Tick After that time; it replaces earlier ones.
	Wake
)

// Action is what the planner asks of the shell.
type Action struct {
	Kind    ActionKind
	MergeID uint64
	Shares  []api.Share
	Updates []ModelUpdate
	// After is relative, so that a transcript reads the same whatever the time of day.
	After time.Duration
}

func (a Action) String() string {
	switch a.Kind {
	case ProposeShares:
		return "propose-shares" + shareList(a.Shares)
	case Merge:
		var b strings.Builder
		fmt.Fprintf(&b, "merge %d", a.MergeID)
		for _, u := range a.Updates {
			fmt.Fprintf(&b, " %v", u)
		}
		return b.String()
	case Wake:
		return fmt.Sprintf("wake in %v", a.After)
	}
	return fmt.Sprintf("action(%d)", a.Kind)
}

func shareList(rows []api.Share) string {
	if len(rows) == 0 {
		return " none"
	}
	var b strings.Builder
	for _, s := range rows {
		fmt.Fprintf(&b, " %v", s)
	}
	return b.String()
}

// Package membership is the port through which zone schedulers elect their leader. etcdreg is the real one (a
// lease and an election key in etcd), memreg the in-memory one; membershiptest is the suite both pass. It elects
// and fences; it does not track nodes, whose liveness is soft state of the zone leader.
package membership

import (
	"cmp"
	"context"

	"github.com/rubato-faas/rubato/api"
)

// Leadership is one candidate's view of who leads its zone.
type Leadership struct {
	// Leader is the candidate name of the leader. It is empty while there is none, and beside an epoch when somebody
	// leads whose name is not known.
	Leader string
	// Epoch fences what the leader does: (generation, create-revision of the election key).
	Epoch api.Epoch
	// Since is the epoch under which the leader began. It is lower than Epoch when the leader lost its key and took a
	// new one with nobody leading in between: what it worked on it still works on.
	Since api.Epoch
	// Mine says that this candidate is the leader. It may be stale: correctness rests on the epoch, never on it.
	Mine bool
}

// Elector takes part in the election of one zone's leader.
type Elector interface {
	// Run campaigns until ctx ends and calls changed, from one goroutine and in order, on every change of leadership
	// as this candidate sees it; until it resigns, epochs never fall. It survives lost sessions by campaigning again
	// under a new epoch. A leader leads on while the registry is out of reach or has forgotten it, and tells Mine=false
	// only when it learns of another leader, from the registry or through Heard. Ending ctx resigns, so that a
	// standby takes over at once. Run is called once.
	Run(ctx context.Context, changed func(Leadership)) error
	// Heard passes on what the zone's own messages say of its leader; Leader may be empty, and Mine does not count. A
	// leader below that epoch was replaced: it gives its key up and campaigns again. Heard never waits, and what was
	// known already changes nothing.
	Heard(l Leadership)
}

// View is what a candidate has told: implementations of Elector use it from the goroutine that calls changed, so that
// only changes are told and epochs do not fall.
type View struct {
	changed func(Leadership)
	last    Leadership
}

// NewView has told nothing yet.
func NewView(changed func(Leadership)) *View { return &View{changed: changed} }

// Leading is the epoch under which this candidate began to lead; zero when it does not.
func (v *View) Leading() api.Epoch {
	if v.last.Mine {
		return v.last.Since
	}
	return api.Epoch{}
}

// Follows says that somebody else is known to lead.
func (v *View) Follows() bool { return !v.last.Mine && !v.last.Epoch.IsZero() }

// Saw takes what the registry says. It returns false, and tells nothing, when that is below what is known: nodes would
// refuse such an epoch.
func (v *View) Saw(l Leadership) bool {
	if l.Epoch.Compare(v.last.Epoch) < 0 {
		return false
	}
	switch {
	case l.Mine && v.last.Mine:
		l.Since = v.last.Since
	case l.Mine:
		l.Since = l.Epoch
	default:
		l.Since = cmp.Or(l.Since, l.Epoch)
	}
	v.tell(l)
	return true
}

// Heard takes what messages say. Without a name it counts only where nothing better is known: for a leader, that it was
// replaced; for one who knows of no leader, that there is one.
func (v *View) Heard(l Leadership) {
	higher := l.Epoch.Compare(v.last.Epoch)
	named := l.Leader != "" && (higher > 0 || higher == 0 && v.last.Leader == "")
	unnamed := l.Leader == "" && higher > 0 && (v.last.Mine || v.last.Leader == "")
	if named || unnamed {
		l.Since, l.Mine = cmp.Or(l.Since, l.Epoch), false
		v.tell(l)
	}
}

// Resign withdraws a claim to leadership.
func (v *View) Resign() {
	if v.last.Mine {
		v.tell(Leadership{})
	}
}

func (v *View) tell(l Leadership) {
	if l != v.last {
		v.last = l
		v.changed(l)
	}
}

// Newer says whether l adds to what was heard before: implementations that pass Heard on keep the newest.
func (l Leadership) Newer(than Leadership) bool {
	c := l.Epoch.Compare(than.Epoch)
	return c > 0 || c == 0 && than.Leader == "" && l.Leader != ""
}

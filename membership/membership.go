// Package membership is the port through which zone schedulers elect their leader. etcdreg is the real one (a
// lease and an election key in etcd), memreg the in-memory one; membershiptest is the suite both pass. It elects
// and fences; it does not track nodes, whose liveness is soft state of the zone leader.
package membership

import (
	"context"

	"github.com/rubato-faas/rubato/api"
)

// Leadership is one candidate's view of who leads its zone.
type Leadership struct {
	// Leader is the candidate name of the leader, empty while there is none.
	Leader string
	// Epoch fences what the leader does: (generation, create-revision of the election key).
	Epoch api.Epoch
	// Mine says that this candidate is the leader. It may be stale: correctness rests on the epoch, never on it.
	Mine bool
}

// Elector takes part in the election of one zone's leader.
type Elector interface {
	// Run campaigns until ctx ends and calls changed, from one goroutine and in order, on every change of
	// leadership as this candidate sees it. It survives lost sessions by campaigning again under a new epoch, and
	// tells Mine=false when its own lease can no longer be kept. Ending ctx resigns, so that a standby takes over
	// at once.
	Run(ctx context.Context, changed func(Leadership)) error
}

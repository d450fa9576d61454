package asyncq

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rubato-faas/rubato/api"
)

// The queue is bounded for all tenants together, and none may fill it so that the others are refused. A fixed share would leave room
// unused, so each may have up to tenantShare times what is free (dynamic thresholds, Choudhury and Hahne, IEEE/ACM Trans. Networking 6(2),
// 1998): one alone gets 7/8 of the queue, n that all want more get 7/(1+7n) each, and there is always something left for who comes new.
// Whoever has less than 7/8 of the queue in all has less than that, too, so tenants' own calls need only be counted above.
const tenantShare = 7

// recount is how old a door's count may be. It knows of what it accepts itself at once, of all else so late; the stream's own bound holds always.
const recount = time.Second

// tally is what a door knows of how full the queue is.
type tally struct {
	mu  sync.Mutex // held while it asks: who comes meanwhile would ask the same
	at  time.Time
	all uint64
	own map[string]uint64 // of tenants that asked while the queue was nearly full
}

// share is api.ErrOverloaded for a tenant that has its share of the queue already. A server that does not say how full it is
// refuses nobody: the call itself will find out.
func (q *Queue) share(ctx context.Context, tenant string) error {
	t := &q.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.at) > recount {
		t.at, t.own = now, nil
		info, err := q.stream.Info(ctx)
		if err != nil {
			q.log.Debug("asynchronous queue, how full it is", "zone", q.cfg.Zone, "err", err)
			return nil
		}
		t.all = info.State.Msgs
	}
	free := uint64(max(q.cfg.MaxPending-int64(t.all), 0))
	if t.all < tenantShare*free {
		return nil
	}
	own, known := t.own[tenant]
	if !known {
		info, err := q.stream.Info(ctx, jetstream.WithSubjectFilter(q.subject(tenant, "*")))
		if err != nil {
			q.log.Debug("asynchronous queue, a tenant's calls", "zone", q.cfg.Zone, "tenant", tenant, "err", err)
			return nil
		}
		own = uint64(len(info.State.Subjects))
		if t.own == nil {
			t.own = map[string]uint64{}
		}
		t.own[tenant] = own
	}
	if own < tenantShare*free {
		return nil
	}
	return fmt.Errorf("%w: %d calls wait, of at most %d, and %d of them are of tenant %s", api.ErrOverloaded, t.all, q.cfg.MaxPending, own, tenant)
}

// accepted counts a call that this door has put into the queue.
func (q *Queue) accepted(tenant string) {
	q.tally.mu.Lock()
	defer q.tally.mu.Unlock()
	q.tally.all++
	if _, known := q.tally.own[tenant]; known {
		q.tally.own[tenant]++
	}
}

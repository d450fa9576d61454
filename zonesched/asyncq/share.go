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

// recountAfter is how old a door's count may be: it knows of what it accepts itself at once, of all else so late. The stream's own bound holds
// always. recountWithin bounds the question.
const (
	recountAfter  = time.Second
	recountWithin = 500 * time.Millisecond
)

// tally is what a door knows of how full the queue is.
type tally struct {
	mu  sync.Mutex
	at  time.Time
	all uint64
	own map[string]uint64 // of tenants that asked while the queue was nearly full
}

// share is api.ErrOverloaded for a tenant that has its share of the queue already. A server that does not say how full it is
// refuses nobody: the call itself will find out. One asks at a time, and not for long: whoever comes meanwhile goes by what was known.
func (q *Queue) share(ctx context.Context, tenant string) error {
	if q.asking.TryLock() {
		defer q.asking.Unlock()
		q.recount(ctx, tenant)
	}
	t := &q.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	most := tenantShare * uint64(max(q.cfg.MaxPending-int64(t.all), 0))
	if own, known := t.own[tenant]; t.all >= most && known && own >= most {
		return fmt.Errorf("%w: %d calls wait, of at most %d, and %d of them are of tenant %s", api.ErrOverloaded, t.all, q.cfg.MaxPending, own, tenant)
	}
	return nil
}

// recount brings the tally up to date where it is old, as far as the tenant's share depends on it.
func (q *Queue) recount(ctx context.Context, tenant string) {
	ctx, cancel := context.WithTimeout(ctx, recountWithin)
	defer cancel()
	t := &q.tally
	t.mu.Lock()
	old := time.Since(t.at) > recountAfter
	t.mu.Unlock()
	if old {
		info, err := q.stream.Info(ctx)
		t.mu.Lock()
		if t.at, t.own = time.Now(), nil; err == nil {
			t.all = info.State.Msgs
		}
		t.mu.Unlock()
		if err != nil {
			q.log.Debug("asynchronous queue, how full it is", "zone", q.cfg.Zone, "err", err)
			return
		}
	}
	t.mu.Lock()
	_, known := t.own[tenant]
	room := t.all < tenantShare*uint64(max(q.cfg.MaxPending-int64(t.all), 0))
	t.mu.Unlock()
	if known || room {
		return
	}
	info, err := q.stream.Info(ctx, jetstream.WithSubjectFilter(q.subject(tenant, "*")))
	if err != nil {
		q.log.Debug("asynchronous queue, a tenant's calls", "zone", q.cfg.Zone, "tenant", tenant, "err", err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.own == nil {
		t.own = map[string]uint64{}
	}
	t.own[tenant] = uint64(len(info.State.Subjects))
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

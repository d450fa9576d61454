package etcdreg

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/membership"
)

// retryPause is the wait before a failed look or keep-alive is tried again within a session.
const retryPause = 50 * time.Millisecond

var (
	errLapsed  = errors.New("the lease could not be kept in time")
	errRevoked = errors.New("the lease is gone")
	errDeposed = errors.New("the election key was removed")
)

// session is one lease with one key. follow's goroutine owns it; keep runs beside it.
type session struct {
	reg   *Registry
	lease clientv3.LeaseID
	ttl   time.Duration
	key   string
	rev   int64 // create-revision of key

	mu    sync.Mutex
	until time.Time // when the lease may run out, by this process's clock
}

// open grants a lease and puts the key. Life is counted from before the request: the server's begins later.
func (r *Registry) open(ctx context.Context) (*session, error) {
	sent := time.Now()
	short, cancel := context.WithTimeout(ctx, r.cfg.TTL)
	defer cancel()
	grant, err := r.client.Grant(short, int64(r.cfg.TTL/time.Second))
	if err != nil {
		return nil, fmt.Errorf("etcdreg grant lease: %w", err)
	}
	ttl := time.Duration(grant.TTL) * time.Second
	s := &session{reg: r, lease: grant.ID, ttl: ttl, key: fmt.Sprintf("%s%x", r.prefix, grant.ID), until: sent.Add(ttl)}
	put, err := r.client.Txn(short).
		If(clientv3.Compare(clientv3.CreateRevision(s.key), "=", 0)).
		Then(clientv3.OpPut(s.key, r.cfg.Candidate, clientv3.WithLease(s.lease))).
		Commit()
	if err == nil && !put.Succeeded {
		err = api.ErrExists // lease ids are not given twice
	}
	if err != nil {
		s.close(ctx)
		return nil, fmt.Errorf("etcdreg put %s: %w", s.key, err)
	}
	s.rev = put.Header.Revision
	return s, nil
}

func (s *session) deadline() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.until
}

// keep keeps the lease alive until ctx ends or the lease is gone, which it tells by its error.
func (s *session) keep(ctx context.Context) error {
	for {
		sent := time.Now()
		short, cancel := context.WithTimeout(ctx, s.ttl/3)
		_, err := s.reg.client.KeepAliveOnce(short, s.lease)
		cancel()
		next := s.ttl / 3
		switch {
		case err == nil:
			s.mu.Lock()
			s.until = sent.Add(s.ttl)
			s.mu.Unlock()
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			return errRevoked
		default:
			next = retryPause
		}
		select {
		case <-time.After(next):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow watches the election and tells the view, until the session is lost or ctx ends. The view is told that
// leadership is over first of all, and nothing on this goroutine waits for etcd beyond the lease's life: opening a
// watch does wait, for as long as etcd is away, and so has a goroutine of its own.
func (s *session) follow(ctx context.Context, v *view) error {
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	defer v.lost()
	gone, events := make(chan error, 1), make(chan struct{}, 1)
	beside.Go(func() { gone <- s.keep(ctx) })
	beside.Go(func() { s.watch(ctx, events) })

	lapse := time.NewTimer(time.Until(s.deadline()))
	defer lapse.Stop()
	for {
		var again <-chan time.Time
		if err := s.look(ctx, v); errors.Is(err, errDeposed) {
			return err
		} else if err != nil {
			again = time.After(retryPause) // the lapse of the lease bounds the attempts
		}
		select {
		case <-events:
		case <-again:
		case <-lapse.C:
			if !s.alive(lapse) {
				return fmt.Errorf("etcdreg session: %w", errLapsed)
			}
		case err := <-gone:
			return fmt.Errorf("etcdreg session: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch signals that it is time to look, at each event on the zone's keys and when a watch begins: what happened
// before it did is found by that look, so no event needs to be remembered or asked for again.
func (s *session) watch(ctx context.Context, events chan<- struct{}) {
	for ctx.Err() == nil {
		// WithRequireLeader: a member that is cut off from its cluster ends the watch.
		w := s.reg.client.Watch(clientv3.WithRequireLeader(ctx), s.reg.prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		for range w {
			select {
			case events <- struct{}{}:
			default: // the look that is due comes after this event too
			}
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
		}
	}
}

// alive reports whether the lease was kept meanwhile, and sets the timer anew if so.
func (s *session) alive(lapse *time.Timer) bool {
	left := time.Until(s.deadline())
	if left <= 0 {
		return false
	}
	lapse.Reset(left)
	return true
}

// look reads who leads, and whether the own key is still there, at one revision. It waits no longer than the lease
// is known to live, so that a hanging etcd cannot hold up the news that the lease has lapsed.
func (s *session) look(ctx context.Context, v *view) error {
	short, cancel := context.WithDeadline(ctx, s.deadline())
	defer cancel()
	resp, err := s.reg.client.Txn(short).Then(
		clientv3.OpGet(s.reg.prefix, clientv3.WithFirstCreate()...), clientv3.OpGet(s.key)).Commit()
	if err != nil {
		return fmt.Errorf("etcdreg look: %w", err)
	}
	first, own := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Kvs
	if len(own) == 0 || own[0].CreateRevision != s.rev || len(first) == 0 {
		return fmt.Errorf("etcdreg look: %w", errDeposed)
	}
	if !time.Now().Before(s.deadline()) {
		return fmt.Errorf("etcdreg look: %w", errLapsed)
	}
	v.tell(membership.Leadership{
		Leader: string(first[0].Value),
		Epoch:  api.Epoch{Generation: s.reg.cfg.Generation, Revision: first[0].CreateRevision},
		Mine:   first[0].CreateRevision == s.rev,
	})
	return nil
}

// close gives the session up: the key first, so that the next candidate leads at once, then the lease. It works
// although ctx has ended; what it cannot reach runs out by itself.
func (s *session) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resignTimeout)
	defer cancel()
	if s.rev != 0 {
		_, err := s.reg.client.Txn(ctx).
			If(clientv3.Compare(clientv3.CreateRevision(s.key), "=", s.rev)).
			Then(clientv3.OpDelete(s.key)).
			Commit()
		if err != nil {
			s.reg.log.Info("election key not deleted, its lease will run out", "err", err)
			return
		}
	}
	if _, err := s.reg.client.Revoke(ctx, s.lease); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		s.reg.log.Info("lease not revoked, it will run out", "err", err)
	}
}

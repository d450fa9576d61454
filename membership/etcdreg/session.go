package etcdreg

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
	errRevoked = errors.New("the lease is gone")
	errDeposed = errors.New("the election key was removed")
	errBelow   = errors.New("the election key is below what the zone has seen")
)

// session is one lease with one key. follow's goroutine owns it; keep and watch run beside it.
type session struct {
	*candidate
	lease clientv3.LeaseID
	ttl   time.Duration
	key   string
	claim api.Epoch // since when the key says that its candidate leads; zero: it does not
	rev   int64     // create-revision of key
}

// open grants a lease and puts the key.
func (c *candidate) open(ctx context.Context, leading api.Epoch, late bool) (*session, error) {
	r := c.reg
	short, cancel := context.WithTimeout(ctx, r.cfg.TTL)
	defer cancel()
	grant, err := r.client.Grant(short, int64(r.cfg.TTL/time.Second))
	if err != nil {
		return nil, fmt.Errorf("etcdreg grant lease: %w", err)
	}
	s := &session{
		candidate: c, lease: grant.ID, ttl: time.Duration(grant.TTL) * time.Second, claim: leading,
		key: fmt.Sprintf("%s%x", r.prefix, grant.ID),
	}
	if late { // within the lease's life
		select {
		case <-time.After(r.cfg.TTL / 2):
		case <-ctx.Done():
		}
	}
	put, err := r.client.Txn(short).
		If(clientv3.Compare(clientv3.CreateRevision(s.key), "=", 0)).
		Then(clientv3.OpPut(s.key, value(r.cfg.Candidate, leading), clientv3.WithLease(s.lease))).
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

// value is what a key says: the candidate, and since when it leads if it did before it took this key.
func value(candidate string, since api.Epoch) string {
	if since.IsZero() {
		return candidate
	}
	return candidate + " " + since.String()
}

// parse is value's inverse. What cannot be read as an epoch is none: then calls in flight are given up for lost.
func parse(value string) (candidate string, since api.Epoch) {
	candidate, rest, ok := strings.Cut(value, " ")
	if ok {
		if n, err := fmt.Sscanf(rest, "%d.%d", &since.Generation, &since.Revision); n != 2 || err != nil {
			since = api.Epoch{}
		}
	}
	return candidate, since
}

// keep keeps the lease alive until ctx ends or etcd says that it is gone, which keep tells by its error.
func (s *session) keep(ctx context.Context) error {
	for {
		short, cancel := context.WithTimeout(ctx, s.ttl/3)
		_, err := s.reg.client.KeepAliveOnce(short, s.lease)
		cancel()
		next := s.ttl / 3
		switch {
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			return errRevoked
		case err != nil:
			next = retryPause
		}
		select {
		case <-time.After(next):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow watches the election and tells the view, until etcd says that the session is lost, or ctx ends. While etcd is
// away it tries on: nothing is known to have changed.
func (s *session) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	gone, events := make(chan error, 1), make(chan struct{}, 1)
	beside.Go(func() { gone <- s.keep(ctx) })
	beside.Go(func() { s.watch(ctx, events) })
	for {
		var retry <-chan time.Time
		switch err := s.look(ctx); {
		case errors.Is(err, errDeposed), errors.Is(err, errBelow):
			return err
		case err != nil:
			retry = time.After(retryPause)
		}
		select {
		case <-events:
		case <-s.again:
		case <-retry:
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

// look reads who leads, and whether the own key is still there, at one revision, and tells the view. That the own key is
// gone does not end leadership; that another's is the oldest does.
func (s *session) look(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, s.ttl)
	defer cancel()
	resp, err := s.reg.client.Txn(short).Then(
		clientv3.OpGet(s.reg.prefix, clientv3.WithFirstCreate()...), clientv3.OpGet(s.key)).Commit()
	if err != nil {
		return fmt.Errorf("etcdreg look: %w", err)
	}
	first, own := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Kvs
	below := false
	if len(first) > 0 {
		l := membership.Leadership{
			Epoch: api.Epoch{Generation: s.reg.cfg.Generation, Revision: first[0].CreateRevision},
			Mine:  first[0].CreateRevision == s.rev,
		}
		l.Leader, l.Since = parse(string(first[0].Value))
		if !s.ask(ctx, func(v *membership.View) {
			if !l.Mine && l.Leader == s.reg.cfg.Candidate && v.Leading() != (api.Epoch{}) {
				return // a key that this candidate put and was not told of: it goes with its lease
			}
			below = !v.Saw(l) && l.Mine
			// The key's claim holds no longer: replaced meanwhile, this candidate must stand like any other.
			below = below || s.claim != (api.Epoch{}) && s.claim != v.Leading()
		}) {
			return ctx.Err()
		}
	}
	switch {
	case len(own) == 0 || own[0].CreateRevision != s.rev:
		return fmt.Errorf("etcdreg look: %w", errDeposed)
	case below:
		return fmt.Errorf("etcdreg look: %w", errBelow)
	}
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

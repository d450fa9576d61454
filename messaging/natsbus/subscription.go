package natsbus

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/messaging"
)

type subscription struct {
	bus     *Bus
	sub     *nats.Subscription
	pattern string
	group   string
}

// Subscribe implements messaging.Bus. Flush before telling others to publish: the server learns of the
// subscription with the next flush.
func (b *Bus) Subscribe(pattern, group string, h messaging.Handler) (messaging.Subscription, error) {
	if !validPattern(pattern) {
		return nil, fmt.Errorf("natsbus subscribe %q: %w: bad pattern", pattern, api.ErrInvalid)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("natsbus subscribe %s: %w", pattern, messaging.ErrClosed)
	}
	ns, err := b.nc.QueueSubscribe(pattern, group, func(m *nats.Msg) {
		h(&messaging.Msg{Subject: m.Subject, Reply: m.Reply, Data: m.Data})
	})
	if err != nil {
		return nil, wrap("subscribe", pattern, err)
	}
	b.loops.Add(1)
	ns.SetClosedHandler(func(string) { b.loops.Done() })
	if err := ns.SetPendingLimits(b.cfg.PendingMsgs, b.cfg.PendingBytes); err != nil {
		return nil, wrap("subscribe", pattern, err)
	}
	s := &subscription{bus: b, sub: ns, pattern: pattern, group: group}
	b.subs[s] = struct{}{}
	return s, nil
}

// validPattern refuses what the server would: the client library lets "a.>.b" through, and the server's answer to
// it is to end the whole connection.
func validPattern(pattern string) bool {
	tokens := strings.Split(pattern, ".")
	for i, t := range tokens {
		if t == "" || strings.ContainsAny(t, " \t\r\n") || t == ">" && i != len(tokens)-1 {
			return false
		}
	}
	return true
}

// Stop implements messaging.Subscription. What is buffered is discarded. Stopping again does nothing.
func (s *subscription) Stop() error {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	if _, ok := s.bus.subs[s]; !ok {
		return nil
	}
	delete(s.bus.subs, s)
	s.bus.gone += s.dropped()
	if err := s.sub.Unsubscribe(); err != nil && !s.bus.closed {
		return wrap("unsubscribe", s.pattern, err)
	}
	return nil
}

// dropped reads the counter; a subscription that the connection ended has none any more.
func (s *subscription) dropped() uint64 {
	n, err := s.sub.Dropped()
	if err != nil || n < 0 {
		return 0
	}
	return uint64(n)
}

// SubStats describes one live subscription.
type SubStats struct {
	Pattern, Group string
	// Pending messages wait for the handler; Dropped ones found the buffer full.
	Pending int
	Dropped uint64
}

// Stats are the bus's counters since Connect.
type Stats struct {
	InMsgs, OutMsgs, InBytes, OutBytes, Reconnects uint64
	// Dropped counts messages lost to slow handlers, over all subscriptions ever made.
	Dropped uint64
	// Subs are the live subscriptions, sorted by pattern and group.
	Subs []SubStats
}

// Stats reads the counters. It takes the lock of every subscription: for scrapes, not for the hot path.
func (b *Bus) Stats() Stats {
	c := b.nc.Stats()
	b.mu.Lock()
	defer b.mu.Unlock()
	st := Stats{
		InMsgs: c.InMsgs, OutMsgs: c.OutMsgs, InBytes: c.InBytes, OutBytes: c.OutBytes, Reconnects: c.Reconnects,
		Dropped: b.gone,
	}
	for s := range b.subs { // sorted below
		one := SubStats{Pattern: s.pattern, Group: s.group, Dropped: s.dropped()}
		if n, _, err := s.sub.Pending(); err == nil {
			one.Pending = n
		}
		st.Dropped += one.Dropped
		st.Subs = append(st.Subs, one)
	}
	slices.SortFunc(st.Subs, func(x, y SubStats) int {
		return cmp.Or(cmp.Compare(x.Pattern, y.Pattern), cmp.Compare(x.Group, y.Group))
	})
	return st
}

package membus

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/messaging"
)

type queued struct {
	msg *messaging.Msg
	due time.Time // zero: at once
}

type subscription struct {
	bus     *Bus
	pattern string
	group   string
	tokens  []string
	limit   int
	stopped chan struct{} // closed when what is buffered is no longer wanted

	mu      sync.Mutex
	wake    sync.Cond // of mu: the queue or ended changed
	queue   []queued
	ended   bool // no more messages come
	dropped uint64
}

// Subscribe implements messaging.Bus.
func (b *Bus) Subscribe(pattern, group string, h messaging.Handler) (messaging.Subscription, error) {
	tokens := strings.Split(pattern, ".")
	if !validPattern(tokens) || strings.ContainsAny(group, " \t\r\n") {
		return nil, fmt.Errorf("membus subscribe %q group %q: %w: bad pattern", pattern, group, api.ErrInvalid)
	}
	s := &subscription{
		bus: b, pattern: pattern, group: group, tokens: tokens, limit: b.hub.cfg.PendingMsgs,
		stopped: make(chan struct{}),
	}
	s.wake.L = &s.mu
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("membus subscribe %s: %w", pattern, messaging.ErrClosed)
	}
	b.subs[s] = struct{}{}
	b.hub.add(s)
	b.loops.Go(func() { s.run(h) })
	return s, nil
}

// Stop implements messaging.Subscription. What is buffered is discarded. Stopping again does nothing.
func (s *subscription) Stop() error {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	if _, ok := s.bus.subs[s]; !ok {
		return nil
	}
	delete(s.bus.subs, s)
	s.bus.hub.remove(s)
	s.bus.gone += s.end(true)
	return nil
}

func (s *subscription) isWild() bool {
	return slices.Contains(s.tokens, "*") || slices.Contains(s.tokens, ">")
}

func (s *subscription) push(q queued) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	if len(s.queue) >= s.limit {
		s.dropped++
		return
	}
	s.queue = append(s.queue, q)
	s.wake.Signal()
}

// end stops the intake, and with discard the delivery too. It returns the drops, for the bus's sum.
func (s *subscription) end(discard bool) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if discard {
		s.queue = nil
		close(s.stopped)
	}
	s.wake.Signal()
	return s.dropped
}

func (s *subscription) drops() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// run hands over one message at a time until the subscription ended and its queue is empty. The message being
// handled no longer counts against the limit.
func (s *subscription) run(h messaging.Handler) {
	for {
		q, ok := s.next()
		if !ok || !s.await(q.due) {
			return
		}
		h(q.msg)
	}
}

func (s *subscription) next() (queued, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 && !s.ended {
		s.wake.Wait()
	}
	if len(s.queue) == 0 {
		return queued{}, false
	}
	q := s.queue[0]
	s.queue[0] = queued{}
	s.queue = s.queue[1:]
	return q, true
}

// await returns at the due time; false when the subscription was stopped before.
func (s *subscription) await(due time.Time) bool {
	d := time.Duration(0)
	if !due.IsZero() {
		d = time.Until(due)
	}
	if d <= 0 {
		select {
		case <-s.stopped:
			return false
		default:
			return true
		}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.stopped:
		return false
	}
}

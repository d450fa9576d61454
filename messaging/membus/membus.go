// Package membus is the messaging port in memory: subjects with wildcards, groups, reply inboxes and bounded
// buffers, as NATS has them, for tests and simulations of several daemons in one process. It is not a transport:
// nothing leaves the process.
//
// A Hub is the server, Connect gives each party its Bus. Each subscription has one goroutine, owned by its Bus and
// ended by Stop or Close. Hooks in Config lose or delay messages. It uses only package time, so it runs in
// testing/synctest bubbles. Safe for concurrent use.
package membus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/messaging"
)

// inboxPrefix begins the reply subjects of Request.
const inboxPrefix = "_INBOX."

// Config bounds a Hub and injects faults.
type Config struct {
	// MaxPayload bounds one message (default 1 MiB, as a NATS server's).
	MaxPayload int
	// PendingMsgs bounds what waits for a slow handler, per subscription (default 65536); beyond it messages are
	// dropped and counted.
	PendingMsgs int
	// RequestTimeout bounds a Request whose context has no deadline (default 10s).
	RequestTimeout time.Duration
	// CloseTimeout bounds how long Close waits for buffered messages and handlers (default 5s).
	CloseTimeout time.Duration
	// Drop, if set, loses the messages it answers true for, answers to requests (subject _INBOX.*) included. It is
	// called by the publishing goroutine, concurrently.
	Drop func(subject string) bool
	// Delay, if set, holds a message back in each receiver's queue for that long. Later messages to the same
	// subscription wait behind it, so order is kept as on a slow link. Answers to requests are not delayed.
	Delay func(subject string) time.Duration
}

// DefaultConfig has NATS' limits and no faults.
func DefaultConfig() Config {
	return Config{MaxPayload: 1 << 20, PendingMsgs: 1 << 16, RequestTimeout: 10 * time.Second, CloseTimeout: 5 * time.Second}
}

// Validate reports every fault of c at once.
func (c *Config) Validate() error {
	var errs []error
	if c.MaxPayload < 1 || c.PendingMsgs < 1 {
		errs = append(errs, fmt.Errorf("%w: membus: max payload %d, pending messages %d: want at least 1", api.ErrInvalid, c.MaxPayload, c.PendingMsgs))
	}
	if c.RequestTimeout <= 0 || c.CloseTimeout <= 0 {
		errs = append(errs, fmt.Errorf("%w: membus: request timeout %v, close timeout %v: want above 0", api.ErrInvalid, c.RequestTimeout, c.CloseTimeout))
	}
	return errors.Join(errs...)
}

// Hub is what the parties share. It owns no goroutine and needs no closing.
type Hub struct {
	cfg   Config
	inbox atomic.Uint64
	turn  atomic.Uint64 // whose turn it is in a group
	lost  atomic.Uint64 // messages that Config.Drop took

	// mu guards the tables; a subscription's own lock is taken under it, never the other way round.
	mu      sync.RWMutex
	exact   map[string][]*subscription
	wild    []*subscription
	waiting map[string]chan []byte // requests that wait for their answer, by inbox
}

// NewHub makes an empty hub.
func NewHub(cfg Config) (*Hub, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("membus new: %w", err)
	}
	return &Hub{cfg: cfg, exact: map[string][]*subscription{}, waiting: map[string]chan []byte{}}, nil
}

// Connect makes one party's bus.
func (h *Hub) Connect() *Bus { return &Bus{hub: h, subs: map[*subscription]struct{}{}} }

// Bus is one party's connection to a Hub.
type Bus struct {
	hub *Hub

	mu     sync.Mutex // taken before the hub's
	subs   map[*subscription]struct{}
	closed bool
	gone   uint64 // drops of subscriptions that were stopped
	loops  sync.WaitGroup
}

var _ messaging.Bus = (*Bus)(nil)

// Publish implements messaging.Bus. The data is copied once for each receiver.
func (b *Bus) Publish(subject string, data []byte) error {
	_, err := b.publish(&messaging.Msg{Subject: subject, Data: data})
	return err
}

// publish tells how many receivers there were, those included that a fault kept from hearing it.
func (b *Bus) publish(m *messaging.Msg) (int, error) {
	if err := b.hub.check(m); err != nil {
		return 0, err
	}
	if b.isClosed() {
		return 0, fmt.Errorf("membus publish %s: %w", m.Subject, messaging.ErrClosed)
	}
	return b.hub.deliver(m), nil
}

func (b *Bus) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

func (h *Hub) check(m *messaging.Msg) error {
	if m.Subject == "" || strings.ContainsAny(m.Subject, " \t\r\n") || strings.ContainsAny(m.Reply, " \t\r\n") {
		return fmt.Errorf("membus publish %q: %w: bad subject", m.Subject, api.ErrInvalid)
	}
	if len(m.Data) > h.cfg.MaxPayload {
		return fmt.Errorf("membus publish %s: %w: %d bytes, at most %d", m.Subject, api.ErrTooLarge, len(m.Data), h.cfg.MaxPayload)
	}
	return nil
}

// Request implements messaging.Bus.
func (b *Bus) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	h := b.hub
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.cfg.RequestTimeout)
		defer cancel()
	}
	inbox := inboxPrefix + strconv.FormatUint(h.inbox.Add(1), 36)
	answer := make(chan []byte, 1) // the first answer wins
	h.mu.Lock()
	h.waiting[inbox] = answer
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.waiting, inbox)
		h.mu.Unlock()
	}()

	n, err := b.publish(&messaging.Msg{Subject: subject, Reply: inbox, Data: data})
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("membus request %s: %w", subject, messaging.ErrNoResponders)
	}
	select {
	case data := <-answer:
		return data, nil
	case <-ctx.Done():
	}
	kind := api.ErrCanceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = api.ErrDeadline
	}
	return nil, fmt.Errorf("membus request %s: %w: %w", subject, kind, ctx.Err())
}

// Flush implements messaging.Bus. A publish is in its receivers' buffers when it returns, so nothing is left to do.
func (b *Bus) Flush(ctx context.Context) error {
	if b.isClosed() {
		return fmt.Errorf("membus flush: %w", messaging.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("membus flush: %w: %w", api.ErrCanceled, err)
	}
	return nil
}

// Close implements messaging.Bus: what is buffered is still handled, for at most Config.CloseTimeout.
func (b *Bus) Close() error {
	b.mu.Lock()
	b.closed = true
	for s := range b.subs { // order does not matter: each ends by itself
		b.hub.remove(s)
		b.gone += s.end(false)
	}
	clear(b.subs)
	b.mu.Unlock()

	finished := make(chan struct{})
	go func() {
		b.loops.Wait()
		close(finished)
	}()
	timer := time.NewTimer(b.hub.cfg.CloseTimeout)
	defer timer.Stop()
	select {
	case <-finished:
		return nil
	case <-timer.C: // the waiter above ends as soon as the last handler returns
		return fmt.Errorf("membus close: %w: handlers still run after %v", api.ErrDeadline, b.hub.cfg.CloseTimeout)
	}
}

// Dropped counts the messages that this party's slow handlers lost.
func (b *Bus) Dropped() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.gone
	for s := range b.subs { // a sum of integers: order does not matter
		n += s.drops()
	}
	return n
}

// Lost counts the messages that Config.Drop took.
func (h *Hub) Lost() uint64 { return h.lost.Load() }

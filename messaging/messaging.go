// Package messaging is the port to the bus that zones, nodes and the coordinator share: subjects, at-most-once
// publish, subscribe and request-reply. It holds no technology; natsbus is the real bus, membus the in-memory
// one, and messagingtest the suite that both pass. Durable queues are not here: they are a port of their own
// consumers.
//
// Delivery is at most once and ordered per (publisher, subject). Everything that must not be lost is
// acknowledged by the receiver's own protocol (docs/protocol.md).
package messaging

import (
	"context"
	"errors"
)

// ErrNoResponders: nobody listens on the subject. The request was certainly not delivered.
var ErrNoResponders = errors.New("no responders")

// ErrClosed: the bus was closed.
var ErrClosed = errors.New("bus closed")

// Msg is one message. Data is owned by the receiver's handler until it returns.
type Msg struct {
	Subject string
	// Reply is the subject for an answer; empty when none is wanted.
	Reply string
	Data  []byte
}

// Handler receives messages of one subscription, one at a time and in order. It must not block for long: a slow
// handler's messages are dropped (and counted) by the bus once its bounded buffer is full.
type Handler func(*Msg)

// Bus is what a daemon needs of the bus. Safe for concurrent use.
type Bus interface {
	// Publish sends data to every present subscriber of subject. A nil error means handed to the bus, no more.
	Publish(subject string, data []byte) error
	// Request publishes and waits for one answer. It fails at once with ErrNoResponders when nobody listens.
	Request(ctx context.Context, subject string, data []byte) ([]byte, error)
	// Subscribe delivers messages whose subject matches the pattern (* one token, > the rest). With a group,
	// each message goes to one member of it.
	Subscribe(pattern, group string, h Handler) (Subscription, error)
	// Flush returns when the bus has taken what was published before.
	Flush(ctx context.Context) error
	// Close ends all subscriptions; handlers that run are waited for.
	Close() error
}

// Subscription is an interest that can be withdrawn.
type Subscription interface {
	// Stop ends delivery. A handler that runs is not waited for.
	Stop() error
}

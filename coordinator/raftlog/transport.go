package raftlog

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// rpcTimeout bounds one exchange with a peer; a snapshot's scales with its size.
const rpcTimeout = 10 * time.Second

// transport is raft's network transport without the fast path for heartbeats.
//
// The fast path hands heartbeats to raft on the connection's own goroutine, beside raft's main loop. A leader that
// was deposed, and whose main loop is busy, then has its *term* raised there while it still holds itself for the
// leader: the next entry that it takes in is stamped with the new leader's term, and two different entries exist
// at one index and term, which the protocol rules out. Without a handler heartbeats queue with all other requests.
// What the fast path was for, slow disks that make followers stand for election, is covered by pre-vote, which
// embedding keeps (raft looks for the method RequestPreVote).
type transport struct {
	*raft.NetworkTransport
}

var (
	_ raft.Transport   = transport{}
	_ raft.WithPreVote = transport{}
	_ raft.WithClose   = transport{}
)

// SetHeartbeatHandler does nothing, on purpose.
func (transport) SetHeartbeatHandler(func(raft.RPC)) {}

// Close also drops the pooled connections, which the plain Close leaves open.
func (t transport) Close() error {
	err := t.NetworkTransport.Close()
	t.CloseStreams()
	return err
}

func newTransport(streams *streamLayer, log hclog.Logger) transport {
	return transport{raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: streams, MaxPool: 3, Timeout: rpcTimeout, Logger: log,
	})}
}

// peerAddr is the address at which peers reach this replica; it may differ from the one it listens on.
type peerAddr string

func (a peerAddr) Network() string { return "tcp" }
func (a peerAddr) String() string  { return string(a) }

// streamLayer makes raft's connections, by TCP or TLS. It ends the accepted ones at Close: raft's transport waits
// for the other side to do so, which a replica that is shut down should not have to.
type streamLayer struct {
	listener  net.Listener
	advertise peerAddr
	tls       *tls.Config

	mu     sync.Mutex
	closed bool
	conns  map[*trackedConn]struct{}
}

func newStreamLayer(l net.Listener, advertise string, cfg *tls.Config) *streamLayer {
	return &streamLayer{listener: l, advertise: peerAddr(advertise), tls: cfg, conns: map[*trackedConn]struct{}{}}
}

// Accept takes the next connection. Above maxConns it hangs up on the caller.
func (s *streamLayer) Accept() (net.Conn, error) {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return nil, err
		}
		if s.tls != nil {
			conn = tls.Server(conn, s.tls)
		}
		if c := s.track(conn); c != nil {
			return c, nil
		}
		_ = conn.Close() // refused; the peer sees the end of the stream
	}
}

func (s *streamLayer) track(conn net.Conn) *trackedConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= maxConns {
		return nil
	}
	c := &trackedConn{Conn: conn, owner: s}
	s.conns[c] = struct{}{}
	return c
}

// Dial connects to a peer.
func (s *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if s.tls != nil {
		d := tls.Dialer{Config: s.tls}
		return d.DialContext(ctx, "tcp", string(address))
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", string(address))
}

// Close ends listening and every accepted connection.
func (s *streamLayer) Close() error {
	err := s.listener.Close()
	s.mu.Lock()
	s.closed = true
	open := make([]*trackedConn, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		_ = c.Close() // there is nobody left to tell
	}
	if err != nil {
		return fmt.Errorf("raftlog close listener: %w", err)
	}
	return nil
}

// Addr is what raft calls this replica's address.
func (s *streamLayer) Addr() net.Addr { return s.advertise }

// trackedConn takes itself off its layer's list when it is closed.
type trackedConn struct {
	net.Conn
	owner *streamLayer
}

func (c *trackedConn) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.conns, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}

// Package freeport finds loopback ports for servers that must know their address before they listen, or find it again
// after a restart.
//
// A port that the kernel gives to port 0 is from its ephemeral range, out of which it also serves every outgoing
// connection and every other listener without a port of its own: once let go, it may be another's a moment later. These
// ports are from below that range (of Linux, from 32768; of the BSDs and IANA, from 49152), and no process is given one
// twice: only who asks for just this port can take it, or another process that draws here, once in thousands of times.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
)

// The range ends below Kubernetes' node ports and Linux's ephemeral ones. What servers listen on within it is passed over.
const (
	first = 15000
	span  = 15000
	tries = 64
)

// drawn counts the ports that this process has been given or passed over; it begins anywhere, so that processes differ.
var drawn = func() *atomic.Uint32 {
	at := new(atomic.Uint32)
	at.Store(rand.Uint32N(span))
	return at
}()

// Listen listens on a port of 127.0.0.1 that was free. Who can hand on a listener uses it; who needs an address closes
// it first.
func Listen() (net.Listener, error) {
	var taken error
	for range tries {
		ln, err := net.Listen("tcp", address(drawn.Add(1)))
		if err == nil {
			return ln, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("free port: %w", err)
		}
		taken = err
	}
	return nil, fmt.Errorf("free port: %d in a row between %d and %d are taken, the last: %w", tries, first, first+span-1, taken)
}

func address(n uint32) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(first+int(n%span)))
}

// Address is a loopback address, host:port, on which one could listen a moment ago.
func Address() (string, error) {
	ln, err := Listen()
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

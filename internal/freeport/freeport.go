// Package freeport finds loopback ports for servers that must know their address before they listen, or find it again
// after a restart.
//
// A port that the kernel gives to port 0 is from its ephemeral range, out of which it also serves every outgoing
// connection and every other listener without a port of its own: once let go, it may be another's a moment later. These
// ports are from below that range (of Linux, from 32768; of the BSDs and IANA, from 49152), so only someone who asks
// for just this port can take it.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
)

// The range: above the registered ports that servers usually have, below Kubernetes' node ports and Linux's ephemeral
// ones.
const (
	first = 15000
	last  = 29999
	tries = 64
)

// Listen listens on a port of 127.0.0.1 that was free. Who can hand on a listener uses it; who needs an address closes
// it first.
func Listen() (net.Listener, error) {
	var taken error
	for range tries {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(last-first+1))))
		if err == nil {
			return ln, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("free port: %w", err)
		}
		taken = err
	}
	return nil, fmt.Errorf("free port: none of %d between %d and %d was free: %w", tries, first, last, taken)
}

// Address is a loopback address, host:port, on which one could listen a moment ago.
func Address() (string, error) {
	ln, err := Listen()
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

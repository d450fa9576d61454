package freeport_test

import (
	"net"
	"testing"

	"github.com/rubato-faas/rubato/internal/freeport"
)

// An address can be listened on, again and again, and lies where no outgoing connection of Linux gets its port from.
func TestAddressIsFreeAndBelowTheEphemeralRange(t *testing.T) {
	for range 50 {
		addr, err := freeport.Address()
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			ln, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			if port := ln.Addr().(*net.TCPAddr).Port; port < 15000 || port >= 30000 {
				t.Errorf("port %d", port)
			}
			if err := ln.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Ports held at once are different ones.
func TestListenersDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 20 {
		ln, err := freeport.Listen()
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		if seen[ln.Addr().String()] {
			t.Errorf("%v twice", ln.Addr())
		}
		seen[ln.Addr().String()] = true
	}
}

package freeport

import (
	"net"
	"testing"
)

// Addresses can be listened on, lie where no outgoing connection of Linux gets its port from, and are all different though none is
// held.
func TestAddresses(t *testing.T) {
	seen := map[string]bool{}
	for range 300 {
		addr, err := Address()
		if err != nil {
			t.Fatal(err)
		}
		if seen[addr] {
			t.Errorf("%s twice", addr)
		}
		seen[addr] = true
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

// hold takes the next n ports, as far as they are free.
func hold(t *testing.T, n uint32) {
	t.Helper()
	for i := range n {
		ln, err := net.Listen("tcp", address(drawn.Load()+1+i))
		if err != nil {
			continue // somebody else has it, which is as good
		}
		t.Cleanup(func() { _ = ln.Close() })
	}
}

// A port that is taken is passed over, until too many are.
func TestTakenPortsArePassedOver(t *testing.T) {
	hold(t, 3)
	from := drawn.Load()
	ln, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if got := drawn.Load() - from; got < 4 {
		t.Errorf("given the %d. port, of which three were taken", got)
	}
	hold(t, tries)
	if _, err := Listen(); err == nil {
		t.Errorf("listens though the next %d ports are taken", tries)
	}
}

// Package racetest leaves long tests of one goroutine out where the race detector is on: there is nothing for it to find in them, and they
// take ten times as long. They run without it.
package racetest

import "testing"

// SkipSingle skips a test, all of which runs in one goroutine, under the race detector.
func SkipSingle(t testing.TB) {
	t.Helper()
	if enabled {
		t.Skip("one goroutine: no races to look for, and ten times as slow")
	}
}

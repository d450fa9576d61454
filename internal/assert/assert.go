// Package assert states invariants that must hold whatever the input: a violation is a bug of this program, not
// of its caller. Cheap checks stay on in production. It is not for validating input, which gets an error.
package assert

import "fmt"

// That panics with the formatted message when cond is false.
func That(cond bool, format string, args ...any) {
	if !cond {
		panic("invariant violated: " + fmt.Sprintf(format, args...))
	}
}

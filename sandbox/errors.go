package sandbox

import "errors"

// ErrCrashed: the function's process or module ended by itself in the middle of a call or of its start.
var ErrCrashed = errors.New("function crashed")

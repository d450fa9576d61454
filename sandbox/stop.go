package sandbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/rubato-faas/rubato/api"
)

// StopError names why an ended ctx ended in the words of Sandbox.Invoke: api.ErrDeadline when time ran out,
// api.ErrCanceled for everything else. It is nil while ctx has not ended.
func StopError(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, api.ErrDeadline), errors.Is(cause, api.ErrCanceled):
		return cause
	case errors.Is(cause, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", api.ErrDeadline, cause)
	default:
		return fmt.Errorf("%w: %w", api.ErrCanceled, cause)
	}
}

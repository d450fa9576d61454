package api

import (
	"errors"
	"fmt"
)

// Sentinel errors. Wrap them with %w; the edge maps them once to a Code.
var (
	// ErrInvalid: the request itself is wrong; sending it again cannot help.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: no such function, object, invocation or tenant.
	ErrNotFound = errors.New("not found")
	// ErrExists: a create-only write found the record there.
	ErrExists = errors.New("exists already")
	// ErrTooLarge: a body or result is above its limit.
	ErrTooLarge = errors.New("too large")
	// ErrDenied: the credential is missing, unknown or not allowed to do this.
	ErrDenied = errors.New("denied")
	// ErrOverloaded: a bounded queue is full; try again later.
	ErrOverloaded = errors.New("overloaded")
	// ErrUnavailable: no leader, no node, or the party that worked on it was lost.
	ErrUnavailable = errors.New("unavailable")
	// ErrDeadline: the caller's budget or the function's timeout ran out.
	ErrDeadline = errors.New("deadline exceeded")
	// ErrCanceled: the caller went away or asked for it.
	ErrCanceled = errors.New("canceled")
	// ErrFunction: the function itself failed (it returned an error or crashed).
	ErrFunction = errors.New("function failed")
	// ErrFenced: the sender's epoch is lower than one seen before.
	ErrFenced = errors.New("fenced: lower epoch")
)

// Code is the small set of error codes that callers see.
type Code string

// The codes, each with the sentinel it stands for.
const (
	CodeOK          Code = ""
	CodeInvalid     Code = "invalid"
	CodeNotFound    Code = "not_found"
	CodeExists      Code = "exists"
	CodeTooLarge    Code = "too_large"
	CodeDenied      Code = "denied"
	CodeOverloaded  Code = "overloaded"
	CodeUnavailable Code = "unavailable"
	CodeDeadline    Code = "deadline"
	CodeCanceled    Code = "canceled"
	CodeFunction    Code = "function_error"
	CodeFenced      Code = "fenced"
	CodeInternal    Code = "internal"
)

var codes = []struct {
	code Code
	err  error
}{
	{CodeInvalid, ErrInvalid}, {CodeNotFound, ErrNotFound}, {CodeExists, ErrExists}, {CodeTooLarge, ErrTooLarge},
	{CodeDenied, ErrDenied}, {CodeOverloaded, ErrOverloaded}, {CodeUnavailable, ErrUnavailable},
	{CodeDeadline, ErrDeadline}, {CodeCanceled, ErrCanceled}, {CodeFunction, ErrFunction}, {CodeFenced, ErrFenced},
}

// CodeOf maps an error to its code: CodeOK for nil, CodeInternal for an error of no known kind.
func CodeOf(err error) Code {
	if err == nil {
		return CodeOK
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return CodeInternal
}

// Err makes an error of the code's kind with a message; nil for CodeOK.
func (c Code) Err(msg string) error {
	if c == CodeOK {
		return nil
	}
	for _, k := range codes {
		if k.code == c {
			return fmt.Errorf("%w: %s", k.err, msg)
		}
	}
	return fmt.Errorf("internal: %s", msg)
}

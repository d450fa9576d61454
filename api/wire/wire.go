// Package wire is the encoding of what travels on the bus: one version byte, then msgpack. Every message of
// docs/protocol.md has its struct here. Decoders accept this version and the one before, refuse more than
// MaxMessageBytes and what Bounded refuses, and never panic on bytes from outside (fuzzed). It holds no subjects' logic and no I/O.
package wire

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/rubato-faas/rubato/api"
)

// Version is written; MinVersion is still read.
const (
	Version    = 1
	MinVersion = 1
)

// MaxMessageBytes bounds a message: NATS' default max_payload.
const MaxMessageBytes = 1 << 20

var (
	// ErrVersion: the sender speaks a version this program does not read.
	ErrVersion = errors.New("wire: unknown version")
	// ErrMalformed: the bytes are not a message of the wanted kind.
	ErrMalformed = errors.New("wire: malformed message")
)

// Encode writes v as a message. The result is the caller's.
func Encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	buf.Grow(512)
	buf.WriteByte(Version)
	enc := msgpack.GetEncoder()
	defer msgpack.PutEncoder(enc)
	enc.Reset(&buf)
	enc.UseCompactInts(true)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("wire encode %T: %w", v, err)
	}
	if buf.Len() > MaxMessageBytes {
		return nil, fmt.Errorf("wire encode %T: %w: %d bytes, want at most %d", v, api.ErrTooLarge, buf.Len(), MaxMessageBytes)
	}
	return buf.Bytes(), nil
}

// Decode reads a message into v.
func Decode(b []byte, v any) (err error) {
	if len(b) == 0 || len(b) > MaxMessageBytes {
		return fmt.Errorf("%w: %d bytes, want 1-%d", ErrMalformed, len(b), MaxMessageBytes)
	}
	if b[0] < MinVersion || b[0] > Version {
		return fmt.Errorf("%w %d: this program reads %d-%d", ErrVersion, b[0], MinVersion, Version)
	}
	if err := Bounded(b[1:]); err != nil {
		return err
	}
	dec := msgpack.GetDecoder()
	defer msgpack.PutDecoder(dec)
	dec.Reset(bytes.NewReader(b[1:]))
	// The decoder is a library fed with bytes from outside: a panic in it is a malformed message, not a crash.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrMalformed, r)
		}
	}()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: %T: %w", ErrMalformed, v, err)
	}
	return nil
}

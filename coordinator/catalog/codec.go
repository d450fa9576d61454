package catalog

import (
	"bytes"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// commandVersion is written in front of every command. A reader takes this version and the one before it
// (oldestCommand), so that a cluster can be upgraded one replica at a time: propose version N only when every
// replica reads it.
const (
	commandVersion = 1
	oldestCommand  = 1
)

// EncodeCommand encodes a command for the log: one byte of version, then msgpack with sorted map keys.
func EncodeCommand(c Command) ([]byte, error) {
	body, err := marshal(&c)
	if err != nil {
		return nil, fmt.Errorf("catalog encode %v: %w", c.Kind, err)
	}
	if len(body)+1 > MaxCommandBytes {
		return nil, fmt.Errorf("catalog encode %v: %w: %d bytes: want at most %d", c.Kind, api.ErrTooLarge, len(body)+1, MaxCommandBytes)
	}
	return append([]byte{commandVersion}, body...), nil
}

// DecodeCommand reads what EncodeCommand wrote. A field that it does not know is an error and not skipped: a
// replica that ignored part of a command would silently become another catalogue.
func DecodeCommand(data []byte) (Command, error) {
	var c Command
	if len(data) == 0 || len(data) > MaxCommandBytes {
		return c, fmt.Errorf("catalog decode command: %w: %d bytes: want 1-%d", api.ErrInvalid, len(data), MaxCommandBytes)
	}
	if v := data[0]; v < oldestCommand || v > commandVersion {
		return c, fmt.Errorf("catalog decode command: %w: version %d: this release reads %d-%d", api.ErrInvalid, v, oldestCommand, commandVersion)
	}
	if err := unmarshal(data[1:], &c); err != nil {
		return Command{}, fmt.Errorf("catalog decode command: %w: %w", api.ErrInvalid, err)
	}
	return c, nil
}

func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := msgpack.NewEncoder(&buf)
	enc.SetSortMapKeys(true)
	enc.UseCompactInts(true)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// unmarshal decodes exactly one value.
func unmarshal(data []byte, v any) error {
	if err := wire.Bounded(data); err != nil {
		return err
	}
	r := bytes.NewReader(data)
	dec := msgpack.NewDecoder(r)
	dec.DisallowUnknownFields(true)
	if err := dec.Decode(v); err != nil {
		return err
	}
	if r.Len() != 0 {
		return fmt.Errorf("%d bytes after the value", r.Len())
	}
	return nil
}

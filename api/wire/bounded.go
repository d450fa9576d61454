package wire

import (
	"encoding/binary"
	"fmt"
)

// Bounds of what one message may contain. Lists that this project sends are far shorter (messages.go).
const (
	MaxElements = 65536 // of one list or map
	MaxDepth    = 16    // of lists and maps in one another
)

// Bounded reports whether b is msgpack whose lists, maps, strings and byte strings are as long as they say, and no longer or deeper
// than MaxElements and MaxDepth. It reads headers only and allocates nothing. It goes before every decoding into structs:
// the decoder makes a list of structs as long as its header claims before it reads the first, and nine bytes can claim four
// thousand million.
func Bounded(b []byte) error {
	var left [MaxDepth + 1]int // elements still to come, by depth
	left[0] = 1
	depth := 0
	for at := 0; ; {
		for left[depth] == 0 {
			if depth--; depth < 0 {
				return nil // bytes after the value are the decoder's to judge
			}
		}
		left[depth]--
		if at >= len(b) {
			return fmt.Errorf("%w: cut short after %d bytes", ErrMalformed, at)
		}
		h := headerOf(b[at])
		at++
		n := uint64(h.n)
		if h.width > 0 {
			if len(b)-at < h.width {
				return fmt.Errorf("%w: cut short after %d bytes", ErrMalformed, at)
			}
			var be [8]byte
			copy(be[8-h.width:], b[at:at+h.width])
			n += binary.BigEndian.Uint64(be[:])
			at += h.width
		}
		switch h.kind {
		case ofBytes:
			if n > uint64(len(b)-at) {
				return fmt.Errorf("%w: %d bytes are claimed at %d, %d are left", ErrMalformed, n, at, len(b)-at)
			}
			at += int(n)
		case ofElements, ofPairs:
			if n > MaxElements || n > uint64(len(b)-at) {
				return fmt.Errorf("%w: a list of %d at %d: want at most %d, and no more than the bytes that are left", ErrMalformed, n, at, MaxElements)
			}
			if depth == MaxDepth {
				return fmt.Errorf("%w: nested more than %d deep", ErrMalformed, MaxDepth)
			}
			if h.kind == ofPairs {
				n *= 2
			}
			depth++
			left[depth] = int(n)
		case unused:
			return fmt.Errorf("%w: byte %#x at %d begins nothing", ErrMalformed, b[at-1], at-1)
		}
	}
}

// header is what a first byte says: a length or count n, to which the next width bytes add, of kind.
type header struct {
	kind  uint8
	n     int
	width int
}

const (
	ofBytes    uint8 = iota // n bytes follow
	ofElements              // n values follow
	ofPairs                 // n keys and values follow
	unused
)

// headerOf reads a first byte by msgpack's specification.
func headerOf(c byte) header {
	switch {
	case c <= 0x7f, c >= 0xe0: // fixint
		return header{}
	case c <= 0x8f:
		return header{kind: ofPairs, n: int(c & 0x0f)}
	case c <= 0x9f:
		return header{kind: ofElements, n: int(c & 0x0f)}
	case c <= 0xbf:
		return header{n: int(c & 0x1f)}
	}
	return headers[c-0xc0]
}

var headers = [0x20]header{
	{}, {kind: unused}, {}, {}, // nil, -, false, true
	{width: 1}, {width: 2}, {width: 4}, // bin
	{n: 1, width: 1}, {n: 1, width: 2}, {n: 1, width: 4}, // ext, and its type
	{n: 4}, {n: 8}, // float
	{n: 1}, {n: 2}, {n: 4}, {n: 8}, {n: 1}, {n: 2}, {n: 4}, {n: 8}, // uint, int
	{n: 2}, {n: 3}, {n: 5}, {n: 9}, {n: 17}, // fixext, and its type
	{width: 1}, {width: 2}, {width: 4}, // str
	{kind: ofElements, width: 2}, {kind: ofElements, width: 4},
	{kind: ofPairs, width: 2}, {kind: ofPairs, width: 4},
}

package learner

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"reflect"

	"github.com/rubato-faas/rubato/api"
	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// writer encodes a sequence of msgpack values. Arrays of numbers are packed little-endian into one binary value.
// Writing to memory cannot fail; the first error is kept all the same.
type writer struct {
	buf bytes.Buffer
	enc *msgpack.Encoder
	err error
}

func newWriter(version uint64) *writer {
	w := &writer{}
	w.enc = msgpack.NewEncoder(&w.buf)
	w.u64(version)
	return w
}

func (w *writer) keep(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *writer) u64(v uint64)  { w.keep(w.enc.EncodeUint(v)) }
func (w *writer) str(v string)  { w.keep(w.enc.EncodeString(v)) }
func (w *writer) f64(v float64) { w.keep(w.enc.EncodeFloat64(v)) }
func (w *writer) bytes(v []byte) {
	if v == nil {
		v = []byte{} // nil would be another encoding of the same
	}
	w.keep(w.enc.EncodeBytes(v))
}

// pack writes a slice of numbers or of fixed-size structs.
func (w *writer) pack(v any) {
	b, err := binary.Append(nil, binary.LittleEndian, v)
	w.keep(err)
	w.bytes(b)
}

// reader decodes what writer wrote, from a hostile source: every length is checked against what is left before
// anything is allocated, and the first error makes all later reads return zero values.
type reader struct {
	version uint64
	src     *bytes.Reader
	dec     *msgpack.Decoder
	err     error
}

// newReader begins to read what was written by version or, not before oldest, by an earlier one.
func newReader(b []byte, oldest, version uint64) *reader {
	r := &reader{src: bytes.NewReader(b)}
	r.dec = msgpack.NewDecoder(r.src)
	if r.version = r.u64(); r.err == nil && (r.version < oldest || r.version > version) {
		r.fail("version %d, want %d-%d", r.version, oldest, version)
	}
	return r
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", api.ErrInvalid, fmt.Sprintf(format, args...))
	}
}

// check fails the reading unless ok.
func (r *reader) check(ok bool, what string) {
	if !ok {
		r.fail("%s out of range", what)
	}
}

func (r *reader) u64() uint64 {
	if r.err != nil {
		return 0
	}
	v, err := r.dec.DecodeUint64()
	if err != nil {
		r.fail("%v", err)
		return 0
	}
	return v
}

// count reads a number that must be at most limit.
func (r *reader) count(limit int) int {
	v := r.u64()
	if v > uint64(limit) {
		r.fail("count %d, limit %d", v, limit)
		return 0
	}
	return int(v)
}

func (r *reader) f64() float64 {
	if r.err != nil {
		return 0
	}
	v, err := r.dec.DecodeFloat64()
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		r.fail("number %v: %v", v, err)
		return 0
	}
	return v
}

func (r *reader) bytes(limit int) []byte {
	if r.err != nil {
		return nil
	}
	n, err := r.dec.DecodeBytesLen()
	if err != nil || n < 0 || n > limit || n > r.src.Len() {
		r.fail("%d bytes where at most %d are left or allowed: %v", n, min(limit, r.src.Len()), err)
		return nil
	}
	b := make([]byte, n)
	if err := r.dec.ReadFull(b); err != nil {
		r.fail("%v", err)
		return nil
	}
	return b
}

// view reads bytes without a copy: a slice of b, which is what the reader was made of.
func (r *reader) view(b []byte, limit int) []byte {
	if r.err != nil {
		return nil
	}
	n, err := r.dec.DecodeBytesLen()
	if err != nil || n < 0 || n > limit || n > r.src.Len() {
		r.fail("%d bytes where at most %d are left or allowed: %v", n, min(limit, r.src.Len()), err)
		return nil
	}
	from := len(b) - r.src.Len()
	if _, err := r.src.Seek(int64(n), io.SeekCurrent); err != nil {
		r.fail("%v", err)
	}
	return b[from : from+n : from+n]
}

// binary reports whether bytes come next.
func (r *reader) binary() bool {
	if r.err != nil {
		return false
	}
	c, err := r.dec.PeekCode()
	return err == nil && msgpcode.IsBin(c)
}

func (r *reader) str(limit int) string { return string(r.bytes(limit)) }

// end reports the first error, or bytes left over.
func (r *reader) end() error {
	if r.err == nil && r.src.Len() > 0 {
		r.fail("%d bytes too many", r.src.Len())
	}
	return r.err
}

// unpack reads what pack wrote: at most limit elements, all floats finite.
func unpack[T any](r *reader, limit int) []T {
	var zero T
	size := binary.Size(zero)
	b := r.bytes(limit * size)
	if r.err != nil || len(b)%size != 0 {
		r.check(len(b)%size == 0, "packed array")
		return nil
	}
	v := make([]T, len(b)/size)
	if _, err := binary.Decode(b, binary.LittleEndian, v); err != nil {
		r.fail("%v", err)
		return nil
	}
	if !finite(reflect.ValueOf(v)) {
		r.fail("a number is not finite")
		return nil
	}
	return v
}

// finite reports whether all floats in v are numbers.
func finite(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Float32, reflect.Float64:
		return !math.IsNaN(v.Float()) && !math.IsInf(v.Float(), 0)
	case reflect.Slice, reflect.Array:
		if k := v.Type().Elem().Kind(); k >= reflect.Bool && k <= reflect.Uintptr {
			return true
		}
		for i := range v.Len() {
			if !finite(v.Index(i)) {
				return false
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if !finite(v.Field(i)) {
				return false
			}
		}
	}
	return true
}

package wire

import (
	"bytes"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

// The decoder makes lists as long as they claim to be: nine bytes asked for more memory than machines have.
func TestClaimsAreChecked(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for name, claim := range map[string][]byte{
		"list of 2^31":     {0xdd, 0x7f, 0xff, 0xff, 0xff},
		"list of 2^32-1":   {0xdd, 0xff, 0xff, 0xff, 0xff},
		"map of 2^31":      {0xdf, 0x7f, 0xff, 0xff, 0xff},
		"string of 2^31":   {0xdb, 0x7f, 0xff, 0xff, 0xff},
		"bytes of 2^31":    {0xc6, 0x7f, 0xff, 0xff, 0xff},
		"list of 65,535":   {0xdc, 0xff, 0xff},
		"a byte of no use": {0xc1},
		"a list too long":  append([]byte{0xdd, 0, 1, 0, 1}, bytes.Repeat([]byte{0xc0}, MaxElements+1)...),
		"too deep":         bytes.Repeat([]byte{0x91}, MaxDepth+2),
	} {
		for _, m := range messages() {
			for _, field := range fields(reflect.TypeOf(m).Elem()) {
				b := append([]byte{Version, 0x81, 0xa0 | byte(len(field))}, field...)
				if err := Decode(append(b, claim...), m); !errors.Is(err, ErrMalformed) {
					t.Errorf("%T.%s with a %s: %v", m, field, name, err)
				}
			}
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<30 {
		t.Errorf("%d bytes were allocated for claims", got)
	}
}

// fields are a message's names on the wire.
func fields(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("msgpack"), ","); name != "" {
			out = append(out, name)
		}
	}
	return out
}

// FuzzBounded holds it against the library's own way of passing over a value.
func FuzzBounded(f *testing.F) {
	for _, m := range messages() {
		b, err := Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[1:])
	}
	for c := range 0x100 {
		f.Add([]byte{byte(c), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			t.Skip("the library's way is recursive")
		}
		ours, theirs := Bounded(b), msgpack.NewDecoder(bytes.NewReader(b)).Skip()
		if ours == nil && theirs != nil {
			t.Errorf("% x: accepted, but the library says %v", b, theirs)
		}
		if ours != nil && theirs == nil && !strings.Contains(ours.Error(), "at most") && !strings.Contains(ours.Error(), "nested") {
			t.Errorf("% x: %v, but the library passes over it", b, ours)
		}
	})
}

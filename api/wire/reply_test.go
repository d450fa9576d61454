package wire

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

func TestRepliesOfAnySize(t *testing.T) {
	takes := &Query{TakesZip: true}
	for _, n := range []int{0, 10, zipAbove, zipAbove + 1, 8 << 20} {
		view := bytes.Repeat([]byte(`{"a":1},`), n/8)
		b, err := Encode(NewQueryReply(takes, view, nil))
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		var r QueryReply
		if err := Decode(b, &r); err != nil {
			t.Fatal(err)
		}
		if got, err := r.JSON(); err != nil || !bytes.Equal(got, view) {
			t.Errorf("%d bytes came back as %d, %v", n, len(got), err)
		}
	}
	if r := NewQueryReply(&Query{}, make([]byte, zipAbove+1), nil); r.Zipped {
		t.Error("compressed for somebody who did not say that it takes that")
	}
	noise := make([]byte, 2<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	for name, r := range map[string]*QueryReply{"noise": NewQueryReply(takes, noise, nil), "an error": NewQueryReply(takes, []byte("x"), api.ErrTooLarge),
		"large and not compressed": NewQueryReply(&Query{}, make([]byte, 2<<20), nil)} {
		if _, err := Encode(r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := r.JSON(); !errors.Is(err, api.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A small message must not become all of a reader's memory.
func TestReplyThatGrows(t *testing.T) {
	bomb, err := zip(make([]byte, MaxViewBytes+1))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"too long": bomb, "no gzip": []byte("{}"), "cut short": bomb[:len(bomb)/2]} {
		if _, err := (&QueryReply{Data: data, Zipped: true}).JSON(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzQueryReply(f *testing.F) {
	f.Add([]byte("{}"), true)
	z, err := zip([]byte("{}"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(z, true)
	f.Fuzz(func(t *testing.T, b []byte, zipped bool) {
		if got, err := (&QueryReply{Data: b, Zipped: zipped}).JSON(); err == nil && len(got) > MaxViewBytes {
			t.Errorf("%d bytes", len(got))
		}
	})
}

// Package storetest is the conformance suite of the object store port: what every store must do alike. Only
// _test.go files import it. Each property gets a fresh store with room for at least 32 MiB.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/objectstore"
	"go.uber.org/goleak"
)

// Patience bounds each property: a store that hangs fails instead of holding up the run.
const Patience = 20 * time.Second

// Run checks every property. open makes a fresh, empty store.
func Run(t *testing.T, open func(t *testing.T) objectstore.Store) {
	for _, p := range []struct {
		name  string
		check func(t *testing.T, ctx context.Context, s objectstore.Store)
	}{
		{"what was put comes back, with its digest", roundTrip},
		{"putting again replaces", replace},
		{"creating does not replace", create},
		{"of those who create a key at once, one wins", createRace},
		{"a missing key is not found", missing},
		{"delete removes and repeats without error", remove},
		{"list is sorted, by prefix and limited", list},
		{"a failing source stores nothing", failingSource},
		{"bad keys are refused", badKeys},
		{"many readers and writers at once", concurrent},
		{"a reader closed early leaves nothing running", earlyClose},
		{"a reader ends with its context", readerContext},
		{"a canceled context is refused", canceled},
	} {
		t.Run(p.name, func(t *testing.T) {
			s := open(t)
			ctx, cancel := context.WithTimeout(t.Context(), Patience)
			defer cancel()
			p.check(t, ctx, s)
		})
	}
}

// Bytes makes n bytes that no compression or repetition can hide errors in.
func Bytes(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // documented never to fail
	return b
}

func put(t *testing.T, ctx context.Context, s objectstore.Store, key string, data []byte) objectstore.Info {
	t.Helper()
	in, err := s.Put(ctx, key, bytes.NewReader(data))
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	sum := sha256.Sum256(data)
	want := objectstore.Info{Key: key, Bytes: int64(len(data)), Digest: hex.EncodeToString(sum[:])}
	if in != want {
		t.Errorf("put %s tells %+v, want %+v", key, in, want)
	}
	return want
}

// fetch reads all of key.
func fetch(ctx context.Context, s objectstore.Store, key string) ([]byte, objectstore.Info, error) {
	r, in, err := s.Get(ctx, key)
	if err != nil {
		return nil, in, err
	}
	data, err := io.ReadAll(r)
	return data, in, errors.Join(err, r.Close())
}

func expect(t *testing.T, ctx context.Context, s objectstore.Store, want objectstore.Info, data []byte) {
	t.Helper()
	got, in, err := fetch(ctx, s, want.Key)
	if err != nil || in != want || !bytes.Equal(got, data) {
		t.Errorf("get %s: %d bytes, equal %t, %+v, %v; want %+v", want.Key, len(got), bytes.Equal(got, data), in, err, want)
	}
	if in, err := s.Stat(ctx, want.Key); err != nil || in != want {
		t.Errorf("stat %s: %+v, %v; want %+v", want.Key, in, err, want)
	}
}

func roundTrip(t *testing.T, ctx context.Context, s objectstore.Store) {
	for _, n := range []int{0, 1, 1000, 128 << 10, 256<<10 + 1, 9 << 20} {
		data := Bytes(uint64(n), n)
		want := put(t, ctx, s, fmt.Sprintf("t/a/o/of-%d", n), data)
		expect(t, ctx, s, want, data)
	}
	// The source may give its bytes in dribs, and readers may take them so.
	data := Bytes(1, 70_000)
	if _, err := s.Put(ctx, "dribs", iotest.HalfReader(bytes.NewReader(data))); err != nil {
		t.Fatal(err)
	}
	r, _, err := s.Get(ctx, "dribs")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := iotest.TestReader(r, data); err != nil {
		t.Errorf("reading in dribs: %v", err)
	}
	var buf bytes.Buffer
	r2, _, err := s.Get(ctx, "dribs")
	if err != nil {
		t.Fatal(err)
	}
	defer r2.Close()
	if n, err := io.Copy(&buf, r2); err != nil || n != int64(len(data)) || !bytes.Equal(buf.Bytes(), data) {
		t.Errorf("copy: %d bytes, %v", n, err)
	}
}

func replace(t *testing.T, ctx context.Context, s objectstore.Store) {
	for i, n := range []int{300_000, 10, 0, 500_000} {
		data := Bytes(uint64(i), n)
		expect(t, ctx, s, put(t, ctx, s, "k", data), data)
	}
	if all, err := s.List(ctx, "", 10); err != nil || len(all) != 1 {
		t.Errorf("one key put four times lists as %v, %v", all, err)
	}
}

func create(t *testing.T, ctx context.Context, s objectstore.Store) {
	data := Bytes(8, 300_000)
	in, err := s.Create(ctx, "k", bytes.NewReader(data))
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	expect(t, ctx, s, in, data)
	held, err := s.Create(ctx, "k", strings.NewReader("other"))
	if !errors.Is(err, api.ErrExists) || held != in {
		t.Errorf("create of a taken key: %+v, %v; want ErrExists and %+v", held, err, in)
	}
	expect(t, ctx, s, in, data)
	broken := errors.New("source broke")
	if _, err := s.Create(ctx, "fresh", iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("create from a broken source: %v", err)
	}
	if all, err := s.List(ctx, "", 10); err != nil || len(all) != 1 {
		t.Errorf("one key was created, listed are %v, %v", all, err)
	}
	if err := s.Delete(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	if in, err = s.Create(ctx, "k", strings.NewReader("other")); err != nil {
		t.Fatalf("create of a deleted key: %v", err)
	}
	expect(t, ctx, s, in, []byte("other"))
}

func createRace(t *testing.T, ctx context.Context, s objectstore.Store) {
	const parties = 8
	for round := range 5 {
		key := fmt.Sprint("k", round)
		var won [parties]bool
		var ins [parties]objectstore.Info
		// Nobody ends before all have begun, so that a store which looks first and writes later sees nothing.
		var begun, ended sync.WaitGroup
		begun.Add(parties)
		for i := range parties {
			ended.Go(func() {
				var once sync.Once
				gate := readerFunc(func([]byte) (int, error) { once.Do(begun.Done); begun.Wait(); return 0, io.EOF })
				var err error
				ins[i], err = s.Create(ctx, key, io.MultiReader(gate, bytes.NewReader(Bytes(uint64(i), 300_000))))
				if won[i] = err == nil; err != nil && !errors.Is(err, api.ErrExists) {
					t.Errorf("party %d: %v", i, err)
				}
			})
		}
		ended.Wait()
		winners := 0
		for i := range parties {
			if won[i] {
				winners++
				expect(t, ctx, s, ins[i], Bytes(uint64(i), 300_000))
			}
			if ins[i] != ins[0] {
				t.Errorf("party %d is told %+v, party 0 %+v", i, ins[i], ins[0])
			}
		}
		if winners != 1 {
			t.Fatalf("%d parties created one key", winners)
		}
	}
	if all, err := s.List(ctx, "", 100); err != nil || len(all) != 5 {
		t.Errorf("5 keys were created, listed are %v, %v", all, err)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func missing(t *testing.T, ctx context.Context, s objectstore.Store) {
	put(t, ctx, s, "here", nil)
	_, _, getErr := s.Get(ctx, "gone")
	_, statErr := s.Stat(ctx, "gone")
	if !errors.Is(getErr, api.ErrNotFound) || !errors.Is(statErr, api.ErrNotFound) {
		t.Errorf("get: %v; stat: %v; want ErrNotFound", getErr, statErr)
	}
}

func remove(t *testing.T, ctx context.Context, s objectstore.Store) {
	if err := s.Delete(ctx, "never"); err != nil {
		t.Errorf("delete of what never was: %v", err)
	}
	put(t, ctx, s, "k", []byte("one"))
	put(t, ctx, s, "other", []byte("kept"))
	for range 2 {
		if err := s.Delete(ctx, "k"); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if _, err := s.Stat(ctx, "k"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("stat after delete: %v, want ErrNotFound", err)
	}
	if all, err := s.List(ctx, "", 10); err != nil || len(all) != 1 || all[0].Key != "other" {
		t.Errorf("list after delete: %v, %v", all, err)
	}
	data := []byte("two")
	expect(t, ctx, s, put(t, ctx, s, "k", data), data)
}

func list(t *testing.T, ctx context.Context, s objectstore.Store) {
	if all, err := s.List(ctx, "", 10); err != nil || len(all) != 0 {
		t.Errorf("empty store lists %v, %v", all, err)
	}
	for _, k := range []string{"t/b/o/1", "t/a/o/2", "t/a/o/10", "m/x", "t/a/a/d", "t/a"} {
		put(t, ctx, s, k, []byte(k))
	}
	for _, c := range []struct {
		prefix string
		limit  int
		want   string
	}{
		{"", 10, "m/x t/a t/a/a/d t/a/o/10 t/a/o/2 t/b/o/1"},
		{"t/a/", 10, "t/a/a/d t/a/o/10 t/a/o/2"},
		{"t/a/", 2, "t/a/a/d t/a/o/10"},
		{"t/c", 10, ""},
		{"t", 0, ""},
	} {
		all, err := s.List(ctx, c.prefix, c.limit)
		var keys []string
		for _, in := range all {
			keys = append(keys, in.Key)
			if in.Bytes != int64(len(in.Key)) || len(in.Digest) != 64 {
				t.Errorf("list tells %+v", in)
			}
		}
		if got := strings.Join(keys, " "); err != nil || got != c.want {
			t.Errorf("list %q, %d: %q, %v; want %q", c.prefix, c.limit, got, err, c.want)
		}
	}
}

func failingSource(t *testing.T, ctx context.Context, s objectstore.Store) {
	old := put(t, ctx, s, "k", []byte("old"))
	// The second is what a request's body says whose sender went away: it broke off, it did not end.
	for _, broken := range []error{errors.New("source broke"), io.ErrUnexpectedEOF} {
		for _, n := range []int{0, 1000, 600_000} {
			source := func() io.Reader {
				return io.MultiReader(bytes.NewReader(Bytes(3, n)), iotest.ErrReader(broken))
			}
			for _, key := range []string{"k", "fresh"} {
				if _, err := s.Put(ctx, key, source()); !errors.Is(err, broken) {
					t.Errorf("put %s of %d bytes: %v, want %v", key, n, err, broken)
				}
			}
			if _, err := s.Create(ctx, "fresh", source()); !errors.Is(err, broken) {
				t.Errorf("create of %d bytes: %v, want %v", n, err, broken)
			}
		}
	}
	expect(t, ctx, s, old, []byte("old"))
	if _, err := s.Stat(ctx, "fresh"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("stat: %v, want ErrNotFound", err)
	}
	if all, err := s.List(ctx, "", 10); err != nil || len(all) != 1 {
		t.Errorf("list: %+v, %v; want what was there before", all, err)
	}
}

func badKeys(t *testing.T, ctx context.Context, s objectstore.Store) {
	for _, key := range []string{"", strings.Repeat("k", 1000)} {
		_, putErr := s.Put(ctx, key, strings.NewReader("x"))
		_, createErr := s.Create(ctx, key, strings.NewReader("x"))
		_, _, getErr := s.Get(ctx, key)
		_, statErr := s.Stat(ctx, key)
		for _, err := range []error{putErr, createErr, getErr, statErr, s.Delete(ctx, key)} {
			if !errors.Is(err, api.ErrInvalid) {
				t.Errorf("key of %d bytes: %v, want ErrInvalid", len(key), err)
			}
		}
	}
}

func concurrent(t *testing.T, ctx context.Context, s objectstore.Store) {
	data := Bytes(5, 1<<20)
	want := put(t, ctx, s, "shared", data)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 3 {
				got, in, err := fetch(ctx, s, "shared")
				if err != nil || in != want || !bytes.Equal(got, data) {
					t.Errorf("reader %d: %d bytes, %+v, %v", i, len(got), in, err)
				}
			}
		})
		wg.Go(func() {
			own := Bytes(uint64(100+i), 100_000)
			key := fmt.Sprintf("own/%d", i)
			if _, err := s.Put(ctx, key, bytes.NewReader(own)); err != nil {
				t.Errorf("writer %d: %v", i, err)
				return
			}
			if got, _, err := fetch(ctx, s, key); err != nil || !bytes.Equal(got, own) {
				t.Errorf("writer %d reads %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
}

func earlyClose(t *testing.T, ctx context.Context, s objectstore.Store) {
	data := Bytes(6, 4<<20)
	want := put(t, ctx, s, "k", data)
	expect(t, ctx, s, want, data) // whatever a connection starts once is started
	before := goleak.IgnoreCurrent()
	for i := range 20 {
		r, _, err := s.Get(ctx, "k")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, r, int64(i*10_000)); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	goleak.VerifyNone(t, before)
	expect(t, ctx, s, want, data)
}

func readerContext(t *testing.T, ctx context.Context, s objectstore.Store) {
	put(t, ctx, s, "k", Bytes(7, 4<<20))
	ctx, cancel := context.WithCancel(ctx)
	r, _, err := s.Get(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, api.ErrCanceled) {
		t.Errorf("reading on after the context ended: %v, want ErrCanceled", err)
	}
}

func canceled(t *testing.T, ctx context.Context, s objectstore.Store) {
	put(t, ctx, s, "k", []byte("x"))
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	_, putErr := s.Put(ctx, "k", strings.NewReader("y"))
	_, createErr := s.Create(ctx, "new", strings.NewReader("y"))
	_, _, getErr := s.Get(ctx, "k")
	_, statErr := s.Stat(ctx, "k")
	_, listErr := s.List(ctx, "", 1)
	for i, err := range []error{putErr, createErr, getErr, statErr, listErr, s.Delete(ctx, "k")} {
		if !errors.Is(err, api.ErrCanceled) {
			t.Errorf("operation %d: %v, want ErrCanceled", i, err)
		}
	}
}

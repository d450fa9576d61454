package jsstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/natstest"
	"github.com/rubato-faas/rubato/objectstore"
	"github.com/rubato-faas/rubato/objectstore/jsstore"
	"github.com/rubato-faas/rubato/objectstore/storetest"
)

func open(t testing.TB, js jetstream.JetStream, change func(*jsstore.Config)) *jsstore.Store {
	t.Helper()
	cfg := jsstore.DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	s, err := jsstore.New(t.Context(), js, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) objectstore.Store { return open(t, natstest.JetStream(t), nil) })
}

func TestConfigFaultsAllAtOnce(t *testing.T) {
	_, err := jsstore.New(t.Context(), nil, jsstore.Config{})
	if !errors.Is(err, api.ErrInvalid) {
		t.Fatalf("error %v, want ErrInvalid", err)
	}
	for _, part := range []string{"no bucket", "replicas", "max_bytes", "chunk_bytes", "op_timeout"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not tell of %q: %v", part, err)
		}
	}
}

func TestTwoPartiesOpenOneBucket(t *testing.T) {
	js := natstest.JetStream(t)
	a := open(t, js, nil)
	b := open(t, js, func(c *jsstore.Config) { c.MaxBytes = 1 << 20 }) // taken as it is
	if _, err := a.Put(t.Context(), "k", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if in, err := b.Stat(t.Context(), "k"); err != nil || in.Bytes != 1 {
		t.Errorf("the other party sees %+v, %v", in, err)
	}
}

func TestTTLIsTheBucketsNotTheConfigured(t *testing.T) {
	js := natstest.JetStream(t)
	for _, ttl := range []time.Duration{time.Hour, 2 * time.Hour} {
		if s := open(t, js, func(c *jsstore.Config) { c.TTL = ttl }); s.TTL() != time.Hour {
			t.Errorf("ttl %v, want that of the bucket's maker, 1h", s.TTL())
		}
	}
}

// What a bucket drops by age is gone whole: nobody has to know of it.
func TestObjectsGoWithTheirAge(t *testing.T) {
	js := natstest.JetStream(t)
	s := open(t, js, func(c *jsstore.Config) { c.TTL = 200 * time.Millisecond })
	if _, err := s.Put(t.Context(), "t/a/b/1/result", bytes.NewReader(storetest.Bytes(1, 1<<20))); err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "OBJ_rubato")
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(storetest.Patience); ; {
		info, err := stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Msgs == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d messages left", info.State.Msgs)
		}
	}
	if _, err := s.Stat(t.Context(), "t/a/b/1/result"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("stat: %v, want ErrNotFound", err)
	}
}

func TestFullBucketIsOverloaded(t *testing.T) {
	s := open(t, natstest.JetStream(t), func(c *jsstore.Config) { c.MaxBytes = 1 << 20 })
	_, err := s.Put(t.Context(), "big", bytes.NewReader(storetest.Bytes(1, 2<<20)))
	if !errors.Is(err, api.ErrOverloaded) {
		t.Errorf("put: %v, want ErrOverloaded", err)
	}
	if _, err := s.Stat(t.Context(), "big"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("stat: %v, want ErrNotFound", err)
	}
}

// The library's own Get waits for its deadline here.
func TestObjectThatChangesUnderItsReaderIsAnErrorSoon(t *testing.T) {
	s := open(t, natstest.JetStream(t), nil)
	for _, change := range []struct {
		name string
		do   func() error
	}{
		{"replaced", func() error { _, err := s.Put(t.Context(), "k", strings.NewReader("new")); return err }},
		{"deleted", func() error { return s.Delete(t.Context(), "k") }},
	} {
		if _, err := s.Put(t.Context(), "k", bytes.NewReader(storetest.Bytes(1, 2<<20))); err != nil {
			t.Fatal(err)
		}
		r, _, err := s.Get(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if err := change.do(); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if n, err := io.Copy(io.Discard, r); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s: read %d more bytes, %v; want ErrNotFound", change.name, n, err)
		}
		if d := time.Since(begin); d > 2*time.Second {
			t.Errorf("%s: the reader heard of it after %v", change.name, d)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Bodies come and go under ever new keys: the bucket must be as small afterwards as before.
func TestDeletedKeysLeaveNoMarkers(t *testing.T) {
	js := natstest.JetStream(t)
	s := open(t, js, nil)
	for i := range 20 {
		key := fmt.Sprint("t/a/b/", i)
		if _, err := s.Put(t.Context(), key, strings.NewReader("body")); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := js.Stream(t.Context(), "OBJ_rubato")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d messages left", n)
	}
}

func TestDamagedObjectIsAnError(t *testing.T) {
	js := natstest.JetStream(t)
	s := open(t, js, nil)
	for _, k := range []string{"good", "bad"} {
		if _, err := s.Put(t.Context(), k, strings.NewReader("same length "+k[:3])); err != nil {
			t.Fatal(err)
		}
	}
	obs, err := js.ObjectStore(t.Context(), "rubato")
	if err != nil {
		t.Fatal(err)
	}
	good, err := obs.GetInfo(t.Context(), "good")
	if err != nil {
		t.Fatal(err)
	}
	bad, err := obs.GetInfo(t.Context(), "bad")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "OBJ_rubato")
	if err != nil {
		t.Fatal(err)
	}
	subject := "$O.rubato.C." + bad.NUID
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject(subject)); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), subject, make([]byte, good.Size)); err != nil {
		t.Fatal(err)
	}
	r, _, err := s.Get(t.Context(), "bad")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 2 { // and it stays one
		if _, err := io.ReadAll(r); err == nil || !strings.Contains(err.Error(), "digest") {
			t.Errorf("damaged bytes read with %v, want a digest error", err)
		}
	}
}

// BenchmarkGet8MB reads an 8 MB object over an in-process connection; cpu-ms/op is what the whole process, server
// included, spent on it. "library" is the client library's own Get, for comparison.
func BenchmarkGet8MB(b *testing.B) {
	js := natstest.JetStream(b)
	data := storetest.Bytes(1, 8<<20)
	run := func(b *testing.B, get func() (io.ReadCloser, error)) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		begin := cpu(b)
		for b.Loop() {
			r, err := get()
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, r); err != nil || n != int64(len(data)) {
				b.Fatal(n, err)
			}
			r.Close()
		}
		b.ReportMetric(float64((cpu(b)-begin).Milliseconds())/float64(b.N), "cpu-ms/op")
	}
	for _, chunk := range []int{128 << 10, 256 << 10, 512 << 10} {
		s := open(b, js, func(c *jsstore.Config) { c.ChunkBytes, c.Bucket = chunk, fmt.Sprint("b", chunk) })
		if _, err := s.Put(b.Context(), "k", bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("chunk=%dKiB", chunk>>10), func(b *testing.B) {
			run(b, func() (io.ReadCloser, error) { r, _, err := s.Get(b.Context(), "k"); return r, err })
		})
		obs, err := js.ObjectStore(b.Context(), fmt.Sprint("b", chunk))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("library/chunk=%dKiB", chunk>>10), func(b *testing.B) {
			run(b, func() (io.ReadCloser, error) { return obs.Get(b.Context(), "k") })
		})
	}
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

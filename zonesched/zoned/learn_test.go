package zoned

import (
	"bytes"
	"context"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/objectstore"
)

// slowStore holds one object back until it is let go.
type slowStore struct {
	objectstore.Store
	key       string
	asked     chan struct{}
	letGo     chan struct{}
	askedOnce sync.Once
}

func (s *slowStore) Get(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	if key == s.key {
		s.askedOnce.Do(func() { close(s.asked) })
		select {
		case <-s.letGo:
		case <-ctx.Done():
		}
	}
	return s.Store.Get(ctx, key)
}

// pool stores a manifest without trees and returns its digest.
func (b *bed) pool(version uint64, parent string) string {
	b.t.Helper()
	m := learner.Manifest{Version: version, Parent: parent}
	raw, err := learner.EncodeManifest(m)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.store.Put(b.ctx, objectstore.ModelKey(m.Digest()), bytes.NewReader(raw)); err != nil {
		b.t.Fatal(err)
	}
	return m.Digest()
}

// A pool that takes long to fetch is overtaken by the next one: the zone does not go back to it.
func TestOvertakenPoolIsNotAdopted(t *testing.T) {
	b := newBed(t)
	one := b.pool(1, "")
	two := b.pool(2, one)
	three := b.pool(3, two)
	slow := &slowStore{Store: b.store, key: objectstore.ModelKey(one), asked: make(chan struct{}), letGo: make(chan struct{})}
	var mu sync.Mutex
	var adopted []uint64
	if _, err := b.bus.Subscribe(wire.SubjectSamples("z"), "", func(m *messaging.Msg) {
		var batch wire.Batch
		if err := wire.Decode(m.Data, &batch); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, r := range batch.Records {
			if r.AdoptDigest != "" {
				adopted = append(adopted, r.AdoptVersion)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	s := b.scheduler("a", func(_ *Config, d *Deps) { d.Store = slow })
	in := func(version uint64) func() bool { return func() bool { return s.Model().Stats.Version == version } }
	s.learn.propose(1, one)
	<-slow.asked
	s.learn.propose(2, two)
	b.until("the second pool is in use", in(2))
	close(slow.letGo)
	s.learn.propose(3, three)
	b.until("the third pool is in use", in(3))
	b.until("two pools were told of", func() bool { mu.Lock(); defer mu.Unlock(); return len(adopted) >= 2 })
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(adopted, []uint64{2, 3}) {
		t.Fatalf("adopted %v", adopted)
	}
}

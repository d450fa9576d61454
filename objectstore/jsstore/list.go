package jsstore

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rubato-faas/rubato/objectstore"
)

// List implements objectstore.Store. Keys are stored encoded, so the server cannot choose by prefix: a call reads
// the metadata of the whole bucket. It is for people and clean-ups, not for a hot path.
func (s *Store) List(ctx context.Context, prefix string, limit int) ([]objectstore.Info, error) {
	if limit <= 0 {
		return nil, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := s.obs.Watch(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, wrap("list", prefix, err)
	}
	out, err := collect(ctx, w, prefix)
	stopErr := w.Stop()
	for range w.Updates() { // frees a delivery in progress; closed once the subscription is gone
	}
	if err = cmp.Or(err, stopErr); err != nil {
		return nil, wrap("list", prefix, err)
	}
	slices.SortFunc(out, func(a, b objectstore.Info) int { return cmp.Compare(a.Key, b.Key) })
	return out[:min(limit, len(out))], nil
}

// collect reads until the watcher has told of all present objects (it marks that with nil).
func collect(ctx context.Context, w jetstream.ObjectWatcher, prefix string) ([]objectstore.Info, error) {
	var out []objectstore.Info
	for {
		select {
		case oi, ok := <-w.Updates():
			if !ok || oi == nil {
				return out, nil
			}
			if !strings.HasPrefix(oi.Name, prefix) {
				continue
			}
			in, err := info(oi)
			if err != nil {
				return nil, err
			}
			out = append(out, in)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

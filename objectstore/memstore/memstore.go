// Package memstore is the object store port in memory, for tests and simulations. It is not a cache: it never drops
// an object to make room for another, it refuses. Safe for concurrent use; it has no goroutine.
package memstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/objectstore"
)

// MaxKeyLen bounds keys with their scope, as in the real store.
const MaxKeyLen = 512

// Store keeps objects in a map.
type Store struct {
	maxBytes int64

	mu      sync.RWMutex
	objects map[string]object
	bytes   int64 // sum over objects
}

// object is immutable once it is in the map; readers share its bytes.
type object struct {
	info objectstore.Info
	data []byte
}

var _ objectstore.Store = (*Store)(nil)

// New makes an empty store of at most maxBytes; a Put beyond it is api.ErrOverloaded.
func New(maxBytes int64) *Store {
	return &Store{maxBytes: maxBytes, objects: map[string]object{}}
}

// Put implements objectstore.Store.
func (s *Store) Put(ctx context.Context, key string, r io.Reader) (objectstore.Info, error) {
	in, err := s.store(ctx, key, r, false)
	if err != nil {
		return in, fmt.Errorf("memstore put %s: %w", key, err)
	}
	return in, nil
}

// Create implements objectstore.Store.
func (s *Store) Create(ctx context.Context, key string, r io.Reader) (objectstore.Info, error) {
	in, err := s.store(ctx, key, r, true)
	if err != nil {
		return in, fmt.Errorf("memstore create %s: %w", key, err)
	}
	return in, nil
}

func (s *Store) store(ctx context.Context, key string, r io.Reader, fresh bool) (objectstore.Info, error) {
	if err := check(ctx, key); err != nil {
		return objectstore.Info{}, err
	}
	// One byte more than fits shows that it does not.
	data, err := io.ReadAll(io.LimitReader(r, s.maxBytes+1))
	if err != nil {
		return objectstore.Info{}, err
	}
	sum := sha256.Sum256(data)
	in := objectstore.Info{Key: key, Bytes: int64(len(data)), Digest: hex.EncodeToString(sum[:])}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, taken := s.objects[key]; taken && fresh {
		return old.info, api.ErrExists
	}
	after := s.bytes - s.objects[key].info.Bytes + in.Bytes
	if after > s.maxBytes {
		return objectstore.Info{}, fmt.Errorf("%w: store of %d bytes is full", api.ErrOverloaded, s.maxBytes)
	}
	s.objects[key], s.bytes = object{in, data}, after
	return in, nil
}

// Get implements objectstore.Store. The bytes read are those present now, also when the key is put again meanwhile.
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	o, err := s.find(ctx, key)
	if err != nil {
		return nil, objectstore.Info{}, fmt.Errorf("memstore get %s: %w", key, err)
	}
	return &reader{ctx: ctx, r: bytes.NewReader(o.data)}, o.info, nil
}

// Stat implements objectstore.Store.
func (s *Store) Stat(ctx context.Context, key string) (objectstore.Info, error) {
	o, err := s.find(ctx, key)
	if err != nil {
		return objectstore.Info{}, fmt.Errorf("memstore stat %s: %w", key, err)
	}
	return o.info, nil
}

func (s *Store) find(ctx context.Context, key string) (object, error) {
	if err := check(ctx, key); err != nil {
		return object{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.objects[key]
	if !ok {
		return object{}, api.ErrNotFound
	}
	return o, nil
}

// Delete implements objectstore.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := check(ctx, key); err != nil {
		return fmt.Errorf("memstore delete %s: %w", key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes -= s.objects[key].info.Bytes
	delete(s.objects, key)
	return nil
}

// List implements objectstore.Store.
func (s *Store) List(ctx context.Context, prefix string, limit int) ([]objectstore.Info, error) {
	if err := ended(ctx); err != nil {
		return nil, fmt.Errorf("memstore list %s: %w", prefix, err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []objectstore.Info
	for _, key := range slices.Sorted(maps.Keys(s.objects)) {
		if len(out) >= limit {
			break
		}
		if strings.HasPrefix(key, prefix) {
			out = append(out, s.objects[key].info)
		}
	}
	return out, nil
}

func check(ctx context.Context, key string) error {
	if key == "" || len(key) > MaxKeyLen {
		return fmt.Errorf("%w: object key of %d bytes: want 1-%d", api.ErrInvalid, len(key), MaxKeyLen)
	}
	return ended(ctx)
}

func ended(ctx context.Context) error {
	switch err := ctx.Err(); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", api.ErrDeadline, err)
	default:
		return fmt.Errorf("%w: %w", api.ErrCanceled, err)
	}
}

// reader ends with its context, as a read from the real store does.
type reader struct {
	ctx    context.Context
	r      *bytes.Reader
	closed bool
}

func (r *reader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, fmt.Errorf("memstore read: %w: reader is closed", api.ErrCanceled)
	}
	if err := ended(r.ctx); err != nil {
		return 0, fmt.Errorf("memstore read: %w", err)
	}
	return r.r.Read(p)
}

func (r *reader) Close() error {
	r.closed = true
	return nil
}

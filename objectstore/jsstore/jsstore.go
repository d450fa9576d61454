// Package jsstore is the object store port over NATS' object store: one bucket, objects cut into chunks of a
// JetStream stream, one metadata record a key. It is not a cache and holds nothing itself. Daemons and cluster wire
// it. Safe for concurrent use; it starts no goroutine of its own.
//
// It reads chunk by chunk with direct gets instead of the client library's ObjectStore.Get, which
//   - ends a whole read after the library's default timeout (5 s) when the context has no deadline;
//   - waits for that deadline when the object is replaced or deleted under the reader, since its chunks are purged;
//   - and leaves the push subscription behind when the reader is closed while no chunk is on its way.
//
// A chunk costs one round trip; in return nothing outlives a call, a slow reader holds no server resources, and an
// object that changes under its reader is an error at once.
package jsstore

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/objectstore"
)

// Config describes the bucket. It matters only when the bucket is created; an existing one is taken as it is.
type Config struct {
	// Bucket is its name: letters, digits, - and _.
	Bucket string `koanf:"bucket" doc:"name of the bucket"`
	// Replicas is the number of servers that hold each object (1-5, default 1; 3 survives the loss of one).
	Replicas int `koanf:"replicas" doc:"servers that hold each object"`
	// MaxBytes bounds the bucket (default 8 GiB); a Put beyond it is api.ErrOverloaded.
	MaxBytes int64 `koanf:"max_bytes" doc:"bound of the bucket"`
	// TTL drops objects this long after they were put; 0 (default) keeps them.
	TTL time.Duration `koanf:"ttl" doc:"age at which objects are dropped, 0 for never"`
	// InMemory keeps the bucket in the servers' memory: for tests.
	InMemory bool `koanf:"in_memory" doc:"keep the bucket in memory"`
	// ChunkBytes is the size of a chunk (1 KiB - 768 KiB, default 256 KiB), below the bus's 1 MiB message limit.
	// Larger means fewer round trips for a read, and longer waits for others on the same connection.
	ChunkBytes int `koanf:"chunk_bytes" doc:"size of a chunk"`
	// OpTimeout bounds each round trip when the caller's context is looser (default 5s).
	OpTimeout time.Duration `koanf:"op_timeout" doc:"bound of one round trip"`
}

// DefaultConfig is one replica on disk.
func DefaultConfig() Config {
	return Config{Bucket: "rubato", Replicas: 1, MaxBytes: 8 << 30, ChunkBytes: 256 << 10, OpTimeout: 5 * time.Second}
}

// Validate reports every fault of c at once.
func (c *Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: object store: "+format, append([]any{api.ErrInvalid}, args...)...))
	}
	if c.Bucket == "" {
		fault("no bucket")
	}
	if c.Replicas < 1 || c.Replicas > 5 {
		fault("replicas %d: want 1-5", c.Replicas)
	}
	if c.MaxBytes < 1 {
		fault("max_bytes %d: want at least 1", c.MaxBytes)
	}
	if c.TTL < 0 {
		fault("ttl %v: want at least 0", c.TTL)
	}
	if c.ChunkBytes < 1<<10 || c.ChunkBytes > 768<<10 {
		fault("chunk_bytes %d: want 1024-%d", c.ChunkBytes, 768<<10)
	}
	if c.OpTimeout <= 0 {
		fault("op_timeout %v: want above 0", c.OpTimeout)
	}
	return errors.Join(errs...)
}

// Store is one bucket.
type Store struct {
	cfg    Config
	js     jetstream.JetStream
	obs    jetstream.ObjectStore
	stream jetstream.Stream // the same bucket, as the stream that it is
}

var _ objectstore.Store = (*Store)(nil)

// New opens the bucket and creates it when it is missing.
func New(ctx context.Context, js jetstream.JetStream, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("jsstore new: %w", err)
	}
	obs, err := open(ctx, js, cfg)
	if err != nil {
		return nil, wrap("open", cfg.Bucket, err)
	}
	stream, err := js.Stream(ctx, "OBJ_"+cfg.Bucket)
	if err != nil {
		return nil, wrap("open", cfg.Bucket, err)
	}
	return &Store{cfg: cfg, js: js, obs: obs, stream: stream}, nil
}

// TTL is the age at which the bucket drops objects, 0 for never: that of the bucket as it was made, which may not be the
// configured one.
func (s *Store) TTL() time.Duration { return s.stream.CachedInfo().Config.MaxAge }

func open(ctx context.Context, js jetstream.JetStream, cfg Config) (jetstream.ObjectStore, error) {
	obs, err := js.ObjectStore(ctx, cfg.Bucket)
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return obs, err
	}
	storage := jetstream.FileStorage
	if cfg.InMemory {
		storage = jetstream.MemoryStorage
	}
	obs, err = js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{
		Bucket: cfg.Bucket, Replicas: cfg.Replicas, MaxBytes: cfg.MaxBytes, TTL: cfg.TTL, Storage: storage,
	})
	if errors.Is(err, jetstream.ErrBucketExists) { // somebody was faster, with another configuration
		return js.ObjectStore(ctx, cfg.Bucket)
	}
	return obs, err
}

// Put implements objectstore.Store. Two Puts of one key at the same time both succeed and the later metadata wins;
// the loser's chunks may stay until the bucket's TTL.
func (s *Store) Put(ctx context.Context, key string, r io.Reader) (objectstore.Info, error) {
	if err := checkKey(key); err != nil {
		return objectstore.Info{}, fmt.Errorf("jsstore put: %w", err)
	}
	oi, err := s.upload(ctx, key, r)
	if err != nil {
		return objectstore.Info{}, errors.Join(wrap("put", key, err), s.sweep(context.WithoutCancel(ctx), key))
	}
	return info(oi)
}

// sweep removes what a failed upload may have left: the library publishes an object's description without waiting for its
// chunks, and takes the chunks back when one was refused, but not the description, which is small enough to fit where a chunk
// did not.
func (s *Store) sweep(ctx context.Context, key string) error {
	oi, err := s.meta(ctx, key)
	if err != nil || oi.Deleted {
		return nil // nothing left, or nothing to be seen: the upload's own error says enough
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.OpTimeout)
	defer cancel()
	subject := fmt.Sprintf("$O.%s.C.%s", s.cfg.Bucket, oi.NUID)
	si, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil || si.State.Subjects[subject] >= uint64(oi.Chunks) {
		return nil // an object that was there before
	}
	return s.Delete(ctx, key)
}

// upload puts the bytes under a key. The library takes back a failed upload's chunks under the context that it was given: with the caller's
// they would stay whenever the caller has left. So it is told of that by the source.
func (s *Store) upload(ctx context.Context, key string, r io.Reader) (*jetstream.ObjectInfo, error) {
	meta := jetstream.ObjectMeta{Name: key, Opts: &jetstream.ObjectMetaOptions{ChunkSize: uint32(s.cfg.ChunkBytes)}}
	return s.obs.Put(context.WithoutCancel(ctx), meta, fullReader{ctx, r})
}

// MaxKeyLen bounds keys with their scope ("t/<tenant>/o/" and so on).
const MaxKeyLen = 512

func checkKey(key string) error {
	if key == "" || len(key) > MaxKeyLen {
		return fmt.Errorf("%w: object key of %d bytes: want 1-%d", api.ErrInvalid, len(key), MaxKeyLen)
	}
	return nil
}

// fullReader fills each buffer: the library makes a chunk of every Read, and a network body reads in small pieces. A source that breaks
// off (io.ErrUnexpectedEOF of a body whose sender went away) has not ended, and one whose reader has left fails.
type fullReader struct {
	ctx context.Context
	r   io.Reader
}

func (f fullReader) Read(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		if err = f.ctx.Err(); err != nil {
			break
		}
		var k int
		k, err = f.r.Read(p[n:])
		n += k
	}
	return n, err
}

// Stat implements objectstore.Store.
func (s *Store) Stat(ctx context.Context, key string) (objectstore.Info, error) {
	oi, err := s.meta(ctx, key)
	if err != nil {
		return objectstore.Info{}, wrap("stat", key, err)
	}
	return info(oi)
}

func (s *Store) meta(ctx context.Context, key string) (*jetstream.ObjectInfo, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.OpTimeout)
	defer cancel()
	return s.obs.GetInfo(ctx, key)
}

// Delete implements objectstore.Store. It also removes the marker that the library leaves for each deleted key:
// bodies of invocations come and go under keys of their own, and their markers would add up.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return fmt.Errorf("jsstore delete: %w", err)
	}
	err := s.obs.Delete(ctx, key)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil
	}
	if err != nil {
		return wrap("delete", key, err)
	}
	subject := s.metaSubject(key)
	last, err := s.stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return wrap("delete marker", key, err)
	}
	if _, err := s.meta(ctx, key); !errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil // put again meanwhile; a put replaces the marker
	}
	// Only up to the marker seen: a record put after it stays.
	if err := s.stream.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(last.Sequence+1)); err != nil {
		return wrap("delete marker", key, err)
	}
	return nil
}

func (s *Store) metaSubject(key string) string {
	return "$O." + s.cfg.Bucket + ".M." + base64.URLEncoding.EncodeToString([]byte(key))
}

// info translates the library's record.
func info(oi *jetstream.ObjectInfo) (objectstore.Info, error) {
	sum, err := jetstream.DecodeObjectDigest(oi.Digest)
	if err != nil {
		return objectstore.Info{}, fmt.Errorf("jsstore info %s: digest %q: %w", oi.Name, oi.Digest, err)
	}
	return objectstore.Info{Key: oi.Name, Bytes: int64(oi.Size), Digest: hex.EncodeToString(sum)}, nil
}

// storeFull is the server's error code for a stream that is at its limit.
const storeFull jetstream.ErrorCode = 10077

// wrap maps the library's errors to the project's, once.
func wrap(verb, what string, err error) error {
	kind := err
	var apiErr *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrObjectNotFound), errors.Is(err, jetstream.ErrBucketNotFound):
		kind = api.ErrNotFound
	case errors.Is(err, context.Canceled):
		kind = api.ErrCanceled
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		kind = api.ErrDeadline
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrDisconnected),
		errors.Is(err, jetstream.ErrNoStreamResponse):
		kind = api.ErrUnavailable
	case errors.As(err, &apiErr) && apiErr.ErrorCode == storeFull:
		kind = api.ErrOverloaded
	}
	if kind == err {
		return fmt.Errorf("jsstore %s %s: %w", verb, what, err)
	}
	return fmt.Errorf("jsstore %s %s: %w: %w", verb, what, kind, err)
}

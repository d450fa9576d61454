package jsstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/objectstore"
)

// A direct get may be answered by a replica that lags behind the one that told of the object, so a missing chunk is
// asked for again. An object that was replaced costs these tries before its reader hears of it.
const (
	chunkTries = 4
	chunkPause = 10 * time.Millisecond // doubled each time: 70 ms in all
)

// Get implements objectstore.Store. ctx bounds the whole read, not only the opening.
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	oi, err := s.meta(ctx, key)
	if err != nil {
		return nil, objectstore.Info{}, wrap("get", key, err)
	}
	in, err := info(oi)
	if err != nil {
		return nil, objectstore.Info{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	return &reader{
		ctx: ctx, cancel: cancel, store: s, info: in, sum: sha256.New(),
		subject: "$O." + s.cfg.Bucket + ".C." + oi.NUID, seq: 1, left: in.Bytes,
	}, in, nil
}

// reader walks the chunks of one object. Not safe for concurrent use, except that Close may come at any time.
type reader struct {
	ctx     context.Context
	cancel  context.CancelFunc
	store   *Store
	info    objectstore.Info
	subject string
	sum     hash.Hash

	seq   uint64 // stream sequence from which the next chunk is looked for
	left  int64  // bytes not yet fetched
	chunk []byte // fetched, not yet read
	err   error  // how the reading ended
}

var _ io.WriterTo = (*reader)(nil)

// Read implements io.Reader. Only io.EOF says that the object was whole.
func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := r.fill(); err != nil {
		return 0, err
	}
	n := copy(p, r.chunk)
	r.chunk = r.chunk[n:]
	return n, nil
}

// WriteTo implements io.WriterTo: io.Copy then writes chunks as they came, without a buffer between.
func (r *reader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		switch err := r.fill(); {
		case errors.Is(err, io.EOF):
			return total, nil
		case err != nil:
			return total, err
		}
		n, err := w.Write(r.chunk)
		total += int64(n)
		r.chunk = r.chunk[n:]
		if err != nil {
			return total, err
		}
	}
}

// Close ends a read, whether it is at its end or not.
func (r *reader) Close() error {
	r.cancel()
	return nil
}

// fill makes sure that r.chunk has bytes. At the end it verifies the digest and returns io.EOF.
func (r *reader) fill() error {
	if len(r.chunk) > 0 || r.err != nil {
		return r.err
	}
	if r.left == 0 {
		r.err = io.EOF
		if got := hex.EncodeToString(r.sum.Sum(nil)); got != r.info.Digest {
			r.err = fmt.Errorf("jsstore read %s: digest %s, want %s", r.info.Key, got, r.info.Digest)
		}
		return r.err
	}
	m, err := r.next()
	if err != nil {
		r.err = err
		return err
	}
	if len(m.Data) == 0 || int64(len(m.Data)) > r.left {
		r.err = fmt.Errorf("jsstore read %s: chunk of %d bytes with %d left", r.info.Key, len(m.Data), r.left)
		return r.err
	}
	r.chunk, r.seq = m.Data, m.Sequence+1
	r.left -= int64(len(m.Data))
	r.sum.Write(m.Data)
	return nil
}

// next fetches the object's first chunk at or after r.seq.
func (r *reader) next() (*jetstream.RawStreamMsg, error) {
	pause := chunkPause
	for try := 1; ; try++ {
		ctx, cancel := context.WithTimeout(r.ctx, r.store.cfg.OpTimeout)
		m, err := r.store.stream.GetMsg(ctx, r.seq, jetstream.WithGetMsgSubject(r.subject))
		cancel()
		if err == nil {
			return m, nil
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil, wrap("read", r.info.Key, err)
		}
		if try == chunkTries {
			return nil, fmt.Errorf("jsstore read %s: %w: replaced or deleted while it was read", r.info.Key, api.ErrNotFound)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-r.ctx.Done():
			t.Stop()
			return nil, wrap("read", r.info.Key, r.ctx.Err())
		}
		pause *= 2
	}
}

package jsstore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/objectstore"
)

// uploadPrefix is where bytes lie while Create has not given them their key. What a process leaves there when it dies
// is seen by List and can be deleted; chunks without a record could not.
const uploadPrefix = "u/"

// Create implements objectstore.Store. The library can only replace, so the bytes are put under a name of their own
// first; the record that gives them their key is then written on condition that no other one came before it.
func (s *Store) Create(ctx context.Context, key string, r io.Reader) (objectstore.Info, error) {
	old, err := s.meta(ctx, key)
	if err == nil {
		return taken(old, key)
	}
	if !errors.Is(err, jetstream.ErrObjectNotFound) {
		return objectstore.Info{}, wrap("create", key, err)
	}
	upload := uploadPrefix + rand.Text()
	oi, err := s.upload(ctx, upload, r)
	if err != nil {
		return objectstore.Info{}, errors.Join(wrap("create", key, err), s.sweep(context.WithoutCancel(ctx), upload))
	}
	// From here on a caller who leaves must not leave a doubt behind whether the key was given.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.OpTimeout)
	defer cancel()
	old, err = s.claim(ctx, key, oi)
	if old != nil || errors.As(err, new(*jetstream.APIError)) { // surely not given
		if derr := s.Delete(ctx, upload); derr != nil {
			return objectstore.Info{}, errors.Join(err, derr)
		}
	}
	if old != nil {
		return taken(old, key)
	}
	if err != nil {
		return objectstore.Info{}, wrap("create", key, err)
	}
	if err := s.stream.Purge(ctx, jetstream.WithPurgeSubject(s.metaSubject(upload))); err != nil {
		return objectstore.Info{}, wrap("create", key, err)
	}
	return info(oi)
}

func taken(old *jetstream.ObjectInfo, key string) (objectstore.Info, error) {
	in, err := info(old)
	if err != nil {
		return objectstore.Info{}, err
	}
	return in, fmt.Errorf("jsstore create %s: %w", key, api.ErrExists)
}

// Codes of a record that another one came before; a clustered server tells of one still under way by the second.
const (
	wrongLast        jetstream.ErrorCode = 10071
	wrongLastPending jetstream.ErrorCode = 10164
)

// claim writes oi's record under key unless the key has one: then it returns that.
func (s *Store) claim(ctx context.Context, key string, oi *jetstream.ObjectInfo) (old *jetstream.ObjectInfo, err error) {
	oi.Name, oi.ModTime = key, time.Time{}
	m := nats.NewMsg(s.metaSubject(key))
	m.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	if m.Data, err = json.Marshal(oi); err != nil {
		return nil, err
	}
	pause := chunkPause
	for try := 1; ; try++ {
		old, seq, err := s.holder(ctx, m.Subject)
		if old != nil || err != nil {
			return old, err
		}
		_, err = s.js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(seq))
		var apiErr *jetstream.APIError
		if !errors.As(err, &apiErr) || apiErr.ErrorCode != wrongLast && apiErr.ErrorCode != wrongLastPending || try == chunkTries {
			return nil, err
		}
		// The winner's record is there, but the replica that answers may lag behind.
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, err
		}
		pause *= 2
	}
}

// holder reads the record under subject: nil when there is none or that of a deleted object, whose sequence a new one
// must follow.
func (s *Store) holder(ctx context.Context, subject string) (*jetstream.ObjectInfo, uint64, error) {
	last, err := s.stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	old := &jetstream.ObjectInfo{}
	if err := json.Unmarshal(last.Data, old); err != nil {
		return nil, 0, err
	}
	if old.Deleted {
		return nil, last.Sequence, nil
	}
	return old, 0, nil
}

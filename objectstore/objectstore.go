// Package objectstore is the port to immutable bytes by key: inputs, artifacts, large bodies, trees of the model.
// jsstore keeps them in NATS' object store, memstore in memory; storetest is the suite both pass.
//
// Keys are scoped by their owner ("t/<tenant>/o/<key>", "t/<tenant>/a/<digest>", "m/<digest>"); see Key functions
// in keys.go. Putting a key again replaces it, and its digest tells old from new; who must not replace creates.
package objectstore

import (
	"context"
	"io"
)

// Info describes a stored object.
type Info struct {
	Key    string `json:"key"`
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"` // SHA-256, lower-case hex
}

// Store keeps objects. Safe for concurrent use. A missing key is api.ErrNotFound.
type Store interface {
	// Put stores all of r under key and returns what was stored.
	Put(ctx context.Context, key string, r io.Reader) (Info, error)
	// Create is Put for a key that is free. Of several at the same time one wins; the others get api.ErrExists and the
	// Info of what holds the key, and have read some of r, or all, or nothing.
	Create(ctx context.Context, key string, r io.Reader) (Info, error)
	// Get opens the object. The caller closes it; reading to the end verifies the digest, and a mismatch is an error.
	Get(ctx context.Context, key string) (io.ReadCloser, Info, error)
	Stat(ctx context.Context, key string) (Info, error)
	// Delete removes the key; deleting what is not there is no error.
	Delete(ctx context.Context, key string) error
	// List returns the objects whose key begins with prefix, sorted by key, at most limit of them.
	List(ctx context.Context, prefix string, limit int) ([]Info, error)
}

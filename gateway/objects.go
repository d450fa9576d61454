package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/objectstore"
)

func isDigest(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }

// putArtifact stores a function's artifact under its own digest.
func (g *Gateway) putArtifact(w http.ResponseWriter, r *http.Request, c caller) error {
	digest := r.PathValue("digest")
	if !isDigest(digest) {
		return fmt.Errorf("%w: artifact name %q: want its SHA-256 in lower-case hex", api.ErrInvalid, digest)
	}
	if r.ContentLength > api.MaxArtifactBytes {
		return fmt.Errorf("%w: artifact of %d bytes: want at most %d", api.ErrTooLarge, r.ContentLength, int64(api.MaxArtifactBytes))
	}
	key := objectstore.ArtifactKey(c.tenant, digest)
	if info, err := g.deps.Objects.Stat(r.Context(), key); err == nil {
		return writeJSON(w, http.StatusOK, map[string]any{"artifact": digest, "bytes": info.Bytes})
	}
	body := &verified{r: http.MaxBytesReader(w, r.Body, api.MaxArtifactBytes), sum: sha256.New(), want: digest}
	info, err := g.deps.Objects.Create(r.Context(), key, body)
	if body.bad != nil {
		return body.bad
	}
	if errors.Is(err, api.ErrExists) { // somebody was faster: the same bytes, as the name says
		return writeJSON(w, http.StatusOK, map[string]any{"artifact": digest, "bytes": info.Bytes})
	}
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, map[string]any{"artifact": digest, "bytes": info.Bytes})
}

// verified fails instead of ending when what was read has not the digest that it should have, so that the store never
// holds other bytes under an artifact's name, not even for a moment.
type verified struct {
	r    io.Reader
	sum  hash.Hash
	want string
	bad  error
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.sum.Write(p[:n])
	if err == io.EOF {
		if got := hex.EncodeToString(v.sum.Sum(nil)); got != v.want {
			v.bad = fmt.Errorf("%w: the artifact's SHA-256 is %s, not %s as its name says", api.ErrInvalid, got, v.want)
			return n, v.bad
		}
	}
	return n, err
}

func (g *Gateway) statArtifact(w http.ResponseWriter, r *http.Request, c caller) error {
	info, err := g.deps.Objects.Stat(r.Context(), objectstore.ArtifactKey(c.tenant, r.PathValue("digest")))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"artifact": info.Digest, "bytes": info.Bytes})
}

// objectView is an object as callers see it.
type objectView struct {
	Key    string `json:"key"`
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"`
}

// putObject stores an immutable object: the same content under the same key again is fine, other content is refused,
// since caches everywhere rely on it. The store decides who was first, so that this holds for two at the same time.
func (g *Gateway) putObject(w http.ResponseWriter, r *http.Request, c caller) error {
	name := r.PathValue("key")
	if err := api.CheckKey(name); err != nil {
		return err
	}
	if r.ContentLength > g.cfg.MaxObjectBytes {
		return fmt.Errorf("%w: object of %d bytes: want at most %d", api.ErrTooLarge, r.ContentLength, g.cfg.MaxObjectBytes)
	}
	sum := sha256.New()
	body := io.TeeReader(http.MaxBytesReader(w, r.Body, g.cfg.MaxObjectBytes), sum)
	info, err := g.deps.Objects.Create(r.Context(), objectstore.ObjectKey(c.tenant, name), body)
	if errors.Is(err, api.ErrExists) {
		if _, err := io.Copy(io.Discard, body); err != nil {
			return err
		}
		if hex.EncodeToString(sum.Sum(nil)) != info.Digest {
			return fmt.Errorf("%w: object %q has other content; objects are immutable: delete it first, or use another key", api.ErrExists, name)
		}
		return writeJSON(w, http.StatusOK, objectView{name, info.Bytes, info.Digest})
	}
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, objectView{name, info.Bytes, info.Digest})
}

// getObject serves GET and, without a body, HEAD.
func (g *Gateway) getObject(w http.ResponseWriter, r *http.Request, c caller) error {
	body, info, err := g.deps.Objects.Get(r.Context(), objectstore.ObjectKey(c.tenant, r.PathValue("key")))
	if err != nil {
		return err
	}
	defer body.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(info.Bytes, 10))
	h.Set("ETag", `"`+info.Digest+`"`)
	if r.Method == http.MethodHead {
		return nil
	}
	if _, err := io.Copy(w, body); err != nil {
		panic(http.ErrAbortHandler) // half an object must not look whole
	}
	return nil
}

func (g *Gateway) deleteObject(w http.ResponseWriter, r *http.Request, c caller) error {
	key := objectstore.ObjectKey(c.tenant, r.PathValue("key"))
	if err := g.deps.Objects.Delete(r.Context(), key); err != nil {
		return err
	}
	g.stats.forget(key)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// maxList bounds one listing.
const maxList = 10_000

func (g *Gateway) listObjects(w http.ResponseWriter, r *http.Request, c caller) error {
	limit := 1000
	if v := r.URL.Query().Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxList {
			return fmt.Errorf("%w: limit=%q: want 1-%d", api.ErrInvalid, v, maxList)
		}
		limit = n
	}
	base := objectstore.ObjectKey(c.tenant, "")
	infos, err := g.deps.Objects.List(r.Context(), base+r.URL.Query().Get("prefix"), limit)
	if err != nil {
		return err
	}
	out := []objectView{}
	for _, i := range infos {
		out = append(out, objectView{strings.TrimPrefix(i.Key, base), i.Bytes, i.Digest})
	}
	return writeJSON(w, http.StatusOK, out)
}

// statCache remembers sizes of input objects for a moment: popular inputs would otherwise cost a round trip a call.
type statCache struct {
	mu      sync.Mutex
	entries map[string]statEntry
}

type statEntry struct {
	info  objectstore.Info
	until time.Time
}

// Limits of the cache: how long an object that was deleted may still be named, and how many are remembered.
const (
	statTTL = 2 * time.Second
	statMax = 8192
)

func newStatCache() *statCache { return &statCache{entries: map[string]statEntry{}} }

func (s *statCache) stat(ctx context.Context, store objectstore.Store, key string) (objectstore.Info, error) {
	now := time.Now()
	s.mu.Lock()
	e, ok := s.entries[key]
	s.mu.Unlock()
	if ok && now.Before(e.until) {
		return e.info, nil
	}
	info, err := store.Stat(ctx, key)
	if err != nil {
		return info, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.entries) >= statMax {
		clear(s.entries)
	}
	s.entries[key] = statEntry{info, now.Add(statTTL)}
	return info, nil
}

func (s *statCache) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, key)
}

package globald

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/coordinator"
	"github.com/rubato-faas/rubato/coordinator/catalog"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/objectstore"
)

// maxModelObject bounds a tree or scorecard from a zone.
const maxModelObject = 256 << 10

// merge makes the next pool of the present one and the zones' updates, and commits its manifest. It runs beside the
// loop and outside the log's Apply; only the result is replicated, by compare-and-set on the parent's version, so that
// a leader that was deposed meanwhile commits nothing. The manifest's bytes are stored before the commit names them.
func (d *Daemon) merge(offers []coordinator.ModelUpdate) error {
	ctx, cancel := context.WithTimeout(d.ctx, mergeTimeout)
	defer cancel()
	var prev learner.Manifest
	var parent uint64
	var err error
	if rerr := d.log.Read(ctx, func(c *catalog.Catalog) {
		if p := c.Pool(); p != nil {
			parent = p.Version
			prev, err = learner.DecodeManifest(p.Manifest)
		}
	}); rerr != nil {
		return rerr
	}
	if err != nil {
		return fmt.Errorf("globald present pool: %w", err)
	}
	var updates []learner.Update
	for _, o := range offers {
		u, err := d.fetch(ctx, o)
		if err != nil {
			// One zone's bad or missing objects do not hold up the others'.
			d.deps.Log.Warn("update left out", "zone", o.Zone, "err", err)
			continue
		}
		updates = append(updates, u)
	}
	next := learner.MergePool(prev, updates, d.cfg.PoolLimit)
	if next.Version == prev.Version {
		return nil
	}
	raw, err := learner.EncodeManifest(next)
	if err != nil {
		return err
	}
	digest := catalog.DigestOf(raw)
	if _, err := d.deps.Store.Put(ctx, objectstore.ModelKey(digest), bytes.NewReader(raw)); err != nil {
		return fmt.Errorf("globald store manifest: %w", err)
	}
	if d.deps.Merging != nil {
		d.deps.Merging(digest)
	}
	r, err := d.log.Apply(ctx, catalog.Command{Kind: catalog.PutPool, Pool: &catalog.Pool{
		Parent: parent, Digest: digest, Manifest: raw,
	}})
	if err != nil {
		return err
	}
	return r.Err()
}

// fetch brings one zone's trees and scorecard and checks them: every tree is an enemy's until decoded.
func (d *Daemon) fetch(ctx context.Context, o coordinator.ModelUpdate) (learner.Update, error) {
	u := learner.Update{Zone: o.Zone}
	raw, err := d.object(ctx, o.Scorecard)
	if err != nil {
		return u, err
	}
	if u.Card, err = learner.DecodeScorecard(raw); err != nil {
		return u, err
	}
	if u.Card.Zone != o.Zone {
		return u, fmt.Errorf("%w: scorecard of zone %s offered by %s", api.ErrInvalid, u.Card.Zone, o.Zone)
	}
	for _, digest := range o.Trees {
		raw, err := d.object(ctx, digest)
		if err != nil {
			return u, err
		}
		t, err := learner.DecodeTree(raw)
		if err != nil {
			return u, err
		}
		if t.Zone() != o.Zone {
			return u, fmt.Errorf("%w: tree of zone %s offered by %s", api.ErrInvalid, t.Zone(), o.Zone)
		}
		u.Trees = append(u.Trees, t.Info())
	}
	return u, nil
}

func (d *Daemon) object(ctx context.Context, digest string) ([]byte, error) {
	r, info, err := d.deps.Store.Get(ctx, objectstore.ModelKey(digest))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if info.Bytes > maxModelObject {
		return nil, fmt.Errorf("%w: model object of %d bytes", api.ErrTooLarge, info.Bytes)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxModelObject))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != digest {
		return nil, fmt.Errorf("%w: model object %s has other content", api.ErrInvalid, digest)
	}
	return b, nil
}

func poolStatus(p *catalog.Pool) PoolStatus {
	s := PoolStatus{Trees: map[string]int{}}
	if p == nil {
		return s
	}
	s.Version, s.Digest = p.Version, p.Digest
	if m, err := learner.DecodeManifest(p.Manifest); err == nil {
		for _, e := range m.Entries {
			s.Trees[e.Zone]++
		}
	}
	return s
}

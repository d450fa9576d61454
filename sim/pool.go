package sim

import (
	"github.com/rubato-faas/rubato/coordinator"
	"github.com/rubato-faas/rubato/learner"
)

// Zones exchange trees as in production: each offers new ones with a scorecard now and then, the coordinator merges what was
// offered into the pool, and the zones pick theirs from it. Trees are immutable, so only pointers travel.

const (
	offerTrees = 2   // of a zone in one offer, as zoned has it
	poolLimit  = 128 // as globald has it
)

// offered is a zone's word to the coordinator.
type offered struct {
	seq   uint64
	card  learner.Scorecard
	trees []*learner.Tree
}

// pooled is the coordinator's word to the zones: a manifest and its trees, in the order of the entries.
type pooled struct {
	manifest learner.Manifest
	trees    []*learner.Tree
}

// offer sends new trees to the coordinator when it is time, and something was learned since.
func (s *shard) offer() {
	every := int64(s.cfg.Learn.Exchange)
	if every == 0 || s.learner == nil || s.trainer != nil || s.w.coord == nil || s.now < s.offerAt || s.learner.Seq() == s.offerSeq {
		return
	}
	s.offerAt, s.offerSeq = s.now+every, s.learner.Seq()
	if trees := s.learner.Export(offerTrees); len(trees) > 0 {
		s.post(-1, evOffer, &offered{s.offerSeq, s.learner.Scorecard(), trees})
	}
}

// adopt takes over a pool.
func (s *shard) adopt(p *pooled) {
	s.hash = fold(s.hash, p.manifest.Version)
	if s.learner == nil || s.trainer != nil {
		return
	}
	s.learner.AdoptGrid(p.manifest.Grid)
	s.learner.Adopt(p.manifest.Version, p.trees)
	s.learned = true
}

// poolShelf is what the coordinator has of the zones' models: the pool, and what was offered and is not merged yet.
type poolShelf struct {
	manifest learner.Manifest
	trees    map[string]*learner.Tree
	updates  map[offerKey]learner.Update
}

type offerKey struct {
	zone string
	seq  uint64
}

// offer takes a zone's word.
func (c *coord) offer(o *offered) {
	zone := o.card.Zone
	u := coordinator.ModelUpdate{Zone: zone, Seq: o.seq}
	up := learner.Update{Zone: zone, Card: o.card}
	for _, t := range o.trees {
		c.shelf.trees[t.Digest()] = t
		u.Trees, up.Trees = append(u.Trees, t.Digest()), append(up.Trees, t.Info())
	}
	c.shelf.updates[offerKey{zone, o.seq}] = up
	c.step(&coordinator.Event{Kind: coordinator.ModelOffered, Update: u})
}

// merge makes the next pool and sends it to all zones. It is committed at once.
func (c *coord) merge(id uint64, offers []coordinator.ModelUpdate) {
	var updates []learner.Update
	for i := range offers {
		k := offerKey{offers[i].Zone, offers[i].Seq}
		updates = append(updates, c.shelf.updates[k])
	}
	clear(c.shelf.updates) // a merge takes all that waits; what it leaves was pushed out by newer offers
	next := learner.MergePool(c.shelf.manifest, updates, poolLimit)
	if next.Version > c.shelf.manifest.Version {
		c.shelf.manifest = next
		c.hash = foldString(c.hash, next.Digest())
		p := &pooled{manifest: next}
		kept := map[string]*learner.Tree{}
		for i := range next.Entries {
			t := c.shelf.trees[next.Entries[i].Digest]
			kept[t.Digest()] = t
			p.trees = append(p.trees, t)
		}
		c.shelf.trees = kept
		for i := range c.w.shards {
			c.outbox = append(c.outbox, letter{at: c.now + int64(c.w.cfg.Between), to: int32(i), kind: evPool, body: p})
		}
	}
	c.step(&coordinator.Event{Kind: coordinator.MergeDone, MergeID: id, OK: true})
}

package coordinator

import (
	"slices"
	"time"
)

// offer queues a zone's update unless it is malformed or was taken before: the bus may deliver it twice.
func (p *Planner) offer(u *ModelUpdate) {
	z := p.zone(u.Zone)
	if z == nil || !u.valid() {
		p.dropped++
		return
	}
	if !u.newer(&z.newest) {
		return
	}
	z.newest = ModelUpdate{Zone: u.Zone, Epoch: u.Epoch, Seq: u.Seq}
	z.queue(*u)
}

// queue keeps pending in order, oldest first, and at most MaxPending.
func (z *zone) queue(u ModelUpdate) {
	z.pending = append(z.pending, u)
	slices.SortFunc(z.pending, func(a, b ModelUpdate) int {
		if b.newer(&a) {
			return -1
		}
		return 1
	})
	if over := len(z.pending) - MaxPending; over > 0 {
		z.pending = slices.Delete(z.pending, 0, over)
	}
}

func (p *Planner) pendingUpdates() bool {
	return slices.ContainsFunc(p.zones, func(z *zone) bool { return len(z.pending) > 0 })
}

// mergeIfDue starts a merge of all that is pending. One at a time: the next one's parent is this one's pool.
func (p *Planner) mergeIfDue(now time.Time, out []Action) []Action {
	if p.merge.running {
		if now.Before(p.merge.until) {
			return out
		}
		p.putBack()
	}
	if now.Before(p.nextMerge) || !p.pendingUpdates() {
		return out
	}
	var updates []ModelUpdate
	for _, z := range p.zones {
		updates = append(updates, z.pending...)
		z.pending = nil
	}
	p.nextMerge = now.Add(p.cfg.MergeEvery)
	p.merge.id++
	p.merge.running, p.merge.until, p.merge.updates = true, now.Add(p.cfg.MergeTimeout), updates
	return append(out, Action{Kind: Merge, MergeID: p.merge.id, Updates: updates})
}

// mergeDone ends the merge under way. An answer of one that was given up is ignored: its updates wait again, and
// merging an update twice is harmless, since the pool is a set.
func (p *Planner) mergeDone(id uint64, ok bool) {
	if !p.merge.running || id != p.merge.id {
		return
	}
	if !ok {
		p.putBack()
		return
	}
	p.merge.running, p.merge.until, p.merge.updates = false, time.Time{}, nil
}

// putBack gives up the merge under way and lets its updates wait again, where newer ones leave room.
func (p *Planner) putBack() {
	for _, u := range p.merge.updates {
		if z := p.zone(u.Zone); z != nil {
			z.queue(u)
		}
	}
	p.merge.running, p.merge.until, p.merge.updates = false, time.Time{}, nil
}

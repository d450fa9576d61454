package zonesched

import (
	"math"
	"time"
)

// A call that needs most of a node's memory has no room on any node that runs anything else, and slots go to whoever fits as soon as they
// are free: it waits for ever where each node always runs something. So for an old call that has room nowhere a node is kept, one in a zone
// at a time: nothing else begins there until there is room for it. That is a turn of the old ones, and costs the others what it takes, so the
// next one comes when they have had seven times as long.
type keep struct {
	n     *node
	c     *call
	since time.Time
	until time.Time // by when there should have been room
	next  time.Time // not before this is a node kept again
}

// A call counts as old from so many times DelayMax on, as in Rubato's rule, but not before roomLeast. It is waited for roomPatience times
// as long as room was predicted to take, and roomLeast. roomScan bounds the nodes that one tick looks at.
const (
	roomAfterWaits = 4
	roomLeast      = time.Second
	roomPatience   = 4
	roomScan       = 4096
)

// keepNode looks, once a tick, after the node that is kept, or for a call that one is to be kept for: of the old ones that one can be
// kept for the oldest of the highest class.
func (z *Zone) keepNode(now time.Time) {
	if k := &z.kept; k.n != nil {
		if !k.n.serves() || !k.n.fits(k.c.fn) || k.n.memMB < k.c.fn.spec.MemoryMB || now.After(k.until) {
			z.unkeep(now)
		}
		return // a run that ends there asks for more
	}
	if now.Before(z.kept.next) {
		return
	}
	old := now.Add(-max(roomAfterWaits*z.cfg.PolicyConfig.DelayMax, roomLeast))
	var last *call
	for left := roomScan; left > 0; {
		left -= 1 + len(z.queues)/16 // what the look at the queues takes, in looks at a node
		var c *call
		for _, q := range z.queues {
			if x := q.calls[0]; x.arrived.Before(old) && (last == nil || last.servedBefore(x)) && (c == nil || x.servedBefore(c)) {
				c = x
			}
		}
		if c == nil {
			return
		}
		if n, ms := z.nearestRoom(now, c, &left); n != nil {
			z.kept = keep{n: n, c: c, since: now, until: now.Add(roomLeast + duration(roomPatience*ms))}
			z.hopeLost(n) // the call itself decides anew, too, and finds that it waits
			return
		}
		last = c
	}
}

// servedBefore orders old calls: by class, then by age.
func (c *call) servedBefore(o *call) bool {
	if a, b := classOf(c.inv.Priority), classOf(o.inv.Priority); a != b {
		return a > b
	}
	if !c.arrived.Equal(o.arrived) {
		return c.arrived.Before(o.arrived)
	}
	return c.inv.ID < o.inv.ID
}

// nearestRoom is the node that is expected to have room for the call first, of left ones at most, and in how many ms. It is nil where the
// call waits for a slot, not for room: one node has room already, or the first one to have it will with the next run that ends there. It is
// nil, too, where none ever will. The look begins where the last one ended, so that in large zones all nodes have their turn.
func (z *Zone) nearestRoom(now time.Time, c *call, left *int) (best *node, ms float64) {
	memMB := c.fn.spec.MemoryMB
	var buf [64]float64
	total := 0
	for _, p := range c.fn.on {
		total += len(p.nodes)
	}
	bySlot := false // best has room with the next run that ends
	look := func(n *node) (has bool) {
		if !n.usable(now) || n.memMB < memMB {
			return false
		}
		if n.memMB-n.busyMB >= memMB {
			return true
		}
		ends, _ := n.roomAfter(now, memMB)
		if t := n.freeTimes(now, nil, buf[:0]); len(t) >= ends && (best == nil || t[ends-1] < ms) {
			best, ms, bySlot = n, t[ends-1], ends == 1
		}
		return false
	}
	begin := z.roomFrom % max(total, 1)
	for looked := range min(total, max(*left, 0)) {
		at, i := (begin+looked)%total, 0
		for at >= len(c.fn.on[i].nodes) {
			at -= len(c.fn.on[i].nodes)
			i++
		}
		*left--
		z.roomFrom++
		if look(c.fn.on[i].nodes[at]) {
			return nil, 0
		}
	}
	if bySlot { // which is offered to it with room
		return nil, 0
	}
	return best, ms
}

// keptRoom dispatches the call that n is kept for if there is room for it now, and reports whether n is kept for it still.
func (z *Zone) keptRoom(now time.Time, n *node, out []Action) (kept bool, _ []Action) {
	c := z.kept.c
	if z.kept.n != n {
		return false, out
	}
	if !n.serves() || !n.fits(c.fn) {
		z.unkeep(now)
		return false, out
	}
	if n.free() <= 0 || now.Before(n.avoidUntil) || n.memMB-n.busyMB < c.fn.spec.MemoryMB || !c.hard.IsZero() && !now.Before(c.hard) {
		return true, out
	}
	if !z.offer(now, n, c) {
		return true, out
	}
	z.estimate(now, c)
	return false, z.take(now, c, z.cands[0], Freed{By: firstByKept}, out)
}

// unkeep lets the node go; what keeping it took, and what the call is expected to, is charged.
func (z *Zone) unkeep(now time.Time) {
	took := now.Sub(z.kept.since) + duration(math.Max(z.kept.c.fn.runMs.v, 0))
	z.kept = keep{next: now.Add((ageTurn - 1) * took)}
}

package zonesched

import "time"

// A call that needs most of a node's memory has no room on any node that runs anything else, and slots go to whoever fits as soon as they
// are free: it waits for ever where each node always runs something. So an old call that has room nowhere is kept a node, one in a zone
// at a time: nothing else begins there until there is room for it. keep is that node, and the call.
type keep struct {
	n *node
	c *call
}

// roomAfterWaits is from when on a call counts as old, in times of DelayMax as in Rubato's rule; the rest of the zone must not pay for
// whoever has waited a moment, so it is at least roomLeast.
const (
	roomAfterWaits = 4
	roomLeast      = time.Second
)

// keepNode looks after the node that is kept, or for a call that one is to be kept for.
func (z *Zone) keepNode(now time.Time) {
	if z.kept.n != nil {
		if z.kept.n.serves() {
			return // a run that ends there asks again
		}
		z.unkeep()
	}
	var oldest *call
	for _, q := range z.queues {
		c := q.calls[0]
		if now.Sub(c.arrived) > max(roomAfterWaits*z.cfg.PolicyConfig.DelayMax, roomLeast) && (oldest == nil || c.arrived.Before(oldest.arrived) || c.arrived.Equal(oldest.arrived) && c.inv.ID < oldest.inv.ID) {
			oldest = c
		}
	}
	if oldest == nil {
		return
	}
	if n := z.nearestRoom(now, oldest); n != nil {
		z.kept = keep{n, oldest}
	}
}

// nearestRoom is the node that is expected to have room for the call first, nil if one has it already or none ever will.
func (z *Zone) nearestRoom(now time.Time, c *call) *node {
	memMB := c.fn.spec.MemoryMB
	var best *node
	var at float64
	var buf [64]float64
	for _, p := range c.fn.on {
		for _, n := range p.nodes {
			if !n.serves() || n.memMB < memMB {
				continue
			}
			if n.memMB-n.busyMB >= memMB {
				return nil // it waits for a slot
			}
			ends, _ := n.roomAfter(now, memMB)
			if t := n.freeTimes(now, nil, buf[:0]); best == nil || t[ends-1] < at {
				best, at = n, t[ends-1]
			}
		}
	}
	return best
}

// keptRoom has the call that n is kept for decide, if there is room for it now, and reports whether n is kept at all.
func (z *Zone) keptRoom(n *node) bool {
	if z.kept.n != n {
		return false
	}
	if c := z.kept.c; n.free() > 0 && n.memMB-n.busyMB >= c.fn.spec.MemoryMB {
		z.unkeep()
		z.unreserve(c)
		z.reserve(c, n, false) // it is a candidate then, however many nodes there are
		z.again(c)
	}
	return true
}

func (z *Zone) unkeep() { z.kept = keep{} }

package zonesched

import "time"

// Which hardware suits a function only runs on it can tell, and a cold start is too dear for a call that has a warm sandbox elsewhere:
// it loses by the start, and all calls after it would win. Left alone a function stays on the hardware that its first starts happened
// to find. So a sandbox of it is brought up without a call, once on each class of hardware that it has not met: a scout. Calls find
// it warm, and what they choose, and how it turns out, is up to the forest. It is never at another's cost: only while a third of the
// slots is free, where there is memory to spare, and for a bounded share of the time that the function's calls have taken.

const (
	// scoutSpare: one slot in so many must be free.
	scoutSpare = 3
	// scoutLook is how many nodes of a class are looked at.
	scoutLook = 4
)

// classSet is a set of hardware classes.
type classSet uint64

func (s *classSet) add(class uint8)     { *s |= 1 << (class & 63) }
func (s *classSet) remove(class uint8)  { *s &^= 1 << (class & 63) }
func (s classSet) has(class uint8) bool { return s>>(class&63)&1 != 0 }

// scout brings up a sandbox of f on hardware that f has not met, if there is any and f can afford it.
func (z *Zone) scout(now time.Time, f *function, out []Action) []Action {
	if z.cfg.Scout == 0 || z.pred == nil || z.epoch.IsZero() || f.coldMs.n == 0 || z.cfg.Scout*f.spentMs < f.scoutedMs+f.coldMs.v || scoutSpare*z.sums.free < z.sums.slots {
		return out
	}
	if !z.guarded() || z.trust.lost || z.modeOf(f).Kind != ModeOn {
		return out // nobody would learn from it
	}
	n := z.scoutPlace(now, f)
	if n == nil {
		return out
	}
	f.scoutedMs += f.coldMs.v
	z.counters.Scouted++
	return z.prewarm(now, f, n, out)
}

// scoutPlace finds a node of a class that f has not met, with memory to spare; nil for none.
func (z *Zone) scoutPlace(now time.Time, f *function) *node {
	asked := false
	for _, p := range f.on {
		for i := range p.open {
			o := &p.open[i]
			if f.met.has(o.class) || len(o.nodes) == 0 || p.sums.warming+1 > p.sums.free-1 {
				continue
			}
			if !asked { // an earlier leader may have sent it there
				asked = true
				for _, n := range f.h.nodes {
					f.met.add(n.class)
				}
				if f.met.has(o.class) {
					continue
				}
			}
			for range min(len(o.nodes), scoutLook) {
				if n := o.nodes[z.rng.IntN(len(o.nodes))]; n.usable(now) && n.memMB-n.memUsed >= f.spec.MemoryMB {
					return n
				}
			}
		}
	}
	return nil
}

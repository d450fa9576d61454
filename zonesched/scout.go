package zonesched

import "time"

// Which hardware suits a function only runs on it can tell, and a cold start is too dear for a call that has a warm sandbox elsewhere:
// it loses by the start, and all calls after it would win. Left alone a function stays on the hardware that its first starts happened
// to find. So a sandbox of it is brought up without a call, once on each class of hardware that it has not met: a scout. Calls find
// it warm, and what they choose, and how it turns out, is up to the forest. It costs others little: only while a third of
// the slots is free, where there is memory to spare, and for a bounded share of the time that the function's calls have taken.

const (
	// scoutSpare: one slot in so many must be free.
	scoutSpare = 3
	// scoutLook is how many nodes of a class are looked at.
	scoutLook = 4
)

// classSet is a set of hardware classes.
type classSet uint64

func (s *classSet) add(class uint8)     { *s |= 1 << (class & 63) }
func (s classSet) has(class uint8) bool { return s>>(class&63)&1 != 0 }

// scout brings up a sandbox of f on hardware that f has not met, if there is any and f can afford it. One start at a time is enough.
func (z *Zone) scout(now time.Time, f *function, out []Action) []Action {
	if z.hardware&^f.met == 0 || z.cfg.Scout == 0 || f.h.fn != f || len(f.h.starting) > 0 || now.Before(f.scoutAt) || scoutSpare*z.sums.free < z.sums.slots {
		return out
	}
	if z.pred == nil || !z.guarded() || z.trust.lost || z.modeOf(f).Kind != ModeOn || z.epoch.IsZero() {
		return out // no decision would be the better for it
	}
	takes := f.coldMs
	if f.freshMs.n > 0 {
		takes = f.freshMs // most have nothing to begin with
	}
	if takes.n == 0 || z.cfg.Scout*f.spentMs < f.scoutedMs+takes.v {
		return out
	}
	n := z.scoutPlace(now, f)
	if n == nil {
		return out
	}
	f.scoutedMs += takes.v
	z.counters.Scouted++
	return z.prewarm(now, f, n, takes.v, out)
}

// scoutPlace finds a node of a class that f has not met, with a slot and memory to spare; nil for none. All functions want to meet a node
// of a new kind at once: it brings up one at a time, and keeps a slot for calls.
func (z *Zone) scoutPlace(now time.Time, f *function) *node {
	for _, p := range f.on {
		for i := range p.open {
			o := &p.open[i]
			if f.met.has(o.class) || len(o.nodes) == 0 {
				continue
			}
			for range min(len(o.nodes), scoutLook) {
				if n := o.nodes[z.rng.IntN(len(o.nodes))]; n.usable(now) && n.warming == 0 && n.free() > 1 && n.memMB-n.memUsed >= f.spec.MemoryMB {
					return n
				}
			}
		}
	}
	return nil
}

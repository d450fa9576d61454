package zonesched

import (
	"time"

	"github.com/rubato-faas/rubato/api/wire"
)

// A node that has just booted is empty, so every rule that looks at load would give it everything at once, while it has
// nothing warm, fetched or cached. It offers one slot first and all of them after Config.SlowStart, in proportion to its age.
// Only a node that joins old ones is slowed: where all are new somebody must take the calls, and a leader that is new itself
// goes by the age that nodes report.

// meetNode looks at a node that is new here, or came back: how old it is, and whether it has to begin slowly.
func (z *Zone) meetNode(now time.Time, n *node, hb *wire.Heartbeat) {
	up := max(hb.UptimeMs, 0)
	n.born = now.Add(-time.Duration(min(up, maxUptimeMs)) * time.Millisecond)
	// Without a word of its age (0) it may be as old as any.
	n.slow = up > 0 && now.Sub(n.born) < z.cfg.SlowStart && !z.eldest.IsZero() && now.Sub(z.eldest) > z.cfg.SlowStart && z.oldBeside(now, n)
	if z.eldest.IsZero() || n.born.Before(z.eldest) {
		z.eldest = n.born
	}
}

// oldBeside: another node than n lives that is old. The eldest may be n itself as it was before it was restarted.
func (z *Zone) oldBeside(now time.Time, n *node) bool {
	for _, o := range z.nodes {
		if o != n && o.live && now.Sub(o.born) > z.cfg.SlowStart {
			return true
		}
	}
	return false
}

// maxUptimeMs bounds the age that is believed, far above every real one: a hundred years.
const maxUptimeMs = 100 * 365 * 24 * 3600 * 1000

// offers is how many of its slots n offers now.
func (z *Zone) offers(now time.Time, n *node) int {
	if n.slow {
		age := now.Sub(n.born)
		if age < z.cfg.SlowStart {
			return min(n.total, 1+int(float64(n.total-1)*(float64(max(age, 0))/float64(z.cfg.SlowStart))))
		}
		n.slow = false
	}
	return n.total
}

// grow, once a tick, lets slow nodes offer more and finds the eldest node that lives.
func (z *Zone) grow(now time.Time) {
	z.eldest = time.Time{}
	for _, n := range z.nodes {
		if !n.live {
			continue
		}
		if z.eldest.IsZero() || n.born.Before(z.eldest) {
			z.eldest = n.born
		}
		if n.slow {
			n.slots = z.offers(now, n)
			z.touch(n)
		}
	}
}

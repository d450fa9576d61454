package zonesched

import (
	"math"
	"time"
)

// Where memory is short, a cold start pushes idle sandboxes out, and which ones matters more than when: the node knows only
// which was used longest ago, and that is by nature the only sandbox of a seldom called function, while a busy function's third
// one, in turns with the others, is never the oldest. The zone sees all of them, so it names the ones to go, in wire.Run.

// evictMs prices an idle sandbox of h: what the zone loses without it in evictFor, at most what a new one takes. gone others of it
// are taken to be pushed out already.
func (z *Zone) evictMs(now time.Time, h *holding, gone int) float64 {
	switch {
	case h.fn == nil:
		return 0
	case h.kept(gone):
		return h.fn.restartMs() // another one will be brought up at once
	}
	return math.Min(h.fn.restartMs(), evictFor.Seconds()*h.lossMs(now, gone))
}

// kept: the function asks for the sandboxes that are left when gone are pushed out.
func (h *holding) kept(gone int) bool { return h.fn != nil && h.idle+h.refs-gone <= h.fn.spec.MinWarm }

// evictFor is how far ahead an eviction is priced.
const evictFor = 10 * time.Second

// lossMs is how many milliseconds calls lose in a second if one more idle sandbox of h, beyond gone ones, is pushed out. The only
// one: each call starts one. One of several: calls find the others busy and wait, at most for as long as a start takes. The mean
// wait for m servers of utilisation u is run u^(sqrt(2(m+1))-1) / (m (1-u)) (Sakasegawa, Annals of the Institute of Statistical
// Mathematics 29, 1977).
func (h *holding) lossMs(now time.Time, gone int) float64 {
	up := h.idle + h.refs - gone
	if l := &h.loss; l.up != up || now.Sub(l.at) > lossKept {
		*l = loss{up, now, h.lossOf(now, up-1)}
	}
	return h.loss.ms
}

// loss is what lossMs said last: each candidate of each decision asks for it.
type loss struct {
	up int
	at time.Time
	ms float64
}

// lossKept is how long a loss is believed.
const lossKept = 100 * time.Millisecond

// lossOf is lossMs with so many others.
func (h *holding) lossOf(now time.Time, others int) float64 {
	rate := h.fn.rate(now)
	lossMs := h.fn.restartMs()
	if others > 0 {
		m := float64(others)
		if u := rate * h.fn.runMs.v / 1000 / m; u < 1 {
			lossMs = math.Min(lossMs, h.fn.runMs.v*math.Pow(u, math.Sqrt(2*(m+1))-1)/(m*(1-u)))
		}
	}
	return rate * lossMs
}

// restartMs is what the function pays for a sandbox that was pushed out: a node keeps what it has unpacked and compiled.
func (f *function) restartMs() float64 {
	if f.prepMs.n > 0 {
		return f.prepMs.v
	}
	return f.coldMs.v
}

// anewMs is what a start of f from nothing on n takes beyond one from what is prepared, where another node has that. A start that pushes
// out others is charged it once more, as far as slots are busy: it makes anew what there is, for so long on a slot and cores for which
// others wait. As a price of all starts from nothing it was too high: calls were 4-9 % slower where memory is not short.
func (z *Zone) anewMs(n *node, f *function) float64 {
	if f.prepMs.n == 0 || f.freshMs.n == 0 || !f.h.elsewhere(n) {
		return 0
	}
	busy := 1 - float64(z.sums.free)/float64(max(z.sums.slots, 1))
	return busy * math.Max(f.freshMs.v-f.prepMs.v, 0)
}

// elsewhere: another node in service has a sandbox or what a start needs. A few are looked at.
func (h *holding) elsewhere(n *node) bool {
	for i, o := range h.nodes[:min(len(h.nodes), elsewhereLook)] {
		if s := h.boxes[i]; o != n && o.serves() && (s.busy > 0 || s.came()) {
			return true
		}
	}
	return false
}

const elsewhereLook = 16

// rate is how many calls of f come in a second, as far as its last arrivals tell; it falls when they fall silent. After a single
// call the next one is taken to come as soon as its sandbox is kept for at least.
func (f *function) rate(now time.Time) float64 {
	if f.lastAt.IsZero() {
		return 0
	}
	gap := ms(keepLeast)
	if f.gapMs.n > 0 {
		gap = f.gapMs.v
	}
	return 1000 / math.Max(gap, ms(now.Sub(f.lastAt)))
}

// victims chooses the idle sandboxes that n gives up to make room for memMB, one entry each, and what they are worth together.
// The least loss a second and megabyte goes first, as in greedy-dual caches (FaasCache, Fuerst and Sharma, ASPLOS 2021), what
// functions ask for last (MinWarm). enough says whether room can be made at all. The result is valid until the next call.
func (z *Zone) victims(now time.Time, n *node, memMB int) (out []*holding, priceMs float64, enough bool) {
	short := memMB - (n.memMB - n.memUsed)
	out = z.out[:0]
	for short > 0 {
		var v *sandboxes
		least := math.Inf(1)
		gone := 0
		for i := range n.slotOf {
			s := n.slotOf[i].box
			if s.idle == 0 {
				continue
			}
			taken := count(out, s.h)
			if taken >= s.idle {
				continue
			}
			loss := 0.0
			switch f := s.h.fn; {
			case f == nil:
			case s.h.kept(taken):
				loss = math.MaxFloat64
			default:
				loss = s.h.lossMs(now, taken) / float64(max(s.memMB, 1))
			}
			if v == nil || loss < least || loss == least && s.idleFrom.Before(v.idleFrom) {
				v, least, gone = s, loss, taken
			}
		}
		if v == nil {
			return out, priceMs, false
		}
		priceMs += z.evictMs(now, v.h, gone)
		short -= max(v.memMB, 1)
		out = append(out, v.h)
		z.out = out
	}
	return out, priceMs, true
}

// count is how many of out are h.
func count(out []*holding, h *holding) int {
	n := 0
	for _, o := range out {
		if o == h {
			n++
		}
	}
	return n
}

// makeRoom takes what a cold start of memMB pushes out of n from the zone's view of it, and names it for the node.
func (z *Zone) makeRoom(now time.Time, n *node, memMB int) []string {
	out, _, _ := z.victims(now, n, memMB)
	if len(out) == 0 {
		return nil
	}
	names := make([]string, len(out))
	for i, h := range out {
		names[i] = h.key
		s := n.sandbox(h)
		s.setIdle(s.idle - 1)
		n.memUsed -= s.memMB
	}
	return names
}

package zonesched

import (
	"math"
	"slices"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// A decision in a zone of thousands of nodes must not look at all of them. The indices here are kept true by every change
// of a node: who holds something of a function, who holds an object, who has a free slot, and the sums over all.

// holding is one function version's presence in the zone.
type holding struct {
	key   string
	fn    *function    // whose current version it is; nil for none in the catalogue
	nodes []*node      // that have a sandbox of it in any state
	boxes []*sandboxes // theirs, in the same order
	idle  int          // warm sandboxes, in all
	refs  int          // calls that run
	loss  loss         // of its next idle sandbox
	art   uint64       // hash of its artifact's digest; 0 when it was never in the catalogue
	// starting are its cold starts that run now.
	starting []*running
}

// slotOf is where n stands in h.nodes.
type slotOf struct {
	h   *holding
	at  int
	box *sandboxes
}

// holdingOf finds or makes a function version's entry.
func (z *Zone) holdingOf(key string) *holding {
	h := z.holdings[key]
	if h == nil {
		h = &holding{key: key}
		z.holdings[key] = h
	}
	return h
}

// release forgets an entry that nobody holds, runs or waits for, and no function of the catalogue has.
func (z *Zone) release(h *holding) {
	if len(h.nodes) == 0 && h.refs == 0 && h.fn == nil && z.holdings[h.key] == h {
		delete(z.holdings, h.key)
	}
}

// sandbox is what n holds of h's function, nil for nothing.
func (n *node) sandbox(h *holding) *sandboxes {
	for i := range n.slotOf {
		if n.slotOf[i].h == h {
			return n.slotOf[i].box
		}
	}
	return nil
}

// prepared is how far the node has come with h's artifact for other functions, or versions, that are made of it too: what is fetched
// and prepared once serves all of them.
func (n *node) prepared(h *holding) api.SandboxState {
	at := api.SandboxNone
	for i := range n.slotOf {
		if x := &n.slotOf[i]; x.h.art == h.art && x.h != h && h.art != 0 {
			at = max(at, x.box.reached())
		}
	}
	return at
}

// reached is how far the sandbox's artifact has come, whatever its state says: a busy one may still fetch it.
func (s *sandboxes) reached() api.SandboxState {
	switch {
	case s.idle > 0:
		return api.SandboxPrepared
	case s.busy > 0:
		return max(s.state, api.SandboxFetched)
	}
	return s.state
}

// came: a start has ended there, and something of it is left.
func (s *sandboxes) came() bool { return s.idle > 0 || s.state >= api.SandboxPrepared }

// sandboxFor is sandbox, made when absent.
func (n *node) sandboxFor(h *holding, memMB int) *sandboxes {
	if s := n.sandbox(h); s != nil {
		return s
	}
	s := &sandboxes{h: h, memMB: memMB}
	n.slotOf = append(n.slotOf, slotOf{h: h, at: len(h.nodes), box: s})
	h.nodes, h.boxes = append(h.nodes, n), append(h.boxes, s)
	return s
}

// setIdle keeps the zone's sum true.
func (s *sandboxes) setIdle(idle int) {
	s.h.idle += idle - s.idle
	s.idle = idle
}

// dropSandbox forgets the i-th sandbox of n.
func (n *node) dropSandbox(i int) {
	s := n.slotOf[i]
	s.box.setIdle(0)
	last := len(s.h.nodes) - 1
	moved := s.h.nodes[last]
	s.h.nodes[s.at], s.h.nodes[last] = moved, nil
	s.h.boxes[s.at], s.h.boxes[last] = s.h.boxes[last], nil
	s.h.nodes, s.h.boxes = s.h.nodes[:last], s.h.boxes[:last]
	for k := range moved.slotOf {
		if moved.slotOf[k].h == s.h {
			moved.slotOf[k].at = s.at
		}
	}
	n.slotOf = append(n.slotOf[:i], n.slotOf[i+1:]...)
	n.z.release(s.h)
}

func (n *node) dropSandboxes() {
	for len(n.slotOf) > 0 {
		n.dropSandbox(len(n.slotOf) - 1)
	}
}

// begin puts a call on n.
func (n *node) begin(r *running) {
	n.running = append(n.running, r)
	n.busyMB += r.memMB
	r.h.refs++
	if end := r.start.Add(duration(r.fetchMs) + 1); r.fetchMs > 0 && end.After(n.fetching) {
		n.fetching = end
	}
	if r.tenant != nil {
		r.tenant.running++
		r.tenant.starts += r.start.UnixNano()
	}
	if r.cold {
		r.h.starting = append(r.h.starting, r)
	}
	if r.prewarm {
		n.warming++
	}
	n.z.touch(n)
}

// end takes the i-th running call off n, and charges its tenant for the slot.
func (n *node) end(now time.Time, i int) {
	r := n.running[i]
	if r.tenant != nil {
		r.tenant.fade(now)
		r.tenant.used += math.Max(now.Sub(r.start).Seconds(), 0)
		r.tenant.running--
		r.tenant.starts -= r.start.UnixNano()
	}
	n.running = append(n.running[:i], n.running[i+1:]...)
	n.busyMB -= r.memMB
	if r.cold {
		s := r.h.starting
		for k := range s {
			if s[k] == r {
				s[k] = s[len(s)-1]
				s[len(s)-1] = nil
				r.h.starting = s[:len(s)-1]
				break
			}
		}
	}
	if r.prewarm {
		n.warming--
	}
	r.h.refs--
	n.z.release(r.h)
	n.z.touch(n)
}

// endAll takes all running calls off n and returns them.
func (n *node) endAll(now time.Time) []*running {
	all := append([]*running(nil), n.running...)
	for len(n.running) > 0 {
		n.end(now, len(n.running)-1)
	}
	return all
}

// hold notes an object on n.
func (n *node) hold(key uint64, bytes int64) {
	old, had := n.objects[key]
	n.held += bytes - old
	n.objects[key] = bytes
	n.filter.add(key)
	if !had {
		n.z.objects[key] = append(n.z.objects[key], n)
	}
}

// unhold forgets an object and returns its size.
func (n *node) unhold(key uint64) int64 {
	bytes, had := n.objects[key]
	if !had {
		return 0
	}
	n.held -= bytes
	delete(n.objects, key)
	if n.filter.gone++; n.filter.gone > filterGone && n.filter.gone > len(n.objects)/4 {
		n.filter = filter{}
		for k := range n.objects {
			n.filter.add(k)
		}
	}
	at := n.z.objects[key]
	for i := range at {
		if at[i] == n {
			at[i] = at[len(at)-1]
			at[len(at)-1] = nil
			at = at[:len(at)-1]
			break
		}
	}
	if len(at) == 0 {
		delete(n.z.objects, key)
	} else {
		n.z.objects[key] = at
	}
	return bytes
}

// filter says of most keys that a node does not hold that it does not, in one look: nearly all candidates lack a call's inputs, and
// a map's answer to that takes several. It is a Bloom filter with one hash, made anew when much has gone; with more objects than bits it
// says nothing any more.
type filter struct {
	bits [8]uint64
	gone int // objects since it was made
}

// filterGone: a filter is not made anew for fewer.
const filterGone = 16

func (f *filter) add(key uint64) { f.bits[key>>6&7] |= 1 << (key & 63) }

func (f *filter) lacks(key uint64) bool { return f.bits[key>>6&7]&(1<<(key&63)) == 0 }

func (n *node) dropObjects() {
	for key := range n.objects {
		n.unhold(key)
	}
	n.held = 0
}

// sums are over nodes in service; warming counts the busy ones that bring up a sandbox without a call, busyMB the memory of all busy ones.
type sums struct{ slots, busy, free, live, warming, busyMB int }

func (s *sums) add(o *sums, times int) {
	s.slots += times * o.slots
	s.busy += times * o.busy
	s.free += times * o.free
	s.live += times * o.live
	s.warming += times * o.warming
	s.busyMB += times * o.busyMB
}

// serves reports whether n may get calls, sooner or later.
func (n *node) serves() bool { return n.live && !n.draining }

// counts is what n adds to sums.
func (n *node) counts() (s sums) {
	if n.live {
		s.live, s.busy, s.warming, s.busyMB = 1, len(n.running), n.warming, n.busyMB
	}
	if n.serves() {
		s.slots, s.free = n.slots, max(n.free(), 0)
	}
	return s
}

// touch keeps the sums and the list of open nodes true after a change of n's slots, calls or service.
func (z *Zone) touch(n *node) { z.count(n, n.counts()) }

// discount takes n out of sums and lists; the next touch counts it again.
func (z *Zone) discount(n *node) { z.count(n, sums{}) }

func (z *Zone) count(n *node, now sums) {
	p := n.profile
	for _, s := range [...]*sums{&z.sums, &p.sums} {
		s.add(&n.counted, -1)
		s.add(&now, 1)
	}
	if (now.slots > 0) != (n.counted.slots > 0) || n.memMB != n.largest {
		p.largest, n.largest = -1, n.memMB
	}
	n.counted = now
	switch open := now.free > 0; {
	case open && n.openAt < 0:
		list := p.openOf(n.class)
		n.openAt = len(list.nodes)
		list.nodes = append(list.nodes, n)
	case !open && n.openAt >= 0:
		list := p.openOf(n.class)
		end := len(list.nodes) - 1
		last := list.nodes[end]
		list.nodes[n.openAt], last.openAt = last, n.openAt
		list.nodes[end] = nil
		list.nodes = list.nodes[:end]
		n.openAt = -1
	}
}

// pick chooses which nodes may be scored: all that the function fits, if they are few. Else at most half as many as candidates are scored,
// since each can be two: what the rule wants; nodes that hold the call's objects; nodes that hold something of its function, from a
// drawn place on, so that a popular function's first nodes are not asked for everything; and random ones with a free slot, one of each
// hardware class first. The cost does not depend on the number of nodes.
func (z *Zone) pick(now time.Time, c *call, hope *node) []picked {
	z.picked = z.picked[:0]
	room, f := z.cfg.Candidates, c.fn
	if f.fitting(room) <= room {
		for _, p := range f.on {
			for _, n := range p.nodes {
				if n.usable(now) && n.memMB >= f.spec.MemoryMB {
					z.picked = append(z.picked, picked{n: n})
				}
			}
		}
		if n := len(z.picked); 2*n > room { // a node can be two candidates: then it is not always the same ones that find no room
			at := z.rng.IntN(n)
			slices.Reverse(z.picked[:at])
			slices.Reverse(z.picked[at:])
			slices.Reverse(z.picked)
		}
		return z.picked
	}
	// A quarter as many as candidates hold something. Drawn are as many as there are classes to meet, an eighth at least, a quarter at most:
	// more find nothing better (DESIGN.md).
	holders, draws := room/2-room/drawnPart, room/drawnPart
	open, kinds := f.openFor()
	draws = min(draws, max(kinds, draws/2))
	room = holders + draws
	z.stamp++
	if i := z.affine.of(c.affinity); i >= 0 {
		z.pickOne(now, f, z.nodes[i], nil)
	}
	z.pickWanted(now, c, hope, room)
	for i, o := range c.inputs {
		from := len(z.picked)
		z.pickSome(now, f, z.objects[o.key], nil, holders, false)
		for k := from; k < len(z.picked); k++ {
			z.picked[k].holds = i + 1
		}
	}
	z.pickSome(now, f, f.h.nodes, f.h.boxes, holders-holders/4, true)
	z.pickSome(now, f, f.h.nodes, f.h.boxes, holders, false)
	// Tries are bounded: nodes drawn may be paused, or picked already.
	for try, from := 0, 0; try < 4*draws && len(z.picked) < room && open > 0; try++ {
		switch {
		case kinds == 1 || try >= min(kinds, draws):
			z.pickOne(now, f, z.drawOpen(f, open), nil)
			continue
		case try == 0:
			from = z.rng.IntN(kinds)
		}
		z.pickOne(now, f, z.drawClass(f, from+try, kinds), nil)
	}
	for try := 0; try < draws && open == 0 && len(z.picked) < room; try++ {
		z.pickOne(now, f, z.drawAny(f), nil)
	}
	return z.picked
}

// pickWanted picks what the policy that decides about the call wants, if it wants anything, and then what the rule does if it is asked beside it.
func (z *Zone) pickWanted(now time.Time, c *call, hope *node, room int) {
	by := z.acting(c)
	z.pickBy(by, now, c, hope, room)
	if by != z.rule && z.modeOf(c.fn).Kind != ModeOff {
		z.pickBy(z.rule, now, c, hope, min(room, len(z.picked)+room/4)) // the fallback, which acts, chooses among the others too
	}
}

func (z *Zone) pickBy(by policy.Policy, now time.Time, c *call, hope *node, room int) {
	p, ok := by.(policy.Picker)
	if !ok {
		return
	}
	z.pc = z.policyCall(now, c, hope)
	z.wanted = p.Pick(&z.pc, room, z.rng, z.wanted[:0])
	for _, i := range z.wanted {
		if int(i) < len(z.nodes) && len(z.picked) < room {
			z.pickOne(now, c.fn, z.nodes[i], nil)
		}
	}
}

// drawnPart: one node for so many candidates is drawn at most, from all with a free slot.
const drawnPart = 4

// pickScan bounds how many nodes of one list are looked at.
const pickScan = 64

// pickSome picks nodes of a list, up to limit picked in all; boxes, if there are any, are what these nodes hold of the function, and
// idle asks for a warm sandbox and a free slot.
func (z *Zone) pickSome(now time.Time, f *function, from []*node, boxes []*sandboxes, limit int, idle bool) {
	if len(from) == 0 || len(z.picked) >= limit {
		return
	}
	at := z.rng.IntN(len(from))
	for range min(len(from), pickScan) {
		var box *sandboxes
		if boxes != nil {
			box = boxes[at]
		}
		if n := from[at]; !idle || box.idle > 0 && n.free() > 0 {
			z.pickOne(now, f, n, box)
			if len(z.picked) >= limit {
				return
			}
		}
		if at++; at == len(from) {
			at = 0
		}
	}
}

// picked is a node that will be scored, what it holds of the function where that is known already, and by which of the call's inputs,
// counted from 1, it was found; 0 for none.
type picked struct {
	n     *node
	box   *sandboxes
	holds int
}

func (z *Zone) pickOne(now time.Time, f *function, n *node, box *sandboxes) {
	if n.stamp != z.stamp && n.fits(f) && n.usable(now) && n.memMB >= f.spec.MemoryMB {
		n.stamp = z.stamp
		z.picked = append(z.picked, picked{n: n, box: box})
	}
}

// conditional holds, for a standard normal variable that is known to exceed x, its median: the rest of a running call is
// asked for thousands of times a second, and the inverse of the error function is slow.
var conditional = func() (m [condSteps + 1]float64) {
	for i := range m {
		x := condFrom + float64(i)/condPer
		tail := .5 * math.Erfc(x/math.Sqrt2)
		m[i] = math.Sqrt2 * math.Erfcinv(tail)
	}
	return m
}()

const (
	condFrom, condTo = -4., 6.
	condPer          = 32
	condSteps        = int((condTo - condFrom) * condPer)
)

// conditionalMedian interpolates within the table.
func conditionalMedian(x float64) float64 {
	switch {
	case !(x > condFrom): // not a number, too
		return conditional[0]
	case x >= condTo:
		return conditional[condSteps]
	}
	at := (x - condFrom) * condPer
	i := int(at)
	return conditional[i] + (at-float64(i))*(conditional[i+1]-conditional[i])
}

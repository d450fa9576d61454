package zonesched

import (
	"fmt"
	"slices"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// Consider says what the rule would do with a call if it arrived now, and on or for which node (empty: none): candidates are
// found, scored and decided, a reservation is made and given back. Nothing else changes, except that ties and candidates are
// drawn from the zone's source. ok is false for a function that the zone does not know.
func (z *Zone) Consider(now time.Time, inv *api.Invocation) (ch policy.Choice, node string, ok bool) {
	f := z.fns[inv.FunctionID()]
	if f == nil {
		return ch, "", false
	}
	c := &z.considered
	*c = call{inv: inv, fn: f, arrived: now, since: now, inputs: appendInputs(c.inputs[:0], inv), affinity: affinityOf(inv.Affinity, f)}
	c.soft, c.hard = deadlines(now, now, inv, f.spec)
	z.gather(now, c, nil)
	z.pc = z.policyCall(now, c, nil)
	ch = z.rule.Decide(&z.pc, z.cands, z.rng)
	if ch.Take < 0 {
		return ch, "", true
	}
	n := z.nodes[z.cands[ch.Take].Node]
	z.reserve(c, n, z.feats[ch.Take].Sandbox == api.SandboxWarm && !z.cands[ch.Take].Free)
	z.unreserve(c)
	return ch, n.name, true
}

// Check recomputes everything that the zone's indices say and reports the first difference. For tests: it looks at all.
func (z *Zone) Check() error {
	var want sums
	idle, holders, starting := map[*holding]int{}, map[*holding]int{}, map[*holding]int{}
	objects := map[uint64]int{}
	fallbacks := map[*node]int{}
	for _, w := range z.waiting {
		fallbacks[w.fallback]++
	}
	if c := z.kept.c; (c == nil) != (z.kept.n == nil) || c != nil && (z.calls[c.inv.ID] != c || c.state != callWaiting) {
		return fmt.Errorf("a node is kept, %v, for a call that does not wait", z.kept.n != nil)
	}
	for _, n := range z.nodes {
		if n.fallbacks != fallbacks[n] {
			return fmt.Errorf("node %s counts %d calls that fall back to it: %d do", n.name, n.fallbacks, fallbacks[n])
		}
		s := n.counts()
		want.add(&s, 1)
		if (s.free > 0) != (n.openAt >= 0) || n.openAt >= 0 && n.profile.openOf(n.class).nodes[n.openAt] != n {
			return fmt.Errorf("node %s has %d free slots and stands at %d of the open ones", n.name, s.free, n.openAt)
		}
		for _, x := range n.slotOf {
			idle[x.h] += x.box.idle
			holders[x.h]++
			if x.at >= len(x.h.nodes) || x.h.nodes[x.at] != n || x.h.boxes[x.at] != x.box || z.holdings[x.h.key] != x.h {
				return fmt.Errorf("node %s is not where it says among the holders of %s", n.name, x.h.key)
			}
		}
		held := int64(0)
		for key, bytes := range n.objects {
			objects[key]++
			held += bytes
			if n.filter.lacks(key) {
				return fmt.Errorf("node %s holds object %x, its filter says no", n.name, key)
			}
		}
		if held != n.held {
			return fmt.Errorf("node %s holds %d bytes, counted %d", n.name, held, n.held)
		}
		warming, busyMB := 0, 0
		for _, r := range n.running {
			busyMB += r.memMB
			if r.cold {
				starting[r.h]++
			}
			if r.prewarm {
				warming++
			}
		}
		if warming != n.warming || busyMB != n.busyMB {
			return fmt.Errorf("%d prewarmings and %d MB of running calls on node %s, counted %d and %d", warming, busyMB, n.name, n.warming, n.busyMB)
		}
	}
	if err := z.checkProfiles(); err != nil {
		return err
	}
	if want != z.sums {
		return fmt.Errorf("sums are %+v, want %+v", z.sums, want)
	}
	for key, h := range z.holdings {
		if h.idle != idle[h] || len(h.nodes) != holders[h] || len(h.starting) != starting[h] {
			return fmt.Errorf("%s: %d idle on %d nodes, %d start; counted %d, %d, %d", key, idle[h], holders[h], starting[h], h.idle, len(h.nodes), len(h.starting))
		}
	}
	for id, f := range z.fns {
		for i := range f.queues {
			sum := int64(0)
			for _, c := range f.queues[i].calls {
				sum += c.arrived.UnixNano()
			}
			if sum != f.queues[i].arrived {
				return fmt.Errorf("calls of %s arrived at %d in sum, counted %d", id, sum, f.queues[i].arrived)
			}
		}
		if f.h.fn != f {
			return fmt.Errorf("the sandboxes of %s are not known as its own", id)
		}
	}
	for key, at := range z.objects {
		if len(at) != objects[key] {
			return fmt.Errorf("object %x is on %d nodes, counted %d", key, objects[key], len(at))
		}
		for i, n := range at {
			if _, has := n.objects[key]; !has || slices.Contains(at[:i], n) {
				return fmt.Errorf("node %s stands among the holders of object %x: it has it %v, or stands there twice", n.name, key, has)
			}
		}
	}
	if len(z.objects) != len(objects) {
		return fmt.Errorf("%d objects, counted %d", len(objects), len(z.objects))
	}
	if err := z.checkTenants(); err != nil {
		return err
	}
	return z.checkHopes()
}

// checkTenants counts the calls of each tenant that wait.
func (z *Zone) checkTenants() error {
	by := map[*usage]int{}
	for _, c := range z.waiting {
		by[c.tenant]++
	}
	if len(by) != len(z.tenantsWaiting) {
		return fmt.Errorf("%d tenants wait, counted %d", len(by), len(z.tenantsWaiting))
	}
	for i, u := range z.tenantsWaiting {
		if u.place != i || u.waiting != by[u] || by[u] == 0 {
			return fmt.Errorf("tenant %d of those that wait stands at %d, with %d calls, counted %d", i, u.place, by[u], u.waiting)
		}
	}
	return nil
}

// checkHopes counts the calls that hope for each node, and for a busy sandbox there.
func (z *Zone) checkHopes() error {
	byNode, byFn := map[*node]int{}, map[*node]map[*holding]int{}
	for _, c := range z.waiting {
		if c.hope == nil {
			continue
		}
		byNode[c.hope]++
		if c.hopeFn != nil {
			if byFn[c.hope] == nil {
				byFn[c.hope] = map[*holding]int{}
			}
			byFn[c.hope][c.hopeFn]++
		}
	}
	for _, n := range z.nodes {
		if n.reserved != byNode[n] || len(n.reservedF) != len(byFn[n]) {
			return fmt.Errorf("%d calls hope for node %s, counted %d; for sandboxes of %d functions, counted %d", byNode[n], n.name, n.reserved, len(byFn[n]), len(n.reservedF))
		}
		for _, r := range n.reservedF {
			if r.calls != byFn[n][r.h] {
				return fmt.Errorf("%d calls hope for a sandbox of %s on node %s, counted %d", byFn[n][r.h], r.h.key, n.name, r.calls)
			}
		}
	}
	return nil
}

package zonesched

import (
	"math"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// A freed slot is offered to every function that has calls waiting, not to every call: of one function's calls the oldest
// has the best claim, unless another one's input lies on the node. Whose claim counts most is decided in this order: class
// (each with a minimum share of the freed slots), tenants far behind their fair share, and what the rule says.

// class is a call's class of service, by its priority.
type class uint8

const (
	classDeferrable class = iota
	classDefault
	classLatency
	classes
)

// classOf: priorities 7-9 are latency, 1-3 deferrable; 0 (none given) and 4-6 default.
func classOf(priority uint8) class {
	switch {
	case priority >= 7:
		return classLatency
	case priority >= 1 && priority <= 3:
		return classDeferrable
	}
	return classDefault
}

// classTurn is after how many freed slots that went to others a class that waits has its turn, so that none starves.
var classTurn = [classes]uint32{classDeferrable: 16, classDefault: 4, classLatency: 1}

const (
	// perFunction bounds how many of a function's waiting calls are looked at in order, matchScan how many for a match.
	perFunction, matchScan = 2, 32
	// freedScan bounds the claims that are weighed when a slot frees.
	freedScan = 256
	// ageTurn: one freed slot in so many may go by age alone.
	ageTurn = 8
	// farBehind is how many slot-seconds a tenant may be behind the others before it goes first.
	farBehind = 10
	// usageHalf is after how many seconds what a tenant has used counts half.
	usageHalf = 60
)

// queue is a function's waiting calls of one class, in order of arrival; at is its place among the zone's queues while there
// are any.
type queue struct {
	calls []*call
	at    int
}

func (c *call) queue() *queue { return &c.fn.queues[classOf(c.inv.Priority)] }

// alike is how many of the function's calls wait.
func (f *function) alike() int {
	n := 0
	for i := range f.queues {
		n += len(f.queues[i].calls)
	}
	return n
}

// usage is what a tenant has had: slot-seconds, fading.
type usage struct {
	used    float64
	at      time.Time
	waiting int
}

func (u *usage) fade(now time.Time) float64 {
	if d := now.Sub(u.at).Seconds(); d > 0 {
		u.used *= math.Exp2(-d / usageHalf)
		u.at = now
	}
	return u.used
}

// maxTenants bounds the tenants whose use is remembered.
const maxTenants = 4096

// tenant finds or makes a tenant's usage. One that comes anew begins where the one that had least stands: it is owed nothing
// for the time before.
func (z *Zone) tenant(now time.Time, name string) *usage {
	if u := z.tenants[name]; u != nil {
		return u
	}
	u := &usage{at: now}
	least, idle := math.Inf(1), ""
	for _, k := range sortedKeys(z.tenants) {
		o := z.tenants[k]
		least = math.Min(least, o.fade(now))
		if o.waiting == 0 && idle == "" {
			idle = k
		}
	}
	if len(z.tenants) >= maxTenants && idle != "" {
		delete(z.tenants, idle)
	}
	if !math.IsInf(least, 1) {
		u.used = least
	}
	z.tenants[name] = u
	return u
}

func (z *Zone) wait(now time.Time, c *call) {
	c.state = callWaiting
	z.waiting = append(z.waiting, c)
	q := c.queue()
	if len(q.calls) == 0 {
		q.at = len(z.queues)
		z.queues = append(z.queues, q)
	}
	q.calls = append(q.calls, c)
	z.inClass[classOf(c.inv.Priority)]++
	u := z.tenant(now, c.inv.Tenant)
	if u.waiting++; u.waiting == 1 {
		z.tenantsWaiting++
	}
}

func (z *Zone) unwait(c *call) {
	z.waiting = without(z.waiting, c)
	q := c.queue()
	if q.calls = without(q.calls, c); len(q.calls) == 0 {
		last := z.queues[len(z.queues)-1]
		z.queues[q.at], last.at = last, q.at
		z.queues[len(z.queues)-1] = nil
		z.queues = z.queues[:len(z.queues)-1]
	}
	k := classOf(c.inv.Priority)
	if z.inClass[k]--; z.inClass[k] == 0 {
		z.passed[k] = 0
	}
	if u := z.tenants[c.inv.Tenant]; u != nil {
		if u.waiting--; u.waiting == 0 {
			z.tenantsWaiting--
		}
	}
	z.plan0(c)
	z.unreserve(c)
}

// without removes c and keeps the order.
func without(calls []*call, c *call) []*call {
	for i, w := range calls {
		if w == c {
			copy(calls[i:], calls[i+1:])
			calls[len(calls)-1] = nil
			return calls[:len(calls)-1]
		}
	}
	return calls
}

// plan0 takes what the call was expected to need out of the backlog.
func (z *Zone) plan0(c *call) {
	z.backlogMs -= c.planned
	c.planned = 0
	if len(z.waiting) == 0 {
		z.backlogMs = 0 // rounding must not pile up
	}
}

// planned notes what the call is expected to need.
func (z *Zone) planned(c *call, ms float64) {
	z.plan0(c)
	if !math.IsInf(ms, 0) && !math.IsNaN(ms) {
		c.planned = ms
		z.backlogMs += ms
	}
}

// backlog is how long the slots in service will be busy with what waits.
func (z *Zone) backlog() time.Duration {
	return duration(math.Max(z.backlogMs, 0) / float64(max(z.sums.slots, 1)))
}

// claim is one waiting call's claim on a freed slot.
type claim struct {
	c     *call
	cand  policy.Candidate
	class int // 2 x rank of its class, odd when it is the class's turn
	owed  bool
	index float64
}

func (a *claim) before(b *claim) bool {
	switch {
	case b.c == nil:
		return true
	case a.class != b.class:
		return a.class > b.class
	case a.owed != b.owed:
		return a.owed
	}
	return a.index > b.index
}

// admit finds the waiting call with the best claim on n's free slot; none when nobody gains by it.
func (z *Zone) admit(now time.Time, n *node) (*call, policy.Candidate) {
	var best claim
	var fair float64
	if z.tenantsWaiting > 1 {
		fair = z.fairUse(now)
	}
	age := z.freed%ageTurn == 0
	left := freedScan
	for _, q := range z.queues {
		for k, w := range q.calls {
			if left <= 0 || k >= matchScan {
				break
			}
			if k >= perFunction && !(len(w.inputs) > 0 && n.missing(w) == 0) {
				continue
			}
			left--
			if cl, ok := z.claim(now, n, w, fair, age); ok && cl.before(&best) {
				best = cl
			}
			if len(w.inputs) == 0 && k >= perFunction {
				break
			}
		}
	}
	if best.c != nil {
		z.freed++
		z.served(classOf(best.c.inv.Priority))
	}
	return best.c, best.cand
}

// claim weighs one call.
func (z *Zone) claim(now time.Time, n *node, w *call, fair float64, age bool) (claim, bool) {
	if !w.hard.IsZero() && !now.Before(w.hard) {
		return claim{}, false // its wake ends it
	}
	z.cands, z.feats = z.cands[:0], z.feats[:0]
	z.nodeCandidates(now, w, n)
	if len(z.cands) == 0 || !z.cands[0].Free {
		return claim{}, false
	}
	z.cands, z.feats = z.cands[:1], z.feats[:1]
	// Whoever was held back for this node is judged by the bound of delayed calls.
	z.feats[0].Delayed = w.kind == api.DecisionDelayed
	z.estimate(now, w)
	elsewhere := math.Inf(1)
	if !w.finishAt.IsZero() {
		elsewhere = ms(w.finishAt.Sub(now))
	}
	z.pc = z.policyCall(now, w, w.hope)
	z.pc.AgeTurn = age
	if z.cands[0].Sandbox == api.SandboxWarm {
		z.pc.ColdMs = 0
	}
	ok, index := z.rule.Admit(&z.pc, &z.cands[0], elsewhere, w.execBest)
	if !ok {
		return claim{}, false
	}
	k := classOf(w.inv.Priority)
	cl := claim{c: w, cand: z.cands[0], class: 2 * int(k), index: index}
	if z.passed[k] >= classTurn[k] {
		cl.class = 2*int(classes) + int(classes-k) // whose turn it is goes first, the lowest class before the others
	}
	if u := z.tenants[w.inv.Tenant]; u != nil && z.tenantsWaiting > 1 {
		cl.owed = fair-u.used > farBehind
	}
	return cl, true
}

// fairUse is the mean use of the tenants that wait.
func (z *Zone) fairUse(now time.Time) float64 {
	sum, n := 0.0, 0
	for _, u := range z.tenants {
		if u.waiting > 0 {
			u.fade(now)
			n++
		}
	}
	for _, w := range z.waiting { // in a fixed order, since floating-point sums depend on it
		if u := z.tenants[w.inv.Tenant]; u != nil {
			sum += u.used / float64(u.waiting)
		}
	}
	return sum / float64(max(n, 1))
}

// served counts a freed slot against the classes that wait and did not get it.
func (z *Zone) served(k class) {
	for i := range z.passed {
		if z.inClass[i] > 0 {
			z.passed[i]++
		}
	}
	z.passed[k] = 0
}

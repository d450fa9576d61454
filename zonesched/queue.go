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

// classTurn: of so many freed slots a class that waits has at least one, so that none starves. Latency is first without it.
var classTurn = [classes]uint32{classDeferrable: 16, classDefault: 4, classLatency: math.MaxUint32}

// classRoom is how much of the room for waiting calls a class may fill: when a zone is overloaded, deferrable calls are refused first,
// and latency calls find room when there is none for the others.
var classRoom = [classes]float64{classDeferrable: .5, classDefault: 1, classLatency: 1.125}

// A tenant of which less than one part in quietPart of what may wait is waiting has quietRoom more: whoever is loud fills the room
// whenever nobody else waits for a moment, and then the next call of a quiet one met a full zone.
const (
	quietPart = 16
	quietRoom = .125
)

const (
	// perFunction bounds how many of a function's waiting calls are looked at in order, matchScan how many for a match.
	perFunction, matchScan = 2, 32
	// freedScan bounds the claims that are weighed when a slot frees.
	freedScan = 256
	// ageTurn: one part in so many of the freed slots' time may go by age alone. One slot in so many is not the same: where a cold
	// start takes fifteen runs, an eighth of the slots is two thirds of their time, and the zone stays full of cold starts.
	ageTurn = 8
	// farBehind is how many slot-seconds a tenant may be behind the others before it goes first.
	farBehind = 10
	// usageHalf is after how many seconds what a tenant has used counts half.
	usageHalf = 60
)

// queue is a function's waiting calls of one class, in order of arrival; at is its place among the zone's queues while there
// are any.
type queue struct {
	calls   []*call
	at      int
	arrived int64 // sum of their arrivals, in nanoseconds; it may wrap around, differences are right all the same
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

// owedMs is how long the function's waiting calls have waited, all together.
func (f *function) owedMs(now time.Time) float64 {
	sum := int64(0)
	for i := range f.queues {
		sum += int64(len(f.queues[i].calls))*now.UnixNano() - f.queues[i].arrived
	}
	return float64(sum) / 1e6
}

// usage is what a tenant has had: slot-seconds, fading.
type usage struct {
	used    float64
	at      time.Time
	waiting int
	place   int   // among tenantsWaiting, while it waits
	running int   // dispatches that hold slots
	starts  int64 // sum of their starts, in nanoseconds; it may wrap around
}

// now is what the tenant has used and uses: calls that run count as they go, or who makes long ones would look poor until they end.
func (u *usage) now(now time.Time) float64 {
	return u.fade(now) + float64(int64(u.running)*now.UnixNano()-u.starts)/1e9
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
	if len(z.tenants) >= maxTenants {
		return &usage{at: now} // not remembered until the tick has made room: no tenant can make another forget
	}
	u := &usage{at: now, used: z.leastUse * math.Exp2(-now.Sub(z.leastAt).Seconds()/usageHalf)}
	z.tenants[name] = u
	return u
}

// forgetTenants, once a tick, forgets those whose use has faded, and finds where new ones begin: with the least of those that have
// calls here, or of all where none has. Of those that have none most has faded.
func (z *Zone) forgetTenants(now time.Time) {
	least, ofAll := math.Inf(1), math.Inf(1)
	for name, u := range z.tenants {
		idle := u.waiting == 0 && u.running == 0
		if u.fade(now) < forgotten && idle {
			delete(z.tenants, name)
			continue
		}
		x := u.now(now)
		ofAll = min(ofAll, x)
		if !idle {
			least = min(least, x)
		}
	}
	if math.IsInf(least, 1) {
		least = ofAll
	}
	if math.IsInf(least, 1) {
		least = 0
	}
	z.leastUse, z.leastAt = least, now
}

// forgotten is the use, in slot-seconds, below which a tenant is like a new one.
const forgotten = .01

func (z *Zone) wait(now time.Time, c *call) {
	c.state = callWaiting
	z.waiting = inOrder(z.waiting, c)
	q := c.queue()
	if len(q.calls) == 0 {
		q.at = len(z.queues)
		z.queues = append(z.queues, q)
		z.want(c.fn, 1)
	}
	q.calls = inOrder(q.calls, c)
	q.arrived += c.arrived.UnixNano()
	z.inClass[classOf(c.inv.Priority)]++
	u := z.tenant(now, c.inv.Tenant)
	c.tenant = u
	if u.waiting++; u.waiting == 1 {
		u.place = len(z.tenantsWaiting)
		z.tenantsWaiting = append(z.tenantsWaiting, u)
	}
}

func (z *Zone) unwait(now time.Time, c *call) {
	c.fallTo(nil)
	if z.kept.c == c {
		z.unkeep(now)
	}
	z.waiting = without(z.waiting, c)
	q := c.queue()
	q.arrived -= c.arrived.UnixNano()
	if q.calls = without(q.calls, c); len(q.calls) == 0 {
		last := z.queues[len(z.queues)-1]
		z.queues[q.at], last.at = last, q.at
		z.queues[len(z.queues)-1] = nil
		z.queues = z.queues[:len(z.queues)-1]
		z.want(c.fn, -1)
	}
	k := classOf(c.inv.Priority)
	if z.inClass[k]--; z.inClass[k] == 0 {
		z.passed[k] = 0
	}
	if u := c.tenant; u.waiting == 1 {
		last := z.tenantsWaiting[len(z.tenantsWaiting)-1]
		z.tenantsWaiting[u.place], last.place = last, u.place
		z.tenantsWaiting[len(z.tenantsWaiting)-1] = nil
		z.tenantsWaiting = z.tenantsWaiting[:len(z.tenantsWaiting)-1]
	}
	c.tenant.waiting--
	if len(z.waiting) == 0 {
		z.ageDebtMs = 0 // of an overload that is over
	}
	z.plan0(c)
	z.unreserve(c)
}

// inOrder inserts c by arrival: a call that waits again, after a refusal or a lost node, keeps its place.
func inOrder(calls []*call, c *call) []*call {
	calls = append(calls, c)
	for i := len(calls) - 1; i > 0 && c.arrived.Before(calls[i-1].arrived); i-- {
		calls[i], calls[i-1] = calls[i-1], c
	}
	return calls
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
	class int // 2 x rank of its class; more than any of these when it is the class's turn
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

// Why a waiting call got a freed slot, beside what policy.First says.
const (
	firstByClass  = "class turn" // of its class of service, which others had gone before
	firstByTenant = "fair share" // of its tenant, which was far behind others
	firstByKept   = "kept node"  // that only it needs
)

// why says which of the claim's parts put it first, and the index if it was that.
func (a *claim) why() (by string, index float64) {
	switch {
	case a.class >= 2*int(classes):
		return firstByClass, 0
	case a.owed:
		return firstByTenant, 0
	}
	return policy.First(a.index)
}

// admit finds the waiting call with the best claim on n's free slot; none when nobody gains by it.
func (z *Zone) admit(now time.Time, n *node) claim {
	var best claim
	var fair float64
	if len(z.tenantsWaiting) > 1 {
		fair = z.fairUse(now)
	}
	age := z.ageDebtMs <= 0
	look := func(w *call) {
		if cl, ok := z.claim(now, n, w, fair, age, &best); ok && cl.before(&best) {
			best = cl
		}
	}
	z.later, z.claimed = z.later[:0], [classes]bool{}
	if age {
		for _, w := range z.waiting[:min(len(z.waiting), fitScan)] {
			if n.fits(w.fn) {
				look(w) // the oldest of all, wherever its queue stands
				break
			}
		}
	}
	// Where there are more queues than can be looked at, each slot goes on where the last one left off.
	left, looked := freedScan, 0
	for ; looked < len(z.queues) && left > 0; looked++ {
		q := z.queues[(z.scanFrom+looked)%len(z.queues)]
		if !n.fits(q.calls[0].fn) {
			continue
		}
		for k, w := range q.calls[:min(len(q.calls), matchScan)] {
			if k >= perFunction && (len(w.inputs) == 0 || n.missing(w, 0) > 0) {
				continue
			}
			left--
			if s := n.sandbox(w.fn.h); s != nil && s.idle > 0 {
				look(w)
			} else {
				z.later = append(z.later, w) // most that are warm here go before it, so that it need not be predicted
			}
		}
	}
	for _, w := range z.later {
		look(w)
	}
	if looked < len(z.queues) {
		z.scanFrom = (z.scanFrom + looked) % len(z.queues)
	} else {
		z.scanFrom = 0
	}
	if best.c != nil {
		if z.byOrder {
			z.offer(now, n, best.c)
			z.estimate(now, best.c)
			best.cand = z.cands[0]
		}
		if took := best.cand.Est.MedianMs(); policy.ByAge(best.index) {
			z.ageDebtMs += (ageTurn - 1) * took
		} else {
			z.ageDebtMs = math.Max(z.ageDebtMs-took, 0)
		}
		z.served(classOf(best.c.inv.Priority), looked == len(z.queues))
	}
	return best
}

// claim weighs one call; false if it may not take the slot, or cannot stand before best.
func (z *Zone) claim(now time.Time, n *node, w *call, fair float64, age bool, best *claim) (claim, bool) {
	if !w.hard.IsZero() && !now.Before(w.hard) {
		return claim{}, false // its wake ends it
	}
	if !z.offer(now, n, w) {
		return claim{}, false
	}
	k := classOf(w.inv.Priority)
	z.claimed[k] = true
	cl := claim{c: w, class: 2 * int(k), index: math.Inf(1)}
	if z.passed[k]+1 >= classTurn[k] {
		cl.class = 2*int(classes) + int(classes-k) // whose turn it is goes first, the lowest class before the others
	}
	if len(z.tenantsWaiting) > 1 {
		cl.owed = fair-w.tenant.now(now) > farBehind
	}
	z.pc = z.policyCall(now, w, w.hope)
	z.pc.AgeTurn = age
	if z.cands[0].Sandbox == api.SandboxWarm {
		z.pc.ColdMs = 0
	}
	if r, ok := z.order.(policy.Ranker); ok {
		cl.index = r.MostIndex(&z.pc, &z.cands[0])
	}
	if !cl.before(best) {
		return claim{}, false
	}
	if !z.byOrder || z.acting(w) != z.order {
		z.estimate(now, w)
	}
	elsewhere := math.Inf(1)
	if !w.finishAt.IsZero() {
		elsewhere = ms(w.finishAt.Sub(now))
	}
	var ok bool
	ok, cl.index = z.admits(w, &z.cands[0], elsewhere)
	cl.cand = z.cands[0]
	return cl, ok
}

// offer makes n's free slot the only candidate; false if w cannot use it.
func (z *Zone) offer(now time.Time, n *node, w *call) bool {
	z.cands, z.feats = z.cands[:0], z.feats[:0]
	z.nodeCandidates(now, w, n, n.sandbox(w.fn.h), n.missing(w, 0))
	if len(z.cands) == 0 || !z.cands[0].Free {
		return false
	}
	z.cands, z.feats = z.cands[:1], z.feats[:1]
	// Whoever was held back for this node is judged by the bound of delayed calls.
	z.feats[0].Delayed = w.kind == api.DecisionDelayed
	return true
}

// fairUse is the mean use of the tenants that wait.
func (z *Zone) fairUse(now time.Time) float64 {
	sum := 0.0
	for _, u := range z.tenantsWaiting { // in an order that follows from the events, since floating-point sums depend on it
		sum += u.now(now)
	}
	return sum / float64(len(z.tenantsWaiting))
}

// served counts a freed slot against the classes that wait and did not get it, though they could have used it, as far as all were asked.
func (z *Zone) served(k class, all bool) {
	for i := range z.passed {
		if z.inClass[i] > 0 && (z.claimed[i] || !all) {
			z.passed[i]++
		}
	}
	z.passed[k] = 0
}

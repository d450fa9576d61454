package zonesched

import (
	"math"
	"slices"
	"sort"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// node is the zone's soft view of one worker: what it reported, plus what was sent to it since. The node owns its
// slots; a wrong view here costs a refusal, never an oversubscription.
type node struct {
	// What each decision asks of its candidates stands together, in as few cache lines as can be: in a large zone nearly every one is read
	// from memory.
	stamp       uint64 // of the last decision that picked it
	profile     *profile
	live        bool
	draining    bool
	quarantined bool
	slow        bool // it starts slowly
	class       uint8
	energy      uint8
	index       int32
	slots       int        // those that it offers: fewer while it starts slowly
	running     []*running // changed by begin, end and endAll only
	avoidUntil  time.Time  // quarantine, or a short pause after a refusal
	slotOf      []slotOf   // sandboxes: few, found by a scan, in order of first report
	memMB       int
	memUsed     int
	busyMB      int     // what running calls hold of memMB; changed by begin and end only
	fallbacks   int     // waiting calls that are held back with a slot here to fall back to
	reserved    int     // waiting calls that hope for a slot here
	reservedF   []hopes // those among them that hope for a busy sandbox, by function
	name        string
	total       int             // slots that it has
	cores       float64         // that its slots share; 0: one each
	columns     api.NodeColumns // what a predictor made of it
	columnsOf   uint64          // which of z.models did; 0: none
	fetching    time.Time       // when the last fetch of those that ever ran here ends
	linkMbps    float64
	cacheMax    int64
	unlisted    int64 // bytes of the cache that hold what is not reported by name: small objects
	held        int64 // the sum of objects
	ghosts      ghosts
	objects     map[uint64]int64 // bytes by hash of the object key; changed by hold, unhold and dropObjects only
	filter      filter           // of objects

	z        *Zone
	lastSeen time.Time
	boot     uint64
	clsName  string
	price    float64 // of a slot, per hour
	born     time.Time
	sentSeq  uint64
	sentAt   time.Time // of the last dispatch

	labels  api.Labels // as reported
	warming int        // running calls that are prewarmings
	counted sums       // n's part of the sums
	largest int        // memMB when the profile's largest was last found
	openAt  int        // where it stands among its profile's open nodes, -1 for nowhere

	failures int  // in a row
	listed   bool // among the zone's lostNodes
}

// running is one call that occupies a slot.
type running struct {
	start     time.Time // this and the next three are asked for in each decision about its node
	mu, sigma float64
	fetchMs   float64 // what it had to bring over the node's link, at full speed
	memMB     int     // of its sandbox
	h         *holding
	// cold: it began without a warm sandbox, from this state.
	cold bool
	from api.SandboxState
	// prewarm: it brings up a sandbox for whoever comes.
	prewarm bool
	// foreign: dispatched by an earlier leader; it ends with a completion or by its absence from a report.
	foreign bool
	id      string
	// seq is the dispatch's, evict what it made room by, takesMB what it added to the memory in use, all told; tookIdle: it found a sandbox
	// idle. What a node says before it has seen the dispatch lacks them.
	seq      uint64
	evict    []string
	takesMB  int
	tookIdle bool
	// tenant pays for the slot; nil for calls of an earlier leader.
	tenant *usage
}

// sandboxes is what a node holds of one function version.
type sandboxes struct {
	h        *holding
	state    api.SandboxState // of what is not warm
	idle     int              // changed by setIdle only
	busy     int
	memMB    int
	idleFrom time.Time // the longest idle one, for eviction order
}

func (z *Zone) newNode(name string) *node {
	n := &node{name: name, index: int32(len(z.nodes)), z: z, objects: map[uint64]int64{}, reservedF: make([]hopes, 0, 4), openAt: -1}
	z.nodes, z.byName[name] = append(z.nodes, n), n
	return n
}

// forgetNode is how long a lost node keeps its place. Where machines come and go, each with a name of its own, a zone would otherwise draw
// its candidates among more and more nodes that are no more.
const forgetNode = 15 * time.Minute

// vacant takes the place of the node that has been lost for longest, if that is long enough, for a new one; nil for none.
func (z *Zone) vacant(now time.Time, name string) *node {
	for len(z.lostNodes) > 0 {
		n := z.lostNodes[0]
		if !n.live && now.Sub(n.lastSeen) < forgetNode {
			return nil
		}
		z.lostNodes[0] = nil
		z.lostNodes, n.listed = z.lostNodes[1:], false
		if n.live { // it came back, or its place is taken
			continue
		}
		delete(z.byName, n.name)
		// Calls, hopes, sandboxes and objects went when it was lost.
		z.affine.forget(n.index)
		n.name, n.boot, n.sentSeq, n.sentAt, n.ghosts = name, 0, 0, time.Time{}, ghosts{}
		n.columns, n.columnsOf = api.NodeColumns{}, 0
		n.failures, n.quarantined, n.avoidUntil, n.fetching, n.memUsed = 0, false, time.Time{}, time.Time{}, 0
		z.byName[name] = n
		return n
	}
	return nil
}

// hopes are the waiting calls that hope for a busy sandbox of one function.
type hopes struct {
	h     *holding
	calls int
}

// hope changes by delta how many calls hope for a busy sandbox of h on n, and returns how many do.
func (n *node) hope(h *holding, delta int) int {
	i := slices.IndexFunc(n.reservedF, func(r hopes) bool { return r.h == h })
	switch {
	case i < 0 && delta <= 0:
		return 0
	case i < 0:
		i = len(n.reservedF)
		n.reservedF = append(n.reservedF, hopes{h: h})
	}
	n.reservedF[i].calls += delta
	left := n.reservedF[i].calls
	if left <= 0 {
		n.reservedF = slices.Delete(n.reservedF, i, i+1)
	}
	return left
}

func (n *node) free() int { return n.slots - len(n.running) }

func (n *node) usable(now time.Time) bool {
	return n.serves() && !now.Before(n.avoidUntil) && n.z.kept.n != n
}

// apply takes over a full report.
func (n *node) apply(now time.Time, hb *wire.Heartbeat) {
	n.stampBoxes(now, hb.Sandboxes)
	said := make(map[uint64]bool, len(hb.Objects))
	for i := range hb.Objects {
		key := hashOf(hb.Objects[i].Key)
		said[key] = true
		n.hold(key, hb.Objects[i].Bytes)
	}
	if len(said) < len(n.objects) {
		for key := range n.objects {
			if !said[key] {
				n.unhold(key)
			}
		}
	}
	n.memUsed = hb.MemUsedMB
}

// stampBoxes takes over a full list of sandboxes.
func (n *node) stampBoxes(now time.Time, boxes []wire.SandboxReport) {
	for i := range boxes {
		n.setSandbox(now, &boxes[i])
	}
	for i := len(n.slotOf) - 1; i >= 0; i-- {
		said := false
		for k := range boxes {
			said = said || boxes[k].Function == n.slotOf[i].h.key
		}
		if !said {
			n.dropSandbox(i)
		}
	}
}

func (n *node) setSandbox(now time.Time, r *wire.SandboxReport) {
	if r.State == api.SandboxNone && r.Idle == 0 && r.Busy == 0 {
		for i := range n.slotOf {
			if n.slotOf[i].h.key == r.Function {
				n.dropSandbox(i)
				return
			}
		}
		return
	}
	s := n.sandboxFor(n.z.holdingOf(r.Function), r.MemoryMB)
	s.setIdle(r.Idle)
	s.state, s.busy, s.memMB = r.State, r.Busy, r.MemoryMB
	if s.h.fn != nil && s.came() {
		s.h.fn.met.add(n.class)
	}
	s.idleFrom = now.Add(-time.Duration(r.IdleMs) * time.Millisecond)
}

// missing is how many bytes of the call's inputs the node would have to fetch; it is known to hold the input holds, counted from 1 (0:
// nothing is known). Of a large zone's nodes a look into the map of what each holds was a third of what its candidates cost.
func (n *node) missing(c *call, holds int) int64 {
	var b int64
	for i, o := range c.inputs {
		if i+1 == holds {
			continue
		}
		if n.filter.lacks(o.key) {
			b += o.bytes
		} else if _, ok := n.objects[o.key]; !ok {
			b += o.bytes
		}
	}
	return b
}

// freeTimes appends to buf the predicted times (ms from now) at which running calls end, sorted; only those of h's function
// when it is not nil.
func (n *node) freeTimes(now time.Time, h *holding, buf []float64) []float64 {
	buf = buf[:0]
	for _, r := range n.running {
		if h == nil || r.h == h {
			buf = append(buf, n.z.restMs(now, r))
		}
	}
	slices.Sort(buf)
	return buf
}

// ranMs is how long r has run on its node, not how long ago it was sent: what is known of nodes is a message old, and seconds where
// reports are late. Below zero it has not arrived there yet.
func (z *Zone) ranMs(now time.Time, r *running) float64 { return ms(now.Sub(r.start)) - z.linkMs.v }

// restMs is the predicted time until the zone hears of r's end: only then can it use the slot.
func (z *Zone) restMs(now time.Time, r *running) float64 {
	e := z.ranMs(now, r)
	return remaining(e, r.mu, r.sigma) - math.Min(e, 0)
}

// backlogMs is how long the node's link is still busy with what running calls fetch.
func (n *node) backlogMs(now time.Time) float64 {
	if !now.Before(n.fetching) {
		return 0 // asked for each candidate: without a look at what runs
	}
	sum := 0.0
	for _, r := range n.running {
		if r.fetchMs > 0 {
			sum += math.Max(r.fetchMs-ms(now.Sub(r.start)), 0)
		}
	}
	return sum
}

// transferMs is how long bytes take over the node's link when nothing else uses it; 0 without a limit.
func (n *node) transferMs(bytes int64) float64 {
	if n.linkMbps <= 0 {
		return 0
	}
	return float64(bytes) * 8 / (n.linkMbps * 1000)
}

// remaining is the conditional median of what a log-normal call still needs after it has run for elapsed ms:
// F^-1((1+F(elapsed))/2) - elapsed.
func remaining(elapsedMs, mu, sigma float64) float64 {
	sigma = math.Max(sigma, .05)
	if elapsedMs <= 0 {
		return math.Exp(mu)
	}
	x := (math.Log(elapsedMs) - mu) / sigma
	if x > condTo {
		// Far beyond every expectation: the longer it has run, the longer it will.
		return elapsedMs * .5
	}
	return math.Max(math.Exp(mu+sigma*conditionalMedian(x))-elapsedMs, .05)
}

func (n *node) drop(now time.Time, id string) bool {
	for i, r := range n.running {
		if r.id == id {
			n.end(now, i)
			return true
		}
	}
	return false
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// heartbeat takes a node's report. A report that has not yet seen our last dispatch is older than what we know of its
// caches: then only liveness and fixed facts are taken.
func (z *Zone) heartbeat(now time.Time, hb *wire.Heartbeat, out []Action) []Action {
	n := z.byName[hb.Node]
	fresh := n == nil || !n.live || n.boot != hb.Boot
	if n == nil {
		if n = z.vacant(now, hb.Node); n == nil {
			if len(z.nodes) >= maxNodes {
				z.counters.NodesIgnored++
				return out
			}
			n = z.newNode(hb.Node)
		}
	}
	var lost []*running // with the node's last life; decided about once the new one is known
	if n.boot != 0 && n.boot != hb.Boot {
		lost, n.sentSeq = n.endAll(now), 0
	}
	if fresh {
		z.meetNode(now, n, hb)
		if hb.Epoch == z.epoch { // it may have been forgotten while it was cut off
			n.sentSeq = max(n.sentSeq, hb.SeenSeq)
		}
	}
	z.setLabels(n, &hb.Labels)
	leaves := hb.Draining && n.serves()
	n.live, n.lastSeen, n.boot, n.draining = true, now, hb.Boot, hb.Draining
	n.total = hb.Slots
	n.slots = z.offers(now, n)
	if n.linkMbps != hb.LinkMbps || n.class != hb.Class {
		n.columns, n.columnsOf = api.NodeColumns{}, 0
	}
	z.hardware.add(hb.Class)
	if n.class != hb.Class {
		z.discount(n) // it stands among the open nodes of its class
	}
	n.memMB, n.linkMbps, n.class, n.clsName, n.cacheMax = hb.MemMB, hb.LinkMbps, hb.Class, hb.ClassName, hb.CacheMax
	n.unlisted = hb.CacheBytes
	for i := range hb.Objects {
		n.unlisted -= hb.Objects[i].Bytes
	}
	n.cores = 0
	if hb.Cores > 0 && !math.IsInf(hb.Cores, 1) {
		n.cores = hb.Cores
	}
	n.price, n.energy = 0, min(hb.EnergyClass, api.MaxEnergyClass)
	if hb.PricePerHour >= 0 && hb.PricePerHour <= api.MaxPrice {
		n.price = hb.PricePerHour
	}
	if !z.epoch.IsZero() && hb.Epoch.Compare(z.epoch) < 0 && now.Sub(z.helloAt) > helloEvery {
		z.helloAt = now
		out = append(out, Action{Kind: ActHello}) // it missed ours
	}
	if !z.epoch.IsZero() && hb.Epoch.Compare(z.epoch) > 0 {
		out = append(out, Action{Kind: ActFenced, Epoch: hb.Epoch})
	}
	// A dispatch that the node has not seen after a while is lost: its reports must count again.
	current := hb.SeenSeq >= n.sentSeq && (hb.Epoch == z.epoch || z.epoch.IsZero())
	if fresh || current || now.Sub(n.sentAt) > sightLost {
		n.apply(now, hb)
		z.adoptForeign(now, n, hb)
	}
	z.touch(n)
	if leaves {
		z.hopeLost(n)
	}
	out = z.lostRunning(now, n, lost, "its node restarted", out)
	return z.slotFreed(now, n, out)
}

// adoptForeign makes calls of an earlier leader occupy their slots, and frees those that have ended unseen.
func (z *Zone) adoptForeign(now time.Time, n *node, hb *wire.Heartbeat) {
	seen := make(map[string]bool, len(hb.Running))
	for i := range hb.Running {
		r := &hb.Running[i]
		seen[r.ID] = true
		known := false
		for _, k := range n.running {
			known = known || k.id == r.ID
		}
		if !known {
			h, memMB := z.holdingOf(r.Function), 0
			if s := n.sandbox(h); s != nil {
				memMB = max(s.memMB, 0)
			} else if h.fn != nil {
				memMB = h.fn.spec.MemoryMB
			}
			n.begin(&running{
				id: r.ID, h: h, memMB: memMB, start: now.Add(-time.Duration(r.Elapsed)*time.Millisecond - duration(z.linkMs.v)),
				mu: math.Log(math.Max(float64(r.Elapsed), 50)), sigma: 1, foreign: true,
			})
		}
	}
	for i := len(n.running) - 1; i >= 0; i-- {
		r := n.running[i]
		if seen[r.id] {
			continue
		}
		// Nobody waits for a prewarming, so nobody would miss one that was lost on its way until its wake, minutes later. A report that is
		// late does not know it yet.
		if p, ok := z.prewarms[r.id]; ok && now.Sub(r.start) > sightLost+duration(z.linkMs.v) {
			z.prewarmLost(now, r.id, p)
		}
		if r.foreign {
			n.end(now, i)
		}
	}
}

// sightLost is how long a report that has not seen our last dispatch is held to be older than it; helloEvery how often
// a node that missed the leader's first word hears it again.
const (
	sightLost  = time.Second
	helloEvery = time.Second
)

// maxNodes bounds the nodes that a zone remembers.
const maxNodes = 65536

// expire finds a silent node.
func (z *Zone) expire(now time.Time, n *node, out []Action) []Action {
	if !n.live || now.Sub(n.lastSeen) <= z.cfg.NodeTimeout {
		return out
	}
	n.live = false
	if n.listed { // it came back meanwhile: it stands by its last loss
		i := slices.Index(z.lostNodes, n)
		z.lostNodes = slices.Delete(z.lostNodes, i, i+1)
	}
	n.listed, z.lostNodes = true, append(z.lostNodes, n)
	z.counters.NodesLost++
	out = append(out, Action{Kind: ActNodeLost, Node: n.name})
	lost := n.endAll(now)
	z.touch(n)
	out = z.lostRunning(now, n, lost, "its node was lost", out)
	z.hopeLost(n)
	n.dropSandboxes()
	n.dropObjects()
	return out
}

// tick finds silent nodes and, while the core leads, sees to slots that nobody took, to sandboxes that are to be warm, and to grants.
func (z *Zone) tick(now time.Time, out []Action) []Action {
	z.grow(now)
	for _, n := range z.nodes {
		out = z.expire(now, n, out)
		if z.epoch.IsZero() {
			continue
		}
		if n.live && n.quarantined && !now.Before(n.avoidUntil) {
			n.quarantined, n.failures = false, 0
		}
		if n.usable(now) && n.free() > 0 && n.wanted() {
			out = z.slotFreed(now, n, out)
		}
	}
	if z.epoch.IsZero() {
		return out
	}
	z.forgetTenants(now)
	z.keepNode(now)
	out = z.keepWarm(now, out)
	return z.issueGrants(now, out)
}

// hopeLost: calls that wait for n, or have it as their fallback, must decide anew, since n is gone
// or takes nothing more.
func (z *Zone) hopeLost(n *node) {
	for _, w := range z.waiting {
		if w.hope == n || w.fallback == n {
			z.again(w)
		}
	}
}

// lostRunning ends or retries the calls that ran on n and were lost with it.
func (z *Zone) lostRunning(now time.Time, n *node, lost []*running, why string, out []Action) []Action {
	for _, r := range lost {
		delete(z.prewarms, r.id) // nothing failed: its node went
		c := z.calls[r.id]
		if c == nil || !c.on(n) {
			continue
		}
		if c.hedge.node != nil { // the other dispatch goes on
			if c.node == n {
				c.promote()
			}
			c.hedge = hedge{}
			continue
		}
		out = z.lost(now, c, why, out)
	}
	return out
}

// lost: c's execution came to nothing, and nobody knows how far it got. It runs again if it may.
func (z *Zone) lost(now time.Time, c *call, why string, out []Action) []Action {
	if c.inv.Retryable() && c.losses+1 < z.cfg.MaxAttempts && z.mayRetry() {
		c.losses++
		z.counters.Retries++
		return z.requeue(now, c, out)
	}
	return z.answerError(now, c, api.CodeUnavailable, "the call was running when "+why+"; it may or may not have had its effects", out)
}

// mayRetry keeps retries of calls that may have run below the budget; the first few are free so that a small zone can
// retry at all.
func (z *Zone) mayRetry() bool {
	return float64(z.counters.Retries) < 10+z.cfg.RetryBudget*float64(z.counters.Accepted)
}

// quarantine takes a node that fails again and again out of the draw for a while; never more than a third of those in service, never
// the last of its labels.
func (z *Zone) quarantine(now time.Time, n *node) {
	n.failures++
	if n.failures < quarantineAfter || n.quarantined {
		return
	}
	serving, out, like := 0, 0, 0
	for _, k := range z.nodes {
		switch {
		case !k.serves():
			continue
		case k.quarantined:
			out++
		case k != n && k.profile == n.profile:
			like++ // takes what n would have
		}
		serving++
	}
	if like == 0 || (out+1)*3 > serving {
		return
	}
	n.quarantined, n.avoidUntil = true, now.Add(quarantineFor)
}

// pause keeps n out of the draw for a moment; a longer absence stays as it is.
func (n *node) pause(now time.Time) {
	if until := now.Add(refusalPause); until.After(n.avoidUntil) {
		n.avoidUntil = until
	}
}

const (
	quarantineAfter = 3
	quarantineFor   = 5 * time.Second
	refusalPause    = 20 * time.Millisecond
)

// sigmaMax bounds the spread that the rest of a running call is computed with. With the spread of 2 of an unknown function
// a cold start that had run for a fifth of its time was expected to need longer than a new one.
const sigmaMax = 1

package sim

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// shard is one zone: its scheduler, its nodes, its learner, its callers.
type shard struct {
	clocked
	w    *World
	cfg  *Config
	at0  int32 // which zone
	name string
	void int // events in the heap that have lost their meaning, at least
	// rng draws what depends on decisions: latencies, losses, cold starts. Arrivals and crashes have sources of their own, so
	// they are the same under every policy.
	rng *rand.Rand

	core  *zonesched.Zone
	nodes []node
	laws  []law
	boots uint64
	// hostShare is the part of the speed that is left to each computation where all nodes share a host's cores; else 1.
	hostShare float64
	serials   uint64 // of runs
	ticks     uint64
	digests   uint64

	calls    []caller
	free     []int32
	named    map[string]int32 // calls whose ids do not tell where they are: foreign ones and a test's
	open     int
	counter  uint64 // calls that began here
	streams  []stream
	trace    []Recorded
	traced   int
	stats    []Stats
	onAnswer func(id string)
	answers  map[string]int
	leaves   []int64        // by zone: when the last of what was forwarded there has left
	execs    map[string]int // executions begun, by call
	results  map[string]*wire.Answer
	steps    []Step

	// learner is nil unless the zone learns.
	learner   *learner.Learner
	scratch   *learner.Scratch
	samples   uint64
	learned   bool // something that is not published yet
	published int64
	offerAt   int64 // earliest time of the next offer of trees
	offerSeq  uint64
	trainer   *trainer // nil unless forests are trained now and then; learner is the newest then

	starting  bool               // messages take no time
	acts      []zonesched.Action // spare
	ended     []work             // spare
	ids       [1]string
	violation string
}

// caller is an unanswered call: what its caller knows of it.
type caller struct {
	id      string
	arrived int64
	serial  uint32 // of the slot: what was said of an earlier call in it is void
	wake    uint32 // gen of the wake on its way
	fn      int32
	home    int32   // zone that it was forwarded from, -1: it began here
	knownMs float64 // its run time, if it was recorded
	waking  bool
	live    bool
	counted bool
	due     bool // it has a deadline
	safe    bool // it was held back since even the bound of the node that it could have had left time before the deadline
}

const tickEvery = 250 * time.Millisecond

func newShard(w *World, at int32, specs []api.Function) (*shard, error) {
	z := &w.cfg.Zones[at]
	seed := mix(w.cfg.Seed ^ mix(uint64(at)+1))
	s := &shard{
		w: w, cfg: &w.cfg, at0: at, name: z.Core.Zone, rng: rand.New(rand.NewPCG(seed, 0xda3e39cb94b95bdb)), named: map[string]int32{}, hostShare: 1,
		stats: make([]Stats, len(specs)), leaves: make([]int64, len(w.cfg.Zones)),
	}
	s.hash = foldBasis
	if w.cfg.Keep {
		s.answers, s.execs, s.results = map[string]int{}, map[string]int{}, map[string]*wire.Answer{}
	}
	core := z.Core
	if core.Seed == 0 {
		core.Seed = seed
	}
	if z.Rule != nil {
		core.Rule = z.Rule(func() time.Duration { return time.Duration(s.now) })
	}
	var err error
	if s.core, err = zonesched.New(core); err != nil {
		return nil, err
	}
	for i := range w.cfg.Functions {
		s.laws = append(s.laws, lawOf(&w.cfg.Functions[i]))
	}
	switch {
	case w.cfg.Learn.Oracle:
		s.step(&zonesched.Event{Kind: zonesched.EvModel, Predictor: s.distort(&oracle{s})})
	case w.cfg.Learn.Every > 0:
		lc := w.cfg.Learn.Config
		if lc.Window == 0 {
			lc = learner.DefaultConfig()
		}
		lc.Seed, lc.Zone = seed, s.name
		if r := &w.cfg.Learn.Retrain; r.Window > 0 {
			s.trainer = newTrainer(r, lc)
			lc = s.trainer.cfg
		}
		if s.learner, err = learner.New(lc); err != nil {
			return nil, err
		}
		s.scratch = learner.NewScratch()
		s.published = math.MinInt64 / 2
		if s.trainer != nil {
			s.publish() // it knows nothing, and makes rows of what is measured
		}
	}
	s.step(&zonesched.Event{Kind: zonesched.EvFunctions, Functions: specs})
	s.step(&zonesched.Event{Kind: zonesched.EvLead, Epoch: api.Epoch{Generation: 1, Revision: 1}})
	if err := s.makeNodes(z, seed); err != nil {
		return nil, err
	}
	s.makeStreams()
	for i := range w.cfg.Changes {
		s.at(int64(w.cfg.Changes[i].At), event{kind: evChange, ref: int32(i)})
	}
	s.at(int64(tickEvery), event{kind: evTick})
	return s, nil
}

// runUntil does everything before stop.
func (s *shard) runUntil(stop int64) {
	for len(s.heap) > 0 && s.heap[0].at < stop {
		e := s.heap.pop()
		s.now = e.at
		if s.isVoid(&e) {
			s.void--
			continue
		}
		s.executed(&e)
		s.do(&e)
		if s.void > 4096 && s.void > len(s.heap)/2 {
			s.heap.sweep(s.isVoid)
			s.void = 0
		}
	}
}

// isVoid: a wake or a deadline that nobody waits for any more, or an end that has moved. Wakes and deadlines are set for the
// end of a call's timeout, a minute ahead: without sweeping them the heap would be a hundred times as large as what is
// under way.
func (s *shard) isVoid(e *event) bool {
	switch e.kind {
	case evWake:
		c := &s.calls[e.ref]
		return !c.live || uint64(c.serial) != e.aux || c.wake != e.gen
	case evDeadline:
		n := &s.nodes[e.node]
		for i := range n.runs {
			if n.runs[i].serial == e.aux {
				return n.runs[i].deadline != e.gen
			}
		}
		return true
	case evCPU:
		return s.nodes[e.node].cpu.gen != e.gen
	case evLink:
		return s.nodes[e.node].link.gen != e.gen
	}
	return false
}

func (s *shard) do(e *event) {
	switch e.kind {
	case evTick:
		s.tick()
	case evDo:
		s.pay.take(e.ref).(func())()
	case evArrival:
		s.arrival(e.ref)
	case evTurn:
		s.nextArrival(e.ref)
	case evTrace:
		s.replay()
	case evChange:
		s.change(&s.cfg.Changes[e.ref])
	case evWake:
		c := &s.calls[e.ref]
		c.waking = false
		s.step(&zonesched.Event{Kind: zonesched.EvWake, ID: c.id, Gen: e.gen})
	case evReport:
		s.step(&zonesched.Event{Kind: zonesched.EvHeartbeat, Heartbeat: s.pay.take(e.ref).(*wire.Heartbeat)})
	case evComplete:
		m := s.pay.take(e.ref).(*wire.Completion)
		s.hash = fold(s.hash, luckOf(m.ID))
		s.step(&zonesched.Event{Kind: zonesched.EvCompletion, Completion: m})
	case evForward:
		s.forwardedIn(s.pay.take(e.ref).(*forward))
	case evForwarded:
		a := s.pay.take(e.ref).(*wire.Answer)
		s.hash = fold(s.hash, luckOf(a.ID))
		s.step(&zonesched.Event{Kind: zonesched.EvForwardDone, ID: a.ID, Answer: a})
	case evGrant:
		s.step(&zonesched.Event{Kind: zonesched.EvGrant, Grant: s.pay.take(e.ref).(*wire.Grant)})
	case evPool:
		s.adopt(s.pay.take(e.ref).(*pooled))
	case evShares:
		s.step(&zonesched.Event{Kind: zonesched.EvShares, Shares: s.pay.take(e.ref).([]api.Share)})
	default:
		s.nodeEvent(e)
	}
}

func (s *shard) tick() {
	s.step(&zonesched.Event{Kind: zonesched.EvTick})
	if t := s.trainer; t != nil && t.seen > t.trained && t.seen >= retrainFirst && s.now-t.at >= int64(s.cfg.Learn.Retrain.Every) {
		s.retrain()
	}
	if s.learned && s.now-s.published >= int64(s.cfg.Learn.Publish) {
		s.publish()
	}
	s.offer()
	if s.ticks++; s.ticks%4 == 0 && s.w.coord != nil {
		s.digests++
		l := s.core.Load()
		d := &api.Digest{
			Zone: s.name, Tier: s.cfg.Zones[s.at0].Core.Tier, Region: s.cfg.Zones[s.at0].Core.Region, Epoch: s.core.Epoch(), Seq: s.digests,
			Slots: l.Slots, Busy: l.Busy, Queued: l.Queued, Delayed: l.Delayed,
		}
		for _, f := range s.core.FunctionLoads(s.clock(), api.MaxDigestClasses) {
			d.Classes = append(d.Classes, api.ClassLoad{Class: f.Function, RatePerS: f.RatePerS, MeanMs: f.MeanMs})
		}
		s.post(-1, evDigest, d)
	}
	s.at(s.now+int64(tickEvery), event{kind: evTick})
}

// post sends to another zone, or to the coordinator (-1). What a forwarded call brings along takes its turn on the link; the
// sender alone knows of the turns, so zones still share nothing within a window.
func (s *shard) post(to int32, k kind, body any) {
	l, bytes, leaves := s.w.link(s.at0, to), int64(0), s.now
	if f, ok := body.(*forward); ok {
		bytes = f.inv.PayBytes + f.inv.InputBytes()
	}
	if bytes > 0 && l.Mbps > 0 {
		leaves = max(leaves, s.leaves[to]) + ns(float64(bytes)*8/(l.Mbps*1e3))
		s.leaves[to] = leaves
	}
	s.outbox = append(s.outbox, letter{at: leaves + int64(l.Way), to: to, kind: k, body: body})
}

// A generated id is "~", with which no caller's id begins, zone and function in 4 hex digits each, the call's number in its
// zone in 10, and the caller's slot in 6: whoever sees it finds what he needs without a map.
const idLen = 1 + 4 + 4 + 10 + 6

func (s *shard) newID(fn, slot int32) string {
	var b [idLen]byte
	b[0] = '~'
	hex(b[1:5], uint64(s.at0))
	hex(b[5:9], uint64(fn))
	hex(b[9:19], s.counter)
	hex(b[19:], uint64(slot))
	return string(b[:])
}

func hex(to []byte, x uint64) {
	for i := len(to) - 1; i >= 0; i-- {
		to[i] = "0123456789abcdef"[x&15]
		x >>= 4
	}
}

func unhex(s string) int32 {
	x := int32(0)
	for i := range len(s) {
		d := s[i] - '0'
		if d > 9 {
			d = s[i] - 'a' + 10
		}
		x = x<<4 | int32(d)
	}
	return x
}

// callerOf finds an unanswered call; -1 for none.
func (s *shard) callerOf(id string) int32 {
	if len(id) == idLen && id[0] == '~' && unhex(id[1:5]) == s.at0 {
		if i := unhex(id[19:]); i >= 0 && int(i) < len(s.calls) && s.calls[i].live && s.calls[i].id == id {
			return i
		}
	}
	if i, ok := s.named[id]; ok {
		return i
	}
	return -1
}

// functionOf finds the function of a dispatched call.
func (s *shard) functionOf(id string, fn *api.Function) int32 {
	if len(id) == idLen && id[0] == '~' {
		return unhex(id[5:9])
	}
	return s.w.fnAt[fnName{fn.Tenant, fn.Name}]
}

// luckOf is the part of the id that is the same under every policy.
func luckOf(id string) uint64 {
	if len(id) == idLen && id[0] == '~' {
		id = id[:19]
	}
	return foldString(foldBasis, id)
}

// newCaller takes a slot.
func (s *shard) newCaller(fn, home int32) int32 {
	var i int32
	if n := len(s.free); n > 0 {
		i = s.free[n-1]
		s.free = s.free[:n-1]
	} else {
		s.calls = append(s.calls, caller{})
		i = int32(len(s.calls) - 1)
	}
	c := &s.calls[i]
	*c = caller{arrived: s.now, serial: c.serial + 1, fn: fn, home: home, live: true}
	s.open++
	return i
}

// invoke takes a call with an id of its caller's.
func (s *shard) invoke(inv *api.Invocation) {
	if s.callerOf(inv.ID) >= 0 {
		s.violate("call %s is given twice", inv.ID)
		return
	}
	fn, ok := s.w.fnAt[fnName{inv.Tenant, inv.Function}]
	if !ok {
		s.violate("call %s of a function that is not there: %s", inv.ID, inv.FunctionID())
		return
	}
	i := s.newCaller(fn, -1)
	s.calls[i].id = inv.ID
	s.named[inv.ID] = i
	s.accept(i, inv)
}

func (s *shard) accept(i int32, inv *api.Invocation) {
	c := &s.calls[i]
	c.knownMs, _ = recordedMs(inv.Payload)
	c.due = inv.BudgetMs > 0 || s.cfg.Functions[c.fn].Spec.Objective.Deadline > 0
	if c.counted = s.now >= int64(s.cfg.Warmup); c.counted {
		st := &s.stats[c.fn]
		st.Calls++
		if c.due {
			st.Deadlines++
		}
	}
	s.step(&zonesched.Event{Kind: zonesched.EvArrive, Call: inv})
}

// forward is a call on its way to another zone.
type forward struct {
	inv   *api.Invocation
	home  int32
	grant uint64
	epoch api.Epoch
}

func (s *shard) forwardedIn(f *forward) {
	i := s.newCaller(s.w.fnAt[fnName{f.inv.Tenant, f.inv.Function}], f.home)
	s.calls[i].id = f.inv.ID
	s.calls[i].knownMs, _ = recordedMs(f.inv.Payload)
	s.named[f.inv.ID] = i
	s.step(&zonesched.Event{Kind: zonesched.EvArrive, Call: f.inv, GrantID: f.grant, GrantEpoch: f.epoch})
}

func (s *shard) answered(a *wire.Answer) {
	i := s.callerOf(a.ID)
	if s.answers != nil {
		s.answers[a.ID]++
		s.results[a.ID] = a
	}
	if i < 0 {
		s.violate("invocation %s is answered, and nobody waits for that", a.ID)
		return
	}
	c := &s.calls[i]
	s.hash = fold(s.hash, luckOf(a.ID))
	if c.waking {
		s.void++
	}
	if c.home >= 0 {
		s.post(c.home, evForwarded, a)
	} else if c.counted {
		s.count(c, a)
	}
	if len(s.named) > 0 {
		delete(s.named, a.ID)
	}
	c.live, c.id = false, ""
	s.free = append(s.free, i)
	s.open--
	if s.onAnswer != nil {
		s.onAnswer(a.ID)
	}
}

func (s *shard) count(c *caller, a *wire.Answer) {
	st, t := &s.stats[c.fn], &a.Timing
	// Until the node was done: that its word of it is late is the same for every call under every rule, and hides all else.
	total := ms(s.now - c.arrived - int64(s.cfg.Late))
	switch {
	case a.Code == api.CodeOK:
		st.Answered++
		st.TotalMs += total
		st.ExecMs += t.FetchMs + t.InitMs + t.RunMs
		st.DelayMs += t.DelayMs
		st.QueueMs += t.QueueMs
		st.FetchedBytes += t.FetchedBytes
		st.Latency.Add(total)
		if t.Start != api.SandboxWarm {
			st.ColdStarts++
		}
	case a.Refused, t.Decision == api.DecisionRefused: // the latter had been accepted, and no node could be in time
		st.Refused++
		if !c.due { // it gets no result, however long its caller would have waited
			st.Deadlines++
			st.Misses++
			st.Undue++
		}
	default:
		st.Failed++
	}
	if c.due && (t.Missed || a.Code != api.CodeOK) {
		st.Misses++
	}
	switch t.Decision {
	case api.DecisionDelayed:
		st.Delayed++
		if c.safe {
			st.SafeWaits++
			if t.Missed || a.Code != api.CodeOK {
				st.SafeWaitMisses++
			}
		}
	case api.DecisionForwarded:
		st.Forwarded++
	}
}

// step gives the zone's core an event and carries out what it asks for.
func (s *shard) step(ev *zonesched.Event) {
	buf := s.acts[:0]
	s.acts = nil // what follows may step again
	acts := s.core.Step(s.clock(), ev, buf)
	if s.cfg.Record {
		r := Step{At: s.clock(), Event: *ev}
		for i := range acts {
			r.Actions = append(r.Actions, acts[i].String())
		}
		s.steps = append(s.steps, r)
	}
	for i := range acts {
		s.zoneAction(&acts[i])
	}
	clear(acts)
	s.acts = acts
}

func (s *shard) zoneAction(a *zonesched.Action) {
	switch a.Kind {
	case zonesched.ActRun:
		n := nodeOf(a.Node)
		s.hash = fold(s.hash, uint64(n)<<8|uint64(a.Run.Echo.Kind))
		s.toNode(n, evRun, a.Run)
	case zonesched.ActWake:
		if i := s.callerOf(a.ID); i >= 0 {
			c := &s.calls[i]
			if c.waking {
				s.void++
			}
			c.wake, c.waking = a.Gen, true
			// A call that is held back gets a wake. Asked when it is answered, a core with few records would not know any more.
			// Under a deadline both waits ask for a latest safe start that lies ahead.
			switch s.core.DelayedBy(a.ID) {
			case policy.ClauseSafeWait.String(), policy.ClauseMemory.String():
				c.safe = c.safe || c.due
			}
			s.at(int64(a.At.Sub(start)), event{kind: evWake, ref: i, aux: uint64(c.serial), gen: a.Gen})
		}
	case zonesched.ActAnswer:
		s.answered(a.Answer)
	case zonesched.ActSample:
		s.sample(a.Sample)
	case zonesched.ActCancelRun:
		s.toNode(nodeOf(a.Node), evCancel, a.ID)
	case zonesched.ActAck:
		s.toNode(nodeOf(a.Node), evAck, a.ID)
	case zonesched.ActHello:
		for i := range s.nodes {
			s.toNode(int32(i), evHello, s.core.Epoch())
		}
	case zonesched.ActForward:
		s.post(s.w.zoneAt[a.To], evForward, &forward{a.Call, s.at0, a.GrantID, a.Epoch})
	case zonesched.ActGrant:
		s.post(s.w.zoneAt[a.To], evGrant, a.Grant)
	}
}

// sample lets the zone learn, and publishes the forest when it is time.
func (s *shard) sample(x *api.Sample) {
	if s.learner == nil {
		return
	}
	if s.samples++; s.samples > uint64(s.cfg.Learn.Eager) && s.samples%uint64(s.cfg.Learn.Every) != 0 {
		return
	}
	if s.trainer != nil {
		if s.trainer.add(x) {
			s.retrain()
		}
		return
	}
	s.learner.Learn(x)
	s.learned = true
	if s.now-s.published >= int64(s.cfg.Learn.Publish) {
		s.publish()
	}
}

func (s *shard) publish() {
	if f := s.cfg.Learn.Freeze; f > 0 && s.now >= int64(f) {
		return
	}
	s.learned, s.published = false, s.now
	var p zonesched.Predictor = s.learner.Snapshot().Estimator(s.scratch)
	if s.trainer != nil {
		p = boundless{p}
	}
	s.step(&zonesched.Event{Kind: zonesched.EvModel, Predictor: s.distort(p)})
}

func (s *shard) change(c *Change) {
	for i := range s.laws {
		if c.Function >= 0 && i != c.Function {
			continue
		}
		if c.Run > 0 {
			s.laws[i].runMs *= c.Run
		}
		if c.PerMB > 0 {
			s.laws[i].perMBMs *= c.PerMB
		}
	}
	if c.Class == "" || c.Speed <= 0 {
		return
	}
	for i := range s.nodes {
		if n := &s.nodes[i]; n.group.Core.Class == c.Class {
			s.passCPU(n)
			for k := range n.speed {
				n.speed[k] *= c.Speed
			}
			s.planCPU(n)
		}
	}
}

// delay draws the time of a message between the scheduler and a node; ok is false when it is lost.
func (s *shard) delay(n *node) (d int64, ok bool) {
	if s.starting {
		return 0, true
	}
	if s.rng.Float64() < s.cfg.Loss {
		return 0, false
	}
	return int64(n.group.Distance) + int64(s.rng.ExpFloat64()*float64(s.cfg.Latency)), true
}

func (s *shard) toNode(i int32, k kind, body any) {
	if d, ok := s.delay(&s.nodes[i]); ok {
		s.at(s.now+d, event{kind: k, node: i, ref: s.pay.put(body)})
	}
}

func (s *shard) toZone(n *node, k kind, body any) {
	if d, ok := s.delay(n); ok {
		if !s.starting {
			d += int64(s.cfg.Late)
		}
		s.at(s.now+d, event{kind: k, node: n.index, ref: s.pay.put(body)})
	}
}

func (s *shard) violate(format string, args ...any) {
	if s.violation == "" {
		s.violation = fmt.Sprintf("at %v in zone %s: ", time.Duration(s.now), s.name) + fmt.Sprintf(format, args...)
	}
}

// nodeOf is the index in a node's name, which ends in it.
func nodeOf(name string) int32 {
	i, err := strconv.Atoi(name[len(name)-5:])
	if err != nil {
		panic(err) // the world named it
	}
	return int32(i)
}

// recordedMs is the run time that a recorded call brings along, in its payload: the node's world reads it, and nobody between.
func recordedMs(payload []byte) (float64, bool) {
	if len(payload) != 8 {
		return 0, false
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(payload)), true
}

// Package sim drives the production cores (zonesched, nodeagent, learner and coordinator) in virtual time: several zones of
// many nodes, messages that take a drawn time and may be lost, nodes that crash and come back, functions that take the
// times of a given law. It holds no decision of its own: what it shows is what the cores do. It never touches a bus, a
// disk or a clock. Scenario files, traces and comparisons are sim/lab's.
//
// A run is a pure function of its Config: the same one gives the same Hash at any GOMAXPROCS. Each zone is a shard with a
// heap, a clock and sources of chance of its own. Shards run side by side for a window as long as the shortest way
// between two zones, within which nothing that one does can reach another; then messages between them are handed over, in
// order of shards and of sending.
//
// Durations are virtual time. A World is not safe for concurrent use; it uses several goroutines within Run.
package sim

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/coordinator"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/nodeagent"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// Limits of a world.
const (
	MaxZones     = 256
	MaxNodes     = 65536 // of a zone
	MaxFunctions = 4096
	MaxStreams   = 65536
	MaxObjects   = 1 << 20 // of all object sets
	MaxChanges   = 65536
	maxZoneName  = api.MaxNameLen - len("-00000")
)

// Nodes is a group of equal nodes of a zone.
type Nodes struct {
	Count int
	// Core sizes each; its name and zone are set by the world.
	Core nodeagent.Config
	// Cores is what running computations share: above it all slow down alike. 0: slots never share a core.
	Cores float64
	// Speed by Kernel, 1 being what functions' run times are given for; 0 is 1.
	Speed [kernels]float64
	// Drift is how far speeds wander slowly around that: by exp(Drift * sin) over DriftPeriod, each node with a phase of its own.
	Drift       float64
	DriftPeriod time.Duration
	// Distance is the fixed part of a message's one-way time to the zone's scheduler, StoreRTT what a fetch waits beside the
	// transfer itself.
	Distance time.Duration
	StoreRTT time.Duration
	// FetchPerMB is what a fetch takes of a core of speed 1 for each MB (10^6 bytes), beside the transfer, from when it is asked for.
	FetchPerMB time.Duration
	// Serial lets the link carry one thing after another instead of all at once in fair shares.
	Serial bool
	// MTBF is the mean time between a node's crashes (exponential; 0: none), Repair how long it is away then.
	MTBF   time.Duration
	Repair time.Duration
}

// Zone is one simulated zone.
type Zone struct {
	// Core configures its scheduler; Core.Zone names it, and Core.Seed is drawn from the world's when 0.
	Core  zonesched.Config
	Nodes []Nodes
	// HostCores is what the nodes' computations share beyond each node's own cores, where all nodes of the zone are one machine
	// (`rubato up`); 0: every node is a machine. Costs a pass over all nodes whenever a computation begins or ends.
	HostCores float64
	// Rule, if there is one, makes the scheduler's rule in place of the one that Core names. The clock tells the time since the
	// beginning: production's rules have none, but some that are known to fail need one.
	Rule func(clock func() time.Duration) policy.Policy
}

// Learning says how zones learn.
type Learning struct {
	// Every: one of so many samples is learned; 0 means that there is no model at all. The first Eager samples of a zone are
	// all learned, as in production: a forest that knows nothing costs every call, one that knows much gains little by more.
	Every, Eager int
	// Publish is the least time between two forests that the zone's core is given; 0: after every sample.
	Publish time.Duration
	// Config sizes the forests; its zone and seed are set by the world. Zero: learner.DefaultConfig.
	Config learner.Config
	// Retrain, if it has a window, is in place of learning online, and of exchanging trees.
	Retrain Retrain
	// Oracle gives the cores the true laws instead, Luck what chance has drawn for each call and its cold start, too: what
	// perfect learning, and perfect knowledge, would be worth. With Luck a cold start's time
	// follows from its call, else from the moment.
	Oracle, Luck bool
	// Noise multiplies each prediction by exp(Noise * standard normal), drawn once for each function and node.
	Noise float64
	// Fault is what is wrong with the model on purpose, from FaultAt on.
	Fault   Fault
	FaultAt time.Duration
	// Exchange is the least time between two offers of trees by a zone, from which the coordinator makes the pool that all zones
	// share; 0: each zone is alone.
	Exchange time.Duration
	// Freeze is from when on no new forest reaches the cores; 0: never.
	Freeze time.Duration
}

// Link is the way between two zones, the same in both directions.
type Link struct {
	A, B int
	// Way is the one-way time of a message. Mbps is what the payloads and inputs of forwarded calls cross it at, in each direction,
	// one call after another; 0: they take no time. Messages without either do not wait for them.
	Way  time.Duration
	Mbps float64
}

// Config of a world. All of its draws follow from Seed.
type Config struct {
	Seed      uint64
	Zones     []Zone
	Functions []Function
	Objects   []ObjectSet
	Streams   []Stream
	// Trace are recorded calls in order of time, instead of streams or beside them.
	Trace   []Recorded
	Changes []Change
	// Latency is the mean one-way time of a message within a zone (exponential), Loss the share of messages lost.
	Latency time.Duration
	Loss    float64
	// Late is added to all that nodes tell their scheduler: reports and completions. Stats leave out that an answer is late by it.
	Late time.Duration
	// Between is the one-way time of a message between zones, and between a zone and the coordinator; none of them is lost. Links
	// says otherwise for some pairs of zones. Windows are as long as the shortest of them all.
	Between time.Duration
	Links   []Link
	// Heartbeat is the nodes' reporting interval.
	Heartbeat time.Duration
	Learn     Learning
	// Warmup: calls that arrive before it are not counted.
	Warmup time.Duration
	// Record keeps every event of the zones' cores with its time, for a replay; Keep every answer by call.
	Record, Keep bool
}

// Validate reports the first fault.
func (c *Config) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{api.ErrInvalid}, args...)...)
	}
	switch {
	case len(c.Zones) < 1 || len(c.Zones) > MaxZones:
		return bad("%d zones: want 1-%d", len(c.Zones), MaxZones)
	case len(c.Functions) > MaxFunctions:
		return bad("%d functions: want at most %d", len(c.Functions), MaxFunctions)
	case len(c.Streams) > MaxStreams:
		return bad("%d streams of calls: want at most %d", len(c.Streams), MaxStreams)
	case len(c.Changes) > MaxChanges:
		return bad("%d changes, counting each function: want at most %d", len(c.Changes), MaxChanges)
	case c.Latency < 0 || c.Latency > time.Minute:
		return bad("latency %v: want 0-1m", c.Latency)
	case !(c.Loss >= 0 && c.Loss < 1):
		return bad("loss %v: want at least 0 and below 1", c.Loss)
	case c.Late < 0 || c.Late > time.Minute:
		return bad("reports late by %v: want 0-1m", c.Late)
	case !(c.Learn.Noise >= 0 && c.Learn.Noise <= 4) || c.Learn.Freeze < 0:
		return bad("noise %v of predictions, no new ones from %v on: want noise of 0-4 and no negative time", c.Learn.Noise, c.Learn.Freeze)
	case c.Learn.Fault > FaultSign || c.Learn.FaultAt < 0:
		return bad("fault %d of the model from %v on: want 0-%d and no negative time", c.Learn.Fault, c.Learn.FaultAt, FaultSign)
	case len(c.Zones) > 1 && (c.Between < 10*time.Microsecond || c.Between > time.Minute):
		return bad("%v between zones: want 10us-1m", c.Between)
	case c.Heartbeat < time.Millisecond:
		return bad("heartbeat %v: want at least 1ms", c.Heartbeat)
	case c.Learn.Every < 0 || c.Learn.Eager < 0 || c.Learn.Publish < 0 || c.Learn.Exchange < 0:
		return bad("learning one of %d samples, the first %d, forests every %v, offers every %v: want none negative", c.Learn.Every, c.Learn.Eager, c.Learn.Publish, c.Learn.Exchange)
	}
	if err := c.Learn.Retrain.validate(); err != nil {
		return err
	}
	for i := range c.Functions {
		if err := c.Functions[i].validate(); err != nil {
			return err
		}
	}
	for i := range c.Zones {
		if err := c.Zones[i].validate(); err != nil {
			return err
		}
	}
	pairs := map[[2]int]bool{}
	for i := range c.Links {
		l := &c.Links[i]
		pair := [2]int{min(l.A, l.B), max(l.A, l.B)}
		if l.A == l.B || pair[0] < 0 || pair[1] >= len(c.Zones) || pairs[pair] || l.Way < 10*time.Microsecond || l.Way > time.Minute || !(l.Mbps >= 0 && l.Mbps <= 1e6) {
			return bad("link %d: %+v: want two zones, each pair once, 10us-1m one way, 0-1e6 Mbit/s", i, *l)
		}
		pairs[pair] = true
	}
	count := 0
	for i := range c.Objects {
		if err := c.Objects[i].validate(); err != nil {
			return err
		}
		if count += c.Objects[i].Count; count > MaxObjects {
			return bad("%d objects in all sets up to %s: want at most %d", count, c.Objects[i].Name, MaxObjects)
		}
	}
	for i := range c.Streams {
		if err := c.Streams[i].validate(c); err != nil {
			return err
		}
	}
	for i := range c.Trace {
		if err := c.Trace[i].validate(c); err != nil {
			return fmt.Errorf("recorded call %d: %w", i, err)
		}
	}
	for i := range c.Changes {
		ch := &c.Changes[i]
		if ch.At < 0 || ch.Function < -1 || ch.Function >= len(c.Functions) || !factor(ch.Run) || !factor(ch.PerMB) || !factor(ch.Speed) || !factor(ch.Rate) {
			return bad("change %d at %v: want a time, a function below %d (or -1) and factors of 0 to 10,000", i, ch.At, len(c.Functions))
		}
	}
	return nil
}

// factor reports whether x is one that may change a law or a rate.
func factor(x float64) bool { return x >= 0 && x <= 1e4 }

func (z *Zone) validate() error {
	if err := api.CheckName("zone", z.Core.Zone); err != nil {
		return err
	}
	if len(z.Core.Zone) > maxZoneName {
		return fmt.Errorf("%w: zone %s: want a name of at most %d characters", api.ErrInvalid, z.Core.Zone, maxZoneName)
	}
	if !(z.HostCores >= 0 && z.HostCores <= 1e6) {
		return fmt.Errorf("%w: zone %s: %v cores of the host: want 0 (every node has its own) to 1e6", api.ErrInvalid, z.Core.Zone, z.HostCores)
	}
	count := 0
	for i := range z.Nodes {
		g := &z.Nodes[i]
		count += max(g.Count, 0)
		ok := g.Count >= 0 && g.Cores >= 0 && g.Drift >= 0 && g.Drift <= 2 && g.Distance >= 0 && g.StoreRTT >= 0 && g.FetchPerMB >= 0 && g.MTBF >= 0 && g.Repair >= 0 &&
			(g.Drift == 0 || g.DriftPeriod > 0) && (g.MTBF == 0 || g.MTBF >= time.Millisecond)
		for _, v := range g.Speed {
			ok = ok && (v == 0 || v >= .01 && v <= 100)
		}
		if !ok {
			return fmt.Errorf("%w: zone %s, nodes %d: %+v: want nothing negative, speeds of .01-100, a drift of at most 2 with its period, 1ms or more between crashes", api.ErrInvalid, z.Core.Zone, i, *g)
		}
	}
	if count > MaxNodes {
		return fmt.Errorf("%w: zone %s: %d nodes: want at most %d", api.ErrInvalid, z.Core.Zone, count, MaxNodes)
	}
	return nil
}

// Step is one recorded step of a zone's core.
type Step struct {
	At      time.Time
	Event   zonesched.Event
	Actions []string
}

// World is zones, their nodes, and the coordinator between them if there are several.
type World struct {
	cfg      Config
	shards   []*shard // one a zone
	coord    *coord   // nil with one zone
	zoneAt   map[string]int32
	fnAt     map[fnName]int32
	sets     []objects
	ways     map[[2]int32]Link // between zones, from and to
	shortest int64             // of all ways
	now      int64
}

// fnName finds a function without making a string of its id.
type fnName struct{ tenant, name string }

// start is where virtual time begins.
var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// New makes a world whose zones lead and whose nodes are up.
func New(cfg Config) (*World, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("sim: %w", err)
	}
	w := &World{cfg: cfg, zoneAt: map[string]int32{}, fnAt: map[fnName]int32{}}
	specs := make([]api.Function, len(cfg.Functions))
	for i := range cfg.Functions {
		specs[i] = cfg.Functions[i].Spec
		name := fnName{specs[i].Tenant, specs[i].Name}
		if _, twice := w.fnAt[name]; twice {
			return nil, fmt.Errorf("sim: %w: two functions %s: want names of their own", api.ErrInvalid, specs[i].ID())
		}
		w.fnAt[name] = int32(i)
	}
	for i := range cfg.Objects {
		w.sets = append(w.sets, makeObjects(&cfg.Objects[i], mix(cfg.Seed+uint64(i)*0x9e3779b97f4a7c15)))
	}
	w.makeWays()
	for i := range cfg.Zones {
		name := cfg.Zones[i].Core.Zone
		if _, twice := w.zoneAt[name]; twice {
			return nil, fmt.Errorf("sim: %w: two zones %s: want names of their own", api.ErrInvalid, name)
		}
		w.zoneAt[name] = int32(i)
	}
	for i := range cfg.Zones {
		s, err := newShard(w, int32(i), specs)
		if err != nil {
			return nil, fmt.Errorf("sim: zone %s: %w", cfg.Zones[i].Core.Zone, err)
		}
		w.shards = append(w.shards, s)
	}
	if len(cfg.Zones) > 1 {
		var err error
		if w.coord, err = newCoord(w); err != nil {
			return nil, fmt.Errorf("sim: %w", err)
		}
	}
	return w, nil
}

func (w *World) makeWays() {
	w.ways, w.shortest = map[[2]int32]Link{}, int64(w.cfg.Between)
	for _, l := range w.cfg.Links {
		w.ways[[2]int32{int32(l.A), int32(l.B)}], w.ways[[2]int32{int32(l.B), int32(l.A)}] = l, l
		w.shortest = min(w.shortest, int64(l.Way))
	}
}

// link is the way between two zones, or to the coordinator (-1).
func (w *World) link(from, to int32) Link {
	if l, ok := w.ways[[2]int32{from, to}]; ok {
		return l
	}
	return Link{Way: w.cfg.Between}
}

// Now is virtual time since the beginning.
func (w *World) Now() time.Duration { return time.Duration(w.now) }

// Run advances virtual time to until.
func (w *World) Run(until time.Duration) {
	end := int64(until)
	for {
		first, any := int64(0), false
		for _, h := range w.heaps() {
			if len(h.heap) > 0 && (!any || h.heap[0].at < first) {
				first, any = h.heap[0].at, true
			}
		}
		if !any || first > end {
			break
		}
		stop := end + 1
		if len(w.shards) > 1 {
			stop = min(stop, first+w.shortest)
		}
		w.window(stop)
		w.exchange()
	}
	w.now = max(w.now, end)
	for _, s := range w.shards {
		s.now = w.now
	}
}

func (w *World) heaps() []*clocked {
	all := make([]*clocked, 0, len(w.shards)+1)
	for _, s := range w.shards {
		all = append(all, &s.clocked)
	}
	if w.coord != nil {
		all = append(all, &w.coord.clocked)
	}
	return all
}

// window lets every shard do what lies before stop. Which goroutine does it makes no difference: shards share nothing that
// changes.
func (w *World) window(stop int64) {
	workers := min(runtime.GOMAXPROCS(0), len(w.shards))
	if workers == 1 {
		for _, s := range w.shards {
			s.runUntil(stop)
		}
	} else {
		var next atomic.Int64
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for i := int(next.Add(1)) - 1; i < len(w.shards); i = int(next.Add(1)) - 1 {
					w.shards[i].runUntil(stop)
				}
			})
		}
		wg.Wait()
	}
	if w.coord != nil {
		w.coord.runUntil(stop)
	}
}

// letter is a message to another zone, or to the coordinator (to -1).
type letter struct {
	at   int64
	to   int32
	kind kind
	body any
}

// exchange hands over what was sent between shards. Among events of one instant, letters come after what the receiver has
// planned itself, in order of senders and of sending: so it does not matter at which of several barriers they came.
func (w *World) exchange() {
	for from, h := range w.heaps() {
		for i := range h.outbox {
			l := &h.outbox[i]
			to := &w.shards[max(l.to, 0)].clocked
			if l.to < 0 {
				to = &w.coord.clocked
			}
			h.sent++
			to.heap.push(event{at: l.at, seq: 1<<63 | uint64(from)<<48 | h.sent, kind: l.kind, ref: to.pay.put(l.body)})
			*l = letter{}
		}
		h.outbox = h.outbox[:0]
	}
}

// clocked is what a shard is, whatever it simulates: a clock, a heap, messages to others, and the running hash.
type clocked struct {
	now    int64
	seq    uint64
	heap   heap
	pay    arena
	outbox []letter
	sent   uint64
	hash   uint64
	events uint64
}

// at schedules an event.
func (c *clocked) at(t int64, e event) {
	c.seq++
	e.at, e.seq = max(t, c.now), c.seq
	c.heap.push(e)
}

// executed folds an event into the trace hash. Payloads are not counted in order, so their places tell nothing; what they
// are about is folded where they are used.
func (c *clocked) executed(e *event) {
	c.events++
	h := fold(c.hash, uint64(e.at))
	h = fold(h, uint64(e.kind)<<56|uint64(uint32(e.node))<<24^uint64(e.gen))
	ref := e.ref
	if e.kind.hasPayload() {
		ref = 0
	}
	c.hash = fold(h, e.aux^uint64(uint32(ref)))
}

func (c *clocked) clock() time.Time { return start.Add(time.Duration(c.now)) }

// Hash is over all events executed so far: time, kind and ids, and what the zones decided.
func (w *World) Hash() uint64 {
	h := uint64(foldBasis)
	for _, c := range w.heaps() {
		h = fold(h, c.hash)
	}
	return h
}

// Events is how many events were executed.
func (w *World) Events() uint64 {
	n := uint64(0)
	for _, c := range w.heaps() {
		n += c.events
	}
	return n
}

// Violation is the first broken invariant, empty when none.
func (w *World) Violation() string {
	for _, s := range w.shards {
		if s.violation != "" {
			return s.violation
		}
	}
	return ""
}

// Core is a zone's scheduler. Only look at it.
func (w *World) Core(zone int) *zonesched.Zone { return w.shards[zone].core }

// Learned is what a zone's learner has come to; zero without one.
func (w *World) Learned(zone int) learner.Stats {
	if l := w.shards[zone].learner; l != nil {
		return l.Stats()
	}
	return learner.Stats{}
}

// Steps are the recorded steps of a zone's core, with Config.Record.
func (w *World) Steps(zone int) []Step { return w.shards[zone].steps }

// Answers counts a zone's answers by call, with Config.Keep.
func (w *World) Answers(zone int) map[string]int { return w.shards[zone].answers }

// Executions counts the executions that began on a zone's nodes by call, with Config.Keep.
func (w *World) Executions(zone int) map[string]int { return w.shards[zone].execs }

// Result is the last answer that a call got, nil for none yet, with Config.Keep.
func (w *World) Result(zone int, id string) *wire.Answer { return w.shards[zone].results[id] }

// OnAnswer lets f hear every answer of a zone; it must touch nothing that another zone's f touches.
func (w *World) OnAnswer(zone int, f func(id string)) { w.shards[zone].onAnswer = f }

// FunctionStats is what callers saw of each function, over all zones, by the order in Config.
func (w *World) FunctionStats() []Stats {
	out := make([]Stats, len(w.cfg.Functions))
	for _, s := range w.shards {
		for i := range s.stats {
			out[i].Add(&s.stats[i])
		}
		for i := range s.calls {
			if c := &s.calls[i]; c.live && c.counted {
				out[c.fn].Open++
				if c.due {
					out[c.fn].OpenDue++
				}
			}
		}
	}
	return out
}

// Open is how many calls have not been answered yet.
func (w *World) Open() int {
	n := 0
	for _, s := range w.shards {
		n += s.open
	}
	return n
}

// At calls f at a time since the beginning, as an event of a zone; f may act on that zone only.
func (w *World) At(zone int, t time.Duration, f func()) {
	s := w.shards[zone]
	s.at(int64(t), event{kind: evDo, ref: s.pay.put(f)})
}

// ZoneNow is the zone's own time, for functions given to At.
func (w *World) ZoneNow(zone int) time.Duration { return time.Duration(w.shards[zone].now) }

// Invoke gives a zone a call. Its id must not be that of an unanswered one.
func (w *World) Invoke(zone int, inv *api.Invocation) { w.shards[zone].invoke(inv) }

// Cancel ends a call for its caller.
func (w *World) Cancel(zone int, id string) {
	w.shards[zone].step(&zonesched.Event{Kind: zonesched.EvCancel, ID: id, Reason: "canceled by its caller"})
}

// Model gives a zone's core a predictor.
func (w *World) Model(zone int, p zonesched.Predictor) {
	w.shards[zone].step(&zonesched.Event{Kind: zonesched.EvModel, Predictor: p})
}

// Command puts a rule and a mode in force for a zone, as an operator's does.
func (w *World) Command(zone int, rule string, m zonesched.Mode) {
	cfg := w.cfg.Zones[zone].Core.PolicyConfig
	w.shards[zone].step(&zonesched.Event{Kind: zonesched.EvPolicy, PolicyName: rule, PolicyConfig: cfg, Mode: m})
}

// Nodes is how many nodes a zone has.
func (w *World) Nodes(zone int) int { return len(w.shards[zone].nodes) }

// Crash ends the process of a zone's node at once; Restart begins a new one.
func (w *World) Crash(zone, node int) { w.shards[zone].crash(int32(node)) }

// Restart begins a new process on a node that is down.
func (w *World) Restart(zone, node int) { w.shards[zone].restart(int32(node)) }

// coord is the coordinator's core as a shard of its own, one message away from every zone. It plans shares and merges trees.
type coord struct {
	clocked
	w       *World
	planner *coordinator.Planner
	gen     uint32
	shelf   poolShelf
}

func newCoord(w *World) (*coord, error) {
	p, err := coordinator.New(coordinator.DefaultConfig())
	if err != nil {
		return nil, err
	}
	c := &coord{w: w, planner: p, shelf: poolShelf{trees: map[string]*learner.Tree{}, updates: map[offerKey]learner.Update{}}}
	names := make([]string, len(w.cfg.Zones))
	for i := range w.cfg.Zones {
		names[i] = w.cfg.Zones[i].Core.Zone
	}
	c.step(&coordinator.Event{Kind: coordinator.ZonesChanged, Zones: names})
	c.step(&coordinator.Event{Kind: coordinator.LeaderChanged, Leading: true})
	return c, nil
}

func (c *coord) runUntil(stop int64) {
	for len(c.heap) > 0 && c.heap[0].at < stop {
		e := c.heap.pop()
		c.now = e.at
		switch e.kind {
		case evDigest:
			c.executed(&e)
			d := c.pay.take(e.ref).(*api.Digest)
			c.hash = fold(fold(c.hash, d.Seq), uint64(d.Busy)<<32|uint64(d.Queued))
			c.step(&coordinator.Event{Kind: coordinator.DigestArrived, Digest: *d})
		case evOffer:
			c.executed(&e)
			c.offer(c.pay.take(e.ref).(*offered))
		case evPlan:
			if e.gen == c.gen {
				c.executed(&e)
				c.step(&coordinator.Event{Kind: coordinator.Tick})
			}
		}
	}
}

func (c *coord) step(ev *coordinator.Event) {
	for _, a := range c.planner.Step(c.clock(), ev, nil) {
		switch a.Kind {
		case coordinator.ProposeShares: // a log that commits at once
			for i := range c.w.shards {
				c.outbox = append(c.outbox, letter{at: c.now + int64(c.w.cfg.Between), to: int32(i), kind: evShares, body: a.Shares})
			}
			for i := range a.Shares {
				c.hash = fold(foldString(foldString(c.hash, a.Shares[i].From), a.Shares[i].To), uint64(a.Shares[i].Permille))
			}
			c.step(&coordinator.Event{Kind: coordinator.SharesChanged, Shares: a.Shares})
		case coordinator.Merge:
			c.merge(a.MergeID, a.Updates)
		case coordinator.Wake:
			c.gen++
			c.at(c.now+max(int64(a.After), 1), event{kind: evPlan, gen: c.gen})
		}
	}
}

// Package sim drives the production cores (zonesched and nodeagent) in virtual time: messages take a drawn time and
// may be lost, nodes crash and come back, functions take the times of a given model. A run is a pure function of its
// seed. It never touches a bus, a disk or a clock, and holds no decision of its own: what it shows is what the cores
// do. Durations are time.Duration of virtual time. Not safe for concurrent use.
package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/nodeagent"
	"github.com/rubato-faas/rubato/zonesched"
)

// Function is one function of a simulated zone, with its true times.
type Function struct {
	Spec    api.Function
	Prepare time.Duration
	Start   time.Duration
	Run     time.Duration
	// PerMB is added to Run for each MB (10^6 bytes) of input.
	PerMB time.Duration
	// Spread multiplies run times by exp(Spread * standard normal).
	Spread float64
	// Crash is the share of runs that end in a crash, Hang of those that never end by themselves.
	Crash, Hang float64
}

// Config of one simulated zone.
type Config struct {
	Seed      uint64
	Zone      zonesched.Config
	Node      nodeagent.Config
	Nodes     int
	Functions []Function
	// Latency is the mean one-way time of a message (exponential), Loss the share of messages lost.
	Latency time.Duration
	Loss    float64
	// Heartbeat is the nodes' reporting interval.
	Heartbeat time.Duration
	// Record keeps every event of the zone's core with its time, for a replay.
	Record bool
	// Learn lets a learner take every sample; the zone's core predicts with its forest from then on.
	Learn bool
}

// Step is one recorded step of the zone's core.
type Step struct {
	At      time.Time
	Event   zonesched.Event
	Actions []string
}

// World is one zone and its nodes.
type World struct {
	cfg   Config
	rng   *rand.Rand
	now   time.Time
	queue events
	seq   uint64

	Zone  *zonesched.Zone
	nodes []*node
	fns   map[string]*Function
	boots uint64
	// learner and scratch are nil unless the world learns.
	learner *learner.Learner
	scratch *learner.Scratch

	// Answers counts answers by invocation; Refused those that were refused at the door.
	Answers  map[string]int
	Accepted map[string]bool
	Results  map[string]*wire.Answer
	// OnAnswer, if set, hears every answer.
	OnAnswer func(id string)
	Steps    []Step
	// Violation is the first broken invariant, empty when none.
	Violation string
}

type node struct {
	name    string
	core    *nodeagent.Node
	up      bool
	epoch   api.Epoch // as on its disk
	gen     int       // of the process: what an earlier one scheduled is void
	running map[string]int
	link    time.Time       // when the node's link has carried all that it was asked to
	boxes   map[uint64]bool // sandboxes that are up
}

type event struct {
	at  time.Time
	seq uint64
	do  func()
}

type events []*event

// Len, Less, Swap, Push and Pop serve container/heap.
func (q events) Len() int { return len(q) }

// Less orders by time, then by order of scheduling.
func (q events) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].seq < q[j].seq
}

// Swap serves container/heap.
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push serves container/heap.
func (q *events) Push(x any) { *q = append(*q, x.(*event)) }

// Pop serves container/heap.
func (q *events) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

// start is where virtual time begins.
var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// New makes a world whose zone leads and whose nodes are up.
func New(cfg Config) (*World, error) {
	w := &World{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0xda3e39cb94b95bdb)), now: start, fns: map[string]*Function{},
		Answers: map[string]int{}, Accepted: map[string]bool{}, Results: map[string]*wire.Answer{},
	}
	var err error
	if w.Zone, err = zonesched.New(cfg.Zone); err != nil {
		return nil, err
	}
	var specs []api.Function
	for i := range cfg.Functions {
		f := &cfg.Functions[i]
		w.fns[f.Spec.ID()] = f
		specs = append(specs, f.Spec)
	}
	if cfg.Learn {
		lc := learner.DefaultConfig()
		lc.Seed, lc.Zone = cfg.Seed, cfg.Zone.Zone
		if w.learner, err = learner.New(lc); err != nil {
			return nil, err
		}
		w.scratch = learner.NewScratch()
	}
	w.step(&zonesched.Event{Kind: zonesched.EvFunctions, Functions: specs})
	w.step(&zonesched.Event{Kind: zonesched.EvLead, Epoch: api.Epoch{Generation: 1, Revision: 1}})
	for i := range cfg.Nodes {
		n := &node{name: fmt.Sprintf("n%03d", i)}
		w.nodes = append(w.nodes, n)
		w.boot(n)
	}
	w.every(250*time.Millisecond, func() { w.step(&zonesched.Event{Kind: zonesched.EvTick}) })
	return w, nil
}

// Now is virtual time since the beginning.
func (w *World) Now() time.Duration { return w.now.Sub(start) }

// At schedules f at a time since the beginning.
func (w *World) At(t time.Duration, f func()) { w.at(start.Add(t), f) }

func (w *World) at(t time.Time, f func()) {
	w.seq++
	heap.Push(&w.queue, &event{at: t, seq: w.seq, do: f})
}

func (w *World) after(d time.Duration, f func()) { w.at(w.now.Add(d), f) }

func (w *World) every(d time.Duration, f func()) {
	w.after(d, func() { f(); w.every(d, f) })
}

// Run advances virtual time to until.
func (w *World) Run(until time.Duration) {
	end := start.Add(until)
	for len(w.queue) > 0 && !w.queue[0].at.After(end) {
		e := heap.Pop(&w.queue).(*event)
		w.now = e.at
		e.do()
	}
	w.now = end
}

// Invoke gives the zone a call.
func (w *World) Invoke(inv *api.Invocation) {
	w.Accepted[inv.ID] = true
	w.step(&zonesched.Event{Kind: zonesched.EvArrive, Call: inv})
}

// Cancel ends a call for its caller.
func (w *World) Cancel(id string) {
	w.step(&zonesched.Event{Kind: zonesched.EvCancel, ID: id, Reason: "test"})
}

// Model gives the zone's core a predictor.
func (w *World) Model(p zonesched.Predictor) {
	w.step(&zonesched.Event{Kind: zonesched.EvModel, Predictor: p})
}

// send delivers f after a drawn latency, or never.
func (w *World) send(f func()) {
	if w.rng.Float64() < w.cfg.Loss {
		return
	}
	w.after(time.Duration(w.rng.ExpFloat64()*float64(w.cfg.Latency)), f)
}

func (w *World) step(ev *zonesched.Event) {
	acts := w.Zone.Step(w.now, ev, nil)
	if w.cfg.Record {
		s := Step{At: w.now, Event: *ev}
		for i := range acts {
			s.Actions = append(s.Actions, acts[i].String())
		}
		w.Steps = append(w.Steps, s)
	}
	for i := range acts {
		w.zoneAction(&acts[i])
	}
}

func (w *World) zoneAction(a *zonesched.Action) {
	switch a.Kind {
	case zonesched.ActRun:
		m := *a.Run
		w.toNode(a.Node, func(n *node) { w.nodeStep(n, &nodeagent.Event{Kind: nodeagent.EvRun, Run: &m}) })
	case zonesched.ActWake:
		id, gen := a.ID, a.Gen
		w.at(a.At, func() { w.step(&zonesched.Event{Kind: zonesched.EvWake, ID: id, Gen: gen}) })
	case zonesched.ActAnswer:
		w.Answers[a.ID]++
		w.Results[a.ID] = a.Answer
		if w.OnAnswer != nil {
			w.OnAnswer(a.ID)
		}
		if w.Answers[a.ID] > 1 {
			w.violate("invocation %s answered %d times", a.ID, w.Answers[a.ID])
		}
	case zonesched.ActSample:
		if w.learner != nil {
			w.learner.Learn(a.Sample)
			w.Model(w.learner.Snapshot().Estimator(w.scratch))
		}
	case zonesched.ActCancelRun:
		id, epoch := a.ID, w.Zone.Epoch()
		w.toNode(a.Node, func(n *node) { w.nodeStep(n, &nodeagent.Event{Kind: nodeagent.EvCancel, ID: id, Epoch: epoch}) })
	case zonesched.ActAck:
		id := a.ID
		w.toNode(a.Node, func(n *node) { w.nodeStep(n, &nodeagent.Event{Kind: nodeagent.EvAck, IDs: []string{id}}) })
	case zonesched.ActHello:
		epoch := w.Zone.Epoch()
		for _, n := range w.nodes {
			w.toNode(n.name, func(n *node) { w.nodeStep(n, &nodeagent.Event{Kind: nodeagent.EvHello, Epoch: epoch}) })
		}
	}
}

func (w *World) toNode(name string, f func(*node)) {
	for _, n := range w.nodes {
		if n.name == name {
			w.send(func() {
				if n.up {
					f(n)
				}
			})
		}
	}
}

func (w *World) violate(format string, args ...any) {
	if w.Violation == "" {
		w.Violation = fmt.Sprintf("at %v: ", w.Now()) + fmt.Sprintf(format, args...)
	}
}

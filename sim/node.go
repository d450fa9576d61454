package sim

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/nodeagent"
)

// node is one worker machine: the production core, and the hardware beneath it.
type node struct {
	index int32
	group *Nodes
	core  *nodeagent.Node
	up    bool
	epoch api.Epoch // as on its disk
	gen   uint32    // of the process: what an earlier one asked for is void
	runs  []run     // accepted by the core, not completed
	boxes []uint64  // sandboxes that are up or starting

	speed [kernels]float64
	phase float64 // of its drift
	cpu   shared
	link  shared
	rates [kernels]float64 // of cpu, since cpu.last
	takes float64          // cores of the host that its computations would keep busy

	faults *rand.Rand // nil: it never crashes
}

// run is a call on a node.
type run struct {
	id       string
	serial   uint64
	deadline uint32 // gen of the deadline on its way
	running  bool
}

func (s *shard) makeNodes(z *Zone, seed uint64) error {
	for g := range z.Nodes {
		group := &z.Nodes[g]
		for range group.Count {
			i := int32(len(s.nodes))
			own := mix(seed + uint64(i)*0x9e3779b97f4a7c15)
			n := node{index: i, group: group, phase: 2 * math.Pi * float64(own>>11) / (1 << 53)}
			for k := range n.speed {
				if n.speed[k] = group.Speed[k]; n.speed[k] == 0 {
					n.speed[k] = 1
				}
			}
			if group.MTBF > 0 {
				n.faults = rand.New(rand.NewPCG(own, 0x94d049bb133111eb))
			}
			s.nodes = append(s.nodes, n)
		}
	}
	s.starting = true // the world begins with nodes that are known
	defer func() { s.starting = false }()
	for i := range s.nodes {
		n := &s.nodes[i]
		if err := s.boot(n); err != nil {
			return err
		}
		// Nodes do not report in step.
		s.at(int64(float64(s.cfg.Heartbeat)*(n.phase/(2*math.Pi))), event{kind: evBeat, node: n.index, gen: n.gen})
		s.nextCrash(n)
	}
	return nil
}

// boot starts a node's process, with the epoch that is on its disk and nothing else.
func (s *shard) boot(n *node) error {
	s.boots++
	cfg := n.group.Core
	cfg.Cores = n.group.Cores
	cfg.Name, cfg.Zone = fmt.Sprintf("%s-%05d", s.name, n.index), s.name
	core, err := nodeagent.New(cfg, s.boots, n.epoch)
	if err != nil {
		return err
	}
	n.core, n.up = core, true
	n.gen++
	s.nodeStep(n, &nodeagent.Event{Kind: nodeagent.EvTick})
	return nil
}

func (s *shard) nextCrash(n *node) {
	if n.faults != nil {
		s.at(s.now+ahead(n.faults.ExpFloat64()*float64(n.group.MTBF)), event{kind: evCrash, node: n.index})
	}
}

func (s *shard) crash(i int32) {
	n := &s.nodes[i]
	if !n.up {
		return
	}
	n.up = false
	for k := range n.runs {
		if n.runs[k].deadline != 0 {
			s.void++
		}
	}
	clear(n.runs)
	n.runs, n.boxes = n.runs[:0], n.boxes[:0]
	for _, r := range []*shared{&n.cpu, &n.link} {
		if r.due != 0 {
			s.void++
		}
		r.reset(s.now)
	}
	s.planCPU(n) // for the others, if they have its cores now
}

func (s *shard) restart(i int32) {
	n := &s.nodes[i]
	if n.up {
		return
	}
	if err := s.boot(n); err != nil {
		s.violate("node does not start: %v", err)
		return
	}
	s.at(s.now+int64(s.cfg.Heartbeat), event{kind: evBeat, node: i, gen: n.gen})
}

// nodeEvent is what happens at a node.
func (s *shard) nodeEvent(e *event) {
	n := &s.nodes[e.node]
	switch e.kind {
	case evCrash:
		s.crash(e.node)
		s.at(s.now+max(int64(n.group.Repair), 1), event{kind: evRestart, node: e.node})
		return
	case evRestart:
		s.restart(e.node)
		s.nextCrash(n)
		return
	case evRun, evCancel, evAck, evHello, evNode:
		body := s.pay.take(e.ref)
		if n.up {
			s.told(n, e, body)
		}
		return
	}
	if !n.up || (e.kind == evBeat && e.gen != n.gen) {
		return
	}
	switch e.kind {
	case evBeat:
		s.nodeStep(n, &nodeagent.Event{Kind: nodeagent.EvTick})
		s.at(s.now+int64(s.cfg.Heartbeat), event{kind: evBeat, node: e.node, gen: n.gen})
	case evDeadline:
		for i := range n.runs {
			if r := &n.runs[i]; r.serial == e.aux {
				r.deadline = 0
				s.nodeStep(n, &nodeagent.Event{Kind: nodeagent.EvDeadline, ID: r.id, Gen: e.gen})
				break
			}
		}
	case evCPU:
		n.cpu.due = 0
		s.passCPU(n)
		s.finish(n, n.cpu.over(&n.rates, s.ended[:0]))
		s.planCPU(n)
	case evLink:
		n.link.due = 0
		rates := n.linkRates()
		n.link.advance(s.now, &rates)
		s.finish(n, n.link.over(&rates, s.ended[:0]))
		s.planLink(n)
	}
}

// told brings a message, or what its shell has done, to a node's core.
func (s *shard) told(n *node, e *event, body any) {
	switch e.kind {
	case evRun:
		m := body.(*wire.Run)
		s.hash = fold(s.hash, luckOf(m.Call.ID))
		s.nodeStep(n, &nodeagent.Event{Kind: nodeagent.EvRun, Run: m})
	case evCancel:
		s.nodeStep(n, &nodeagent.Event{Kind: nodeagent.EvCancel, ID: body.(string), Epoch: s.core.Epoch()})
	case evAck:
		s.ids[0] = body.(string)
		s.nodeStep(n, &nodeagent.Event{Kind: nodeagent.EvAck, IDs: s.ids[:]})
	case evHello:
		s.nodeStep(n, &nodeagent.Event{Kind: nodeagent.EvHello, Epoch: body.(api.Epoch)})
	case evNode:
		if e.gen == n.gen {
			s.nodeStep(n, body.(*nodeagent.Event))
		}
	}
}

func (s *shard) nodeStep(n *node, ev *nodeagent.Event) {
	var few [4]nodeagent.Action
	for _, a := range n.core.Step(s.clock(), ev, few[:0]) {
		s.nodeAction(n, &a)
	}
	if used := n.core.InUse(); used > n.core.Slots() || len(n.runs) > n.core.Slots() {
		s.violate("node %d uses %d slots (runs %d) of %d", n.index, used, len(n.runs), n.core.Slots())
	}
	if n.core.MemUsedMB() > n.group.Core.MemoryMB {
		s.violate("node %d uses %d MB of %d", n.index, n.core.MemUsedMB(), n.group.Core.MemoryMB)
	}
}

// later gives the node's present process an event after some time.
func (s *shard) later(n *node, d int64, ev *nodeagent.Event) {
	s.at(s.now+d, event{kind: evNode, node: n.index, gen: n.gen, ref: s.pay.put(ev)})
}

func (s *shard) nodeAction(n *node, a *nodeagent.Action) {
	switch a.Kind {
	case nodeagent.ActPersistEpoch:
		if a.Epoch.Compare(n.epoch) < 0 {
			s.violate("node %d goes back from epoch %v to %v", n.index, n.epoch, a.Epoch)
		}
		n.epoch = a.Epoch
	case nodeagent.ActFetch:
		s.transfer(n, work{left: float64(a.Bytes), what: doFetch, key: a.Key})
	case nodeagent.ActFetchArtifact:
		s.transfer(n, work{left: float64(a.Fn.ArtifactBytes), what: doArtifact, key: a.Digest})
	case nodeagent.ActPrepare:
		l := s.lawOf(a.Fn)
		s.compute(n, work{left: s.cold(&a.Run.Call, doPrepare, l.prepareMs, l.coldSpread), what: doPrepare, key: a.Digest})
	case nodeagent.ActStart:
		n.boxes = append(n.boxes, a.Sandbox)
		l := s.lawOf(a.Fn)
		s.compute(n, work{left: s.cold(&a.Run.Call, doStart, l.startMs, l.coldSpread), what: doStart, sandbox: a.Sandbox})
	case nodeagent.ActExec:
		s.exec(n, a)
	case nodeagent.ActStop:
		s.stop(n, a)
	case nodeagent.ActClose:
		for i, b := range n.boxes {
			if b == a.Sandbox {
				n.boxes = append(n.boxes[:i], n.boxes[i+1:]...)
				break
			}
		}
	case nodeagent.ActDeadline:
		r := n.run(a.ID)
		if r == nil {
			s.serials++
			n.runs = append(n.runs, run{id: a.ID, serial: s.serials})
			r = &n.runs[len(n.runs)-1]
		} else if r.deadline != 0 {
			s.void++
		}
		r.deadline = a.Gen
		s.at(int64(a.At.Sub(start)), event{kind: evDeadline, node: n.index, aux: r.serial, gen: a.Gen})
	case nodeagent.ActComplete:
		if a.Completion.Outcome != api.OutcomeRefused && !a.Completion.Resent {
			s.endRun(n, a.Completion.ID)
		}
		s.toZone(n, evComplete, a.Completion)
	case nodeagent.ActReport:
		s.toZone(n, evReport, n.core.Heartbeat(s.clock()))
	}
}

func (s *shard) lawOf(fn *api.Function) *law { return &s.laws[s.w.fnAt[fnName{fn.Tenant, fn.Name}]] }

// cold draws the time of one step of a cold start that call asks for. Where an oracle is to know it, it follows from the call, as
// the luck of its run does, and not from all that was drawn before.
func (s *shard) cold(call *api.Invocation, what what, ms, spread float64) float64 {
	switch {
	case spread == 0:
		return ms
	case s.cfg.Learn.Luck:
		return s.coldOf(call.ID, call.Attempt, what, ms, spread)
	}
	return ms * math.Exp(spread*s.rng.NormFloat64())
}

// coldOf is that time for a call.
func (s *shard) coldOf(call string, attempt uint8, what what, ms, spread float64) float64 {
	z, _ := luck(mix(s.cfg.Seed+uint64(what)), luckOf(call), attempt)
	return ms * math.Exp(spread*z)
}

func (n *node) run(id string) *run {
	for i := range n.runs {
		if n.runs[i].id == id {
			return &n.runs[i]
		}
	}
	return nil
}

func (s *shard) endRun(n *node, id string) {
	for i := range n.runs {
		if n.runs[i].id == id {
			if n.runs[i].deadline != 0 {
				s.void++
			}
			last := len(n.runs) - 1
			n.runs[i] = n.runs[last]
			n.runs[last] = run{}
			n.runs = n.runs[:last]
			return
		}
	}
}

// exec runs a call for its time. Two runs in one sandbox at a time would be a bug of the node.
func (s *shard) exec(n *node, a *nodeagent.Action) {
	r := n.run(a.ID)
	up := false
	for _, b := range n.boxes {
		up = up || b == a.Sandbox
	}
	if !up || r == nil || r.running {
		s.violate("node %d runs %s in a sandbox that is not up, or twice", n.index, a.ID)
		return
	}
	r.running = true
	if s.execs != nil {
		s.execs[a.ID]++
	}
	call := &a.Run.Call
	l := &s.laws[s.functionOf(call.ID, &a.Run.Fn)]
	z, u := luck(s.cfg.Seed, luckOf(call.ID), call.Attempt)
	if u < l.hang {
		return // only a stop ends it
	}
	run, known := recordedMs(call.Payload)
	if !known {
		run = l.medianMs(call.InputBytes()+call.PayBytes) * math.Exp(l.spread*z)
	}
	s.compute(n, work{left: run, what: doExec, kernel: l.kernel, serial: r.serial, sandbox: a.Sandbox, crashes: u < l.hang+l.crash})
}

func (s *shard) stop(n *node, a *nodeagent.Action) {
	if r := n.run(a.ID); r != nil {
		s.passCPU(n)
		for i := range n.cpu.jobs {
			if w := &n.cpu.jobs[i]; w.what == doExec && w.serial == r.serial {
				n.cpu.jobs = append(n.cpu.jobs[:i], n.cpu.jobs[i+1:]...)
				break
			}
		}
		s.planCPU(n)
	}
	s.later(n, 1e6, &nodeagent.Event{
		Kind: nodeagent.EvExecuted, ID: a.ID, Sandbox: a.Sandbox, Outcome: a.Outcome, Code: api.CodeCanceled, Err: "stopped", Broken: true,
	})
}

// finish tells a node's core what has ended.
func (s *shard) finish(n *node, ended []work) {
	gen := n.gen
	for i := range ended {
		w := &ended[i]
		if !n.up || n.gen != gen {
			break
		}
		switch w.what {
		case doExec:
			for k := range n.runs {
				if n.runs[k].serial == w.serial {
					ev := nodeagent.Event{Kind: nodeagent.EvExecuted, ID: n.runs[k].id, Sandbox: w.sandbox, Result: okResult}
					if w.crashes {
						ev.Outcome, ev.Code, ev.Err, ev.Broken, ev.Result = api.OutcomeCrash, api.CodeFunction, "crashed", true, nil
					}
					s.nodeStep(n, &ev)
					break
				}
			}
		case doPrepare:
			s.nodeStep(n, &nodeagent.Event{Kind: nodeagent.EvPrepared, Digest: w.key})
		case doStart:
			s.nodeStep(n, &nodeagent.Event{Kind: nodeagent.EvStarted, Sandbox: w.sandbox})
		case doFetch, doArtifact:
			if c := n.copying(w.key); c != nil {
				c.then = w.what
			} else {
				s.fetched(n, w.what, w.key)
			}
		case doCopy:
			if w.then != doExec {
				s.fetched(n, w.then, w.key)
			}
		}
	}
	clear(ended)
	s.ended = ended[:0]
}

var okResult = []byte("ok")

// copying is what the fetch of key still takes of the node's cores; nil: nothing.
func (n *node) copying(key string) *work {
	for i := range n.cpu.jobs {
		if w := &n.cpu.jobs[i]; w.what == doCopy && w.key == key {
			return w
		}
	}
	return nil
}

func (s *shard) fetched(n *node, what what, key string) {
	ev := nodeagent.Event{Kind: nodeagent.EvFetched, Key: key}
	if what == doArtifact {
		ev = nodeagent.Event{Kind: nodeagent.EvArtifact, Digest: key}
	}
	if n.group.StoreRTT > 0 {
		s.later(n, int64(n.group.StoreRTT), &ev)
		return
	}
	s.nodeStep(n, &ev)
}

// compute begins a computation on the node's cores.
func (s *shard) compute(n *node, w work) {
	s.passCPU(n)
	n.cpu.jobs = append(n.cpu.jobs, w)
	s.planCPU(n)
}

// passCPU lets computations go on until now at the rates that have held.
func (s *shard) passCPU(n *node) { n.cpu.advance(s.now, &n.rates) }

// planCPU sets the rates that hold from now on, and the event for the first end. All share the cores alike; drift is read
// when something begins or ends, which on a busy node is often. Where all nodes share a host, what changes on one may change
// the rates of all.
func (s *shard) planCPU(n *node) {
	if host := s.cfg.Zones[s.at0].HostCores; host > 0 {
		n.takes = n.wanted()
		if c := n.group.Cores; c > 0 {
			n.takes = min(n.takes, c)
		}
		all := 0.0
		for i := range s.nodes {
			all += s.nodes[i].takes
		}
		share := 1.0
		if all > host {
			share = host / all
		}
		if share != s.hostShare {
			s.hostShare = share
			for i := range s.nodes {
				if m := &s.nodes[i]; m != n && len(m.cpu.jobs) > 0 {
					s.passCPU(m)
					s.rateCPU(m)
				}
			}
		}
	}
	s.rateCPU(n)
}

// wanted is how many cores the node's computations would keep busy if they had them.
func (n *node) wanted() float64 {
	w := 0.0
	for i := range n.cpu.jobs {
		w += demand[n.cpu.jobs[i].kernel]
	}
	return w
}

func (s *shard) rateCPU(n *node) {
	share := s.hostShare
	if c := n.group.Cores; c > 0 {
		if w := n.wanted(); w > c {
			share *= c / w
		}
	}
	if d := n.group.Drift; d > 0 {
		share *= math.Exp(d * math.Sin(n.phase+2*math.Pi*float64(s.now)/float64(n.group.DriftPeriod)))
	}
	for k := range n.rates {
		n.rates[k] = n.speed[k] * share
	}
	s.plan(n, &n.cpu, &n.rates, evCPU)
}

func (s *shard) plan(n *node, r *shared, rates *[kernels]float64, k kind) {
	if len(r.jobs) == 0 {
		if r.due != 0 {
			s.void++
			r.due = 0
			r.gen++
		}
		return
	}
	if due := r.next(rates); due != r.due {
		if r.due != 0 {
			s.void++
		}
		r.gen++
		r.due = due
		s.at(due, event{kind: k, node: n.index, gen: r.gen})
	}
}

// transfer begins to bring something over the node's link, and what that takes of its cores. Transfers share the link fairly.
func (s *shard) transfer(n *node, w work) {
	if per := n.group.FetchPerMB; per > 0 && w.left > 0 {
		s.compute(n, work{left: w.left / 1e6 * ms(int64(per)), what: doCopy, key: w.key})
	}
	rates := n.linkRates()
	n.link.advance(s.now, &rates)
	n.link.jobs = append(n.link.jobs, w)
	s.planLink(n)
}

func (s *shard) planLink(n *node) {
	rates := n.linkRates()
	s.plan(n, &n.link, &rates, evLink)
}

// linkRates are bytes per ms for each transfer. Without a limit a transfer takes a microsecond or so. On a serial link all
// but the oldest wait: their rate is that of another kernel, next to nothing.
func (n *node) linkRates() [kernels]float64 {
	r := 1e12
	if m := n.group.Core.LinkMbps; m > 0 {
		r = m * 1e3 / 8
	}
	if n.group.Serial {
		for i := range n.link.jobs {
			n.link.jobs[i].kernel = Kernel(min(i, 1))
		}
		return [kernels]float64{r, 1e-12, 1e-12}
	}
	r /= float64(max(len(n.link.jobs), 1))
	return [kernels]float64{r, r, r}
}

package sim

import (
	"math"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/nodeagent"
	"github.com/rubato-faas/rubato/zonesched"
)

// boot starts a node's process, with the epoch that is on its disk and nothing else.
func (w *World) boot(n *node) {
	w.boots++
	cfg := w.cfg.Node
	cfg.Name, cfg.Zone = n.name, w.cfg.Zone.Zone
	core, err := nodeagent.New(cfg, w.boots, n.epoch)
	if err != nil {
		w.violate("node does not start: %v", err)
		return
	}
	n.link = w.now
	n.core, n.up, n.running, n.boxes = core, true, map[string]int{}, map[uint64]bool{}
	n.gen++
	gen := n.gen
	var beat func()
	beat = func() {
		if n.up && n.gen == gen {
			w.nodeStep(n, &nodeagent.Event{Kind: nodeagent.EvTick})
			w.after(w.cfg.Heartbeat, beat)
		}
	}
	beat()
}

// Crash ends node i's process at once; Restart begins a new one.
func (w *World) Crash(i int) { w.nodes[i].up = false }

// Restart begins a new process on node i.
func (w *World) Restart(i int) {
	if !w.nodes[i].up {
		w.boot(w.nodes[i])
	}
}

func (w *World) nodeStep(n *node, ev *nodeagent.Event) {
	for _, a := range n.core.Step(w.now, ev, nil) {
		w.nodeAction(n, &a)
	}
	if n.core.InUse() > n.core.Slots() || len(n.running) > n.core.Slots() {
		w.violate("node %s uses %d slots (runs %d) of %d", n.name, n.core.InUse(), len(n.running), n.core.Slots())
	}
	if n.core.MemUsedMB() > w.cfg.Node.MemoryMB {
		w.violate("node %s uses %d MB of %d", n.name, n.core.MemUsedMB(), w.cfg.Node.MemoryMB)
	}
}

// later gives the node's present process an event after d.
func (w *World) later(n *node, d time.Duration, ev nodeagent.Event) {
	gen := n.gen
	w.after(d, func() {
		if n.up && n.gen == gen {
			w.nodeStep(n, &ev)
		}
	})
}

func (w *World) nodeAction(n *node, a *nodeagent.Action) {
	switch a.Kind {
	case nodeagent.ActPersistEpoch:
		if a.Epoch.Compare(n.epoch) < 0 {
			w.violate("node %s goes back from epoch %v to %v", n.name, n.epoch, a.Epoch)
		}
		n.epoch = a.Epoch
	case nodeagent.ActFetch:
		w.later(n, w.transfer(n, a.Bytes), nodeagent.Event{Kind: nodeagent.EvFetched, Key: a.Key})
	case nodeagent.ActFetchArtifact:
		w.later(n, w.transfer(n, a.Fn.ArtifactBytes), nodeagent.Event{Kind: nodeagent.EvArtifact, Digest: a.Digest})
	case nodeagent.ActPrepare:
		w.later(n, w.fns[a.Fn.ID()].Prepare, nodeagent.Event{Kind: nodeagent.EvPrepared, Digest: a.Digest})
	case nodeagent.ActStart:
		n.boxes[a.Sandbox] = true
		w.later(n, w.fns[a.Fn.ID()].Start, nodeagent.Event{Kind: nodeagent.EvStarted, Sandbox: a.Sandbox})
	case nodeagent.ActExec:
		w.exec(n, a)
	case nodeagent.ActStop:
		w.later(n, time.Millisecond, nodeagent.Event{
			Kind: nodeagent.EvExecuted, ID: a.ID, Sandbox: a.Sandbox, Outcome: a.Outcome, Code: api.CodeCanceled, Err: "stopped", Broken: true,
		})
	case nodeagent.ActClose:
		delete(n.boxes, a.Sandbox)
	case nodeagent.ActDeadline:
		w.later(n, a.At.Sub(w.now), nodeagent.Event{Kind: nodeagent.EvDeadline, ID: a.ID, Gen: a.Gen})
	case nodeagent.ActComplete:
		delete(n.running, a.Completion.ID)
		c := *a.Completion
		w.send(func() { w.step(&zonesched.Event{Kind: zonesched.EvCompletion, Completion: &c}) })
	case nodeagent.ActReport:
		hb := n.core.Heartbeat(w.now)
		w.send(func() { w.step(&zonesched.Event{Kind: zonesched.EvHeartbeat, Heartbeat: hb}) })
	}
}

// transfer is when bytes will have come over the node's link, which carries one thing after another.
func (w *World) transfer(n *node, bytes int64) time.Duration {
	mbps := w.cfg.Node.LinkMbps
	if mbps <= 0 {
		return time.Microsecond
	}
	if n.link.Before(w.now) {
		n.link = w.now
	}
	n.link = n.link.Add(time.Duration(float64(bytes) * 8 / mbps * 1000))
	return n.link.Sub(w.now)
}

// exec runs a call for a drawn time. Two runs in one sandbox at a time would be a bug of the node.
func (w *World) exec(n *node, a *nodeagent.Action) {
	f := w.fns[a.Run.Fn.ID()]
	if !n.boxes[a.Sandbox] {
		w.violate("node %s runs %s in a sandbox that is not up", n.name, a.ID)
	}
	n.running[a.ID]++
	ev := nodeagent.Event{Kind: nodeagent.EvExecuted, ID: a.ID, Sandbox: a.Sandbox, Result: []byte("ok")}
	switch p := w.rng.Float64(); {
	case p < f.Hang:
		return // only a stop ends it
	case p < f.Hang+f.Crash:
		ev.Outcome, ev.Code, ev.Err, ev.Broken, ev.Result = api.OutcomeCrash, api.CodeFunction, "crashed", true, nil
	}
	var bytes int64
	for i := range a.Run.Call.Inputs {
		bytes += a.Run.Call.Inputs[i].Bytes
	}
	run := float64(f.Run) + float64(f.PerMB)*float64(bytes)/1e6
	w.later(n, time.Duration(run*math.Exp(f.Spread*w.rng.NormFloat64())), ev)
}

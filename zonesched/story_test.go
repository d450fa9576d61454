package zonesched

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/internal/storytest"
)

// player turns the lines of a story into events:
//
//	at 10ms                 the time since the beginning
//	node N slots warm [arch=A] [acc=A] [tag=T] [up=5s] [draining] [has=fn]
//	                        a report; without up the node says nothing of its age; has: an idle sandbox of fn
//	function NAME v [off] [arch=A] [acc=A] [tag=T] [min_warm=N]
//	                        one more function like f; off: its calls are never held back
//	delete NAME
//	grant ZONE slots [ttl=1s]
//	                        another zone gives room, for a minute
//	refused ID              the other zone refused the call
//	answer ID ZONE          what another zone made of a forwarded call
//	call ID fn [async] [budget=100] [key=K]
//	done ID N [cold=20] [attempt=2]
//	                        a completion, of a cold start of 20 ms, of one dispatch of several
//	refuse ID N [drains]    a completion that says that nothing ran
//	idempotent fn           calls of it may be sent to a second node, without a budget
//	wake ID                 the last wake asked for
//	warmed N fn idle, failed N fn idle
//	                        a prewarming of fn on N succeeded or failed, and N has so many idle ones
//	mode KIND [t/fn]        an operator's setting
//	tick, cancel ID, explain ID
//	nodes                   what the nodes offer
type player struct {
	*bed
	gens   map[string]uint32
	modes  map[string]Mode
	grants uint64
	out    strings.Builder
}

func (p *player) tell(acts []Action) {
	for i := range acts {
		a := &acts[i]
		if a.Kind == ActWake {
			p.gens[a.ID] = a.Gen
			fmt.Fprintf(&p.out, "  -> wake %s at %v\n", a.ID, a.At.Sub(t0))
			continue
		}
		if a.Kind == ActAnswer && a.Answer.Code != api.CodeOK {
			fmt.Fprintf(&p.out, "  -> %v: %s\n", a, a.Answer.Message)
			continue
		}
		fmt.Fprintf(&p.out, "  -> %v\n", a)
	}
}

func (p *player) line(line string) {
	w := strings.Fields(line)
	num := func(i int) (n int) {
		if _, err := fmt.Sscan(w[i], &n); err != nil {
			p.t.Fatalf("%q: %v", line, err)
		}
		return n
	}
	fmt.Fprintln(&p.out, line)
	switch w[0] {
	case "#":
	case "at":
		d, err := time.ParseDuration(w[1])
		if err != nil {
			p.t.Fatal(err)
		}
		p.now = t0.Add(d)
	case "node":
		hb := p.report(w[1], num(2), num(3))
		hb.Draining = slices.Contains(w, "draining")
		hb.Labels = labelsOf(w[4:])
		if up, err := time.ParseDuration(value(w, "up=")); err == nil {
			hb.UptimeMs = up.Milliseconds()
		}
		if fn := p.z.fns["t/"+value(w, "has=")]; fn != nil {
			hb.Sandboxes = append(hb.Sandboxes, wire.SandboxReport{Function: fn.key, State: api.SandboxPrepared, Idle: 1, MemoryMB: 100})
		}
		if n := p.z.byName[w[1]]; n != nil {
			hb.SeenSeq = n.sentSeq
			for _, r := range n.running { // it goes on
				hb.Running = append(hb.Running, wire.RunningReport{ID: r.id, Function: r.h.key})
			}
		}
		p.tell(p.step(&Event{Kind: EvHeartbeat, Heartbeat: hb}))
	case "function":
		f, _ := p.z.Function("t/f")
		f.Name, f.Version, f.DelayOff, f.Needs = w[1], uint64(num(2)), slices.Contains(w, "off"), labelsOf(w[3:])
		if f.Name != "f" {
			f.Artifact = strings.Repeat(f.Name, 64)[:64] // one of its own
		}
		fmt.Sscan(value(w, "min_warm="), &f.MinWarm) //nolint:errcheck // none is 0
		p.tell(p.step(&Event{Kind: EvFunctions, Functions: []api.Function{f}}))
	case "delete":
		p.tell(p.step(&Event{Kind: EvFunctions, Deleted: []string{"t/" + w[1]}}))
	case "grant":
		p.grants++
		ttl := time.Minute
		if d, err := time.ParseDuration(value(w, "ttl=")); err == nil {
			ttl = d
		}
		p.tell(p.step(&Event{Kind: EvGrant, Grant: &wire.Grant{ID: p.grants, From: w[1], To: "z", Slots: num(2), TTLMs: ttl.Milliseconds(), MeanMs: 10}}))
	case "refused":
		p.tell(p.step(&Event{Kind: EvForwardDone, ID: w[1], Answer: &wire.Answer{ID: w[1], Code: api.CodeUnavailable, Refused: true}}))
	case "warmed", "failed":
		key := p.z.fns["t/"+w[2]].key
		c := &wire.Completion{Node: w[1], Boot: 1, Epoch: p.z.Epoch(), Start: api.SandboxNone, Sandboxes: []wire.SandboxReport{{Function: key, State: api.SandboxPrepared, Idle: num(3), MemoryMB: 100}}}
		if w[0] == "failed" {
			c.Outcome, c.Code = api.OutcomeCrash, api.CodeFunction
		}
		for _, r := range p.z.byName[w[1]].running {
			if r.prewarm && r.h.key == key {
				c.ID = r.id
			}
		}
		p.tell(p.step(&Event{Kind: EvCompletion, Completion: c}))
	case "call":
		p.tell(p.invoke(w[1], w[2], func(i *api.Invocation) {
			for _, o := range w[3:] {
				i.Async = i.Async || o == "async"
				if v, ok := strings.CutPrefix(o, "budget="); ok {
					fmt.Sscan(v, &i.BudgetMs) //nolint:errcheck // a fault shows in the transcript
				}
				if v, ok := strings.CutPrefix(o, "key="); ok {
					i.IdemKey = v
				}
			}
		}))
	case "done", "refuse":
		p.tell(p.done(w[1], w[2], func(c *wire.Completion) {
			if k := p.z.calls[w[1]]; k != nil {
				c.Attempt = k.attempt
			}
			if w[0] == "refuse" {
				c.Outcome, c.Code, c.Sandboxes = api.OutcomeRefused, api.CodeOverloaded, nil
				if slices.Contains(w, "drains") {
					c.Code = api.CodeUnavailable
				}
			}
			for _, o := range w[3:] {
				if v, ok := strings.CutPrefix(o, "attempt="); ok {
					fmt.Sscan(v, &c.Attempt) //nolint:errcheck // a fault shows in the transcript
				}
				if v, ok := strings.CutPrefix(o, "cold="); ok {
					c.Start = api.SandboxPrepared
					fmt.Sscan(v, &c.InitMs) //nolint:errcheck // a fault shows in the transcript
				}
			}
		}))
	case "answer":
		p.tell(p.step(&Event{Kind: EvForwardDone, ID: w[1], Answer: &wire.Answer{ID: w[1], Timing: wire.Timing{Zone: w[2], Node: w[2] + "-n", RunMs: 10}}}))
	case "wake":
		p.tell(p.step(&Event{Kind: EvWake, ID: w[1], Gen: p.gens[w[1]]}))
	case "mode":
		m, err := ParseMode(w[1])
		if err != nil {
			p.t.Fatal(err)
		}
		if len(w) > 2 {
			p.modes[w[2]], m = m, p.z.mode
		}
		p.tell(p.step(&Event{Kind: EvPolicy, PolicyName: p.z.cfg.Policy, PolicyConfig: p.z.cfg.PolicyConfig, Mode: m, Modes: maps.Clone(p.modes)}))
	case "idempotent":
		p.z.fns["t/"+w[1]].spec.Idempotent, p.z.cfg.HedgeBudget = true, 1
	case "tick":
		p.tell(p.step(&Event{Kind: EvTick}))
	case "cancel":
		p.tell(p.step(&Event{Kind: EvCancel, ID: w[1]}))
	case "nodes":
		for _, n := range p.z.nodes {
			fmt.Fprintf(&p.out, "  | %s offers %d of %d, %d run\n", n.name, n.slots, n.total, len(n.running))
		}
	case "explain":
		d, _ := p.z.Decision(w[1])
		for _, l := range strings.Split(strings.TrimSpace(d.Explain()), "\n") {
			fmt.Fprintln(&p.out, "  |", l)
		}
	default:
		p.t.Fatalf("unknown line %q", line)
	}
}

func value(w []string, key string) string {
	for _, o := range w {
		if v, ok := strings.CutPrefix(o, key); ok {
			return v
		}
	}
	return ""
}

func labelsOf(w []string) (l api.Labels) {
	l.Arch, l.Accelerator = value(w, "arch="), value(w, "acc=")
	for _, o := range w {
		if t, ok := strings.CutPrefix(o, "tag="); ok {
			l.Tags = append(l.Tags, t)
		}
	}
	return l
}

// TestStories plays testdata/*.txtar: what the zone wants done, event by event.
func TestStories(t *testing.T) {
	storytest.Play(t, func(t *testing.T, lines []string) string {
		p := &player{bed: newBed(t, nil), gens: map[string]uint32{}, modes: map[string]Mode{}}
		for _, line := range lines {
			p.line(line)
			if err := p.z.Check(); err != nil {
				t.Fatalf("after %q: %v", line, err)
			}
		}
		return p.out.String()
	})
}

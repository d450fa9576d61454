package zoned

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched"
)

const queryTimeout = 5 * time.Second

// Explanation is a recorded decision with its words.
type Explanation struct {
	zonesched.Decision
	Words string `json:"words"`
}

// Tail is a page of the live decisions.
type Tail struct {
	Next      uint64               `json:"next"`
	Decisions []zonesched.Decision `json:"decisions"`
}

// Calls is a page of the calls that have ended, in that order.
type Calls struct {
	// Ring names what Next counts in: another leader, or one that led before, begins a new one.
	Ring string `json:"ring"`
	// Now is the leader's clock, which calls' arrivals are by.
	Now  time.Time `json:"now"`
	Next uint64    `json:"next"`
	// Lost is how many ended since and are overwritten, UnderWay how many have not ended.
	Lost     uint64               `json:"lost"`
	UnderWay int                  `json:"under_way"`
	Calls    []zonesched.Decision `json:"calls"`
}

// Ruling is by what a zone decides.
type Ruling struct {
	Zone     string        `json:"zone"`
	Policy   string        `json:"policy"`
	WaitMs   float64       `json:"wait_ms,omitempty"` // of fixed-delay and fixed-delay-matched
	Mode     string        `json:"mode"`
	Fallback string        `json:"fallback"`
	Modes    FunctionModes `json:"function_modes,omitempty"`
}

// ruling is the one in force; on the loop.
func (d *Daemon) ruling() Ruling {
	r := Ruling{Zone: d.cfg.Zone, Policy: d.core.PolicyName(), Mode: d.core.Mode().String(), Fallback: d.cfg.Sched.Fallback, Modes: functionModes(d.core)}
	if strings.HasPrefix(r.Policy, "fixed-delay") {
		r.WaitMs = float64(d.core.PolicyConfig().FixedDelay) / float64(time.Millisecond)
	}
	return r
}

// ZoneView is what GET /v1/zone shows.
type ZoneView struct {
	Ruling
	Tier     string               `json:"tier"`
	Region   string               `json:"region"`
	Leader   string               `json:"leader"`
	Epoch    api.Epoch            `json:"epoch"`
	Guard    zonesched.GuardView  `json:"guard"`
	Trust    zonesched.TrustView  `json:"trust"`
	Resort   zonesched.ResortView `json:"resort"`
	Load     zonesched.Load       `json:"load"`
	Shares   []api.Share          `json:"shares"`
	Counters zonesched.Counters   `json:"counters"`
}

// Query answers a question about the zone, at its leader. Kinds: nodes, zone, model ("here": of this scheduler,
// be it a standby), explain (id), decisions (sequence), ended (sequence),
// policy (name[,wait]), mode (mode[ tenant/function]), modes, prewarm (function,count), flush.
func (d *Daemon) Query(ctx context.Context, kind, arg string) (json.RawMessage, error) {
	return d.QueryZone(ctx, d.cfg.Zone, kind, arg)
}

// QueryZone is Query about any zone: its leader hears us over the bus.
func (d *Daemon) QueryZone(ctx context.Context, zone, kind, arg string) (json.RawMessage, error) {
	if err := api.CheckName("zone", zone); err != nil { // it becomes part of a subject
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if zone == d.cfg.Zone && (d.role.Load().Mine || kind == "model" && arg == "here") {
		return d.queryHere(ctx, kind, arg)
	}
	b, err := wire.Encode(&wire.Query{Kind: kind, Arg: arg, TakesZip: true})
	if err != nil {
		return nil, err
	}
	reply, err := d.deps.Bus.Request(ctx, wire.SubjectLeader(zone, "query"), b)
	if err != nil {
		return nil, fmt.Errorf("%w: leader of zone %s: %w", api.ErrUnavailable, zone, err)
	}
	return queryData(reply)
}

// queryData is what a wire.QueryReply holds.
func queryData(reply []byte) (json.RawMessage, error) {
	var r wire.QueryReply
	if err := wire.Decode(reply, &r); err != nil {
		return nil, fmt.Errorf("zoned query: %w", err)
	}
	return r.JSON()
}

func (d *Daemon) queryHere(ctx context.Context, kind, arg string) (json.RawMessage, error) {
	// What runs on the loop may run after the caller has gone: whatever it fills is read only where it is known to have ended.
	var v any
	var err error
	look := func(f func()) { err = d.view(ctx, f) }
	switch kind {
	case "nodes":
		look(func() { v = d.core.Nodes(time.Now()) })
	case "zone":
		look(func() {
			v = ZoneView{
				Ruling: d.ruling(), Tier: d.cfg.Tier, Region: d.cfg.Region, Leader: d.cfg.Name, Epoch: d.core.Epoch(), Guard: d.core.Guard(), Trust: d.core.Trust(), Resort: d.core.Resort(), Load: d.core.Load(), Shares: d.shares, Counters: d.core.Counters(),
			}
		})
	case "model":
		v = d.learn.view()
	case "explain":
		var found bool
		look(func() {
			var e Explanation
			if e.Decision, found = d.core.Decision(arg); found {
				e.Words = e.Decision.Explain()
			}
			v = e
		})
		if err == nil && !found {
			err = fmt.Errorf("%w: no decision about invocation %q in zone %s (the last %d are kept)", api.ErrNotFound, arg, d.cfg.Zone, d.cfg.Sched.Records)
		}
	case "decisions", "ended":
		since, perr := strconv.ParseUint(arg, 10, 64)
		if perr != nil && arg != "" {
			return nil, fmt.Errorf("%w: sequence %q: want a number", api.ErrInvalid, arg)
		}
		look(func() {
			if kind == "ended" {
				c := Calls{Ring: fmt.Sprintf("%s %v", d.cfg.Name, d.began), Now: time.Now(), UnderWay: d.core.UnderWay()}
				c.Calls, c.Next, c.Lost = d.core.Ended(since, endedPage)
				v = c
				return
			}
			var t Tail
			t.Decisions, t.Next = d.core.Decisions(since, tailPage)
			v = t
		})
	case "policy":
		if err = d.setPolicy(ctx, arg); err == nil {
			look(func() { v = d.ruling() })
		}
	case "mode":
		if err = d.setMode(ctx, arg); err == nil {
			look(func() { v = d.ruling() })
		}
	case "modes":
		look(func() { v = functionModes(d.core) })
	case "prewarm":
		fn, n, _ := strings.Cut(arg, ",")
		count, perr := strconv.Atoi(n)
		if perr != nil {
			return nil, fmt.Errorf("%w: count %q: want a number", api.ErrInvalid, n)
		}
		look(func() { v = d.prewarm(fn, count) })
	case "flush":
		look(func() { d.send(wire.SubjectAllNodes(d.cfg.Zone, "flush"), &wire.Flush{Epoch: d.core.Epoch()}) })
		v = struct{}{}
	default:
		return nil, fmt.Errorf("%w: query %q", api.ErrInvalid, kind)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// Prewarming says how many sandboxes are being brought up because of a wish.
type Prewarming struct {
	Begun int `json:"begun"`
}

func (d *Daemon) prewarm(fn string, count int) Prewarming {
	before := d.core.Counters().Prewarmed
	d.step(&zonesched.Event{Kind: zonesched.EvPrewarm, ID: fn, Count: count})
	return Prewarming{int(d.core.Counters().Prewarmed - before)}
}

// tailPage bounds one answer of decisions, endedPage one of ended calls: with all inputs a call takes 2 kB, and an answer
// of another zone's leader goes in one message of the bus.
const (
	tailPage  = 200
	endedPage = 400
)

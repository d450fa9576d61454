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
	"github.com/rubato-faas/rubato/zonesched/policy"
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

// ZoneView is what `rubato zones` shows.
type ZoneView struct {
	Zone     string             `json:"zone"`
	Tier     string             `json:"tier"`
	Region   string             `json:"region"`
	Leader   string             `json:"leader"`
	Epoch    api.Epoch          `json:"epoch"`
	Policy   string             `json:"policy"`
	Load     zonesched.Load     `json:"load"`
	Shares   []api.Share        `json:"shares"`
	Counters zonesched.Counters `json:"counters"`
}

// Query answers a question about the zone, at its leader. Kinds: nodes, zone, model ("here": of this scheduler,
// be it a standby), explain (id), decisions (sequence),
// policy (name[,wait]), flush.
func (d *Daemon) Query(ctx context.Context, kind, arg string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if d.role.Load().Mine || kind == "model" && arg == "here" {
		return d.queryHere(ctx, kind, arg)
	}
	b, err := wire.Encode(&wire.Query{Kind: kind, Arg: arg})
	if err != nil {
		return nil, err
	}
	reply, err := d.deps.Bus.Request(ctx, wire.SubjectLeader(d.cfg.Zone, "query"), b)
	if err != nil {
		return nil, fmt.Errorf("%w: leader of zone %s: %w", api.ErrUnavailable, d.cfg.Zone, err)
	}
	return queryData(reply)
}

// queryData is what a wire.QueryReply holds.
func queryData(reply []byte) (json.RawMessage, error) {
	var r wire.QueryReply
	if err := wire.Decode(reply, &r); err != nil {
		return nil, fmt.Errorf("zoned query: %w", err)
	}
	return r.Data, r.Code.Err(r.Message)
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
				Zone: d.cfg.Zone, Tier: d.cfg.Tier, Region: d.cfg.Region, Leader: d.cfg.Name, Epoch: d.core.Epoch(),
				Policy: d.core.PolicyName(), Load: d.core.Load(), Shares: d.shares, Counters: d.core.Counters(),
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
	case "decisions":
		since, perr := strconv.ParseUint(arg, 10, 64)
		if perr != nil && arg != "" {
			return nil, fmt.Errorf("%w: sequence %q: want a number", api.ErrInvalid, arg)
		}
		look(func() {
			var t Tail
			t.Decisions, t.Next = d.core.Decisions(since, tailPage)
			v = t
		})
	case "policy":
		err = d.setPolicy(ctx, arg)
		v = struct{}{}
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

// tailPage bounds one answer of decisions.
const tailPage = 200

// setPolicy changes the rule in force: "rubato", "fixed-delay,250ms".
func (d *Daemon) setPolicy(ctx context.Context, arg string) error {
	name, wait, has := strings.Cut(arg, ",")
	cfg := d.cfg.Sched.PolicyConfig
	if has {
		w, err := time.ParseDuration(wait)
		if err != nil {
			return fmt.Errorf("%w: wait %q: want a duration like 250ms", api.ErrInvalid, wait)
		}
		cfg.FixedDelay = w
	}
	if _, err := policy.New(name, cfg); err != nil {
		return err
	}
	return d.view(ctx, func() {
		d.step(&zonesched.Event{Kind: zonesched.EvPolicy, PolicyName: name, PolicyConfig: cfg})
	})
}

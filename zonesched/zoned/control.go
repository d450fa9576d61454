package zoned

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/coordinator/catalog"
)

// controlTries bounds how often a change is offered to the coordinator: as long as it takes to elect a raft leader.
// The request id makes the repetition harmless.
const (
	controlTries = 30
	controlPause = 200 * time.Millisecond
)

// Deploy commits a new version of a function and returns once this zone knows it.
func (d *Daemon) Deploy(ctx context.Context, fn api.Function, requestID string) (uint64, error) {
	r, err := d.control(ctx, requestID, catalog.Command{Kind: catalog.PutFunction, RequestID: requestID, Function: &fn})
	if err != nil {
		return 0, err
	}
	return r.Version, d.Refresh(ctx, fn.ID(), r.Version, false)
}

// Delete removes a function and returns once this zone has forgotten it. Running calls end normally.
func (d *Daemon) Delete(ctx context.Context, tenant, name, requestID string) error {
	if _, err := d.control(ctx, requestID, catalog.Command{Kind: catalog.DeleteFunction, RequestID: requestID, Tenant: tenant, Name: name}); err != nil {
		return err
	}
	return d.Refresh(ctx, tenant+"/"+name, 0, true)
}

// control asks the coordinator's leader to commit a command.
func (d *Daemon) control(ctx context.Context, requestID string, cmd catalog.Command) (wire.Reply, error) {
	if err := cmd.Validate(); err != nil {
		return wire.Reply{}, err
	}
	raw, err := catalog.EncodeCommand(cmd)
	if err != nil {
		return wire.Reply{}, err
	}
	b, err := wire.Encode(&wire.Control{RequestID: requestID, Command: raw})
	if err != nil {
		return wire.Reply{}, err
	}
	var r wire.Reply
	for try := 0; try < controlTries; try++ {
		if r, err = d.controlOnce(ctx, b); err == nil && r.Code != api.CodeUnavailable {
			return r, r.Code.Err(r.Message)
		}
		if !pause(ctx, controlPause) {
			break
		}
	}
	if err == nil {
		err = r.Code.Err(r.Message)
	}
	return r, fmt.Errorf("%w: coordinator: %w", api.ErrUnavailable, err)
}

func (d *Daemon) controlOnce(ctx context.Context, b []byte) (r wire.Reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, catalogTimeout)
	defer cancel()
	reply, err := d.deps.Bus.Request(ctx, wire.SubjectControl, b)
	if err != nil {
		return r, err
	}
	return r, wire.Decode(reply, &r)
}

// pause waits; false when ctx ended first.
func pause(ctx context.Context, dur time.Duration) bool {
	t := time.NewTimer(dur)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Zones is the coordinator's view of all zones.
func (d *Daemon) Zones(ctx context.Context) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	b, err := wire.Encode(&wire.Query{Kind: "status", TakesZip: true})
	if err != nil {
		return nil, err
	}
	if b, err = d.deps.Bus.Request(ctx, wire.SubjectStatus, b); err != nil {
		return nil, fmt.Errorf("%w: coordinator: %w", api.ErrUnavailable, err)
	}
	return queryData(b)
}

// Logs collects the captured output of a function from the zone's nodes, newest last. Nodes that do not answer in
// time are left out.
func (d *Daemon) Logs(ctx context.Context, fn string, last int) ([]wire.LogLine, error) {
	select {
	case d.logging <- struct{}{}:
		defer func() { <-d.logging }()
	default:
		return nil, fmt.Errorf("%w: %d requests for logs are under way at this scheduler", api.ErrOverloaded, cap(d.logging))
	}
	raw, err := d.Query(ctx, "nodes", "")
	if err != nil {
		return nil, err
	}
	var nodes []struct {
		Name string `json:"name"`
		Live bool   `json:"live"`
	}
	if err := json.Unmarshal(raw, &nodes); err != nil {
		return nil, err
	}
	b, err := wire.Encode(&wire.LogsPull{Function: fn, Last: last})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	pages, turn := make(chan []wire.LogLine), make(chan struct{}, logNodes)
	asked := 0
	for _, n := range nodes {
		if !n.Live {
			continue
		}
		asked++
		d.task(func() {
			turn <- struct{}{}
			pages <- d.nodeLogs(ctx, n.Name, b)
			<-turn
		})
	}
	out := []wire.LogLine{}
	for range asked {
		if out = append(out, <-pages...); last > 0 && len(out) > 2*last {
			out = newest(out, last)
		}
	}
	return newest(out, last), nil
}

// A request for logs asks so many nodes at a time, and a scheduler works on so many requests: a page of a node is up to 512 KiB.
const (
	logNodes    = 32
	logRequests = 4
	logWithin   = time.Second
)

// newest are the last lines in order of time; 0: all of them.
func newest(lines []wire.LogLine, last int) []wire.LogLine {
	slices.SortStableFunc(lines, func(a, b wire.LogLine) int { return cmp.Compare(a.UnixMs, b.UnixMs) })
	if last > 0 && len(lines) > last {
		lines = slices.Delete(lines, 0, len(lines)-last)
	}
	return lines
}

func (d *Daemon) nodeLogs(ctx context.Context, node string, pull []byte) []wire.LogLine {
	ctx, cancel := context.WithTimeout(ctx, logWithin) // a few that are silent must not take the time of all
	defer cancel()
	reply, err := d.deps.Bus.Request(ctx, wire.SubjectNode(d.cfg.Zone, node, "logs"), pull)
	var l wire.Logs
	if err == nil {
		err = wire.Decode(reply, &l)
	}
	if err != nil {
		d.deps.Log.Debug("logs", "node", node, "err", err)
	}
	return l.Lines
}

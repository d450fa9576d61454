package globald

import (
	"context"
	"encoding/json"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/coordinator"
	"github.com/rubato-faas/rubato/coordinator/catalog"
	"github.com/rubato-faas/rubato/messaging"
)

// decode reads a message or logs why not.
func decode[T any](d *Daemon, m *messaging.Msg) (*T, bool) {
	v := new(T)
	if err := wire.Decode(m.Data, v); err != nil {
		d.deps.Log.Warn("message refused", "subject", m.Subject, "err", err)
		return nil, false
	}
	return v, true
}

// onDigest hears a zone's load. A zone that the catalogue does not know registers itself by its first digest.
func (d *Daemon) onDigest(m *messaging.Msg) {
	g, ok := decode[api.Digest](d, m)
	if !ok {
		return
	}
	if err := g.Validate(); err != nil {
		d.deps.Log.Warn("digest refused", "err", err)
		return
	}
	d.call(func() {
		if d.leads && !d.known[g.Zone] && !d.adding[g.Zone] && len(d.adding) < api.MaxZones {
			d.adding[g.Zone] = true
			d.commit(catalog.Command{Kind: catalog.PutZone, Zone: &catalog.Zone{Name: g.Zone, Tier: g.Tier, Region: g.Region}},
				func() { delete(d.adding, g.Zone) }) // refused, its next digest tries again
		}
		d.step(&coordinator.Event{Kind: coordinator.DigestArrived, Digest: *g})
	})
}

// onUpdate hears a zone's offer of trees. Every replica keeps it, so that a new leader can merge it; the leader says
// that it was heard.
func (d *Daemon) onUpdate(m *messaging.Msg) {
	u, ok := decode[wire.ModelUpdate](d, m)
	if !ok || len(u.Trees) > wire.MaxTrees {
		return
	}
	reply := m.Reply
	d.call(func() {
		d.step(&coordinator.Event{Kind: coordinator.ModelOffered, Update: coordinator.ModelUpdate{
			Zone: u.Zone, Epoch: u.Epoch, Seq: u.Seq, Trees: u.Trees, Scorecard: u.Card,
		}})
		if d.leads && reply != "" {
			r := &wire.Reply{}
			if !d.known[u.Zone] { // its first digest is on its way: the zone offers again
				r.Code, r.Message = api.CodeUnavailable, "zone "+u.Zone+" is not registered yet"
			}
			d.send(reply, r)
		}
	})
}

// onControl commits a change that a door asks for.
func (d *Daemon) onControl(m *messaging.Msg) {
	c, ok := decode[wire.Control](d, m)
	if !ok || m.Reply == "" {
		return
	}
	reply := m.Reply
	d.task(func() {
		var r wire.Reply
		cmd, err := catalog.DecodeCommand(c.Command)
		if err == nil {
			r, err = d.control(cmd)
		}
		if err != nil {
			r.Code, r.Message = api.CodeOf(err), err.Error()
		}
		d.send(reply, &r)
	})
}

// control commits a command for a tenant, which comes to be with its first function.
func (d *Daemon) control(cmd catalog.Command) (wire.Reply, error) {
	ctx, cancel := context.WithTimeout(d.ctx, requestTimeout)
	defer cancel()
	if cmd.Kind == catalog.PutFunction && cmd.Function != nil {
		known := false
		if err := d.log.ReadStale(func(c *catalog.Catalog) {
			for _, t := range c.Tenants() {
				known = known || t.Name == cmd.Function.Tenant
			}
		}); err != nil {
			return wire.Reply{}, err
		}
		if !known {
			r, err := d.log.Apply(ctx, catalog.Command{Kind: catalog.PutTenant, Tenant: cmd.Function.Tenant})
			if err = firstErr(err, r.Err()); err != nil {
				return wire.Reply{}, err
			}
		}
	}
	r, err := d.log.Apply(ctx, cmd)
	if err != nil {
		return wire.Reply{}, err
	}
	return wire.Reply{Code: r.Code, Message: r.Message, Version: r.Version, Revision: r.Rev}, nil
}

func firstErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// onCatalog answers a zone that follows the catalogue: functions and policy settings changed since its revision. Other kinds of entries
// travel with announcements.
func (d *Daemon) onCatalog(m *messaging.Msg) {
	p, ok := decode[wire.CatalogPull](d, m)
	if !ok || m.Reply == "" {
		return
	}
	reply := m.Reply
	d.task(func() {
		var ch wire.CatalogChanges
		err := d.log.ReadStale(func(c *catalog.Catalog) {
			entries, rev, more := c.Changes(p.Since, wire.MaxChanges)
			ch.Rev, ch.More = rev, more
			for _, e := range entries {
				if e.Kind == catalog.PolicyEntry {
					ch.Policy, ch.PolicyRev = e.Policy, e.Rev
				}
				if e.Kind != catalog.FunctionEntry {
					continue
				}
				if cur := e.Function.Current(); cur != nil && !e.Deleted {
					ch.Functions = append(ch.Functions, *cur)
				} else {
					ch.Deleted = append(ch.Deleted, e.Key)
				}
			}
		})
		if err != nil {
			ch.Code = api.CodeOf(err)
		}
		d.send(reply, &ch)
	})
}

// Status is the coordinator's view of everything, for `rubato zones`.
type Status struct {
	Leader   string                   `json:"leader"`
	Zones    []coordinator.ZoneStatus `json:"zones"`
	Shares   []api.Share              `json:"shares"`
	Pool     PoolStatus               `json:"pool"`
	Merges   uint64                   `json:"merges"`
	Revision uint64                   `json:"revision"`
}

// PoolStatus is the pool in force.
type PoolStatus struct {
	Version uint64         `json:"version"`
	Digest  string         `json:"digest"`
	Trees   map[string]int `json:"trees"` // by zone of origin
}

func (d *Daemon) onStatus(m *messaging.Msg) {
	if m.Reply == "" {
		return
	}
	var q wire.Query
	if len(m.Data) > 0 { // schedulers of the release before ask by an empty message, and take no compressed answer
		if err := wire.Decode(m.Data, &q); err != nil {
			d.deps.Log.Warn("message refused", "subject", m.Subject, "err", err)
			return
		}
	}
	reply := m.Reply
	d.call(func() {
		s := Status{Leader: d.cfg.Raft.ID, Zones: d.core.Status(time.Now()), Merges: d.merges}
		err := d.log.ReadStale(func(c *catalog.Catalog) {
			s.Shares, s.Revision = c.Shares(), c.Revision()
			s.Pool = poolStatus(c.Pool())
		})
		b, jerr := json.Marshal(s)
		if err = firstErr(err, jerr); err != nil {
			d.deps.Log.Warn("answer status", "err", err)
		}
		d.task(func() { d.send(reply, wire.NewQueryReply(&q, b, err)) }) // compressing takes its time
	})
}

package catalog

import (
	"maps"
	"slices"

	"github.com/rubato-faas/rubato/api"
)

// The pool, the shares and the policy are one entry each, under this key.
const singleKey = "*"

func (c *Catalog) putZone(index uint64, z Zone) Result {
	id := entryID{ZoneEntry, z.Name}
	old := c.entries[id]
	switch {
	case old == nil && c.names[ZoneEntry] >= MaxZoneNames:
		return refuse(api.CodeOverloaded, "the catalogue has %d zone names, which is its limit", MaxZoneNames)
	case old != nil && !old.Deleted && *old.Zone == z:
		return Result{Rev: old.Rev}
	case (old == nil || old.Deleted) && c.live[ZoneEntry] >= api.MaxZones:
		return refuse(api.CodeOverloaded, "the catalogue has %d zones, which is its limit", api.MaxZones)
	}
	c.set(id, &Entry{Rev: index, Kind: ZoneEntry, Key: z.Name, Zone: &z})
	return Result{Rev: index}
}

func (c *Catalog) putTenant(index uint64, name string) Result {
	id := entryID{TenantEntry, name}
	old := c.entries[id]
	if old != nil && !old.Deleted {
		return Result{Rev: old.Rev}
	}
	if old == nil && c.names[TenantEntry] >= MaxTenants {
		return refuse(api.CodeOverloaded, "the catalogue has %d tenants, which is its limit", MaxTenants)
	}
	c.set(id, &Entry{Rev: index, Kind: TenantEntry, Key: name, Tenant: &Tenant{Name: name}})
	return Result{Rev: index}
}

// remove leaves a tombstone, so that a zone that pulls changes hears of it however late.
func (c *Catalog) remove(index uint64, id entryID) Result {
	if c.get(id.kind, id.key) == nil {
		return refuse(api.CodeNotFound, "%v %s", id.kind, id.key)
	}
	c.set(id, &Entry{Rev: index, Kind: id.kind, Key: id.key, Deleted: true})
	return Result{Rev: index}
}

// Pool is the pool in force, nil before the first.
func (c *Catalog) Pool() *Pool {
	if len(c.pools) == 0 {
		return nil
	}
	return c.pools[len(c.pools)-1]
}

func (c *Catalog) poolVersion() uint64 {
	if p := c.Pool(); p != nil {
		return p.Version
	}
	return 0
}

// putPool is a compare-and-set on the parent: a leader that merged from a pool which is no longer in force, such
// as one that was deposed meanwhile, is refused and must merge again.
func (c *Catalog) putPool(index uint64, p Pool) Result {
	if now := c.poolVersion(); p.Parent != now {
		return refuse(api.CodeExists, "pool parent %d, but version %d is in force", p.Parent, now)
	}
	p.Manifest = slices.Clone(p.Manifest)
	return c.forcePool(index, &p)
}

func (c *Catalog) rollbackPool(index, parent, target uint64) Result {
	if now := c.poolVersion(); parent != now {
		return refuse(api.CodeExists, "pool parent %d, but version %d is in force", parent, now)
	}
	for _, p := range c.pools {
		if p.Version == target {
			return c.forcePool(index, &Pool{Parent: parent, RollbackOf: target, Digest: p.Digest, Manifest: p.Manifest})
		}
	}
	return refuse(api.CodeNotFound, "pool version %d is not among the last %d", target, KeepPools)
}

func (c *Catalog) forcePool(index uint64, p *Pool) Result {
	p.Version = c.poolVersion() + 1
	c.pools = append(slices.Clone(c.pools[max(0, len(c.pools)+1-KeepPools):]), p)
	c.set(entryID{PoolEntry, singleKey}, &Entry{Rev: index, Kind: PoolEntry, Key: singleKey, Pool: p})
	return Result{Rev: index, Version: p.Version}
}

func (c *Catalog) putShares(index uint64, rows []api.Share) Result {
	for _, s := range rows {
		if c.get(ZoneEntry, s.From) == nil || c.get(ZoneEntry, s.To) == nil {
			return refuse(api.CodeInvalid, "share %v names a zone that is not in the catalogue", s)
		}
	}
	c.set(entryID{SharesEntry, singleKey}, &Entry{Rev: index, Kind: SharesEntry, Key: singleKey, Shares: slices.Clone(rows)})
	return Result{Rev: index}
}

func (c *Catalog) putPolicy(index uint64, set map[string]string) Result {
	next := map[string]string{}
	maps.Copy(next, c.Policy())
	for _, k := range sortedKeys(set) {
		if set[k] == "" {
			delete(next, k)
		} else {
			next[k] = set[k]
		}
	}
	if len(next) > MaxPolicyKeys {
		return refuse(api.CodeOverloaded, "%d policy settings: want at most %d", len(next), MaxPolicyKeys)
	}
	c.set(entryID{PolicyEntry, singleKey}, &Entry{Rev: index, Kind: PolicyEntry, Key: singleKey, Policy: next})
	return Result{Rev: index}
}

// Shares is the table of shares in order of class, from and to. A row may name a zone that was deleted since.
func (c *Catalog) Shares() []api.Share {
	if e := c.get(SharesEntry, singleKey); e != nil {
		return e.Shares
	}
	return nil
}

// Policy is the policy settings.
func (c *Catalog) Policy() map[string]string {
	if e := c.get(PolicyEntry, singleKey); e != nil {
		return e.Policy
	}
	return nil
}

// Zones lists the zones in order of name.
func (c *Catalog) Zones() []Zone {
	var out []Zone
	for _, e := range c.list(ZoneEntry) {
		out = append(out, *e.Zone)
	}
	return out
}

// Tenants lists the tenants in order of name.
func (c *Catalog) Tenants() []Tenant {
	var out []Tenant
	for _, e := range c.list(TenantEntry) {
		out = append(out, *e.Tenant)
	}
	return out
}

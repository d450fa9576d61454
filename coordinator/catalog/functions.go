package catalog

import (
	"maps"
	"slices"

	"github.com/rubato-faas/rubato/api"
)

// FunctionVersions is a function with the versions that may still run.
type FunctionVersions struct {
	Tenant string `msgpack:"t" json:"tenant"`
	Name   string `msgpack:"n" json:"name"`
	// Last is the highest version ever assigned to the name. It outlives deletion, so that a version number is
	// never used for two artifacts: sandboxes and statistics are kept by it.
	Last uint64 `msgpack:"l" json:"last"`
	// Versions are at most KeepVersions, oldest first: the last one is current. Empty after deletion.
	Versions []api.Function `msgpack:"v" json:"versions"`
}

// Current is the version that new calls get; nil after deletion.
func (f *FunctionVersions) Current() *api.Function {
	if len(f.Versions) == 0 {
		return nil
	}
	return &f.Versions[len(f.Versions)-1]
}

func (f *FunctionVersions) size() int {
	n := 0
	for i := range f.Versions {
		n += functionBytes(&f.Versions[i])
	}
	return n
}

func (c *Catalog) putFunction(index uint64, f *api.Function) Result {
	if c.get(TenantEntry, f.Tenant) == nil {
		return refuse(api.CodeNotFound, "tenant %s", f.Tenant)
	}
	id := entryID{FunctionEntry, f.ID()}
	old := &FunctionVersions{}
	if e := c.entries[id]; e != nil {
		old = e.Function
	} else if c.names[FunctionEntry] >= MaxFunctions {
		return refuse(api.CodeOverloaded, "the catalogue has %d function names, which is its limit", MaxFunctions)
	}
	added := *f
	added.Version = old.Last + 1
	added.Env, added.Needs = maps.Clone(f.Env), f.Needs.Clone()
	next := &FunctionVersions{Tenant: f.Tenant, Name: f.Name, Last: added.Version}
	keep := old.Versions[max(0, len(old.Versions)+1-KeepVersions):]
	next.Versions = append(slices.Clone(keep), added)

	if n := c.versions + len(next.Versions) - len(old.Versions); n > MaxVersions {
		return refuse(api.CodeOverloaded, "the catalogue has %d function versions, which is its limit", MaxVersions)
	}
	if n := c.bytes + next.size() - old.size(); n > MaxCatalogBytes {
		return refuse(api.CodeOverloaded, "the catalogue has %d bytes of functions, its limit is %d", c.bytes, MaxCatalogBytes)
	}
	c.set(id, &Entry{Rev: index, Kind: FunctionEntry, Key: id.key, Function: next})
	return Result{Rev: index, Version: added.Version}
}

func (c *Catalog) deleteFunction(index uint64, tenant, name string) Result {
	e := c.get(FunctionEntry, tenant+"/"+name)
	if e == nil {
		return refuse(api.CodeNotFound, "function %s/%s", tenant, name)
	}
	gone := &FunctionVersions{Tenant: tenant, Name: name, Last: e.Function.Last}
	c.set(e.id(), &Entry{Rev: index, Kind: FunctionEntry, Key: e.Key, Deleted: true, Function: gone})
	return Result{Rev: index}
}

// Function returns a function's versions, nil when there is no such function (any more).
func (c *Catalog) Function(tenant, name string) *FunctionVersions {
	if e := c.get(FunctionEntry, tenant+"/"+name); e != nil {
		return e.Function
	}
	return nil
}

// Functions lists the functions of a tenant, of all tenants when it is empty, in order of tenant and name.
func (c *Catalog) Functions(tenant string) []*FunctionVersions {
	var out []*FunctionVersions
	for _, e := range c.list(FunctionEntry) {
		if tenant == "" || e.Function.Tenant == tenant {
			out = append(out, e.Function)
		}
	}
	return out
}

package catalog

import (
	"fmt"
	"slices"
	"sort"

	"github.com/rubato-faas/rubato/api"
)

// EntryKind says what an Entry is about.
type EntryKind uint8

// The kinds of entries. The numbers travel to zones and to disk.
const (
	FunctionEntry EntryKind = 1
	ZoneEntry     EntryKind = 2
	TenantEntry   EntryKind = 3
	PoolEntry     EntryKind = 4
	SharesEntry   EntryKind = 5
	PolicyEntry   EntryKind = 6

	numEntryKinds = 7
)

var entryKinds = [numEntryKinds]string{"", "function", "zone", "tenant", "pool", "shares", "policy"}

func (k EntryKind) String() string {
	if k > 0 && k < numEntryKinds {
		return entryKinds[k]
	}
	return fmt.Sprintf("entry(%d)", uint8(k))
}

// MaxPageBytes bounds a page of Changes (roughly: one entry may stand alone above it), so that it fits in one
// message of the bus.
const MaxPageBytes = 512 << 10

// Entry is one thing in the catalogue, as of revision Rev: the index of the command that last changed it. Exactly
// one of the values is set; after deletion only Function is, for its last version number.
type Entry struct {
	Rev      uint64            `msgpack:"r"`
	Kind     EntryKind         `msgpack:"k"`
	Key      string            `msgpack:"i"`
	Deleted  bool              `msgpack:"x,omitempty"`
	Function *FunctionVersions `msgpack:"f,omitempty"`
	Zone     *Zone             `msgpack:"z,omitempty"`
	Tenant   *Tenant           `msgpack:"t,omitempty"`
	Pool     *Pool             `msgpack:"p,omitempty"`
	Shares   []api.Share       `msgpack:"s,omitempty"`
	Policy   map[string]string `msgpack:"o,omitempty"`
}

type entryID struct {
	kind EntryKind
	key  string
}

func (e *Entry) id() entryID { return entryID{e.Kind, e.Key} }

// size estimates the encoded length.
func (e *Entry) size() int {
	n := 32 + len(e.Key)
	if e.Function != nil {
		n += e.Function.size()
	}
	if e.Pool != nil {
		n += len(e.Pool.Manifest) + 128
	}
	for _, s := range e.Shares {
		n += len(s.Class) + len(s.From) + len(s.To) + 16
	}
	return n + len(e.Policy)*(api.MaxNameLen+MaxPolicyValue)
}

// get returns an entry that is there and not deleted, else nil.
func (c *Catalog) get(kind EntryKind, key string) *Entry {
	if e := c.entries[entryID{kind, key}]; e != nil && !e.Deleted {
		return e
	}
	return nil
}

func (c *Catalog) list(kind EntryKind) []*Entry {
	out := make([]*Entry, 0, c.live[kind])
	for id, e := range c.entries {
		if id.kind == kind && !e.Deleted {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *Entry) int {
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	return out
}

// set puts an entry in place of the one with the same id and keeps the sums. Entries are replaced, never changed.
func (c *Catalog) set(id entryID, e *Entry) {
	if old := c.entries[id]; old != nil {
		c.count(old, -1)
		c.stale++
	}
	c.entries[id] = e
	c.count(e, 1)
	c.log = append(c.log, id)
	c.revs = append(c.revs, e.Rev)
	if c.stale > 64 && c.stale > len(c.log)/2 {
		c.compact()
	}
}

func (c *Catalog) count(e *Entry, by int) {
	c.names[e.Kind] += by
	if !e.Deleted {
		c.live[e.Kind] += by
	}
	if e.Kind == FunctionEntry {
		c.versions += by * len(e.Function.Versions)
		c.bytes += by * e.Function.size()
		if !e.Deleted {
			if c.functions[e.Function.Tenant] += by; c.functions[e.Function.Tenant] == 0 {
				delete(c.functions, e.Function.Tenant)
			}
		}
	}
}

// compact drops the places in the log that a later revision of the same entry has overtaken. It runs when they
// are more than half, so that it costs each change a constant on average and the log stays within twice the state.
func (c *Catalog) compact() {
	n := 0
	for i, id := range c.log {
		if c.entries[id].Rev == c.revs[i] {
			c.log[n], c.revs[n] = id, c.revs[i]
			n++
		}
	}
	clear(c.log[n:])
	c.log, c.revs, c.stale = c.log[:n], c.revs[:n], 0
}

// Changes lists the entries that changed after revision since, tombstones included, in order of revision: at
// most limit of them and about MaxPageBytes. Ask again with the rev that it returns; while more is true there is
// more to have at once. Since one command changes one entry, a page never splits a revision. Start from 0; the
// copy is then complete, and as of the returned rev, when more is false.
func (c *Catalog) Changes(since uint64, limit int) (entries []Entry, rev uint64, more bool) {
	i := sort.Search(len(c.revs), func(i int) bool { return c.revs[i] > since })
	rev = since
	size := 0
	for ; i < len(c.log); i++ {
		e := c.entries[c.log[i]]
		if e.Rev != c.revs[i] {
			continue
		}
		size += e.size()
		if len(entries) > 0 && (len(entries) >= limit || size > MaxPageBytes) {
			return entries, rev, true
		}
		entries = append(entries, *e)
		rev = e.Rev
	}
	return entries, rev, false
}

// Revision is the revision of the latest change.
func (c *Catalog) Revision() uint64 {
	if len(c.revs) == 0 {
		return 0
	}
	return c.revs[len(c.revs)-1]
}

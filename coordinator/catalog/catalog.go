// Package catalog is the replicated state of the coordinator: tenants, functions with the versions that may still
// run, zones, the manifest of the model pool, the table of shares and the policy settings. It holds what was
// decided, never who is alive, and it is not a database: one command changes one entry. The raft log applies
// commands to it and the zones copy it by pulling Changes.
//
// Apply is a pure function of the state and the command: no time, no randomness, no floating point arithmetic, no
// map order, so that replicas agree to the bit; Chain proves that they do. A Catalog has one owner that writes and
// is not safe for use during Apply; the values it returns are never changed in place and may be kept and shared,
// but not modified. Lengths are in bytes, shares in thousandths.
package catalog

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/rubato-faas/rubato/api"
)

// Limits. A command that would pass one is refused with a code; nothing is ever dropped to make room. They are
// part of the log's format (see Command.Validate).
const (
	// MaxCommandBytes bounds an encoded command; a log entry costs every replica one write to disk.
	MaxCommandBytes = 256 << 10
	// MaxManifestBytes bounds a pool manifest. Trees travel by digest, not in the manifest.
	MaxManifestBytes = 96 << 10
	// MaxFunctionBytes bounds the record of one version, its environment included.
	MaxFunctionBytes = 16 << 10
	// MaxVersions bounds the versions of all functions together.
	MaxVersions = 100_000
	// MaxFunctions bounds the function names ever used: a deleted one keeps its last version number for good.
	MaxFunctions = 200_000
	// MaxTenants bounds tenants, deleted ones included.
	MaxTenants = 10_000
	// MaxZoneNames bounds zones ever declared; api.MaxZones of them may be there at a time.
	MaxZoneNames = 4 * api.MaxZones
	// MaxCatalogBytes bounds the records of all functions together, and so memory and snapshots.
	MaxCatalogBytes = 256 << 20
	// KeepVersions is how many versions of a function stay: calls of an older one may still be on their way.
	KeepVersions = 3
	// KeepPools is how many manifests stay, the one in force included, so that a rollback needs no other source.
	KeepPools = 4
	// MaxRequests is how many request ids are remembered, and MaxRequestID how long one may be.
	MaxRequests  = 1024
	MaxRequestID = 128
	// MaxPolicyKeys and MaxPolicyValue bound the policy settings.
	MaxPolicyKeys  = 64
	MaxPolicyValue = 256
)

// Hash is a link of the chain over all applied commands.
type Hash [sha256.Size]byte

// Result is the answer to one command.
type Result struct {
	// Code is api.CodeOK when the command took effect; else nothing changed, and Message says why.
	Code    api.Code `msgpack:"c"`
	Message string   `msgpack:"m,omitempty"`
	// Rev is the revision of the entry that the command changed (or found as it wanted it).
	Rev uint64 `msgpack:"r"`
	// Version is the version assigned to a function or a pool.
	Version uint64 `msgpack:"v,omitempty"`
	// Repeated says that the request id was seen before: this is the answer given then.
	Repeated bool `msgpack:"-"`
}

// Err is the refusal as an error of the code's kind; nil when the command took effect.
func (r Result) Err() error { return r.Code.Err(r.Message) }

func refuse(code api.Code, format string, args ...any) Result {
	return Result{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Catalog is the state. Make one with New or Restore.
type Catalog struct {
	index uint64
	chain Hash

	entries map[entryID]*Entry
	// log lists entries in order of revision; see changes.go.
	log   []entryID
	revs  []uint64
	stale int

	pools    []*Pool // oldest first, the last one in force
	requests requestLog

	// Sums over entries, kept along so that a limit costs no pass.
	versions  int
	bytes     int
	names     [numEntryKinds]int // deleted ones included
	live      [numEntryKinds]int
	functions map[string]int // live functions per tenant
}

// New makes the empty catalogue, from which every replica starts.
func New() *Catalog {
	return &Catalog{entries: map[entryID]*Entry{}, requests: newRequestLog(), functions: map[string]int{}}
}

// Chain is the index of the last applied command and the hash over all commands up to it. Two replicas at equal
// index have equal hashes, or one of them is wrong.
func (c *Catalog) Chain() (index uint64, hash Hash) { return c.index, c.chain }

// Apply carries out a command that was committed at index, which grows from call to call. It never panics on
// what a command holds: what cannot be done is refused by a code, on every replica alike.
func (c *Catalog) Apply(index uint64, cmd Command) Result {
	raw, err := EncodeCommand(cmd)
	if err != nil {
		return refuse(api.CodeOf(err), "%v", err)
	}
	return c.apply(index, cmd, raw)
}

// ApplyEncoded is Apply for a command as it stands in the log. The chain takes in those very bytes, so that
// replicas of two releases, which might encode one command differently, still have the same chain. An error means
// that this release cannot read the command: nothing changed, and the replica must not go on past it.
func (c *Catalog) ApplyEncoded(index uint64, raw []byte) (Result, error) {
	cmd, err := DecodeCommand(raw)
	if err != nil {
		return Result{}, err
	}
	return c.apply(index, cmd, raw), nil
}

func (c *Catalog) apply(index uint64, cmd Command, raw []byte) Result {
	if index <= c.index {
		return refuse(api.CodeInternal, "index %d after %d", index, c.index)
	}
	c.index = index
	c.chain = link(c.chain, index, raw)
	if err := cmd.Validate(); err != nil {
		return refuse(api.CodeOf(err), "%v", err)
	}
	if cmd.RequestID == "" {
		return c.change(index, &cmd)
	}
	key, sum := requestKey(&cmd), Hash(sha256.Sum256(raw))
	if old, ok := c.requests.find(key); ok {
		if old.Sum != sum {
			return refuse(api.CodeInvalid, "request id %q was used for another command", cmd.RequestID)
		}
		r := old.Result
		r.Repeated = true
		return r
	}
	r := c.change(index, &cmd)
	if r.Code == api.CodeOK {
		c.requests.add(request{Key: key, Sum: sum, Result: r})
	}
	return r
}

func (c *Catalog) change(index uint64, cmd *Command) Result {
	switch cmd.Kind {
	case PutFunction:
		return c.putFunction(index, cmd.Function)
	case DeleteFunction:
		return c.deleteFunction(index, cmd.Tenant, cmd.Name)
	case PutZone:
		return c.putZone(index, *cmd.Zone)
	case DeleteZone:
		return c.remove(index, entryID{ZoneEntry, cmd.Name})
	case PutTenant:
		return c.putTenant(index, cmd.Tenant)
	case DeleteTenant:
		if n := c.functions[cmd.Tenant]; n > 0 {
			return refuse(api.CodeExists, "tenant %s still has %d functions", cmd.Tenant, n)
		}
		return c.remove(index, entryID{TenantEntry, cmd.Tenant})
	case PutPool:
		return c.putPool(index, *cmd.Pool)
	case RollbackPool:
		return c.rollbackPool(index, cmd.Pool.Parent, cmd.Target)
	case PutShares:
		return c.putShares(index, cmd.Shares)
	case PutPolicy:
		return c.putPolicy(index, cmd.Policy)
	}
	return refuse(api.CodeInvalid, "%v", cmd.Kind)
}

func link(prev Hash, index uint64, raw []byte) Hash {
	h := sha256.New()
	h.Write(prev[:])
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], index)
	h.Write(n[:])
	h.Write(raw)
	return Hash(h.Sum(nil))
}

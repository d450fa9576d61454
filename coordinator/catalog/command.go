package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"sort"
	"strings"

	"github.com/rubato-faas/rubato/api"
)

// Kind says what a Command does. The numbers are written to disk: never renumber, only add.
type Kind uint8

// The kinds of commands.
const (
	// PutFunction deploys Function as the next version of its name.
	PutFunction Kind = 1
	// DeleteFunction removes every version of Tenant/Name.
	DeleteFunction Kind = 2
	// PutZone adds or changes Zone.
	PutZone Kind = 3
	// DeleteZone removes zone Name.
	DeleteZone Kind = 4
	// PutTenant adds tenant Tenant.
	PutTenant Kind = 5
	// DeleteTenant removes tenant Tenant, which must have no functions left.
	DeleteTenant Kind = 6
	// PutPool makes Pool the pool in force; Pool.Parent must be the version that is in force.
	PutPool Kind = 7
	// RollbackPool puts the manifest of version Target in force again, under a new version. Pool.Parent as above.
	RollbackPool Kind = 8
	// PutShares replaces the table of shares by Shares.
	PutShares Kind = 9
	// PutPolicy sets each key of Policy; an empty value removes the key.
	PutPolicy Kind = 10
)

var kinds = [...]string{
	PutFunction: "put-function", DeleteFunction: "delete-function", PutZone: "put-zone", DeleteZone: "delete-zone",
	PutTenant: "put-tenant", DeleteTenant: "delete-tenant", PutPool: "put-pool", RollbackPool: "rollback-pool",
	PutShares: "put-shares", PutPolicy: "put-policy",
}

func (k Kind) String() string {
	if k >= PutFunction && int(k) < len(kinds) {
		return kinds[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Zone is a zone as the operator declared it.
type Zone struct {
	Name   string   `msgpack:"n" json:"name"`
	Tier   api.Tier `msgpack:"t" json:"tier"`
	Region string   `msgpack:"r" json:"region"`
}

// Tenant owns functions.
type Tenant struct {
	Name string `msgpack:"n" json:"name"`
}

// Pool is one version of the merged model's manifest. Version only ever grows: going back to an older manifest
// makes a new version too, so that a zone can always tell which of two is later.
type Pool struct {
	Version uint64 `msgpack:"v" json:"version"`
	// Parent is the version that this one was made from; 0 for the first.
	Parent uint64 `msgpack:"p" json:"parent"`
	// RollbackOf is the older version whose manifest this is; 0 for a merge.
	RollbackOf uint64 `msgpack:"rb" json:"rollback_of,omitempty"`
	// Digest is the SHA-256 of Manifest in hex.
	Digest   string `msgpack:"d" json:"digest"`
	Manifest []byte `msgpack:"m" json:"-"`
}

// DigestOf is the digest that a Pool with this manifest carries.
func DigestOf(manifest []byte) string {
	sum := sha256.Sum256(manifest)
	return hex.EncodeToString(sum[:])
}

// Command is one entry of the log: what was decided, complete in itself. Which fields count depends on Kind.
type Command struct {
	Kind Kind `msgpack:"k"`
	// RequestID, when set, makes the command safe to send again: the answer of the first is repeated. Ids belong
	// to the tenant of the command. Only the last MaxRequests successful ones are remembered.
	RequestID string            `msgpack:"q,omitempty"`
	Tenant    string            `msgpack:"t,omitempty"`
	Name      string            `msgpack:"n,omitempty"`
	Function  *api.Function     `msgpack:"f,omitempty"`
	Zone      *Zone             `msgpack:"z,omitempty"`
	Pool      *Pool             `msgpack:"p,omitempty"`
	Target    uint64            `msgpack:"g,omitempty"`
	Shares    []api.Share       `msgpack:"s,omitempty"`
	Policy    map[string]string `msgpack:"o,omitempty"`
}

func (c Command) String() string {
	switch c.Kind {
	case PutFunction:
		if c.Function != nil {
			return fmt.Sprintf("%v %s", c.Kind, c.Function.ID())
		}
	case DeleteFunction:
		return fmt.Sprintf("%v %s/%s", c.Kind, c.Tenant, c.Name)
	case PutZone:
		if c.Zone != nil {
			return fmt.Sprintf("%v %s", c.Kind, c.Zone.Name)
		}
	case DeleteZone:
		return fmt.Sprintf("%v %s", c.Kind, c.Name)
	case PutTenant, DeleteTenant:
		return fmt.Sprintf("%v %s", c.Kind, c.Tenant)
	case RollbackPool:
		return fmt.Sprintf("%v to %d", c.Kind, c.Target)
	}
	return c.Kind.String()
}

// Validate reports what is wrong with the command whatever the catalogue holds. The proposer calls it, so that
// nonsense costs no log entry, and Apply calls it again, since the log is what all replicas trust. Its rules are
// thus part of the log's format: a rule that changes needs a new commandVersion, else replicas of two releases
// would judge one entry differently.
func (c *Command) Validate() error {
	if len(c.RequestID) > MaxRequestID {
		return fmt.Errorf("%w: request id of %d bytes: want at most %d", api.ErrInvalid, len(c.RequestID), MaxRequestID)
	}
	switch c.Kind {
	case PutFunction:
		return c.validateFunction()
	case DeleteFunction:
		return errors.Join(api.CheckName("tenant", c.Tenant), api.CheckName("function", c.Name))
	case PutZone:
		return c.validateZone()
	case DeleteZone:
		return api.CheckName("zone", c.Name)
	case PutTenant, DeleteTenant:
		return api.CheckName("tenant", c.Tenant)
	case PutPool:
		return c.validatePool()
	case RollbackPool:
		if c.Pool == nil || c.Target == 0 || c.Target >= c.Pool.Parent {
			return fmt.Errorf("%w: rollback names no parent, or a target that is not older than it", api.ErrInvalid)
		}
		return nil
	case PutShares:
		return validateShares(c.Shares)
	case PutPolicy:
		return validatePolicy(c.Policy)
	}
	return fmt.Errorf("%w: %v", api.ErrInvalid, c.Kind)
}

func (c *Command) validateFunction() error {
	if c.Function == nil {
		return fmt.Errorf("%w: no function", api.ErrInvalid)
	}
	if c.Function.Version != 0 {
		return fmt.Errorf("%w: function version %d: versions are assigned, want 0", api.ErrInvalid, c.Function.Version)
	}
	if math.IsNaN(c.Function.Objective.Share) {
		return fmt.Errorf("%w: objective share is not a number", api.ErrInvalid)
	}
	if n := functionBytes(c.Function); n > MaxFunctionBytes {
		return fmt.Errorf("%w: function record of %d bytes: want at most %d", api.ErrTooLarge, n, MaxFunctionBytes)
	}
	return c.Function.Validate()
}

func (c *Command) validateZone() error {
	if c.Zone == nil {
		return fmt.Errorf("%w: no zone", api.ErrInvalid)
	}
	if c.Zone.Tier > api.TierEdge || len(c.Zone.Region) > api.MaxNameLen {
		return fmt.Errorf("%w: zone %q: unknown tier or region above %d bytes", api.ErrInvalid, c.Zone.Name, api.MaxNameLen)
	}
	return api.CheckName("zone", c.Zone.Name)
}

func (c *Command) validatePool() error {
	if c.Pool == nil || len(c.Pool.Manifest) == 0 {
		return fmt.Errorf("%w: no pool manifest", api.ErrInvalid)
	}
	if len(c.Pool.Manifest) > MaxManifestBytes {
		return fmt.Errorf("%w: manifest of %d bytes: want at most %d", api.ErrTooLarge, len(c.Pool.Manifest), MaxManifestBytes)
	}
	if c.Pool.Version != 0 || c.Pool.RollbackOf != 0 {
		return fmt.Errorf("%w: pool version %d: versions are assigned, want 0", api.ErrInvalid, c.Pool.Version)
	}
	if c.Pool.Digest != DigestOf(c.Pool.Manifest) {
		return fmt.Errorf("%w: digest %.16q does not match the manifest", api.ErrInvalid, c.Pool.Digest)
	}
	return nil
}

// compareShares is the order of the table: class, from, to.
func compareShares(a, b api.Share) int {
	if c := strings.Compare(a.Class, b.Class); c != 0 {
		return c
	}
	if c := strings.Compare(a.From, b.From); c != 0 {
		return c
	}
	return strings.Compare(a.To, b.To)
}

// validateShares wants the rows in order and without repetition, so that a table has one encoding only.
func validateShares(rows []api.Share) error {
	if len(rows) > api.MaxShares {
		return fmt.Errorf("%w: %d shares: want at most %d", api.ErrTooLarge, len(rows), api.MaxShares)
	}
	sum := 0
	for i, s := range rows {
		if s.Class == "" || len(s.Class) > 2*api.MaxNameLen+1 || s.From == "" || s.To == "" || s.From == s.To ||
			len(s.From) > api.MaxNameLen || len(s.To) > api.MaxNameLen || s.Permille < 1 || s.Permille > api.MaxPermille {
			return fmt.Errorf("%w: share %d: want a class, two different zones and 1-%d permille", api.ErrInvalid, i, api.MaxPermille)
		}
		if i > 0 && compareShares(rows[i-1], s) >= 0 {
			return fmt.Errorf("%w: share %d: rows out of order or repeated", api.ErrInvalid, i)
		}
		if i == 0 || rows[i-1].Class != s.Class || rows[i-1].From != s.From {
			sum = 0
		}
		if sum += s.Permille; sum > api.MaxPermille {
			return fmt.Errorf("%w: shares of %s from %s above %d permille", api.ErrInvalid, s.Class, s.From, api.MaxPermille)
		}
	}
	return nil
}

func validatePolicy(p map[string]string) error {
	if len(p) == 0 || len(p) > MaxPolicyKeys {
		return fmt.Errorf("%w: %d policy settings: want 1-%d", api.ErrInvalid, len(p), MaxPolicyKeys)
	}
	for _, k := range sortedKeys(p) {
		if err := api.CheckName("policy", k); err != nil {
			return err
		}
		if len(p[k]) > MaxPolicyValue {
			return fmt.Errorf("%w: policy %s of %d bytes: want at most %d", api.ErrTooLarge, k, len(p[k]), MaxPolicyValue)
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// functionBytes is what a version counts for against the limits. It is arithmetic over lengths and not the
// length of an encoding, which another release could make longer.
func functionBytes(f *api.Function) int {
	n := 128 + len(f.Tenant) + len(f.Name) + len(f.Runtime) + len(f.Artifact)
	for _, k := range sortedKeys(f.Env) {
		n += len(k) + len(f.Env[k]) + 4
	}
	n += len(f.Needs.Arch) + len(f.Needs.Accelerator)
	for _, t := range f.Needs.Tags {
		n += len(t) + 2
	}
	return n
}

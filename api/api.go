// Package api holds the nouns of Rubato: tenants, functions, invocations, nodes, zones, epochs, and the few
// small types that every core, shell and client shares. It is not a client and holds no behaviour beyond
// validation, ordering and printing. Anything may import it; it imports nothing of the project.
//
// Units: time is time.Duration in Go; fields that travel on the wire end their name in the unit (Ms, Bytes).
// Values are plain data and safe to copy; nothing here is safe for concurrent mutation.
package api

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Limits of the public interface. They are constants so that a client, a front door and a node agree.
const (
	// MaxPayloadBytes bounds a request body and a result (6 MB, as AWS Lambda's synchronous limit).
	MaxPayloadBytes = 6 << 20
	// InlineBytes is the largest body that travels on the bus; larger ones go by reference through the object store.
	InlineBytes = 256 << 10
	// MaxInputs bounds the objects that one invocation may name.
	MaxInputs = 16
	// MaxNameLen bounds names of tenants, functions and nodes.
	MaxNameLen = 64
	// MaxKeyLen bounds object keys and idempotency keys.
	MaxKeyLen = 256
	// MaxArtifactBytes bounds a function's artifact.
	MaxArtifactBytes = 256 << 20
	// MaxTimeout bounds a function's timeout.
	MaxTimeout = 15 * time.Minute
	// MaxMinWarm bounds the sandboxes that a function may ask each zone to keep warm.
	MaxMinWarm = 100
	// MaxPrewarm bounds the sandboxes that one request may bring up.
	MaxPrewarm = 8
	// MaxLogBytes bounds the captured output kept for one invocation.
	MaxLogBytes = 16 << 10
)

// LocalityBytes is the size from which an object counts for locality and is reported one by one. Smaller ones
// move in less time than a decision about them is worth: 99 % of FaaS objects are below 1.6 MB.
const LocalityBytes = 256 << 10

var (
	nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$`)
	keyRE  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/=-]*[A-Za-z0-9=])?$`)
)

// CheckName reports whether s can name a tenant, function, zone or node. Names become parts of bus subjects
// and object keys, hence the narrow alphabet.
func CheckName(kind, s string) error {
	if len(s) == 0 || len(s) > MaxNameLen || !nameRE.MatchString(s) {
		return fmt.Errorf("%w: %s %q: want 1-%d of a-z, 0-9, '-' and '_', beginning and ending with a letter or digit", ErrInvalid, kind, clip(s), MaxNameLen)
	}
	return nil
}

// CheckKey reports whether s can be an object key: path-like, printable, without "..".
func CheckKey(s string) error {
	if len(s) == 0 || len(s) > MaxKeyLen || !keyRE.MatchString(s) || strings.Contains(s, "..") || strings.Contains(s, "//") {
		return fmt.Errorf("%w: object key %q: want 1-%d of letters, digits and . _ / = -, without \"..\" or \"//\"", ErrInvalid, clip(s), MaxKeyLen)
	}
	return nil
}

// CheckEnv reports whether a process can be given these variables. It is not a part of Function.Validate, which decides what the
// coordinators' log means.
func CheckEnv(env map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(env[k], "\x00") {
			return fmt.Errorf("%w: environment variable %q: want a name without =, and no NUL", ErrInvalid, clip(k))
		}
	}
	return nil
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}

// Tier says what kind of place a zone is.
type Tier uint8

const (
	// TierCore is a data centre zone.
	TierCore Tier = iota
	// TierEdge is a small zone near its users.
	TierEdge
)

func (t Tier) String() string {
	if t == TierEdge {
		return "edge"
	}
	return "core"
}

// ParseTier reads "edge" or "core".
func ParseTier(s string) (Tier, error) {
	switch s {
	case "edge":
		return TierEdge, nil
	case "core":
		return TierCore, nil
	}
	return 0, fmt.Errorf("%w: tier %q: want edge or core", ErrInvalid, clip(s))
}

// Runtime names how a function's artifact is run.
type Runtime string

const (
	// RuntimeProcess is a long-lived process that speaks the AWS Lambda Runtime API.
	RuntimeProcess Runtime = "process"
	// RuntimeWasm is a WASI module, command or reactor, run in wazero.
	RuntimeWasm Runtime = "wasm"
)

// Epoch is the fencing number of a zone leader. Generation is raised by an operator after etcd was restored
// from a backup (its revisions may then go backwards); Revision is the create-revision of the election key.
type Epoch struct {
	Generation uint64 `msgpack:"g" json:"generation"`
	Revision   int64  `msgpack:"r" json:"revision"`
}

// Compare orders epochs: generation first, then revision.
func (e Epoch) Compare(o Epoch) int {
	if c := cmp.Compare(e.Generation, o.Generation); c != 0 {
		return c
	}
	return cmp.Compare(e.Revision, o.Revision)
}

// IsZero reports whether e was never set.
func (e Epoch) IsZero() bool { return e == Epoch{} }

func (e Epoch) String() string { return fmt.Sprintf("%d.%d", e.Generation, e.Revision) }

// SandboxState is how far a function's execution environment on a node has come. Order matters: a higher
// state needs less work before the function can run.
type SandboxState uint8

const (
	// SandboxNone means nothing of the function is on the node.
	SandboxNone SandboxState = iota
	// SandboxFetched means that its artifact is on the node.
	SandboxFetched
	// SandboxPrepared means that the artifact is unpacked or compiled.
	SandboxPrepared
	// SandboxWarm means that a ready, idle environment exists.
	SandboxWarm
	// SandboxBusy means that every environment is running an invocation.
	SandboxBusy
)

var sandboxStates = [...]string{"none", "fetched", "prepared", "warm", "busy"}

func (s SandboxState) String() string {
	if int(s) < len(sandboxStates) {
		return sandboxStates[s]
	}
	return fmt.Sprintf("sandbox(%d)", uint8(s))
}

// StartType is what callers see in X-Start-Type: how the invocation's sandbox was found.
func (s SandboxState) StartType() string {
	switch s {
	case SandboxWarm:
		return "warm"
	case SandboxPrepared:
		return "prepared"
	default:
		return "cold"
	}
}

// Objective is what a function's owner promises its callers, and what is to be made small for them: the time until the answer in
// milliseconds, with the weight 1, and what the weights below add to it.
type Objective struct {
	// Deadline is the time from arrival to answer that calls should meet; 0 means none.
	Deadline time.Duration `msgpack:"d" json:"deadline"`
	// Share is the share of calls that must meet it (default .95).
	Share float64 `msgpack:"s" json:"share"`
	// PriceWeight is how many milliseconds one unit of price is worth, in the unit of nodes' price_per_hour: a slot that is used
	// for an hour counts as PriceWeight x its price more than its time. 0: price does not matter.
	PriceWeight float64 `msgpack:"pw,omitempty" json:"price_weight,omitempty"`
	// MissWeight is how many milliseconds a certain miss of the deadline is worth. 0: only the rule's clauses about deadlines count.
	MissWeight float64 `msgpack:"mw,omitempty" json:"miss_weight,omitempty"`
}

// Limits of the objective's weights.
const (
	// MaxPriceWeight in ms per unit of price.
	MaxPriceWeight = 1e9
	// MaxMissWeight in ms.
	MaxMissWeight = float64(MaxTimeout / time.Millisecond)
)

// Function is one deployed version of a function. It is immutable: deploying again makes a new Version.
type Function struct {
	Tenant  string `msgpack:"t" json:"tenant"`
	Name    string `msgpack:"n" json:"name"`
	Version uint64 `msgpack:"v" json:"version"`
	// Runtime and Artifact: what is run, and the SHA-256 (hex) of its bytes in the artifact store.
	Runtime       Runtime       `msgpack:"r" json:"runtime"`
	Artifact      string        `msgpack:"a" json:"artifact"`
	ArtifactBytes int64         `msgpack:"ab" json:"artifact_bytes"`
	MemoryMB      int           `msgpack:"m" json:"memory_mb"`
	Timeout       time.Duration `msgpack:"to" json:"timeout"`
	Objective     Objective     `msgpack:"o" json:"objective"`
	// DelayOff makes the scheduler run every call at once on the best free node.
	DelayOff bool `msgpack:"do" json:"delay_off"`
	// Idempotent: the owner says that running a call twice, at the same time too, does no harm. A slow call may be sent to a second
	// node then.
	Idempotent bool              `msgpack:"id,omitempty" json:"idempotent,omitempty"`
	Env        map[string]string `msgpack:"e" json:"env,omitempty"`
	// Needs are what a node must have to run it; the zero value is met by every node.
	Needs Labels `msgpack:"nd,omitempty" json:"needs,omitzero"`
	// MinWarm is how many sandboxes each zone keeps warm or on their way, calls or not.
	MinWarm int `msgpack:"mw,omitempty" json:"min_warm,omitempty"`
}

// Key names the version uniquely: "tenant/name@version". Sandboxes, statistics and logs are kept by it.
func (f *Function) Key() string { return fmt.Sprintf("%s/%s@%d", f.Tenant, f.Name, f.Version) }

// ID names the function without its version: "tenant/name".
func (f *Function) ID() string { return f.Tenant + "/" + f.Name }

// Validate reports every fault of f at once.
func (f *Function) Validate() error {
	var errs []error
	errs = append(errs, CheckName("tenant", f.Tenant), CheckName("function", f.Name))
	if f.Runtime != RuntimeProcess && f.Runtime != RuntimeWasm {
		errs = append(errs, fmt.Errorf("%w: runtime %q: want process or wasm", ErrInvalid, clip(string(f.Runtime))))
	}
	if len(f.Artifact) != 64 {
		errs = append(errs, fmt.Errorf("%w: artifact %q: want the SHA-256 of the artifact in hex", ErrInvalid, clip(f.Artifact)))
	}
	if f.ArtifactBytes <= 0 || f.ArtifactBytes > MaxArtifactBytes {
		errs = append(errs, fmt.Errorf("%w: artifact of %d bytes: want 1-%d", ErrInvalid, f.ArtifactBytes, int64(MaxArtifactBytes)))
	}
	if f.MemoryMB < 1 || f.MemoryMB > 1<<20 {
		errs = append(errs, fmt.Errorf("%w: memory %d MB: want 1-1048576", ErrInvalid, f.MemoryMB))
	}
	if f.Timeout < time.Millisecond || f.Timeout > MaxTimeout {
		errs = append(errs, fmt.Errorf("%w: timeout %v: want 1ms-%v", ErrInvalid, f.Timeout, MaxTimeout))
	}
	if f.Objective.Deadline < 0 || f.Objective.Deadline > MaxTimeout {
		errs = append(errs, fmt.Errorf("%w: objective deadline %v: want 0 (none) to %v", ErrInvalid, f.Objective.Deadline, MaxTimeout))
	}
	if f.Objective.Share < 0 || f.Objective.Share >= 1 {
		errs = append(errs, fmt.Errorf("%w: objective share %v: want at least 0 and below 1 (0 means the default .95)", ErrInvalid, f.Objective.Share))
	}
	if err := f.Needs.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("needs: %w", err))
	}
	if f.MinWarm < 0 || f.MinWarm > MaxMinWarm {
		errs = append(errs, fmt.Errorf("%w: min_warm %d: want 0-%d", ErrInvalid, f.MinWarm, MaxMinWarm))
	}
	if w := f.Objective.PriceWeight; !(w >= 0 && w <= MaxPriceWeight) {
		errs = append(errs, fmt.Errorf("%w: objective price weight %v: want 0-%v ms per unit of price", ErrInvalid, w, MaxPriceWeight))
	}
	if w := f.Objective.MissWeight; !(w >= 0 && w <= MaxMissWeight) {
		errs = append(errs, fmt.Errorf("%w: objective miss weight %v: want 0-%v ms", ErrInvalid, w, MaxMissWeight))
	}
	if len(f.Env) > 64 {
		errs = append(errs, fmt.Errorf("%w: %d environment variables: want at most 64", ErrInvalid, len(f.Env)))
	}
	return errors.Join(errs...)
}

// Alpha is the share of calls that may miss the deadline.
func (o Objective) Alpha() float64 {
	if o.Share <= 0 {
		return .05
	}
	return 1 - o.Share
}

// Object is an immutable input. Key is scoped and carries the beginning of the content's SHA-256,
// "tenant/key@digest": a key that was deleted and put again is another object for every cache.
type Object struct {
	Key   string `msgpack:"k" json:"key"`
	Bytes int64  `msgpack:"b" json:"bytes"`
}

// objectDigest is how many hex digits of the digest an object's key carries.
const objectDigest = 16

// ObjectOf names a tenant's stored object.
func ObjectOf(tenant, key string, bytes int64, digest string) Object {
	return Object{Key: tenant + "/" + key + "@" + digest[:min(len(digest), objectDigest)], Bytes: bytes}
}

// Split takes an object's key apart: whose, under which key, and the beginning of its digest.
func (o *Object) Split() (tenant, key, digest string, err error) {
	tenant, rest, ok := strings.Cut(o.Key, "/")
	key, digest, ok2 := strings.Cut(rest, "@")
	if !ok || !ok2 || tenant == "" || key == "" {
		return "", "", "", fmt.Errorf("%w: object %q: want tenant/key@digest", ErrInvalid, clip(o.Key))
	}
	return tenant, key, digest, nil
}

// Invocation is one call of a function as it travels from a front door to a node. Exactly one of Payload and
// PayloadRef is set when there is a body.
type Invocation struct {
	ID       string   `msgpack:"i"`
	Tenant   string   `msgpack:"t"`
	Function string   `msgpack:"f"`
	Version  uint64   `msgpack:"v"` // resolved by the zone that accepts the call
	Payload  []byte   `msgpack:"p"`
	PayRef   string   `msgpack:"pr"` // object key of a body above InlineBytes
	PayBytes int64    `msgpack:"pb"`
	Inputs   []Object `msgpack:"in"`
	// BudgetMs is the caller's remaining time; 0 means only the function's timeout bounds the call. It travels
	// as a remaining budget, never as wall time: hosts' clocks differ.
	BudgetMs int64 `msgpack:"b"`
	// WaitedMs is how long the call has waited elsewhere before it came here (forwarded calls).
	WaitedMs  float64 `msgpack:"w"`
	Priority  uint8   `msgpack:"pri"`
	IdemKey   string  `msgpack:"ik"`
	Affinity  string  `msgpack:"af"`
	Trace     string  `msgpack:"tr"` // W3C traceparent
	Async     bool    `msgpack:"as"`
	Forwarded string  `msgpack:"fw"` // zone that sent it here; a forwarded call is never forwarded again
	Attempt   uint8   `msgpack:"at"`
}

// FunctionID is "tenant/name".
func (i *Invocation) FunctionID() string { return i.Tenant + "/" + i.Function }

// InputBytes is the sum of the inputs' sizes.
func (i *Invocation) InputBytes() int64 {
	var n int64
	for k := range i.Inputs {
		n += i.Inputs[k].Bytes
	}
	return n
}

// Retryable reports whether the call may run again after it may have run once: asynchronous calls are promised
// at least once, and an idempotency key says that a repetition does no harm.
func (i *Invocation) Retryable() bool { return i.Async || i.IdemKey != "" }

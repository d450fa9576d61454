// Package nodeagent is the core of a node: it owns the node's slots, memory, sandboxes and object cache, and decides
// what happens to each dispatched call on its way through fetch, prepare, start and run. It is a plain state machine:
// no goroutine, no clock, no I/O, no lock. noded carries its actions out and gives it one goroutine; the simulator
// drives the same code. It decides only *whether it still can*: a call that does not fit is refused at once and never
// queued behind the zone's back.
package nodeagent

import (
	"container/list"
	"errors"
	"fmt"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// Config sizes a node.
type Config struct {
	Zone string `koanf:"-"`
	Name string `koanf:"-"`
	// Slots is how many calls run at once.
	Slots int `koanf:"slots" doc:"calls that run at once"`
	// Cores are what running calls share; above one call a core they slow each other down.
	Cores float64 `koanf:"cores" doc:"cores that the slots share (0: one each)"`
	// MemoryMB bounds the memory that sandboxes (busy and idle) may claim, by their functions' declared sizes.
	MemoryMB int `koanf:"memory_mb" doc:"memory for sandboxes, by their functions' declared sizes"`
	// CacheBytes bounds the object cache.
	CacheBytes int64 `koanf:"cache_bytes" doc:"bytes of input objects kept (131,072 objects at most)"`
	// Artifacts bounds fetched and prepared artifacts.
	Artifacts int `koanf:"artifacts" doc:"function artifacts kept fetched and prepared"`
	// LinkMbps is the link to the object store: 0 is as fast as the machine allows.
	LinkMbps float64 `koanf:"link_mbps" doc:"limit of the link to the object store in Mbit/s (0: none)"`
	// Class names the hardware: nodes of one class are expected to be equally fast. Any name may appear at any time.
	Class string `koanf:"class" doc:"name of the hardware class, like x86-gen4 or a100 (empty: unknown)"`
	// PricePerHour is what one slot costs an hour, in whatever unit the operator weighs it in; EnergyClass is how much energy
	// it takes, 1 the least (0: unknown). Samples carry both.
	PricePerHour float64 `koanf:"price_per_hour" doc:"price of one slot for an hour, in any unit that all nodes share"`
	EnergyClass  uint8   `koanf:"energy_class" doc:"energy class, 1 (least energy) to 7 (0: unknown)"`
	// Arch, Accelerator and Tags are what functions may need of the node, see api.Labels. The core gives Arch no default, since
	// it must not know the machine that it runs on; noded does.
	Arch        string   `koanf:"arch" doc:"processor architecture that functions may ask for, like amd64 or arm64"`
	Accelerator string   `koanf:"accelerator" doc:"class of the accelerator, like gpu-a100 (empty: none); functions may ask for gpu too"`
	Tags        []string `koanf:"tags" doc:"names that functions may ask for, at most 16"`
	// KeepAlive bounds how long an idle sandbox is kept; the zone may ask for less with each call.
	KeepAlive time.Duration `koanf:"keep_alive" doc:"longest life of an idle sandbox; the zone may ask for less"`
	// MaxUnacked bounds completions kept until the zone acknowledges them; the oldest is dropped, and counted.
	MaxUnacked int `koanf:"max_unacked" doc:"completions kept until acknowledged"`
	// ResendAfter is how long an unacknowledged completion waits before it is sent again.
	ResendAfter time.Duration `koanf:"resend_after" doc:"time after which an unacknowledged completion is sent again"`
}

// DefaultConfig is a small node.
func DefaultConfig() Config {
	return Config{Slots: 4, MemoryMB: 2048, CacheBytes: 1 << 30, Artifacts: 64, KeepAlive: time.Hour, MaxUnacked: 4096, ResendAfter: 500 * time.Millisecond}
}

// Validate reports all faults.
func (c Config) Validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: "+format, append([]any{api.ErrInvalid}, args...)...))
		}
	}
	bad(c.Slots >= 1 && c.Slots <= wire.MaxRunning, "slots %d: want 1-%d", c.Slots, wire.MaxRunning)
	bad(c.Cores >= 0 && c.Cores <= 1e6, "cores %v: want 0-1e6", c.Cores)
	bad(c.MemoryMB >= 1, "memory_mb %d: want at least 1", c.MemoryMB)
	bad(c.CacheBytes >= 0, "cache_bytes %d: want at least 0", c.CacheBytes)
	bad(c.Artifacts >= 1 && c.Artifacts <= wire.MaxSandboxes, "artifacts %d: want 1-%d", c.Artifacts, wire.MaxSandboxes)
	bad(c.LinkMbps >= 0, "link_mbps %v: want at least 0", c.LinkMbps)
	bad(len(c.Class) <= api.MaxNameLen, "class of %d characters: want at most %d", len(c.Class), api.MaxNameLen)
	bad(c.PricePerHour >= 0 && c.PricePerHour <= api.MaxPrice, "price_per_hour %v: want 0-%v", c.PricePerHour, float64(api.MaxPrice))
	bad(c.EnergyClass <= api.MaxEnergyClass, "energy_class %d: want 0-%d", c.EnergyClass, api.MaxEnergyClass)
	bad(c.KeepAlive > 0, "keep_alive %v: want more than 0", c.KeepAlive)
	bad(c.MaxUnacked >= 1, "max_unacked %d: want at least 1", c.MaxUnacked)
	bad(c.ResendAfter > 0, "resend_after %v: want more than 0", c.ResendAfter)
	l := c.labels()
	return errors.Join(append(errs, l.Validate())...)
}

func (c *Config) labels() api.Labels {
	return api.Labels{Arch: c.Arch, Accelerator: c.Accelerator, Tags: c.Tags}
}

// Node owns one worker's slots and caches.
type Node struct {
	cfg   Config
	boot  uint64
	began time.Time // the first step
	epoch api.Epoch // highest seen; what the shell persisted before the process started

	runs     map[string]*run
	order    []*run // running calls in order of acceptance
	sbs      []*sandboxState
	arts     map[string]*artifact   // by digest
	artsOf   map[string][]*artifact // by function key, as their fnKeys say
	objs     map[string]*object     // by object key
	used     *list.List             // objects, the one whose last use is longest ago first
	memUsed  int
	bytes    int64
	useClock uint64 // logical clock of artifacts' last use
	sbSeq    uint64
	seenSeq  uint64
	draining bool
	unacked  []*unacked

	// Stats since boot.
	fetchedBytes int64
	coldStarts   uint64
	calls        uint64
	flushed      uint64
	dropped      uint64 // unacknowledged completions dropped

	// Deltas for the next completion.
	newObjects []api.Object
	evicted    []string
	touched    map[string]bool // function keys whose sandboxes changed

	labels api.Labels
}

// New makes a node. epoch is the highest that the shell has on disk, boot a number that grows with each start.
func New(cfg Config, boot uint64, epoch api.Epoch) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("nodeagent config: %w", err)
	}
	labels := cfg.labels()
	return &Node{
		cfg: cfg, labels: labels.Clone(), boot: boot, epoch: epoch, runs: map[string]*run{}, arts: map[string]*artifact{}, artsOf: map[string][]*artifact{}, objs: map[string]*object{}, used: list.New(),
		touched: map[string]bool{},
	}, nil
}

// Step takes one event and appends to out what has to be done about it, in order.
func (n *Node) Step(now time.Time, ev *Event, out []Action) []Action {
	if n.began.IsZero() {
		n.began = now
	}
	switch ev.Kind {
	case EvRun:
		out = n.accept(now, ev.Run, out)
	case EvHello:
		out = n.hello(ev.Epoch, out)
	case EvFetched:
		out = n.objectFetched(now, ev, out)
	case EvArtifact:
		out = n.artifactFetched(now, ev, out)
	case EvPrepared:
		out = n.prepared(now, ev, out)
	case EvStarted:
		out = n.started(now, ev, out)
	case EvExecuted:
		out = n.executed(now, ev, out)
	case EvCancel:
		if ev.Epoch.Compare(n.epoch) >= 0 {
			out = n.stop(now, ev.ID, api.OutcomeCanceled, api.CodeCanceled, "canceled by its caller", out)
		}
	case EvDeadline:
		if r := n.runs[ev.ID]; r != nil && r.gen == ev.Gen {
			out = n.stop(now, ev.ID, api.OutcomeTimeout, api.CodeDeadline, "the call's time ran out", out)
		}
	case EvAck:
		n.acked(ev.IDs)
	case EvFlush:
		out = n.flush(out)
	case EvDrain:
		n.draining = true
		out = append(out, Action{Kind: ActReport})
	case EvTick:
		out = n.expire(now, out)
		out = n.resend(now, out)
		out = append(out, Action{Kind: ActReport})
	}
	return out
}

// hello takes a leader's epoch: it is on disk before anything answers under it.
func (n *Node) hello(e api.Epoch, out []Action) []Action {
	if e.Compare(n.epoch) < 0 {
		return out
	}
	out = n.raise(e, out)
	for _, u := range n.unacked {
		u.sentAt = time.Time{} // tell the new leader at the next tick
	}
	return append(out, Action{Kind: ActReport})
}

func (n *Node) raise(e api.Epoch, out []Action) []Action {
	if e.Compare(n.epoch) <= 0 {
		return out
	}
	n.epoch, n.seenSeq = e, 0
	return append(out, Action{Kind: ActPersistEpoch, Epoch: e})
}

func (n *Node) age(now time.Time) time.Duration {
	if n.began.IsZero() {
		return 0
	}
	return now.Sub(n.began)
}

// Epoch is the highest seen.
func (n *Node) Epoch() api.Epoch { return n.epoch }

// InUse is how many slots are taken.
func (n *Node) InUse() int { return len(n.order) }

// Slots is the node's size.
func (n *Node) Slots() int { return n.cfg.Slots }

// MemUsedMB is what sandboxes claim now.
func (n *Node) MemUsedMB() int { return n.memUsed }

// Idle reports whether nothing runs and nothing waits for an acknowledgement.
func (n *Node) Idle() bool { return len(n.order) == 0 && len(n.unacked) == 0 }

// Heartbeat reports the node's whole soft state.
func (n *Node) Heartbeat(now time.Time) *wire.Heartbeat {
	hb := &wire.Heartbeat{
		Zone: n.cfg.Zone, Node: n.cfg.Name, Boot: n.boot, Epoch: n.epoch, SeenSeq: n.seenSeq, Slots: n.cfg.Slots,
		Cores: n.cfg.Cores, MemMB: n.cfg.MemoryMB, MemUsedMB: n.memUsed, LinkMbps: n.cfg.LinkMbps, Class: api.HardwareClass(n.cfg.Class), ClassName: n.cfg.Class,
		PricePerHour: n.cfg.PricePerHour, EnergyClass: n.cfg.EnergyClass, Draining: n.draining,
		Labels: n.labels, UptimeMs: max(n.age(now).Milliseconds(), 1), // 0 would say that it is not known
		Unacked: len(n.unacked), CacheBytes: n.bytes, CacheMax: n.cfg.CacheBytes, FetchedBytes: n.fetchedBytes, ColdStarts: n.coldStarts,
		Calls: n.calls, Flushed: n.flushed,
	}
	for _, r := range n.order {
		hb.Running = append(hb.Running, wire.RunningReport{
			ID: r.m.Call.ID, Function: r.fnKey, Elapsed: now.Sub(r.accepted).Milliseconds(), Attempt: r.m.Call.Attempt,
		})
	}
	for _, k := range n.functionKeys() {
		if len(hb.Sandboxes) < wire.MaxSandboxes {
			hb.Sandboxes = append(hb.Sandboxes, n.sandboxReport(now, k))
		}
	}
	hb.Objects = n.objectReport()
	return hb
}

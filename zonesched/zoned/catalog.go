package zoned

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"sync/atomic"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/internal/durable"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/zonesched"
)

// catalogCopy follows the coordinator's catalogue by pulling what changed, and keeps a copy on disk so that the zone
// restarts without the coordinator.
type catalogCopy struct {
	d    *Daemon
	poke chan struct{}
	// asOf: all that the coordinator had then is here.
	asOf atomic.Pointer[time.Time]

	// Owned by run after load.
	rev    uint64
	fns    map[string]api.Function
	policy settings // of all zones
}

// catalogVersion is written and read; there was none before it.
const catalogVersion = 1

// catalogFile is the copy on disk.
type catalogFile struct {
	Version   int            `json:"version"`
	Rev       uint64         `json:"rev"`
	Functions []api.Function `json:"functions"`
	Policy    settings       `json:"policy,omitempty"`
}

const (
	catalogTimeout = 5 * time.Second
	clockError     = time.Second
)

func newCatalogCopy(d *Daemon) *catalogCopy {
	return &catalogCopy{d: d, poke: make(chan struct{}, 1), fns: map[string]api.Function{}}
}

func (c *catalogCopy) path() string { return filepath.Join(c.d.cfg.Dir, "catalog.json") }

// load reads the copy; the loop has not begun yet.
func (c *catalogCopy) load() error {
	if err := os.MkdirAll(c.d.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("zoned dir: %w", err)
	}
	f, err := c.read()
	if err != nil || f.Version == 0 {
		return err
	}
	c.rev, c.policy = f.Rev, f.Policy
	for _, fn := range f.Functions {
		c.fns[fn.ID()] = fn
	}
	c.publish()
	c.d.step(&zonesched.Event{Kind: zonesched.EvFunctions, Functions: f.Functions})
	c.d.committed = c.policy.ofZone(c.d.cfg.Zone)
	c.d.apply()
	return nil
}

// read reads the file; the zero value when there is none that can be used.
func (c *catalogCopy) read() (f catalogFile, err error) {
	b, err := os.ReadFile(c.path())
	if errors.Is(err, os.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("zoned read catalogue: %w", err)
	}
	if f, err = parseCatalog(b); err != nil {
		// It is only a copy: without it the zone waits for the coordinator.
		c.d.deps.Log.Warn("copy of the catalogue unreadable, ignored", "path", c.path(), "err", err)
		return catalogFile{}, nil
	}
	return f, nil
}

// parseCatalog reads a copy. Functions that cannot be are a fault of the whole: it was not this program that wrote them.
func parseCatalog(b []byte) (f catalogFile, err error) {
	if err := json.Unmarshal(b, &f); err != nil {
		return f, err
	}
	if f.Version != catalogVersion {
		return f, fmt.Errorf("version %d, this program reads %d", f.Version, catalogVersion)
	}
	for i := range f.Functions {
		if err := f.Functions[i].Validate(); err != nil {
			return f, err
		}
	}
	return f, nil
}

func (c *catalogCopy) save() error {
	f := catalogFile{Version: catalogVersion, Rev: c.rev, Functions: c.sorted(), Policy: c.policy}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return durable.Write(c.path(), b)
}

func (c *catalogCopy) sorted() []api.Function {
	out := make([]api.Function, 0, len(c.fns))
	for _, f := range c.fns {
		out = append(out, f)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID() < out[j].ID() })
	return out
}

// publish gives doors their map of functions.
func (c *catalogCopy) publish() {
	m := make(map[string]api.Function, len(c.fns))
	for k, f := range c.fns {
		m[k] = f
	}
	c.d.known.Store(&m)
}

// replay gives a new core all functions; called on the loop.
func (c *catalogCopy) replay() {
	var fns []api.Function
	for _, f := range *c.d.known.Load() {
		fns = append(fns, f)
	}
	sort.Slice(fns, func(i, j int) bool { return fns[i].ID() < fns[j].ID() })
	c.d.step(&zonesched.Event{Kind: zonesched.EvFunctions, Functions: fns})
}

// onAnnounce hears what the coordinator decided.
func (c *catalogCopy) onAnnounce(m *messaging.Msg) {
	a, ok := decode[wire.Announce](c.d, m)
	if !ok {
		return
	}
	select {
	case c.poke <- struct{}{}:
	default:
	}
	c.d.call(func() {
		c.d.shares = a.Shares
		c.d.step(&zonesched.Event{Kind: zonesched.EvShares, Shares: a.Shares})
		if c.d.leads() && a.PoolVersion > 0 {
			c.d.learn.propose(a.PoolVersion, a.PoolDigest)
		}
	})
}

// run pulls on every announcement, and now and then without one.
func (c *catalogCopy) run() {
	t := time.NewTicker(c.d.cfg.CatalogEvery)
	defer t.Stop()
	for {
		began := time.Now()
		for more := true; more; {
			var err error
			if more, err = c.pull(); err != nil {
				if c.d.ctx.Err() == nil {
					c.d.deps.Log.Debug("catalogue not pulled", "zone", c.d.cfg.Zone, "err", err)
				}
				break
			}
			if !more {
				c.asOf.Store(&began)
			}
		}
		select {
		case <-c.poke:
		case <-t.C:
		case <-c.d.ctx.Done():
			return
		}
	}
}

// knows reports whether the copy has all that the coordinator had at a time, which may be a little wrong; if not, it is asked again.
func (c *catalogCopy) knows(at time.Time) bool {
	if t := c.asOf.Load(); t != nil && t.After(at.Add(clockError)) {
		return true
	}
	select {
	case c.poke <- struct{}{}:
	default:
	}
	return false
}

// pull takes one page of changes.
func (c *catalogCopy) pull() (more bool, err error) {
	b, err := wire.Encode(&wire.CatalogPull{Since: c.rev, Zone: c.d.cfg.Zone})
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(c.d.ctx, catalogTimeout)
	defer cancel()
	reply, err := c.d.deps.Bus.Request(ctx, wire.SubjectCatalog, b)
	if err != nil {
		return false, err
	}
	var ch wire.CatalogChanges
	if err := wire.Decode(reply, &ch); err != nil {
		return false, err
	}
	if ch.Code != api.CodeOK {
		return false, ch.Code.Err("catalogue")
	}
	if ch.Rev <= c.rev {
		return false, nil
	}
	for _, f := range ch.Functions {
		c.fns[f.ID()] = f
	}
	for _, id := range ch.Deleted {
		delete(c.fns, id)
	}
	c.rev = ch.Rev
	c.publish()
	if ch.PolicyRev > 0 {
		c.settle(ch.Policy, ch.PolicyRev)
	}
	if len(ch.Functions)+len(ch.Deleted) > 0 {
		c.d.post(zonesched.Event{Kind: zonesched.EvFunctions, Functions: ch.Functions, Deleted: ch.Deleted})
	}
	if err := c.save(); err != nil {
		c.d.deps.Log.Warn("copy of the catalogue not saved", "err", err)
	}
	return ch.More, nil
}

// settle takes over the policy settings of all zones as they are at a revision.
func (c *catalogCopy) settle(all settings, rev uint64) {
	c.policy = all
	own := all.ofZone(c.d.cfg.Zone)
	c.d.call(func() {
		c.d.committed, c.d.settled = own, rev
		c.d.apply()
	})
}

// Refresh pulls the catalogue until it has reached rev: whoever deployed a function finds it at once.
func (d *Daemon) Refresh(ctx context.Context, id string, version uint64, gone bool) error {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		f, ok := (*d.known.Load())[id]
		if gone && !ok || !gone && ok && f.Version >= version {
			return nil
		}
		select {
		case d.catalog.poke <- struct{}{}:
		default:
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: the catalogue has not reached zone %s", api.ErrDeadline, d.cfg.Zone)
		case <-d.ctx.Done():
			return fmt.Errorf("%w: the scheduler has stopped", api.ErrUnavailable)
		}
	}
}

// Function finds the current version of "tenant/name".
func (d *Daemon) Function(id string) (api.Function, bool) {
	f, ok := (*d.known.Load())[id]
	return f, ok
}

// Functions lists a tenant's functions, or all with tenant "".
func (d *Daemon) Functions(tenant string) []api.Function {
	out := []api.Function{}
	for _, f := range *d.known.Load() {
		if tenant == "" || f.Tenant == tenant {
			out = append(out, f)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID() < out[j].ID() })
	return out
}

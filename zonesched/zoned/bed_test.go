package zoned

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/coordinator/catalog"
	"github.com/rubato-faas/rubato/membership/memreg"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/messaging/membus"
	"github.com/rubato-faas/rubato/objectstore/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bed is a zone's surroundings: a bus, an election, a store, and the test as coordinator. Schedulers and nodes join it.
type bed struct {
	t      *testing.T
	ctx    context.Context
	hub    *membus.Hub
	bus    *membus.Bus // the coordinator's and the test's
	reg    *memreg.Registry
	store  *memstore.Store
	fn     api.Function
	memMB  int    // of workers that come
	quiet  func() // the coordinator falls silent
	deploy func(api.Function)
}

func newBed(t *testing.T) *bed { return newBedOn(t, membus.DefaultConfig()) }

func newBedOn(t *testing.T, bus membus.Config) *bed {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	hub, err := membus.NewHub(bus)
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{
		t: t, ctx: ctx, hub: hub, bus: hub.Connect(), reg: memreg.New(1), store: memstore.New(64 << 20), memMB: 4096,
		fn: api.Function{Tenant: "t", Name: "f", Version: 1, Runtime: api.RuntimeProcess, Artifact: strings.Repeat("a", 64), ArtifactBytes: 1, MemoryMB: 100, Timeout: time.Minute},
	}
	t.Cleanup(func() {
		if err := b.bus.Close(); err != nil {
			t.Error(err)
		}
	})
	// The coordinator's catalogue, without a log; f is its first revision.
	var mu sync.Mutex
	cat, rev, more := catalog.New(), uint64(1), []api.Function(nil)
	subscribe := func(subject string, h messaging.Handler) func() {
		sub, err := b.bus.Subscribe(subject, "", h)
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := sub.Stop(); err != nil {
				t.Error(err)
			}
		}
	}
	deaf := subscribe(wire.SubjectControl, func(m *messaging.Msg) {
		var c wire.Control
		err := wire.Decode(m.Data, &c)
		cmd, cerr := catalog.DecodeCommand(c.Command)
		if err := errors.Join(err, cerr); err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		rev++
		r := cat.Apply(rev, cmd)
		b.send(b.bus, m.Reply, &wire.Reply{Code: r.Code, Message: r.Message, Version: r.Version, Revision: r.Rev})
	})
	silent := subscribe(wire.SubjectCatalog, func(m *messaging.Msg) {
		mu.Lock()
		defer mu.Unlock()
		ch := wire.CatalogChanges{Rev: rev, Functions: append([]api.Function{b.fn}, more...)}
		if p := cat.Policy(); p != nil {
			ch.Policy, ch.PolicyRev = p, rev
		}
		b.send(b.bus, m.Reply, &ch)
	})
	b.quiet = func() { deaf(); silent() }
	b.deploy = func(f api.Function) {
		mu.Lock()
		defer mu.Unlock()
		rev++
		more = append(more, f)
	}
	return b
}

func (b *bed) send(bus messaging.Bus, subject string, v any) {
	data, err := wire.Encode(v)
	if err == nil {
		err = bus.Publish(subject, data)
	}
	if err != nil && !errors.Is(err, messaging.ErrClosed) { // handlers may send while a test ends
		b.t.Error(err)
	}
}

func (b *bed) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Error(err)
	}
}

// until polls, since what it waits for happens on other goroutines.
func (b *bed) until(what string, ok func() bool) {
	b.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-b.ctx.Done():
			b.t.Fatalf("gave up waiting: %s", what)
		}
	}
}

// scheduler is a daemon that runs.
type scheduler struct {
	*Daemon
	stop func() // as a signal would, without waiting
	wait func()
}

func (b *bed) scheduler(name string, change func(*Config, *Deps)) *scheduler {
	b.t.Helper()
	elector, err := b.reg.Elector("z", name)
	if err != nil {
		b.t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Zone, cfg.Name, cfg.Dir = "z", name, b.t.TempDir()
	cfg.SampleFlush, cfg.CatalogEvery, cfg.DrainTimeout = 5*time.Millisecond, 100*time.Millisecond, 5*time.Second
	cfg.Sched.PolicyConfig.Explore = 0
	bus := b.hub.Connect()
	deps := Deps{Bus: bus, Store: b.store, Elector: elector, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg, &deps)
	}
	d, err := New(cfg, deps)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := d.Run(ctx); err != nil {
			b.t.Error(err)
		}
	}()
	s := &scheduler{Daemon: d, stop: cancel, wait: func() {
		select {
		case <-ended:
		case <-b.ctx.Done():
			b.t.Error("the scheduler does not stop")
		}
	}}
	b.t.Cleanup(func() {
		cancel()
		d.Kill()
		s.wait()
		if err := bus.Close(); err != nil {
			b.t.Error(err)
		}
	})
	b.until(name+" serves", func() bool { _, known := d.Function("t/f"); return d.Ready() == nil && known })
	return s
}

func (s *scheduler) leads() bool { _, _, mine := s.Leader(); return mine }

// worker is a scripted node: it does with each dispatch what the test says.
type worker struct {
	memMB int
	b     *bed
	name  string
	bus   *membus.Bus

	mu      sync.Mutex
	epoch   api.Epoch
	seen    uint64
	running map[string]*wire.Run
	runs    []string
	cancels []string
	hold    func(*wire.Run) bool
	fail    bool // what runs ends as the node's own fault
}

// worker joins the zone and is known to the schedulers when it returns.
func (b *bed) worker(name string, slots int, schedulers ...*scheduler) *worker {
	b.t.Helper()
	w := &worker{b: b, name: name, memMB: b.memMB, bus: b.hub.Connect(), running: map[string]*wire.Run{}, hold: func(*wire.Run) bool { return false }}
	w.on(wire.SubjectRun("z", name), func(m *messaging.Msg) {
		r := &wire.Run{}
		if err := wire.Decode(m.Data, r); err != nil {
			b.t.Error(err)
			return
		}
		w.mu.Lock()
		w.epoch, w.seen = r.Epoch, r.Seq
		w.runs = append(w.runs, r.Call.ID)
		w.running[r.Call.ID] = r
		hold := w.hold(r)
		w.mu.Unlock()
		if !hold {
			w.finish(r.Call.ID)
		}
	})
	w.on(wire.SubjectNode("z", name, "cancel"), func(m *messaging.Msg) {
		c := &wire.Cancel{}
		if err := wire.Decode(m.Data, c); err != nil {
			b.t.Error(err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.cancels = append(w.cancels, c.ID)
	})
	w.on(wire.SubjectAllNodes("z", "hello"), func(m *messaging.Msg) {
		h := &wire.Hello{}
		if err := wire.Decode(m.Data, h); err != nil {
			b.t.Error(err)
		}
		w.mu.Lock()
		w.epoch, w.seen = h.Epoch, 0
		w.mu.Unlock()
		w.beat(slots)
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(25 * time.Millisecond)
		defer t.Stop()
		for {
			w.beat(slots)
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	b.t.Cleanup(func() {
		cancel()
		<-ended
		if err := w.bus.Close(); err != nil {
			b.t.Error(err)
		}
	})
	for _, s := range schedulers {
		b.until("node "+name+" is known", func() bool {
			known := false
			if err := s.view(b.ctx, func() {
				for _, n := range s.core.Nodes(time.Now()) {
					known = known || n.Name == name
				}
			}); err != nil {
				b.t.Fatal(err)
			}
			return known
		})
	}
	return w
}

func (w *worker) on(subject string, h messaging.Handler) {
	w.b.t.Helper()
	if _, err := w.bus.Subscribe(subject, "", h); err != nil {
		w.b.t.Fatal(err)
	}
}

func (w *worker) beat(slots int) {
	w.mu.Lock()
	hb := &wire.Heartbeat{Zone: "z", Node: w.name, Boot: 1, Epoch: w.epoch, SeenSeq: w.seen, Slots: slots, MemMB: w.memMB}
	for id, r := range w.running { // the order of a report does not matter
		hb.Running = append(hb.Running, wire.RunningReport{ID: id, Function: r.Fn.Key(), Attempt: r.Call.Attempt})
	}
	w.mu.Unlock()
	w.b.send(w.bus, wire.SubjectHeartbeat("z"), hb)
}

// finish completes what runs under the id.
func (w *worker) finish(id string) {
	w.mu.Lock()
	r := w.running[id]
	delete(w.running, id)
	fail := w.fail
	w.mu.Unlock()
	if fail {
		w.b.send(w.bus, wire.SubjectDone("z"), &wire.Completion{
			Epoch: r.Epoch, Node: w.name, Boot: 1, ID: id, Attempt: r.Call.Attempt, Seq: r.Seq, Outcome: api.OutcomeInternal, Code: api.CodeUnavailable, Message: "broken", Echo: r.Echo,
		})
		return
	}
	w.b.send(w.bus, wire.SubjectDone("z"), &wire.Completion{
		Epoch: r.Epoch, Node: w.name, Boot: 1, ID: id, Attempt: r.Call.Attempt, Seq: r.Seq, Result: append([]byte("did "), r.Call.Payload...),
		RunMs: 1 + float64(len(r.Call.ID)), Start: api.SandboxWarm, Echo: r.Echo,
		Sandboxes: []wire.SandboxReport{{Function: r.Fn.Key(), State: api.SandboxPrepared, Idle: 1, MemoryMB: 100}},
	})
}

func (w *worker) holdAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hold = func(*wire.Run) bool { return true }
}

func (w *worker) failAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = true
}

func (w *worker) holdNone() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hold = func(*wire.Run) bool { return false }
}

func (w *worker) ran() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.runs...)
}

func (w *worker) canceled() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.cancels...)
}

func invocation(id string, change ...func(*api.Invocation)) *api.Invocation {
	inv := &api.Invocation{ID: id, Tenant: "t", Function: "f", Payload: []byte(id)}
	for _, c := range change {
		c(inv)
	}
	return inv
}

// ask invokes beside the test.
func (b *bed) ask(ctx context.Context, s *scheduler, inv *api.Invocation) chan *wire.Answer {
	got := make(chan *wire.Answer, 1)
	go func() { got <- s.Invoke(ctx, inv) }()
	return got
}

func (b *bed) answer(got chan *wire.Answer) *wire.Answer {
	b.t.Helper()
	select {
	case a := <-got:
		return a
	case <-b.ctx.Done():
		b.t.Fatal("a caller was never answered")
		return nil
	}
}

func (b *bed) mustRun(s *scheduler, id string) *wire.Answer {
	b.t.Helper()
	a := s.Invoke(b.ctx, invocation(id))
	if a.Code != api.CodeOK || string(a.Result) != "did "+id {
		b.t.Fatalf("%s: %+v", id, a)
	}
	return a
}

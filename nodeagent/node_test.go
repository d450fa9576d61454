package nodeagent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

var t0 = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

type bed struct {
	t    *testing.T
	n    *Node
	now  time.Time
	acts []Action
}

func newBed(t *testing.T, change func(*Config)) *bed {
	cfg := DefaultConfig()
	cfg.Zone, cfg.Name, cfg.Slots, cfg.MemoryMB, cfg.CacheBytes = "z", "n", 2, 300, 10<<20
	if change != nil {
		change(&cfg)
	}
	n, err := New(cfg, 1, api.Epoch{Generation: 1, Revision: 5})
	if err != nil {
		t.Fatal(err)
	}
	return &bed{t: t, n: n, now: t0}
}

func (b *bed) step(ev Event) []Action {
	b.now = b.now.Add(time.Millisecond)
	b.acts = b.n.Step(b.now, &ev, nil)
	return b.acts
}

func (b *bed) run(id, fn string, change ...func(*wire.Run)) []Action {
	m := &wire.Run{Epoch: api.Epoch{Generation: 1, Revision: 5}, TimeoutMs: 1000, Call: api.Invocation{ID: id, Tenant: "t", Function: fn},
		Fn: api.Function{Tenant: "t", Name: fn, Version: 1, Artifact: strings.Repeat(fn, 64)[:64], ArtifactBytes: 1, MemoryMB: 100}}
	for _, c := range change {
		c(m)
	}
	return b.step(Event{Kind: EvRun, Run: m})
}

func (b *bed) find(kind ActionKind) *Action {
	for i := range b.acts {
		if b.acts[i].Kind == kind {
			return &b.acts[i]
		}
	}
	return nil
}

func (b *bed) want(kind ActionKind) *Action {
	b.t.Helper()
	a := b.find(kind)
	if a == nil {
		b.t.Fatalf("no %s in %v", actionNames[kind], b.acts)
	}
	return a
}

// up brings a call from its artifact to its execution and returns the sandbox.
func (b *bed) up(fn string) uint64 {
	b.t.Helper()
	digest := strings.Repeat(fn, 64)[:64]
	b.want(ActFetchArtifact)
	b.step(Event{Kind: EvArtifact, Digest: digest})
	b.want(ActPrepare)
	b.step(Event{Kind: EvPrepared, Digest: digest})
	sb := b.want(ActStart).Sandbox
	b.step(Event{Kind: EvStarted, Sandbox: sb})
	b.want(ActExec)
	return sb
}

func (b *bed) finish(id string, sb uint64) *wire.Completion {
	b.t.Helper()
	b.step(Event{Kind: EvExecuted, ID: id, Sandbox: sb, Result: []byte("ok"), Took: time.Millisecond})
	return b.want(ActComplete).Completion
}

func TestColdThenWarm(t *testing.T) {
	b := newBed(t, nil)
	b.run("i1", "f")
	sb := b.up("f")
	if c := b.finish("i1", sb); c.Start != api.SandboxNone || c.InitMs <= 0 || c.Outcome != api.OutcomeOK {
		t.Fatalf("first completion %+v", c)
	}
	b.run("i2", "f")
	if a := b.want(ActExec); a.Sandbox != sb {
		t.Fatalf("the warm sandbox was not used: %v", b.acts)
	}
	if c := b.finish("i2", sb); c.Start != api.SandboxWarm || c.InitMs != 0 {
		t.Fatalf("second completion %+v", c)
	}
}

func TestRefusals(t *testing.T) {
	b := newBed(t, nil)
	code := func() api.Code { return b.want(ActComplete).Completion.Code }
	if b.run("old", "f", func(m *wire.Run) { m.Epoch.Revision = 4 }); code() != api.CodeFenced {
		t.Fatal("a lower epoch was obeyed")
	}
	if e := b.want(ActComplete).Completion.Epoch; e != b.n.Epoch() {
		t.Fatalf("fenced by %v, told as %v", b.n.Epoch(), e)
	}
	if b.run("big", "f", func(m *wire.Run) { m.Fn.MemoryMB = 301 }); code() != api.CodeOverloaded {
		t.Fatal("a sandbox larger than the node was begun")
	}
	b.run("i1", "f")
	b.run("i2", "g")
	if b.run("i3", "h"); code() != api.CodeOverloaded || b.n.InUse() != 2 {
		t.Fatal("more calls than slots")
	}
	if b.run("i1", "f"); len(b.acts) != 0 {
		t.Fatalf("a repeated dispatch did something: %v", b.acts)
	}
	b.step(Event{Kind: EvDrain})
	if b.run("i4", "f"); code() != api.CodeUnavailable {
		t.Fatal("a draining node took a call")
	}
}

func TestHigherEpochIsPersistedBeforeAnythingElse(t *testing.T) {
	b := newBed(t, nil)
	b.run("i1", "f", func(m *wire.Run) { m.Epoch.Revision = 9 })
	if b.acts[0].Kind != ActPersistEpoch || b.acts[0].Epoch.Revision != 9 {
		t.Fatalf("first action %v", b.acts[0].String())
	}
	if b.step(Event{Kind: EvHello, Epoch: api.Epoch{Generation: 1, Revision: 8}}); len(b.acts) != 0 {
		t.Fatalf("a lower epoch was greeted: %v", b.acts)
	}
}

// Property (I2, I3): whatever leaders say, in whatever order, a node's epoch never goes down, each rise is put on disk before anything else
// is done, and nothing begins for a leader of a lower one.
func TestEpochsNeverGoDown(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBed(t, func(c *Config) { c.Slots, c.MemoryMB = 64, 6400 })
		on := b.n.Epoch() // what is on disk
		for i := range rapid.IntRange(1, 30).Draw(rt, "words") {
			said := api.Epoch{Generation: uint64(rapid.IntRange(0, 2).Draw(rt, "generation")), Revision: int64(rapid.IntRange(0, 9).Draw(rt, "revision"))}
			before := b.n.Epoch()
			var acts []Action
			if rapid.Bool().Draw(rt, "hello") {
				acts = b.step(Event{Kind: EvHello, Epoch: said})
			} else {
				acts = b.run(fmt.Sprint("i", i), "f", func(m *wire.Run) { m.Epoch = said })
			}
			for k := range acts {
				switch a := &acts[k]; a.Kind {
				case ActPersistEpoch:
					if k > 0 || a.Epoch.Compare(on) <= 0 {
						rt.Fatalf("%v is put on disk over %v as action %d", a.Epoch, on, k)
					}
					on = a.Epoch
				case ActDeadline, ActFetch, ActFetchArtifact, ActPrepare, ActStart, ActExec: // the first one whenever a call is taken
					if said.Compare(before) < 0 || said != on {
						rt.Fatalf("%v under %v, with %v on disk", a.String(), said, on)
					}
				}
			}
			if e := b.n.Epoch(); e.Compare(before) < 0 || e != on {
				rt.Fatalf("epoch %v after %v, on disk %v", e, before, on)
			}
		}
	})
}

func TestMemoryEvictsTheColdestIdleSandbox(t *testing.T) {
	b := newBed(t, nil)
	boxes := map[string]uint64{}
	for _, fn := range []string{"a", "b", "c"} { // fills 300 MB
		b.run("i"+fn, fn)
		boxes[fn] = b.up(fn)
		b.finish("i"+fn, boxes[fn])
	}
	b.run("again", "a") // a is now the most recently used
	b.finish("again", boxes["a"])
	b.run("id", "d")
	if a := b.want(ActClose); a.Sandbox != boxes["b"] {
		t.Fatalf("closed sandbox %d, want b's (%d)", a.Sandbox, boxes["b"])
	}
	if b.n.MemUsedMB() != 300 {
		t.Fatalf("%d MB in use", b.n.MemUsedMB())
	}
}

func TestObjectsAreFetchedOnceAndEvictedByUse(t *testing.T) {
	b := newBed(t, nil)
	with := func(keys ...string) func(*wire.Run) {
		return func(m *wire.Run) {
			for _, k := range keys {
				m.Call.Inputs = append(m.Call.Inputs, api.Object{Key: k, Bytes: 4 << 20})
			}
		}
	}
	b.run("i1", "f", with("x"))
	b.want(ActFetch)
	if b.run("i2", "f", with("x")); b.find(ActFetch) != nil {
		t.Fatal("an object on its way was fetched again")
	}
	b.step(Event{Kind: EvFetched, Key: "x"})
	sb := b.up("f")
	b.finish("i1", sb)
	b.step(Event{Kind: EvCancel, ID: "i2", Epoch: b.n.Epoch()})
	use := func(id, key string, fetched bool) {
		b.now = b.now.Add(time.Second)
		b.run(id, "f", with(key))
		if (b.find(ActFetch) != nil) != fetched {
			t.Fatalf("%s was fetched: %v, want %v", key, !fetched, fetched)
		}
		if fetched {
			b.step(Event{Kind: EvFetched, Key: key})
		}
		b.finish(id, sb)
	}
	use("i3", "y", true)
	use("i4", "x", false)
	use("i5", "z", true) // 12 MiB in a cache of 10
	var held []string
	for _, o := range b.n.Heartbeat(b.now).Objects {
		held = append(held, o.Key)
	}
	slices.Sort(held)
	if !slices.Equal(held, []string{"x", "z"}) {
		t.Fatalf("the node holds %v: want y gone, which was used longest ago", held)
	}
	if b.n.bytes > 10<<20 {
		t.Fatalf("%d bytes cached", b.n.bytes)
	}
}

func TestCompletionsAreResentUntilAcknowledged(t *testing.T) {
	b := newBed(t, nil)
	b.run("i1", "f")
	b.finish("i1", b.up("f"))
	b.now = b.now.Add(time.Second)
	b.step(Event{Kind: EvTick})
	if c := b.want(ActComplete).Completion; c.ID != "i1" || !c.Resent {
		t.Fatalf("resent %+v", c)
	}
	b.step(Event{Kind: EvAck, IDs: []string{"i1"}})
	b.now = b.now.Add(time.Second)
	if b.step(Event{Kind: EvTick}); b.find(ActComplete) != nil || !b.n.Idle() {
		t.Fatal("an acknowledged completion was sent again")
	}
}

func TestTimeouts(t *testing.T) {
	b := newBed(t, nil)
	b.run("i1", "f")
	gen := b.want(ActDeadline).Gen
	b.step(Event{Kind: EvDeadline, ID: "i1", Gen: gen})
	if c := b.want(ActComplete).Completion; c.Outcome != api.OutcomeTimeout || c.Code != api.CodeDeadline {
		t.Fatalf("while fetching: %+v", c)
	}
	b = newBed(t, nil)
	b.run("i1", "f")
	gen = b.want(ActDeadline).Gen
	sb := b.up("f")
	b.step(Event{Kind: EvDeadline, ID: "i1", Gen: gen})
	b.want(ActStop)
	if b.n.InUse() != 1 {
		t.Fatal("the slot was given back while the call still runs")
	}
	b.step(Event{Kind: EvExecuted, ID: "i1", Sandbox: sb, Outcome: api.OutcomeTimeout, Err: "stopped", Broken: true})
	if c := b.want(ActComplete).Completion; c.Outcome != api.OutcomeTimeout || b.n.InUse() != 0 || b.n.MemUsedMB() != 0 {
		t.Fatalf("while running: %+v", c)
	}
}

func TestFlushEmptiesWhatIsIdle(t *testing.T) {
	b := newBed(t, nil)
	b.run("i1", "f")
	b.finish("i1", b.up("f"))
	b.step(Event{Kind: EvFlush})
	b.want(ActClose)
	b.want(ActDropArtifact)
	if hb := b.n.Heartbeat(b.now); len(hb.Sandboxes) != 0 || hb.MemUsedMB != 0 || hb.Flushed != 1 {
		t.Fatalf("after the flush: %+v", hb)
	}
}

package nodeagent

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// The zone took this node for lost and sends the call again while its first attempt still runs: the completion serves
// the attempt that the zone waits for.
func TestLaterAttemptIsServedByWhatRuns(t *testing.T) {
	b := newBed(t, nil)
	b.run("i1", "f")
	sb := b.up("f")
	if b.run("i1", "f", func(m *wire.Run) { m.Call.Attempt, m.Seq = 1, 9 }); len(b.acts) != 0 || b.n.InUse() != 1 {
		t.Fatalf("it was begun again: %v", b.acts)
	}
	if c := b.finish("i1", sb); c.Attempt != 1 || c.Seq != 9 || c.Outcome != api.OutcomeOK {
		t.Fatalf("completion %+v", c)
	}
}

// A leader that was brought the call anew counts its attempts from the beginning, under a higher epoch or, of a call that it had answered as
// lost, under the same one.
func TestWhatRunsServesALaterLeader(t *testing.T) {
	for name, change := range map[string]func(*wire.Run){
		"another leader":      func(m *wire.Run) { m.Epoch.Revision += 1; m.Seq = 1 },
		"the same one":        func(m *wire.Run) { m.Seq = 9 },
		"one of before":       func(m *wire.Run) { m.Seq = 2 },
		"a repeated dispatch": func(m *wire.Run) { m.Seq, m.Call.Attempt = 3, 2 },
	} {
		b := newBed(t, nil)
		b.run("i1", "f", func(m *wire.Run) { m.Seq, m.Call.Attempt = 3, 2 })
		sb := b.up("f")
		var sent wire.Run
		b.run("i1", "f", func(m *wire.Run) { change(m); sent = *m })
		if b.n.InUse() != 1 {
			t.Fatalf("%s: it was begun again: %v", name, b.acts)
		}
		want := [2]uint64{uint64(sent.Call.Attempt), sent.Seq}
		if name == "one of before" {
			want = [2]uint64{2, 3}
		}
		if c := b.finish("i1", sb); c.Outcome != api.OutcomeOK || [2]uint64{uint64(c.Attempt), c.Seq} != want {
			t.Errorf("%s: completion of attempt %d, dispatch %d, want %v", name, c.Attempt, c.Seq, want)
		}
	}
}

func TestRefusedCallLeavesNothing(t *testing.T) {
	b := newBed(t, nil)
	b.run("big", "f", func(m *wire.Run) { m.Fn.MemoryMB = 301 })
	if len(b.n.arts) != 0 || len(b.n.Heartbeat(b.now).Sandboxes) != 0 {
		t.Fatalf("%d artifacts noted for a call that was refused", len(b.n.arts))
	}
}

// An object that was evicted and fetched again between two completions is reported as being there.
func TestDeltasTellTheLastState(t *testing.T) {
	b := newBed(t, nil)
	with := func(k string) func(*wire.Run) {
		return func(m *wire.Run) { m.Call.Inputs = []api.Object{{Key: k, Bytes: 8 << 20}} }
	}
	b.run("i1", "f", with("x"))
	b.step(Event{Kind: EvFetched, Key: "x"})
	sb := b.up("f")
	b.finish("i1", sb)
	b.step(Event{Kind: EvFlush})
	b.run("i2", "f", with("x"))
	b.step(Event{Kind: EvFetched, Key: "x"})
	c := b.finish("i2", b.up("f"))
	if len(c.Evicted) != 0 || len(c.Objects) != 1 || c.Objects[0].Key != "x" {
		t.Fatalf("evicted %v, came %v", c.Evicted, c.Objects)
	}
}

// A completion says up to which dispatch its node had seen; nothing of a leader's who has been replaced.
func TestCompletionsTellWhatWasSeen(t *testing.T) {
	b := newBed(t, nil)
	b.run("i1", "f", func(m *wire.Run) { m.Seq = 3 })
	sb := b.up("f")
	b.run("i2", "g", func(m *wire.Run) { m.Seq = 4 })
	other := b.up("g")
	if c := b.finish("i1", sb); c.Seq != 3 || c.SeenSeq != 4 {
		t.Errorf("dispatch %d ends with %d seen: want 3 and 4", c.Seq, c.SeenSeq)
	}
	b.step(Event{Kind: EvHello, Epoch: api.Epoch{Generation: 1, Revision: 6}})
	if c := b.finish("i2", other); c.SeenSeq != 0 {
		t.Errorf("of an earlier leader's dispatches %d seen", c.SeenSeq)
	}
}

func TestTimeoutWhilePreparingOrStarting(t *testing.T) {
	for _, reach := range []ActionKind{ActFetchArtifact, ActPrepare, ActStart} {
		b := newBed(t, nil)
		b.run("i1", "f")
		gen, digest := b.want(ActDeadline).Gen, b.want(ActFetchArtifact).Digest
		if reach != ActFetchArtifact {
			b.step(Event{Kind: EvArtifact, Digest: digest})
		}
		if reach == ActStart {
			b.step(Event{Kind: EvPrepared, Digest: digest})
		}
		b.want(reach)
		b.step(Event{Kind: EvDeadline, ID: "i1", Gen: gen})
		if c := b.want(ActComplete).Completion; c.Outcome != api.OutcomeTimeout || b.n.InUse() != 0 {
			t.Fatalf("in %s: %+v", actionNames[reach], c)
		}
		if reach == ActStart { // what was begun serves the next call
			b.step(Event{Kind: EvStarted, Sandbox: 1})
			b.run("i2", "f")
			b.want(ActExec)
		} else if b.n.MemUsedMB() != 0 {
			t.Fatalf("in %s: %d MB claimed by nothing", actionNames[reach], b.n.MemUsedMB())
		}
	}
}

// What changed since the last completion may be more than a message holds.
func TestDeltasAreBounded(t *testing.T) {
	b := newBed(t, func(c *Config) { c.CacheBytes = 1 << 40 })
	in := make([]api.Object, wire.MaxObjects+5)
	for i := range in {
		in[i] = api.Object{Key: fmt.Sprint("x", i), Bytes: api.LocalityBytes}
	}
	b.run("i1", "f", func(m *wire.Run) { m.Call.Inputs = in })
	for _, o := range in {
		b.step(Event{Kind: EvFetched, Key: o.Key})
	}
	sb := b.up("f")
	if c := b.finish("i1", sb); len(c.Objects) != wire.MaxObjects {
		t.Fatalf("%d objects in one completion", len(c.Objects))
	}
	b.step(Event{Kind: EvFlush})
	b.run("i2", "f")
	if c := b.finish("i2", b.up("f")); len(c.Evicted) != wire.MaxObjects {
		t.Fatalf("%d evictions in one completion", len(c.Evicted))
	}
}

// Where memory is short, what the dispatch names goes first; then, and without a name that is idle here, the longest idle.
func TestWhoIsPushedOut(t *testing.T) {
	b := newBed(t, func(c *Config) { c.Slots = 4 }) // 300 MB
	for i, fn := range []string{"old", "mid", "young"} {
		b.run(fmt.Sprint("i", i), fn)
		b.finish(fmt.Sprint("i", i), b.up(fn))
		b.now = b.now.Add(time.Second)
	}
	idle := func() (left []string) {
		for _, s := range b.n.Heartbeat(b.now).Sandboxes {
			if s.Idle > 0 {
				left = append(left, s.Function)
			}
		}
		slices.Sort(left)
		return left
	}
	key := func(fn string) string {
		f := api.Function{Tenant: "t", Name: fn, Version: 1}
		return f.Key()
	}
	for i, c := range []struct {
		evict []string
		left  []string
	}{
		{[]string{"t/gone@1", key("mid")}, []string{key("old"), key("young")}},
		{nil, []string{key("young")}},
		{slices.Repeat([]string{"t/gone@1"}, 2*wire.MaxEvict), nil},
	} {
		id := fmt.Sprint("n", i)
		b.run(id, id, func(m *wire.Run) { m.Evict = c.evict })
		if got := idle(); !slices.Equal(got, c.left) {
			t.Errorf("with %d names: %v is left, want %v", len(c.evict), got, c.left)
		}
	}
}

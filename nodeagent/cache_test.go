package nodeagent

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// instant is a node of which all that it asks for is done at once.
type instant struct {
	n           *Node
	now         time.Time
	epoch       api.Epoch
	calls, ends int
}

func newInstant(tb testing.TB, change func(*Config)) *instant {
	cfg := DefaultConfig()
	cfg.Zone, cfg.Name, cfg.MemoryMB, cfg.Artifacts = "z", "n", 64<<10, 256
	change(&cfg)
	x := &instant{now: t0, epoch: api.Epoch{Generation: 1, Revision: 1}}
	var err error
	if x.n, err = New(cfg, 1, x.epoch); err != nil {
		tb.Fatal(err)
	}
	return x
}

// call runs fn on an input that nobody has asked for before.
func (x *instant) call(fn string, bytes int64) {
	x.calls++
	x.now = x.now.Add(time.Millisecond)
	queue := []Event{{Kind: EvRun, Run: &wire.Run{Epoch: x.epoch, TimeoutMs: 1000,
		Call: api.Invocation{ID: fmt.Sprint("i", x.calls), Tenant: "t", Function: fn, Inputs: []api.Object{{Key: fmt.Sprintf("o%08d", x.calls), Bytes: bytes}}},
		Fn:   api.Function{Tenant: "t", Name: fn, Version: 1, Artifact: strings.Repeat(fn[len(fn)-4:], 16), ArtifactBytes: 1, MemoryMB: 100}}}}
	for len(queue) > 0 {
		ev := queue[0]
		queue = queue[1:]
		for _, a := range x.n.Step(x.now, &ev, nil) {
			switch a.Kind {
			case ActFetch:
				queue = append(queue, Event{Kind: EvFetched, Key: a.Key})
			case ActFetchArtifact:
				queue = append(queue, Event{Kind: EvArtifact, Digest: a.Digest})
			case ActPrepare:
				queue = append(queue, Event{Kind: EvPrepared, Digest: a.Digest})
			case ActStart:
				queue = append(queue, Event{Kind: EvStarted, Sandbox: a.Sandbox})
			case ActExec:
				queue = append(queue, Event{Kind: EvExecuted, ID: a.ID, Sandbox: a.Sandbox})
			case ActComplete:
				x.ends++
				queue = append(queue, Event{Kind: EvAck, IDs: []string{a.Completion.ID}})
			}
		}
	}
}

// However small they are, no more than so many objects are kept, and those that were used last.
func TestObjectsAreBoundedInNumber(t *testing.T) {
	x := newInstant(t, func(*Config) {})
	for x.calls < maxObjects+10 {
		x.call("f0000", 0)
	}
	if len(x.n.objs) != maxObjects || x.n.used.Len() != maxObjects || x.n.objs["o00000010"] != nil || x.n.objs["o00000011"] == nil {
		t.Errorf("%d objects, want %d, the newest", len(x.n.objs), maxObjects)
	}
}

// What a call allocates on a node does not grow with what is cached there: all keys are neither listed nor sorted.
func TestAFullCacheCostsNoMore(t *testing.T) {
	const calls = 200
	allocated := func(held int) float64 {
		x := newInstant(t, func(c *Config) { c.CacheBytes = int64(held) })
		for x.calls < held {
			x.call("f0000", 1)
		}
		var from, to runtime.MemStats
		runtime.ReadMemStats(&from)
		for range calls {
			x.call("f0000", 1)
		}
		runtime.ReadMemStats(&to)
		return float64(to.TotalAlloc-from.TotalAlloc) / calls
	}
	if few, many := allocated(10), allocated(5000); many > 2*few {
		t.Errorf("%.0f bytes a call with 10 objects, %.0f with 5,000", few, many)
	}
}

// An artifact that very many functions share is reported for the ones that came last.
func TestSharersAreBounded(t *testing.T) {
	x := newInstant(t, func(*Config) {})
	for i := range 3 * maxSharers {
		x.call(fmt.Sprintf("f%d-same", i), 1)
	}
	if len(x.n.arts) != 1 {
		t.Fatalf("%d artifacts, want one for all", len(x.n.arts))
	}
	for _, a := range x.n.arts {
		if len(a.fnKeys) != maxSharers || len(x.n.artsOf) != maxSharers || x.n.artsOf[fmt.Sprintf("t/f%d-same@1", 3*maxSharers-1)] == nil {
			t.Errorf("%d functions share %s, %d are known: want %d", len(a.fnKeys), a.digest[:4], len(x.n.artsOf), maxSharers)
		}
	}
}

// BenchmarkFullCache is a warm call that brings an object which pushes another one out, on nodes that hold so many, and a hundred artifacts.
func BenchmarkFullCache(b *testing.B) {
	const bytes = 64 << 10
	for _, held := range []int{100, 10000, 100000} {
		b.Run(fmt.Sprint(held), func(b *testing.B) {
			x := newInstant(b, func(c *Config) { c.CacheBytes = int64(held) * bytes })
			for i := range 100 {
				x.call(fmt.Sprintf("f%04d", i), bytes)
			}
			for x.calls < held {
				x.call("f0000", bytes)
			}
			b.ReportAllocs()
			for b.Loop() {
				x.call("f0000", bytes)
			}
			if x.ends != x.calls || len(x.n.objs) != held {
				b.Fatalf("%d of %d calls ended, %d objects", x.ends, x.calls, len(x.n.objs))
			}
		})
	}
}

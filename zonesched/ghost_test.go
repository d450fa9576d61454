package zonesched

import (
	"math"
	"testing"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// A fetch has a price where it pushes something out: that a cache is full is known from what the node reports of it, and from
// what it pushed out if it does not.
func TestPushOut(t *testing.T) {
	const mb = 1 << 20
	for name, c := range map[string]struct {
		report func(*wire.Heartbeat)
		evict  bool
		priced bool
	}{
		"room for it":                        {func(hb *wire.Heartbeat) { hb.CacheMax, hb.CacheBytes = 40*mb, 20*mb }, false, false},
		"full":                               {func(hb *wire.Heartbeat) { hb.CacheMax, hb.CacheBytes = 25*mb, 20*mb }, false, true},
		"full of small objects beside":       {func(hb *wire.Heartbeat) { hb.CacheMax, hb.CacheBytes = 40*mb, 35*mb }, false, true},
		"its size unknown, never pushed out": {func(*wire.Heartbeat) {}, false, false},
		"its size unknown, and pushed out":   {func(*wire.Heartbeat) {}, true, true},
		"less than nothing in it":            {func(hb *wire.Heartbeat) { hb.CacheMax, hb.CacheBytes = 40*mb, -1<<62 }, false, false},
		"more in it than there can be":       {func(hb *wire.Heartbeat) { hb.CacheMax, hb.CacheBytes = 1, math.MaxInt64 }, false, true},
		"a part of one object in it":         {func(hb *wire.Heartbeat) { hb.CacheMax, hb.CacheBytes = 1, 20*mb }, false, true},
	} {
		b := newBed(t, nil)
		hb := b.report("a", 2, 1, api.Object{Key: "t/x", Bytes: 10 * mb}, api.Object{Key: "t/y", Bytes: 10 * mb})
		hb.LinkMbps = 80 // 10 MB a second
		c.report(hb)
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
		n := b.z.byName["a"]
		if c.evict {
			b.invoke("c", "f")
			b.done("c", "a", func(m *wire.Completion) { m.Evicted = []string{"t/x"} })
		}
		all := n.transferMs(10 * mb)
		if ms := b.z.pushOutMs(n, 10*mb); (ms > 0) != c.priced || ms < 0 || ms > all {
			t.Errorf("%s: pushing out for 10 MB costs %v ms, want any %v, at most %v", name, ms, c.priced, all)
		}
		if ms := b.z.pushOutMs(n, 0); ms != 0 {
			t.Errorf("%s: fetching nothing costs %v ms", name, ms)
		}
	}
}

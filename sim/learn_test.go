package sim

import (
	"strconv"
	"testing"
	"time"
)

// Two kinds of nodes, one fast and one slow; in mid-run they change places, and nobody is told. What was learned from
// completions moves the calls: first to the fast ones, then away from them.
func TestAChangedLawIsLearned(t *testing.T) {
	fast, slow := nodesOf(4, 4), nodesOf(4, 4)
	fast.Core.Class, slow.Core.Class = "fast", "slow"
	slow.Speed = [kernels]float64{.3, .3, .3}
	f := functionOf(0, 60*time.Millisecond)
	f.Spread = .2
	const half = 60 * time.Second
	cfg := Config{
		Seed: 1, Zones: []Zone{zoneOf("z", "rubato", fast, slow)}, Functions: []Function{f}, Heartbeat: time.Second, Keep: true,
		Latency: 200 * time.Microsecond, Streams: []Stream{{PerS: 40, Objects: -1}},
		Changes: []Change{{At: half, Function: -1, Class: "fast", Speed: .1}},
		Learn:   Learning{Every: 2, Publish: 100 * time.Millisecond},
	}
	share := func(w *World, from, to time.Duration) float64 {
		onFast, all := 0.0, 0.0
		for id, a := range w.shards[0].results {
			// The call's number is in the order of arrival: 40 a second.
			n, err := strconv.ParseUint(id[9:19], 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			if at := time.Duration(n) * time.Second / 40; at < from || at > to {
				continue
			}
			all++
			if nodeOf(a.Timing.Node) < 4 {
				onFast++
			}
		}
		return onFast / all
	}
	w := advance(t, cfg, 2*half)
	before, after := share(w, half/2, half-2*time.Second), share(w, half+half/2, 2*half)
	if before < .9 || after > .2 {
		t.Errorf("share of calls on the nodes that are fast first and slow then: %.2f before the change, %.2f after it; want above .9 and below .2", before, after)
	}
	if l := w.Learned(0); l.Rows < 2000 || l.Rows > 2600 {
		t.Errorf("%d rows learned of about 4800 completions, want one of two", l.Rows)
	}
	// With no model only full slots drive them away.
	cfg.Learn.Every = 0
	if blind := share(advance(t, cfg, 2*half), half+half/2, 2*half); blind < after+.15 {
		t.Errorf("share after the change: %.2f without a model, %.2f with one", blind, after)
	}
	// The oracle knows at once.
	cfg.Learn.Oracle = true
	w = advance(t, cfg, 2*half)
	if before, after := share(w, 2*time.Second, half-2*time.Second), share(w, half+2*time.Second, 2*half); before < .95 || after > .05 {
		t.Errorf("with the true law: %.2f and %.2f", before, after)
	}
}

package sim

import (
	"runtime"
	"testing"
	"time"
)

// Zones share trees through the coordinator: one with few calls predicts with trees of one with many, and a run is the same on any
// number of threads.
func TestZonesShareTrees(t *testing.T) {
	f := functionOf(0, 30*time.Millisecond)
	f.Spread = .1
	slow := nodesOf(2, 4)
	slow.Core.Class, slow.Speed = "slow", [kernels]float64{.2, .2, .2}
	cfg := Config{
		Seed: 1, Zones: []Zone{zoneOf("a", "rubato", nodesOf(2, 4), slow), zoneOf("b", "rubato", nodesOf(2, 4), slow)}, Functions: []Function{f}, Heartbeat: time.Second,
		Latency: 200 * time.Microsecond, Between: 10 * time.Millisecond,
		Streams: []Stream{{PerS: 80, Objects: -1}, {Zone: 1, PerS: 1, Objects: -1}},
		Learn:   Learning{Every: 1, Publish: 100 * time.Millisecond, Exchange: 10 * time.Second},
	}
	w := advance(t, cfg, 50*time.Second)
	for z := range 2 {
		if l := w.Learned(z); l.Version < 3 || z == 1 && l.Foreign == 0 {
			t.Errorf("zone %d: pool version %d, %d foreign trees of %d", z, l.Version, l.Foreign, l.Own+l.Foreign)
		}
	}
	old := runtime.GOMAXPROCS(1)
	one := advance(t, cfg, 50*time.Second)
	runtime.GOMAXPROCS(old)
	if one.Hash() != w.Hash() {
		t.Errorf("hash %x on one thread, %x on %d", one.Hash(), w.Hash(), old)
	}
	cfg.Learn.Exchange = 0
	alone := advance(t, cfg, 50*time.Second)
	if l := alone.Learned(1); l.Version != 0 || l.Foreign != 0 {
		t.Errorf("without exchange: pool version %d, %d foreign trees", l.Version, l.Foreign)
	}
	if alone.Hash() == w.Hash() {
		t.Error("the exchange made no difference")
	}
}

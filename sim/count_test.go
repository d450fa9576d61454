package sim

import (
	"testing"
	"time"
)

// total sums all functions' figures.
func total(w *World) Stats {
	all := Stats{}
	for _, s := range w.FunctionStats() {
		all.Add(&s)
	}
	return all
}

// What held a call back is known when its answer comes, however many calls came meanwhile and however few decisions are kept:
// hundreds of calls wait for fast nodes at once, each within the bound of its deadline.
func TestSafeWaitsAreCountedWhateverIsKept(t *testing.T) {
	var hashes []uint64
	var stats []Stats
	for _, records := range []int{1, 64, 1 << 16} {
		fast, slow := nodesOf(4, 32), nodesOf(4, 64)
		fast.Core.Class, slow.Core.Class = "fast", "slow"
		slow.Speed = [kernels]float64{.25, .25, .25}
		f := functionOf(0, 100*time.Millisecond)
		f.Spread, f.Hang, f.Spec.Timeout, f.Spec.Objective.Deadline = .3, .01, 2*time.Second, time.Second
		cfg := Config{
			Seed: 5, Zones: []Zone{zoneOf("z", "rubato", fast, slow)}, Functions: []Function{f}, Heartbeat: time.Second, Latency: 200 * time.Microsecond,
			Learn: Learning{Oracle: true}, Streams: []Stream{{PerS: 1300, Objects: -1, Until: 5 * time.Second}},
		}
		cfg.Zones[0].Core.Records = records
		w := advance(t, cfg, 30*time.Second)
		hashes, stats = append(hashes, w.Hash()), append(stats, total(w))
	}
	for i, s := range stats {
		if s.SafeWaits != stats[2].SafeWaits || s.SafeWaitMisses != stats[2].SafeWaitMisses || hashes[i] != hashes[2] {
			t.Errorf("run %d: %d calls held back within their bound, %d of them missed; want %d and %d as with all decisions kept", i, s.SafeWaits, s.SafeWaitMisses, stats[2].SafeWaits, stats[2].SafeWaitMisses)
		}
	}
	if s := stats[2]; s.SafeWaits < 500 || s.SafeWaitMisses == 0 {
		t.Errorf("%d calls held back within their bound, %d of them missed: too few to show anything", s.SafeWaits, s.SafeWaitMisses)
	}
}

// A word that is late hides nothing: times end when the node was done, and two rules whose calls run 100 and 200 ms differ by two.
func TestTimesAreNetOfLateReports(t *testing.T) {
	means := map[float64]float64{}
	for _, speed := range []float64{1, .5} {
		cfg := single(64, 0)
		cfg.Late, cfg.Zones[0].Core.NodeTimeout = 20*time.Second, time.Minute
		cfg.Zones[0].Nodes[0].Speed[KernelCPU] = speed
		cfg.Streams = []Stream{{PerS: 2, Objects: -1, Until: time.Minute}}
		all := total(advance(t, cfg, 3*time.Minute))
		means[speed] = all.TotalMs / float64(all.Answered)
		if p99 := all.Latency.Quantile(.99); all.Answered < 80 || !near(p99, 100/speed) {
			t.Errorf("at speed %v: %d answered, p99 %v ms, want %v", speed, all.Answered, p99, 100/speed)
		}
	}
	if !near(means[.5]/means[1], 2) {
		t.Errorf("means of %v ms", means)
	}
}

// A refused call is a miss, whether it had a deadline or not; one that was taken counts only if it had one.
func TestRefusedCallsAreMisses(t *testing.T) {
	cfg := single(1, 0)
	f := functionOf(1, 100*time.Millisecond)
	f.Spec.Objective.Deadline = time.Minute
	cfg.Functions = append(cfg.Functions, f)
	cfg.Zones[0].Core.MaxWaiting = 4
	cfg.Streams = []Stream{{PerS: 20, Objects: -1, Until: 10 * time.Second}, {Function: 1, PerS: 20, Objects: -1, Until: 10 * time.Second}}
	for i, s := range advance(t, cfg, time.Minute).FunctionStats() {
		due := s.Refused
		if i == 1 {
			due = s.Calls
		}
		if s.Refused < 50 || s.Answered < 20 || s.Misses != s.Refused || s.Deadlines != due {
			t.Errorf("function %d: %d calls, %d answered, %d refused: %d misses of %d, want %d of %d", i, s.Calls, s.Answered, s.Refused, s.Misses, s.Deadlines, s.Refused, due)
		}
	}
}

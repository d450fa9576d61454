package bench

import (
	"os"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// mean of xs; 0 for none.
func mean(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	sum := 0.0
	for _, x := range xs {
		sum += x
	}
	return sum / float64(len(xs))
}

// median of xs; 0 for none.
func median(xs []float64) float64 { return quantile(slices.Clone(xs), .5) }

// numCPU is how many cores this process may use.
func numCPU() float64 { return float64(runtime.GOMAXPROCS(0)) }

// quantile is the value below which the share q of xs lies (nearest rank); xs is sorted in place.
func quantile(xs []float64, q float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	sort.Float64s(xs)
	i := int(q*float64(len(xs))+.9999999) - 1
	return xs[min(max(i, 0), len(xs)-1)]
}

// cpuTimes is the host's busy and total CPU time in ticks; ok is false where the system does not tell.
type cpuTimes struct{ busy, total float64 }

func readCPU() (cpuTimes, bool) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return cpuTimes{}, false
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 8 || f[0] != "cpu" {
		return cpuTimes{}, false
	}
	var t cpuTimes
	for i, s := range f[1:] {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || i >= 7 { // steal is others' time; guest time is counted in user time already
			break
		}
		t.total += v
		if i != 3 && i != 4 { // idle, iowait
			t.busy += v
		}
	}
	return t, true
}

// busyShare is the share of CPU time used between two readings.
func busyShare(a, b cpuTimes) float64 {
	if b.total <= a.total {
		return 0
	}
	return (b.busy - a.busy) / (b.total - a.total)
}

// stalls is how often in a second a goroutine that only reads the clock finds more than stallUs gone at once, and how much in the
// median, in microseconds: what timer ticks, interrupts and the hypervisor take. What is measured in microseconds has that in its tail.
func stalls(d time.Duration) (perS, medianUs float64) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var gone []float64
	began := time.Now()
	for last := began; last.Sub(began) < d; {
		now := time.Now()
		if us := float64(now.Sub(last)) / float64(time.Microsecond); us > stallUs {
			gone = append(gone, us)
		}
		last = now
	}
	return float64(len(gone)) / d.Seconds(), quantile(gone, .5)
}

// stallUs is many times what reading the clock takes.
const stallUs = 5

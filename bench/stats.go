package bench

import (
	"os"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
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

package sim

import (
	"fmt"
	"math"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// Kernel is what a function's computation mostly waits for; node classes are unlike in each.
type Kernel uint8

// The kernels.
const (
	KernelCPU Kernel = iota
	KernelMemory
	KernelIO
	kernels
)

var kernelNames = [kernels]string{"cpu", "memory", "io"}

func (k Kernel) String() string {
	if k < kernels {
		return kernelNames[k]
	}
	return fmt.Sprintf("kernel(%d)", uint8(k))
}

// ParseKernel reads "cpu", "memory" or "io".
func ParseKernel(s string) (Kernel, error) {
	for k, name := range kernelNames {
		if s == name {
			return Kernel(k), nil
		}
	}
	return 0, fmt.Errorf("%w: kernel %.40q: want cpu, memory or io", api.ErrInvalid, s)
}

// demand is the part of a core that a running computation keeps busy: one that waits for a disk or a network mostly leaves
// its core to others.
var demand = [kernels]float64{1, 1, .25}

// Function is one function of a simulated world, with its true times. The cores never see them.
type Function struct {
	Spec api.Function
	// Prepare and Start are medians of unpacking or compiling the artifact, and of starting a sandbox; ColdSpread multiplies
	// both by exp(ColdSpread * standard normal).
	Prepare    time.Duration
	Start      time.Duration
	ColdSpread float64
	// Run is the median run time without input, on a core of speed 1 that nobody shares.
	Run time.Duration
	// PerMB is added to Run for each MB (10^6 bytes) of input to the power of Power (0: 1).
	PerMB time.Duration
	Power float64
	// Spread multiplies run times by exp(Spread * standard normal). It is what an input's size does not tell.
	Spread float64
	Kernel Kernel
	// Crash is the share of runs that end in a crash, Hang of those that never end by themselves.
	Crash, Hang float64
}

func (f *Function) validate() error {
	if err := f.Spec.Validate(); err != nil {
		return fmt.Errorf("function %s: %w", f.Spec.ID(), err)
	}
	ok := f.Prepare >= 0 && f.Start >= 0 && f.Run >= 0 && f.PerMB >= 0 && f.Run+f.PerMB > 0 && f.Run <= api.MaxTimeout && f.PerMB <= api.MaxTimeout &&
		f.Prepare <= api.MaxTimeout && f.Start <= api.MaxTimeout
	switch {
	case !ok:
		return fmt.Errorf("%w: function %s: prepare %v, start %v, run %v, per MB %v: want none negative or above %v, and a run time", api.ErrInvalid, f.Spec.ID(), f.Prepare, f.Start, f.Run, f.PerMB, api.MaxTimeout)
	case !(f.Power >= 0 && f.Power <= 4):
		return fmt.Errorf("%w: function %s: power %v of the input: want 0-4", api.ErrInvalid, f.Spec.ID(), f.Power)
	case !(f.Spread >= 0 && f.Spread <= 4 && f.ColdSpread >= 0 && f.ColdSpread <= 4):
		return fmt.Errorf("%w: function %s: spreads %v and %v: want 0-4", api.ErrInvalid, f.Spec.ID(), f.Spread, f.ColdSpread)
	case !(f.Crash >= 0 && f.Hang >= 0 && f.Crash+f.Hang <= 1):
		return fmt.Errorf("%w: function %s: shares of crashes %v and hangs %v: want 0-1 together", api.ErrInvalid, f.Spec.ID(), f.Crash, f.Hang)
	case f.Kernel >= kernels:
		return fmt.Errorf("%w: function %s: %v", api.ErrInvalid, f.Spec.ID(), f.Kernel)
	}
	return nil
}

// law is a function as it is now; changes of the world edit it.
type law struct {
	prepareMs, startMs, coldSpread float64
	runMs, perMBMs, power, spread  float64
	crash, hang                    float64
	kernel                         Kernel
	artifactBytes                  int64
}

func lawOf(f *Function) law {
	return law{
		prepareMs: ms(int64(f.Prepare)), startMs: ms(int64(f.Start)), coldSpread: f.ColdSpread, runMs: ms(int64(f.Run)), perMBMs: ms(int64(f.PerMB)),
		power: f.Power, spread: f.Spread, crash: f.Crash, hang: f.Hang, kernel: f.Kernel, artifactBytes: f.Spec.ArtifactBytes,
	}
}

// medianMs is the run time on a core of speed 1.
func (l *law) medianMs(bytes int64) float64 {
	if l.perMBMs == 0 || bytes == 0 {
		return l.runMs
	}
	mb := float64(bytes) / 1e6
	if l.power != 0 && l.power != 1 {
		mb = math.Pow(mb, l.power)
	}
	return l.runMs + l.perMBMs*mb
}

// Change alters the world in mid-run; nobody is told.
type Change struct {
	At time.Duration
	// Function is the index of the function whose law changes, -1 for all: its run times are multiplied by Run, what its input
	// adds by PerMB. 0 leaves a figure as it is.
	Function   int
	Run, PerMB float64
	// Rate multiplies how often the function (or all) is called; 0 leaves it.
	Rate float64
	// Class names nodes whose speed is multiplied by Speed; empty for none.
	Class string
	Speed float64
}

// luck is what chance decides of one execution: a standard normal and a uniform number. They depend on the seed and the call
// alone, so a call is equally lucky under every policy.
func luck(seed, call uint64, attempt uint8) (z, u float64) {
	a := mix(seed ^ mix(call^uint64(attempt)<<56))
	b := mix(a + 0x9e3779b97f4a7c15)
	c := mix(b + 0x9e3779b97f4a7c15)
	u1 := (float64(a>>11) + 1) / (1 << 53) // in (0, 1]
	z = math.Sqrt(-2*math.Log(u1)) * math.Cos(2*math.Pi*float64(b>>11)/(1<<53))
	return z, float64(c>>11) / (1 << 53)
}

// mix is the finaliser of splitmix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fold is one step of FNV-1a over a whole word; the rotation brings high bits down, which multiplying alone never does.
func fold(h, x uint64) uint64 {
	h = (h ^ x) * 1099511628211
	return h<<29 | h>>35
}

const foldBasis = 14695981039346656037

func foldString(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

func ms(ns int64) float64 { return float64(ns) / 1e6 }

// ns rounds up, so that what takes time never takes none.
func ns(ms float64) int64 { return int64(math.Ceil(min(max(ms, 0), 1e12) * 1e6)) }

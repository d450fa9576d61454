package sim

import "math"

// Hist counts times in buckets one percent wide, from a microsecond to ten million seconds. Its figures are within half a
// percent, and two that are merged are as good as one.
type Hist struct {
	counts []uint32
	n      uint64
}

const (
	histBase    = 1e-3 // ms
	histBuckets = 2800
)

var histStep = math.Log(1.01)

// Add counts a time in ms.
func (h *Hist) Add(ms float64) {
	if h.counts == nil {
		h.counts = make([]uint32, histBuckets)
	}
	i := 0
	if ms > histBase {
		i = min(int(math.Log(ms/histBase)/histStep), histBuckets-1)
	}
	h.counts[i]++
	h.n++
}

// Merge adds what another has counted.
func (h *Hist) Merge(o *Hist) {
	if o.n == 0 {
		return
	}
	if h.counts == nil {
		h.counts = make([]uint32, histBuckets)
	}
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
}

// Quantile is the time in ms below which the share q of all lie; 0 without any.
func (h *Hist) Quantile(q float64) float64 {
	want := uint64(math.Ceil(q * float64(h.n)))
	seen := uint64(0)
	for i, c := range h.counts {
		if seen += uint64(c); c > 0 && seen >= max(want, 1) {
			return histBase * math.Exp((float64(i)+.5)*histStep)
		}
	}
	return 0
}

// Stats is what callers saw of one function, or of all. Times are sums over answered calls, in ms.
type Stats struct {
	// Calls is how many arrived (after the warm-up). Each was Answered (it ran to its end), Refused at the door, or Failed.
	// Those that are none of these yet are Open, OpenDue of them with a deadline.
	Calls, Answered, Refused, Failed, Open, OpenDue uint64
	// Deadlines is how many of them had a deadline, or had none and were refused; Misses how many of those got no result in time.
	// A refused call is always one: a rule that refuses must not look as if it kept what it was asked for.
	Deadlines, Misses uint64
	// Undue are the refused ones without a deadline among Deadlines.
	Undue uint64
	// ColdStarts did not find a warm sandbox. Delayed were held back though a slot was free. Forwarded went to another zone.
	ColdStarts, Delayed, Forwarded uint64
	// SafeWaits were held back because even the bound of the node that they could have had left time before the deadline;
	// SafeWaitMisses are those among them that missed it.
	SafeWaits, SafeWaitMisses uint64
	FetchedBytes              int64
	// TotalMs is from arrival to answer, less Config.Late; ExecMs what the node spent (fetch, start, run), DelayMs the time held
	// back, QueueMs the time without a free slot.
	TotalMs, ExecMs, DelayMs, QueueMs float64
	Latency                           Hist
}

// Add adds another's figures.
func (s *Stats) Add(o *Stats) {
	s.Calls += o.Calls
	s.Answered += o.Answered
	s.Refused += o.Refused
	s.Failed += o.Failed
	s.Open += o.Open
	s.OpenDue += o.OpenDue
	s.Deadlines += o.Deadlines
	s.Misses += o.Misses
	s.ColdStarts += o.ColdStarts
	s.Delayed += o.Delayed
	s.Forwarded += o.Forwarded
	s.SafeWaits += o.SafeWaits
	s.SafeWaitMisses += o.SafeWaitMisses
	s.Undue += o.Undue
	s.FetchedBytes += o.FetchedBytes
	s.TotalMs += o.TotalMs
	s.ExecMs += o.ExecMs
	s.DelayMs += o.DelayMs
	s.QueueMs += o.QueueMs
	s.Latency.Merge(&o.Latency)
}

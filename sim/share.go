package sim

import "math"

// work is one computation or transfer that shares a node's cores or its link with others.
type work struct {
	left    float64 // ms of a core at speed 1, or bytes
	what    what
	kernel  Kernel
	crashes bool
	serial  uint64 // of the run, for executions
	sandbox uint64
	key     string // of the object or the artifact
	then    what   // of a copy: what has come over the link and waits for it; doExec: nothing yet
}

type what uint8

const (
	doExec what = iota
	doPrepare
	doStart
	doFetch
	doArtifact
	doCopy // what a fetch takes of the cores
)

// shared is a resource under processor sharing. Rates hold between two changes, so one event for the first end suffices; it
// is void once gen has moved on.
type shared struct {
	jobs []work
	last int64 // when left was true
	due  int64 // of the event on its way; 0: none
	gen  uint32
}

// advance lets time pass at the given rates (per ms).
func (s *shared) advance(now int64, rates *[kernels]float64) {
	if d := ms(now - s.last); d > 0 {
		for i := range s.jobs {
			s.jobs[i].left -= d * rates[s.jobs[i].kernel]
		}
	}
	s.last = now
}

// next is when the first job ends at these rates.
func (s *shared) next(rates *[kernels]float64) int64 {
	first := math.Inf(1)
	for i := range s.jobs {
		first = min(first, s.jobs[i].left/rates[s.jobs[i].kernel])
	}
	return s.last + ns(first)
}

// over takes out the jobs that have ended, in order of their beginning.
func (s *shared) over(rates *[kernels]float64, out []work) []work {
	kept := s.jobs[:0]
	for i := range s.jobs {
		if s.jobs[i].left <= 1e-6*rates[s.jobs[i].kernel] { // a nanosecond
			out = append(out, s.jobs[i])
		} else {
			kept = append(kept, s.jobs[i])
		}
	}
	clear(s.jobs[len(kept):])
	s.jobs = kept
	return out
}

// reset forgets everything; the event on its way is void.
func (s *shared) reset(now int64) {
	clear(s.jobs)
	s.jobs, s.last, s.due = s.jobs[:0], now, 0
	s.gen++
}

package zonesched

import (
	"math"
	"slices"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// How many sandboxes are warm is decided in several places. Here: a function may ask for some that are always there (MinWarm), which a tick
// brings up; and each run tells its node how long the sandbox is worth keeping once it is idle. Others are brought up beside calls that
// wait or have waited (decide.go), and as scouts (scout.go).

// prewarming is a sandbox that is being brought up without a call.
type prewarming struct {
	node    *node
	fn      string  // id
	scoutMs float64 // what a scout was expected to take; 0: it is none
}

const (
	// warmStep bounds the sandboxes that one tick begins to bring up.
	warmStep = 8
	// warmLook is how many nodes are looked at to place one.
	warmLook = 16
	// warmRetry and warmRetryMax are the pause after a failure and its bound; it doubles with each failure in a row.
	warmRetry    = 250 * time.Millisecond
	warmRetryMax = time.Minute
	// warmSettle is how long a new leader waits for the nodes' reports before it believes that something is missing.
	warmSettle = time.Second
)

// keepWarm, once a tick, brings up what functions ask for. They have their turn in order of name, beginning behind the one
// that was last: with little room none goes without for ever.
func (z *Zone) keepWarm(now time.Time, out []Action) []Action {
	if z.epoch.IsZero() || now.Sub(z.ledAt) < warmSettle {
		return out
	}
	left := warmStep
	first, found := slices.BinarySearch(z.asking, z.warmLast)
	if found {
		first++
	}
	for k := 0; k < len(z.asking) && left > 0; k++ {
		f := z.fns[z.asking[(first+k)%len(z.asking)]]
		if now.Before(f.warmAt) {
			continue
		}
		if want := min(f.spec.MinWarm-f.boxes(f.spec.MinWarm), left); want > 0 {
			var begun int
			if out, begun = z.warm(now, f, want, out); begun > 0 {
				left -= begun
				z.warmLast = f.id
			}
		}
	}
	return out
}

// ask notes whether a function, new or changed or deleted, asks for warm sandboxes.
func (z *Zone) ask(id string, minWarm int) {
	switch at, found := slices.BinarySearch(z.asking, id); {
	case minWarm > 0 && !found:
		z.asking = slices.Insert(z.asking, at, id)
	case minWarm == 0 && found:
		z.asking = slices.Delete(z.asking, at, at+1)
	}
}

// boxes counts the function's sandboxes, idle, busy and on their way, on nodes in service; up to limit.
func (f *function) boxes(limit int) int {
	have := 0
	for _, n := range f.h.nodes {
		if s := n.sandbox(f.h); n.serves() && n.fits(f) {
			if have += s.idle + s.busy; have >= limit {
				break
			}
		}
	}
	return have
}

// warm brings up to count sandboxes of f on their way, and says how many: as many as have room.
func (z *Zone) warm(now time.Time, f *function, count int, out []Action) ([]Action, int) {
	for begun := range count {
		n := z.warmPlace(now, f)
		if n == nil {
			return out, begun
		}
		out = z.prewarm(now, f, n, 0, out)
	}
	return out, count
}

// warmPlace finds the node that has fewest of f's sandboxes, among those the one with most free slots. A few drawn nodes
// are looked at, all if they are few. Calls come first: prewarmings hold at most half of the free slots of each profile, so
// that there is one left for everybody who could have had one, and they push out no sandbox that is asked for.
func (z *Zone) warmPlace(now time.Time, f *function) *node {
	var best *node
	boxes := 0
	look := func(n *node) {
		if !n.usable(now) || n.free() <= 0 || !n.profile.sums.spares() {
			return
		}
		if out, _, enough := z.victims(now, n, f.spec.MemoryMB); !enough || anyKept(out) {
			return
		}
		has := 0
		if s := n.sandbox(f.h); s != nil {
			has = s.idle + s.busy
		}
		if best == nil || has < boxes || has == boxes && n.free() > best.free() {
			best, boxes = n, has
		}
	}
	open, _ := f.openFor()
	if open > warmLook {
		for range warmLook {
			look(z.drawOpen(f, open))
		}
		return best
	}
	for _, p := range f.on {
		for i := range p.open {
			for _, n := range p.open[i].nodes {
				look(n)
			}
		}
	}
	return best
}

// spares: prewarmings would hold no more than half of the free slots with one more of them.
func (s *sums) spares() bool { return s.warming+1 <= s.free-1 }

// anyKept reports whether functions ask for one of the sandboxes that victims chose.
func anyKept(out []*holding) bool {
	for i, h := range out {
		if h.kept(count(out[:i], h)) {
			return true
		}
	}
	return false
}

// warmed takes the end of a prewarming, of which m is the word; nil if it was lost. What fails is tried again more and more seldom.
func (z *Zone) warmed(now time.Time, p prewarming, m *wire.Completion) {
	f, ok := z.fns[p.fn], m != nil && m.Outcome == api.OutcomeOK
	if f == nil {
		return
	}
	if ok {
		f.began(m)
	}
	at, fails := &f.warmAt, &f.warmFails
	if p.scoutMs > 0 { // whatever hinders scouts, on hardware of their own, does not concern those that the function asks for
		at, fails = &f.scoutAt, &f.scoutFails
		if ok {
			f.scoutedMs += math.Max(m.InitMs-p.scoutMs, 0)
		}
	}
	if *fails++; ok {
		*fails = 0
	} else {
		*at = now.Add(min(warmRetry<<min(*fails-1, 16), warmRetryMax))
	}
}

// keepMs is how long an idle sandbox of f is worth keeping; 0 says that nothing is known. As with rented skis: a sandbox may
// idle for as long as keepRent times what a new one takes, whatever comes, which is never much worse than knowing the future;
// and for longer where the next call is expected within that time, so that a gap above the mean does not end it. Sandboxes of
// a function that asks for some stay, also those beyond: were they told apart, after a burst all of them would go together.
func (f *function) keepMs() int64 {
	if f.spec.MinWarm > 0 {
		return keepMost.Milliseconds()
	}
	if f.coldMs.n == 0 {
		return 0
	}
	keep := keepRent * f.coldMs.v
	// Calls take turns among the idle ones.
	if gap := f.gapMs.v * float64(max(f.h.idle, 1)); f.gapMs.n > 0 && gap < keep {
		keep = math.Max(keep, keepGaps*gap)
	}
	return int64(math.Min(math.Max(keep, ms(keepLeast)), ms(keepMost)))
}

const (
	keepRent  = 600
	keepGaps  = 4
	keepLeast = 2 * time.Minute // memory that is short ends idle sandboxes sooner; ten seconds made a third more cold starts in the demo
	keepMost  = time.Hour
)

// wish brings up sandboxes because somebody asks for them now, for calls that will come.
func (z *Zone) wish(now time.Time, id string, count int, out []Action) []Action {
	f := z.fns[id]
	if f == nil || z.epoch.IsZero() {
		return out
	}
	out, _ = z.warm(now, f, min(count, api.MaxPrewarm), out)
	return out
}

package learner

import "math"

// Job is the growth of one tree over rows of its own, apart from the learner: Build may run on any goroutine while the
// learner goes on. A tree is installed a fixed number of rows after it was begun, built by then or built on the spot, so
// the clock never decides what the forest is.
type Job struct {
	slot         int
	g            growth
	b            *grower // with g's slices, taken over from an installed job
	tree         local
	drawn, built bool
}

// Build grows the tree; the second call does nothing. It must have returned before the learner takes the record before
// which JobsDue is true, and must not run beside it.
func (j *Job) Build() {
	if j.built {
		return
	}
	j.built = true
	j.tree.shape, j.tree.leaf = j.b.grow(&j.g)
	for i := range j.tree.leaf {
		if l := &j.tree.leaf[i]; l.N > leafCap {
			l.M2 *= leafCap / l.N
			l.N = leafCap
		}
	}
}

// batch is the trees that are being grown. Each of its jobs is at any time what draw makes of the window as it is now:
// whatever changes what trees are grown from begins the batch again, so a restored learner has the same one.
type batch struct {
	jobs      []*Job
	born, due uint64
}

// Jobs are the trees that are being grown, in the order in which they should be built; the slice is good until the next
// record. The caller may Build them in the background.
func (l *Learner) Jobs() []*Job { return l.ens.drawn(&l.win) }

// JobsDue reports whether the next record installs the trees of Jobs: their Builds must be over.
func (l *Learner) JobsDue() bool {
	b := &l.ens.batch
	return len(b.jobs) > 0 && l.win.total+1 >= b.due
}

// regrow does what is due at this row: in the warm-up all trees are grown anew, later one at a time.
func (e *ensemble) regrow(w *window) {
	e.install(w)
	switch {
	case dueInWarmUp(w.total-e.drift.Floor) && (e.ownFrom == 0 || !e.cfg.Without.has(PartWarmUp)):
		e.beginAll(w, 1, func(int) bool { return true })
	case len(e.batch.jobs) == 0 && e.ownFrom > 0:
		e.batch.born, e.batch.due = w.total, w.total+e.every
		e.batch.jobs = []*Job{{slot: e.oldest(w)}}
	}
}

// beginAll begins the trees of all slots that are wanted, to be installed lag rows later, instead of what was under way.
func (e *ensemble) beginAll(w *window, lag uint64, want func(slot int) bool) {
	e.batch.born, e.batch.due = w.total, w.total+lag
	e.batch.jobs = nil
	for i := range len(e.own) + len(e.resid) {
		if want(i) && (i < len(e.own) || e.residReady(w.total)) {
			e.batch.jobs = append(e.batch.jobs, &Job{slot: i})
		}
	}
	if len(e.batch.jobs) == 0 {
		e.batch = batch{}
	}
}

// beginAgain makes the jobs anew, to be drawn from the window as it is now. Somebody may still be building the old ones: their
// memory is not used again.
func (e *ensemble) beginAgain() {
	jobs := make([]*Job, len(e.batch.jobs))
	for k, j := range e.batch.jobs {
		jobs[k] = &Job{slot: j.slot}
	}
	e.batch.jobs = jobs
}

// drawn are the jobs, each with its rows.
func (e *ensemble) drawn(w *window) []*Job {
	for _, j := range e.batch.jobs {
		if !j.drawn {
			e.draw(w, j)
		}
	}
	return e.batch.jobs
}

func dueInWarmUp(rows uint64) bool {
	for _, r := range warmUp {
		if r == rows {
			return true
		}
	}
	return false
}

// oldest is the slot whose tree has aged most for how far it looks back; own slots first, then residual ones.
func (e *ensemble) oldest(w *window) int {
	worst, most := 0, -1.
	for i := range len(e.own) + len(e.resid) {
		born := uint64(0)
		if i < len(e.own) {
			born = e.own[i].born
		} else if !e.residReady(w.total) {
			break
		} else {
			born = e.resid[i-len(e.own)].born
		}
		if a := float64(w.total-born) / math.Sqrt(float64(e.horizon(i))); a > most {
			worst, most = i, a
		}
	}
	return worst
}

// horizon is how many rows back tree i looks at most (own slots first, then residual ones).
func (e *ensemble) horizon(i int) int {
	if i >= len(e.own) {
		i -= len(e.own)
	}
	if e.cfg.Without.has(PartHorizons) {
		return e.cfg.Window
	}
	return max(e.cfg.Window/horizons[horizonOf[i%len(horizonOf)]], 32)
}

// residReady: there are enough residuals, as of that row, to grow from.
func (e *ensemble) residReady(total uint64) bool {
	return e.residFrom > 0 && total >= e.residFrom+2*residMinLeaf
}

// draw draws the rows of a job's tree from the window as it was at the batch's birth, which may be up to Regrow rows ago.
// Residuals of the first quarter are left out while there are few: they are errors of forests that knew next to
// nothing.
func (e *ensemble) draw(w *window, j *Job) {
	if n := len(e.spare); n > 0 {
		j.g, j.b, e.spare = e.spare[n-1].g, e.spare[n-1].b, e.spare[:n-1]
	} else {
		j.b = new(grower)
	}
	i, born := j.slot, e.batch.born
	j.drawn, j.tree.born = true, born
	j.tree.fresh = e.drift.fresh(i) && i < len(e.own)
	size := min(born-min(e.drift.since(i), born), uint64(len(w.rows))-(e.batch.due-born))
	target, leaves, minLeaf := w.target, baseLeaves, baseMinLeaf
	if i >= len(e.own) {
		target, leaves, minLeaf = w.resid, residLeaves, residMinLeaf
		size = min(size, born-e.residFrom, max(born*3/4, 512))
	}
	size = max(size, min(born, uint64(warmUp[0])))
	span := min(int(size), e.horizon(i))
	g := &j.g
	g.width, g.leaves, g.minLeaf = len(e.grid.edges), leaves, minLeaf
	g.draw = rng(mix(mix(e.cfg.Seed+uint64(i)) ^ born))
	n, skip := min(span, bootstrapRows), int(w.total-born)
	g.rows, g.target, g.idx = sized(g.rows, n), sized(g.target, n), sized(g.idx, n)
	for k := range n {
		at := w.back(skip + g.draw.below(span))
		g.rows[k], g.target[k], g.idx[k] = w.rows[at], target[at], int32(k)
	}
}

// sized is s with n elements, whatever they are.
func sized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// maxSpare bounds the memory of installed jobs that is kept for new ones: 0.4 MB each.
const maxSpare = 4

// install puts the batch's trees into their slots when they are due, after showing them the rows that came since they were
// begun.
func (e *ensemble) install(w *window) {
	b := &e.batch
	if len(b.jobs) == 0 || w.total < b.due {
		return
	}
	for _, j := range e.drawn(w) {
		j.Build()
		t, target, to := &j.tree, w.target, e.own
		slot := j.slot
		if slot >= len(e.own) {
			target, to, slot = w.resid, e.resid, slot-len(e.own)
		}
		for k := int(w.total-b.born) - 1; k >= 0 && !e.cfg.Without.has(PartOnlineLeaves); k-- {
			at := w.back(k)
			t.leaf[walk(t.shape, &w.rows[at])].add(target[at], 1)
		}
		t.digest = localDigest(j.slot, t)
		to[slot] = *t
		if len(e.spare) < maxSpare {
			e.spare = append(e.spare, &Job{g: j.g, b: j.b})
		}
	}
	*b = batch{}
	if e.ownFrom == 0 {
		e.ownFrom = w.total
		e.repick(w)
	}
}

package learner

import "math"

// Job is the growth of one tree over rows of its own, apart from the learner: Build may run on any goroutine while the
// learner goes on. A tree begun at row k is installed at row k + Regrow exactly, built by then or built on the spot, so
// the clock never decides what the forest is.
type Job struct {
	slot      int
	born, due uint64
	g         growth
	b         grower
	tree      local
	built     bool
}

// Build grows the tree; the second call does nothing. It must have returned before the learner takes the record after
// which Due is true, and must not run beside it.
func (j *Job) Build() {
	if j.built {
		return
	}
	j.built = true
	j.tree.born = j.born
	j.tree.shape, j.tree.leaf = j.b.grow(&j.g)
	for i := range j.tree.leaf {
		if l := &j.tree.leaf[i]; l.N > leafCap {
			l.M2 *= leafCap / l.N
			l.N = leafCap
		}
	}
}

// Job is the tree that is to be grown next, nil for none. The caller may Build it in the background.
func (l *Learner) Job() *Job { return l.ens.job }

// JobDue reports whether the next record installs the tree of Job: its Build must be over.
func (l *Learner) JobDue() bool { return l.ens.job != nil && l.win.total+1 >= l.ens.job.due }

// regrow does what is due at this row: in the warm-up all trees are grown on the spot, later one job at a time.
func (e *ensemble) regrow(w *window) {
	if dueInWarmUp(w.total - e.drift.Floor) {
		first := e.ownFrom == 0
		for i := range e.own {
			e.own[i] = e.grown(w, i)
		}
		if w.total >= residRows {
			e.regrowResidual(w)
		}
		if first {
			e.ownFrom = w.total
			e.repick(w)
		}
		e.restart(w)
		return
	}
	if e.job != nil && w.total >= e.job.due {
		e.install(w)
		e.job = nil
	}
	if e.job == nil && w.total >= warmUp[0] {
		e.job = e.begin(w, e.oldest(w), w.total)
	}
}

// restart drops the job, whose rows are no longer what the forest learns from, and begins another.
func (e *ensemble) restart(w *window) {
	e.job = nil // somebody may still be building it: its memory is not used again
	if e.ownFrom > 0 {
		e.job = e.begin(w, e.oldest(w), w.total)
	}
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
	return max(e.cfg.Window/horizons[horizonOf[i%len(horizonOf)]], 32)
}

// residReady: there are enough residuals, as of that row, to grow from.
func (e *ensemble) residReady(total uint64) bool {
	return e.residFrom > 0 && total >= e.residFrom+2*residMinLeaf
}

// begin draws the rows of slot i's next tree from the window as it was at row born, which may be up to a job's life ago.
// Residuals of the first quarter are left out while there are few: they are errors of forests that knew next to nothing.
func (e *ensemble) begin(w *window, i int, born uint64) *Job {
	every := uint64(e.cfg.Regrow)
	j := &Job{slot: i, born: born, due: born + every}
	j.tree.fresh = e.drift.fresh(i) && i < len(e.own)
	size := min(born-e.drift.since(i), uint64(len(w.rows))-every)
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
	g.rows, g.target, g.idx = make([]row, n), make([]float32, n), make([]int32, n)
	for k := range n {
		at := w.back(skip + g.draw.below(span))
		g.rows[k], g.target[k], g.idx[k] = w.rows[at], target[at], int32(k)
	}
	return j
}

// install puts the job's tree into its slot, after showing it the rows that came since it was begun.
func (e *ensemble) install(w *window) {
	j := e.job
	j.Build()
	t, target := &j.tree, w.target
	if j.slot >= len(e.own) {
		target = w.resid
	}
	for k := int(w.total-j.born) - 1; k >= 0; k-- {
		at := w.back(k)
		t.leaf[walk(t.shape, &w.rows[at])].add(target[at], 1)
	}
	e.put(j)
}

func (e *ensemble) put(j *Job) {
	j.tree.digest = localDigest(j.slot, &j.tree)
	if j.slot < len(e.own) {
		e.own[j.slot] = j.tree
	} else {
		e.resid[j.slot-len(e.own)] = j.tree
	}
}

// grown is slot i's tree, begun and built now.
func (e *ensemble) grown(w *window, i int) local {
	j := e.begin(w, i, w.total)
	j.Build()
	j.tree.digest = localDigest(i, &j.tree)
	return j.tree
}

func (e *ensemble) regrowResidual(w *window) {
	if !e.residReady(w.total) {
		return
	}
	for i := range e.resid {
		e.resid[i] = e.grown(w, i+len(e.own))
	}
}

package learner

// drift notices when the law has changed at once, and what follows from it. Fields are exported for encoding/binary only.
type drift struct {
	// Fast and Slow are mean absolute errors of the forest over about driftFast and driftSlow rows.
	Fast, Slow ew
	// Cut is the row at which a drift was noticed; every other slot is grown from newer rows only. 0: none.
	Cut uint64
	// Floor is the row before which no tree looks back any more.
	Floor uint64
	// Alarms counts the drifts noticed.
	Alarms uint64
}

const (
	driftFast, driftSlow = 100, 1000
	// driftRatio of fast over slow error raises the alarm, after driftQuiet rows without one.
	driftRatio = 1.8
	driftQuiet = 500
	// driftTrial is how many rows the trees grown after the drift have to prove better than the others.
	driftTrial = 3000
	// driftSure is after how many rows the trial ends early, when the fresh trees' error is below driftClear times that of
	// those that look back furthest: then the past is of no use.
	driftSure, driftClear = 384, .7
)

func (d *drift) add(err float64) {
	d.Fast.add(err, driftFast)
	d.Slow.add(err, driftSlow)
}

// fresh reports whether slot i is one of those that start over after a drift.
func (d *drift) fresh(i int) bool { return d.Cut > 0 && i%2 == 1 }

// since is the first row that slot i's trees may look back to.
func (d *drift) since(i int) uint64 {
	if d.fresh(i) {
		return d.Cut
	}
	return d.Floor
}

// watch raises the alarm and ends the trial. Half of the slots start over and form a group of their own, so that the
// groups' errors decide how much is listened to them: after a false alarm next to nothing. Forgetting everything at once
// lost more on false alarms than it won on drifts.
func (e *ensemble) watch(w *window) {
	d := &e.drift
	switch {
	case e.cfg.Without.has(PartDrift):
	case d.Cut == 0 && d.Slow.N > driftQuiet && d.Fast.Mean > driftRatio*d.Slow.Mean:
		d.Cut, d.Slow, d.Fast = w.total, ew{}, ew{}
		d.Alarms++
		e.beginAgain()
	case d.Cut > 0 && w.total >= d.Cut+driftTrial:
		if f := e.groupErr[freshGroup]; f.N > 0 && f.Mean <= e.bestErr() {
			d.Floor = d.Cut
		}
		d.Cut = 0
		e.beginAgain()
	case d.Cut > 0 && dueInWarmUp(w.total-d.Cut):
		if f, long := e.groupErr[freshGroup], e.groupErr[0]; w.total-d.Cut >= driftSure && f.N > 0 && f.Mean < driftClear*long.Mean {
			d.Floor, d.Cut = d.Cut, 0 // regrow goes on with all slots
			e.beginAgain()
			return
		}
		e.beginAll(w, 1, d.fresh)
	}
}

// bestErr is the smallest error of the groups other than the fresh one.
func (e *ensemble) bestErr() float64 {
	best := maxErr
	for g, err := range e.groupErr {
		if g != freshGroup && err.N > 0 {
			best = min(best, err.Mean)
		}
	}
	return best
}

const maxErr = 1e300

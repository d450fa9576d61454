package learner

import (
	"math"
	"slices"

	"github.com/rubato-faas/rubato/api"
)

// Kinds of decision and classes of alpha that are calibrated apart.
const (
	kinds   = 2 // immediate, delayed
	classes = 2 // alpha .05, alpha .01
	strict  = 1 // the class of .01
)

var alphas = [classes]float64{.05, .01}

const (
	zoneScores = 1000
	hotScores  = 128
	// minScores is how many scores a bound needs; below, it is infinite.
	minScores = 20
	// ownScores is from how many scores on a function's own bound speaks for it.
	ownScores = 50
	// maxAlpha caps alpha_t: after a long quiet time it would otherwise need as long to come back.
	maxAlpha = .25
	// noBound stands for an infinite quantile: exp(mu + noBound*sigma) is +Inf, and it survives encoding.
	noBound = float32(1e30)
	// crashScore is the score of a crash: it never finished, whatever its bound was.
	crashScore = 30
)

// classOf picks the class: .05 for alpha from .05 on, .01 for anything stricter. An alpha that is not set (0) is
// .05, as in api.Objective.
func classOf(alpha float64) int {
	if alpha > 0 && alpha < alphas[0] {
		return strict
	}
	return 0
}

// bit is 1 for true: the kind "delayed", a flag on the wire.
func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// aci is adaptive conformal inference (Gibbs & Candes 2021) on scaled residuals (y - mu)/sigma: the quantile of
// recent scores at 1 - alpha_t, where alpha_t moves against each error. For any data the long-run share of misses
// goes to alpha; a plain rolling quantile missed up to .13 at .05 in the 500 calls after a drift.
type aci struct {
	ring   []float32 // in order of arrival, wraps at cap
	sorted []float32
	next   int
	alpha  [classes]float64
	// prior speaks while there are too few scores: delayed calls are first bounded by what immediate ones did. Without it
	// no call with a deadline was ever delayed, so none was ever scored.
	prior *aci
}

func newACI(size int) *aci {
	return &aci{ring: make([]float32, 0, size), sorted: make([]float32, 0, size), alpha: alphas}
}

// quantile is the multiple of sigma to add to mu.
func (a *aci) quantile(class int) float32 {
	n := len(a.sorted)
	switch {
	case a.alpha[class] <= 0:
		return noBound
	case n < minScores && a.prior != nil:
		return a.prior.quantile(class)
	case n < minScores:
		return noBound
	}
	k := int(math.Ceil(float64(n+1) * (1 - a.alpha[class])))
	return a.sorted[min(max(k, 1), n)-1]
}

// judge moves alpha_t of a class by one outcome. gamma = alpha/10.
func (a *aci) judge(class int, missed bool) {
	err := 0.
	if missed {
		err = 1
	}
	a.alpha[class] = min(a.alpha[class]+alphas[class]/10*(alphas[class]-err), maxAlpha)
}

// add takes a score into the ring, in place of the oldest when full.
func (a *aci) add(s float32) {
	if len(a.ring) < cap(a.ring) {
		a.ring = append(a.ring, s)
	} else {
		old := a.ring[a.next]
		a.ring[a.next] = s
		a.next = (a.next + 1) % len(a.ring)
		i, _ := slices.BinarySearch(a.sorted, old)
		a.sorted = slices.Delete(a.sorted, i, i+1)
	}
	i, _ := slices.BinarySearch(a.sorted, s)
	a.sorted = slices.Insert(a.sorted, i, s)
}

// forget drops the scores and keeps alpha_t: what was promised outlives the model it was promised with.
func (a *aci) forget() { a.ring, a.sorted, a.next = a.ring[:0], a.sorted[:0], 0 }

// hot is the bound of one function.
type hot [kinds]*aci

// calibrate takes an executed call into the zone's and its function's bounds. The bound that was promised (in the
// echo) judges the state that spoke then; the other states are judged by what they would say now.
func (l *Learner) calibrate(s *api.Sample, fn uint64, st *fnStat, y float64) {
	e := &s.Echo
	kind := bit(e.Kind == api.DecisionDelayed)
	failed := s.Outcome == api.OutcomeTimeout || s.Outcome == api.OutcomeCrash
	promised := e.UpperMs > 0 && !math.IsInf(e.UpperMs, 0)
	missed := failed || y > math.Log(e.UpperMs)
	if promised {
		l.calls[kind]++
		if missed {
			l.misses[kind]++
		}
	}
	if e.Source == api.SourceNone || !(e.Sigma > 0) || math.IsInf(e.Sigma, 0) || math.Abs(e.Mu) > maxMean {
		return
	}
	score := (y - e.Mu) / e.Sigma
	if s.Outcome == api.OutcomeCrash {
		score = crashScore
	}
	score = min(max(score, -crashScore), crashScore)
	var own *aci
	zone := l.youngBound[kind]
	if int(st.Count) >= l.cfg.MinForest {
		own, zone = l.hotBound(fn)[kind], l.zoneBound[kind]
	}
	var kept *bool // what came of the promise that was made
	if promised && classOf(e.Alpha) == 0 {
		kept = &missed
	}
	judge(own, zone, float32(score), failed, kept)
	if own == nil {
		return
	}
	st.Scores[kind] = uint32(len(own.ring))
	for c := range classes {
		st.Quantile[kind][c] = own.quantile(c)
	}
}

// speaks is the state whose quantile is said: the function's own once it has enough scores.
func speaks(own, zone *aci) *aci {
	if own != nil && len(own.ring) >= ownScores {
		return own
	}
	return zone
}

// said is the quantile that a bound rests on: the speaking state's; for strict promises the larger of both, and so while the
// zone misses more than it should (after a drift each function would have to find out for itself).
func said(own, zone *aci, class int) float32 {
	q := speaks(own, zone).quantile(class)
	if leastOf(zone, class) {
		q = max(q, zone.quantile(class))
	}
	return q
}

// leastOf reports whether nothing below the zone's quantile may be said.
func leastOf(zone *aci, class int) bool {
	return class == strict || zone.alpha[class] < stress*alphas[class]
}

// stress is the share of alpha below which alpha_t says that the zone misses too often.
const stress = .5

// judge shows an outcome to both states (own may be nil), which then learn its score. The state that spoke, and for strict promises both,
// answer for what was said; the other for what it would have said. missed (may be nil) is what came of the promise
// that was really made, which an older model may have spoken.
func judge(own, zone *aci, score float32, failed bool, missed *bool) {
	spoke := speaks(own, zone)
	var miss [2][classes]bool
	both := [2]*aci{own, zone}
	for i, a := range both {
		if a == nil {
			continue
		}
		for c := range classes {
			q := a.quantile(c)
			if a == spoke || c == strict {
				q = said(own, zone, c)
			}
			miss[i][c] = failed || score > q
			if a == spoke && c != strict && missed != nil {
				miss[i][c] = *missed
			}
		}
	}
	for i, a := range both {
		if a == nil {
			continue
		}
		for c := range classes {
			a.judge(c, miss[i][c])
		}
		a.add(score)
	}
}

// hotBound is the function's own bound, made if need be; the function that gives way for it falls back to the zone's.
func (l *Learner) hotBound(fn uint64) *hot {
	h, evicted := l.hots.edit(fn, l.seq)
	if evicted != 0 && l.fns.get(evicted) != nil {
		st, _ := l.fns.edit(evicted, l.seq)
		st.Scores = [kinds]uint32{}
	}
	for k := range h {
		if h[k] == nil {
			h[k] = newACI(hotScores)
		}
	}
	return h
}

// resetScores drops all scores after the model has become another.
func (l *Learner) resetScores() {
	for k := range kinds {
		l.zoneBound[k].forget()
		l.youngBound[k].forget()
	}
	l.hots.each(func(_ uint64, h *hot) {
		for _, a := range h {
			if a != nil {
				a.forget()
			}
		}
	})
	l.fns.each(func(_ uint64, st *fnStat) { st.Scores = [kinds]uint32{} })
}

// zoneQuantiles are what a snapshot needs of the zone's states: their quantiles, and the least that said would say.
type zoneQuantiles [kinds][classes]struct{ q, least float32 }

func quantilesOf(states *[kinds]*aci) (z zoneQuantiles) {
	for k, a := range states {
		for c := range classes {
			z[k][c].q, z[k][c].least = a.quantile(c), -noBound
			if leastOf(a, c) {
				z[k][c].least = z[k][c].q
			}
		}
	}
	return z
}

// said is said for a snapshot; st may be nil.
func (z *zoneQuantiles) said(st *fnStat, kind, class int) float32 {
	q := z[kind][class].q
	if st != nil && st.Scores[kind] >= ownScores {
		q = st.Quantile[kind][class]
	}
	return max(q, z[kind][class].least)
}

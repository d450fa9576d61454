package zonesched

import (
	"math"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// trust is the guard of the forest. The learner leaves a forest out that predicts worse than averages when it learns. What is asked when
// deciding may be wrong for other reasons: a model that came from elsewhere, a feature that is filled otherwise than when it was
// learned, a fault in the way from one to the other. So the zone judges what it was told by what came true. Each call whose node was
// chosen by the forest has both predictions; the difference of their errors is what the forest loses. While it loses beyond
// doubt, averages stand in for it everywhere, and the forest is only asked; once it wins beyond doubt, it is trusted again. Nodes
// chosen by the forest are those of which it thinks too well (a winner's curse), hence the margin.
type trust struct {
	lost  bool
	loss  tally // |ln(measured/forest)| - |ln(measured/averages)|
	off   tally // |ln(measured/averages)|
	began time.Time
}

const (
	trustCalls  = 50 // before the forest is judged, and again after each change
	trustSure   = 4  // standard errors: it is looked at after each call
	trustMargin = .1 // off by a tenth more than averages are, and
	trustShare  = .3 // by so much of what these are off: where nothing tells a call's time, both are off by far
)

// told judges the forest by a call that took execMs.
func (z *Zone) told(now time.Time, c *call, averagesMu, execMs float64) {
	if c.forestMu == 0 || !z.guarded() || z.cfg.KeepForest {
		return
	}
	t, y := &z.trust, math.Log(execMs)
	t.loss.add(math.Abs(y-c.forestMu) - math.Abs(y-averagesMu))
	t.off.add(math.Abs(y - averagesMu))
	if t.loss.n < trustCalls {
		return
	}
	sure := trustSure * math.Sqrt(t.loss.err2())
	switch {
	case !t.lost && t.loss.mean > math.Max(sure, math.Max(trustMargin, trustShare*t.off.mean)):
		t.lost = true
		z.counters.ForestDropped++
	case t.lost && t.loss.mean < -sure:
		t.lost = false
		z.counters.ForestRestored++
	default:
		return
	}
	t.loss, t.off, t.began = tally{}, tally{}, now
	z.forgetResort(stageTrying)
	z.redoDelayed() // what they wait for was predicted by the other one
}

// believe takes over what was predicted for the candidate in hand.
func (z *Zone) believe(i int, e *api.Estimate) {
	k := &z.cands[i]
	if k.Est, k.ForestMu = *e, 0; e.Source != api.SourceForest {
		return
	}
	k.ForestMu = e.Mu
	if z.trust.lost && z.guarded() {
		k.ForgetForest()
	}
}

// TrustView is what the zone thinks of its forest.
type TrustView struct {
	// Lost: averages stand in for the forest. Since: when that last changed, zero for never.
	Lost  bool      `json:"lost"`
	Since time.Time `json:"since,omitzero"`
	// Calls are those judged since; Loss is by how much the forest's predictions were further off than averages', in logarithms of
	// times (.1: a tenth), below 0 where they were nearer.
	Calls int     `json:"calls"`
	Loss  float64 `json:"loss"`
}

// Trust returns it.
func (z *Zone) Trust() TrustView {
	t := &z.trust
	return TrustView{Lost: t.lost && z.guarded(), Since: t.began, Calls: t.loss.n, Loss: t.loss.mean}
}

package sim

import (
	"fmt"
	"math"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/zonesched"
)

// Retrain is how rules learn that have no online forest: from time to time a forest is trained from nothing on a window of the
// newest samples, and nothing is learned in between. It has no calibrated bound, and no averages take over when it is bad.
type Retrain struct {
	// Window is how many samples a forest is trained on (0: the zone learns online).
	Window int
	// Every is the time between two trainings; before the window is full the first time there is one more whenever the samples
	// have doubled, from retrainFirst on.
	Every time.Duration
}

const (
	retrainFirst = 64
	// retrainPace is after how many rows a tree is grown while the window is gone through; at its end all are.
	retrainPace = 64
)

func (r *Retrain) validate() error {
	if r.Window != 0 && (r.Window < retrainFirst || r.Window > learner.MaxWindow || r.Every < tickEvery) {
		return fmt.Errorf("%w: forests trained on %d samples every %v: want %d-%d and at least %v", api.ErrInvalid, r.Window, r.Every, retrainFirst, learner.MaxWindow, tickEvery)
	}
	return nil
}

// trainer holds the window.
type trainer struct {
	cfg     learner.Config
	ring    []api.Sample
	seen    int // samples ever
	next    int // at so many the window has doubled
	trained int // samples seen at the last training
	at      int64
}

// newTrainer takes the size of the forest from cfg. The forest is a plain one: all trees of equal weight and over the whole
// window, no second stage, and it speaks for every function that it has seen.
func newTrainer(r *Retrain, cfg learner.Config) *trainer {
	cfg.Window, cfg.Regrow, cfg.ResidualTrees, cfg.MinForest = r.Window, min(retrainPace, r.Window*3/4), 0, 1
	cfg.Without = learner.PartResidual | learner.PartOnlineLeaves | learner.PartHorizons | learner.PartDrift | learner.PartWarmUp | learner.PartGuard
	return &trainer{cfg: cfg, ring: make([]api.Sample, 0, r.Window), next: retrainFirst}
}

// add takes a sample; full says that there are twice as many as when it last did. Crashes teach no time.
func (t *trainer) add(x *api.Sample) (full bool) {
	if !x.Usable() || x.Outcome == api.OutcomeCrash {
		return false
	}
	if len(t.ring) < cap(t.ring) {
		t.ring = append(t.ring, *x)
	} else {
		t.ring[t.seen%cap(t.ring)] = *x
	}
	t.seen++
	if t.seen < t.next || t.next > cap(t.ring) {
		return false
	}
	t.next *= 2
	return true
}

// train makes a forest of what the window holds, and of nothing else. What a row says of its function and its node are averages,
// and those that were known when the call was decided are of earlier windows: with them a forest would correct averages that
// have changed since. So a row is made anew from averages of this window: first they are found, then how nodes deviate from
// them, then trees are grown.
func (t *trainer) train() (*learner.Learner, error) {
	rows := make([]api.Sample, len(t.ring))
	for i := range rows {
		rows[i] = t.ring[(t.seen+i)%len(t.ring)] // oldest first; while the ring is not full seen is its length
		rows[i].Echo.Source = api.SourceNone
	}
	plain := t.cfg
	plain.Trees, plain.Pick, plain.Regrow = 1, 1, plain.Window*3/4
	for range 2 {
		l, err := learner.New(plain)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			l.Learn(&rows[i])
		}
		f := l.Snapshot()
		for i := range rows {
			refill(&rows[i].Echo, f)
		}
	}
	l, err := learner.New(t.cfg)
	if err != nil {
		return nil, err
	}
	last := len(rows) - t.cfg.Regrow - 2*t.cfg.Trees
	for i := range rows {
		if i == max(last, 0) {
			l.SetRegrow(1) // from here on a tree a row: all of them see the window to its end but for a few rows
		}
		l.Learn(&rows[i])
	}
	t.trained = t.seen
	return l, nil
}

// learned are the features that are made of what was learned; the others are measured or given.
var learned = []api.Feature{api.FnFast, api.FnSlow, api.FnSpread, api.FnCount, api.FnColdGap, api.FnSizeExponent, api.NodeResidual, api.FnNodeResidual}

// refill makes a row as f would see it.
func refill(e *api.Echo, f *learner.Forest) {
	req := api.Request{Function: e.Function, Runtime: e.Runtime, InputBytes: e.InputBytes, Alpha: e.Alpha}
	cand := [1]api.Candidate{{Node: e.Node, Sandbox: e.Sandbox, MissingBytes: e.MissingBytes, LinkMbps: e.LinkMbps}}
	var est [1]api.Estimate
	f.Estimate(&req, cand[:], est[:])
	e.Bins = append([]byte(nil), e.Bins...) // the sample's own
	for _, k := range learned {
		e.Bins[k] = est[0].Bins[k]
	}
	e.Mu, e.AveragesMu, e.Source = est[0].AveragesMu, est[0].AveragesMu, api.SourceAverages
}

// boundless says nothing of how long a call takes at most.
type boundless struct{ zonesched.Predictor }

// Estimate implements zonesched.Predictor.
func (b boundless) Estimate(req *api.Request, cands []api.Candidate, out []api.Estimate) {
	b.Predictor.Estimate(req, cands, out)
	for i := range cands {
		out[i].UpperMs = math.Inf(1)
	}
}

// retrain trains and publishes.
func (s *shard) retrain() {
	l, err := s.trainer.train()
	if err != nil {
		s.violate("training: %v", err)
		return
	}
	s.learner, s.trainer.at = l, s.now
	s.publish()
}

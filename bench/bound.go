package bench

import (
	"context"
	"fmt"
	"math"

	"github.com/rubato-faas/rubato/learner"
)

// Bound measures the calibrated bound on streams whose target is ln ms: the share of outcomes above it in the long run,
// in the worst 500 consecutive rows and for the worst function, and how far above the prediction it lies.
func Bound(ctx context.Context, o LearnOptions) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	streams, err := loadStreams(o.Data, o.Stream, o.Seed)
	if err != nil {
		return nil, err
	}
	r := &Report{Bench: "bound", Env: environment()}
	total, done := 0, 0
	for _, s := range streams {
		total += s.rows()
	}
	for _, s := range streams {
		if s.lnMs() {
			if err := boundStream(ctx, s, o, r, func(n int) { o.Progress(done+n, total, s.name) }); err != nil {
				return nil, err
			}
		} else {
			r.Notes = append(r.Notes, s.name+" is left out: its target is not ln ms")
		}
		done += s.rows()
	}
	r.Notes = append(r.Notes, "rows before the bound is first finite are not counted; worst_function: functions with at least 500 rows; width is the median of bound over prediction, in ms")
	return r, nil
}

// tally counts one bound's misses.
type tally struct {
	alpha    float64
	missed   []bool
	widths   []float64
	of, miss map[float64]int
}

func (t *tally) add(fn, p, bound, y float64) {
	if math.IsInf(bound, 1) {
		return
	}
	m := y > bound
	t.missed = append(t.missed, m)
	t.widths = append(t.widths, math.Exp(bound-p))
	t.of[fn]++
	if m {
		t.miss[fn]++
	}
}

func (t *tally) report(r *Report, name string) {
	sum, in, worst := 0, 0, 0
	for i, m := range t.missed {
		if m {
			sum, in = sum+1, in+1
		}
		if i >= 500 && t.missed[i-500] {
			in--
		}
		if i >= 499 {
			worst = max(worst, in)
		}
	}
	worstFn := 0.
	for fn, n := range t.of {
		if n >= 500 {
			worstFn = max(worstFn, float64(t.miss[fn])/float64(n))
		}
	}
	r.add(name+".miss", float64(sum)/float64(max(len(t.missed), 1)), "share")
	r.add(name+".worst500", float64(worst)/500, "share")
	r.add(name+".worst_function", worstFn, "share")
	r.add(name+".width", quantile(t.widths, .5), "ratio")
}

func boundStream(ctx context.Context, s *stream, o LearnOptions, r *Report, progress func(int)) error {
	cfg := learner.DefaultConfig()
	cfg.Seed = o.Seed
	m, err := learner.NewRegressor(cfg, s.width)
	if err != nil {
		return fmt.Errorf("stream %s: %w", s.name, err)
	}
	c := learner.NewCalibrator(o.Seed)
	tallies := [2]*tally{{alpha: .05, of: map[float64]int{}, miss: map[float64]int{}}, {alpha: .01, of: map[float64]int{}, miss: map[float64]int{}}}
	for i := range s.rows() {
		if i%1000 == 0 {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			progress(i)
		}
		x, y := s.row(i), s.y[i]
		fn := 0.
		if s.roles.Function != nil {
			fn = x[*s.roles.Function]
		}
		key := math.Float64bits(fn)
		p, spread, known := m.Predict(x)
		if known {
			for _, t := range tallies {
				t.add(fn, p, c.Bound(key, t.alpha, p, spread), y)
			}
			c.Learn(key, y, p, spread)
		}
		m.Learn(x, y)
	}
	tallies[0].report(r, s.name+".a05")
	tallies[1].report(r, s.name+".a01")
	return nil
}

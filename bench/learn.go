package bench

import (
	"container/heap"
	"context"
	"fmt"
	"math"
	"time"

	"github.com/rubato-faas/rubato/learner"
)

// LearnOptions say which streams are learned, and how.
type LearnOptions struct {
	// Data is a folder of CSVs, Stream a single one; without either the streams are generated.
	Data, Stream string
	// Late lets each label arrive only after its own time, with Outstanding labels on their way on average.
	Late        bool
	Outstanding float64
	Seed        uint64
	// Peers runs scikit-learn's forest on the same streams.
	Peers bool
	// Ablation learns each stream again without each part of the forest.
	Ablation bool
	// Progress hears how many rows of how many are done, and of which stream.
	Progress func(done, total int, doing string)
}

// DefaultLearnOptions learns the generated streams.
func DefaultLearnOptions() LearnOptions {
	return LearnOptions{Seed: 1, Outstanding: 32, Progress: func(int, int, string) {}}
}

// learned is what came of one stream.
type learned struct {
	absErr               []float64
	rmse, mae            float64
	predict, learn, grow time.Duration
	sizes                learner.Sizes
}

// Learn tests and then trains on every stream, in file order: each row is predicted before its label is learned.
func Learn(ctx context.Context, o LearnOptions) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	streams, err := loadStreams(o.Data, o.Stream, o.Seed)
	if err != nil {
		return nil, err
	}
	r := &Report{Bench: "learn", Env: environment()}
	total, done := 0, 0
	for _, s := range streams {
		total += s.rows()
	}
	python := ""
	if o.Peers {
		if python, err = findSklearn(ctx); err != nil {
			return nil, err
		}
	}
	passes := 1
	if o.Late {
		passes++
	}
	if o.Ablation {
		passes += len(learner.Ablations)
	}
	total *= passes
	var sizes learner.Sizes
	for _, s := range streams {
		pass := func(late bool, without learner.Parts) (*learned, error) {
			l, err := learnStream(ctx, s, o, late, without, func(n int) { o.Progress(done+n, total, s.name) })
			done += s.rows()
			return l, err
		}
		l, err := pass(false, 0)
		if err != nil {
			return nil, err
		}
		if o.Late {
			prompt := l.rmse
			if l, err = pass(true, 0); err != nil {
				return nil, err
			}
			r.add(s.name+".late_cost", l.rmse/prompt-1, "share of rmse")
		}
		n := float64(s.rows())
		us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) / n }
		r.add(s.name+".mae", l.mae, "target")
		r.add(s.name+".rmse", l.rmse, "target")
		r.add(s.name+".predict_us", us(l.predict), "us/sample")
		r.add(s.name+".learn_us", us(l.predict+l.learn), "us/sample")
		r.add(s.name+".build_us", us(l.grow), "us/sample")
		r.add(s.name+".total_us", us(l.predict+l.learn+l.grow), "us/sample")
		if o.Peers {
			o.Progress(done, total, "scikit-learn on "+s.name)
			p, err := sklearn(ctx, python, s, o.Seed)
			if err != nil {
				return nil, err
			}
			r.add(s.name+".sklearn.mae", p.MAE, "target")
			r.add(s.name+".sklearn.rmse", p.RMSE, "target")
			r.add(s.name+".sklearn.total_us", p.US, "us/sample")
			r.add(s.name+".rmse_over_sklearn", l.rmse/p.RMSE, "ratio")
		}
		for _, a := range learner.Ablations {
			if !o.Ablation {
				break
			}
			part, err := pass(false, a)
			if err != nil {
				return nil, err
			}
			r.add(s.name+".without_"+a.String()+".rmse", part.rmse, "target")
		}
		if len(s.drifts) > 0 {
			r.add(s.name+".recovery_samples", float64(l.recovery(s.drifts)), "samples")
		}
		sizes.Forest, sizes.Learner = max(sizes.Forest, l.sizes.Forest), max(sizes.Learner, l.sizes.Learner)
	}
	r.add("forest_bytes", float64(sizes.Forest), "bytes")
	r.add("learner_bytes", float64(sizes.Learner), "bytes")
	r.Notes = []string{"learn_us is predicting a sample and learning it, without growing trees (build_us), which a zone does in the background"}
	return r, nil
}

func learnStream(ctx context.Context, s *stream, o LearnOptions, late bool, without learner.Parts, progress func(int)) (*learned, error) {
	cfg := learner.DefaultConfig()
	cfg.Seed, cfg.Without = o.Seed, without
	m, err := learner.NewRegressor(cfg, s.width)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", s.name, err)
	}
	l := &learned{absErr: make([]float64, 0, s.rows())}
	var sum, squares float64
	learn := func(i int) {
		t0 := time.Now()
		m.Learn(s.row(i), s.y[i])
		t1 := time.Now()
		m.Build()
		l.learn, l.grow = l.learn+t1.Sub(t0), l.grow+time.Since(t1)
	}
	var coming labels
	delay := func(int) float64 { return 0 }
	if late {
		delay = delays(s, o.Outstanding)
	}
	for i := range s.rows() {
		if i%1000 == 0 {
			if err := ctx.Err(); err != nil {
				return nil, context.Cause(ctx)
			}
			progress(i)
		}
		for len(coming) > 0 && coming[0].at <= float64(i) {
			learn(heap.Pop(&coming).(label).row)
		}
		t0 := time.Now()
		p, _, _ := m.Predict(s.row(i))
		l.predict += time.Since(t0)
		e := math.Abs(p - s.y[i])
		sum, squares, l.absErr = sum+e, squares+e*e, append(l.absErr, e)
		if late {
			heap.Push(&coming, label{at: float64(i) + delay(i), row: i})
		} else {
			learn(i)
		}
	}
	n := float64(s.rows())
	l.mae, l.rmse, l.sizes = sum/n, math.Sqrt(squares/n), m.Sizes()
	return l, nil
}

// recovery is how many rows after a drift the error of the last 500 rows is within 1.25 times that of the 500 before it,
// the worst over all drifts.
func (l *learned) recovery(drifts []int) int {
	const window, within = 500, 1.25
	rmse := func(to int) float64 {
		var sum float64
		for _, e := range l.absErr[max(to-window, 0):to] {
			sum += e * e
		}
		return math.Sqrt(sum / window)
	}
	worst := 0
	for _, d := range drifts {
		before, n := rmse(d), window
		for d+n < len(l.absErr) && rmse(d+n) > within*before {
			n++
		}
		worst = max(worst, n)
	}
	return worst
}

// delays gives each label's time on its way, in rows: its own value, scaled so that on average so many are outstanding.
func delays(s *stream, outstanding float64) func(i int) float64 {
	low := 0.
	value := func(i int) float64 { return math.Exp(s.y[i]) }
	if !s.lnMs() {
		low = math.Inf(1)
		for _, y := range s.y {
			low = min(low, y)
		}
		value = func(i int) float64 { return s.y[i] - low }
	}
	sum := 0.
	for i := range s.y {
		sum += value(i)
	}
	scale := outstanding * float64(s.rows()) / max(sum, 1e-300)
	return func(i int) float64 { return scale * value(i) }
}

// label is one that is on its way.
type label struct {
	at  float64
	row int
}

type labels []label

func (h labels) Len() int { return len(h) }
func (h labels) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].row < h[j].row
}
func (h labels) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *labels) Push(x any) { *h = append(*h, x.(label)) }

// Pop implements heap.Interface.
func (h *labels) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

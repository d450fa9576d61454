package lab

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// WriteMarkdown writes an experiment's page: question, setup, seeds, tables, figures, conclusion.
func WriteMarkdown(w io.Writer, e *Experiment, s *Scenario, p *Plan, cells []*Cell, figures []string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s\n\n## Setup\n%s: %s. %v, %v of them not counted; each policy sees the same arrivals and each call has the same luck. %s\n",
		e.Name, e.Question, s.Name, s.About, time.Duration(s.Duration), time.Duration(s.Warmup), p.seedsFor(e))
	if e.Note != "" {
		fmt.Fprintf(&b, "%s\n", e.Note)
	}
	if late := or(e.Late, s.Network.Late); late > 0 {
		fmt.Fprintf(&b, "All that nodes tell their zone is %v late. Times leave out that the answer itself is, and so do ratios: that is part of every call\nunder every policy, and hides all else. What else comes of the lateness is in them.\n", time.Duration(late))
	}
	fmt.Fprintf(&b, `Load is the work of warm calls with cached inputs over slots: cold starts and fetches come on top. Times are in ms, from arrival to
answer, means over seeds of each seed's figure, with 95 %% confidence intervals; counts are sums over seeds. Misses are calls with a
deadline that got no result before it, and all refused calls, with a deadline or without; they are counted of all calls with a
deadline and of the refused ones without. %s: parts of the same rule, or what it could do, not baselines (docs/baselines.md).

## Figures
`, "`"+strings.Join(p.Aside, "`, `")+"`")
	for _, c := range cells {
		fmt.Fprintf(&b, "\n### Load %g\n| policy | mean | p50 | p99 | execution | held back | misses | refused, failed | cold starts | GB fetched |\n|---|---|---|---|---|---|---|---|---|---|\n", c.Load)
		for _, x := range c.Result.Rows {
			if x.Function != "all" {
				continue
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %d of %d | %d, %d | %d | %.1f |\n", x.Policy, with(x.MeanMs, x.MeanCI), with(x.P50Ms, x.P50CI), with(x.P99Ms, x.P99CI),
				with(x.ExecMeanMs, x.ExecMeanCI), with(x.DelayMeanMs, x.DelayMeanCI), x.Misses, x.Deadlines, x.Refused, x.Failed, x.ColdStarts, float64(x.FetchedBytes)/1e9)
		}
	}
	if e.noGain() {
		writeGuard(&b, cells)
	}
	for _, f := range figures {
		fmt.Fprintf(&b, "\n![%s](%s)\n", f, f)
	}
	fmt.Fprintf(&b, "\n## Conclusion\n%s\n%s over the best baseline of each load, chosen afterwards among those that leave hardly more calls without an answer (ratios paired by seed; below 1 is better):\n\n", p.said(e, cells), p.Policies[0])
	fmt.Fprintf(&b, "| load | best by mean | mean | median | worst seed | best by p99 | p99 | execution, over the best blind rule | over the oracle: mean | p99 |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range cells {
		m, _ := c.best(meanMs, p.rival(c))
		t, _ := c.best(p99Ms, p.rival(c))
		x, blind := c.best(execMs, isBlind)
		om, oracle := c.find("oracle", meanMs)
		ot, _ := c.find("oracle", p99Ms)
		fmt.Fprintf(&b, "| %g | %s | %.3f±%.3f | %.3f | %.3f | %s | %.3f±%.3f | %s | %s | %s |\n", c.Load, m.Policy, m.Mean, m.CI, m.Median, m.Worst, t.Policy, t.Mean, t.CI,
			orNone(x.Mean, blind), orNone(om.Mean, oracle), orNone(ot.Mean, oracle))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// said puts a conclusion in words.
func (p *Plan) said(e *Experiment, cells []*Cell) string {
	var b strings.Builder
	of := func(what string, figure func(*Figure) float64) {
		best := func(c *Cell) (Ratio, bool) { return c.best(figure, p.rival(c)) }
		m, worst, n := average(cells, best)
		if n == 0 {
			return
		}
		if n == 1 {
			fmt.Fprintf(&b, "Under %s %s %s (the best baseline).\n", p.Policies[0], what, compared(m.Mean, worst.Policy))
		} else {
			load := 0.
			for _, c := range cells {
				if r, ok := best(c); ok && r.Mean == worst.Mean {
					load = c.Load
				}
			}
			fmt.Fprintf(&b, "Under %s %s %s, in the mean over %d loads; at the worst, %g, %s.\n", p.Policies[0], what, compared(m.Mean, "the best baseline of each load"), n, load, compared(worst.Mean, worst.Policy))
		}
	}
	of("calls take", meanMs)
	of("the slowest hundredth takes", p99Ms)
	if m, worst, n := average(cells, func(c *Cell) (Ratio, bool) { return c.find(never(p), meanMs) }); n > 0 && e.noGain() {
		fmt.Fprintf(&b, "Calls take %s (it never waits)", compared(m.Mean, never(p)))
		if n > 1 {
			fmt.Fprintf(&b, ", in the mean over %d loads, and at the worst %s", n, compared(worst.Mean, "it"))
		}
		b.WriteString(".\n")
	}
	return b.String()
}

// compared says how far a ratio of times is from one.
func compared(ratio float64, to string) string {
	switch x := 100 * (ratio - 1); {
	case x >= .05:
		return fmt.Sprintf("%.1f %% longer than under %s", x, to)
	case x <= -.05:
		return fmt.Sprintf("%.1f %% less time than under %s", -x, to)
	}
	return "to within .05 % as long as under " + to
}

// noGain: nothing can be won by waiting, so that what the rule does about it is the question.
func (e *Experiment) noGain() bool { return e.Family == "no-gain" || e.Family == "light" }

// writeGuard writes what the guard of each policy that has one did about waiting.
func writeGuard(w io.Writer, cells []*Cell) {
	fmt.Fprintf(w, `
### The guard
It stops waiting in a zone while it loses beyond doubt, but for one call in 16 that goes on trying, and lets it return when it wins beyond
doubt (zonesched/guard.go); only the product's rule has one. It says nothing before it has judged 50 calls that were held back.
"Judged" is how many it had at the end since it last changed anything, the mean over runs (a run is a seed); stops and returns are
sums, from a run's beginning on; calls are those after the warm-up.

| load | policy | calls held back | judged | waiting stopped | returned | runs in which it was stopped | stopped at the end |
|---|---|---|---|---|---|---|---|
`)
	for _, c := range cells {
		rows, names := overall(c.Result)
		for i, name := range names {
			if p, err := ParsePolicy(name); err != nil || p.Rule != "rubato" {
				continue
			}
			var judged, stopped, returned, runs, at, all uint64
			for k := range c.Result.Runs {
				r := &c.Result.Runs[k]
				if r.Policy != name {
					continue
				}
				all++
				judged, stopped, returned = judged+r.WaitsJudged, stopped+r.WaitingStopped, returned+r.WaitingResumed
				if r.WaitingStopped > 0 {
					runs++
				}
				if r.WaitingStopped > r.WaitingResumed {
					at++
				}
			}
			fmt.Fprintf(w, "| %g | %s | %d of %d | %.0f | %d | %d | %d of %d | %d |\n", c.Load, name, rows[i].Delayed, rows[i].Calls, float64(judged)/float64(max(all, 1)), stopped, returned, runs, all, at)
		}
	}
}

func orNone(x float64, there bool) string {
	if !there || math.IsNaN(x) || math.IsInf(x, 0) {
		return ""
	}
	return fmt.Sprintf("%.3f", x)
}

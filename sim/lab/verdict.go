package lab

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Ran is an experiment with its cells.
type Ran struct {
	*Experiment
	Cells []*Cell
}

// span is the part of a family's loads that a target speaks of.
type span struct {
	family   string
	from, to float64
	must     float64
}

// cells are those of a family within loads.
func cells(all []Ran, family string, from, to float64) []*Cell {
	var out []*Cell
	for _, e := range all {
		for _, c := range e.Cells {
			if e.Family == family && c.Load >= from-1e-9 && c.Load <= to+1e-9 {
				out = append(out, c)
			}
		}
	}
	return out
}

// average is a mean over cells of a ratio, with the worst cell.
func average(of []*Cell, ratio func(*Cell) (Ratio, bool)) (mean Ratio, worst Ratio, n int) {
	worst.Mean = math.Inf(-1)
	for _, c := range of {
		r, ok := ratio(c)
		if !ok {
			continue
		}
		n++
		mean.Mean += r.Mean
		mean.Median += r.Median
		mean.Worst = math.Max(mean.Worst, r.Worst)
		if r.Mean > worst.Mean {
			worst = r
		}
	}
	mean.Mean /= float64(max(n, 1))
	mean.Median /= float64(max(n, 1))
	return mean, worst, n
}

// WriteSummary writes the page of all experiments: what the rule is held to, what came out, and whether that was reached.
func WriteSummary(w io.Writer, p *Plan, all []Ran) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# Experiments

Made by `+"`make experiments`"+` (rubato sim experiments experiments/plan.yaml) with the production cores and the online forest, in the
simulator (docs/simulator.md). Seeds %d-%d, %d for each figure; smaller ones were looked at while the rule was made. Ratios are paired
by seed and below 1 where %s is better; "best baseline" is chosen per load, afterwards, by the figure in question.

| page | question |
|---|---|
`, p.FirstSeed, p.FirstSeed+uint64(p.Seeds)-1, p.Seeds, p.Policies[0])
	for _, e := range all {
		fmt.Fprintf(&b, "| [%s](%s.md) | %s |\n", e.Name, e.Name, e.Question)
	}
	b.WriteString("\n## What it is held to\n| | target | where | reached | worst | |\n|---|---|---|---|---|---|\n")
	row := func(name, what, where, got, worst string, ok bool) {
		mark := "**missed**"
		if ok {
			mark = "held"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", name, what, where, got, worst, mark)
	}
	where := func(s span) string { return fmt.Sprintf("%s, load %g-%g", s.family, s.from, s.to) }
	ratios := func(name, what string, spans []span, ratio func(*Cell) (Ratio, bool)) {
		for _, s := range spans {
			if m, worst, n := average(cells(all, s.family, s.from, s.to), ratio); n > 0 {
				row(name, fmt.Sprintf("%s at most %g", what, s.must), where(s), fmt.Sprintf("%.3f (median %.3f)", m.Mean, m.Median),
					fmt.Sprintf("%.3f against %s; one seed %.3f", worst.Mean, worst.Policy, m.Worst), m.Mean <= s.must)
			}
		}
	}
	ratios("D1", "execution over the best blind rule,", []span{{"data", .3, .8, .3}, {"init", .3, .95, .1}},
		func(c *Cell) (Ratio, bool) { return c.best(execMs, isBlind) })
	ratios("D2", "mean over the best baseline's,", []span{{"data", .3, .8, .94}, {"init", .3, .9, .95}, {"mixed", .3, .9, .95}, {"light", 0, 1, 1}},
		func(c *Cell) (Ratio, bool) { return c.best(meanMs, p.baseline) })
	ratios("D3", "p99 over the best baseline's,", []span{{"data", .3, .9, 1}, {"init", .3, .9, 1}, {"mixed", .3, .9, .9}, {"light", 0, .9, 1},
		{"data", 1, 1.1, 1}, {"init", 1, 1.1, 1}, {"mixed", 1, 1.1, 1}}, // overload: what the age bound is for
		func(c *Cell) (Ratio, bool) { return c.best(p99Ms, p.baseline) })
	to := []string{"data", "init", "mixed"}
	for _, f := range to {
		ratios("D4", "mean over the oracle's,", []span{{f, 0, .9, 1.1}}, func(c *Cell) (Ratio, bool) { return c.find("oracle", meanMs) })
		ratios("D4", "p99 over the oracle's,", []span{{f, 0, .9, 1.3}}, func(c *Cell) (Ratio, bool) { return c.find("oracle", p99Ms) })
	}
	p.deadlines(all, row)
	p.throughput(all, row)
	for _, f := range append(to, "drift") {
		ratios("D8", "mean over averages',", []span{{f, 0, 1, .97}}, func(c *Cell) (Ratio, bool) { return c.find("averages", meanMs) })
	}
	for _, e := range all {
		if e.Family != "no-gain" && e.Family != "light" {
			continue
		}
		if m, worst, n := average(e.Cells, func(c *Cell) (Ratio, bool) { return c.find(never(p), meanMs) }); n > 0 {
			row("D9", "mean over never waiting at most 1.02", e.Name, fmt.Sprintf("%.3f", m.Mean), fmt.Sprintf("%.3f; one seed %.3f", worst.Mean, m.Worst), m.Mean <= 1.02)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// never is the policy that never waits, otherwise the same.
func never(p *Plan) string { return p.Policies[0] + "=0s" }

// deadlines are D5, D6 and the scenario with slack.
func (p *Plan) deadlines(all []Ran, row func(name, what, where, got, worst string, ok bool)) {
	worst, at := 0., "nowhere"
	over, overAt, n := math.Inf(-1), "", 0
	for _, e := range all {
		for _, c := range e.Cells {
			mine, others := c.Series[0].Figures, math.Inf(1)
			mean := func(s *Series) float64 {
				sum := 0.
				for i := range s.Figures {
					sum += s.Figures[i].Misses / float64(len(s.Figures))
				}
				return sum
			}
			for i := range mine {
				if mine[i].SafeMisses > worst {
					worst, at = mine[i].SafeMisses, fmt.Sprintf("%s at load %g", e.Name, c.Load)
				}
			}
			for k := 1; k < len(c.Series); k++ {
				if p.baseline(c.Series[k].Policy) {
					others = math.Min(others, mean(&c.Series[k]))
				}
			}
			if d := mean(&c.Series[0]) - others; e.Family != "slack" && d > over {
				over, overAt = d, fmt.Sprintf("%s at load %g", e.Name, c.Load)
			}
			n++
		}
		if e.Family == "slack" {
			late := uint64(0)
			for _, c := range e.Cells {
				for i := range c.Series[0].Figures {
					late += c.Series[0].Figures[i].Late
				}
			}
			row("D6", "no miss where the slack covers the longest time", e.Name, fmt.Sprintf("%d", late), "", late == 0)
		}
	}
	if n == 0 {
		return
	}
	row("D5", "misses of calls held back within their bound, every seed, at most .05", "everywhere", fmt.Sprintf("%.3f", worst), at, worst <= .05)
	row("D6", "share of misses above the best baseline's by at most .001", "everywhere", fmt.Sprintf("%+.4f", over), overAt, over <= .001)
}

// throughput is D7: how much load is held with a p99 of at most 1.1 times the best baseline's at load .3.
func (p *Plan) throughput(all []Ran, row func(name, what, where, got, worst string, ok bool)) {
	for _, s := range []span{{"data", 0, 9, 1.25}, {"init", 0, 9, 1.25}, {"mixed", 0, 9, 1.10}} {
		of := cells(all, s.family, s.from, s.to)
		slices.SortFunc(of, func(a, b *Cell) int { return int(math.Copysign(1, a.Load-b.Load)) })
		if len(of) < 2 {
			continue
		}
		low := of[0]
		for _, c := range of {
			if math.Abs(c.Load-.3) < math.Abs(low.Load-.3) {
				low = c
			}
		}
		limit := math.Inf(1)
		for k := 1; k < len(low.Series); k++ {
			if p.baseline(low.Series[k].Policy) {
				limit = math.Min(limit, 1.1*tail(low, k))
			}
		}
		mine, best, whose := held(of, 0, limit), 0., ""
		for k := range low.Series {
			if strings.HasPrefix(low.Series[k].Policy, "fixed-delay") {
				if h := held(of, k, limit); h >= best {
					best, whose = h, low.Series[k].Policy
				}
			}
		}
		if whose == "" {
			continue
		}
		got := fmt.Sprintf("%.2f against none of those that were run", mine)
		if best > 0 {
			got = fmt.Sprintf("%.2f (%.2f against %.2f)", mine/best, mine, best)
		}
		row("D7", fmt.Sprintf("load held at a p99 of %.0f ms, over the best fixed delay's, at least %g", limit, s.must), s.family, got, "against "+whose, mine > 0 && mine >= s.must*best)
	}
}

// tail is the mean over seeds of the k-th policy's p99.
func tail(c *Cell, k int) float64 {
	sum := 0.
	for i := range c.Series[k].Figures {
		sum += c.Series[k].Figures[i].P99Ms / float64(len(c.Series[k].Figures))
	}
	return sum
}

// held is the load up to which the k-th policy's p99 stays within the limit, linear between the loads that were run.
func held(of []*Cell, k int, limit float64) float64 {
	at, last := 0., 0.
	for i, c := range of {
		t := tail(c, k)
		if t > limit {
			if i == 0 {
				return 0
			}
			return at + (c.Load-at)*(limit-last)/(t-last)
		}
		at, last = c.Load, t
	}
	return at
}

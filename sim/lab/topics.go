package lab

import (
	"fmt"
	"io"
	"strings"
)

// The questions of pages that look at the cells of several experiments.
const (
	throughputQuestion = "How much load does each rule hold before its slowest calls are too slow?"
	forestQuestion     = "Does the forest matter, beside plain averages, and how far is it from the true times?"
	disastersQuestion  = "Where delay scheduling is known to fail, does the rule hold?"
)

// forestFamilies are those in which the forest is compared with averages, at loads up to forestLoad; the mean over the averages' must
// nowhere be more than forestLoss.
var forestFamilies = []string{"data", "init", "mixed", "crowd", "traces", "deadlines", "slack", "drift"}

const forestLoad, forestLoss = 1, 1.02

// forestGains are D8: where there is something to tell apart, and what the mean over the averages' must be at most, on average.
// Nodes of init workloads are all alike, and their calls have no inputs; nothing tells light calls apart.
var forestGains = []forestGain{{"unlike nodes and inputs (data, mixed, crowd, traces, deadlines, slack)", []string{"data", "mixed", "crowd", "traces", "deadlines", "slack"}, .97}, {"drift", []string{"drift"}, .97}}

func mark(ok bool) string {
	if ok {
		return "held"
	}
	return "**missed**"
}

type forestGain struct {
	where    string
	families []string
	must     float64
}

// overAverages is D8's ratio.
func overAverages(c *Cell) (Ratio, bool) { return c.find("averages", meanMs) }

func (g *forestGain) cells(all []Ran) (out []*Cell) {
	for _, family := range g.families {
		out = append(out, cells(all, family, 0, forestLoad)...)
	}
	return out
}

// WriteThroughput writes the page of the loads that policies hold, from the cells of the experiments about it.
func WriteThroughput(w io.Writer, p *Plan, all []Ran) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# %s

%s

## Setup
The cells are those of the pages about each workload: nothing is run for this one. A policy holds a load if the p99 of its answered
calls, the mean over seeds, is at most %g times that which the best baseline has at load %g, and at most one call of a hundred has no answer. Figures are the
highest load held: at low ones a tail can be longer, since more of the calls start cold. Between two loads that were run it is taken to grow
linearly. "< x": none is held, x being the lowest that was run; "≥ x": the highest, x, is. p99s in brackets are those of loads at which more calls than that have no answer. %s

## Figures
`, throughputPage, throughputQuestion, limitFactor, limitLoad, p.seeds())
	capacities := p.capacities(all)
	if len(capacities) == 0 {
		b.WriteString("\nNo workload was run at two loads or more.\n")
	}
	for i := range capacities {
		c := &capacities[i]
		fmt.Fprintf(&b, "\n### %s: a p99 of at most %.0f ms\n| policy | load held |", c.family, c.limit)
		for _, x := range c.cells {
			fmt.Fprintf(&b, " p99 at %g |", x.Load)
		}
		b.WriteString("\n|---|---|" + strings.Repeat("---|", len(c.cells)) + "\n")
		for k, r := range c.reaches {
			fmt.Fprintf(&b, "| %s | %v |", r.policy, r)
			for _, x := range c.cells {
				format := " %.0f |"
				if x.mean(k, lost) > maxLost {
					format = " (%.0f) |"
				}
				fmt.Fprintf(&b, format, x.mean(k, p99Ms))
			}
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "\n![%s: p99 by load](%s.%s)\n", c.family, throughputFigure(c.family), PlotFormats[0])
	}
	fmt.Fprintf(&b, "\n## Conclusion\n%s over the best fixed delay, chosen afterwards:\n\n| workload | load held, over it | best fixed delay | at least | |\n|---|---|---|---|---|\n", p.Policies[0])
	for i := range capacities {
		c := &capacities[i]
		fmt.Fprintf(&b, "| %s | %s | %s | %g | %s |\n", c.family, c.over(), c.fixed.policy, c.must, c.verdict(c.must))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteForest writes the page about what predictions are worth, from the cells of the experiments about it.
func WriteForest(w io.Writer, p *Plan, all []Ran) error {
	const averages, laws, oracle = "averages", "laws", "oracle"
	var b strings.Builder
	fmt.Fprintf(&b, `# %s

%s

## Setup
The cells are those of the pages about each workload: nothing is run for this one. All four policies are the same rule: %s with the
forest, averages with each function's averages in its place, laws with the true laws from the first call on, oracle with the true times of
each call, what chance has drawn for it too: nobody can learn that. Averages tell no node from another, so under them functions are not
brought up on hardware that is new to them. Times are in ms, means over seeds of each seed's figure; ratios are paired by seed, and below 1 the first is better. %s

## Figures
| workload | load | %[3]s | averages | laws | oracle | %[3]s over averages: mean | worst seed | p99 | %[3]s over laws: mean | p99 | %[3]s over oracle: mean | p99 | averages over oracle: mean |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
`, forestPage, forestQuestion, p.Policies[0], p.seeds())
	var said strings.Builder
	for _, family := range forestFamilies {
		for _, c := range cells(all, family, 0, maxLoad) {
			a, l, o := c.at(averages), c.at(laws), c.at(oracle)
			if a < 0 {
				continue
			}
			ms := func(k int) string {
				if k < 0 {
					return ""
				}
				return fmt.Sprintf("%.1f", c.mean(k, meanMs))
			}
			over := func(j, k int, of func(*Figure) float64) string {
				if k < 0 {
					return ""
				}
				r := c.ratio(j, k, of)
				return fmt.Sprintf("%.3f±%.3f", r.Mean, r.CI)
			}
			fmt.Fprintf(&b, "| %s | %g | %s | %s | %s | %s | %s | %.3f | %s | %s | %s | %s | %s | %s |\n", family, c.Load, ms(0), ms(a), ms(l), ms(o),
				over(0, a, meanMs), c.over(a, meanMs).Worst, over(0, a, p99Ms), over(0, l, meanMs), over(0, l, p99Ms), over(0, o, meanMs), over(0, o, p99Ms), over(a, o, meanMs))
		}
		within := cells(all, family, 0, forestLoad)
		if m, worst, n := average(within, overAverages); n > 0 {
			got := ""
			if o, _, n := average(within, func(c *Cell) (Ratio, bool) { return c.find(oracle, meanMs) }); n > 0 {
				got = fmt.Sprintf("%.3f", o.Mean)
			}
			fmt.Fprintf(&said, "| %s, to load %d | %.3f | %.3f | %g | %s | %s |\n", family, forestLoad, m.Mean, worst.Mean, forestLoss, mark(worst.Mean <= forestLoss), got)
		}
	}
	fmt.Fprintf(&b, "\n![ratios by load](%s.%s)\n", forestFigure, PlotFormats[0])
	fmt.Fprintf(&b, "\n## Conclusion\n| workload | mean over averages' | at its worst load | at most | | mean over the oracle's |\n|---|---|---|---|---|---|\n%s", said.String())
	b.WriteString("\n| on average | mean over averages' | at most | |\n|---|---|---|---|\n")
	for _, g := range forestGains {
		if m, _, n := average(g.cells(all), overAverages); n > 0 {
			fmt.Fprintf(&b, "| %s | %.3f | %g | %s |\n", g.where, m.Mean, g.must, mark(m.Mean <= g.must))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

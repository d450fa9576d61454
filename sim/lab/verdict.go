package lab

import (
	"cmp"
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

// span is the part of a family's loads that a target speaks of: what it must come to, and what is wished for, 0 for nothing.
type span struct {
	family   string
	from, to float64
	must     float64
	wish     float64
}

// meanSpans are what D2 asks of means.
var meanSpans = []span{{"data", .3, .8, .94, .85}, {"init", .3, .9, .95, .85}, {"mixed", .3, .9, .95, .85}, {"traces", .3, .9, .95, .85}, {"light", 0, .9, 1, 0}, {"crowd", 0, .9, 1, 0}}

// where names the family and the loads of those that there is a ratio of.
func (s *span) where(all []Ran, ratio func(*Cell) (Ratio, bool)) string {
	var loads []string
	for _, c := range cells(all, s.family, s.from, s.to) {
		if load := fmt.Sprintf("%g", c.Load); !slices.Contains(loads, load) {
			if _, ok := ratio(c); ok {
				loads = append(loads, load)
			}
		}
	}
	return fmt.Sprintf("%s, load %s (of %g-%g)", s.family, strings.Join(loads, ", "), s.from, s.to)
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
simulator (docs/simulator.md). %s Each figure is over all published seeds of its experiment. Ratios are paired
by seed and below 1 where %s is better; "best baseline" is chosen per load, afterwards, by the figure in question. Misses are calls
with a deadline that got no result before it, and all refused calls; shares of them are of calls with a deadline and of refused ones, or of all calls where nothing has a deadline.

| page | question |
|---|---|
`, p.seeds(), p.Policies[0])
	link := func(name, question string) { fmt.Fprintf(&b, "| [%s](%s.md) | %s |\n", name, name, question) }
	for _, e := range all {
		link(e.Name, e.Question)
	}
	link(throughputPage, throughputQuestion)
	link(forestPage, forestQuestion)
	if p.Disasters != "" {
		link(disastersPage, disastersQuestion)
	}
	b.WriteString(`
## What it is held to
Of ratios, reached is the mean over loads, each load against its own best (of D2 and D3, among those that leave hardly more calls without an answer than the rule in question or than the one that answers most: one of a hundred. D6 counts such calls); worst is the worst load's mean over seeds, and the worst of all seeds. "At the worst load" says that it
is held in the mean over loads and not at each. Wished for is where this is to end, the mean over loads again.
D1 is what is saved of the execution, D2 and D3 means and tails from arrival to answer, D4 the distance from knowing all times, D5 calls that were held back and then missed their deadline,
D6 all misses, D7 throughput, D8 what the forest is worth, D9 the loss where waiting cannot pay. data, init and traces are the pages data-heavy, init-heavy and azure-like.

| | target | where | reached | worst | | wished for | |
|---|---|---|---|---|---|---|---|
`)
	row := func(name, what, where, got, worst, verdict, wish, verdictOfWish string) {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", name, what, where, got, worst, verdict, wish, verdictOfWish)
	}
	ratios := func(name, what string, spans []span, ratio func(*Cell) (Ratio, bool)) {
		for _, s := range spans {
			if m, worst, n := average(cells(all, s.family, s.from, s.to), ratio); n > 0 {
				wish, ok := wished(s.wish, m.Mean <= s.wish)
				row(name, fmt.Sprintf("%s at most %g", what, s.must), s.where(all, ratio), fmt.Sprintf("%.3f (median %.3f)", m.Mean, m.Median),
					fmt.Sprintf("%.3f against %s; one seed %.3f", worst.Mean, worst.Policy, m.Worst), verdict(m.Mean <= s.must, worst.Mean <= s.must), wish, ok)
			}
		}
	}
	ratios("D1", "execution over the best blind rule,", []span{{"data", .3, .8, .3, .25}, {"init", .3, .95, .1, .06}},
		func(c *Cell) (Ratio, bool) { return c.best(execMs, isBlind) })
	ratios("D2", "mean over the best baseline's,", meanSpans,
		func(c *Cell) (Ratio, bool) { return c.best(meanMs, p.rival(c)) })
	median := func(c *Cell) (Ratio, bool) {
		r, ok := c.best(meanMs, p.rival(c))
		r.Mean = r.Median
		return r, ok
	}
	mixed := meanSpans[slices.IndexFunc(meanSpans, func(s span) bool { return s.family == "mixed" })]
	if m, worst, n := average(cells(all, mixed.family, mixed.from, mixed.to), median); n > 0 {
		row("D2", "the median seed's mean over the best baseline's, at most 1", mixed.where(all, median), fmt.Sprintf("%.3f", m.Median), fmt.Sprintf("%.3f against %s", worst.Median, worst.Policy), verdict(m.Median <= 1, worst.Median <= 1), "", "")
	}
	everySeed(p, all, row)
	ratios("D3", "p99 over the best baseline's,", []span{{"data", .3, .9, 1, .85}, {"init", .3, .9, 1, .85}, {"mixed", .3, .9, .9, .85}, {"traces", .3, .9, .9, .85}, {"light", 0, .9, 1, .85}, {"crowd", 0, .9, 1, .85}},
		func(c *Cell) (Ratio, bool) { return c.best(p99Ms, p.rival(c)) })
	ratios("D3, wished for in overload", "p99 over the best baseline's,", []span{{"data", 1, 1.1, 1, 0}, {"init", 1, 1.1, 1, 0}, {"mixed", 1, 1.1, 1, 0}, {"light", 1, 1.1, 1, 0}}, // what the age bound is for
		func(c *Cell) (Ratio, bool) { return c.best(p99Ms, p.rival(c)) })
	for _, f := range []string{"data", "init", "mixed", "light", "crowd", "traces"} {
		ratios("D4", "mean over the oracle's,", []span{{f, 0, .9, 1.1, 1.05}}, func(c *Cell) (Ratio, bool) { return c.find("oracle", meanMs) })
		ratios("D4", "p99 over the oracle's,", []span{{f, 0, .9, 1.3, 1.15}}, func(c *Cell) (Ratio, bool) { return c.find("oracle", p99Ms) })
		ratios("D4, but for luck", "mean over the true laws',", []span{{f, 0, .9, 1.1, 1.05}}, func(c *Cell) (Ratio, bool) { return c.find("laws", meanMs) })
	}
	p.deadlines(all, row)
	for _, c := range p.capacities(all) {
		row("D7", fmt.Sprintf("load held at a p99 of %.0f ms, over the best fixed delay's, at least %g", c.limit, c.must), c.family, c.over(), "against "+c.fixed.policy, c.verdict(c.must), "1.4", c.verdict(1.4))
	}
	for i := range forestGains {
		g := &forestGains[i]
		if m, worst, n := average(g.cells(all), overAverages); n > 0 {
			row("D8", fmt.Sprintf("mean over averages', on average, at most %g", g.must), g.where, fmt.Sprintf("%.3f (median %.3f)", m.Mean, m.Median),
				fmt.Sprintf("%.3f; one seed %.3f", worst.Mean, m.Worst), mark(m.Mean <= g.must), "0.9", mark(m.Mean <= .9))
		}
	}
	for _, f := range forestFamilies {
		if _, worst, n := average(cells(all, f, 0, forestLoad), overAverages); n > 0 {
			row("D8", fmt.Sprintf("mean over averages', at the worst load, at most %g", forestLoss), f, fmt.Sprintf("%.3f (median %.3f)", worst.Mean, worst.Median), fmt.Sprintf("one seed %.3f", worst.Worst), mark(worst.Mean <= forestLoss), "", "")
		}
	}
	for _, e := range all {
		if !e.noGain() {
			continue
		}
		if m, worst, n := average(e.Cells, func(c *Cell) (Ratio, bool) { return c.find(never(p), meanMs) }); n > 0 {
			row("D9", "mean over never waiting at most 1.02", e.Name, fmt.Sprintf("%.4f", m.Mean), fmt.Sprintf("%.4f; one seed %.3f", worst.Mean, m.Worst), verdict(m.Mean <= 1.02, worst.Mean <= 1.02), "1", mark(m.Mean <= 1))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// rower writes a row of the summary's table.
type rower func(name, what, where, got, worst, verdict, wish, verdictOfWish string)

// verdict of a target that is asked of the mean over loads, and was or was not reached at each of them.
func verdict(mean, each bool) string {
	if mean && !each {
		return "held, **missed** at the worst load"
	}
	return mark(mean)
}

// wished is what is wished for and whether it came; nothing for 0.
func wished(limit float64, ok bool) (what, verdict string) {
	if limit == 0 {
		return "", ""
	}
	return fmt.Sprintf("%g", limit), mark(ok)
}

// everySeed is what is wished of the worst seed's mean over the best baseline's.
func everySeed(p *Plan, all []Ran, row rower) {
	const limit = 1.02
	for _, s := range meanSpans {
		over, n, worst := 0, 0, 0.
		for _, c := range cells(all, s.family, s.from, s.to) {
			r, ok := c.best(meanMs, p.rival(c))
			if !ok {
				continue
			}
			worst = math.Max(worst, r.Worst)
			for _, x := range r.Seeds {
				if n++; x > limit {
					over++
				}
			}
		}
		if n > 0 {
			row("D2", "each seed's mean over the best baseline's", s.where(all, func(c *Cell) (Ratio, bool) { return c.best(meanMs, p.rival(c)) }), fmt.Sprintf("%d of %d above %g", over, n, limit), fmt.Sprintf("%.3f", worst), "", fmt.Sprint(limit), mark(over == 0))
		}
	}
}

// never is the policy that never waits, otherwise the same.
func never(p *Plan) string { return p.Policies[0] + "=0s" }

// deadlines are D5, D6 and the scenario with slack.
func (p *Plan) deadlines(all []Ran, row rower) {
	worst, at, waits, missed := 0., "nowhere", uint64(0), 0.
	over, overAt, n := math.Inf(-1), "", 0
	for _, e := range all {
		for _, c := range e.Cells {
			mine, others := c.Series[0].Figures, math.Inf(1)
			share := func(f *Figure) float64 { return f.Misses }
			for i := range mine {
				waits, missed = waits+mine[i].SafeWaits, missed+mine[i].SafeMisses*float64(mine[i].SafeWaits)
				if mine[i].SafeMisses > worst {
					worst, at = mine[i].SafeMisses, fmt.Sprintf("%s at load %g, of %d calls", e.Name, c.Load, mine[i].SafeWaits)
				}
			}
			for k := 1; k < len(c.Series); k++ {
				if p.baseline(c.Series[k].Policy) {
					others = math.Min(others, c.mean(k, share))
				}
			}
			if d := c.mean(0, share) - others; e.Family != "slack" && d > over {
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
			row("D6", "no miss where the slack covers the longest time", e.Name, fmt.Sprintf("%d", late), "", mark(late == 0), "", "")
		}
	}
	if n == 0 {
		return
	}
	row("D5", "misses of calls held back within their bound, every seed, at most .05", fmt.Sprintf("everywhere, %d calls", waits), fmt.Sprintf("%.3f (of all calls %.4f)", worst, missed/math.Max(float64(waits), 1)), at, mark(worst <= .05), "0.025", mark(worst <= .025))
	row("D6", "share of misses above the best baseline's by at most .001", "everywhere", fmt.Sprintf("%+.4f", over), overAt, mark(over <= .001), "below it", mark(over < 0))
}

// capacity is how much load each policy holds in one family's experiment (D7).
type capacity struct {
	family string
	// must is the factor over the best fixed delay that is asked for.
	must float64
	// limit is what the p99 may be at most, in ms: limitFactor times the best baseline's at the load nearest to limitLoad.
	limit   float64
	cells   []*Cell // by load
	reaches []reach // by policy, in the plan's order; the first is the rule in question
	fixed   reach   // the best fixed delay's
}

const (
	limitFactor = 1.1
	limitLoad   = .3
)

// reach is the load that a policy holds: at least that much if it holds the highest that was run, less if it holds none.
type reach struct {
	policy      string
	load        float64
	least, less bool
}

func (r reach) String() string {
	switch {
	case r.less:
		return fmt.Sprintf("< %g", r.load)
	case r.least:
		return fmt.Sprintf("≥ %g", r.load)
	}
	return fmt.Sprintf("%.2f", r.load)
}

// before: r holds less than o does.
func (r reach) before(o reach) bool { return r.load < o.load || r.load == o.load && r.less && !o.less }

// holds: the rule in question holds so many times the load of the best fixed delay. Of one that holds none of the loads that
// were run, nobody knows how much it holds: it is given the lowest.
func (c *capacity) holds(factor float64) bool {
	return !c.reaches[0].less && c.reaches[0].load >= factor*c.fixed.load
}

// verdict of a factor that is asked of the load held; who holds the highest load that was run may hold more than that.
func (c *capacity) verdict(factor float64) string {
	if !c.holds(factor) && c.reaches[0].least {
		return "not known"
	}
	return mark(c.holds(factor))
}

// over says how much more the rule in question holds than the best fixed delay.
func (c *capacity) over() string {
	mine := c.reaches[0]
	if mine.less {
		return fmt.Sprintf("%v against %v", mine, c.fixed)
	}
	more := ""
	switch {
	case c.fixed.less || mine.least && !c.fixed.least:
		more = "more than "
	case c.fixed.least && !mine.least:
		more = "less than "
	}
	return fmt.Sprintf("%s%.2f (%v against %v)", more, mine.load/c.fixed.load, mine, c.fixed)
}

// capacities are those of all families that are run at two loads or more, with a baseline and a fixed delay.
func (p *Plan) capacities(all []Ran) []capacity {
	var out []capacity
	for _, s := range []span{{"data", 0, maxLoad, 1.25, 0}, {"init", 0, maxLoad, 1.25, 0}, {"mixed", 0, maxLoad, 1.10, 0}} {
		c := capacity{family: s.family, must: s.must, limit: math.Inf(1)}
		// A family's first experiment: others may have other policies, and the same loads.
		for i := range all {
			if all[i].Family == s.family {
				c.cells = cells(all[i:i+1], s.family, s.from, s.to)
				break
			}
		}
		slices.SortFunc(c.cells, func(a, b *Cell) int { return cmp.Compare(a.Load, b.Load) })
		if len(c.cells) < 2 {
			continue
		}
		low := c.cells[0]
		for _, x := range c.cells {
			if math.Abs(x.Load-limitLoad) < math.Abs(low.Load-limitLoad) {
				low = x
			}
		}
		for k := range low.Series {
			if p.baseline(low.Series[k].Policy) && low.mean(k, lost) <= maxLost {
				c.limit = math.Min(c.limit, limitFactor*low.mean(k, p99Ms))
			}
		}
		for k := range low.Series {
			r := reach{policy: low.Series[k].Policy, load: held(c.cells, k, c.limit)}
			last := c.cells[len(c.cells)-1]
			r.less, r.least = r.load == 0, r.load == last.Load
			if r.less {
				r.load = c.cells[0].Load
			}
			c.reaches = append(c.reaches, r)
			if strings.HasPrefix(r.policy, "fixed-delay") && (c.fixed.policy == "" || c.fixed.before(r)) {
				c.fixed = r
			}
		}
		if c.fixed.policy != "" {
			out = append(out, c)
		}
	}
	return out
}

// held is the highest load at which the k-th policy's p99 is within the limit, linear between the loads that were run; 0 if it is at
// none of them. At low loads a tail can be longer than at higher ones, since more of the calls start cold. A load at which more than
// maxLost of the calls have no answer is not held.
func held(of []*Cell, k int, limit float64) float64 {
	for i := len(of) - 1; i >= 0; i-- {
		p99 := of[i].mean(k, p99Ms)
		if p99 > limit || of[i].mean(k, lost) > maxLost {
			continue
		}
		if i == len(of)-1 || of[i+1].mean(k, lost) > maxLost {
			return of[i].Load
		}
		return of[i].Load + (of[i+1].Load-of[i].Load)*(limit-p99)/(of[i+1].mean(k, p99Ms)-p99)
	}
	return 0
}

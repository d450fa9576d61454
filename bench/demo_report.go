package bench

import (
	"encoding/csv"
	"fmt"
	"io"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

func environment() map[string]any {
	return map[string]any{"cpus": runtime.NumCPU(), "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH}
}

// summarise makes the table: the best fixed wait stands for its policy.
func summarise(res *DemoResult, runs []*run, loads []*load, cal calibration) {
	f := &res.Fairness
	f.LinkMbps, f.Rate, f.HostCPU = cal.linkMbps, cal.rate, map[string]float64{}
	best := -1
	for i, r := range runs {
		name := r.name()
		if r.wait > 0 {
			m := row(r, "all", loads).MeanMs
			f.FixedWaitsMs = append(f.FixedWaitsMs, float64(r.wait)/float64(time.Millisecond))
			f.FixedMeansMs = append(f.FixedMeansMs, m)
			if best < 0 || m < row(runs[best], "all", loads).MeanMs {
				best = i
			}
		}
		f.HostCPU[name] = r.cpu
	}
	if best >= 0 {
		f.BestWaitMs = float64(runs[best].wait) / float64(time.Millisecond)
	}
	for i, r := range runs {
		if r.policy == "fixed-delay" && i != best {
			continue
		}
		res.Policies = append(res.Policies, row(r, "all", loads))
		for _, l := range loads {
			res.Policies = append(res.Policies, row(r, l.function, loads))
		}
	}
	f.RemoteRatio = remoteRatios(runs, loads)
	f.Breaches = f.breaches(loads)
	f.Notes = []string{
		"arrivals are open-loop (Poisson, ramping up over five seconds, the same for every policy) and every call is timed from its scheduled arrival",
		"every run has a cluster of its own that starts empty: no sandbox, no cached object, no compiled module, no model",
		"rubato starts untrained, and the calls it learns from count",
		"fixed-delay is the best, afterwards, of three waits, each run in full",
		"all policies see both zones, and all may forward between them",
		"half the functions have deadlines",
	}
}

// What a fair comparison keeps to: a machine with time to spare, or the baselines measure its scheduler; and locality that is worth no
// more than it was ever measured to be.
const (
	maxHostCPU     = .70
	maxRemoteRatio = 3.5
)

func (f *Fairness) breaches(loads []*load) []string {
	out := []string{}
	if c, ran := f.HostCPU["least-loaded"]; ran && c > maxHostCPU {
		out = append(out, fmt.Sprintf("host CPU in the least-loaded run is %.0f %%, limit %.0f %%: run it on a quieter machine, or with a lower --rate", 100*c, 100*maxHostCPU))
	}
	for _, l := range loads {
		r, measured := f.RemoteRatio[l.function]
		switch {
		case len(l.objects) == 0:
		case !measured:
			out = append(out, fmt.Sprintf("%s: too few calls alone on a node to measure remote over local execution: run it for longer", l.function))
		case r > maxRemoteRatio:
			out = append(out, fmt.Sprintf("%s: remote over local execution is %.1fx, limit %.1fx", l.function, r, maxRemoteRatio))
		}
	}
	return out
}

func row(r *run, function string, loads []*load) PolicyRow {
	p := PolicyRow{Policy: r.policy, Function: function}
	for _, l := range loads {
		if l.function == function {
			p.Role = string(l.role)
		}
	}
	var e2e, exec, delay, queue []float64
	for i := range r.calls {
		c := &r.calls[i]
		if c.arrival == nil || function != "all" && c.arrival.load.function != function {
			continue
		}
		p.Calls++
		if c.missed || !c.ok && c.arrival.load.deadline > 0 {
			p.Misses++
		}
		e2e = append(e2e, c.e2eMs)
		if !c.ok {
			continue
		}
		p.Answered++
		exec, delay, queue = append(exec, c.execMs()), append(delay, c.delayMs), append(queue, c.queueMs)
		p.FetchedBytes += c.fetched
		if c.start != "warm" {
			p.ColdStarts++
		}
	}
	p.MeanMs, p.P50Ms, p.P95Ms, p.P99Ms = mean(e2e), quantile(e2e, .5), quantile(e2e, .95), quantile(e2e, .99)
	p.ExecMeanMs, p.DelayMeanMs, p.QueueMeanMs = mean(exec), mean(delay), mean(queue)
	return p
}

// remoteRatios is, by function with inputs, the median of execution with an input fetched over the median with the same input at
// hand, both in warm sandboxes and alone on their node, over all runs: what locality is worth, without what contention adds.
// Objects differ in size, so that medians over all of them say nothing of a function with few calls.
func remoteRatios(runs []*run, loads []*load) map[string]float64 {
	out := map[string]float64{}
	for _, l := range loads {
		remote, local := map[string][]float64{}, map[string][]float64{}
		for _, r := range runs {
			for i := range r.calls {
				c := &r.calls[i]
				if c.arrival == nil || c.arrival.load != l || c.arrival.input == "" || !c.ok || c.start != "warm" || !r.alone(c) {
					continue
				}
				of := local
				if c.fetched > 0 {
					of = remote
				}
				of[c.arrival.input] = append(of[c.arrival.input], c.execMs())
			}
		}
		var ratios []float64
		for _, key := range sortedKeys(remote) {
			if at := local[key]; len(at) > 0 {
				here := quantile(at, .5)
				for _, ms := range remote[key] {
					ratios = append(ratios, ms/here)
				}
			}
		}
		if len(ratios) > 0 {
			out[l.function] = quantile(ratios, .5)
		}
	}
	return out
}

// alone reports whether no other call was on c's node while it was.
func (r *run) alone(c *call) bool {
	from, to := c.span()
	for i := range r.calls {
		o := &r.calls[i]
		if o == c || o.arrival == nil || o.node != c.node {
			continue
		}
		if f, t := o.span(); f < to && from < t {
			return false
		}
	}
	return true
}

// span is when the call was on its node, in ms of the run.
func (c *call) span() (from, to float64) {
	to = float64(c.arrival.at)/float64(time.Millisecond) + c.e2eMs
	return to - c.execMs(), to
}

// writeCalls prints every call of every run, for those who want to do their own sums.
func writeCalls(w io.Writer, runs []*run) error {
	cw := csv.NewWriter(w)
	_ = cw.Write([]string{"policy", "at_ms", "zone", "function", "id", "status", "decision", "start", "node", "e2e_ms", "queue_ms", "delay_ms", "fetch_ms", "init_ms", "run_ms", "fetched_bytes", "input"})
	num := func(x float64) string { return strconv.FormatFloat(x, 'f', 3, 64) }
	for _, r := range runs {
		for i := range r.calls {
			c := &r.calls[i]
			if c.arrival == nil {
				continue
			}
			a := c.arrival
			_ = cw.Write([]string{r.name(), num(float64(a.at) / 1e6), strconv.Itoa(a.zone), a.load.function, c.id, strconv.Itoa(c.status), c.decision, c.start, c.node,
				num(c.e2eMs), num(c.queueMs), num(c.delayMs), num(c.fetchMs), num(c.initMs), num(c.runMs), strconv.FormatInt(c.fetched, 10), a.input})
		}
	}
	cw.Flush()
	return cw.Error()
}

// WriteText prints the demo's result for people.
func (res *DemoResult) WriteText(w io.Writer) error {
	var err error
	p := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format, args...)
		}
	}
	for _, fn := range append([]string{"all"}, functionsOf(res)...) {
		p("\n%s\n", heading(res, fn))
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(tw, "policy\tmean ms\tp50\tp95\tp99\texec mean\tdelay mean\tmisses\tcold starts\tMB fetched\tanswered\t")
		for _, r := range res.Policies {
			if r.Function == fn {
				fmt.Fprintf(tw, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t%d\t%.1f\t%d/%d\t\n", r.Policy, r.MeanMs, r.P50Ms, r.P95Ms, r.P99Ms,
					r.ExecMeanMs, r.DelayMeanMs, r.Misses, r.ColdStarts, float64(r.FetchedBytes)/1e6, r.Answered, r.Calls)
			}
		}
		if ferr := tw.Flush(); err == nil {
			err = ferr
		}
	}
	f := &res.Fairness
	p("\nHow it was made fair\n")
	for _, n := range f.Notes {
		p("  - %s\n", n)
	}
	p("  - nodes' link to the object store: %.0f Mbit/s; execution with remote over local input, alone on a node, measured: %s (largest seen on real clouds: 3.5)\n", f.LinkMbps, ratios(f.RemoteRatio))
	p("  - arrival rates are scaled by %.2f to the speed of this machine\n", f.Rate)
	p("  - fixed-delay waits tried: %v ms, means %.1f ms; the best, %.0f ms, stands in the table\n", f.FixedWaitsMs, f.FixedMeansMs, f.BestWaitMs)
	p("  - host CPU in use:")
	for _, k := range sortedKeys(f.HostCPU) {
		p(" %s %.0f %%;", k, 100*f.HostCPU[k])
	}
	for _, b := range f.Breaches {
		p("\n  - NOT FAIR: %s", b)
	}
	p("\n\nThe model's life (rubato run)\n  %d samples learned; the coordinator merged %d versions of the pool (trees by zone of origin: %s)\n",
		res.Model.Samples, res.Model.MergedVersions, counts(res.Model.PoolTrees))
	for _, z := range res.Model.Zones {
		p("  zone %s: %d samples, uses version %d, error over averages %.2f, predicting trees by origin: %s\n", z.Zone, z.Samples, z.Version, z.ErrorOverAverages, counts(z.Trees))
	}
	p("\nOne delayed call, explained (rubato explain ID)\n")
	for line := range strings.SplitSeq(strings.TrimSpace(res.Explain), "\n") {
		p("  %s\n", line)
	}
	return err
}

func functionsOf(res *DemoResult) []string {
	var out []string
	for _, r := range res.Policies {
		if r.Policy == res.Policies[0].Policy && r.Function != "all" {
			out = append(out, r.Function)
		}
	}
	return out
}

func heading(res *DemoResult, fn string) string {
	for _, r := range res.Policies {
		if r.Function == fn && r.Role != "" {
			return fn + " (" + r.Role + ")"
		}
	}
	return "all functions"
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func ratios(m map[string]float64) string {
	var out []string
	for _, k := range sortedKeys(m) {
		out = append(out, fmt.Sprintf("%s %.1fx", k, m[k]))
	}
	return strings.Join(out, ", ")
}

func counts(m map[string]int) string {
	var out []string
	for _, k := range sortedKeys(m) {
		out = append(out, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(out, ", ")
}

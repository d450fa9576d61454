package lab

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"sort"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sim"
	"github.com/rubato-faas/rubato/zonesched"
)

// replay is a record made into a workload: functions with laws, and calls.
type replay struct {
	functions []sim.Function
	ids       []string // of functions
	calls     []replayed
}

// replayed is a call that is to be made again.
type replayed struct {
	zone string
	call sim.Recorded // its zone is found by name
}

// minPairs is how many calls of a function on a class of nodes say something of the class's speed.
const minPairs = 20

// Replay makes a record into a scenario: its zones and nodes, and its calls at their times with their inputs. The notes say
// what is left out and what is only estimated. See docs/simulator.md for what is estimated how.
func (r *Record) Replay() (*Scenario, error) {
	s := &Scenario{Name: "replay", Seed: 1, Policy: "rubato", Learn: Learn{Eager: 4096, Publish: Duration(50 * time.Millisecond)}}
	class := map[string]string{}
	for i := range r.Nodes {
		class[r.Nodes[i].place()] = r.Nodes[i].Class
	}
	if n := r.fold(); n > 0 {
		s.note("%d records of calls that were refused, and tried again by their doors or queues, are taken together with those of their last tries", n)
	}
	if r.cut > 0 {
		s.note("the %d calls that ended last are left out: a replay has at most %d", r.cut, MaxCalls)
	}
	if len(r.Zones) > 1 {
		s.note("how far zones are from each other is not recorded: %v one way is taken", time.Duration(defaultBetween))
	}
	speeds, unknown := r.speeds(class)
	last := 0.0
	for i := range r.Calls {
		last = max(last, r.Calls[i].AtMs)
	}
	s.Duration = Duration(last*1e6) + Duration(time.Millisecond)
	if r.End != nil {
		s.Duration = max(s.Duration, Duration(r.End.DurationMs*1e6))
		if r.End.Lost > 0 || r.End.UnderWay > 0 || r.End.Gaps > 0 {
			s.note("the record lacks %d calls that were overwritten before they were read and %d that had not ended; %d gaps", r.End.Lost, r.End.UnderWay, r.End.Gaps)
		}
	} else {
		s.note("the record was cut off: it has no end")
	}
	s.Network.Latency = Duration(max(median(r.pick(func(c *RecordCall) float64 { return c.NetMs }))/2, .01) * 1e6)
	rtt := r.storeRTT()
	for i := range r.Zones {
		z := &r.Zones[i]
		s.Zones = append(s.Zones, Zone{Name: z.Name, Tier: z.Tier, Region: z.Region})
		if z.Mode != "" && z.Mode != zonesched.ModeOn {
			s.note("zone %s was in mode %s: here the policy decides every call", z.Name, z.Mode)
		}
		if i == 0 {
			if _, err := ParsePolicy(z.Policy); err == nil {
				s.Policy = z.Policy
			}
		}
	}
	for i := range r.Nodes {
		s.addNode(&r.Nodes[i], speeds[r.Nodes[i].Class], rtt)
	}
	if len(unknown) > 0 {
		s.note("too little ran on nodes of class %q to estimate their speed: 1 is taken", unknown)
	}
	rep, err := r.workload(s, class, speeds, r.initOf(rtt))
	if err != nil {
		return nil, err
	}
	s.replay = rep
	return s, s.validate()
}

func (s *Scenario) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// addNode adds the node to its zone; equal ones that follow each other are one group.
func (s *Scenario) addNode(n *RecordNode, speed float64, rtt Duration) {
	g := Nodes{
		Count: 1, Class: n.Class, Slots: n.Slots, MemoryMB: n.MemoryMB, Cache: Bytes(n.CacheBytes), LinkMbps: n.LinkMbps, StoreRTT: rtt,
		Speed: map[string]float64{"cpu": speed, "memory": speed, "io": speed}, Price: n.PricePerHour, Energy: n.EnergyClass,
		Arch: n.Labels.Arch, Accelerator: n.Labels.Accelerator, Tags: n.Labels.Tags,
	}
	z := &s.Zones[slices.IndexFunc(s.Zones, func(z Zone) bool { return z.Name == n.Zone })]
	if k := len(z.Nodes); k > 0 {
		like := z.Nodes[k-1]
		like.Count = 1
		if reflect.DeepEqual(like, g) {
			z.Nodes[k-1].Count++
			return
		}
	}
	z.Nodes = append(z.Nodes, g)
}

// ran says that the call ran to its end: its times tell something of the function.
func (c *RecordCall) ran() bool { return c.Code == api.CodeOK && c.RunMs > 0 }

// pick gives what f says of calls that ran.
func (r *Record) pick(f func(*RecordCall) float64) []float64 {
	var out []float64
	for i := range r.Calls {
		if c := &r.Calls[i]; c.ran() {
			out = append(out, f(c))
		}
	}
	return out
}

// speeds are those of the classes: how much quicker, in the middle, functions run there than they do anywhere, by the
// geometric mean over functions that ran on several classes, weighted by calls. Classes of which that says nothing have speed 1 and are named.
func (r *Record) speeds(class map[string]string) (speeds map[string]float64, unknown []string) {
	type pair struct{ fn, class string }
	lns := map[pair][]float64{}
	for i := range r.Calls {
		if c := &r.Calls[i]; c.ran() && c.Node != "" {
			k := pair{c.Function, class[c.place()]}
			lns[k] = append(lns[k], math.Log(c.RunMs))
		}
	}
	// In one order always: a sum of floating-point numbers depends on it, and the calls' times on the speeds.
	order := slices.SortedFunc(maps.Keys(lns), func(a, b pair) int { return cmp.Or(cmp.Compare(a.fn, b.fn), cmp.Compare(a.class, b.class)) })
	// Medians of a function over all its calls lean to the class that it ran on most; one of the classes' medians does not.
	mid := map[string][]float64{}
	for _, k := range order {
		if len(lns[k]) >= minPairs {
			mid[k.fn] = append(mid[k.fn], median(lns[k]))
		}
	}
	sum, weight := map[string]float64{}, map[string]float64{}
	for _, k := range order {
		// A function that ran on one class only compares it with nothing.
		if xs := lns[k]; len(xs) >= minPairs && len(mid[k.fn]) > 1 {
			sum[k.class] += float64(len(xs)) * (mean(mid[k.fn]) - median(xs))
			weight[k.class] += float64(len(xs))
		}
	}
	speeds = map[string]float64{}
	for _, c := range class {
		if _, done := speeds[c]; done {
			continue
		}
		speeds[c] = 1
		if weight[c] > 0 {
			speeds[c] = min(max(math.Exp(sum[c]/weight[c]), .01), 100)
		} else if !slices.Contains(unknown, c) {
			unknown = append(unknown, c)
		}
	}
	slices.Sort(unknown)
	return speeds, unknown
}

// fold makes one of the records of a call that was refused and tried again: it arrived with the first and went as the last. It
// says how many records less there are.
func (r *Record) fold() int {
	at := map[[2]string]int{} // by zone and id
	kept := r.Calls[:0]
	for _, c := range r.Calls {
		k := [2]string{c.Zone, c.ID}
		if i, again := at[k]; again && c.ID != "" {
			c.AtMs, c.BudgetMs = min(c.AtMs, kept[i].AtMs), max(c.BudgetMs, kept[i].BudgetMs) // the last try of an asynchronous call had what was left of it
			kept[i] = c
			continue
		}
		at[k] = len(kept)
		kept = append(kept, c)
	}
	n := len(r.Calls) - len(kept)
	r.Calls = kept
	return n
}

// links are those of nodes, in Mbit/s, by place; 0: without a limit.
func (r *Record) links() map[string]float64 {
	link := map[string]float64{}
	for i := range r.Nodes {
		link[r.Nodes[i].place()] = r.Nodes[i].LinkMbps
	}
	return link
}

// transferMs is what so many bytes take over a link.
func transferMs(bytes int64, mbps float64) float64 {
	if mbps <= 0 {
		return 0
	}
	return float64(bytes) * 8 / (mbps * 1000)
}

// storeRTT is what a fetch took beyond the transfer over the node's link, in the middle. Calls that began from nothing are left
// out: what they fetched is with their artifacts, the time of which is not.
func (r *Record) storeRTT() Duration {
	link := r.links()
	var over []float64
	for i := range r.Calls {
		if c := &r.Calls[i]; c.ran() && c.FetchedBytes > 0 && c.Node != "" && c.Start != api.SandboxNone.String() {
			over = append(over, max(c.FetchMs-transferMs(c.FetchedBytes, link[c.place()]), 0))
		}
	}
	return Duration(median(over) * 1e6)
}

// initOf gives what bringing up a call's sandbox took without the transfer of its artifact, which a node counts with it and the
// simulator adds.
func (r *Record) initOf(rtt Duration) func(*RecordCall) float64 {
	link, artifact := r.links(), map[string]int64{}
	for i := range r.Functions {
		artifact[r.Functions[i].ID()] = r.Functions[i].ArtifactBytes
	}
	return func(c *RecordCall) float64 {
		if c.Start != api.SandboxNone.String() {
			return c.InitMs
		}
		return max(c.InitMs-transferMs(artifact[c.Function], link[c.place()])-float64(rtt)/1e6, c.InitMs/100)
	}
}

// workload makes functions and calls.
func (r *Record) workload(s *Scenario, class map[string]string, speeds map[string]float64, initMs func(*RecordCall) float64) (*replay, error) {
	speedOf := func(c *RecordCall) float64 {
		if name, ok := class[c.place()]; ok {
			return speeds[name]
		}
		return 1
	}
	byFn := map[string][]*RecordCall{}
	for i := range r.Calls {
		c := &r.Calls[i]
		if c.From == "" { // a forwarded call began in the other zone
			byFn[c.Function] = append(byFn[c.Function], c)
		}
	}
	// The busiest that a world holds, in the record's order.
	order := make([]int, 0, len(r.Functions))
	left, leftCalls := 0, 0
	for i := range r.Functions {
		if calls := byFn[r.Functions[i].ID()]; len(calls) == 0 {
			continue
		} else if !slices.ContainsFunc(calls, (*RecordCall).ran) {
			s.note("function %s is left out, with %d calls: none of them ran to its end", r.Functions[i].ID(), len(calls))
			continue
		}
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(a, b int) int { return len(byFn[r.Functions[b].ID()]) - len(byFn[r.Functions[a].ID()]) })
	for len(order) > sim.MaxFunctions {
		left++
		leftCalls += len(byFn[r.Functions[order[len(order)-1]].ID()])
		order = order[:len(order)-1]
	}
	if left > 0 {
		s.note("the %d least busy functions, with %d calls, are left out: a world has at most %d", left, leftCalls, sim.MaxFunctions)
	}
	slices.Sort(order)

	rep := &replay{}
	artifacts := map[string]int{}
	coldMs := func(c *RecordCall) float64 { return initMs(c) * speedOf(c) }
	cold := r.coldByRuntime(coldMs)
	for _, i := range order {
		f := &r.Functions[i]
		calls := byFn[f.ID()]
		if artifacts[f.Artifact] == 0 || f.Artifact == "" {
			artifacts[f.Artifact] = i + 1
		}
		var runs []float64
		for _, c := range calls {
			if c.ran() {
				runs = append(runs, math.Log(c.RunMs*speedOf(c)))
			}
		}
		at := len(rep.functions)
		fn := sim.Function{Spec: f.spec(artifacts[f.Artifact]), Run: max(time.Duration(math.Exp(median(runs))*1e6), time.Microsecond), Spread: min(deviation(runs), 4)}
		fn.Run = min(fn.Run, api.MaxTimeout)
		law := coldOf(calls, coldMs)
		fn.Prepare, fn.Start, fn.ColdSpread = law.fill(cold[f.Runtime]).durations()
		rep.functions, rep.ids = append(rep.functions, fn), append(rep.ids, f.ID())
		for _, c := range calls {
			rep.calls = append(rep.calls, replayed{c.Zone, c.again(at, speedOf(c))})
		}
	}
	if len(rep.calls) == 0 {
		return nil, fmt.Errorf("%w: record: no call that can be made again", api.ErrInvalid)
	}
	slices.SortStableFunc(rep.calls, func(a, b replayed) int { return cmp.Compare(a.call.At, b.call.At) })
	return rep, nil
}

// again is the call as it is made again. Run times are brought to speed 1; a call that did not run to its end, of which
// nobody knows how long it would have, has its function's law.
func (c *RecordCall) again(fn int, speed float64) sim.Recorded {
	out := sim.Recorded{At: time.Duration(c.AtMs * 1e6), Function: fn}
	if c.ran() {
		out.ExecMs = min(max(c.RunMs*speed, .001), maxMs)
	}
	inv := &api.Invocation{PayBytes: c.PayloadBytes, BudgetMs: c.BudgetMs, Priority: c.Priority, Affinity: c.Affinity, Async: c.Async}
	for _, o := range c.Inputs {
		inv.Inputs = append(inv.Inputs, api.Object{Key: "record/" + o.Object, Bytes: o.Bytes})
	}
	out.Call = inv
	return out
}

// coldLaw is what a cold start takes at speed 1, in ms; NaN where nothing is known.
type coldLaw struct{ prepare, start, spread float64 }

// coldOf estimates a law from calls: starting is what calls took that found the artifact prepared, preparing what those
// took beyond it that found less.
func coldOf(calls []*RecordCall, coldMs func(*RecordCall) float64) coldLaw {
	var prepared, cold []float64
	for _, c := range calls {
		if !c.ran() || c.InitMs <= 0 {
			continue
		}
		switch x := math.Log(coldMs(c)); c.Start {
		case "prepared":
			prepared = append(prepared, x)
		case "none", "fetched":
			cold = append(cold, x)
		}
	}
	l := coldLaw{math.NaN(), math.NaN(), math.NaN()}
	if len(prepared) > 0 {
		l.start, l.spread = math.Exp(median(prepared)), deviation(prepared)
	}
	if len(cold) > 0 {
		l.prepare, l.spread = math.Exp(median(cold)), deviation(cold)
		if len(prepared) > 0 {
			l.prepare = max(l.prepare-l.start, 0)
		}
	}
	return l
}

func (r *Record) coldByRuntime(coldMs func(*RecordCall) float64) map[string]coldLaw {
	runtime := map[string]string{}
	for i := range r.Functions {
		runtime[r.Functions[i].ID()] = r.Functions[i].Runtime
	}
	calls := map[string][]*RecordCall{}
	for i := range r.Calls {
		c := &r.Calls[i]
		calls[runtime[c.Function]] = append(calls[runtime[c.Function]], c)
	}
	out := map[string]coldLaw{}
	for rt, cs := range calls {
		out[rt] = coldOf(cs, coldMs)
	}
	return out
}

// fill takes from the runtime's law what the function's calls did not tell. A function of which only whole cold starts are
// known has them divided as its runtime divides them.
func (l coldLaw) fill(runtime coldLaw) coldLaw {
	if math.IsNaN(l.prepare) && math.IsNaN(l.start) {
		l = runtime
	}
	switch {
	case math.IsNaN(l.prepare) && math.IsNaN(l.start): // no cold start at all was seen
		return coldLaw{30, 60, .3}
	case math.IsNaN(l.start):
		part := 1.0
		if s := runtime.start; !math.IsNaN(s) && s+runtime.prepare > 0 {
			part = s / (s + runtime.prepare)
		}
		l.start, l.prepare = l.prepare*part, l.prepare*(1-part)
	case math.IsNaN(l.prepare):
		l.prepare = 0
		if !math.IsNaN(runtime.prepare) {
			l.prepare = runtime.prepare
		}
	}
	return l
}

func (l coldLaw) durations() (prepare, start time.Duration, spread float64) {
	d := func(ms float64) time.Duration { return min(time.Duration(ms*1e6), api.MaxTimeout) }
	return d(l.prepare), d(l.start), min(l.spread, 4)
}

// fill gives the world the record's functions and calls. A call arrives at the zone of its zone's name, else at one in turn.
func (r *replay) fill(cfg *sim.Config) {
	cfg.Functions = slices.Clone(r.functions)
	at := map[string]int{}
	for i := range cfg.Zones {
		at[cfg.Zones[i].Core.Zone] = i
	}
	turn := 0
	cfg.Trace = make([]sim.Recorded, len(r.calls))
	for i := range r.calls {
		z, ok := at[r.calls[i].zone]
		if !ok {
			z = turn % len(cfg.Zones)
			turn++
		}
		cfg.Trace[i] = r.calls[i].call
		cfg.Trace[i].Zone = z
	}
}

// WithReplay is the scenario's world with the replay's functions and calls instead of its own, for as long as those last.
func (s *Scenario) WithReplay(r *Scenario) (*Scenario, error) {
	cp := *s
	cp.replay, cp.notes, cp.Duration, cp.Warmup, cp.trace = r.replay, r.notes, r.Duration, 0, nil
	cp.Changes = slices.DeleteFunc(slices.Clone(s.Changes), func(c Change) bool { return c.Function != "" })
	return &cp, cp.validate()
}

// Until is a replay that ends after d: later calls are not made.
func (s *Scenario) Until(d time.Duration) (*Scenario, error) {
	cp, rep := *s, *s.replay
	rep.calls = rep.calls[:sort.Search(len(rep.calls), func(i int) bool { return rep.calls[i].call.At >= d })]
	if len(rep.calls) == 0 {
		return nil, fmt.Errorf("%w: record: no call within %v", api.ErrInvalid, d)
	}
	cp.replay, cp.Duration = &rep, Duration(d)
	return &cp, cp.validate()
}

// median of xs, 0 for none.
func median(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	s := slices.Clone(xs)
	slices.Sort(s)
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func mean(xs []float64) float64 {
	sum := 0.0
	for _, x := range xs {
		sum += x / float64(len(xs))
	}
	return sum
}

// deviation is a standard deviation from the median absolute one, which a few outliers do not change.
func deviation(xs []float64) float64 {
	m := median(xs)
	off := make([]float64, len(xs))
	for i, x := range xs {
		off[i] = math.Abs(x - m)
	}
	return 1.4826 * median(off)
}

package bench

import (
	"container/heap"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/zonesched"
)

// DecideOptions size the decision benchmark.
type DecideOptions struct {
	Seed uint64
	// Nodes are the sizes of the zones.
	Nodes []int
	// Decisions are measured for each size.
	Decisions int
	// Functions are deployed, their popularity by Zipf's law.
	Functions int
	// Republish hands the zone a new forest after so many completions.
	Republish int
	Progress  func(done, total int, doing string)
}

// DefaultDecideOptions takes about a minute.
func DefaultDecideOptions() DecideOptions {
	return DecideOptions{Seed: 1, Nodes: []int{10, 100, 1000, 10000}, Decisions: 20000, Functions: 64, Republish: 64, Progress: func(int, int, string) {}}
}

// What the zone of the benchmark looks like.
const (
	decideSlots   = 4    // of a node
	decideLoad    = .6   // of the slots are busy
	decideWarm    = 12   // functions with a warm sandbox on a node
	decideObjects = 40   // objects that a node holds
	decideShared  = 2000 // objects there are
	decideTrained = 18000
	decideAllocs  = 400 // decisions of either kind whose allocations are counted
	decideAgain   = 8   // calls that come between two that are alike, where hits are looked for
)

// Decide measures one decision of a zone: candidates found, scored, decided and reserved, on zones of several sizes with warm
// sandboxes and objects spread as popularity spreads them, under load, with the full forest, which goes on learning from
// completions and is published anew all the time. A decision is a hit when the forest was specialised for a request like it
// since it was published. The share of hits and decisions a second are of calls as they come; hits' percentiles and hits a second are of
// these and of calls that are asked for until they are known.
func Decide(ctx context.Context, o DecideOptions) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	r := &Report{Bench: "decide", Env: environment()}
	perS, us := stalls(time.Second)
	r.add("host.stalls_per_s", perS, "1/s")
	r.add("host.stall_us", us, "us")
	w := newDecideWorld(o)
	if err := w.train(ctx, o); err != nil {
		return nil, err
	}
	for k, n := range o.Nodes {
		if err := w.build(n); err != nil {
			return nil, err
		}
		var hits, misses []float64
		var hitSum, all float64
		for i := range o.Decisions {
			if i%500 == 0 {
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				o.Progress(k*o.Decisions+i, len(o.Nodes)*o.Decisions, fmt.Sprintf("%d nodes", n))
			}
			inv := w.invocation()
			us, hit, err := w.timed(inv)
			if err != nil {
				return nil, err
			}
			all += us
			if hit {
				hits, hitSum = append(hits, us), hitSum+us
			} else {
				misses = append(misses, us)
			}
			w.next(inv)
		}
		found := len(hits) // too few for a percentile
		for range o.Decisions / decideAgain {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			us, hit, err := w.again()
			if err != nil {
				return nil, err
			}
			if hit {
				hits, hitSum = append(hits, us), hitSum+us
			}
		}
		hit, miss := w.allocs(decideAllocs)
		name := func(s string) string { return fmt.Sprintf("n%d.%s", n, s) }
		slices.Sort(hits)
		slices.Sort(misses)
		for _, q := range []struct {
			of  []float64
			kin string
		}{{hits, "hit"}, {misses, "miss"}} {
			r.add(name(q.kin+"_p50_us"), sortedQuantile(q.of, .5), "us")
			r.add(name(q.kin+"_p99_us"), sortedQuantile(q.of, .99), "us")
			r.add(name(q.kin+"_p999_us"), sortedQuantile(q.of, .999), "us")
		}
		r.add(name("hit_rate"), float64(found)/float64(o.Decisions), "share")
		r.add(name("allocs"), max(hit, miss), "a decision")
		r.add(name("hit_allocs"), hit, "a decision")
		r.add(name("miss_allocs"), miss, "a decision")
		r.add(name("hit_per_s"), float64(len(hits))*1e6/max(hitSum, 1e-9), "1/s")
		r.add(name("per_s"), float64(o.Decisions)*1e6/max(all, 1e-9), "1/s")
	}
	r.Notes = []string{fmt.Sprintf("%d functions (Zipf), %d slots a node, %.0f %% busy, %d warm functions and %d objects a node; forest of %d trees, published anew every %d completions; one core. What `explain` keeps of a decision and the message to the node are not in it",
		o.Functions, decideSlots, 100*decideLoad, decideWarm, decideObjects, len(w.learner.Snapshot().Trees()), o.Republish)}
	return r, nil
}

// allocs is how many objects a hit and a miss allocate, in the mean over n of each; 0 of a kind that did not come. A call that comes
// again is a hit once the forest is specialised for all of its candidates. Every other of the other calls, all new, meets a new
// forest, too.
func (w *decideWorld) allocs(n int) (hit, miss float64) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // nobody else is to allocate meanwhile
	var hits, misses []float64
	consider := func(inv *api.Invocation) {
		var from, to runtime.MemStats
		before := w.scratch.Hits
		runtime.ReadMemStats(&from)
		w.consider(inv)
		runtime.ReadMemStats(&to)
		if x := float64(to.Mallocs - from.Mallocs); w.scratch.Hits > before {
			hits = append(hits, x)
		} else {
			misses = append(misses, x)
		}
	}
	again := w.invocation()
	for i := range n {
		consider(again)
		if i%2 == 0 {
			w.relearn()
			consider(w.invocation())
			consider(again)
			consider(again) // specialises the forest that the next hits find
		} else {
			consider(w.invocation())
		}
	}
	// Less than one in a hundred decisions is not theirs: the runtime allocates something on the side now and then.
	whole := func(xs []float64) float64 { return math.Floor(100*mean(xs)) / 100 }
	return whole(hits), whole(misses)
}

// sortedQuantile is the q-quantile of a sorted sample, 0 of none.
func sortedQuantile(s []float64, q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

// decideWorld is a zone under load in virtual time.
type decideWorld struct {
	o       DecideOptions
	rng     *rand.Rand
	zipf    *rand.Zipf
	fns     []api.Function
	runMs   []float64
	coldMs  []float64
	objects []api.Object
	learner *learner.Learner
	// scratch is of the decisions that are measured, others of all the rest, see sides.
	scratch, others *learner.Scratch
	sides           *sides

	zone    *zonesched.Zone
	now     time.Time
	nodes   []*decideNode
	byName  map[string]*decideNode
	ends    completions
	id      int
	learned int
	sample  *api.Sample // the newest
	target  int
}

type decideNode struct {
	name       string
	idle, busy map[string]int // by function key
	order      []string       // idle ones, oldest first
}

type completionAt struct {
	at  time.Time
	seq int
	run *wire.Run
	to  string
}

type completions []completionAt

// Len, Less, Swap, Push and Pop serve container/heap.
func (c completions) Len() int { return len(c) }

// Less orders by time, then by dispatch.
func (c completions) Less(i, j int) bool {
	return c[i].at.Before(c[j].at) || c[i].at.Equal(c[j].at) && c[i].seq < c[j].seq
}

// Swap serves container/heap.
func (c completions) Swap(i, j int) { c[i], c[j] = c[j], c[i] }

// Push serves container/heap.
func (c *completions) Push(x any) { *c = append(*c, x.(completionAt)) }

// Pop serves container/heap.
func (c *completions) Pop() any {
	old := *c
	x := old[len(old)-1]
	*c = old[:len(old)-1]
	return x
}

func newDecideWorld(o DecideOptions) *decideWorld {
	w := &decideWorld{o: o, rng: rand.New(rand.NewPCG(o.Seed, 41)), scratch: learner.NewScratch(), others: learner.NewScratch()}
	w.zipf = rand.NewZipf(w.rng, 1.2, 2, uint64(o.Functions-1))
	for i := range o.Functions {
		w.fns = append(w.fns, api.Function{
			Tenant: fmt.Sprintf("t%d", i%5), Name: fmt.Sprintf("f%03d", i), Version: 1, Runtime: []api.Runtime{api.RuntimeProcess, api.RuntimeWasm}[i%2],
			Artifact: strings.Repeat(fmt.Sprintf("%08x", i), 8), ArtifactBytes: 4 << 20, MemoryMB: 128 << (i % 3), Timeout: time.Minute,
			Objective: api.Objective{Deadline: time.Duration(i%3) * 2 * time.Second},
		})
		w.runMs = append(w.runMs, math.Exp(3+1.5*w.rng.NormFloat64()))
		w.coldMs = append(w.coldMs, math.Exp(6+.6*w.rng.NormFloat64()))
	}
	for i := range decideShared {
		w.objects = append(w.objects, api.Object{Key: fmt.Sprintf("t/o%04d", i), Bytes: int64(math.Exp(14.5 + 1.2*w.rng.NormFloat64()))})
	}
	return w
}

// invocation draws a call; most name one object, popular ones more often.
func (w *decideWorld) invocation() *api.Invocation {
	f := &w.fns[w.zipf.Uint64()]
	w.id++
	inv := &api.Invocation{ID: fmt.Sprintf("i%09d", w.id), Tenant: f.Tenant, Function: f.Name, PayBytes: int64(math.Exp(5 + w.rng.NormFloat64()))}
	if w.rng.Float64() < .7 {
		inv.Inputs = []api.Object{w.objects[int(decideShared*math.Pow(w.rng.Float64(), 2))]}
	}
	return inv
}

// times are what a run really takes: fetch, init, run in ms.
func (w *decideWorld) times(fn int, e *api.Echo) (fetch, init, run float64) {
	noise := math.Exp(.15 * w.rng.NormFloat64())
	if e.MissingBytes > 0 {
		fetch = float64(e.MissingBytes) * 8 / (e.LinkMbps * 1000)
	}
	switch e.Sandbox {
	case api.SandboxNone, api.SandboxFetched:
		init = w.coldMs[fn]
	case api.SandboxPrepared:
		init = w.coldMs[fn] / 8
	}
	run = w.runMs[fn] * math.Pow(1+float64(e.InputBytes)/1e6, .4*float64(fn%3))
	return fetch * noise, init * noise, run * noise
}

// train learns calls on made-up candidates, enough for trees of full size.
func (w *decideWorld) train(ctx context.Context, o DecideOptions) error {
	cfg := learner.DefaultConfig()
	cfg.Seed, cfg.Zone = o.Seed, "bench"
	var err error
	if w.learner, err = learner.New(cfg); err != nil {
		return err
	}
	f := w.learner.Snapshot()
	var out [1]api.Estimate
	for i := range decideTrained {
		if i%64 == 0 {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			f = w.learner.Snapshot()
			o.Progress(i, decideTrained, "learning")
		}
		inv := w.invocation()
		fn := w.index(inv.Function)
		spec := &w.fns[fn]
		req := api.Request{Function: spec.ID(), Runtime: spec.Runtime, MemoryMB: spec.MemoryMB, InputBytes: inv.InputBytes(), PayloadBytes: inv.PayBytes, Hour: i / 800 % 24, Alpha: .05}
		c := api.Candidate{
			Node: fmt.Sprintf("n%05d", w.rng.IntN(200)), Class: uint8(1 + w.rng.IntN(3)), Running: w.rng.IntN(decideSlots), Slots: decideSlots, LinkMbps: 1000,
			Sandbox: []api.SandboxState{api.SandboxNone, api.SandboxPrepared, api.SandboxWarm, api.SandboxWarm}[w.rng.IntN(4)],
		}
		if w.rng.IntN(2) == 0 {
			c.MissingBytes = req.InputBytes
		}
		f.Estimate(&req, []api.Candidate{c}, out[:])
		e := api.Echo{
			Function: req.Function, Runtime: req.Runtime, Node: c.Node, Bins: append([]byte(nil), out[0].Bins[:]...), SchemaEpoch: api.SchemaEpoch,
			Mu: out[0].Mu, AveragesMu: out[0].AveragesMu, Sigma: out[0].Sigma, UpperMs: out[0].UpperMs, Alpha: .05, Source: out[0].Source, Sandbox: c.Sandbox,
			MissingBytes: c.MissingBytes, InputBytes: req.InputBytes, LinkMbps: c.LinkMbps, Propensity: 1,
		}
		s := &api.Sample{Echo: e}
		s.FetchMs, s.InitMs, s.RunMs = w.times(fn, &e)
		w.learner.Learn(s)
	}
	return nil
}

// index is the number in a function's name.
func (w *decideWorld) index(name string) int {
	n := 0
	for _, c := range name[1:] {
		n = 10*n + int(c-'0')
	}
	return n
}

// build makes a zone of n nodes and brings it under load.
func (w *decideWorld) build(n int) error {
	cfg := zonesched.DefaultConfig()
	cfg.Zone, cfg.Seed, cfg.MaxCalls = "bench", w.o.Seed, 1<<20
	cfg.NodeTimeout = 1000 * time.Hour
	var err error
	if w.zone, err = zonesched.New(cfg); err != nil {
		return err
	}
	w.now = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	w.nodes, w.byName, w.ends = nil, map[string]*decideNode{}, nil
	w.step(&zonesched.Event{Kind: zonesched.EvFunctions, Functions: w.fns})
	w.step(&zonesched.Event{Kind: zonesched.EvLead, Epoch: api.Epoch{Generation: 1, Revision: 1}})
	w.publish()
	for i := range n {
		d := &decideNode{name: fmt.Sprintf("n%05d", i), idle: map[string]int{}, busy: map[string]int{}}
		hb := &wire.Heartbeat{Zone: "bench", Node: d.name, Boot: 1, Epoch: api.Epoch{Generation: 1, Revision: 1}, Slots: decideSlots, MemMB: 64 << 10, LinkMbps: 1000, Class: uint8(1 + i%3)}
		for range decideWarm {
			if key := w.fns[w.zipf.Uint64()].Key(); d.idle[key] == 0 {
				d.idle[key] = 1
				d.order = append(d.order, key)
				hb.Sandboxes = append(hb.Sandboxes, wire.SandboxReport{Function: key, State: api.SandboxWarm, Idle: 1, MemoryMB: 128})
			}
		}
		has := map[int]bool{}
		for range decideObjects {
			if k := int(decideShared * math.Pow(w.rng.Float64(), 2)); !has[k] {
				has[k] = true
				hb.Objects = append(hb.Objects, w.objects[k])
			}
		}
		w.nodes, w.byName[d.name] = append(w.nodes, d), d
		w.step(&zonesched.Event{Kind: zonesched.EvHeartbeat, Heartbeat: hb})
	}
	w.target = int(decideLoad * float64(n*decideSlots))
	for len(w.ends) < w.target {
		w.arrive(w.invocation())
	}
	for range 2 * w.target { // let the made-up placement give way to the rule's own
		w.next(w.invocation())
	}
	return nil
}

// relearn hands the zone another forest: the newest sample once more.
func (w *decideWorld) relearn() {
	if w.sample != nil {
		w.learner.Learn(w.sample)
	}
	w.publish()
}

func (w *decideWorld) publish() {
	f := w.learner.Snapshot()
	w.sides = &sides{Estimator: f.Estimator(w.others), measured: f.Estimator(w.scratch)}
	w.step(&zonesched.Event{Kind: zonesched.EvModel, Predictor: w.sides})
}

// sides is a forest with two memories of recent requests: one for the decisions that are measured, one for the arrivals of the same calls
// and all that follows from them. With a single one each call would be asked for twice, and the second time, which is not measured,
// would make what the next call like it then finds.
type sides struct {
	*learner.Estimator
	measured  *learner.Estimator
	measuring bool
}

// Estimate implements zonesched.Predictor.
func (s *sides) Estimate(req *api.Request, cands []api.Candidate, out []api.Estimate) {
	if s.measuring {
		s.measured.Estimate(req, cands, out)
		return
	}
	s.Estimator.Estimate(req, cands, out)
}

// consider has the zone decide about the call, and nothing come of it.
func (w *decideWorld) consider(inv *api.Invocation) (known bool) {
	w.sides.measuring = true
	_, _, known = w.zone.Consider(w.now, inv)
	w.sides.measuring = false
	return known
}

// timed is how long the zone takes to decide about the call, in microseconds, and whether that was a hit.
func (w *decideWorld) timed(inv *api.Invocation) (us float64, hit bool, err error) {
	before := w.scratch.Hits
	began := time.Now()
	known := w.consider(inv)
	us = float64(time.Since(began)) / float64(time.Microsecond)
	if !known {
		return 0, false, fmt.Errorf("%w: the zone does not know %s", api.ErrNotFound, inv.FunctionID())
	}
	return us, w.scratch.Hits > before, nil
}

// again is timed of a call of which two like it were asked for a little before, which makes it a hit unless the forest is another one by
// now. Nodes, statistics and the processor's caches are what the calls in between left.
func (w *decideWorld) again() (us float64, hit bool, err error) {
	inv := w.invocation()
	w.consider(inv)
	w.consider(inv)
	for range decideAgain {
		w.next(w.invocation())
	}
	return w.timed(inv)
}

// next lets the call arrive and as many calls end as keeps the load where it is.
func (w *decideWorld) next(inv *api.Invocation) {
	w.arrive(inv)
	for len(w.ends) > w.target {
		w.complete()
	}
}

func (w *decideWorld) arrive(inv *api.Invocation) {
	w.step(&zonesched.Event{Kind: zonesched.EvArrive, Call: inv})
	if w.zone.Waiting() > 8*decideSlots && len(w.ends) > 0 { // the next calls to end make room
		w.complete()
	}
}

func (w *decideWorld) step(ev *zonesched.Event) {
	for _, a := range w.zone.Step(w.now, ev, nil) {
		switch a.Kind {
		case zonesched.ActRun:
			w.dispatch(&a)
		case zonesched.ActSample:
			w.sample = a.Sample
			w.learner.Learn(a.Sample)
			for _, j := range w.learner.Jobs() {
				j.Build()
			}
			if w.learned++; w.learned%w.o.Republish == 0 {
				w.publish()
			}
		}
	}
}

func (w *decideWorld) dispatch(a *zonesched.Action) {
	d, key := w.byName[a.Node], a.Run.Fn.Key()
	if d.idle[key] > 0 {
		d.idle[key]--
		d.order = slices.Delete(d.order, slices.Index(d.order, key), slices.Index(d.order, key)+1)
	}
	d.busy[key]++
	fetch, init, run := w.times(w.index(a.Run.Fn.Name), &a.Run.Echo)
	w.id++
	heap.Push(&w.ends, completionAt{at: w.now.Add(time.Duration((fetch + init + run) * 1e6)), seq: w.id, run: a.Run, to: a.Node})
}

// complete ends the call that ends next. A node keeps as many idle sandboxes as it began with and lets the oldest go.
func (w *decideWorld) complete() {
	e := heap.Pop(&w.ends).(completionAt)
	if e.at.After(w.now) {
		w.now = e.at
	}
	d, key := w.byName[e.to], e.run.Fn.Key()
	d.busy[key]--
	d.idle[key]++
	d.order = append(d.order, key)
	changed := []string{key}
	if len(d.order) > decideWarm {
		old := d.order[0]
		d.order = d.order[1:]
		d.idle[old]--
		changed = append(changed, old)
	}
	m := &wire.Completion{ID: e.run.Call.ID, Node: e.to, Boot: 1, Attempt: e.run.Call.Attempt, Epoch: e.run.Epoch, Outcome: api.OutcomeOK, Echo: e.run.Echo, Start: e.run.Echo.Sandbox}
	m.FetchMs, m.InitMs, m.RunMs = w.times(w.index(e.run.Fn.Name), &e.run.Echo)
	for _, k := range changed {
		m.Sandboxes = append(m.Sandboxes, wire.SandboxReport{Function: k, State: api.SandboxPrepared, Idle: d.idle[k], Busy: d.busy[k], MemoryMB: 128})
	}
	w.step(&zonesched.Event{Kind: zonesched.EvCompletion, Completion: m})
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/cluster"
	"github.com/rubato-faas/rubato/examples/functions"
	"github.com/rubato-faas/rubato/gateway"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/sim"
)

// SimLiveOptions size the comparison of the simulator with a live cluster.
type SimLiveOptions struct {
	// Functions is the folder with the built example functions.
	Functions string
	Policies  []string
	// Warmup calls are made and not counted; then it is measured for Measure.
	Warmup, Measure time.Duration
	// Alone is how many calls of each function are made alone for its law, Cold how many cold starts.
	Alone, Cold int
	// Repeats is how often it is measured live, each time with other arrivals and on an empty cluster, and SimSeeds over how many
	// runs the simulator's figures are means, for the arrivals of each.
	Repeats, SimSeeds int
	// Use is the part of the host's cores that functions are to keep busy.
	Use      float64
	Seed     uint64
	Log      *slog.Logger
	Progress func(done, total int, doing string)
}

// DefaultSimLiveOptions takes about six minutes.
func DefaultSimLiveOptions() SimLiveOptions {
	return SimLiveOptions{
		Policies: []string{"rubato", "least-loaded"}, Warmup: 8 * time.Second, Measure: 28 * time.Second, Alone: 20, Cold: 3, Repeats: 3, SimSeeds: 4, Use: .25, Seed: 1,
		Log: slog.New(slog.DiscardHandler), Progress: func(int, int, string) {},
	}
}

// Validate reports all faults.
func (o *SimLiveOptions) Validate() error {
	var f faults
	f.want(len(o.Policies) > 0, "no policy: want one or more")
	f.want(o.Warmup >= 0 && o.Measure > 0 && o.Warmup+o.Measure <= 10*time.Minute, "warm-up %v, measured %v: want the second above 0, and 10m at most together", o.Warmup, o.Measure)
	f.want(o.Alone >= 4 && o.Cold >= 1 && o.Repeats >= 1 && o.Repeats <= 100 && o.SimSeeds >= 1 && o.SimSeeds <= 1000,
		"%d calls alone, %d cold starts, %d repeats, %d seeds: want at least 4, 1, 1 and 1", o.Alone, o.Cold, o.Repeats, o.SimSeeds)
	f.want(o.Use > 0 && o.Use <= 1, "use %v of the cores: want more than 0, and at most 1", o.Use)
	return f.err()
}

// The cluster that is compared: one zone, so that all nodes that share this host can be modelled together.
const (
	simLiveNodes    = 4
	simLiveSlots    = 2
	simLiveLinkMbps = 400
	simLiveZone     = "core"
)

// fnLaw is what calibration found out about a function; times in ms.
type fnLaw struct {
	baseMs, perMBMs, spread        float64
	prepareMs, startMs, coldSpread float64
	artifactBytes                  int64
	meanMs                         float64 // of the calls alone
	memoryMB                       int
	runtime                        api.Runtime
	coldMs, preparedMs             []float64
	mb, runMs                      []float64
	timeout                        time.Duration
}

// hostLaw is what calibration found out about the host and the platform.
type hostLaw struct {
	cores        float64 // that functions get when many run, 1 being what a call alone gets
	platformMs   float64 // of a core, that a call costs beside the function
	idleCores    float64 // that the platform keeps busy without calls
	netMs        float64 // of a dispatch, there and back
	storeRTTMs   float64
	fetchMsPerMB float64 // of a core, that fetching costs
	busy         float64 // part of the host that others kept busy before
}

// SimVsLive runs one workload on a live cluster and in the simulator and says how far apart they are. Laws of functions, cold
// starts, messages and the host's cores are measured before, with calls alone; nothing of the measured workload goes into
// the model but when calls came and what they asked for.
func SimVsLive(ctx context.Context, o SimLiveOptions) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	began := time.Now()
	loads := simLiveLoads()
	data := prepareData(loads)
	total := 100 * (1 + len(o.Policies))
	o.Progress(0, total, "calls alone")
	laws, host, err := o.calibrate(ctx, loads, data, func(part float64) { o.Progress(int(100*part), total, "calls alone") })
	if err != nil {
		return nil, fmt.Errorf("sim-vs-live: calibrate: %w", err)
	}
	need := 0.0 // cores that functions would keep busy
	for _, l := range loads {
		need += l.ratePerS * laws[l.function].meanMs / 1000
	}
	rate := o.Use * host.cores / need
	calls := 0.0
	for _, l := range loads {
		l.ratePerS *= rate
		calls += l.ratePerS
	}
	r := &Report{Bench: "sim-vs-live", Env: environment()}
	r.Env["seed"], r.Env["warmup_s"], r.Env["measured_s"], r.Env["repeats"] = o.Seed, o.Warmup.Seconds(), o.Measure.Seconds(), o.Repeats
	r.add("host.busy_before", host.busy, "of all cores")
	r.add("host.cores", host.cores, "cores that many calls get, in what one alone gets")
	r.add("host.platform_ms", host.platformMs, "ms of a core a call")
	r.add("host.idle_cores", host.idleCores, "cores, without calls")
	r.add("net_ms", host.netMs, "ms")
	r.add("store_rtt_ms", host.storeRTTMs, "ms")
	r.add("host.fetch_ms_per_mb", host.fetchMsPerMB, "ms of a core a MB")
	r.add("calls_per_s", calls, "1/s")
	for _, l := range loads {
		x := laws[l.function]
		r.Notes = append(r.Notes, fmt.Sprintf("law of %s: %.2f ms + %.2f ms/MB, spread %.2f; prepare %.1f ms, start %.1f ms, spread %.2f", l.function, x.baseMs, x.perMBMs, x.spread, x.prepareMs, x.startMs, x.coldSpread))
	}
	o.Warmup += primeEvery * time.Duration(len(loads))
	for i, p := range o.Policies {
		if err := o.beside(ctx, r, p, loads, data, laws, host, calls, func(part float64, doing string) {
			o.Progress(100*(1+i)+int(100*part), total, p+" "+doing)
		}); err != nil {
			return nil, fmt.Errorf("sim-vs-live: %s: %w", p, err)
		}
	}
	r.add("took_s", time.Since(began).Seconds(), "s")
	return r, nil
}

// beside measures one policy on both sides.
func (o SimLiveOptions) beside(ctx context.Context, r *Report, policy string, loads []*load, data map[stored][]byte, laws map[string]*fnLaw, h hostLaw, callsPerS float64, progress func(part float64, doing string)) error {
	var (
		live     []call
		modelled = make([]sim.Stats, len(loads))
		used     hostUse
		means    []float64
	)
	seed := o.Seed
	for k := range o.Repeats {
		o.Seed = seed + uint64(k)<<32 // no other seed's arrivals
		arr := o.arrivals(loads)
		from, whole := float64(k)/float64(o.Repeats), float64(o.Repeats)
		progress(from, "live")
		calls, u, err := o.live(ctx, policy, loads, data, arr, func(done int) { progress(from+.95*float64(done)/float64(max(len(arr), 1))/whole, "live") })
		if err != nil {
			return err
		}
		used.host, used.others = used.host+u.host/whole, math.Max(used.others, u.others)
		live, means = append(live, calls...), append(means, liveRow(calls, "all").mean)
		progress(from+.95/whole, "simulated")
		sums, err := o.simulate(ctx, policy, loads, laws, h, arr, callsPerS)
		if err != nil {
			return err
		}
		for i := range sums {
			modelled[i].Add(&sums[i])
		}
	}
	r.add(policy+".live.host_cpu", used.host, "of all cores")
	r.add(policy+".live.others_cpu", used.others, "of all cores, by other programs, at most")
	if most := max(used.others, h.busy); most > quietHost {
		r.Notes = append(r.Notes, fmt.Sprintf("%s: other programs kept %.0f %% of the host busy, which no model knows: the gaps say little, measure again on a quiet host", policy, 100*most))
	}
	r.add(policy+".live.mean_lowest", slices.Min(means), "ms, of the repeats")
	r.add(policy+".live.mean_highest", slices.Max(means), "ms, of the repeats")
	o.compare(r, policy, loads, live, modelled)
	return nil
}

// primeEvery is between the first calls of the functions, one of each, before the others come: on an empty cluster the cold
// starts of all at once fill every slot, and what queues up then is no moderate load for a while.
const primeEvery = 1500 * time.Millisecond

// arrivals are the primers, and then the calls.
func (o *SimLiveOptions) arrivals(loads []*load) []arrival {
	calls := arrivals(loads, 1, o.Warmup+o.Measure-primeEvery*time.Duration(len(loads)), o.Seed)
	var out []arrival
	for i, l := range loads {
		k := slices.IndexFunc(calls, func(a arrival) bool { return a.load == l })
		if k < 0 {
			continue // it is not called
		}
		first := calls[k]
		first.at = primeEvery * time.Duration(i)
		out = append(out, first)
	}
	for _, a := range calls {
		a.at += primeEvery * time.Duration(len(loads))
		out = append(out, a)
	}
	return out
}

// quietHost is the part of the host that others may keep busy before the report says so.
const quietHost = .15

// hostUse is the part of all cores that was busy, and the part that others than this process and its functions kept busy.
type hostUse struct{ host, others float64 }

// simLiveLoads is the demo's workload, but with payloads of one size a function: the simulator's laws know an input's size, not
// what stands in it.
func simLiveLoads() []*load {
	loads := demoLoads()
	for _, l := range loads {
		switch l.function {
		case "matmul":
			l.payload = func(*rand.Rand) string { return `{"n":110}` }
		case "score":
			l.payload = func(*rand.Rand) string { return `{"n":60}` }
		case "htmlrender":
			text := page(rand.New(rand.NewPCG(1, 1)))
			l.payload = func(*rand.Rand) string { return text }
		}
	}
	return loads
}

// bed is a cluster that runs, with all that is called deployed.
type bed struct {
	cl     *cluster.Cluster
	opts   cluster.Options
	hc     *http.Client
	doors  []string
	tokens map[string]string
	close  func() error
}

// start makes an empty cluster as `rubato up --zones 1` does, and deploys.
func (o *SimLiveOptions) start(ctx context.Context, policy string, nodes, slots int, loads []*load, data map[stored][]byte) (b *bed, err error) {
	dir, err := os.MkdirTemp("", "rubato-sim-vs-live-*")
	if err != nil {
		return nil, err
	}
	b = &bed{tokens: map[string]string{}, opts: cluster.DefaultOptions(dir, o.Log), hc: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	b.close = func() error {
		b.hc.CloseIdleConnections()
		var err error
		if b.cl != nil {
			err = b.cl.Down()
		}
		return errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	opts := &b.opts
	opts.Zones = []cluster.ZoneSpec{{Name: simLiveZone, Tier: "core", Region: "valley"}}
	opts.Zone.Gateway.Auth = "on"
	for _, l := range loads {
		if b.tokens[l.tenant] == "" {
			b.tokens[l.tenant] = token()
			opts.Zone.Gateway.Tokens = append(opts.Zone.Gateway.Tokens, gateway.Token{Token: b.tokens[l.tenant], Tenant: l.tenant, Operator: true})
		}
	}
	n := &opts.Node.Node.Node
	opts.Nodes, n.Slots, n.MemoryMB, n.CacheBytes, n.LinkMbps = nodes, slots, demoMemory, demoCache, simLiveLinkMbps
	opts.Zone.Zone.Sched.Policy, opts.Zone.Zone.Sched.Seed = policy, o.Seed
	if b.cl, err = cluster.Up(ctx, *opts); err != nil {
		return nil, err
	}
	b.doors = []string{b.cl.Door(simLiveZone)}
	return b, deployAll(ctx, b.hc, b.doors, b.tokens, loads, data, o.Functions)
}

// live drives the arrivals, and gives what came of those after the warm-up, and how busy the host was meanwhile.
func (o *SimLiveOptions) live(ctx context.Context, policy string, loads []*load, data map[stored][]byte, arr []arrival, progress func(int)) (calls []call, used hostUse, err error) {
	b, err := o.start(ctx, policy, simLiveNodes, simLiveSlots, loads, data)
	if err != nil {
		return nil, used, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	before, _ := readCPU()
	own := familySeconds()
	all := drive(ctx, b.hc, b.doors, b.tokens, arr, progress)
	after, _ := readCPU()
	used.host = busyShare(before, after)
	used.others = max(used.host-(familySeconds()-own)*100/max(after.total-before.total, 1), 0)
	if ctx.Err() != nil {
		return nil, used, context.Cause(ctx)
	}
	for i := range all {
		c := &all[i]
		if !c.ok {
			o.Log.Warn("call failed", "policy", policy, "function", c.arrival.load.function, "status", c.status, "body", c.body)
		}
		if c.arrival.at >= o.Warmup {
			calls = append(calls, *c)
		}
	}
	return calls, used, nil
}

// calibrate measures laws with calls alone, on a cluster with one node, so that it is known what each call finds.
func (o *SimLiveOptions) calibrate(ctx context.Context, loads []*load, data map[stored][]byte, progress func(part float64)) (laws map[string]*fnLaw, h hostLaw, err error) {
	before, _ := readCPU()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return nil, h, context.Cause(ctx)
	}
	after, _ := readCPU()
	h.busy = busyShare(before, after)

	many := 2 * int(max(numCPU(), 2))
	b, err := o.start(ctx, "least-loaded", 1, many, loads, data)
	if err != nil {
		return nil, h, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	specs, err := functions.List()
	if err != nil {
		return nil, h, err
	}
	laws = map[string]*fnLaw{}
	var nets, rtts []float64
	var moved struct{ mb, calls, cpuS, tookS float64 } // while inputs were brought to the node
	rng := rand.New(rand.NewPCG(o.Seed, 0x51e7))
	// Objects are gone through in order of size, whatever the workload will ask for.
	ask := func(l *load, k int) *arrival {
		a := &arrival{load: l}
		if l.payload != nil {
			a.payload = l.payload(rng)
		}
		if len(l.objects) > 0 {
			a.input = l.objects[k%len(l.objects)].key
		}
		return a
	}
	one := func(l *load, k int) (call, error) {
		if err := settle(ctx, rng); err != nil {
			return call{}, err
		}
		c := invoke(ctx, b.hc, b.doors[0], b.tokens[l.tenant], ask(l, k), time.Now())
		if !c.ok {
			return c, fmt.Errorf("call %d of %s: %d %s", k, l.function, c.status, c.body)
		}
		if c.fetched > 0 && c.start != api.SandboxNone.String() { // its artifact is among what it fetched, and not in the time
			rtts = append(rtts, max(c.fetchMs-float64(c.fetched)*8/(simLiveLinkMbps*1000), 0))
		}
		return c, nil
	}
	for i, l := range loads {
		spec := specs[slices.IndexFunc(specs, func(s functions.Spec) bool { return s.Name == l.example })]
		st, err := os.Stat(filepath.Join(o.Functions, spec.File()))
		if err != nil {
			return nil, h, err
		}
		x := &fnLaw{artifactBytes: st.Size(), memoryMB: l.memoryMB, runtime: spec.Runtime, timeout: time.Duration(spec.TimeoutMs) * time.Millisecond}
		laws[l.function] = x
		for round := range o.Cold {
			if err := b.flush(ctx, l.tenant); err != nil {
				return nil, h, err
			}
			c, err := one(l, round)
			if err != nil {
				return nil, h, err
			}
			if c.start == "cold" {
				x.coldMs = append(x.coldMs, c.initMs)
			}
			// Two at once: one finds the warm sandbox, the other only what is prepared.
			pair := [2]call{}
			var wg sync.WaitGroup
			for k := range pair {
				a := ask(l, round)
				wg.Go(func() { pair[k] = invoke(ctx, b.hc, b.doors[0], b.tokens[l.tenant], a, time.Now()) })
			}
			wg.Wait()
			for k := range pair {
				if pair[k].ok && pair[k].start == "prepared" {
					x.preparedMs = append(x.preparedMs, pair[k].initMs)
				}
			}
		}
		// The first time around brings the objects to the node; only calls that find all there say how long a run takes.
		cpu, at := cpuSeconds(), time.Now()
		for k := range len(l.objects) {
			c, err := one(l, k)
			if err != nil {
				return nil, h, err
			}
			moved.mb, moved.calls = moved.mb+float64(c.fetched)/1e6, moved.calls+1
		}
		moved.cpuS, moved.tookS = moved.cpuS+cpuSeconds()-cpu, moved.tookS+time.Since(at).Seconds()
		for k := range o.Alone {
			c, err := one(l, k)
			if err != nil {
				return nil, h, err
			}
			if c.start != "warm" {
				continue
			}
			bytes := len(c.arrival.payload)
			if a := c.arrival.input; a != "" {
				bytes += len(data[stored{a, l.tenant}])
			}
			x.mb, x.runMs, nets = append(x.mb, float64(bytes)/1e6), append(x.runMs, c.runMs), append(nets, c.netMs)
		}
		if err := x.fit(); err != nil {
			return nil, h, fmt.Errorf("%s: %w", l.function, err)
		}
		progress(.8 * float64(i+1) / float64(len(loads)))
	}
	h.netMs, h.storeRTTMs = mean(nets), median(rtts)
	for _, x := range laws {
		x.prepareMs = max(x.prepareMs-float64(x.artifactBytes)*8/(simLiveLinkMbps*1000)-h.storeRTTMs, 0)
	}
	err = o.measureHost(ctx, b, loads[slices.IndexFunc(loads, func(l *load) bool { return l.function == "matmul" })], laws["matmul"], many, &h)
	h.fetchMsPerMB = max(1000*(moved.cpuS-h.idleCores*moved.tookS)-h.platformMs*moved.calls, 0) / max(moved.mb, 1)
	return laws, h, err
}

// settle lets the host fall idle, as it is before most calls of the workload: called one upon the other, short functions ran in
// three quarters of the time that they take when they are called now and then.
func settle(ctx context.Context, rng *rand.Rand) error {
	t := time.NewTimer(time.Duration(rng.ExpFloat64() * float64(settleMean)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// settleMean is about what lies between two calls of the workload.
const settleMean = 30 * time.Millisecond

// measureHost finds out what many calls at once get of the host, and what the platform takes of it.
func (o *SimLiveOptions) measureHost(ctx context.Context, b *bed, l *load, alone *fnLaw, many int, h *hostLaw) error {
	a := &arrival{load: l, payload: `{"n":300}`} // long enough for all to run at once
	wave := func(n int) ([]float64, error) {
		calls := make([]call, n)
		var wg sync.WaitGroup
		for i := range calls {
			wg.Go(func() { calls[i] = invoke(ctx, b.hc, b.doors[0], b.tokens[l.tenant], a, time.Now()) })
		}
		wg.Wait()
		var run []float64
		for i := range calls {
			if !calls[i].ok {
				return nil, fmt.Errorf("call of %s: %d %s", l.function, calls[i].status, calls[i].body)
			}
			run = append(run, calls[i].runMs)
		}
		return run, nil
	}
	if _, err := wave(many); err != nil { // brings up as many sandboxes
		return err
	}
	var single, together []float64
	for range 5 {
		one, err1 := wave(1)
		all, err2 := wave(many)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		single, together = append(single, one...), append(together, all...)
	}
	// In units of what a call alone gets. With others on the host that may be more cores than there are: a call alone has
	// only a part of one then, and many calls have a larger part of all.
	h.cores = min(float64(many)*mean(single)/mean(together), float64(many))

	// What the platform takes: this process's time, without calls and with them, less nothing, since the function is another
	// process.
	idleFrom, at := cpuSeconds(), time.Now()
	select {
	case <-time.After(3 * time.Second): // processor time comes in steps of ten milliseconds
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	h.idleCores = (cpuSeconds() - idleFrom) / time.Since(at).Seconds()
	busyFrom, at := cpuSeconds(), time.Now()
	const calls = 100
	rng := rand.New(rand.NewPCG(o.Seed, 0x1d1e))
	for range calls {
		if err := settle(ctx, rng); err != nil {
			return err
		}
		if c := invoke(ctx, b.hc, b.doors[0], b.tokens[l.tenant], &arrival{load: l, payload: `{"n":20}`}, time.Now()); !c.ok {
			return fmt.Errorf("call of %s: %d %s", l.function, c.status, c.body)
		}
	}
	h.platformMs = max(cpuSeconds()-busyFrom-h.idleCores*time.Since(at).Seconds(), 0) * 1000 / calls
	return nil
}

// flush empties the cluster's nodes, and returns once they are empty.
func (b *bed) flush(ctx context.Context, tenant string) error {
	tok := b.tokens[tenant]
	if err := request(ctx, b.hc, http.MethodPost, b.doors[0]+"/v1/flush", tok, nil, nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		var nodes []struct {
			Objects   int `json:"objects"`
			MemUsedMB int `json:"mem_used_mb"`
		}
		if err := request(ctx, b.hc, http.MethodGet, b.doors[0]+"/v1/nodes", tok, nil, &nodes); err != nil {
			return err
		}
		empty := len(nodes) > 0
		for _, n := range nodes {
			empty = empty && n.Objects == 0 && n.MemUsedMB == 0
		}
		if empty {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("nodes are not empty after a flush: %w", ctx.Err())
		}
	}
}

// fit makes a law of what was measured: least squares over the inputs' sizes, then the median factor and the spread around it.
func (x *fnLaw) fit() error {
	if len(x.runMs) < 2 || len(x.coldMs) == 0 {
		return fmt.Errorf("%d warm runs and %d cold starts were measured: want at least 2 and 1", len(x.runMs), len(x.coldMs))
	}
	x.meanMs = mean(x.runMs)
	mx := mean(x.mb)
	sxx, sxy := 0.0, 0.0
	for i := range x.mb {
		sxx += (x.mb[i] - mx) * (x.mb[i] - mx)
		sxy += (x.mb[i] - mx) * (x.runMs[i] - x.meanMs)
	}
	if sxx > 1e-6 { // sizes that are unlike enough
		x.perMBMs = max(sxy/sxx, 0)
	}
	if x.baseMs = x.meanMs - x.perMBMs*mx; x.baseMs < .05 {
		x.baseMs = .05
		x.perMBMs = max((x.meanMs-x.baseMs)/max(mx, 1e-6), 0)
	}
	var off []float64
	for i := range x.mb {
		off = append(off, math.Log(x.runMs[i]/(x.baseMs+x.perMBMs*x.mb[i])))
	}
	mid := mean(off)
	for _, v := range off {
		x.spread += (v - mid) * (v - mid) / float64(len(off)-1)
	}
	x.spread = min(math.Sqrt(x.spread), 2)
	x.baseMs *= math.Exp(mid)
	x.perMBMs *= math.Exp(mid)
	cold := median(x.coldMs)
	x.startMs = min(median(x.preparedMs), cold)
	x.prepareMs = cold - x.startMs // with the artifact's transfer, until what a fetch waits for is known
	for _, v := range x.coldMs {
		x.coldSpread += math.Pow(math.Log(max(v, .01)/max(cold, .01)), 2) / float64(len(x.coldMs))
	}
	x.coldSpread = min(math.Sqrt(x.coldSpread), 2)
	return nil
}

// simulate makes the same calls in the model, over several seeds of luck, and gives the sums of them all.
func (o *SimLiveOptions) simulate(ctx context.Context, policy string, loads []*load, laws map[string]*fnLaw, h hostLaw, arr []arrival, callsPerS float64) ([]sim.Stats, error) {
	opts := cluster.DefaultOptions("", o.Log)
	zone := sim.Zone{Core: opts.Zone.Zone.Sched}
	zone.Core.Zone, zone.Core.Policy, zone.Core.Records, zone.Core.Seed = simLiveZone, policy, 64, o.Seed
	// What the platform keeps busy, functions do not get. How many calls come is part of the question, not of the answer.
	zone.HostCores = max(h.cores-callsPerS*h.platformMs/1000, .1)
	nc := opts.Node.Node.Node
	nc.Slots, nc.MemoryMB, nc.CacheBytes, nc.LinkMbps = simLiveSlots, demoMemory, demoCache, simLiveLinkMbps
	zone.Nodes = []sim.Nodes{{Count: simLiveNodes, Core: nc, StoreRTT: time.Duration(h.storeRTTMs * 1e6), FetchPerMB: time.Duration(h.fetchMsPerMB * 1e6)}}
	cfg := sim.Config{
		Zones: []sim.Zone{zone}, Latency: time.Duration(h.netMs / 2 * 1e6), Heartbeat: opts.Node.Node.Heartbeat, Warmup: o.Warmup,
		Learn: sim.Learning{Every: 1, Publish: 50 * time.Millisecond, Config: learner.DefaultConfig()},
	}
	at, size, artifacts := map[string]int{}, map[string]int64{}, map[string]int{}
	for i, l := range loads {
		x := laws[l.function]
		at[l.function] = i
		if artifacts[l.example] == 0 {
			artifacts[l.example] = i + 1
		}
		for _, ob := range l.objects {
			size[l.tenant+"/"+ob.key] = int64(ob.bytes)
			if ob.bytes == 0 { // a picture: as large as it came out
				size[l.tenant+"/"+ob.key] = int64(len(ob.data()))
			}
		}
		ns := func(ms float64) time.Duration { return time.Duration(ms * 1e6) }
		cfg.Functions = append(cfg.Functions, sim.Function{
			Spec: api.Function{
				Tenant: l.tenant, Name: l.function, Version: 1, Runtime: x.runtime, Artifact: fmt.Sprintf("%064x", artifacts[l.example]), ArtifactBytes: x.artifactBytes,
				MemoryMB: x.memoryMB, Timeout: x.timeout, Objective: api.Objective{Deadline: l.deadline},
			},
			Prepare: ns(x.prepareMs), Start: ns(x.startMs), ColdSpread: x.coldSpread, Run: ns(x.baseMs), PerMB: ns(x.perMBMs), Spread: x.spread,
		})
	}
	for i := range arr {
		a := &arr[i]
		inv := &api.Invocation{PayBytes: int64(len(a.payload))}
		if a.input != "" {
			key := a.load.tenant + "/" + a.input
			inv.Inputs = []api.Object{{Key: key, Bytes: size[key]}}
		}
		cfg.Trace = append(cfg.Trace, sim.Recorded{At: a.at, Function: at[a.load.function], Call: inv})
	}
	sums := make([]sim.Stats, len(loads))
	for seed := range o.SimSeeds {
		cfg.Seed = o.Seed + uint64(seed)<<16
		w, err := sim.New(cfg)
		if err != nil {
			return nil, err
		}
		end := o.Warmup + o.Measure
		for w.Run(end); w.Open() > 0 && end < time.Hour; end += time.Second {
			if err := ctx.Err(); err != nil {
				return nil, context.Cause(ctx)
			}
			w.Run(end)
		}
		if v := w.Violation(); v != "" {
			return nil, fmt.Errorf("simulated: a broken invariant: %s", v)
		}
		for i, s := range w.FunctionStats() {
			sums[i].Add(&s)
		}
	}
	return sums, nil
}

// zoneMs is from arrival at the zone to its answer, as the simulator has it.
func (c *call) zoneMs() float64 { return c.queueMs + c.delayMs + c.execMs() + c.netMs }

// simLiveRow is the figures of one function, or of all, on either side.
type simLiveRow struct{ mean, p50, p95, p99, exec, delay, queue, cold, n float64 }

func liveRow(calls []call, function string) simLiveRow {
	var x simLiveRow
	var total []float64
	for i := range calls {
		c := &calls[i]
		if !c.ok || function != "all" && c.arrival.load.function != function {
			continue
		}
		total = append(total, c.zoneMs())
		x.exec += c.execMs()
		x.delay += c.delayMs
		x.queue += c.queueMs
		if c.start != "warm" {
			x.cold++
		}
	}
	x.n = float64(max(len(total), 1))
	x.mean, x.p50, x.p95, x.p99 = mean(total), quantile(total, .5), quantile(total, .95), quantile(total, .99)
	x.exec, x.delay, x.queue = x.exec/x.n, x.delay/x.n, x.queue/x.n
	return x
}

func (o *SimLiveOptions) simRow(s *sim.Stats) simLiveRow {
	n := float64(max(s.Answered, 1))
	runs := float64(o.SimSeeds * o.Repeats)
	return simLiveRow{
		mean: s.TotalMs / n, p50: s.Latency.Quantile(.5), p95: s.Latency.Quantile(.95), p99: s.Latency.Quantile(.99),
		exec: s.ExecMs / n, delay: s.DelayMs / n, queue: s.QueueMs / n, cold: float64(s.ColdStarts) / runs, n: n / runs,
	}
}

// compare adds the figures of one policy: live, simulated, and how much the simulated one is above, in percent of the live one.
func (o *SimLiveOptions) compare(r *Report, policy string, loads []*load, live []call, modelled []sim.Stats) {
	rows := []string{"all"}
	var all sim.Stats
	for i, l := range loads {
		rows = append(rows, l.function)
		all.Add(&modelled[i])
	}
	for i, fn := range rows {
		s := &all
		prefix := policy + "."
		if i > 0 {
			s, prefix = &modelled[i-1], policy+"."+fn+"."
		}
		a, b := liveRow(live, fn), o.simRow(s)
		a.cold /= float64(o.Repeats)
		for _, m := range []struct {
			name           string
			live, modelled float64
			unit           string
		}{
			{"mean", a.mean, b.mean, "ms"}, {"p50", a.p50, b.p50, "ms"}, {"p95", a.p95, b.p95, "ms"}, {"p99", a.p99, b.p99, "ms"},
			{"exec_mean", a.exec, b.exec, "ms"}, {"delay_mean", a.delay, b.delay, "ms"}, {"cold_starts", a.cold, b.cold, ""},
		} {
			r.add(prefix+m.name+".live", m.live, m.unit)
			r.add(prefix+m.name+".sim", m.modelled, m.unit)
			if m.live > 0 {
				r.add(prefix+m.name+".gap_pct", 100*(m.modelled-m.live)/m.live, "%")
			}
		}
		if i > 0 {
			continue
		}
		var door []float64
		for k := range live {
			if live[k].ok {
				door = append(door, live[k].e2eMs-live[k].zoneMs())
			}
		}
		r.add(policy+".live.door_ms", mean(door), "ms before and after the zone, not compared")
		r.add(policy+".live.failed", float64(len(live)-len(door))/float64(o.Repeats), "calls without a result, not compared")
		r.add(policy+".sim.failed", float64(s.Calls-s.Answered)/float64(o.SimSeeds*o.Repeats), "")
		net := func(x simLiveRow) float64 { return x.mean - x.exec - x.delay - x.queue }
		r.Notes = append(r.Notes, fmt.Sprintf("%s: the simulated mean is %+.1f ms off: %+.1f ms in execution, %+.1f in messages, %+.1f in delays, %+.1f in queues (%.0f calls)",
			policy, b.mean-a.mean, b.exec-a.exec, net(b)-net(a), b.delay-a.delay, b.queue-a.queue, a.n))
	}
}

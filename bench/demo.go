package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"crypto/sha256"

	"github.com/rubato-faas/rubato/cluster"
	"github.com/rubato-faas/rubato/coordinator/globald"
	"github.com/rubato-faas/rubato/examples/functions"
	"github.com/rubato-faas/rubato/gateway"
	"github.com/rubato-faas/rubato/zonesched/zoned"
)

// DemoOptions size the demo.
type DemoOptions struct {
	// Functions is the folder with the built example functions.
	Functions string
	// Duration of the arrivals in each of the six runs.
	Duration time.Duration
	// Rate scales all arrival rates (1: as designed for two cores; a slow machine gets fewer calls by itself).
	Rate float64
	Seed uint64
	// Only names the policies to run, of DemoPolicies; empty runs all.
	Only []string
	// Calls, if not nil, gets one CSV line per call of every run.
	Calls io.Writer
	Log   *slog.Logger
	// Progress hears how far the demo is: calls done of total over all runs, and what it does now.
	Progress func(done, total int, doing string)
}

// DefaultDemoOptions takes about two and a half minutes.
func DefaultDemoOptions() DemoOptions {
	return DemoOptions{Duration: 21 * time.Second, Rate: 1, Seed: 1, Log: slog.New(slog.DiscardHandler), Progress: func(int, int, string) {}}
}

// PolicyRow is one row of the table: one policy and one function, or all.
type PolicyRow struct {
	Policy       string  `json:"policy"`
	Function     string  `json:"function"`
	Role         string  `json:"role,omitempty"`
	Calls        int     `json:"calls"`
	Answered     int     `json:"answered"`
	MeanMs       float64 `json:"mean_ms"`
	P50Ms        float64 `json:"p50_ms"`
	P95Ms        float64 `json:"p95_ms"`
	P99Ms        float64 `json:"p99_ms"`
	ExecMeanMs   float64 `json:"exec_mean_ms"`
	DelayMeanMs  float64 `json:"delay_mean_ms"`
	QueueMeanMs  float64 `json:"queue_mean_ms"`
	Misses       int     `json:"misses"`
	ColdStarts   int     `json:"cold_starts"`
	FetchedBytes int64   `json:"fetched_bytes"`
}

// ZoneModel is the model of one zone at the end of the rubato run.
type ZoneModel struct {
	Zone              string         `json:"zone"`
	Version           uint64         `json:"version"`
	Samples           uint64         `json:"samples"`
	ErrorOverAverages float64        `json:"error_over_averages"`
	Trees             map[string]int `json:"trees"` // that predict, by zone of origin
}

// Model is the model's life during the rubato run.
type Model struct {
	Samples        uint64         `json:"samples"`
	MergedVersions uint64         `json:"merged_versions"`
	PoolTrees      map[string]int `json:"pool_trees"` // by zone of origin
	Zones          []ZoneModel    `json:"zones"`
}

// Fairness is how the comparison was made.
type Fairness struct {
	LinkMbps     float64            `json:"link_mbps"`
	Rate         float64            `json:"rate"`              // scale of the arrival rates, below 1 on a slow machine
	RemoteRatio  map[string]float64 `json:"remote_over_local"` // by function, measured
	HostCPU      map[string]float64 `json:"host_cpu"`          // share, by run
	FixedWaitsMs []float64          `json:"fixed_waits_ms"`
	FixedMeansMs []float64          `json:"fixed_means_ms"`
	BestWaitMs   float64            `json:"best_wait_ms"`
	Notes        []string           `json:"notes"`
	// Breaches are what keeps this comparison from being fair; none on a quiet machine.
	Breaches []string `json:"breaches"`
}

// DemoResult is the demo's document.
type DemoResult struct {
	Policies []PolicyRow    `json:"policies"`
	Model    Model          `json:"model"`
	Explain  string         `json:"explain"`
	Fairness Fairness       `json:"fairness"`
	Env      map[string]any `json:"env"`
}

// fixedWaits are the three waits of the fixed-delay baseline: below, about and above the functions' execution times.
var fixedWaits = []time.Duration{25 * time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond}

// demoNode is the size of a node: two slots, memory for about six sandboxes, a cache for a part of the objects.
const (
	demoSlots   = 2
	demoMemory  = 1024
	demoCache   = 48 << 20
	demoNodes   = 4
	demoModelEv = 3 * time.Second
)

// run is one policy's run.
type run struct {
	policy string
	wait   time.Duration
	calls  []call
	cpu    float64
}

// name is the policy, with its wait if it has one.
func (r *run) name() string {
	if r.wait > 0 {
		return r.policy + " " + r.wait.String()
	}
	return r.policy
}

// Demo runs every policy on the same arrivals, each on a cluster of its own that starts empty.
func Demo(ctx context.Context, o DemoOptions) (*DemoResult, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	loads := demoLoads()
	o.Progress(0, 1, "measuring functions")
	cal, err := calibrate(ctx, o, loads)
	if err != nil {
		return nil, err
	}
	for _, l := range loads {
		l.ratePerS *= o.Rate * cal.rate
	}
	arr := arrivals(loads, 2, o.Duration, o.Seed)
	runs := []*run{{policy: "round-robin"}, {policy: "least-loaded"}}
	for _, w := range fixedWaits {
		runs = append(runs, &run{policy: "fixed-delay", wait: w})
	}
	runs = append(runs, &run{policy: "rubato"})
	if len(o.Only) > 0 {
		runs = slices.DeleteFunc(runs, func(r *run) bool { return !slices.Contains(o.Only, r.policy) })
	}
	data := prepareData(loads)
	res := &DemoResult{Env: environment()}
	total := len(arr) * len(runs)
	for i, r := range runs {
		name := r.name()
		progress := func(done int) { o.Progress(i*len(arr)+done, total, name) }
		progress(0)
		if err := o.runPolicy(ctx, r, loads, data, arr, cal.linkMbps, progress, res); err != nil {
			return nil, fmt.Errorf("demo %s: %w", name, err)
		}
	}
	summarise(res, runs, loads, cal)
	if o.Calls != nil {
		if err := writeCalls(o.Calls, runs); err != nil {
			return nil, fmt.Errorf("demo calls: %w", err)
		}
	}
	return res, nil
}

type stored struct{ key, tenant string }

// prepareData makes the objects once; every cluster gets the same bytes.
func prepareData(loads []*load) map[stored][]byte {
	out := map[stored][]byte{}
	for _, l := range loads {
		for _, ob := range l.objects {
			out[stored{ob.key, l.tenant}] = ob.data()
		}
	}
	return out
}

// runPolicy starts an empty cluster under a policy, deploys, drives the arrivals and stops it.
func (o *DemoOptions) runPolicy(ctx context.Context, r *run, loads []*load, data map[stored][]byte, arr []arrival, link float64, progress func(int), res *DemoResult) (err error) {
	dir, err := os.MkdirTemp("", "rubato-demo-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tokens := map[string]string{}
	opts := cluster.DefaultOptions(dir, o.Log)
	opts.Zone.Gateway.Auth = "on"
	for _, l := range loads {
		if tokens[l.tenant] == "" {
			tokens[l.tenant] = token()
			opts.Zone.Gateway.Tokens = append(opts.Zone.Gateway.Tokens, gateway.Token{Token: tokens[l.tenant], Tenant: l.tenant, Operator: true})
		}
	}
	opts.Nodes = demoNodes
	n := &opts.Node.Node.Node
	n.Slots, n.MemoryMB, n.CacheBytes, n.LinkMbps = demoSlots, demoMemory, demoCache, link
	s := &opts.Zone.Zone.Sched
	s.Policy, s.Seed = r.policy, o.Seed
	if r.wait > 0 {
		s.PolicyConfig.FixedDelay = r.wait
	}
	opts.Zone.Zone.ModelEvery, opts.Global.MergeEvery = demoModelEv, time.Second
	cl, err := cluster.Up(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cl.Down()) }()
	doors := []string{cl.Door("edge"), cl.Door("core")}
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	defer hc.CloseIdleConnections()
	if err := deployAll(ctx, hc, doors, tokens, loads, data, o.Functions); err != nil {
		return err
	}
	before, _ := readCPU()
	r.calls = drive(ctx, hc, doors, tokens, arr, progress)
	after, _ := readCPU()
	r.cpu = busyShare(before, after)
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	for i := range r.calls {
		if c := &r.calls[i]; !c.ok {
			o.Log.Warn("call failed", "policy", r.policy, "function", c.arrival.load.function, "status", c.status, "body", c.body)
		}
	}
	if r.policy != "rubato" {
		return nil
	}
	return modelOf(ctx, hc, doors, tokens, r, res)
}

func token() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// deployAll puts objects and artifacts and deploys the functions; both zones know them when it returns.
func deployAll(ctx context.Context, hc *http.Client, doors []string, tokens map[string]string, loads []*load, data map[stored][]byte, dir string) error {
	specs, err := functions.List()
	if err != nil {
		return err
	}
	for _, l := range loads {
		i := slices.IndexFunc(specs, func(s functions.Spec) bool { return s.Name == l.example })
		if i < 0 {
			return fmt.Errorf("no example function %q", l.example)
		}
		art, err := os.ReadFile(filepath.Join(dir, specs[i].File()))
		if err != nil {
			return fmt.Errorf("example functions are not built (make build): %w", err)
		}
		sum := sha256.Sum256(art)
		digest := hex.EncodeToString(sum[:])
		if err := request(ctx, hc, http.MethodPut, doors[0]+"/v1/artifacts/"+digest, tokens[l.tenant], art, nil); err != nil {
			return err
		}
		spec, err := json.Marshal(map[string]any{
			"runtime": specs[i].Runtime, "artifact": digest, "memory_mb": l.memoryMB, "timeout_ms": specs[i].TimeoutMs,
			"objective_deadline_ms": l.deadline.Milliseconds(),
		})
		if err != nil {
			return err
		}
		if err := request(ctx, hc, http.MethodPut, doors[0]+"/v1/functions/"+l.function, tokens[l.tenant], spec, nil); err != nil {
			return err
		}
		for _, ob := range l.objects {
			if err := request(ctx, hc, http.MethodPut, doors[0]+"/v1/objects/"+ob.key, tokens[l.tenant], data[stored{ob.key, l.tenant}], nil); err != nil {
				return err
			}
		}
	}
	return eachKnows(ctx, hc, doors, tokens, loads)
}

// eachKnows waits until every door knows every function.
func eachKnows(ctx context.Context, hc *http.Client, doors []string, tokens map[string]string, loads []*load) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for _, d := range doors {
		for _, l := range loads {
			for {
				err := request(ctx, hc, http.MethodGet, d+"/v1/functions/"+l.function, tokens[l.tenant], nil, nil)
				if err == nil {
					break
				}
				select {
				case <-t.C:
				case <-ctx.Done():
					return fmt.Errorf("function %s has not reached %s: %w", l.function, d, err)
				}
			}
		}
	}
	return nil
}

// request does one HTTP request and decodes a JSON answer into out when given.
func request(ctx context.Context, hc *http.Client, method, url, token string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, clip(string(b)))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// modelPatience is how long the end of a short run may be waited on for the first merged model to be in use.
const modelPatience = 10 * time.Second

// modelOf asks the zones and the coordinator for the model's life, and for the words of one delayed call.
func modelOf(ctx context.Context, hc *http.Client, doors []string, tokens map[string]string, r *run, res *DemoResult) error {
	var tok string
	for _, l := range demoLoads() {
		tok = tokens[l.tenant]
	}
	views := make([]zoned.ModelView, len(doors))
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for patience := time.After(modelPatience); ; {
		adopted := true
		for i, d := range doors {
			views[i] = zoned.ModelView{}
			if err := request(ctx, hc, http.MethodGet, d+"/v1/model", tok, nil, &views[i]); err != nil {
				return err
			}
			adopted = adopted && views[i].Stats.Version > 0
		}
		if adopted {
			break
		}
		select {
		case <-tick.C:
			continue
		case <-patience:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		break
	}
	for _, m := range views {
		res.Model.Samples += m.Stats.Usable
		res.Model.Zones = append(res.Model.Zones, ZoneModel{
			Zone: m.Zone, Version: m.Stats.Version, Samples: m.Stats.Usable, ErrorOverAverages: m.Stats.ErrorOverAverages, Trees: m.Trees,
		})
	}
	var s globald.Status
	if err := request(ctx, hc, http.MethodGet, doors[0]+"/v1/zones", tok, nil, &s); err != nil {
		return err
	}
	res.Model.MergedVersions, res.Model.PoolTrees = s.Pool.Version, s.Pool.Trees
	var pick *call
	for i := range r.calls {
		c := &r.calls[i]
		if c.decision == "delayed" && c.ok && (pick == nil || c.delayMs > pick.delayMs) {
			pick = c
		}
	}
	if pick == nil {
		res.Explain = "No call was held back in this run."
		return nil
	}
	var e zoned.Explanation
	if err := request(ctx, hc, http.MethodGet, doors[pick.arrival.zone]+"/v1/invocations/"+pick.id+"/explain", tok, nil, &e); err != nil {
		return err
	}
	res.Explain = e.Words
	return nil
}

// Package lab makes experiments of the simulator: scenario files, workloads from recorded traces, policies compared on the
// same arrivals, figures with confidence intervals, plots. It reads what it is handed and prints nothing; the command line
// is its caller. Times are virtual; milliseconds are float64. A Scenario may be used by several goroutines that only read.
package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/nodeagent"
	"github.com/rubato-faas/rubato/sim"
	"github.com/rubato-faas/rubato/zonesched"
)

// Limits of scenarios.
const (
	MaxScenarioBytes = 1 << 20
	MaxDuration      = 30 * 24 * time.Hour
	maxNodes         = 100_000 // of all zones
	maxChanges       = 1024
)

// Duration is written as Go writes it: 1.5s, 200us.
type Duration time.Duration

// UnmarshalYAML reads a duration.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v < 0 {
		return fmt.Errorf("line %d: duration %.40q: want one that is not negative, like 200us, 15ms or 1m30s", n.Line, n.Value)
	}
	*d = Duration(v)
	return nil
}

// Bytes is written as a number with a unit: B, kB, MB, GB (powers of 1000), KiB, MiB, GiB.
type Bytes int64

var units = []struct {
	name string
	n    float64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}}

// UnmarshalYAML reads a size.
func (b *Bytes) UnmarshalYAML(n *yaml.Node) error {
	for _, u := range units {
		number, ok := strings.CutSuffix(n.Value, u.name)
		if !ok {
			continue
		}
		x, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(x >= 0 && x*u.n <= 1<<50) {
			break
		}
		*b = Bytes(x * u.n)
		return nil
	}
	return fmt.Errorf("line %d: size %.40q: want a number with a unit, like 250kB, 8MB or 2GiB", n.Line, n.Value)
}

// Scenario is a world, its workload and how long it lasts. docs/simulator.md explains every key.
type Scenario struct {
	Name     string   `yaml:"name"`
	About    string   `yaml:"about"`
	Seed     uint64   `yaml:"seed"`
	Duration Duration `yaml:"duration"`
	Warmup   Duration `yaml:"warmup"`
	// Rate multiplies all arrival rates (0: 1).
	Rate         float64            `yaml:"rate"`
	Policy       string             `yaml:"policy"`
	PolicyConfig Rule               `yaml:"policy_config"`
	Scheduler    Scheduler          `yaml:"scheduler"`
	Network      Network            `yaml:"network"`
	Learn        Learn              `yaml:"learn"`
	Runtimes     map[string]Runtime `yaml:"runtimes"`
	Objects      []Objects          `yaml:"objects"`
	Functions    []Function         `yaml:"functions"`
	// Population is functions that are drawn beside those; once the scenario is read, Functions has them too.
	Population *Population `yaml:"population"`
	Zones      []Zone      `yaml:"zones"`
	Changes    []Change    `yaml:"changes"`

	trace  *Trace  // instead of Functions
	replay *replay // the same
	notes  []string
}

// Rule tunes the policies.
type Rule struct {
	DelayMax   *Duration `yaml:"delay_max"`
	Explore    *float64  `yaml:"explore"`
	FixedDelay *Duration `yaml:"fixed_delay"`
}

// Scheduler tunes every zone's core; what is left out is as in production.
type Scheduler struct {
	Candidates  int      `yaml:"candidates"`
	MaxWaiting  int      `yaml:"max_waiting"`
	NodeTimeout Duration `yaml:"node_timeout"`
	// Mode is how far the rule acts, as rubato policy --mode takes it: on, canary=.1, shadow, off.
	Mode string `yaml:"mode"`
	// These are a zone's settings of the same names.
	WhenLate    string    `yaml:"when_late"`
	MaxBacklog  *Duration `yaml:"max_backlog"`
	HedgeBudget *float64  `yaml:"hedge_budget"`
	Scout       *float64  `yaml:"scout"`
	Fallback    string    `yaml:"fallback"`
	// SlowStart is 10s when it is left out; 0s turns it off.
	SlowStart *Duration `yaml:"slow_start"`
}

// Network says how long messages take.
type Network struct {
	Latency   Duration `yaml:"latency"`
	Between   Duration `yaml:"between_zones"`
	Loss      float64  `yaml:"loss"`
	Late      Duration `yaml:"late"`
	Heartbeat Duration `yaml:"heartbeat"`
	// Links are the ways between pairs of zones where they are not as long as Between.
	Links []Link `yaml:"links"`
}

// Link is the way between two zones: a round trip, and what the payload and inputs of forwarded calls cross it at (0: no limit).
type Link struct {
	From string   `yaml:"from"`
	To   string   `yaml:"to"`
	RTT  Duration `yaml:"rtt"`
	Mbps float64  `yaml:"mbps"`
}

// Learn says how zones learn.
type Learn struct {
	Every   *int     `yaml:"every"`
	Eager   int      `yaml:"eager"`
	Publish Duration `yaml:"publish"`
	// Exchange is how often zones offer trees to the pool: 30s when it is left out; 0s is never.
	Exchange *Duration `yaml:"exchange"`
	Window   int       `yaml:"window"`
	Trees    int       `yaml:"trees"`
	Noise    float64   `yaml:"noise"`
}

// Runtime is the cold start law of a runtime.
type Runtime struct {
	Prepare Duration `yaml:"prepare"`
	Start   Duration `yaml:"start"`
	Spread  float64  `yaml:"spread"`
}

// Objects is a set of inputs that functions may share.
type Objects struct {
	Name   string  `yaml:"name"`
	Count  int     `yaml:"count"`
	Size   Bytes   `yaml:"size"`
	Spread float64 `yaml:"spread"`
	Zipf   float64 `yaml:"zipf"`
}

// Function is one function, or Count alike ones.
type Function struct {
	Name  string  `yaml:"name"`
	Count int     `yaml:"count"`
	Vary  float64 `yaml:"vary"`
	Zipf  float64 `yaml:"zipf"`
	// Tenant is whose it is (default sim).
	Tenant   string   `yaml:"tenant"`
	Runtime  string   `yaml:"runtime"`
	Artifact Bytes    `yaml:"artifact"`
	MemoryMB int      `yaml:"memory_mb"`
	Timeout  Duration `yaml:"timeout"`
	Deadline Duration `yaml:"deadline"`
	Share    float64  `yaml:"deadline_share"`
	DelayOff bool     `yaml:"delay_off"`
	// Idempotent calls may be sent twice; the weights are what price and a missed deadline are worth, see api.Objective.
	Idempotent  bool    `yaml:"idempotent"`
	PriceWeight float64 `yaml:"price_weight"`
	MissWeight  float64 `yaml:"miss_weight"`
	// What its nodes must have, and the sandboxes that each zone keeps warm.
	Arch        string   `yaml:"arch"`
	Accelerator string   `yaml:"accelerator"`
	Tags        []string `yaml:"tags"`
	MinWarm     int      `yaml:"min_warm"`

	Run        Duration  `yaml:"run"`
	PerMB      Duration  `yaml:"per_mb"`
	Power      float64   `yaml:"power"`
	Spread     float64   `yaml:"spread"`
	Kernel     string    `yaml:"kernel"`
	Prepare    *Duration `yaml:"prepare"`
	Start      *Duration `yaml:"start"`
	ColdSpread *float64  `yaml:"cold_spread"`
	Crash      float64   `yaml:"crash"`
	Hang       float64   `yaml:"hang"`

	Calls Calls `yaml:"calls"`
}

// Calls is how a function is called.
type Calls struct {
	PerS          float64  `yaml:"per_s"`
	Burst         float64  `yaml:"burst"`
	BurstFor      Duration `yaml:"burst_for"`
	BurstEvery    Duration `yaml:"burst_every"`
	Ramp          Duration `yaml:"ramp"`
	Objects       string   `yaml:"objects"`
	Inputs        int      `yaml:"inputs"`
	Payload       Bytes    `yaml:"payload"`
	PayloadSpread float64  `yaml:"payload_spread"`
	Patience      Duration `yaml:"patience"`
	Async         float64  `yaml:"async"`
	// Timer: calls come at equal intervals, not by chance.
	Timer bool `yaml:"timer"`
	// Priority is 0-9, as callers name it. Affinity: each call names one of so many keys.
	Priority uint8 `yaml:"priority"`
	Affinity int   `yaml:"affinity"`
}

// Zone is one zone and its nodes. Share is its part of all calls, beside the others' (default 1).
type Zone struct {
	Name   string   `yaml:"name"`
	Tier   string   `yaml:"tier"`
	Region string   `yaml:"region"`
	Share  *float64 `yaml:"share"`
	// HostCores: all nodes are one machine with so many cores (0: each is its own).
	HostCores float64 `yaml:"host_cores"`
	Nodes     []Nodes `yaml:"nodes"`
}

// Nodes is a group of equal nodes.
type Nodes struct {
	Count       int                `yaml:"count"`
	Class       string             `yaml:"class"`
	Slots       int                `yaml:"slots"`
	Cores       float64            `yaml:"cores"`
	MemoryMB    int                `yaml:"memory_mb"`
	Cache       Bytes              `yaml:"cache"`
	Artifacts   int                `yaml:"artifacts"`
	LinkMbps    float64            `yaml:"link_mbps"`
	Speed       map[string]float64 `yaml:"speed"`
	Drift       float64            `yaml:"drift"`
	DriftPeriod Duration           `yaml:"drift_period"`
	Distance    Duration           `yaml:"distance"`
	StoreRTT    Duration           `yaml:"store_rtt"`
	FetchPerMB  Duration           `yaml:"fetch_per_mb"`
	Serial      bool               `yaml:"serial_link"`
	MTBF        Duration           `yaml:"mtbf"`
	Repair      Duration           `yaml:"repair"`
	Price       float64            `yaml:"price_per_hour"`
	Energy      uint8              `yaml:"energy_class"`
	Arch        string             `yaml:"arch"`
	Accelerator string             `yaml:"accelerator"`
	Tags        []string           `yaml:"tags"`
	KeepAlive   Duration           `yaml:"keep_alive"`
}

// Change alters the world in mid-run.
type Change struct {
	At       Duration `yaml:"at"`
	Function string   `yaml:"function"`
	Run      float64  `yaml:"run"`
	PerMB    float64  `yaml:"per_mb"`
	Rate     float64  `yaml:"rate"`
	Class    string   `yaml:"class"`
	Speed    float64  `yaml:"speed"`
}

// Read reads a scenario and checks it. Keys that nobody knows are refused: a misspelt one would silently be the default.
func Read(r io.Reader) (*Scenario, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxScenarioBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxScenarioBytes {
		return nil, fmt.Errorf("%w: scenario: more than %d bytes", api.ErrTooLarge, MaxScenarioBytes)
	}
	var s Scenario
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("empty")
		}
		return nil, fmt.Errorf("%w: scenario: %s", api.ErrInvalid, yamlError(err))
	}
	if err := d.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: scenario: more than one document: want one scenario a file", api.ErrInvalid)
	}
	if s.Policy == "" {
		s.Policy = "rubato"
	}
	if s.Seed == 0 {
		s.Seed = 1
	}
	err = s.populate()
	if err == nil {
		err = s.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("scenario %s: %w", s.Name, err)
	}
	return &s, nil
}

// yamlError says what was wrong in the file's words, not in those of Go's types.
func yamlError(err error) string {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	msg = strings.ReplaceAll(strings.ReplaceAll(msg, "unmarshal errors:\n  ", ""), "\n  ", "; ")
	for _, t := range []string{"Scenario", "Rule", "Scheduler", "Network", "Learn", "Runtime", "Objects", "Function", "Population", "Calls", "Zone", "Nodes", "Change", "Link"} {
		msg = strings.ReplaceAll(msg, "not found in type lab."+t, "is not known in "+strings.ToLower(t))
	}
	return msg
}

func (s *Scenario) validate() error {
	if err := api.CheckName("scenario", s.Name); err != nil {
		return err
	}
	if s.Duration <= 0 || time.Duration(s.Duration) > MaxDuration || s.Warmup >= s.Duration {
		return fmt.Errorf("%w: duration %v, warmup %v: want a duration of at most %v that is above the warm-up", api.ErrInvalid, time.Duration(s.Duration), time.Duration(s.Warmup), MaxDuration)
	}
	nodes := 0
	for i := range s.Zones {
		for _, g := range s.Zones[i].Nodes {
			nodes += max(g.Count, 0)
		}
	}
	if nodes < 1 || nodes > maxNodes {
		return fmt.Errorf("%w: %d nodes in all zones: want 1-%d", api.ErrInvalid, nodes, maxNodes)
	}
	p, err := ParsePolicy(s.Policy)
	if err != nil {
		return err
	}
	_, err = s.Config(p, s.Seed)
	return err
}

// Policy is a rule with what has to be said about it in one word: "rubato", "fixed-delay=400ms", "rubato=0s", "oracle", "laws".
type Policy struct {
	// Name is as it was written. Rule is the core's name for it.
	Name, Rule string
	// Wait is the wait of a fixed delay, or how long another rule may wait at most; below 0: as the scenario has it.
	Wait time.Duration
	// Oracle gives the rule the world's true laws instead of a forest, Luck what chance has drawn for each call, too.
	Oracle, Luck bool
}

// ParsePolicy reads a policy. Which rules there are is up to zonesched/policy.
func ParsePolicy(s string) (Policy, error) {
	p := Policy{Name: s, Rule: s, Wait: -1}
	switch s {
	case "oracle":
		p.Rule, p.Oracle, p.Luck = "rubato", true, true
		return p, nil
	case "laws":
		p.Rule, p.Oracle = "rubato", true
		return p, nil
	}
	if rule, wait, ok := strings.Cut(s, "="); ok {
		d, err := time.ParseDuration(wait)
		if err != nil || d < 0 || d == 0 && strings.HasPrefix(rule, "fixed-delay") {
			return p, fmt.Errorf("%w: policy %.60q: want a name, fixed-delay=WAIT with a wait like 400ms, or rubato=WAIT with the longest wait, 0s for never", api.ErrInvalid, s)
		}
		p.Rule, p.Wait = rule, d
	}
	c := zonesched.DefaultConfig()
	c.Policy = p.Rule
	if err := c.Validate(); err != nil {
		return p, fmt.Errorf("%w (or oracle: rubato with the true times; laws: with the true laws, without each call's luck)", err)
	}
	return p, nil
}

// FunctionNames are in the order of the world's functions.
func (s *Scenario) FunctionNames() []string {
	var out []string
	if s.replay != nil {
		return s.replay.ids
	}
	if s.trace != nil {
		for i := range s.trace.Functions {
			out = append(out, s.trace.Functions[i].Name)
		}
		return out
	}
	for i := range s.Functions {
		f := &s.Functions[i]
		if f.Count == 0 {
			out = append(out, f.Name)
		}
		for k := range f.Count {
			out = append(out, f.Name+"-"+strconv.Itoa(k))
		}
	}
	return out
}

// Workload names what is called: the scenario's own functions, or a trace.
func (s *Scenario) Workload() string {
	if s.replay != nil && s.Name != "replay" {
		return s.Name + "/replay"
	}
	if s.trace != nil {
		return s.Name + "/" + s.trace.Name
	}
	return s.Name
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// Config makes the world for one run. The seed decides arrivals, luck and all else.
func (s *Scenario) Config(p Policy, seed uint64) (sim.Config, error) {
	cfg := sim.Config{
		Seed: seed, Latency: time.Duration(or(s.Network.Latency, Duration(300*time.Microsecond))), Loss: s.Network.Loss, Late: time.Duration(s.Network.Late),
		Between: time.Duration(or(s.Network.Between, defaultBetween)), Heartbeat: time.Duration(or(s.Network.Heartbeat, Duration(time.Second))),
		Warmup: time.Duration(s.Warmup), Learn: s.learning(p),
	}
	sets := map[string]int{}
	for i, o := range s.Objects {
		if _, twice := sets[o.Name]; twice {
			return cfg, fmt.Errorf("%w: two object sets %s: want names of their own", api.ErrInvalid, o.Name)
		}
		sets[o.Name] = i
		cfg.Objects = append(cfg.Objects, sim.ObjectSet{Name: o.Name, Count: o.Count, Bytes: int64(o.Size), Spread: o.Spread, Zipf: o.Zipf})
	}
	shares, err := s.zones(&cfg, p)
	if err != nil {
		return cfg, err
	}
	if err := s.links(&cfg); err != nil {
		return cfg, err
	}
	switch {
	case s.replay != nil:
		s.replay.fill(&cfg)
	case s.trace != nil:
		err = s.trace.fill(&cfg, s, shares)
	default:
		err = s.functions(&cfg, sets, shares)
	}
	if p.Wait == 0 && p.Rule == "rubato" {
		neverWait(&cfg)
	}
	if err == nil {
		err = s.changes(&cfg)
	}
	if err == nil {
		err = cfg.Validate()
	}
	return cfg, err
}

// defaultBetween is the way between zones where a scenario says nothing of it.
const defaultBetween = Duration(10 * time.Millisecond)

// defaultExchange is zoned's model_every.
const defaultExchange = 30 * time.Second

// metronomeLearns is a random forest of the newest samples that is trained now and then, as the policy's authors have it. The
// figures are ours: in the experiments ten seconds are 250-2,500 calls, so a window is several trainings long, and a forest
// that is out of date lasts a sixth of a run; a training on 4,096 rows takes about a twentieth of a second of a core, .5 % of it.
var metronomeLearns = sim.Retrain{Window: 4096, Every: 10 * time.Second}

func (s *Scenario) learning(p Policy) sim.Learning {
	l := sim.Learning{Every: 1, Eager: s.Learn.Eager, Publish: time.Duration(s.Learn.Publish), Oracle: p.Oracle, Luck: p.Luck, Noise: s.Learn.Noise, Config: learner.DefaultConfig()}
	l.Exchange = defaultExchange
	if s.Learn.Exchange != nil {
		l.Exchange = time.Duration(*s.Learn.Exchange)
	}
	if s.Learn.Every != nil {
		l.Every = *s.Learn.Every
	}
	l.Config.Window = or(s.Learn.Window, l.Config.Window)
	l.Config.Trees = or(s.Learn.Trees, l.Config.Trees)
	l.Config.Pick = or(s.Learn.Trees, l.Config.Pick)
	if p.Rule == "metronome" {
		l.Retrain = metronomeLearns
	}
	return l
}

// zones adds the zones, and gives the share of calls that each is to have.
func (s *Scenario) zones(cfg *sim.Config, p Policy) ([]float64, error) {
	var shares []float64
	sum := 0.0
	for i := range s.Zones {
		z := &s.Zones[i]
		core := zonesched.DefaultConfig()
		tier, err := api.ParseTier(or(z.Tier, "core"))
		if err != nil {
			return nil, fmt.Errorf("zone %s: %w", z.Name, err)
		}
		core.Zone, core.Tier, core.Region, core.Seed, core.Policy, core.Records = z.Name, tier, z.Region, 0, p.Rule, 64
		core.Candidates = or(s.Scheduler.Candidates, core.Candidates)
		core.KeepForest = s.Learn.Noise > 0 // which is to be lived with: it leaves averages alone, and they would stand in
		core.MaxWaiting = or(s.Scheduler.MaxWaiting, core.MaxWaiting)
		core.NodeTimeout = time.Duration(or(s.Scheduler.NodeTimeout, Duration(core.NodeTimeout)))
		if s.Scheduler.Mode != "" {
			m, err := zonesched.ParseMode(s.Scheduler.Mode)
			if err != nil {
				return nil, fmt.Errorf("scheduler: %w", err)
			}
			if core.Mode = m.Kind; m.Share >= 0 {
				core.Canary = m.Share
			}
		}
		core.WhenLate, core.Fallback = or(s.Scheduler.WhenLate, core.WhenLate), or(s.Scheduler.Fallback, core.Fallback)
		if s.Scheduler.MaxBacklog != nil {
			core.MaxBacklog = time.Duration(*s.Scheduler.MaxBacklog)
		}
		if s.Scheduler.HedgeBudget != nil {
			core.HedgeBudget = *s.Scheduler.HedgeBudget
		}
		if s.Scheduler.Scout != nil {
			core.Scout = *s.Scheduler.Scout
		}
		if s.Scheduler.SlowStart != nil {
			core.SlowStart = time.Duration(*s.Scheduler.SlowStart)
		}
		if s.PolicyConfig.DelayMax != nil {
			core.PolicyConfig.DelayMax = time.Duration(*s.PolicyConfig.DelayMax)
		}
		if s.PolicyConfig.Explore != nil {
			core.PolicyConfig.Explore = *s.PolicyConfig.Explore
		}
		if s.PolicyConfig.FixedDelay != nil {
			core.PolicyConfig.FixedDelay = time.Duration(*s.PolicyConfig.FixedDelay)
		}
		switch {
		case strings.HasPrefix(p.Rule, "fixed-delay") && p.Wait > 0:
			core.PolicyConfig.FixedDelay = p.Wait
		case p.Wait > 0 || p.Wait == 0 && p.Rule != "rubato":
			core.PolicyConfig.DelayMax = p.Wait
		}
		if err := core.Validate(); err != nil {
			return nil, fmt.Errorf("zone %s: %w", z.Name, err)
		}
		share := 1.0
		if z.Share != nil {
			share = *z.Share
		}
		if !(share >= 0 && share <= 1e6) {
			return nil, fmt.Errorf("%w: zone %s: share %v: want 0 or more", api.ErrInvalid, z.Name, share)
		}
		shares, sum = append(shares, share), sum+share
		zone := sim.Zone{Core: core, HostCores: z.HostCores}
		for k := range z.Nodes {
			g, err := z.Nodes[k].group()
			if err != nil {
				return nil, fmt.Errorf("zone %s, nodes %d: %w", z.Name, k, err)
			}
			zone.Nodes = append(zone.Nodes, g)
		}
		cfg.Zones = append(cfg.Zones, zone)
	}
	if !(sum > 0) {
		return nil, fmt.Errorf("%w: no zone has a share of the calls", api.ErrInvalid)
	}
	for i := range shares {
		shares[i] /= sum
	}
	return shares, nil
}

// links adds the ways between zones.
func (s *Scenario) links(cfg *sim.Config) error {
	at := func(name string) int { return slices.IndexFunc(s.Zones, func(z Zone) bool { return z.Name == name }) }
	for _, l := range s.Network.Links {
		a, b := at(l.From), at(l.To)
		if a < 0 || b < 0 {
			return fmt.Errorf("%w: link from %.60q to %.60q: want the names of zones", api.ErrInvalid, l.From, l.To)
		}
		way := cfg.Between
		if l.RTT > 0 {
			way = time.Duration(l.RTT) / 2
		}
		cfg.Links = append(cfg.Links, sim.Link{A: a, B: b, Way: way, Mbps: l.Mbps})
	}
	return nil
}

func (n *Nodes) group() (sim.Nodes, error) {
	c := nodeagent.DefaultConfig()
	c.Slots, c.MemoryMB, c.CacheBytes = or(n.Slots, c.Slots), or(n.MemoryMB, c.MemoryMB), int64(or(n.Cache, Bytes(c.CacheBytes)))
	c.Artifacts, c.LinkMbps, c.Class, c.PricePerHour, c.EnergyClass = or(n.Artifacts, c.Artifacts), n.LinkMbps, n.Class, n.Price, n.Energy
	c.Arch, c.Accelerator, c.Tags, c.KeepAlive = n.Arch, n.Accelerator, n.Tags, time.Duration(or(n.KeepAlive, Duration(c.KeepAlive)))
	g := sim.Nodes{
		Count: n.Count, Core: c, Cores: n.Cores, Drift: n.Drift, DriftPeriod: time.Duration(or(n.DriftPeriod, Duration(time.Minute))), Distance: time.Duration(n.Distance),
		StoreRTT: time.Duration(n.StoreRTT), FetchPerMB: time.Duration(n.FetchPerMB), Serial: n.Serial, MTBF: time.Duration(n.MTBF), Repair: time.Duration(or(n.Repair, Duration(10*time.Second))),
	}
	for name, v := range n.Speed {
		k, err := sim.ParseKernel(name)
		if err != nil {
			return g, fmt.Errorf("speed: %w", err)
		}
		g.Speed[k] = v
	}
	return g, c.Validate()
}

// functions adds the scenario's own functions with their calls.
func (s *Scenario) functions(cfg *sim.Config, sets map[string]int, shares []float64) error {
	known := map[string]bool{}
	// What functions of a group vary by belongs to the scenario: it is the same for every seed.
	rng := rand.New(rand.NewPCG(s.Seed, 0x9e6c63d0876a9a47))
	for i := range s.Functions {
		f := &s.Functions[i]
		if known[f.Name] {
			return fmt.Errorf("%w: two functions %s: want names of their own", api.ErrInvalid, f.Name)
		}
		known[f.Name] = true
		count := max(f.Count, 1)
		if f.Count < 0 || len(cfg.Functions)+count > sim.MaxFunctions || !(f.Vary >= 0 && f.Vary <= 4) || !(f.Zipf >= 0 && f.Zipf <= 4) {
			return fmt.Errorf("%w: function %s: count %d, vary %v, zipf %v: want at most %d functions in all, the others 0-4", api.ErrInvalid, f.Name, f.Count, f.Vary, f.Zipf, sim.MaxFunctions)
		}
		sum := 0.0
		for k := range count {
			sum += math.Pow(float64(k+1), -f.Zipf)
		}
		for k := range count {
			name := f.Name
			if f.Count > 0 {
				name += "-" + strconv.Itoa(k)
			}
			vary := math.Exp(f.Vary * rng.NormFloat64())
			fn, err := s.function(f, name, len(cfg.Functions), vary)
			if err != nil {
				return err
			}
			cfg.Functions = append(cfg.Functions, fn)
			rate := f.Calls.PerS * math.Pow(float64(k+1), -f.Zipf) / sum
			if err := s.calls(cfg, f, rate, sets, shares); err != nil {
				return err
			}
		}
	}
	if len(cfg.Functions) == 0 {
		return fmt.Errorf("%w: no functions: want some, or a trace", api.ErrInvalid)
	}
	return nil
}

func (s *Scenario) function(f *Function, name string, index int, vary float64) (sim.Function, error) {
	kernel, err := sim.ParseKernel(or(f.Kernel, "cpu"))
	if err != nil {
		return sim.Function{}, fmt.Errorf("function %s: %w", name, err)
	}
	runtime := or(f.Runtime, string(api.RuntimeProcess))
	law, ok := s.Runtimes[runtime]
	if !ok {
		law = Runtime{Prepare: Duration(30 * time.Millisecond), Start: Duration(60 * time.Millisecond), Spread: .3}
	}
	if f.Prepare != nil {
		law.Prepare = *f.Prepare
	}
	if f.Start != nil {
		law.Start = *f.Start
	}
	if f.ColdSpread != nil {
		law.Spread = *f.ColdSpread
	}
	return sim.Function{
		Spec: api.Function{
			Tenant: or(f.Tenant, "sim"), Name: name, Version: 1, Runtime: api.Runtime(runtime), Artifact: fmt.Sprintf("%064x", index+1), ArtifactBytes: int64(or(f.Artifact, 8e6)),
			MemoryMB: or(f.MemoryMB, 256), Timeout: time.Duration(or(f.Timeout, Duration(time.Minute))),
			Objective: api.Objective{Deadline: time.Duration(f.Deadline), Share: f.Share, PriceWeight: f.PriceWeight, MissWeight: f.MissWeight}, DelayOff: f.DelayOff, Idempotent: f.Idempotent,
			Needs: api.Labels{Arch: f.Arch, Accelerator: f.Accelerator, Tags: f.Tags}, MinWarm: f.MinWarm,
		},
		Prepare: time.Duration(law.Prepare), Start: time.Duration(law.Start), ColdSpread: law.Spread,
		Run: time.Duration(float64(f.Run) * vary), PerMB: time.Duration(float64(f.PerMB) * vary), Power: f.Power, Spread: f.Spread, Kernel: kernel,
		Crash: f.Crash, Hang: f.Hang,
	}, nil
}

func (s *Scenario) calls(cfg *sim.Config, f *Function, rate float64, sets map[string]int, shares []float64) error {
	c := &f.Calls
	objects := -1
	inputs := c.Inputs
	if c.Objects != "" {
		var ok bool
		if objects, ok = sets[c.Objects]; !ok {
			return fmt.Errorf("%w: function %s: no object set %.60q", api.ErrInvalid, f.Name, c.Objects)
		}
		inputs = max(inputs, 1)
	} else if inputs > 0 {
		return fmt.Errorf("%w: function %s: %d inputs of no object set", api.ErrInvalid, f.Name, inputs)
	}
	rate *= or(s.Rate, 1)
	if !(rate >= 0) {
		return fmt.Errorf("%w: function %s: %v calls a second: want 0 or more", api.ErrInvalid, f.Name, rate)
	}
	for z, share := range shares {
		if rate*share == 0 {
			continue
		}
		cfg.Streams = append(cfg.Streams, sim.Stream{
			Function: len(cfg.Functions) - 1, Zone: z, PerS: rate * share, Burst: c.Burst, BurstFor: time.Duration(c.BurstFor), BurstEvery: time.Duration(c.BurstEvery),
			Ramp: time.Duration(c.Ramp), Until: time.Duration(s.Duration), Objects: objects, Inputs: inputs, PayloadBytes: int64(c.Payload), PayloadSpread: c.PayloadSpread,
			BudgetMs: time.Duration(c.Patience).Milliseconds(), Async: c.Async, Timer: c.Timer, Priority: c.Priority, Affinity: c.Affinity,
		})
	}
	return nil
}

// ofGroup reports whether a function is one of several that a scenario makes under a name: "name-1" and so on.
func ofGroup(name, group string) bool {
	number, ok := strings.CutPrefix(name, group+"-")
	_, err := strconv.ParseUint(number, 10, 32)
	return ok && err == nil
}

func (s *Scenario) changes(cfg *sim.Config) error {
	if len(s.Changes) > maxChanges {
		return fmt.Errorf("%w: %d changes: want at most %d", api.ErrInvalid, len(s.Changes), maxChanges)
	}
	names := s.FunctionNames()
	for _, c := range s.Changes {
		ch := sim.Change{At: time.Duration(c.At), Function: -1, Run: c.Run, PerMB: c.PerMB, Rate: c.Rate, Class: c.Class, Speed: c.Speed}
		if c.Function == "" {
			cfg.Changes = append(cfg.Changes, ch)
			continue
		}
		found := false
		for i, name := range names {
			if name == c.Function || s.trace == nil && s.replay == nil && ofGroup(name, c.Function) {
				found = true
				ch.Function = i
				cfg.Changes = append(cfg.Changes, ch)
				ch.Speed = 0 // once
			}
		}
		if !found && s.trace == nil && s.replay == nil {
			return fmt.Errorf("%w: change at %v: no function %.60q", api.ErrInvalid, time.Duration(c.At), c.Function)
		}
	}
	return nil
}

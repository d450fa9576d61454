// Package zonesched is the core of a zone's scheduler: it decides where and when each invocation of the zone runs.
// It is a plain state machine: no goroutine, no clock, no I/O, no lock. The caller passes now and carries out the
// returned actions, so the simulator and the daemon run the very same code. zoned gives it one goroutine; it is not
// safe for concurrent use. It does not run functions (nodeagent), learn (learner) or elect leaders (membership).
//
// Inside, times are float64 milliseconds relative to now; at the border they are time.Time and time.Duration.
package zonesched

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// Predictor estimates execution times on candidate nodes. It is an immutable published model: the shell hands each new
// one to the core as an event, never behind its back, or a replay would differ.
type Predictor interface {
	// Estimate fills out[i] for cands[i]; it allocates nothing.
	Estimate(req *api.Request, cands []api.Candidate, out []api.Estimate)
	// Columns quantises what is known of a candidate's node whatever the call, for candidates that Estimate is asked for. to is empty, or what the
	// predictor before made of the same node, class and link.
	Columns(c *api.Candidate, to *api.NodeColumns)
	// Version is the pool manifest in use; 0 before the first.
	Version() uint64
}

// Config tunes one zone. Zero values are not defaults: begin with DefaultConfig.
type Config struct {
	Zone   string   `koanf:"-"`
	Tier   api.Tier `koanf:"-"`
	Region string   `koanf:"-"`
	// Seed makes draws (ties, exploration, candidates) repeatable.
	Seed uint64 `koanf:"seed" doc:"seed of the scheduler's draws"`
	// Policy chooses the rule; see policy.New.
	Policy       string        `koanf:"policy" doc:"the rule: rubato, or one of the baselines in docs/baselines.md"`
	PolicyConfig policy.Config `koanf:"rule"`
	// Mode says how far the rule acts, Canary the share of calls that it decides in mode canary, and Fallback what decides the
	// others (see mode.go).
	Mode     string  `koanf:"mode" doc:"how far the rule acts: on, canary (on a share of calls), shadow (it is only recorded) or off"`
	Canary   float64 `koanf:"canary" doc:"share of calls (0-1) that the rule decides in mode canary"`
	Fallback string  `koanf:"fallback" doc:"what decides where the rule does not: a policy that never waits beside a free slot"`
	// Rule, if there is one, takes the place of the rule that Policy names. It is the simulator's, whose counter-examples nobody
	// shall be able to choose by name; it has state and serves one zone.
	Rule policy.Policy `koanf:"-"`
	// MaxWaiting bounds calls that wait (queued or delayed); above it new ones are refused with 429.
	MaxWaiting int `koanf:"max_waiting" doc:"calls that may wait in the zone (deferrable ones: half as many, latency ones: an eighth more); more are refused with 429"`
	// MaxBacklog bounds what waits by how long it will take all slots; above it new calls are refused with 429. 0: no bound.
	MaxBacklog time.Duration `koanf:"max_backlog" doc:"predicted work of waiting calls, over all slots, with parts for classes as max_waiting; more is refused with 429 (0: no limit)"`
	// WhenLate says what is done with a call that no node is expected to answer before its deadline.
	WhenLate string `koanf:"when_late" doc:"calls that will miss their deadline everywhere: run, forward or refuse"`
	// MaxCalls bounds all accepted, unanswered calls.
	MaxCalls int `koanf:"max_calls" doc:"accepted calls without an answer; more are refused with 429"`
	// NodeTimeout: a node silent for this long is lost.
	NodeTimeout time.Duration `koanf:"node_timeout" doc:"a node silent for this long is taken for lost"`
	// DispatchGrace is added to a call's timeout before the zone gives up on the node's answer.
	DispatchGrace time.Duration `koanf:"dispatch_grace" doc:"time after a call's timeout until its node's silence is an answer"`
	// MaxAttempts bounds executions of a retryable call.
	MaxAttempts int `koanf:"max_attempts" doc:"executions of a retryable call at most"`
	// RetryBudget bounds retries of calls that may have run, as a share of all calls.
	RetryBudget float64 `koanf:"retry_budget" doc:"retries as a share of calls at most"`
	// HedgeBudget bounds second dispatches of slow calls of idempotent functions, as a share of all calls (see hedge.go).
	HedgeBudget float64 `koanf:"hedge_budget" doc:"second dispatches of slow idempotent calls as a share of calls at most (0-0.1; 0: none)"`
	// Scout bounds what is spent on trying functions on hardware that they have not met, as a share of the time that their calls
	// take (see scout.go).
	Scout float64 `koanf:"scout" doc:"time for bringing up functions on hardware that they have not met, as a share of the time that their calls take (0-1; 0: none)"`
	// Candidates bounds what is scored for one decision; a node can be two: as it is, and when a busy sandbox there frees.
	Candidates int `koanf:"candidates" doc:"candidates scored for one decision at most; in zones of more nodes, at most half as many nodes are looked at"`
	// SlowStart is how long a node that has just booted among old ones takes to offer all of its slots; 0: all at once.
	SlowStart time.Duration `koanf:"slow_start" doc:"time in which a node that has just booted comes to offer all its slots (0: at once)"`
	// KeepForest believes the forest even while averages predict better (see trust.go).
	KeepForest bool `koanf:"keep_forest" doc:"believe the forest even while averages predict better"`
	// KeepRule lets the rule go on by averages even while the fallback does better (see resort.go).
	KeepRule bool `koanf:"keep_rule" doc:"where averages stand in for the forest, go on deciding by them even while calls of the fallback take less"`
	// GrantTTL is how long a grant to another zone lives.
	GrantTTL time.Duration `koanf:"grant_ttl" doc:"life of a grant to another zone"`
	// ForwardRTT is the assumed round trip to another zone until one is measured.
	ForwardRTT time.Duration `koanf:"forward_rtt" doc:"round trip to another zone assumed until one is measured"`
	// Records bounds the ring of decisions kept for explain.
	Records int `koanf:"records" doc:"decisions kept for explain"`
}

// maxScored bounds the candidates of one decision, whatever the configuration says: more find nothing better (DESIGN.md), and cost each call.
const maxScored = 32

// DefaultConfig is sane for a zone of up to a few thousand nodes.
func DefaultConfig() Config {
	return Config{
		Seed: 1, Policy: "rubato", PolicyConfig: policy.DefaultConfig(), Mode: ModeOn, Canary: .05, Fallback: "least-loaded", MaxWaiting: 4096, MaxBacklog: 2 * time.Minute, WhenLate: LateRun, MaxCalls: 65536,
		NodeTimeout: 3 * time.Second, DispatchGrace: 2 * time.Second, MaxAttempts: 3, RetryBudget: .1, HedgeBudget: .02, Scout: .1, Candidates: 32,
		SlowStart: 10 * time.Second, GrantTTL: time.Second, ForwardRTT: 10 * time.Millisecond, Records: 4096,
	}
}

// Validate reports all faults.
func (c Config) Validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: "+format, append([]any{api.ErrInvalid}, args...)...))
		}
	}
	_, err := policy.New(c.Policy, c.PolicyConfig)
	errs = append(errs, err, c.PolicyConfig.Validate())
	errs = append(errs, c.validateMode()...)
	bad(c.MaxWaiting > 0 && c.MaxWaiting <= 1<<20, "max_waiting %d: want 1-1048576", c.MaxWaiting)
	bad(c.MaxBacklog >= 0, "max_backlog %v: want at least 0", c.MaxBacklog)
	bad(c.WhenLate == LateRun || c.WhenLate == LateForward || c.WhenLate == LateRefuse, "when_late %q: want run, forward or refuse", c.WhenLate)
	bad(c.MaxCalls >= c.MaxWaiting, "max_calls %d: want at least max_waiting (%d)", c.MaxCalls, c.MaxWaiting)
	bad(c.NodeTimeout >= 100*time.Millisecond, "node_timeout %v: want at least 100ms", c.NodeTimeout)
	bad(c.DispatchGrace > 0, "dispatch_grace %v: want more than 0", c.DispatchGrace)
	bad(c.MaxAttempts >= 1 && c.MaxAttempts <= 10, "max_attempts %d: want 1-10", c.MaxAttempts)
	bad(c.RetryBudget >= 0 && c.RetryBudget <= 1, "retry_budget %v: want 0-1", c.RetryBudget)
	bad(c.Scout >= 0 && c.Scout <= 1, "scout %v: want 0-1", c.Scout)
	bad(c.Candidates >= 2 && c.Candidates <= maxScored, "candidates %d: want 2-%d", c.Candidates, maxScored)
	bad(c.SlowStart >= 0 && c.SlowStart <= 10*time.Minute, "slow_start %v: want 0-10m", c.SlowStart)
	bad(c.GrantTTL > 0, "grant_ttl %v: want more than 0", c.GrantTTL)
	bad(c.Records >= 1 && c.Records <= 1<<20, "records %d: want 1-1048576", c.Records)
	return errors.Join(errs...)
}

// Zone decides where and when invocations run.
type Zone struct {
	cfg  Config
	rng  *rand.Rand
	rule policy.Policy
	// order is the policy in whose order freed slots go to whoever waits, see setOrder. byOrder: it does not ask how long that takes, nor
	// does the fallback.
	order   policy.Policy
	byOrder bool
	// What decides where the rule does not, and where that is; what the rule would have done, see mode.go.
	fallback policy.Policy
	mode     Mode            // the operator's for the zone
	modes    map[string]Mode // and for functions, by "tenant/name"
	shadow   policy.Choice
	// shadowCands are what it chose among.
	shadowCands []policy.Candidate
	guard       guard
	trust       trust
	resort      resort
	shadowed    bool
	pred        Predictor
	models      uint64 // predictors there have been
	epoch       api.Epoch

	fns   map[string]*function // by "tenant/name"
	nodes []*node              // live and lost, in order of first report; the place of one that was lost long ago may be another's
	// lostNodes are those that were lost, each once, the first first; some have come back since.
	lostNodes []*node
	// The indices of index.go.
	holdings map[string]*holding
	objects  map[uint64][]*node // by hash of the key
	profiles []*profile         // by id; the first has no labels
	hardware classSet           // of all nodes there have been
	sums     sums
	stamp    uint64
	byName   map[string]*node
	calls    map[string]*call // accepted, not answered
	waiting  []*call          // in order of arrival
	tenants  map[string]*usage
	// The queue, see queue.go.
	kept           keep
	roomFrom       int      // where nearestRoom begins
	queues         []*queue // with calls waiting, in no order
	tenantsWaiting []*usage // in an order that follows from the events
	backlogMs      float64  // predicted execution of all that waits
	ageDebtMs      float64  // time of slots that others have before one goes by age again
	scanFrom       int      // where the next freed slot looks first
	leastUse       float64  // of all tenants, at leastAt
	leastAt        time.Time
	inClass        [classes]int    // calls that wait, by class
	claimed        [classes]bool   // who could have used the slot in hand
	passed         [classes]uint32 // freed slots since one went to the class

	shares   []api.Share
	grantsIn map[string]*grantIn  // what others grant us, by giver
	given    map[string]*grantOut // what we grant others, by receiver
	grantSeq uint64

	ring     ring
	counters Counters
	linkMs   ewma // dispatch overhead of the zone, ms
	linkP99  tail // its 99th percentile
	comeback ewma // share of evicted objects that come back soon
	helloAt  time.Time
	ledAt    time.Time // since when it leads
	eldest   time.Time // when the eldest node that lives booted, a tick old; zero for none

	// Scratch of one decision, owned by decide: no allocation per call.
	cands      []policy.Candidate
	feats      []api.Candidate
	ests       []api.Estimate
	picked     []picked
	costs      []float64 // of cands, when they are recorded
	wanted     []int32
	considered call
	affine     affinities
	prewarms   map[string]prewarming // under way
	warmSeq    uint64
	asking     []string // ids of functions with MinWarm, in order
	warmLast   string   // the one that had the last turn
	req        api.Request
	pc         policy.Call
	redo       []*call
	out        []*holding // of victims
	later      []*call    // of admit
}

// New makes a zone without nodes, functions or model.
func New(cfg Config) (*Zone, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("zonesched config: %w", err)
	}
	rule, err := policy.New(cfg.Policy, cfg.PolicyConfig)
	if err != nil {
		return nil, err
	}
	fallback, err := policy.New(cfg.Fallback, cfg.PolicyConfig)
	if err != nil {
		return nil, err
	}
	if cfg.Rule != nil {
		rule = cfg.Rule
	}
	n := 2 * cfg.Candidates
	z := &Zone{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x9e3779b97f4a7c15)), rule: rule, fallback: fallback, guard: newGuard(), resort: newResort(stageTrying, 0), profiles: []*profile{{largest: -1}},
		fns: map[string]*function{}, holdings: map[string]*holding{}, objects: map[uint64][]*node{}, prewarms: map[string]prewarming{}, byName: map[string]*node{}, calls: map[string]*call{}, tenants: map[string]*usage{},
		grantsIn: map[string]*grantIn{}, given: map[string]*grantOut{}, ring: newRing(cfg.Records),
		linkMs: ewma{w: .05, v: 1}, linkP99: tail{v: 2.5}, comeback: ewma{w: .1, v: .5, n: 2},
		cands: make([]policy.Candidate, 0, n), feats: make([]api.Candidate, 0, n), ests: make([]api.Estimate, n),
		picked: make([]picked, 0, cfg.Candidates), wanted: make([]int32, 0, cfg.Candidates),
	}
	z.setOrder()
	return z, nil
}

// Step takes one event and appends to out what has to be done about it, in order.
func (z *Zone) Step(now time.Time, ev *Event, out []Action) []Action {
	switch ev.Kind {
	case EvArrive:
		out = z.arrive(now, ev, out)
	case EvCompletion:
		out = z.completion(now, ev.Completion, out)
	case EvUnsent:
		out = z.unsent(now, ev.Completion, out)
	case EvHeartbeat:
		out = z.heartbeat(now, ev.Heartbeat, out)
	case EvWake:
		out = z.wake(now, ev, out)
	case EvTick:
		out = z.tick(now, out)
	case EvCancel:
		out = z.cancel(now, ev.ID, ev.Reason, out)
	case EvForwardDone:
		out = z.forwardDone(now, ev, out)
	case EvModel:
		z.pred = ev.Predictor
		z.models++
	case EvFunctions:
		out = z.functions(now, ev, out)
	case EvLead:
		out = z.lead(now, ev.Epoch, out)
	case EvShares:
		z.shares = ev.Shares
	case EvGrant:
		z.grantReceived(now, ev.Grant)
	case EvPolicy:
		z.setPolicy(ev)
	case EvPrewarm:
		out = z.wish(now, ev.ID, ev.Count, out)
	}
	return z.settle(now, out)
}

// lead begins to lead, or goes on under a higher epoch: calls stay where they are, since nodes let finish what they have
// begun. Nodes count dispatches anew under each epoch.
func (z *Zone) lead(now time.Time, epoch api.Epoch, out []Action) []Action {
	if z.epoch.IsZero() {
		z.ledAt = now
		for _, n := range z.nodes { // before the first calls: of a node that is long gone all that it had still looks free and warm
			out = z.expire(now, n, out)
		}
	}
	z.epoch, z.helloAt = epoch, now
	for _, n := range z.nodes {
		n.sentSeq = 0
		for _, r := range n.running {
			r.seq = 0 // all of them were seen before any that are counted anew
		}
	}
	return append(out, Action{Kind: ActHello})
}

// settle decides anew for calls whose plan an action of this step has broken. Each round can only shrink the set of
// free slots, so it ends; the cap is for a bug.
func (z *Zone) settle(now time.Time, out []Action) []Action {
	for round := 0; len(z.redo) > 0 && round < 64; round++ {
		todo := z.redo
		z.redo = nil
		for _, c := range todo {
			c.redo = false
			if c.state == callWaiting && z.calls[c.inv.ID] == c { // not answered by an earlier round
				out = z.decide(now, c, out)
			}
		}
	}
	for _, c := range z.redo {
		c.redo = false
	}
	z.redo = z.redo[:0]
	return out
}

// again has a waiting call decide anew at the end of this step, once however many reasons there are.
func (z *Zone) again(c *call) {
	if !c.redo {
		c.redo = true
		z.redo = append(z.redo, c)
	}
}

// Epoch is the leader's epoch under which the core acts; zero while it does not lead.
func (z *Zone) Epoch() api.Epoch { return z.epoch }

// Counters counts what happened since New.
type Counters struct {
	Accepted, Answered, Refused, Delayed, Queued, ForwardedOut, ForwardedIn, Retries, NodesLost uint64
	// NodesIgnored counts reports of nodes for which there is no place: more than maxNodes live or were lost a moment ago.
	NodesIgnored uint64
	// Prewarmed counts sandboxes brought up without a call, Scouted those among them on hardware that their function had not met.
	Missed, IdleDeclined, Explored, Prewarmed, Scouted, Hopeless uint64
	UnknownCompletions, FencedCompletions                        uint64
	// Calls beside whose decision the rule was asked, those that it would have held back, and those that it would have sent to
	// another node.
	Shadowed, ShadowDelayed, ShadowElsewhere uint64
	// Second dispatches of slow calls, and those that answered first.
	Hedged, HedgeWins uint64
	// How often waiting was stopped since it lost, and how often it was resumed.
	WaitingStopped, WaitingResumed uint64
	// ForestDropped counts how often averages came to stand in for the forest since its predictions were worse, ForestRestored how
	// often it was trusted again.
	ForestDropped, ForestRestored uint64
	// RuleDropped counts how often the fallback came to decide since its calls took less time than the rule's by averages, RuleRestored how often
	// the rule did again, with averages or the forest.
	RuleDropped, RuleRestored uint64
	Estimates                 [3]uint64 // by api.Source, of dispatched calls
	Clauses                   [32]uint64
}

// Counters returns a copy.
func (z *Zone) Counters() Counters { return z.counters }

// function is what the core knows of one deployed function.
type function struct {
	spec   *api.Function
	key    string
	hash   uint64 // of key
	h      *holding
	queues [classes]queue
	id     string
	fits   []bool     // by profile
	on     []*profile // those that it fits

	errEW   ewma // |ln(measured/predicted)|
	tookMs  ewma // from arrival to answer and what the choice cost beside, while the rule and the fallback are compared
	runMs   ewma
	coldMs  ewma // cost of a start that was not warm
	prepMs  ewma // the same, of what was prepared
	freshMs ewma // and of what was not
	gapMs   ewma // between arrivals
	lastAt  time.Time
	// rentMs is how long calls have waited since a sandbox was last begun, at rentFrom, once they were held back where one was all that
	// they lacked, and another one would have pushed out nothing that is missed.
	rentMs   float64
	rentFrom time.Time

	spentMs   float64  // that its calls have taken
	scoutedMs float64  // that scouts were expected to take (see scout.go)
	met       classSet // hardware on which a sandbox of its version was up

	scoutFails int       // scouts that failed in a row
	scoutAt    time.Time // none is sent before

	warmFails int       // prewarmings that failed in a row
	warmAt    time.Time // not tried again before
	seen      []seen    // its last executions, in a ring; see hindsight.go
	seenAt    int       // the oldest one
}

func (z *Zone) functions(now time.Time, ev *Event, out []Action) []Action {
	for i := range ev.Functions {
		spec := ev.Functions[i]
		f := z.fns[spec.ID()]
		if f == nil {
			f = &function{id: spec.ID(), errEW: ewma{w: .1, v: .2}, tookMs: ewma{w: .02}, runMs: ewma{w: .1}, coldMs: ewma{w: .2}, prepMs: ewma{w: .2}, freshMs: ewma{w: .2}, gapMs: ewma{w: .1}}
			z.fns[f.id] = f
		}
		if f.spec == nil || f.spec.Version < spec.Version {
			changed := f.spec == nil || !f.spec.Needs.Equal(&spec.Needs)
			old := f.h
			if old != nil {
				old.fn = nil
			}
			f.spec, f.key = &spec, spec.Key()
			f.hash, f.h = hashOf(f.key), z.holdingOf(f.key)
			f.h.fn, f.h.art = f, hashOf(spec.Artifact)
			f.met, f.scoutAt, f.scoutFails = 0, time.Time{}, 0
			for i, n := range f.h.nodes { // an earlier leader's
				if f.h.boxes[i].came() {
					f.met.add(n.class)
				}
			}
			if old != nil {
				z.release(old)
			}
			if changed {
				z.meetAll(f)
			}
			for i := range f.queues {
				for _, w := range f.queues[i].calls {
					if changed || w.delaying { // what it waits for may be of the old version, or the new one is never to wait
						z.again(w)
					}
				}
			}
			f.warmAt, f.warmFails = time.Time{}, 0
			z.ask(f.id, spec.MinWarm)
		}
	}
	for _, id := range ev.Deleted {
		if f := z.fns[id]; f != nil {
			f.h.fn = nil
			z.release(f.h)
		}
		delete(z.fns, id)
		z.ask(id, 0)
		for i := 0; i < len(z.waiting); {
			c := z.waiting[i]
			if c.fn.id != id {
				i++
				continue
			}
			out = z.answerError(now, c, api.CodeNotFound, "function was deleted while the call waited", out)
		}
	}
	return out
}

// HashOf is a hash of s that is the same everywhere and always; 0 for the empty string.
func HashOf(s string) uint64 { return hashOf(s) }

// hashOf is FNV-1a, 0 for the empty string.
func hashOf(s string) uint64 {
	if s == "" {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64()
}

// tail is the 99th percentile of the last values, found anew now and then.
type tail struct {
	v    float64
	ring [256]float64
	n    int
}

func (l *tail) add(x float64) {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return
	}
	l.ring[l.n%len(l.ring)] = x
	if l.n++; l.n > 16 && l.n%16 > 0 {
		return // sorting costs some microseconds
	}
	have := l.ring // a copy
	seen := have[:min(l.n, len(have))]
	slices.Sort(seen)
	l.v = seen[(len(seen)*99-1)/100]
}

// ewma is an exponentially weighted mean with weight w, a plain one for the first 1/w updates: with a fixed weight from the
// start it was slow to leave its first value. v is that value, and counts as n updates.
type ewma struct {
	w, v float64
	n    uint32
}

func (e *ewma) add(x float64) {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return
	}
	e.v += math.Max(e.w, 1/(1+float64(e.n))) * (x - e.v)
	if e.n < math.MaxUint32 {
		e.n++
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func duration(ms float64) time.Duration {
	if ms >= 1e12 {
		return time.Duration(math.MaxInt64)
	}
	return time.Duration(ms * float64(time.Millisecond))
}

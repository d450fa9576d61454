// Package policy holds the rules that choose, for one call, between running now, holding it back for a better
// node, and queueing it: rubato (the product's rule) and the ones that it is compared with and that can replace
// it (Names lists them, docs/baselines.md says where they come from). It sees plain candidates and returns a plain
// choice; bookkeeping, reservations and timers are zonesched's. Pure: no clock, no I/O, no goroutine; not safe for
// concurrent use.
//
// All times are float64 milliseconds relative to now.
package policy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// Candidate is one node (in one of its ways to serve the call) as it will be when the call would start there.
type Candidate struct {
	// Node indexes the zone's nodes.
	Node int32
	// Free: a slot is free now, StartMs is 0.
	Free bool
	// StartMs is the predicted time until the call could start.
	StartMs float64
	// LinkMs is the dispatch round trip, without fetching.
	LinkMs float64
	// EvictMs prices the sandboxes that a new one would push out, with what it makes anew at their cost, PushMs the objects that a fetch
	// would push out.
	EvictMs, PushMs float64
	// Strands is how many slots, as far as they are missed, no other call can use while this one holds so much of the node's memory.
	Strands float64
	// PriceMs is what the owner's price weight makes of the time on this node, MissMs what the miss weight makes of the chance of a
	// miss there; 0 without weights.
	PriceMs, MissMs float64
	Sandbox         api.SandboxState
	MissingBytes    int64
	// HasInputs: the call names objects that count for locality.
	HasInputs bool
	Running   int
	Slots     int
	// Cores are what the slots share; 0: one each.
	Cores float64
	// UnderWay: what is said of the start rests on one of the same function that runs now, and is as uncertain as that.
	UnderWay bool
	// Coming: the sandbox here is one that is being brought up.
	Coming bool
	// Affine: the caller's hint names this node (see zonesched/affinity.go).
	Affine bool
	Est    api.Estimate
	// ForestMu is what the forest said of the execution, ln ms, also where averages stand in for it; 0 without a forest.
	ForestMu float64
}

// Local reports whether nothing has to be prepared or fetched: a warm sandbox and all inputs at hand.
func (c *Candidate) Local() bool { return c.Sandbox == api.SandboxWarm && c.MissingBytes == 0 }

// CostMs is the predicted time from now to the answer, with what the choice costs others.
func (c *Candidate) CostMs() float64 {
	exec := c.Est.MedianMs()
	if c.Affine {
		exec *= 1 - affinityGain
	}
	return c.StartMs + c.LinkMs + exec + c.ExtraMs()
}

// ExtraMs is the part of the cost that the call itself does not wait for.
func (c *Candidate) ExtraMs() float64 {
	return c.EvictMs + c.PushMs + c.StrandMs() + c.PriceMs + c.MissMs
}

// StrandMs prices the slots that the call strands, for as long as it runs.
func (c *Candidate) StrandMs() float64 {
	if c.Strands == 0 {
		return 0 // nearly always: spares an exponential
	}
	return c.Strands * c.Est.MedianMs()
}

// affinityGain is the share of its execution that a call is taken to gain where its caller's hint points.
const affinityGain = .1

// Call is what a rule may know of the call.
type Call struct {
	// WaitedMs since arrival; never reset, not by forwarding either.
	WaitedMs float64
	// DeadlineMs is the remaining time to the deadline; +Inf without one.
	DeadlineMs float64
	// ErrEW is the exponentially weighted mean |ln(measured/predicted)| of the function.
	ErrEW float64
	// DelayOff: the function's owner wants no waiting.
	DelayOff bool
	// Stopped: waiting for a better node is not wanted now, since it has lost of late or since this call is to tell what it wins.
	Stopped bool
	// MarginMs is kept before a deadline for what estimates do not cover.
	MarginMs float64
	// FnHash names the function version, and Affinity the caller's affinity key (0: none), for rules that place by hashes.
	FnHash, Affinity uint64
	// Alike is how many calls of the function wait, this one included; Warming how many sandboxes are being brought up for them
	// without a call; ColdMs what bringing one up takes (0: not known, or nothing on the node whose slot is offered).
	Alike, Warming int
	ColdMs         float64
	// OwedMs is how long these calls have waited, all together.
	OwedMs float64
	// RentMs is how long calls of the function have waited since a sandbox of it was last begun, once they were held back where one was
	// all that they lacked, and another one would have pushed out nothing that is missed.
	RentMs float64
	// AgeTurn: the slot that is offered may go by age alone.
	AgeTurn bool
	// Hope is the node that a waiting call hopes for, -1 for none.
	Hope int32
	// LevelMs are of the last Choice.
	LevelMs [2]float64
	Load
}

// Load is the zone's, as a rule may know it.
type Load struct {
	// Nodes is how many nodes there are, lost ones too: candidates' Node is below it.
	Nodes int
	// Slots of nodes in service, those among them that are Free, and calls that are Waiting.
	Slots, Free, Waiting int
}

// Verb is what to do.
type Verb uint8

// The verbs. Queue means that no slot was free: it is not called a delay.
const (
	Run Verb = iota
	Delay
	Queue
)

// Clause names the part of a rule that decided; explain turns it into words.
type Clause uint8

// The clauses.
const (
	ClauseBestFree Clause = iota
	ClauseGainTooSmall
	ClauseNoDeadline
	ClauseSafeWait
	ClauseMissesLess
	ClauseMissesAnyway
	ClauseDelayMax
	ClauseDeadlineClose
	ClauseNoSlot
	ClauseDelayOff
	ClauseExplore
	ClauseNext
	ClauseLeastLoaded
	ClauseLocal
	ClauseWaitLocal
	ClauseFreed
	ClauseRandom
	ClauseHome
	ClauseOnRing
	ClausePulled
	ClausePacked
	ClauseBound
	ClauseWarm
	ClauseWaitWarm
	ClauseColdSooner
	ClausePredicted
	ClauseLate
	ClauseHedge
	ClauseMemory
	ClauseComing
	numClauses
)

var clauseNames = [numClauses]string{
	"best_is_free", "gain_too_small", "gain_no_deadline", "gain_deadline_safe", "gain_misses_less", "gain_misses_anyway",
	"delay_max", "deadline_too_close", "no_free_slot", "delay_off", "explore", "round_robin", "least_loaded",
	"local", "wait_for_local", "slot_freed", "random", "home_node", "next_on_ring", "pulled_by_idle", "packed", "bound_to_node",
	"warm_is_free", "wait_for_warm", "cold_is_sooner", "gain_predicted",
	"late_everywhere", "hedge", "memory_is_short", "start_under_way",
}

func (c Clause) String() string {
	if c < numClauses {
		return clauseNames[c]
	}
	return fmt.Sprintf("clause(%d)", uint8(c))
}

// Choice is a rule's answer. Take, Now and Cold index the candidates.
type Choice struct {
	Verb   Verb
	Clause Clause
	// Take is the candidate to run on (Run) or to hold back for (Delay, Queue); -1 only with no candidates.
	Take int
	// Now is the best candidate that can start at once, the fallback of a delay.
	Now int
	// WakeMs: when to decide again if nothing happens before; +Inf for never.
	WakeMs      float64
	ThresholdMs float64
	// Prewarm: bring up a sandbox at Cold, without the call; if the call is held back, whichever is ready first takes it. Cold means
	// nothing without it.
	Prewarm bool
	Cold    int
	// Propensity is the probability with which the rule, as randomised, takes this choice.
	Propensity float64
	// LevelMs are, for rules that go by levels of locality, the waits from arrival on from which the call takes a node of the second
	// level, and any.
	LevelMs [2]float64
}

// Policy chooses. It may keep state of its own; zonesched owns it.
type Policy interface {
	Name() string
	// Decide chooses among the candidates; rng is the zone's seeded source.
	Decide(c *Call, cands []Candidate, rng *rand.Rand) Choice
	// Admit says whether a waiting call may take a slot that just became free (cand), and with what precedence:
	// among admitted calls the largest index goes first. elsewhereMs is the call's predicted finish where it now
	// hopes to run, execBestMs its predicted execution there. The index counts for a call that is not admitted too: another
	// rule may have admitted it. Where slots go by the order of one of ByOrder and this rule
	// decides about the call too, cand has no estimate.
	Admit(c *Call, cand *Candidate, elsewhereMs, execBestMs float64) (ok bool, index float64)
}

// Ranker is a Policy that can tell before anything is predicted how far a claim on a freed slot can come: Admit's index is at most
// MostIndex. In a full zone hundreds of calls claim each slot, and predictions for those that cannot win were most of what it did.
type Ranker interface {
	MostIndex(c *Call, cand *Candidate) float64
}

// Unpriced is a Policy by which a call looks at its own time alone: what it hopes for, as Admit hears of it, is without what a choice
// costs others. TakesMs is the execution time there that the rule reckons with.
type Unpriced interface{ TakesMs(cand *Candidate) float64 }

// Picker is a Policy that wants certain nodes among its candidates: a zone of many nodes looks at a few only, and picks those
// that hold something of the call unless the rule picks. It appends at most room nodes, the most wanted first; those not in
// service are skipped, and nodes picked by the zone fill what is left.
type Picker interface {
	Pick(c *Call, room int, rng *rand.Rand, out []int32) []int32
}

// names are all that New knows, the product's rule first.
var names = []string{
	"rubato", "round-robin", "least-loaded", "fixed-delay", "fixed-delay-matched", "random", "power-of-two", "ch-rlu", "openwhisk",
	"hiku", "hermod", "cidre", "metronome", "averages",
}

// workConserving are the policies that never leave a slot free beside a waiting call.
var workConserving = []string{"least-loaded", "round-robin", "random", "power-of-two", "hiku"}

// WorkConservingNames lists the policies that never let a call wait beside a free slot.
func WorkConservingNames() []string { return slices.Clone(workConserving) }

// WorkConserving reports whether the named policy is one of them.
func WorkConserving(name string) bool { return slices.Contains(workConserving, name) }

// byOrder are the policies whose Admit looks at no estimate; all work-conserving ones are among them.
var byOrder = []string{
	"round-robin", "least-loaded", "fixed-delay", "fixed-delay-matched", "random", "power-of-two", "ch-rlu", "openwhisk", "hiku", "hermod",
}

// ByOrder reports whether the named policy gives freed slots by order and place alone: no estimate has to be made for the claims
// that it compares, which is most of what a full zone does.
func ByOrder(name string) bool { return slices.Contains(byOrder, name) }

// Names lists the policies that New makes.
func Names() []string { return slices.Clone(names) }

// New makes a policy by one of Names; the empty name is rubato's.
func New(name string, cfg Config) (Policy, error) {
	switch name {
	case "", "rubato":
		return &Rubato{cfg: cfg}, nil
	case "round-robin":
		return &RoundRobin{}, nil
	case "least-loaded":
		return LeastLoaded{}, nil
	case "fixed-delay", "fixed-delay-matched":
		if cfg.FixedDelay <= 0 {
			return nil, fmt.Errorf("%w: policy %s: wait %v: want more than 0", api.ErrInvalid, name, cfg.FixedDelay)
		}
		fixed := FixedDelay{WaitMs: ms(cfg.FixedDelay)}
		if name == "fixed-delay" {
			return fixed, nil
		}
		return FixedDelayMatched{fixed}, nil
	case "random":
		return Random{}, nil
	case "power-of-two":
		return PowerOfTwo{}, nil
	case "ch-rlu":
		return &CHRLU{}, nil
	case "openwhisk":
		return &OpenWhisk{}, nil
	case "hiku":
		return Hiku{}, nil
	case "hermod":
		return Hermod{}, nil
	case "cidre":
		return CIDRE{DelayMaxMs: ms(cfg.DelayMax)}, nil
	case "metronome":
		return Metronome{DelayMaxMs: ms(cfg.DelayMax)}, nil
	case "averages":
		return &Averages{rule: Rubato{cfg: cfg}}, nil
	}
	last := len(names) - 1
	return nil, fmt.Errorf("%w: policy %q: want %s or %s", api.ErrInvalid, name, strings.Join(names[:last], ", "), names[last])
}

// Config tunes the rules.
type Config struct {
	// DelayMax bounds how long a call may be held back for a better node (default 2s; 0 never waits). Larger saves
	// cold starts; every call whose prediction was wrong pays it. It bounds averages, cidre (not for
	// a start of the call's own) and metronome too.
	DelayMax time.Duration `koanf:"delay_max" doc:"longest time that a call may be held back for a better node"`
	// Explore is the share of calls sent to a random safe node, so that unchosen nodes keep being measured.
	Explore float64 `koanf:"explore" doc:"share of calls (0-0.05) that try a random safe node to keep the model honest"`
	// FixedDelay is the wait of the fixed-delay policies.
	FixedDelay time.Duration `koanf:"fixed_delay" doc:"the wait of the fixed-delay policies (only used by them)"`
}

// DefaultConfig is what the measurements were made with.
func DefaultConfig() Config {
	return Config{DelayMax: 2 * time.Second, Explore: .005, FixedDelay: 100 * time.Millisecond}
}

// Validate reports all faults.
func (c Config) Validate() error {
	switch {
	case c.DelayMax < 0 || c.DelayMax > time.Minute:
		return fmt.Errorf("%w: rule.delay_max %v: want 0-1m", api.ErrInvalid, c.DelayMax)
	case c.Explore < 0 || c.Explore > .05 || math.IsNaN(c.Explore):
		return fmt.Errorf("%w: rule.explore %v: want 0-0.05", api.ErrInvalid, c.Explore)
	case c.FixedDelay < 0 || c.FixedDelay > time.Minute:
		return fmt.Errorf("%w: rule.fixed_delay %v: want 0-1m", api.ErrInvalid, c.FixedDelay)
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

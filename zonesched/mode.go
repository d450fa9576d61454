package zonesched

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// The modes of the rule. Where it does not act the fallback does, a rule that never leaves a free slot to wait.
const (
	ModeOn     = "on"     // the rule decides
	ModeCanary = "canary" // it decides a share of the calls; beside the others it is recorded
	ModeShadow = "shadow" // it is recorded beside every decision about a call and decides none; who gets a freed slot it is not asked
	ModeOff    = "off"    // it is not asked
)

// Mode says how far the rule acts. The zero value says nothing: what stands behind it holds.
type Mode struct {
	Kind string
	// Share of the calls, 0-1, that the rule decides as a canary; below 0: as the zone's configuration says.
	Share float64
}

// ParseMode reads "on", "off", "shadow", "canary", "canary=0.05" or "canary=5%".
func ParseMode(s string) (Mode, error) {
	kind, share, has := strings.Cut(s, "=")
	m := Mode{Kind: kind, Share: -1}
	bad := fmt.Errorf("%w: mode %.40q: want on, off, shadow, canary or canary=SHARE with a share of 0-1 or 0%%-100%%", api.ErrInvalid, s)
	switch kind {
	case ModeOn, ModeOff, ModeShadow:
		if has {
			return Mode{}, bad
		}
	case ModeCanary:
		if has {
			share, percent := strings.CutSuffix(share, "%")
			v, err := strconv.ParseFloat(share, 64)
			if percent {
				v /= 100
			}
			if err != nil || !(v >= 0 && v <= 1) {
				return Mode{}, bad
			}
			m.Share = v
		}
	default:
		return Mode{}, bad
	}
	return m, nil
}

func (m Mode) String() string {
	if m.Kind == ModeCanary && m.Share >= 0 {
		return m.Kind + "=" + strconv.FormatFloat(m.Share, 'g', -1, 64)
	}
	return m.Kind
}

// setPolicy puts an operator's settings in force, all of them at once. Whoever is held back decides anew, so that a switch that
// ends waiting ends it now.
func (z *Zone) setPolicy(ev *Event) {
	rule, err := policy.New(ev.PolicyName, ev.PolicyConfig)
	if err != nil {
		return // whoever sends the event has checked it
	}
	if ev.PolicyName != z.cfg.Policy || ev.PolicyConfig != z.cfg.PolicyConfig { // or a rule's own state would be lost
		z.forgetResort(stageTrying)
		z.cfg.Policy, z.cfg.PolicyConfig, z.cfg.Rule, z.rule = ev.PolicyName, ev.PolicyConfig, nil, rule
	}
	z.mode, z.modes = ev.Mode, ev.Modes
	z.setOrder()
	z.redoDelayed()
}

// setOrder chooses the policy in whose order freed slots go: the fallback where it acts in the whole zone, and else the rule, for calls of
// functions that are switched off as well: two orders could not be compared, and whichever came first would starve the other.
func (z *Zone) setOrder() {
	switch z.Mode().Kind {
	case ModeOff, ModeShadow:
		z.order, z.byOrder = z.fallback, true
	default:
		z.order, z.byOrder = z.rule, z.cfg.Rule == nil && policy.ByOrder(z.cfg.Policy)
	}
}

// acting is the policy that decides about a call.
func (z *Zone) acting(c *call) policy.Policy {
	if z.ruled(c, z.modeOf(c.fn)) {
		return z.rule
	}
	return z.fallback
}

// redoDelayed lets every call that declines a free slot decide anew.
func (z *Zone) redoDelayed() {
	for _, w := range z.waiting {
		if w.delaying {
			z.again(w)
		}
	}
}

// modeOf is the mode in force for a function. Where neither the forest nor what stands in for it is known to do better than the fallback,
// mode on is a canary (resort.go).
func (z *Zone) modeOf(f *function) Mode {
	m := z.ownMode(f)
	if m.Kind == ModeOn {
		if share := z.rules(); share < 1 {
			return Mode{Kind: ModeCanary, Share: share}
		}
	}
	return m
}

// ownMode is the mode that somebody chose for a function: its own, unless the whole zone is switched off; then the operator's for the zone;
// then the configuration's.
func (z *Zone) ownMode(f *function) Mode {
	m := z.Mode()
	if m.Kind != ModeOff {
		if own, ok := z.modes[f.id]; ok {
			m = own
		}
	}
	if m.Kind == ModeCanary && m.Share < 0 {
		m.Share = z.cfg.Canary
	}
	return m
}

// Mode is the zone's mode in force.
func (z *Zone) Mode() Mode {
	m := z.mode
	if m.Kind == "" {
		m = Mode{Kind: z.cfg.Mode, Share: -1}
	}
	if m.Kind == ModeCanary && m.Share < 0 {
		m.Share = z.cfg.Canary
	}
	return m
}

// FunctionModes are the functions with a mode of their own, by "tenant/name". It must not be changed.
func (z *Zone) FunctionModes() map[string]Mode { return z.modes }

// ruled says whether the rule decides about the call. A call stays on one side for as long as its mode stays: the draw is a
// hash of its id.
func (z *Zone) ruled(c *call, m Mode) bool {
	switch m.Kind {
	case ModeOff, ModeShadow:
		return false
	case ModeCanary:
		return unit(c.inv.ID, saltCanary) < m.Share
	}
	return true
}

// part is the share of calls that are decided about as one is for which ruled says so.
func (m Mode) part(ruled bool) float64 {
	switch {
	case m.Kind != ModeCanary:
		return 1
	case ruled:
		return m.Share
	}
	return 1 - m.Share
}

// choose decides about the call in hand (z.pc, z.cands) by whatever is in force for it, and leaves in z.shadow what the rule
// would have done if it was only asked.
func (z *Zone) choose(c *call) policy.Choice {
	m := z.modeOf(c.fn)
	z.shadowed = false
	z.noteSide(c)
	if z.ruled(c, m) {
		ch := z.rule.Decide(&z.pc, z.cands, z.rng)
		if ch.Verb == policy.Delay && ch.Clause != policy.ClauseMemory || ch.Clause == policy.ClauseDelayOff && !c.fn.spec.DelayOff {
			_, share := z.mustRun(c)
			ch.Propensity *= share
		}
		return ch
	}
	if m.Kind != ModeOff {
		z.shadowCands = append(z.shadowCands[:0], z.cands...) // averages write what they reckon with into theirs
		z.shadow, z.shadowed = z.rule.Decide(&z.pc, z.shadowCands, z.rng), true
	}
	ch := z.fallback.Decide(&z.pc, z.cands, z.rng)
	if z.shadowed && !c.shadowed {
		c.shadowed = true
		z.counters.Shadowed++
		if z.shadow.Verb == policy.Delay {
			z.counters.ShadowDelayed++
		}
		if z.shadow.Take >= 0 && ch.Take >= 0 && z.shadowCands[z.shadow.Take].Node != z.cands[ch.Take].Node {
			z.counters.ShadowElsewhere++
		}
	}
	return ch
}

// admits says whether a waiting call may take a freed slot, by the policy that decides about it, and its place among those that may.
func (z *Zone) admits(w *call, cand *policy.Candidate, elsewhereMs float64) (ok bool, index float64) {
	ok, index = z.order.Admit(&z.pc, cand, elsewhereMs, w.execBest)
	if p := z.acting(w); p != z.order {
		ok, _ = p.Admit(&z.pc, cand, elsewhereMs, w.execBest)
	}
	return ok, index
}

// Salts keep draws from one id apart.
const (
	saltCanary = 0x9e3779b97f4a7c15
	saltProbe  = 0xd1b54a32d192ed03
)

// unit maps an id to 0-1, evenly and always alike.
func unit(id string, salt uint64) float64 {
	x := hashOf(id) ^ salt // FNV alone leaves ids that differ in their last letter close together
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}

// validateMode reports the faults of what concerns modes.
func (c *Config) validateMode() []error {
	var errs []error
	if m, err := ParseMode(c.Mode); err != nil || m.Share >= 0 {
		errs = append(errs, fmt.Errorf("%w: mode %.40q: want on, canary, shadow or off", api.ErrInvalid, c.Mode))
	}
	if !(c.Canary >= 0 && c.Canary <= 1) {
		errs = append(errs, fmt.Errorf("%w: canary %v: want 0-1", api.ErrInvalid, c.Canary))
	}
	if !policy.WorkConserving(c.Fallback) {
		errs = append(errs, fmt.Errorf("%w: fallback %.40q: want a policy that never waits beside a free slot: %s", api.ErrInvalid, c.Fallback, strings.Join(policy.WorkConservingNames(), ", ")))
	}
	if !(c.HedgeBudget >= 0 && c.HedgeBudget <= maxHedgeBudget) || math.IsNaN(c.HedgeBudget) {
		errs = append(errs, fmt.Errorf("%w: hedge_budget %v: want 0-%v", api.ErrInvalid, c.HedgeBudget, maxHedgeBudget))
	}
	return errs
}

const maxHedgeBudget = .1

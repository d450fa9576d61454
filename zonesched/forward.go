package zonesched

import (
	"math"
	"slices"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// grantIn is what another zone lets us send.
type grantIn struct {
	from    string
	id      uint64
	epoch   api.Epoch
	left    int
	expires time.Time
	load    float64
	meanMs  float64
	rtt     ewma
	heard   time.Time // when a call last came back from there
}

// rttLasts is how long a measured round trip is believed. From then on each grant brings it nearer to what is configured: else a zone
// that was once far, since a link was full, would never be tried again.
const rttLasts = 10 * time.Second

// grantOut is what we let another zone send; the giver enforces it.
type grantOut struct {
	id      uint64
	left    int
	expires time.Time
}

func (z *Zone) grantReceived(now time.Time, g *wire.Grant) {
	if g.To != z.cfg.Zone || g.TTLMs <= 0 || g.Slots < 0 {
		return
	}
	in := z.grantsIn[g.From]
	if in == nil {
		if len(z.grantsIn) >= maxZones {
			return
		}
		in = &grantIn{from: g.From, rtt: ewma{w: .1, v: ms(z.cfg.ForwardRTT)}, heard: now}
		z.grantsIn[g.From] = in
	}
	if g.Epoch.Compare(in.epoch) < 0 || g.Epoch == in.epoch && g.ID <= in.id {
		return
	}
	if now.Sub(in.heard) > rttLasts {
		// What was measured is believed less and less, and the next measurement counts in full.
		in.rtt.v += in.rtt.w * (ms(z.cfg.ForwardRTT) - in.rtt.v)
		in.rtt.n = 0
	}
	in.id, in.epoch, in.left, in.load, in.meanMs = g.ID, g.Epoch, g.Slots, g.Load, g.MeanMs
	in.expires = now.Add(time.Duration(g.TTLMs) * time.Millisecond)
}

const maxZones = 1024

// grant draws the zone that a call may go to: among those with room two are drawn and the better one is taken, since "the
// best one" is a herd's choice. nil: there is none that was not asked yet.
func (z *Zone) grant(now time.Time, c *call) *grantIn {
	var a, b *grantIn
	open := 0
	for _, name := range sortedKeys(z.grantsIn) {
		g := z.grantsIn[name]
		if g.left <= 0 || !now.Before(g.expires) || slices.Contains(c.asked, name) {
			continue
		}
		// Reservoir of two.
		switch open++; {
		case a == nil:
			a = g
		case b == nil:
			b = g
		default:
			if k := z.rng.IntN(open); k == 0 {
				a = g
			} else if k == 1 {
				b = g
			}
		}
	}
	if b != nil && z.remoteMs(now, c, b) < z.remoteMs(now, c, a) {
		return b
	}
	return a
}

// forward sends a call on to a zone that granted us room, if it would finish there sooner than here.
func (z *Zone) forward(now time.Time, c *call, ch *policy.Choice) (Action, bool) {
	a := z.grant(now, c)
	if a == nil {
		return Action{}, false
	}
	here := math.Inf(1)
	if ch.Take >= 0 {
		k := &z.cands[ch.Take]
		here = k.CostMs() - k.PriceMs - k.MissMs // nobody here knows the other zone's prices, or how late the call would be there
	}
	there := z.remoteMs(now, c, a)
	if here-there <= forwardGainMs+.1*there {
		return Action{}, false
	}
	return z.send(now, c, a, there, here), true
}

// send forwards a waiting call under a grant. there is what it is expected to take in the other zone, here the best in this one, in ms.
func (z *Zone) send(now time.Time, c *call, a *grantIn, there, here float64) Action {
	c.sent = Forward{Zone: a.from, At: now, ExpectedMs: there, HereMs: finite(here)}
	a.left--
	z.unwait(now, c)
	c.asked = append(c.asked, a.from)
	c.state, c.kind = callForwarded, api.DecisionForwarded
	c.dispatched = now
	z.counters.ForwardedOut++
	inv := *c.inv
	inv.Forwarded = z.cfg.Zone
	inv.WaitedMs = ms(now.Sub(c.arrived))
	if !c.hard.IsZero() {
		inv.BudgetMs = max(c.hard.Sub(now).Milliseconds(), 1)
	}
	c.gen++
	return Action{Kind: ActForward, ID: c.inv.ID, To: a.from, Call: &inv, GrantID: a.id, Epoch: a.epoch, Gen: c.gen}
}

// forwardGainMs: a forward must win this much, since what is known of the other zone is older than what is known here.
const forwardGainMs = 10

// remoteMs is the predicted time until the answer from another zone: round trip, execution there without any of the
// call's locality, and moving its inputs over a link like our own.
func (z *Zone) remoteMs(now time.Time, c *call, g *grantIn) float64 {
	exec := g.meanMs
	if z.pred != nil {
		req := api.Request{
			Function: c.fn.id, Runtime: c.fn.spec.Runtime, MemoryMB: c.fn.spec.MemoryMB, InputBytes: c.inv.InputBytes(),
			PayloadBytes: c.inv.PayBytes, Hour: now.Hour(), Alpha: c.fn.spec.Objective.Alpha(), Call: c.inv.ID, Attempt: c.attempt,
		}
		link := 1000.0
		if len(z.nodes) > 0 && z.nodes[0].linkMbps > 0 {
			link = z.nodes[0].linkMbps
		}
		there := [1]api.Candidate{{Sandbox: api.SandboxPrepared, MissingBytes: c.inv.InputBytes(), Slots: 1, LinkMbps: link}}
		z.pred.Estimate(&req, there[:], z.ests[:1])
		e := policy.Candidate{Est: z.ests[0]}
		if z.trust.lost && z.guarded() { // as for candidates of this zone, with whose costs it is compared
			e.ForgetForest()
		}
		exec = e.Est.MedianMs()
	}
	return g.rtt.v + exec
}

// forwardDone takes the other zone's answer, or takes the call back when it was refused there.
func (z *Zone) forwardDone(now time.Time, ev *Event, out []Action) []Action {
	c := z.calls[ev.ID]
	if c == nil || c.state != callForwarded {
		return out
	}
	a := *ev.Answer
	if a.Refused {
		f := z.fns[c.fn.id]
		if f == nil {
			return z.answerError(now, c, api.CodeNotFound, "function was deleted while the call was with another zone", out)
		}
		c.fn, c.since = f, now
		c.kind, c.sent.Back = api.DecisionQueued, true
		z.wait(now, c)
		if code, why := z.misfit(f); why != "" {
			// Other zones may have what this one lacks. Each is asked once.
			if g := z.grant(now, c); g != nil {
				return append(out, z.send(now, c, g, z.remoteMs(now, c, g), math.Inf(1)))
			}
			return z.answer(now, c, &wire.Answer{ID: ev.ID, Code: code, Message: why, RetryMs: retryMisfitMs, Refused: c.losses == 0}, out)
		}
		c.noFwd = true
		return z.decide(now, c, out)
	}
	t := &a.Timing
	g := z.grantsIn[t.Zone]
	if g != nil {
		g.heard = now
	}
	if g != nil && a.Code == api.CodeOK { // of others a part is left out, which would count as the way
		total := ms(now.Sub(c.dispatched))
		g.rtt.add(math.Max(total-t.QueueMs-t.DelayMs-t.FetchMs-t.InitMs-t.RunMs, .01))
	}
	t.Decision = api.DecisionForwarded
	if r := z.ring.at(c.rec); r != nil && a.Code == api.CodeOK {
		r.lookBack(now, c.fn, -1, t.Start, c.inv.InputBytes(), 0)
	}
	// The other zone counted the waiting here as its own past; the breakdown shows it once.
	return z.answer(now, c, &a, out)
}

// issueGrants promises free slots to zones whose work the coordinator's shares let in, ahead of need. What is
// promised is never more than what is free now (I12); a promise not used lapses.
func (z *Zone) issueGrants(now time.Time, out []Action) []Action {
	free, busy := 0, 0
	for _, n := range z.nodes { // not the sums: what is promised must not stand on nodes that are paused
		if n.usable(now) {
			free += max(n.free(), 0)
			busy += len(n.running)
		}
	}
	spare := max(free-len(z.waiting), 0)
	for _, s := range z.shares {
		if s.To != z.cfg.Zone || s.From == z.cfg.Zone || s.Permille <= 0 {
			continue
		}
		n := min((spare*s.Permille+999)/1000, spare)
		if n == 0 {
			continue
		}
		spare -= n
		g := z.given[s.From]
		if g == nil {
			if len(z.given) >= maxZones {
				continue
			}
			g = &grantOut{}
			z.given[s.From] = g
		}
		z.grantSeq++
		g.id, g.left, g.expires = z.grantSeq, n, now.Add(z.cfg.GrantTTL)
		out = append(out, Action{Kind: ActGrant, To: s.From, Grant: &wire.Grant{
			ID: g.id, From: z.cfg.Zone, To: s.From, Epoch: z.epoch, Slots: n, TTLMs: z.cfg.GrantTTL.Milliseconds(),
			Load: float64(busy) / float64(max(busy+free, 1)), MeanMs: z.meanMs(),
		}})
	}
	return out
}

func (z *Zone) meanMs() float64 {
	sum, n := 0.0, 0.0
	for _, id := range sortedKeys(z.fns) {
		if f := z.fns[id]; f.runMs.n > 0 {
			sum, n = sum+f.runMs.v, n+1
		}
	}
	if n == 0 {
		return 100
	}
	return sum / n
}

// useGrant takes one slot of the newest grant that we gave: a renewed one replaces the one before, so that never more
// is promised than was free. A call on the way under the old one goes back to its zone.
func (z *Zone) useGrant(now time.Time, zone string, id uint64, epoch api.Epoch) bool {
	g := z.given[zone]
	if g == nil || epoch != z.epoch || id != g.id || g.left <= 0 || !now.Before(g.expires) {
		return false
	}
	g.left--
	return true
}

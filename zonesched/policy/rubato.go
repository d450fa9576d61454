package policy

import (
	"math"
	"math/rand/v2"

	"github.com/rubato-faas/rubato/api"
)

// Rubato is the product's rule: hold a call back for a better node iff the predicted gain is above what
// prediction errors can fake, and the deadline allows it. DESIGN.md of zonesched has the derivation.
type Rubato struct {
	cfg   Config
	costs []float64 // CostMs of the candidates in hand: the rule looks at them several times, and each takes an exponential
}

var _ Policy = (*Rubato)(nil)

// Rule constants; the threshold's come from measuring the loss of the rule under known prediction errors.
const (
	thresholdBaseMs   = 5
	thresholdShare    = .1
	thresholdErrShare = .57
	thresholdErrMax   = .35
	missGain          = .02 // a wait must lower the chance of a miss by this to be worth it for the deadline's sake
	wakeFactor        = 1.5
	minWakeMs         = 1
	sharedCold        = 8 // waiting calls that a cold start is divided among at most
	agedWaits         = 4 // times DelayMax, from which on a call is old
	localFirst        = 1e9
	nearlyBest        = .5 // of the threshold that a call may be above its best place and still count as in place
	agedFirst         = 1e12
	leastMs           = .01 // that a call is taken to need, so that its response ratio is finite
	spareSlots        = 10  // one slot in so many must be free for prewarming
	prewarmShare      = .3
	exploreFactor     = 2 // times the best cost that a trial may be predicted to cost
)

// Name implements Policy.
func (*Rubato) Name() string { return "rubato" }

func threshold(errEW, execNowMs float64) float64 {
	return thresholdBaseMs + (thresholdShare+thresholdErrShare*math.Min(errEW, thresholdErrMax))*execNowMs
}

// MissCertain is the probability of a miss from which on it is taken for certain.
const MissCertain = .98

// MissProb is P(start + link + exec > deadline) for a log-normal execution time. Without a bound (+Inf) nothing is
// known well enough: 0, so that no clause about misses fires.
func MissProb(c *Candidate, deadlineMs float64) float64 {
	if math.IsInf(deadlineMs, 1) || math.IsInf(c.Est.UpperMs, 1) {
		return 0
	}
	room := deadlineMs - c.StartMs - c.LinkMs
	if room <= 0 {
		return 1
	}
	sigma := math.Max(c.Est.Sigma, 1e-3)
	return .5 * math.Erfc((math.Log(room)-c.Est.Mu)/(sigma*math.Sqrt2))
}

// Decide implements Policy. Cost: a few passes over the candidates, one of them an exponential each; no allocation.
func (p *Rubato) Decide(c *Call, cands []Candidate, rng *rand.Rand) Choice {
	p.costs = p.costs[:0]
	for i := range cands {
		p.costs = append(p.costs, cands[i].CostMs())
	}
	best, alike := p.argmin(cands, false, rng)
	if best < 0 {
		return Choice{Verb: Queue, Clause: ClauseNoSlot, Take: -1, Now: -1, WakeMs: math.Inf(1), Propensity: 1}
	}
	now, drawn := p.argmin(cands, true, rng)
	if now < 0 {
		return Choice{Verb: Queue, Clause: ClauseNoSlot, Take: best, Now: -1, WakeMs: math.Inf(1), Propensity: 1 / float64(alike)}
	}
	if cands[best].UnderWay {
		if k := p.behind(cands, best); k != best {
			best, alike = k, 1 // whichever was drawn
		}
	}
	ch := p.choose(c, cands, now, best)
	if ch.Propensity = 1 / float64(alike); ch.Take == now || cands[ch.Take].Free {
		ch.Propensity = 1 / float64(drawn) // whatever was drawn among free and busy ones together
	}
	if k := &cands[ch.Take]; ch.Verb == Run && p.owes(c, k) {
		wait := p.paidIn(c, k)
		roomy := func(k *Candidate) bool { return k.EvictMs == 0 }
		if alt, n := p.cheapest(cands, rng, roomy); alt >= 0 && p.costs[alt] < p.costs[ch.Take]+wait {
			return Choice{Verb: Run, Clause: ClauseMemory, Take: alt, Now: alt, WakeMs: math.Inf(1), ThresholdMs: ch.ThresholdMs, Propensity: 1 / float64(n)}
		}
		return Choice{Verb: Delay, Clause: ClauseMemory, Take: ch.Take, Now: ch.Take, WakeMs: wait, ThresholdMs: ch.ThresholdMs, Propensity: ch.Propensity}
	}
	if ch.Verb != Run {
		return ch
	}
	if p.cfg.Explore > 0 {
		p.explore(c, cands, &ch, rng)
	}
	if cands[ch.Take].Sandbox == api.SandboxWarm && c.Warming == 0 && rentPaid(c, c.Free-1) {
		// Calls are held back while most slots are busy, which is when a sandbox is dear. What they have paid may do once it is quiet.
		ch.Cold, _ = p.cheapest(cands, rng, func(k *Candidate) bool { return k.EvictMs == 0 && k.Sandbox != api.SandboxWarm && !k.UnderWay })
		ch.Prewarm = ch.Cold >= 0
	}
	return ch
}

func (p *Rubato) choose(c *Call, cands []Candidate, now, best int) Choice {
	n, b := &cands[now], &cands[best]
	run := Choice{Verb: Run, Take: now, Now: now, WakeMs: math.Inf(1)}
	if b.Free {
		run.Take, run.Clause = best, ClauseBestFree
		return run
	}
	run.ThresholdMs = threshold(c.ErrEW, n.Est.MedianMs())
	if n.UnderWay && b.Sandbox == api.SandboxWarm {
		// Both wait for a start of the same kind, and the one under way is ahead by what it has run: however wrong its
		// estimate is, the difference is not.
		run.ThresholdMs = thresholdBaseMs - evenStart(n)
	}
	delayMaxMs := ms(p.cfg.DelayMax)
	switch {
	case c.DelayOff:
		run.Clause = ClauseDelayOff
		return run
	case p.costs[now]-p.costs[best] <= run.ThresholdMs:
		run.Clause = ClauseGainTooSmall
		return run
	case c.WaitedMs >= delayMaxMs:
		run.Clause = ClauseDelayMax
		return run
	}
	latest := LatestStart(c, n)
	clause, ok := delayClause(c, n, b, latest)
	if !ok {
		run.Clause = ClauseDeadlineClose
		return run
	}
	if c.Stopped { // last: only a call that would have waited tells what it is worth
		run.Clause = ClauseDelayOff
		return run
	}
	wake := math.Min(delayMaxMs-c.WaitedMs, wakeFactor*b.StartMs)
	if latest > 0 {
		wake = math.Min(wake, latest)
	}
	return Choice{
		Verb: Delay, Clause: clause, Take: best, Now: now, WakeMs: math.Max(wake, minWakeMs), ThresholdMs: run.ThresholdMs,
		Prewarm: n.Sandbox != api.SandboxWarm && !n.UnderWay && prewarm(c, n, b.StartMs), Cold: now,
	}
}

// owes says that the call should wait before it starts a sandbox that pushes out those of others: until the function's waiting calls
// have waited, all together, for as long as that costs the others. As with rented skis, whoever comes meanwhile shares the start.
// Where every call took memory at once, each start made another one necessary, and a zone with room for one sandbox of each function
// was busy with starts at a load of .2. Not where it costs less than what errors can fake, nor beyond DelayMax or the latest safe start.
func (p *Rubato) owes(c *Call, k *Candidate) bool {
	return !c.DelayOff && k.Sandbox != api.SandboxWarm && k.EvictMs > math.Max(c.OwedMs, threshold(c.ErrEW, k.Est.MedianMs())) && c.WaitedMs < ms(p.cfg.DelayMax) && LatestStart(c, k) > minWakeMs
}

// cheapest is the cheapest candidate that can start now and is one of those, -1 for none.
func (p *Rubato) cheapest(cands []Candidate, rng *rand.Rand, one func(*Candidate) bool) (at, drawn int) {
	l := newLot()
	for i := range cands {
		if k := &cands[i]; k.Free && one(k) {
			l.offer(i, p.costs[i], rng)
		}
	}
	return l.at, l.ties
}

// paidIn is when it will not owe any more, or may not wait any longer.
func (p *Rubato) paidIn(c *Call, k *Candidate) float64 {
	paid := (k.EvictMs - c.OwedMs) / float64(max(c.Alike, 1))
	return math.Max(math.Min(math.Min(paid, ms(p.cfg.DelayMax)-c.WaitedMs), LatestStart(c, k)), minWakeMs)
}

// LatestStart is when, from now, the call must start on k to meet its deadline for all that is known; +Inf without a deadline.
func LatestStart(c *Call, k *Candidate) float64 {
	if math.IsInf(c.DeadlineMs, 1) {
		return c.DeadlineMs
	}
	return c.DeadlineMs - k.LinkMs - k.Est.UpperMs - c.MarginMs
}

// evenStart is how much more a wait for a start under way may be predicted to cost than a second start and still be preferred: about
// even, the second one loses. It takes a slot for as long as the first, and whoever waits can begin it any time.
func evenStart(cold *Candidate) float64 { return thresholdShare * cold.Est.MedianMs() }

// behind is the cheapest sandbox to come that is about as good as the start at cands[best], else best.
func (p *Rubato) behind(cands []Candidate, best int) int {
	at, least := best, p.costs[best]+evenStart(&cands[best])-thresholdBaseMs
	for i := range cands {
		if k := &cands[i]; !k.Free && k.Sandbox == api.SandboxWarm && p.costs[i] < least {
			at, least = i, p.costs[i]
		}
	}
	return at
}

// prewarm says whether a sandbox should be brought up while calls of the function wait (the idea is CIDRE's, Liu et al.,
// ASPLOS 2025): only with slots to spare, for no more sandboxes than calls, and when what waits adds up to a good part of a
// cold start, or when one after another has waited for as long as that is worth: each wait of a few ms is right by itself, and
// together they are more than the sandbox that would have ended them. As with rented skis.
func prewarm(c *Call, n *Candidate, startMs float64) bool {
	if c.ColdMs == 0 || !spare(c, c.Free) || c.Warming >= c.Alike {
		return false
	}
	return float64(c.Alike)*startMs > prewarmShare*c.ColdMs+n.EvictMs || n.EvictMs == 0 && rentPaid(c, c.Free)
}

// spare: there are slots to prewarm in while so many are free.
func spare(c *Call, free int) bool { return spareSlots*free >= c.Slots }

// rentPaid: the function's calls have waited for as long as a sandbox costs while so many slots are free. The slot in which it comes up
// is missed only while all others are busy, and that is about as often as the fourth power of the share of busy ones, its own among
// them, says: of eight slots that are half busy all are a seventeenth of the time (Erlang's C), of more of them less.
func rentPaid(c *Call, free int) bool {
	busy := float64(c.Slots-free+1) / float64(c.Slots)
	return c.ColdMs > 0 && spare(c, free) && c.RentMs > c.ColdMs*busy*busy*busy*busy
}

// delayClause finds the reason that lets a gainful wait happen. The last two matter: "the latest safe start must lie
// ahead", taken to the letter, would force calls that will miss anyway into cold starts. Without a bound nothing is known of either
// side of a deadline, but for one thing: a second start of the same kind does not end before the one under way, whatever they take.
// What the call that began it still needs of the sandbox is less sure: half of the whole deadline must be left for the rest.
func delayClause(c *Call, n, b *Candidate, latest float64) (Clause, bool) {
	if math.IsInf(c.DeadlineMs, 1) {
		return ClauseNoDeadline, true
	}
	if latest > minWakeMs && b.StartMs+b.LinkMs+b.Est.UpperMs <= c.DeadlineMs {
		return ClauseSafeWait, true
	}
	if n.UnderWay && b.Coming && math.IsInf(n.Est.UpperMs, 1) && c.WaitedMs+b.StartMs <= (c.WaitedMs+c.DeadlineMs)/2 {
		return ClauseComing, true
	}
	if math.IsInf(b.Est.UpperMs, 1) {
		return 0, false // for all that is known, best may miss as well
	}
	missNow, missBest := MissProb(n, c.DeadlineMs), MissProb(b, c.DeadlineMs)
	switch {
	case missNow > missBest+missGain:
		return ClauseMissesLess, true
	case missNow > MissCertain:
		return ClauseMissesAnyway, true
	}
	return 0, false
}

// explore sends a small share of calls to a random node among those whose bound meets the deadline and that are not
// predicted to cost much more than the best: without it a node that was once slow is never measured again. Without the
// limit a warm call of 2 ms was now and then sent to compile its module for a second, and that made up a tenth of all time.
func (p *Rubato) explore(c *Call, cands []Candidate, ch *Choice, rng *rand.Rand) {
	safe, pick := 0, -1
	most := exploreFactor*p.costs[ch.Take] + thresholdBaseMs
	isSafe := func(i int) bool {
		k := &cands[i]
		return k.Free && !math.IsInf(k.Est.UpperMs, 1) && k.LinkMs+k.Est.UpperMs <= c.DeadlineMs && p.costs[i] <= most
	}
	for i := range cands {
		if !isSafe(i) {
			continue
		}
		safe++
		if rng.IntN(safe) == 0 {
			pick = i
		}
	}
	if safe < 2 {
		return
	}
	// A node is taken because it was drawn here, or among its equals before, or both.
	each, alone := p.cfg.Explore/float64(safe), (1-p.cfg.Explore)*ch.Propensity
	if rng.Float64() < p.cfg.Explore && pick != ch.Take {
		if !p.alike(cands, pick, ch.Take) {
			alone = 0
		}
		ch.Take, ch.Clause, ch.Propensity = pick, ClauseExplore, each+alone
		return
	}
	if !isSafe(ch.Take) {
		each = 0
	}
	ch.Propensity = alone + each
}

// Admit implements Policy: late binding. A freed slot goes to the waiting call with the highest response ratio among
// those that lose nothing by taking it.
func (p *Rubato) Admit(c *Call, cand *Candidate, elsewhereMs, execBestMs float64) (bool, float64) {
	med := cand.Est.MedianMs()
	slack := threshold(c.ErrEW, med)
	// Who waits alike shares the cold start.
	ea := math.Max(med-c.ColdMs+c.ColdMs/float64(min(max(c.Alike, 1), sharedCold))+cand.EvictMs+cand.PushMs+cand.StrandMs(), leastMs)
	index := (c.WaitedMs + ea) / ea
	if p.owes(c, cand) {
		return false, index
	}
	if c.Saturated() {
		// Nothing that has to be fetched or brought up may push out what would run at once: else a zone that is full spends its
		// slots on cold starts, which keep it full. Nobody starves: the oldest have one slot in a few.
		switch {
		case p.aged(c):
			index = agedFirst + c.WaitedMs
			if cand.Sandbox >= api.SandboxPrepared {
				index += ms(p.cfg.DelayMax) // what would be fetched and prepared here another node may have
			}
			return true, index
		case cand.Local() && cand.StrandMs() <= nearlyBest*slack:
			return true, localFirst + index
		case cand.Sandbox == api.SandboxWarm && cand.LinkMs+med+cand.ExtraMs()-cand.MissMs <= execBestMs+nearlyBest*slack:
			// What no node has, or none that is as good, must be fetched wherever the call runs: it would wait for nothing.
			return true, localFirst + index
		}
	}
	if cand.UnderWay {
		slack = thresholdBaseMs - evenStart(cand) // as in choose: else every slot that frees would tempt a call into a second cold start
	}
	if cand.CostMs()-cand.MissMs > math.Max(elsewhereMs, execBestMs)+slack { // late here is late there
		return false, index
	}
	return true, index
}

// aged: the call is so old that it may take the slot for that alone.
func (p *Rubato) aged(c *Call) bool {
	return c.AgeTurn && c.WaitedMs > agedWaits*ms(p.cfg.DelayMax)
}

// MostIndex implements Ranker: what goes before others in a full zone is warm or old, and all the rest by its response ratio.
func (p *Rubato) MostIndex(c *Call, cand *Candidate) float64 {
	if c.Saturated() && (cand.Sandbox == api.SandboxWarm || p.aged(c)) {
		return math.Inf(1)
	}
	return (c.WaitedMs + leastMs) / leastMs
}

// ByAge reports whether an index of Admit was given for age alone.
func ByAge(index float64) bool { return index >= agedFirst }

// Why a waiting call came first for a freed slot.
const (
	FirstByAge   = "age"   // of the oldest, which have one slot in a few in a full zone
	FirstByMatch = "match" // it finds there what others would have to fetch or bring up
	FirstByOrder = "order" // of those that remain: by response ratio, or in their policy's order
)

// First says why a call with this index came first, and the index among those of its kind.
func First(index float64) (why string, of float64) {
	switch {
	case ByAge(index):
		return FirstByAge, index - agedFirst
	case index >= localFirst: // matchFirst is the same
		return FirstByMatch, math.Mod(index, localFirst)
	}
	return FirstByOrder, index
}

// Saturated: so many calls wait that order matters more than placement.
func (l *Load) Saturated() bool { return 4*l.Waiting > l.Slots }

// argmin finds the cheapest candidate (only free ones if free), and how many it was drawn among. Equal costs go to the one that has more of what the
// call needs (without a model all costs are equal), then to a draw, since "lowest id first" herds.
func (p *Rubato) argmin(cands []Candidate, free bool, rng *rand.Rand) (best, ties int) {
	best = -1
	cost := math.Inf(1)
	for i := range cands {
		if free && !cands[i].Free {
			continue
		}
		k := p.costs[i]
		switch {
		case best < 0 || k < cost || k == cost && cands[i].nearer(&cands[best]):
			best, ties, cost = i, 1, k
		case k == cost && !cands[best].nearer(&cands[i]):
			if ties++; rng.IntN(ties) == 0 {
				best = i
			}
		}
	}
	return best, ties
}

// alike: argmin would draw between the two.
func (p *Rubato) alike(cands []Candidate, i, k int) bool {
	return p.costs[i] == p.costs[k] && !cands[i].nearer(&cands[k]) && !cands[k].nearer(&cands[i])
}

// nearer: less to fetch, or as much and a sandbox that has come further.
func (c *Candidate) nearer(o *Candidate) bool {
	return c.MissingBytes < o.MissingBytes || c.MissingBytes == o.MissingBytes && c.Sandbox > o.Sandbox
}

package zonesched

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// arms feeds the guard calls of both sides: held back ones that take wait times, and controls that take now times what was
// predicted of now*, with a spread.
func arms(z *Zone, rng *rand.Rand, n int, wait, now, spread float64) {
	at, fn := t0, &function{spec: &api.Function{}}
	off := &function{spec: &api.Function{DelayOff: true}}
	for range n {
		luck := func() float64 { return math.Exp(spread * rng.NormFloat64()) }
		end := at.Add(duration(100 * wait * luck()))
		z.judge(end, &call{fn: fn, wager: wager{at: at, costMs: 100}, clause: policy.ClauseFreed, dispatched: at, ownMs: 10}, api.OutcomeOK)
		end = at.Add(duration(100 * now * luck()))
		z.judge(end, &call{fn: fn, clause: policy.ClauseDelayOff, dispatched: at, ownMs: 100}, api.OutcomeOK)
		// Calls whose owner wants no waiting say nothing of those that might have waited, whatever they take.
		z.judge(at.Add(duration(1e6*rng.Float64())), &call{fn: off, clause: policy.ClauseDelayOff, dispatched: at, ownMs: 100}, api.OutcomeOK)
		at = at.Add(time.Second)
	}
}

// Property: however wrong predictions of now* are, waiting is stopped when it takes far longer than now*, never when it is far
// shorter, and it returns.
func TestGuardJudgesByTheControl(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBed(nil, nil)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		bias := math.Exp(rapid.Float64Range(-2, 2).Draw(t, "bias"))
		spread := rapid.Float64Range(0, .5).Draw(t, "spread")
		arms(b.z, rng, 400, .4*bias, bias, spread)
		if g := b.z.Guard(); g.Stopped {
			t.Fatalf("stopped though it wins: %+v", g)
		}
		arms(b.z, rng, 800, 2.5*bias, bias, spread)
		if g := b.z.Guard(); !g.Stopped || b.z.counters.WaitingStopped != 1 {
			t.Fatalf("not stopped though it loses: %+v", g)
		}
		arms(b.z, rng, 800, .4*bias, bias, spread)
		if g := b.z.Guard(); g.Stopped || b.z.counters.WaitingResumed != 1 || b.z.counters.WaitingStopped != 1 {
			t.Fatalf("not resumed though it wins again: %+v", g)
		}
	})
}

// Fewer than 50 calls stop nothing, however bad; what failed or was lost does not count.
func TestGuardNeedsEvidence(t *testing.T) {
	b := newBed(t, nil)
	rng := rand.New(rand.NewPCG(1, 1))
	arms(b.z, rng, guardCalls-1, 50, 1, .1)
	c := &call{wager: wager{at: t0, costMs: 1}, dispatched: t0}
	b.z.judge(t0.Add(time.Hour), c, api.OutcomeTimeout)
	c.losses = 1
	b.z.judge(t0.Add(time.Hour), c, api.OutcomeOK)
	if g := b.z.Guard(); g.Stopped || g.Calls != guardCalls-1 {
		t.Errorf("after %d calls: %+v", guardCalls-1, g)
	}
	arms(b.z, rng, 1, 50, 1, .1)
	if g := b.z.Guard(); !g.Stopped {
		t.Errorf("after %d: %+v", guardCalls, g)
	}
}

// How many calls that might be held back run at once, to be compared with: fewest while waiting wins beyond doubt.
func TestControlIsRareWhereWaitingWins(t *testing.T) {
	b := newBed(t, nil)
	rng := rand.New(rand.NewPCG(1, 1))
	share := func() float64 {
		c := &call{fn: b.z.fns["t/f"], draw: 1}
		_, held := b.z.mustRun(c)
		c.soft = t0
		if _, held := b.z.mustRun(c); 1-held < calmShare-1e-9 {
			t.Errorf("under a deadline %v: %+v", 1-held, b.z.Guard())
		}
		return 1 - held
	}
	if got := share(); got != calmShare {
		t.Errorf("at first %v", got)
	}
	arms(b.z, rng, 400, .4, 1, .3)
	if got := share(); math.Abs(got-sureShare) > 1e-9 {
		t.Errorf("while it wins %v: %+v", got, b.z.Guard())
	}
	arms(b.z, rng, 40, 2.5, 1, .3)
	if got := share(); got < calmShare-1e-9 {
		t.Errorf("while it wins no more %v: %+v", got, b.z.Guard())
	}
}

// While waiting is stopped, one call in sixteen is held back, the others run at once, and explain says which was which.
func TestStoppedWaitingProbes(t *testing.T) {
	b := newBed(t, nil)
	b.node("cold", 1000, 0)
	b.node("warm", 1, 1)
	b.z.guard.stopped = true
	b.invoke("first", "f")
	held := 0
	for i := range 800 {
		id := fmt.Sprintf("i%03d", i)
		b.invoke(id, "f")
		d, _ := b.z.Decision(id)
		if !d.Guarded || d.Control {
			t.Fatalf("recorded as %+v", d)
		}
		if d.Kind == "delayed" {
			if held++; d.Propensity != probeShare {
				t.Fatalf("a probe has a propensity of %v", d.Propensity)
			}
			b.step(&Event{Kind: EvCancel, ID: id})
		} else if find(b.acts, ActRun, id) == nil {
			t.Fatalf("%s neither runs nor is held back: %v", id, d.Kind)
		} else {
			b.done(id, "cold", func(m *wire.Completion) { m.Sandboxes, m.MemUsedMB = nil, 0 })
		}
	}
	if held < 25 || held > 85 {
		t.Errorf("%d of 800 calls were held back, want about 50", held)
	}
}

package lab

import (
	"time"

	"github.com/rubato-faas/rubato/sim"
	"github.com/rubato-faas/rubato/sim/naive"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

var disasters = []Disaster{
	{
		Name: "The cold-start spiral", Scenario: "spiral.yaml",
		Question: "After a burst the queue is long. Does the zone find back to serving what is warm, or do cold starts keep it full?",
		Calm:     spiralCalm,
		naive:    headOfQueue,
		Fails:    "from 13 s after the burst on more than half of the calls still start cold, most of the slots' time goes into that, and calls are refused, at a load of .4; with some seeds the zone tips over before the burst, while it warms up",
		Failed:   spun,
		Holds:    "by then as few calls start cold as before the burst, within 2 %, and none is refused",
		Held:     unspun,
	},
	{
		Name: "The cold-start spiral, deep", Scenario: "spiral-deep.yaml",
		Question: "The same, when the burst lasts until the queue is older than the age from which on calls go by age, and a cold start costs fifteen runs.",
		Calm:     spiralCalm,
		naive:    headOfQueue,
		Fails:    "of the calls that come from 24 s after the burst on, not one in ten has an answer half a minute after the last",
		Failed:   func(f *Faced) bool { return 10*f.Naive.Answered < f.Naive.Calls },
		Holds:    "all of them have, and fewer than one in twenty starts cold",
		Held:     undrowned,
	},
	{
		Name: "The cold-start spiral, first come, first served", Scenario: "spiral.yaml",
		Question: "The same as in the first. A slot that frees goes to whoever has waited longest, in a full zone or not.",
		Calm:     spiralCalm,
		naive:    broken("first come, first served", func(p policy.Policy) policy.Policy { return naive.FIFO{Policy: p} }),
		Fails:    "from 13 s after the burst on more than half of the calls still start cold, most of the slots' time goes into that, and calls are refused, at a load of .4; with most seeds the zone tips over before the burst, while it warms up",
		Failed:   spun,
		Holds:    "by then as few calls start cold as before the burst, within 2 %, and none is refused",
		Held:     unspun,
	},
	{
		Name: "The cold-start spiral, cold starts in a full zone", Scenario: "spiral-deep.yaml",
		Question: "The same as in the deep one. Each call by itself gains by a cold start, since it would wait longer for its sandbox. And all together?",
		Calm:     spiralCalm,
		naive:    broken("one by one, cold in a full zone too", func(p policy.Policy) policy.Policy { return naive.ColdInFull{Policy: p} }),
		Fails:    "of the calls that come from 24 s after the burst on, not one in two has an answer half a minute after the last",
		Failed:   func(f *Faced) bool { return 2*f.Naive.Answered < f.Naive.Calls },
		Holds:    "all of them have, and fewer than one in twenty starts cold",
		Held:     undrowned,
	},
	{
		Name: "The cold-start spiral, forced by DelayMax", Scenario: "spiral-deep.yaml",
		Question: "The burst lasts until the queue is older than DelayMax. Does the bound of waiting beside a free slot hold in a full zone too?",
		Calm:     spiralCalm,
		naive: contender{name: "DelayMax forces cold starts", rule: func(cfg policy.Config, _ func() time.Duration) policy.Policy {
			return naive.ForceOld{Policy: rubato(cfg), MaxMs: delayMaxMs(cfg)}
		}},
		Fails:  "of the calls that come from 24 s after the burst on, not one in ten has an answer half a minute after the last",
		Failed: func(f *Faced) bool { return 10*f.Naive.Answered < f.Naive.Calls },
		Holds:  "all of them have, and fewer than one in twenty starts cold",
		Held:   undrowned,
	},
	{
		Name: "Speculation without a bound", Scenario: "spiral-speculation.yaml",
		Question: "For each call that finds no idle sandbox one is brought up. Who pays for those that nobody needs?",
		Calm:     spiralCalm,
		naive:    broken("prewarms without a limit", func(p policy.Policy) policy.Policy { return naive.Speculate{Policy: p} }),
		Fails:    "from 13 s after the burst on calls take more than twice as long, and a quarter of their own slots' time goes into starting, at a load of .4, though more than twice as many sandboxes are brought up ahead",
		Failed: func(f *Faced) bool {
			return f.Naive.MeanMs > 2*f.Ours.MeanMs && f.Naive.Init > .25 && f.Naive.Prewarmed > 2*f.Ours.Prewarmed
		},
		Holds: "by then as few calls start cold as before the burst, within 2 %, and none is refused",
		Held:  unspun,
	},
	{
		Name: "Evictions that chain", Scenario: "push-out.yaml",
		Question: "Memory holds about one sandbox of each function, and whoever starts a second one ends somebody's only one. Who starts the next?",
		naive:    broken("starts at once whatever it pushes out", func(p policy.Policy) policy.Policy { return naive.PushOut{Policy: p} }),
		Fails:    "calls take more than 1.5 times as long, and more than twice as many start cold",
		Failed:   func(f *Faced) bool { return f.Naive.MeanMs > 1.5*f.Ours.MeanMs && f.Naive.Cold > 2*f.Ours.Cold },
		Holds:    "fewer than one in twelve start cold, none is held back longer than DelayMax, and no call waits a second longer than that",
		Held:     func(f *Faced) bool { return f.Ours.Cold < 1./12 && f.Ours.HeldMs < 2010 && f.Ours.LongestMs < 3000 },
	},
	{
		Name: "Waiting without a bound", Scenario: "reset-timer.yaml",
		Question: "A timer that begins anew with each hit never runs out where hits are frequent. Does a call get away from the one node that has its sandbox?",
		naive: contender{name: "timer reset by hits", rule: func(_ policy.Config, clock func() time.Duration) policy.Policy {
			return &naive.ResetTimer{WaitMs: 2000, Clock: clock}
		}},
		Fails:  "one of the eight nodes serves more than nine tenths of the calls, and the longest wait is more than three times the timer",
		Failed: func(f *Faced) bool { return f.Naive.Node > .9 && f.Naive.LongestMs > 6000 },
		Holds:  "all calls are answered, none waits longer than DelayMax and a second, and no node serves more than two thirds",
		Held:   func(f *Faced) bool { return f.Ours.Unserved == 0 && f.Ours.LongestMs < 3000 && f.Ours.Node < .67 },
	},
	{
		Name: "Herding", Scenario: "herd.yaml",
		Question: "Many nodes are equally good. Does everybody choose the same one?",
		naive: contender{name: "least loaded by a stale view, lowest first", rule: func(_ policy.Config, clock func() time.Duration) policy.Policy {
			return &naive.Herd{EveryMs: 1000, Clock: clock}
		}},
		Fails:  "calls take more than twice as long, since those that chose the same node share its cores",
		Failed: func(f *Faced) bool { return f.Naive.MeanMs > 2*f.Ours.MeanMs },
		Holds:  "in the mean over seconds, the busiest node of each has at most twice its sixteenth of the calls",
		Held:   func(f *Faced) bool { return f.Ours.Node < .125 },
	},
	{
		Name: "Herding on the one warm node", Scenario: "herd-warm.yaml",
		Question: "One node has the sandbox. Does everybody want that one?",
		naive: contender{name: "the node that was warm first", rule: func(cfg policy.Config, _ func() time.Duration) policy.Policy {
			return naive.Flock{MaxMs: delayMaxMs(cfg)}
		}},
		Fails:  "one node has more than three times its eighth of the calls, which is all that it can do, and calls take more than ten times as long",
		Failed: func(f *Faced) bool { return f.Naive.Node > .375 && f.Naive.MeanMs > 10*f.Ours.MeanMs },
		Holds:  "all calls are answered, they take at most half as long again as one alone (40 ms), and none waits longer than a cold start (300 ms)",
		Held:   func(f *Faced) bool { return f.Ours.Unserved == 0 && f.Ours.MeanMs < 60 && f.Ours.LongestMs < 300 },
	},
	{
		Name: "Binding to the reserved node", Scenario: "bind-hard.yaml",
		Question: "A call waits for the node that was expected to be free first. What if another one is?",
		naive:    broken("bound to its first hope", func(p policy.Policy) policy.Policy { return naive.BindHard{Policy: p} }),
		Fails:    "the longest wait is more than one and a half times as long, and the mean is longer too",
		Failed: func(f *Faced) bool {
			return f.Naive.LongestMs > 1.5*f.Ours.LongestMs && f.Naive.WaitMs > f.Ours.WaitMs
		},
		Holds: "all calls are answered, and none waits longer than 3 s",
		Held:  func(f *Faced) bool { return f.Ours.Unserved == 0 && f.Ours.LongestMs < 3000 },
	},
	{
		Name: "Waiting for the warm node in vain", Scenario: "heavy-tails.yaml",
		Question: "Run times have heavy tails and a cold start costs little. Is idle capacity declined for a sandbox that stays busy?",
		naive:    alwaysWait, beside: &neverWaits,
		Fails:  "calls lose more than a whole cold start (60 ms) in the mean against not waiting at all",
		Failed: func(f *Faced) bool { return f.Naive.MeanMs > f.Beside.MeanMs+60 },
		Holds:  "they lose at most 10 ms, and less than a quarter as often is idle capacity declined",
		Held:   func(f *Faced) bool { return f.Ours.MeanMs < f.Beside.MeanMs+10 && 4*f.Ours.Declined < f.Naive.Declined },
	},
	{
		Name: "Starving in a full zone", Scenario: "starvation.yaml",
		Question: "Matches go first, the load stays above one, and a call has no match anywhere. Does it ever run?",
		naive:    broken("matches first, age counts for nothing", func(p policy.Policy) policy.Policy { return naive.Ageless{Policy: p} }),
		Fails:    "calls wait until the load ends: more than 24 s of 30",
		Failed:   func(f *Faced) bool { return f.Naive.LongestMs > 24_000 },
		Holds:    "no call that is answered waits longer than six times DelayMax; the load makes more than a quarter of all be refused, and no more than a third is",
		Held:     func(f *Faced) bool { return f.Ours.LongestMs < 12_000 && 3*f.Ours.Unserved < f.Ours.Calls },
	},
	{
		Name: "Noise", Scenario: "noise.yaml", oracle: true,
		Question: "Predictions are off by 35 %, each node and function in a way of its own. What do errors cost?",
		naive:    takeAtWord, beside: &plainDelay,
		Fails:  "calls take more than 1.45 times as long as by a plain fixed delay, which predicts nothing",
		Failed: func(f *Faced) bool { return f.Naive.MeanMs > 1.45*f.Beside.MeanMs },
		Holds:  "it serves all, and calls take no longer than by that delay",
		Held:   func(f *Faced) bool { return f.Ours.Unserved == 0 && f.Ours.MeanMs <= f.Beside.MeanMs },
	},
	stale(time.Second), stale(5 * time.Second), stale(20 * time.Second),
	{
		Name: "A law that turns around", Scenario: "inverted.yaml", beside: &neverWaits,
		Question: "The fast nodes become the slow ones in mid-run. How long is a wrong model believed?",
		naive:    contender{name: "a forest that learns no more", change: func(c *sim.Config) { c.Learn.Freeze = 20 * time.Second }},
		Fails:    "calls take more than 1.5 times as long",
		Failed:   func(f *Faced) bool { return f.Naive.MeanMs > 1.5*f.Ours.MeanMs },
		Holds:    "ten seconds after the change calls take at most 10 % longer than without any waiting",
		Held:     func(f *Faced) bool { return f.Ours.MeanMs < 1.1*f.Beside.MeanMs },
	},
	{
		Name: "A model gone wrong", Scenario: "model-sign.yaml", sign: 20 * time.Second, beside: &leastLoaded,
		Question: "The model takes slow nodes for fast ones, for good, and how well it learns does not show it. Who notices?",
		naive:    notGuarded,
		Fails:    "from ten seconds after that on calls take more than twice as long as on the least loaded node",
		Failed:   func(f *Faced) bool { return f.Naive.MeanMs > 2*f.Beside.MeanMs },
		Holds:    "averages come to stand in for the forest by themselves, and calls take at most 1.5 times as long as on the least loaded node",
		Held:     func(f *Faced) bool { return f.Ours.Dropped > 0 && f.Ours.MeanMs < 1.5*f.Beside.MeanMs },
		Found:    "averages tell no node from another; the least loaded ones are the fast ones here, since slow ones stay busy",
	},
	{
		Name: "A model gone wrong, and averages that tell no node from another", Scenario: "averages-wrong.yaml", sign: 20 * time.Second, beside: &leastLoaded,
		Question: "The same with more calls. Averages stand in for the forest, and do worse than a rule that looks at the load. Who notices that?",
		naive:    contender{name: "rubato, keep_rule", change: keepRule},
		Fails:    "25 s after that calls take more than 1.1 times as long as on the least loaded node",
		Failed:   func(f *Faced) bool { return f.Naive.MeanMs > 1.1*f.Beside.MeanMs },
		Holds:    "the fallback comes to decide by itself, and calls take at most 1.08 times as long as on the least loaded node",
		Held:     func(f *Faced) bool { return f.Ours.RuleDropped > 0 && f.Ours.MeanMs < 1.08*f.Beside.MeanMs },
	},
	{
		Name: "Waiting by a model gone wrong", Scenario: "model-sign.yaml", sign: 20 * time.Second,
		Question: "The same, where the forest must be believed (keep_forest). Who stops the waiting for slow nodes?",
		naive:    notGuarded,
		ours:     contender{name: "rubato, keep_forest", change: keepForest},
		beside:   &contender{name: "rubato, keep_forest, never waits", change: func(c *sim.Config) { keepForest(c); neverWaits.change(c) }},
		Fails:    "from ten seconds after that on calls take more than 1.3 times as long as without any waiting",
		Failed:   func(f *Faced) bool { return f.Naive.MeanMs > 1.3*f.Beside.MeanMs },
		Holds:    "the guard stops waiting by itself, and calls take at most 10 % longer than without any",
		Held:     func(f *Faced) bool { return f.Ours.Stopped > 0 && f.Ours.MeanMs < 1.1*f.Beside.MeanMs },
	},
	{
		Name: "A model gone wrong, and an operator who switches it off", Scenario: "model-sign.yaml", sign: 20 * time.Second, beside: &leastLoaded,
		Question: "Without waiting, calls still run where a forest that must be believed says. Does one command (rubato policy --mode off) put an end to that?",
		naive:    contender{name: "rubato, keep_forest, nobody intervenes", change: keepForest},
		ours:     contender{name: "rubato, keep_forest, off from 25 s on", change: keepForest, order: &order{at: 25 * time.Second, rule: "rubato", mode: zonesched.ModeOff}},
		Fails:    "calls take more than 1.2 times as long as on the least loaded node from the beginning on",
		Failed:   func(f *Faced) bool { return f.Naive.MeanMs > 1.2*f.Beside.MeanMs },
		Holds:    "from five seconds after the command on they take at most 10 % longer than that",
		Held:     func(f *Faced) bool { return f.Ours.MeanMs < 1.1*f.Beside.MeanMs },
	},
	{
		Name: "No deadline", Scenario: "no-deadline.yaml",
		Question: "A run hangs, and looks as if it were nearly over, again and again. Nothing has a deadline: what ends the wait for it?",
		naive:    broken("rubato without DelayMax", func(p policy.Policy) policy.Policy { return naive.Boundless{Policy: p} }),
		Fails:    "a call is held back for more than four seconds, twice DelayMax, beside free slots",
		Failed:   func(f *Faced) bool { return f.Naive.HeldMs > 4_000 },
		Holds:    "no call is held back for longer than DelayMax, to within a tenth of a second",
		Held:     func(f *Faced) bool { return f.Ours.HeldMs < 2100 },
	},
	{
		Name: "Delay off", Scenario: "delay-off.yaml",
		Question: "Waiting would pay, but the functions' owner has switched it off. Is that kept, to the last call?",
		naive:    broken("rubato, deaf to the owner", func(p policy.Policy) policy.Policy { return naive.DeafToOff{Policy: p} }),
		Fails:    "more than a hundred calls are held back beside free slots, some for more than a twentieth of a second",
		Failed:   func(f *Faced) bool { return f.Naive.Declined > 100 && f.Naive.HeldMs > 50 },
		Holds:    "no call is ever held back",
		Held:     func(f *Faced) bool { return f.Ours.Declined == 0 && f.Ours.HeldMs == 0 && f.Ours.Unserved == 0 },
	},
	{
		Name: "The latest safe start, to the letter", Scenario: "too-late.yaml",
		Question: "No safe start lies ahead any more. Is the call started cold, so that it is late for certain, and in the way of others?",
		naive:    broken("waits only while a safe start lies ahead", func(p policy.Policy) policy.Policy { return naive.ToTheLetter{Policy: p} }),
		Fails:    "more than twice as many calls start cold, and more deadlines are missed",
		Failed:   func(f *Faced) bool { return f.Naive.Cold > 2*f.Ours.Cold && f.Naive.Miss > f.Ours.Miss },
		Holds:    "fewer than one in ten deadlines is missed",
		Held:     func(f *Faced) bool { return f.Ours.Miss < .1 },
	},
}

// spun: the zone is full of cold starts long after the burst.
func spun(f *Faced) bool { return f.Naive.Cold > .5 && f.Naive.Init > .5 && f.Naive.Unserved > 0 }

func unspun(f *Faced) bool { return f.Ours.Cold < f.Ours.Calm+.02 && f.Ours.Unserved == 0 }

func undrowned(f *Faced) bool { return f.Ours.Answered == f.Ours.Calls && f.Ours.Cold < .05 }

var notGuarded = broken("rubato, not guarded", func(p policy.Policy) policy.Policy { return naive.Unguarded{Policy: p} })

var leastLoaded = contender{name: "least loaded", change: func(c *sim.Config) {
	for i := range c.Zones {
		c.Zones[i].Core.Policy = "least-loaded"
	}
}}

var spiralCalm = [2]time.Duration{18 * time.Second, 24 * time.Second}

var headOfQueue = broken("head of the queue", func(p policy.Policy) policy.Policy { return naive.HeadOfQueue{Policy: p} })

func stale(late time.Duration) Disaster {
	d := Disaster{
		Name: "Reports that are late by " + late.String(), Scenario: "stale.yaml", Late: late, beside: &neverWaits,
		Question: "What the zone knows of its nodes is old: sandboxes seem busy that are idle. Is it worse than knowing nothing?",
		naive:    alwaysWait,
		Fails:    "calls take more than 1.5 times as long as without any waiting",
		Failed:   func(f *Faced) bool { return f.Naive.MeanMs > 1.5*f.Beside.MeanMs },
		Holds:    "calls take at most a quarter longer than without any waiting",
		Held:     func(f *Faced) bool { return f.Ours.MeanMs < 1.25*f.Beside.MeanMs },
	}
	if late >= 20*time.Second {
		d.Holds = "calls take at most half as long again as without any waiting"
		d.Held = func(f *Faced) bool { return f.Ours.MeanMs < 1.5*f.Beside.MeanMs }
	}
	return d
}

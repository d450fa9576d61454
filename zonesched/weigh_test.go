package zonesched

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// weighted deploys t/w, with an objective.
func (b *bed) weighted(o api.Objective) {
	f := *b.z.fns["t/f"].spec
	f.Name, f.Objective = "w", o
	b.step(&Event{Kind: EvFunctions, Functions: []api.Function{f}})
}

func (b *bed) priced(name string, slots int, price float64) {
	b.step(&Event{Kind: EvHeartbeat, Heartbeat: &wire.Heartbeat{Zone: "z", Node: name, Boot: 1, Epoch: b.z.Epoch(), Slots: slots, MemMB: 4000, PricePerHour: price}})
}

// Property: without weights, prices change nothing of what is done.
func TestWithoutWeightsPricesChangeNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		free, dear := newBed(nil, nil), newBed(nil, nil)
		both := func(f func(b *bed)) {
			f(free)
			f(dear)
			if a, b := text(free.acts), text(dear.acts); a != b {
				t.Fatalf("without prices %s, with them %s", a, b)
			}
		}
		var nodes []string
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			name, slots, price := fmt.Sprintf("n%d", i), rapid.IntRange(1, 2).Draw(t, "slots"), rapid.Float64Range(0, 1e6).Draw(t, "price")
			nodes = append(nodes, name)
			both(func(b *bed) {
				if b == free {
					b.priced(name, slots, 0)
				} else {
					b.priced(name, slots, price)
				}
			})
		}
		both(func(b *bed) { b.weighted(api.Objective{Deadline: time.Second}) })
		for i := range rapid.IntRange(1, 30).Draw(t, "steps") {
			d := time.Duration(rapid.IntRange(0, 500).Draw(t, "ms")) * time.Millisecond
			both(func(b *bed) {
				b.after(d)
				b.invoke(fmt.Sprintf("i%d", i), "w")
			})
			if k := rapid.IntRange(0, i).Draw(t, "done"); rapid.Bool().Draw(t, "ends") {
				id, node := fmt.Sprintf("i%d", k), rapid.SampledFrom(nodes).Draw(t, "on")
				both(func(b *bed) { b.done(id, node) })
			}
		}
	})
}

// Property: given equal times, a call goes to a node of the least price as soon as price counts at all, so never to a dearer one
// for a larger weight.
func TestMoreWeightNeverChoosesADearerNode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prices := rapid.SliceOfN(rapid.Map(rapid.IntRange(0, 1000), func(i int) float64 { return float64(i) }), 2, 8).Draw(t, "prices")
		last := math.Inf(1)
		for _, w := range []float64{1e3, 1e3 + rapid.Float64Range(0, 1e6).Draw(t, "more"), api.MaxPriceWeight} {
			b := newBed(nil, nil)
			for i, p := range prices {
				b.priced(fmt.Sprintf("n%d", i), 1, p)
			}
			b.weighted(api.Objective{PriceWeight: w})
			a := find(b.invoke("i", "w"), ActRun, "i")
			if a == nil {
				t.Fatalf("not run: %s", text(b.acts))
			}
			price := a.Run.Echo.PricePerHour
			if price > last {
				t.Fatalf("weight %v takes a node at %v, a smaller one a node at %v", w, price, last)
			}
			last = price
		}
		for _, p := range prices {
			if p < last {
				t.Fatalf("a node at %v was taken, one at %v was free", last, p)
			}
		}
	})
}

// A dear warm node against a cheap cold one: 990 ms of time against what the price of 10 ms there is worth.
func TestPriceAgainstTime(t *testing.T) {
	for weight, want := range map[float64]string{0: "warm", 1e4: "warm", 1e6: "cold"} {
		b := newBed(t, nil)
		b.node("cold", 1, 0)
		b.step(&Event{Kind: EvHeartbeat, Heartbeat: &wire.Heartbeat{
			Zone: "z", Node: "warm", Boot: 1, Epoch: b.z.Epoch(), Slots: 1, MemMB: 1000, PricePerHour: 1000,
			Sandboxes: []wire.SandboxReport{{Function: "t/w@1", State: api.SandboxPrepared, Idle: 1, MemoryMB: 100}},
		}})
		b.weighted(api.Objective{PriceWeight: weight})
		b.invoke("i", "w")
		b.ran("i", want) // at 1e6: 1e6 x 10 ms x 1000 / 3.6e6 = 2,778 ms
		d, _ := b.z.Decision("i")
		if k := d.Candidates[d.Best]; want == "warm" && math.Abs(k.PriceMs-weight*10*1000/3.6e6) > 1e-6 {
			t.Errorf("weight %v: priced at %v ms", weight, k.PriceMs)
		}
	}
}

// A certain miss costs what its owner says, and weights have limits.
func TestMissesAreWeighed(t *testing.T) {
	b := newBed(t, nil)
	b.weighted(api.Objective{Deadline: 100 * time.Millisecond, MissWeight: 500})
	b.node("cold", 1, 0)
	b.invoke("i", "w")
	d, _ := b.z.Decision("i")
	if k := d.Candidates[d.Best]; math.Abs(k.MissMs-500) > 1 || math.Abs(k.CostMs-k.ExecMs-k.EvictMs-k.MissMs) > 10 {
		t.Errorf("a certain miss: %+v", k)
	}
	for _, o := range []api.Objective{{PriceWeight: -1}, {PriceWeight: math.NaN()}, {PriceWeight: 2 * api.MaxPriceWeight}, {MissWeight: math.Inf(1)}, {MissWeight: -1}} {
		f := *b.z.fns["t/f"].spec
		if f.Objective = o; f.Validate() == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

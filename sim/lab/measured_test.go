package lab

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rubato-faas/rubato/sim"
)

// shippedWorlds are the worlds of all scenarios in scenarios/, by name.
func shippedWorlds(t *testing.T) map[string]sim.Config {
	t.Helper()
	files, err := filepath.Glob("../../scenarios/*.yaml")
	if err != nil || len(files) < 7 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	out := map[string]sim.Config{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := read(t, string(b))
		cfg, err := s.Config(policies(t, "rubato")[0], 1)
		if err != nil {
			t.Fatal(err)
		}
		out[s.Name] = cfg
	}
	return out
}

// gain is what data at hand is worth to a stream's calls on a node: the time to fetch the median inputs over a link that nobody
// else uses, and to run, over that to run. What a fetch takes of the cores goes on at the same time.
func gain(c *sim.Config, st *sim.Stream, n *sim.Nodes) float64 {
	if st.Inputs == 0 {
		return 1
	}
	f, o := &c.Functions[st.Function], &c.Objects[st.Objects]
	mb := float64(st.Inputs) * float64(o.Bytes) / 1e6
	run := float64(f.Run) + float64(f.PerMB)*math.Pow(mb+float64(st.PayloadBytes)/1e6, orOne(f.Power))
	run /= orOne(n.Speed[f.Kernel])
	fetch := 0.0
	if n.Core.LinkMbps > 0 {
		fetch = mb * 8 / n.Core.LinkMbps * 1e9
	}
	fetch = max(fetch, mb*float64(n.FetchPerMB)) + float64(n.StoreRTT)
	return (fetch + run) / run
}

func orOne(x float64) float64 {
	if x == 0 {
		return 1
	}
	return x
}

// Data at hand is never worth more than it was measured to be, 3.5 times: what a simulator shows beyond that nobody has seen.
func TestLocalityIsWorthWhatWasMeasured(t *testing.T) {
	f, err := published()
	if err != nil {
		t.Fatal(err)
	}
	const most = 3.5
	if measured := f.Shares["locality"].Parts["compression"]; math.Abs(measured-most) > .05 {
		t.Fatalf("measured %v, want about %v", measured, most)
	}
	worlds := shippedWorlds(t)
	for _, name := range sortedNames(worlds) {
		cfg := worlds[name]
		worst, where := 1.0, ""
		for i := range cfg.Streams {
			st := &cfg.Streams[i]
			z := &cfg.Zones[st.Zone]
			for g := range z.Nodes {
				if x := gain(&cfg, st, &z.Nodes[g]); x > worst {
					worst, where = x, cfg.Functions[st.Function].Spec.Name+" on "+z.Core.Zone+"'s "+z.Nodes[g].Core.Class
				}
			}
		}
		t.Logf("%-14s %.2f %s", name, worst, where)
		if name == "data-heavy" && worst < 2 {
			t.Errorf("%s: data at hand is worth a factor of %.2f: the test finds no inputs", name, worst)
		}
		if worst > most {
			t.Errorf("%s: data at hand is worth a factor of %.2f (%s): want at most %v, as measured", name, worst, where, most)
		}
	}
}

// Cold starts take what regions of a public cloud take by the median: the artifact over an idle link, preparing and starting.
func TestColdStartsAreThoseOfClouds(t *testing.T) {
	f, err := published()
	if err != nil {
		t.Fatal(err)
	}
	low, high := f.Numbers["cold_median_low"].Value, f.Numbers["cold_median_high"].Value
	// Those that are outside on purpose: from where to where the medians of their functions go, and why.
	exceptions := map[string]struct {
		low, high float64
		why       string
	}{
		"init-heavy":   {1, 6, "the case that it is for: sandboxes that take 1 to 6 s to make"},
		"small-inputs": {.02, .05, "the case that it is for: neither data nor sandboxes are worth waiting for"},
		"azure-like":   {.2, 20, "drawn by runtime: most are within, those of images of one's own take 10 s, as measured, and 17 s on the slowest nodes"},
	}
	worlds := shippedWorlds(t)
	for _, name := range sortedNames(worlds) {
		cfg := worlds[name]
		var all []float64
		least, most := math.Inf(1), 0.0
		for i := range cfg.Functions {
			fn := &cfg.Functions[i]
			for z := range cfg.Zones {
				for g := range cfg.Zones[z].Nodes {
					n := &cfg.Zones[z].Nodes[g]
					s := (fn.Prepare + fn.Start + n.StoreRTT).Seconds() / orOne(n.Speed[sim.KernelCPU])
					if n.Core.LinkMbps > 0 {
						s += float64(fn.Spec.ArtifactBytes) * 8 / n.Core.LinkMbps / 1e6
					}
					all, least, most = append(all, s), min(least, s), max(most, s)
				}
			}
		}
		slices.Sort(all)
		t.Logf("%-14s %.3f to %.3f s, median %.3f", name, least, most, all[len(all)/2])
		low, high := low, high
		if e, ok := exceptions[name]; ok {
			if least >= low && most <= high {
				t.Errorf("%s is not outside and needs no exception: %s", name, e.why)
			}
			low, high = e.low, e.high
		}
		if name == "azure-like" && (all[len(all)/10] < f.Numbers["cold_median_low"].Value || all[len(all)*9/10] > f.Numbers["cold_median_high"].Value) {
			t.Errorf("%s: nine tenths of its functions start in %.3f to %.3f s: want those within what was measured", name, all[len(all)/10], all[len(all)*9/10])
		}
		if least < low || most > high {
			t.Errorf("%s: cold starts from %.3f to %.3f s: want medians of %v-%v s", name, least, most, low, high)
		}
	}
}

// Where cold starts decide, they take at least 15 times as long as a warm call, over all calls: D1's floor is about such work.
func TestColdStartsOfInitHeavyAreDear(t *testing.T) {
	cfg := shippedWorlds(t)["init-heavy"]
	cold, warm := 0.0, 0.0
	for i := range cfg.Streams {
		st := &cfg.Streams[i]
		fn := &cfg.Functions[st.Function]
		cold += st.PerS * (fn.Prepare + fn.Start).Seconds()
		warm += st.PerS * fn.Run.Seconds()
	}
	if ratio := cold / warm; !(ratio >= 15) {
		t.Errorf("a cold start takes %.1f times as long as a warm call", ratio)
	} else {
		t.Logf("a cold start takes %.1f times as long as a warm call", ratio)
	}
}

// The zones of azure-like are as far from each other as cities are.
func TestAzureLikeLinks(t *testing.T) {
	f, err := published()
	if err != nil {
		t.Fatal(err)
	}
	cfg := shippedWorlds(t)["azure-like"]
	for i, want := range []float64{f.Numbers["rtt_far"].Value, f.Numbers["rtt_far"].Value, f.Numbers["rtt_near"].Value} {
		if len(cfg.Links) != 3 || 2*cfg.Links[i].Way.Seconds()*1000 != want {
			t.Fatalf("links %+v, want the %d. with a round trip of %v ms", cfg.Links, i+1, want)
		}
	}
}

package bench

import (
	"log/slog"
	"math"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A law is found again in what it makes, outliers of the size's noise included.
func TestFitFindsTheLaw(t *testing.T) {
	x := fnLaw{coldMs: []float64{100, 110, 90}, preparedMs: []float64{30, 31, 29}}
	for i := range 40 {
		mb := 1 + float64(i%5)
		x.mb = append(x.mb, mb)
		x.runMs = append(x.runMs, (5+12*mb)*math.Exp(.1*float64(i%3-1)))
	}
	if err := x.fit(); err != nil {
		t.Fatal(err)
	}
	near := func(what string, got, want, off float64) {
		if math.Abs(got-want) > off {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	near("base", x.baseMs, 5, 1)
	near("per MB", x.perMBMs, 12, .6)
	near("spread", x.spread, .083, .01)
	near("start", x.startMs, 30, .01)
	near("prepare", x.prepareMs, 70, .01)
	flat := fnLaw{coldMs: []float64{1}, mb: []float64{0, 0, 0}, runMs: []float64{2, 2, 2}}
	if err := flat.fit(); err != nil || flat.baseMs != 2 || flat.perMBMs != 0 || flat.spread != 0 || flat.startMs != 0 {
		t.Errorf("a function without inputs: %+v, %v", flat, err)
	}
	if err := (&fnLaw{runMs: []float64{1, 2}, mb: []float64{0, 0}}).fit(); err == nil {
		t.Error("a law without a cold start was taken")
	}
}

// The whole way in a short form: every figure is there for either side, whatever it is.
func TestSimVsLiveComparesBothSides(t *testing.T) {
	if testing.Short() {
		t.Skip("starts clusters")
	}
	dir := filepath.Join(t.TempDir(), "functions")
	if out, err := exec.Command("sh", "../examples/functions/build.sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	o := DefaultSimLiveOptions()
	o.Functions, o.Policies, o.Log = dir, []string{"least-loaded"}, slog.New(slog.DiscardHandler)
	o.Warmup, o.Measure, o.Alone, o.Cold, o.Repeats, o.SimSeeds = 0, 3*time.Second, 4, 1, 1, 2
	r, err := SimVsLive(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, x := range r.Results {
		if math.IsNaN(x.Value) || math.IsInf(x.Value, 0) {
			t.Errorf("%s is %v", x.Name, x.Value)
		}
		got[x.Name] = x.Value
	}
	for _, name := range []string{"mean", "p50", "p95", "p99", "exec_mean"} {
		live, modelled, gap := got["least-loaded."+name+".live"], got["least-loaded."+name+".sim"], got["least-loaded."+name+".gap_pct"]
		if live <= 0 || modelled <= 0 || math.Abs(gap-100*(modelled/live-1)) > 1e-6 {
			t.Errorf("%s: live %v, simulated %v, gap %v %%", name, live, modelled, gap)
		}
	}
	if _, each := got["least-loaded.matmul.mean.sim"]; !each || got["host.cores"] <= 0 || got["net_ms"] <= 0 {
		t.Errorf("figures %v", got)
	}
	if !strings.Contains(strings.Join(r.Notes, "\n"), "least-loaded: the simulated mean is") {
		t.Errorf("notes %q", r.Notes)
	}
	if err := (&SimLiveOptions{}).Validate(); err == nil {
		t.Error("no policies, no calls: taken")
	}
}

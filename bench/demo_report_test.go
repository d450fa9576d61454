package bench

import (
	"math"
	"strings"
	"testing"
	"time"
)

// Large objects that happen to be fetched and small ones that happen to be at hand say nothing of what fetching costs.
func TestRemoteRatiosArePairedByObject(t *testing.T) {
	l := &load{function: "gzip", objects: []objectSpec{{}, {}}}
	r := &run{policy: "rubato"}
	at := time.Duration(0)
	add := func(input string, fetched int64, execMs float64) {
		at += time.Minute // each is alone on its node
		r.calls = append(r.calls, call{arrival: &arrival{at: at, load: l, input: input}, ok: true, start: "warm", node: "n", fetched: fetched, runMs: execMs, e2eMs: execMs})
	}
	add("small", 0, 10)
	add("small", 0, 12)
	add("small", 0, 11)
	add("small", 1, 22)
	for range 5 {
		add("large", 1, 300) // medians over all objects: 300 over 11
	}
	add("large", 0, 150)
	if got := remoteRatios([]*run{r}, []*load{l})["gzip"]; math.Abs(got-2) > 1e-9 {
		t.Errorf("remote over local is %v, want 2", got)
	}
	if got, there := remoteRatios([]*run{{policy: "x", calls: r.calls[4:6]}}, []*load{l})["gzip"]; there {
		t.Errorf("%v of objects that were never at hand", got)
	}
}

func TestWhatMakesADemoUnfair(t *testing.T) {
	loads := []*load{{function: "gzip", objects: []objectSpec{{}}}, {function: "score"}}
	for want, f := range map[string]Fairness{
		"":              {HostCPU: map[string]float64{"least-loaded": .6}, RemoteRatio: map[string]float64{"gzip": 3.4}},
		"host CPU":      {HostCPU: map[string]float64{"least-loaded": .8}, RemoteRatio: map[string]float64{"gzip": 3.4}},
		"gzip: remote":  {HostCPU: map[string]float64{"least-loaded": .6}, RemoteRatio: map[string]float64{"gzip": 3.6}},
		"too few calls": {HostCPU: map[string]float64{"least-loaded": .6}},
	} {
		got := f.breaches(loads)
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want)) {
			t.Errorf("%+v: %q, want %q", f, got, want)
		}
	}
}

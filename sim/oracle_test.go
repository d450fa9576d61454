package sim

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// alone is a world in which every call is alone: unlike nodes without drift, cold starts and runs of unlike luck, inputs of their
// own, calls that are recorded with their time, calls that hang.
func alone(luck bool) Config {
	fast, slow := nodesOf(3, 2), nodesOf(3, 2)
	fast.Speed, slow.Speed = [kernels]float64{1.3, 1, 2}, [kernels]float64{.6, .5, .9}
	fast.StoreRTT, slow.StoreRTT, slow.FetchPerMB = 3*time.Millisecond, 7*time.Millisecond, 30*time.Millisecond
	cfg := Config{
		Seed: 3, Zones: []Zone{zoneOf("z", "random", fast, slow)}, Heartbeat: time.Second, Record: true, Learn: Learning{Oracle: true, Luck: luck},
	}
	for i := range 3 {
		f := functionOf(i, time.Duration(20+40*i)*time.Millisecond)
		f.Spread, f.ColdSpread, f.Kernel, f.PerMB, f.Spec.MemoryMB = .6, .5, Kernel(i), 10*time.Millisecond, 600 // memory for one sandbox, so that many start cold
		cfg.Functions = append(cfg.Functions, f)
	}
	cfg.Functions[2].Hang, cfg.Functions[2].Spec.Timeout = .2, 5*time.Second
	for i := range 300 {
		r := Recorded{At: time.Duration(1+10*i) * time.Second, Function: i % 3, Call: &api.Invocation{Inputs: []api.Object{{Key: fmt.Sprintf("t/o%d", i%40), Bytes: int64(1+i%7) * 1e6}}}}
		if i%5 == 0 {
			r.ExecMs = float64(10 + i)
		}
		cfg.Trace = append(cfg.Trace, r)
	}
	return cfg
}

// errorsOf gives |ln(measured/predicted)| of all executions.
func errorsOf(t *testing.T, cfg Config) (errs []float64, cold, hung int) {
	t.Helper()
	for _, s := range advance(t, cfg, 3100*time.Second).Steps(0) {
		m := s.Event.Completion
		if m == nil {
			continue
		}
		if m.Start != m.Echo.Sandbox {
			t.Fatalf("%s found a sandbox %v, want %v as predicted", m.ID, m.Start, m.Echo.Sandbox)
		}
		if m.Start != api.SandboxWarm {
			cold++
		}
		if m.Outcome == api.OutcomeTimeout {
			hung++
		}
		errs = append(errs, math.Abs(math.Log(m.FetchMs+m.InitMs+m.RunMs)-m.Echo.Mu))
	}
	return errs, cold, hung
}

// Where nobody is in the way and nothing drifts, what the oracle says of a call is what happens. Without luck it knows the laws only.
func TestTheOracleKnowsWhatWillHappen(t *testing.T) {
	errs, cold, hung := errorsOf(t, alone(true))
	for i, e := range errs {
		if e > .002 { // a hanging call is stopped a millisecond after its time
			t.Errorf("execution %d: predicted wrongly by %.4f", i, e)
		}
	}
	if len(errs) != 300 || cold < 50 || cold > 290 || hung < 5 {
		t.Errorf("%d executions, %d cold, %d hung: want 300, some of each", len(errs), cold, hung)
	}
	errs, _, _ = errorsOf(t, alone(false))
	mean := 0.0
	for _, e := range errs {
		mean += e / float64(len(errs))
	}
	if mean < .3 {
		t.Errorf("without the luck of each call it is off by %.3f, want about .5", mean)
	}
}

package lab

import (
	"os"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/internal/racetest"
	"github.com/rubato-faas/rubato/sim"
)

// Where the benchmarks say that waiting pays, the guard leaves it alone.
func TestWaitingIsNotStoppedInHealthyScenarios(t *testing.T) {
	racetest.SkipSingle(t)
	if testing.Short() {
		t.Skip("simulates two scenarios")
	}
	for _, name := range []string{"data-heavy", "init-heavy"} {
		f, err := os.Open("../../scenarios/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		s, err := Read(f)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParsePolicy("rubato")
		if err != nil {
			t.Fatal(err)
		}
		s.Duration *= 6 // long enough to be judged
		cfg, err := s.Config(p, 1)
		if err != nil {
			t.Fatal(err)
		}
		w, err := sim.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		w.Run(time.Duration(s.Duration))
		g, c := w.Core(0).Guard(), w.Core(0).Counters()
		t.Logf("%s: %+v; %d delayed", name, g, c.Delayed)
		if g.Stopped || c.WaitingStopped != 0 || g.Calls < 50 {
			t.Errorf("%s: waiting was stopped %d times: %+v", name, c.WaitingStopped, g)
		}
	}
}

package sim

import (
	"math"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// said predicts what it is given.
type said []api.Estimate

func (said) Version() uint64 { return 1 }

func (said) Columns(*api.Candidate, *api.NodeColumns) {}

func (p said) Estimate(_ *api.Request, _ []api.Candidate, out []api.Estimate) { copy(out, p) }

// From its time on a wrong sign mirrors what a forest says at what averages say, the bound with it; averages stay as they are.
func TestSignOfAModel(t *testing.T) {
	p := said{{Mu: 3, AveragesMu: 4, UpperMs: math.Exp(5), Source: api.SourceForest}, {Mu: 4, AveragesMu: 4, UpperMs: math.Inf(1), Source: api.SourceAverages}}
	s := &shard{cfg: &Config{Learn: Learning{Fault: FaultSign, FaultAt: time.Second}}}
	d := s.distort(p)
	for _, c := range []struct {
		at      time.Duration
		mu, lnU float64
	}{{time.Second - 1, 3, 5}, {time.Second, 5, 7}} {
		s.now = int64(c.at)
		out := make([]api.Estimate, 2)
		d.Estimate(&api.Request{}, make([]api.Candidate, 2), out)
		if e := out[0]; e.Mu != c.mu || math.Abs(math.Log(e.UpperMs)-c.lnU) > 1e-9 || e.AveragesMu != 4 {
			t.Errorf("at %v: %+v, want mu %v and ln of the bound %v", c.at, e, c.mu, c.lnU)
		}
		if e := out[1]; e.Mu != 4 || !math.IsInf(e.UpperMs, 1) {
			t.Errorf("at %v: averages became %+v", c.at, e)
		}
	}
	if (&shard{cfg: &Config{}}).distort(p).(said) == nil {
		t.Error("a model without a fault is wrapped")
	}
}

package zonesched

import (
	"fmt"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

// counting notes how many candidates it is asked about at once, and whether one was twice among them.
type counting struct {
	times
	most  int
	twice string
}

func (p *counting) Estimate(req *api.Request, cands []api.Candidate, out []api.Estimate) {
	p.most = max(p.most, len(cands))
	for i := range cands {
		for k := range cands[:i] {
			if a, b := &cands[i], &cands[k]; a.Node == b.Node && a.Delayed == b.Delayed && a.Sandbox == b.Sandbox {
				p.twice = a.Node
			}
		}
	}
	p.times.Estimate(req, cands, out)
}

// However many nodes could serve a call, each of them in two ways, at most 32 candidates are scored, none of them twice, and nothing is
// allocated until the call is dispatched. In a large zone they are fewer while there are few classes of hardware.
func TestScoringIsBounded(t *testing.T) {
	for nodes, want := range map[int]int{20: 32, 32: 32, 500: 24, 5000: 24} {
		b := newBed(t, nil)
		p := &counting{times: times{1.5}}
		b.step(&Event{Kind: EvModel, Predictor: p})
		for i := range nodes {
			b.node(fmt.Sprintf("n%03d", i), 2, 1)
		}
		for i := range nodes { // busy there, with a slot left: warm later, or cold now
			b.invoke(fmt.Sprint("i", i), "f")
		}
		inv := &api.Invocation{ID: "i", Tenant: "t", Function: "f"}
		p.most = 0
		if allocs := testing.AllocsPerRun(50, func() { b.z.Consider(b.now, inv) }); allocs > 0 {
			t.Errorf("%d nodes: %v allocations", nodes, allocs)
		}
		if p.most != want || p.twice != "" {
			t.Errorf("%d nodes: %d candidates were scored at once, twice: %q; want %d, each once", nodes, p.most, p.twice, want)
		}
	}
}

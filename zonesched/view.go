package zonesched

import (
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// NodeView is what `rubato nodes` shows of a node.
type NodeView struct {
	Name        string               `json:"name"`
	Zone        string               `json:"zone"`
	Live        bool                 `json:"live"`
	Draining    bool                 `json:"draining"`
	Quarantined bool                 `json:"quarantined"`
	KeptFor     string               `json:"kept_for,omitempty"` // the call, one that needs much memory, until whose start nothing else begins there
	Slots       int                  `json:"slots"`
	Offered     int                  `json:"offered"` // of the slots: fewer while the node starts slowly
	Labels      api.Labels           `json:"labels,omitzero"`
	Running     int                  `json:"running"`
	MemMB       int                  `json:"mem_mb"`
	MemUsedMB   int                  `json:"mem_used_mb"`
	LinkMbps    float64              `json:"link_mbps"`
	Class       string               `json:"class,omitempty"`
	PricePerH   float64              `json:"price_per_hour,omitempty"`
	EnergyClass uint8                `json:"energy_class,omitempty"`
	Objects     int                  `json:"objects"`
	ObjectBytes int64                `json:"object_bytes"`
	CacheMax    int64                `json:"cache_max_bytes,omitempty"` // 0: an older node, which does not tell
	SeenMsAgo   float64              `json:"seen_ms_ago"`
	Sandboxes   []wire.SandboxReport `json:"sandboxes"`
}

// Nodes returns views in order of name.
func (z *Zone) Nodes(now time.Time) []NodeView {
	out := make([]NodeView, 0, len(z.nodes))
	for _, name := range sortedKeys(z.byName) {
		n := z.byName[name]
		v := NodeView{
			Name: n.name, Zone: z.cfg.Zone, Live: n.live, Draining: n.draining, Quarantined: n.quarantined, Slots: n.total, Offered: n.slots, Labels: n.labels,
			Running: len(n.running), MemMB: n.memMB, MemUsedMB: n.memUsed, LinkMbps: n.linkMbps, Class: n.clsName, PricePerH: n.price, EnergyClass: n.energy, Objects: len(n.objects), ObjectBytes: n.held, CacheMax: n.cacheMax,
			SeenMsAgo: ms(now.Sub(n.lastSeen)),
		}
		if n == z.kept.n {
			v.KeptFor = z.kept.c.inv.ID
		}
		for i := range n.slotOf {
			s := n.slotOf[i].box
			v.Sandboxes = append(v.Sandboxes, wire.SandboxReport{Function: s.h.key, State: s.state, Idle: s.idle, Busy: s.busy, MemoryMB: s.memMB})
		}
		out = append(out, v)
	}
	return out
}

// Load is the zone's state in the numbers of its digest.
type Load struct {
	Slots, Busy, Queued, Delayed int
}

// Load sums the live nodes and the waiting calls.
func (z *Zone) Load() Load {
	l := Load{Slots: z.sums.slots, Busy: z.sums.busy}
	for _, c := range z.waiting {
		if c.delaying {
			l.Delayed++
		} else {
			l.Queued++
		}
	}
	return l
}

// FunctionLoad is a function's traffic and typical run time.
type FunctionLoad struct {
	Function string
	RatePerS float64
	MeanMs   float64
}

// FunctionLoads returns at most limit functions with traffic, in order of name.
func (z *Zone) FunctionLoads(now time.Time, limit int) []FunctionLoad {
	var out []FunctionLoad
	for _, id := range sortedKeys(z.fns) {
		if f := z.fns[id]; f.runMs.n > 0 && len(out) < limit {
			out = append(out, FunctionLoad{Function: id, RatePerS: f.rate(now), MeanMs: f.runMs.v})
		}
	}
	return out
}

// Functions returns the current versions, in order of name.
func (z *Zone) Functions() []api.Function {
	out := make([]api.Function, 0, len(z.fns))
	for _, id := range sortedKeys(z.fns) {
		out = append(out, *z.fns[id].spec)
	}
	return out
}

// Function returns the current version of "tenant/name".
func (z *Zone) Function(id string) (api.Function, bool) {
	f := z.fns[id]
	if f == nil {
		return api.Function{}, false
	}
	return *f.spec, true
}

// Quiet reports whether no accepted call is unanswered.
func (z *Zone) Quiet() bool { return len(z.calls) == 0 }

// PolicyConfig tunes it.
func (z *Zone) PolicyConfig() policy.Config { return z.cfg.PolicyConfig }

// PolicyName is the rule in force.
func (z *Zone) PolicyName() string { return z.rule.Name() }

// Waiting is how many calls wait.
func (z *Zone) Waiting() int { return len(z.waiting) }

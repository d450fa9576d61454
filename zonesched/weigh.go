package zonesched

import (
	"time"

	"github.com/rubato-faas/rubato/zonesched/policy"
)

// An owner may weigh price and misses against time (api.Objective): both are turned into milliseconds and stand in a candidate's
// cost. A slot's price is per hour; the time on it that is paid for is the predicted execution.
const msPerHour = 3.6e6

// weigh prices the candidates in hand, whose estimates are there. Without weights it touches nothing.
func (z *Zone) weigh(now time.Time, c *call) {
	price, miss := c.fn.spec.Objective.PriceWeight, c.fn.spec.Objective.MissWeight
	if price > 0 {
		for i := range z.cands {
			k := &z.cands[i]
			k.PriceMs = price * k.Est.MedianMs() * z.nodes[k.Node].price / msPerHour
		}
	}
	if miss > 0 && !c.soft.IsZero() {
		left := ms(c.soft.Sub(now))
		for i := range z.cands {
			k := &z.cands[i]
			k.MissMs = miss * policy.MissProb(k, left)
		}
	}
}

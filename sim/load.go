package sim

import (
	"math"
	"math/rand/v2"

	"github.com/rubato-faas/rubato/api"
)

// loadDraws is how many calls of a stream the mean of its inputs is taken over.
const loadDraws = 4096

// Load is the work that streams bring over what the slots can do, once they have ramped up: the mean time of calls that find
// everything warm and cached, on the zone's slots as they are on average, over one second of every slot. Above 1 no policy
// can keep up; cold starts and fetches come on top. A trace's calls are not counted.
func (c *Config) Load() float64 {
	slots, work := 0., 0.
	for z := range c.Zones {
		for g := range c.Zones[z].Nodes {
			n := &c.Zones[z].Nodes[g]
			slots += float64(n.Count * n.Core.Slots)
		}
	}
	sets := make([]objects, len(c.Objects))
	for i := range c.Objects {
		sets[i] = makeObjects(&c.Objects[i], 0)
	}
	for i := range c.Streams {
		s := &c.Streams[i]
		l := lawOf(&c.Functions[s.Function])
		// One seed for all worlds: the load of a scenario must not hang on the seed of a run.
		rng := rand.New(rand.NewPCG(uint64(i), 0x9e3779b97f4a7c15))
		var set objects
		if s.Inputs > 0 {
			set = sets[s.Objects]
		}
		sum := 0.
		var inputs []api.Object
		for range loadDraws {
			bytes := int64(0)
			inputs = set.drawSome(inputs[:0], s.Inputs, rng)
			for i := range inputs {
				bytes += inputs[i].Bytes
			}
			if s.PayloadBytes > 0 {
				bytes += int64(float64(s.PayloadBytes) * min(math.Exp(s.PayloadSpread*rng.NormFloat64()), 100))
			}
			sum += l.medianMs(bytes)
		}
		mean := sum / loadDraws * math.Exp(l.spread*l.spread/2)
		work += s.PerS * mean * c.Zones[s.Zone].slowness(l.kernel) / 1000
	}
	return work / math.Max(slots, 1)
}

// slowness is the mean over slots of the time that a unit of work takes.
func (z *Zone) slowness(k Kernel) float64 {
	sum, slots := 0., 0.
	for g := range z.Nodes {
		n := &z.Nodes[g]
		speed := n.Speed[k]
		if speed == 0 {
			speed = 1
		}
		sum += float64(n.Count*n.Core.Slots) / speed
		slots += float64(n.Count * n.Core.Slots)
	}
	return sum / math.Max(slots, 1)
}

package zonesched

import (
	"math"

	"github.com/rubato-faas/rubato/api"
)

// A node's slots are of use to others only while there is memory for them. A call that needs far more than others may take all that
// is left, and the slots beside it stay empty until it ends: they are stranded, as cluster schedulers say. In mixed.yaml two calls of
// a function of 768 MB, a second each, kept the third slot of a node from everybody; on three nodes of eight that made a zone of a load of
// .9 a full one, and a full zone, which serves what is warm first, kept it so for good.

// strand prices, for each of the candidates in hand, whose estimates are there, the slots that c would strand beside its own: for as long
// as it runs, as far as slots are busy, since nobody misses one in an idle zone. Only calls that hold more than the zone's running ones do
// in the mean strand any. Memory of idle sandboxes counts as free: pushing them out has its own price.
func (z *Zone) strand(c *call) {
	if z.sums.busyMB == 0 {
		return
	}
	mean, takes := float64(z.sums.busyMB)/float64(z.sums.busy), float64(c.fn.spec.MemoryMB)
	if takes <= mean {
		return
	}
	busy := 1 - float64(z.sums.free)/float64(max(z.sums.slots, 1))
	for i := range z.cands {
		k := &z.cands[i]
		n := z.nodes[k.Node]
		slots, memMB := float64(n.free()), float64(n.memMB-n.busyMB)
		if !k.Free { // it takes over from a call that ends
			slots++
			if z.feats[i].Sandbox == api.SandboxWarm {
				memMB += takes
			} else {
				memMB += float64(n.busyMB) / float64(max(len(n.running), 1))
			}
		}
		more := stranded(slots-1, memMB-takes, mean) - stranded(slots, memMB, mean)
		k.StrandMs = busy * math.Max(more, 0) * k.Est.MedianMs()
	}
}

// stranded is how many of so many slots memMB has no room for, at mean MB each.
func stranded(slots, memMB, mean float64) float64 {
	return math.Max(slots-math.Max(memMB, 0)/mean, 0)
}

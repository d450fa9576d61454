package zonesched

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// A node's slots are of use to others only while there is memory for them. A call that needs far more than others may take all that
// is left, and the slots beside it stay empty until it ends: they are stranded, as cluster schedulers say. In mixed.yaml two calls of
// a function of 768 MB, a second each, kept the third slot of a node from everybody; on three nodes of eight that made a zone of a load of
// .9 a full one, and a full zone, which serves what is warm first, stays so.

// strands is how many slots of n a call of memMB strands beside its own while it runs there, as far as slots are busy: nobody misses one
// in an idle zone. Before it begins, so many running calls end and leave freedMB. Others are those of the same profile, and want what these
// hold in the mean; only who holds more strands any. Memory of idle sandboxes counts as free: pushing them out has its own price.
func (n *node) strands(memMB, ends, freedMB int) float64 {
	s := &n.profile.sums
	if memMB*s.busy <= s.busyMB || s.busyMB <= 0 {
		return 0
	}
	mean := float64(s.busyMB) / float64(s.busy)
	slots, left := float64(n.free()+ends), float64(n.memMB-n.busyMB+freedMB)
	more := stranded(slots-1, left-float64(memMB), mean) - stranded(slots, left, mean)
	if more <= 0 {
		return 0
	}
	return more * (1 - float64(s.free)/float64(max(s.slots, 1)))
}

// stranded is how many of so many slots memMB has no room for, at mean MB each.
func stranded(slots, memMB, mean float64) float64 {
	return math.Max(slots-math.Max(memMB, 0)/mean, 0)
}

// roomAfter is how many of n's running calls must end, the soonest first, until a sandbox of memMB has room, and what they leave; all of
// them if that is not enough either.
func (n *node) roomAfter(now time.Time, memMB int) (ends, freedMB int) {
	type end struct {
		at    float64
		memMB int
	}
	var buf [16]end
	due := buf[:0]
	for _, r := range n.running {
		due = append(due, end{n.z.restMs(now, r), r.memMB})
	}
	slices.SortStableFunc(due, func(a, b end) int { return cmp.Compare(a.at, b.at) })
	for ends < len(due) && n.memMB-n.busyMB+freedMB < memMB {
		freedMB += due[ends].memMB
		ends++
	}
	return max(ends, 1), freedMB
}

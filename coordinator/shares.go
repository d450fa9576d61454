package coordinator

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// Pressure is load (busy and queued) over slots. A zone above pressureNum/pressureDen may send work away, one below
// has room. It is a fraction of integers: the plan is compared with the table in the log and must not waver.
const (
	pressureNum = 7
	pressureDen = 10
)

// room is how far a zone is from the pressure limit, in slots times pressureDen; negative above it.
func room(d *api.Digest) int64 {
	return pressureNum*int64(d.Slots) - pressureDen*load(d)
}

func load(d *api.Digest) int64 { return int64(d.Busy) + int64(d.Queued) }

func (p *Planner) planIfDue(now time.Time, out []Action) []Action {
	if now.Before(p.nextPlan) {
		return out
	}
	p.nextPlan = now.Add(p.cfg.PlanEvery)
	fresh := make([]*zone, 0, len(p.zones))
	names := make([]string, 0, len(p.zones))
	for _, z := range p.zones {
		if p.fresh(now, z) {
			fresh, names = append(fresh, z), append(names, z.name)
		}
	}
	table := plan(fresh)
	if slices.Equal(table, p.shares) || !p.worthwhile(table, names) {
		return out
	}
	p.planned = names
	return append(out, Action{Kind: ProposeShares, Shares: table})
}

// worthwhile reports whether a table that differs from the one in force is worth a log entry: a share changed by
// MinChange, a zone came or went since the last proposal, or the table in force names a zone that is gone.
func (p *Planner) worthwhile(table []api.Share, names []string) bool {
	if !slices.Equal(names, p.planned) && p.planned != nil {
		return true
	}
	for _, s := range p.shares {
		if !has(names, s.From) || !has(names, s.To) {
			return true
		}
	}
	return largestChange(p.shares, table) >= p.cfg.MinChange
}

func has(sorted []string, name string) bool {
	_, ok := slices.BinarySearch(sorted, name)
	return ok
}

// largestChange walks two tables that are in order; a row that only one has counts in full.
func largestChange(a, b []api.Share) int {
	largest := 0
	for len(a) > 0 || len(b) > 0 {
		c := 0
		switch {
		case len(a) == 0:
			c = 1
		case len(b) == 0:
			c = -1
		default:
			c = compareRows(a[0], b[0])
		}
		change := 0
		if c <= 0 {
			change = a[0].Permille
			a = a[1:]
		}
		if c >= 0 {
			change -= b[0].Permille
			b = b[1:]
		}
		largest = max(largest, change, -change)
	}
	return largest
}

func compareRows(a, b api.Share) int {
	return cmp.Or(strings.Compare(a.Class, b.Class), strings.Compare(a.From, b.From), strings.Compare(a.To, b.To))
}

// flow is a zone's part in a plan: what it has too much of, or room for.
type flow struct {
	name string
	left int64 // room that is not yet planned for
}

// plan gives every zone under pressure shares towards zones with room, in proportion to their room, for as much of
// its load as is above the limit. What all of them send to one zone fits into its room: with the obvious plan,
// where each sender reckons with all of it, the emptiest zone was flooded by everyone in the same round. When there
// is less room than excess, all senders get the same part of what they ask. zones are in order of name.
func plan(zones []*zone) []api.Share {
	var with []flow
	var spare, excess int64
	senders := 0
	for _, z := range zones {
		if r := room(&z.digest); r > 0 {
			with = append(with, flow{z.name, r})
			spare += r
		} else if r < 0 {
			excess -= r
			senders++
		}
	}
	if spare == 0 || senders == 0 {
		return nil
	}
	targets := min(MaxTargets, max(1, api.MaxShares/senders))
	var table []api.Share
	for _, z := range zones {
		r := room(&z.digest)
		if r >= 0 || len(table)+targets > api.MaxShares {
			continue
		}
		want := -r
		if excess > spare {
			want = mulDiv(want, spare, excess)
		}
		table = append(table, spread(z, want, with, targets)...)
	}
	return table
}

// spread plans want of z's load onto the targets with the most room left, and takes it off their room.
func spread(z *zone, want int64, with []flow, targets int) []api.Share {
	slices.SortFunc(with, func(a, b flow) int { return cmp.Or(cmp.Compare(b.left, a.left), strings.Compare(a.name, b.name)) })
	to := with[:min(targets, len(with))]
	var sum int64
	for _, t := range to {
		sum += t.left
	}
	if sum == 0 {
		return nil
	}
	want = min(want, sum)
	total := pressureDen * load(&z.digest)
	var rows []api.Share
	for i := range to {
		part := mulDiv(want, to[i].left, sum)
		permille := int(mulDiv(part, api.MaxPermille, total))
		if permille == 0 {
			continue
		}
		to[i].left -= part
		rows = append(rows, api.Share{Class: api.AllClasses, From: z.name, To: to[i].name, Permille: permille})
	}
	slices.SortFunc(rows, compareRows)
	return rows
}

// mulDiv is a*b/c, rounded down, for 0 <= a, b and 0 < c, where a*b may need more than 64 bits and the result does
// not: rooms of a thousand zones multiply to about 2^86.
func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(q)
}

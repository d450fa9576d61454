package zonesched

import (
	"fmt"
	"slices"

	"github.com/rubato-faas/rubato/api"
)

// Nodes differ in their labels in a few ways only, however many nodes there are. Nodes with equal labels share a profile, a
// function knows which profiles meet its needs, and whether a node can run it is one look into an array. Each profile lists
// its nodes and the open ones among them, so that a function finds its few nodes without meeting all others.

// profile is one set of labels and the nodes that have it.
type profile struct {
	id     int
	labels api.Labels // sorted
	nodes  []*node    // in order of their coming, lost ones too
	open   []openNodes
	sums   sums
	// largest is the memory of the largest node in service, MB; below 0: to be found.
	largest int
	// wanted is how many queues of waiting calls belong to functions that fit here.
	wanted int
}

// openNodes are the nodes of a profile in service that have a free slot, in no order: of one hardware class, so that a call finds some
// of each. Classes are few, and found by a scan.
type openNodes struct {
	class uint8
	nodes []*node
}

// openOf finds or makes p's list of a class.
func (p *profile) openOf(class uint8) *openNodes {
	for i := range p.open {
		if p.open[i].class == class {
			return &p.open[i]
		}
	}
	p.open = append(p.open, openNodes{class: class})
	return &p.open[len(p.open)-1]
}

// maxProfiles bounds the sets of labels that are told apart. A node beyond it counts as one without labels, until another
// profile has lost its last node.
const maxProfiles = 256

// fits reports whether n has what f needs. Memory is another matter: it changes.
func (n *node) fits(f *function) bool { return f.fits[n.profile.id] }

// setLabels puts n into the profile of the labels that it reports.
func (z *Zone) setLabels(n *node, l *api.Labels) {
	if n.profile != nil && n.labels.Equal(l) && (n.profile != z.profiles[0] || l.IsZero()) { // one that stands in is looked at again
		return
	}
	n.labels = *l
	p := z.profileOf(l)
	if p == n.profile {
		return
	}
	if n.profile != nil {
		z.discount(n)
		old := n.profile.nodes
		at := slices.Index(old, n)
		n.profile.nodes = slices.Delete(old, at, at+1)
	}
	n.profile = p
	p.nodes = append(p.nodes, n)
	z.touch(n)
}

// profileOf finds or makes the profile of a node's labels.
func (z *Zone) profileOf(l *api.Labels) *profile {
	none := z.profiles[0]
	if l.IsZero() || l.Validate() != nil {
		return none
	}
	labels := l.Clone()
	unused := -1
	for i, p := range z.profiles {
		if p.labels.Equal(&labels) {
			return p
		}
		if i > 0 && len(p.nodes) == 0 {
			unused = i
		}
	}
	p := &profile{id: len(z.profiles), labels: labels, largest: -1}
	switch {
	case unused >= 0:
		p.id = unused
		z.profiles[unused] = p
	case len(z.profiles) < maxProfiles:
		z.profiles = append(z.profiles, p)
	default:
		return none
	}
	for _, f := range z.fns {
		f.meet(z.profiles, p)
	}
	for _, q := range z.queues {
		if q.calls[0].fn.fits[p.id] {
			p.wanted++
		}
	}
	return p
}

// meet finds out whether f fits a profile that is new.
func (f *function) meet(all []*profile, p *profile) {
	if p.id == len(f.fits) {
		f.fits = append(f.fits, false)
	}
	f.fits[p.id] = p.labels.Meet(&f.spec.Needs)
	f.on = f.on[:0]
	for i, ok := range f.fits {
		if ok {
			f.on = append(f.on, all[i])
		}
	}
}

// meetAll finds the profiles of a function that is new, or needs something else now.
func (z *Zone) meetAll(f *function) {
	waiting := 0
	for i := range f.queues {
		if len(f.queues[i].calls) > 0 {
			waiting++
		}
	}
	z.want(f, -waiting)
	f.fits, f.on = make([]bool, len(z.profiles)), f.on[:0]
	for i, p := range z.profiles {
		if f.fits[i] = p.labels.Meet(&f.spec.Needs); f.fits[i] {
			f.on = append(f.on, p)
		}
	}
	z.want(f, waiting)
}

// want notes that so many more queues of f have calls.
func (z *Zone) want(f *function, queues int) {
	for _, p := range f.on {
		p.wanted += queues
	}
}

// wanted reports whether calls wait that n fits.
func (n *node) wanted() bool { return n.profile.wanted > 0 }

// fitting counts f's nodes, lost ones too, up to limit+1.
func (f *function) fitting(limit int) int {
	n := 0
	for _, p := range f.on {
		if n += len(p.nodes); n > limit {
			break
		}
	}
	return n
}

// drawOpen draws one of f's open nodes, of which there are so many.
func (z *Zone) drawOpen(f *function, count int) *node {
	at := z.rng.IntN(count)
	for _, p := range f.on {
		for i := range p.open {
			nodes := p.open[i].nodes
			if at < len(nodes) {
				return nodes[at]
			}
			at -= len(nodes)
		}
	}
	return nil
}

// drawClass draws one open node of the nth of f's kinds of nodes (labels and hardware class) that have one, counted on past the
// last; nil where there is none. A class that is rare may be the one that is quick.
func (z *Zone) drawClass(f *function, nth, kinds int) *node {
	nth %= max(kinds, 1)
	for _, p := range f.on {
		for i := range p.open {
			if nodes := p.open[i].nodes; len(nodes) > 0 {
				if nth == 0 {
					return nodes[z.rng.IntN(len(nodes))]
				}
				nth--
			}
		}
	}
	return nil
}

// openFor is how many open nodes f has, of how many kinds.
func (f *function) openFor() (n, kinds int) {
	for _, p := range f.on {
		for i := range p.open {
			if k := len(p.open[i].nodes); k > 0 {
				n, kinds = n+k, kinds+1
			}
		}
	}
	return n, kinds
}

// drawAny draws one of f's nodes, in service or not; nil for none.
func (z *Zone) drawAny(f *function) *node {
	count := 0
	for _, p := range f.on {
		count += len(p.nodes)
	}
	if count == 0 {
		return nil
	}
	at := z.rng.IntN(count)
	for _, p := range f.on {
		if at < len(p.nodes) {
			return p.nodes[at]
		}
		at -= len(p.nodes)
	}
	return nil
}

// largestIn is the memory of the largest node of p in service, in MB.
func (p *profile) largestIn() int {
	if p.largest < 0 {
		p.largest = 0
		for _, n := range p.nodes {
			if n.serves() {
				p.largest = max(p.largest, n.memMB)
			}
		}
	}
	return p.largest
}

// misfit says why no node in service can run f, whatever ends there, with the code of that error; empty if one can. Labels may
// come with a node that is away for a moment, so a call that lacks them may be sent again; a node does not grow.
func (z *Zone) misfit(f *function) (api.Code, string) {
	fits := false
	for _, p := range f.on {
		if p.sums.slots > 0 {
			if p.largestIn() >= f.spec.MemoryMB {
				return api.CodeOK, ""
			}
			fits = true
		}
	}
	needs := f.spec.Needs.String()
	switch {
	case needs == "" && fits:
		return api.CodeInvalid, fmt.Sprintf("function %s wants %d MB: no node in service is that large", f.spec.Name, f.spec.MemoryMB)
	case needs == "":
		return api.CodeUnavailable, "no node in service in zone " + z.cfg.Zone
	case fits:
		return api.CodeInvalid, fmt.Sprintf("function %s wants %d MB and needs %s: no node in service that offers this is that large", f.spec.Name, f.spec.MemoryMB, needs)
	}
	return api.CodeUnavailable, fmt.Sprintf("function %s needs %s: no node in service in zone %s offers that", f.spec.Name, needs, z.cfg.Zone)
}

// checkProfiles is Check's part that concerns profiles.
func (z *Zone) checkProfiles() error {
	nodes := 0
	for id, p := range z.profiles {
		var want sums
		largest, open, wanted := 0, 0, 0
		for _, n := range p.nodes {
			s := n.counts()
			want.add(&s, 1)
			if s.free > 0 {
				open++
			}
			if s.slots > 0 {
				largest = max(largest, n.memMB)
			}
			if n.profile != p || id > 0 && !n.labels.Meet(&p.labels) {
				return fmt.Errorf("node %s with %s is in the profile of %s", n.name, &n.labels, &p.labels)
			}
		}
		for _, q := range z.queues {
			if p.labels.Meet(&q.calls[0].fn.spec.Needs) {
				wanted++
			}
		}
		listed := 0
		for i := range p.open {
			listed += len(p.open[i].nodes)
		}
		if p.id != id || p.sums != want || listed != open || p.wanted != wanted || p.largest >= 0 && p.largest != largest {
			return fmt.Errorf("profile %d of %s: %+v, %d open, %d queues, %d MB; counted %+v, %d, %d, %d MB", id, &p.labels, want, open, wanted, largest, p.sums, listed, p.wanted, p.largest)
		}
		nodes += len(p.nodes)
	}
	if nodes != len(z.nodes) {
		return fmt.Errorf("%d of %d nodes are in profiles", nodes, len(z.nodes))
	}
	for _, f := range z.fns {
		on := 0
		for id, p := range z.profiles {
			meets := p.labels.Meet(&f.spec.Needs)
			if f.fits[id] != meets || meets && (on >= len(f.on) || f.on[on] != p) {
				return fmt.Errorf("function %s that needs %s and profile %d of %s: fits %v", f.id, &f.spec.Needs, id, &p.labels, f.fits[id])
			}
			if meets {
				on++
			}
		}
		if on != len(f.on) {
			return fmt.Errorf("function %s fits %d profiles, counted %d", f.id, on, len(f.on))
		}
	}
	return nil
}

package zonesched

// A caller's affinity key hints that calls with one key gain by running on one node, for reasons that nobody else sees (what a
// function keeps in its sandbox's memory; Abdi et al., "Palette Load Balancing", EuroSys 2023, call it a color). The node that
// last ran a key's call counts as a little cheaper, so the hint decides among near equals and never against a real gain.
type affinities struct {
	node map[uint64]int32
	keys []uint64 // a ring: the oldest is forgotten
	next int
}

// maxAffinities bounds the keys that are remembered.
const maxAffinities = 1 << 16

// affinityOf names a caller's key for one function, 0 for none.
func affinityOf(key string, f *function) uint64 {
	if key == "" {
		return 0
	}
	return hashOf(key) ^ f.hash
}

// of is the node that last ran a key's call, -1 for none.
func (a *affinities) of(key uint64) int32 {
	if key == 0 {
		return -1
	}
	if n, ok := a.node[key]; ok {
		return n
	}
	return -1
}

// forget takes a node out of all keys: its place is another's.
func (a *affinities) forget(node int32) {
	for key, n := range a.node {
		if n == node {
			a.node[key] = -1 // it stays in the ring
		}
	}
}

func (a *affinities) ran(key uint64, node int32) {
	if key == 0 {
		return
	}
	if a.node == nil {
		a.node = map[uint64]int32{}
	}
	if _, known := a.node[key]; !known {
		if len(a.keys) < maxAffinities {
			a.keys = append(a.keys, key)
		} else {
			delete(a.node, a.keys[a.next])
			a.keys[a.next] = key
			a.next = (a.next + 1) % maxAffinities
		}
	}
	a.node[key] = node
}

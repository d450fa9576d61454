package learner

import (
	"github.com/rubato-faas/rubato/internal/assert"
)

const (
	ways       = 8  // entries of a set
	chunkSlots = 64 // eight sets
)

// table is a bounded map from 64-bit hashes to small values: set-associative, the entry of a set that was touched
// longest ago gives way. A Go map would need cloning for every snapshot (1 ms at 8,192 entries); here a snapshot
// shares all chunks and the writer copies a chunk at its first write afterwards. Two names that share a hash share
// an entry, which costs one poor estimate in 2^64.
type table[V any] struct {
	chunks []*chunk[V]
	owned  []bool // whether the writer may write in place
}

type chunk[V any] struct {
	keys [chunkSlots]uint64 // 0: empty
	seqs [chunkSlots]uint64
	vals [chunkSlots]V
}

func newTable[V any](slots int) table[V] {
	n := slots / chunkSlots
	assert.That(n > 0 && n&(n-1) == 0, "table of %d slots: want a power of two from %d", slots, chunkSlots)
	return table[V]{chunks: make([]*chunk[V], n), owned: make([]bool, n)}
}

// place is the chunk of a key and the first slot of its set.
func (t *table[V]) place(key uint64) (int, int) {
	return int((key >> 8) & uint64(len(t.chunks)-1)), int(key&(chunkSlots/ways-1)) * ways
}

// get is the value of key for reading, or nil.
func (t *table[V]) get(key uint64) *V {
	c, from := t.place(key)
	ch := t.chunks[c]
	if ch == nil {
		return nil
	}
	for i := from; i < from+ways; i++ {
		if ch.keys[i] == key {
			return &ch.vals[i]
		}
	}
	return nil
}

// edit is the value of key for writing, made if need be; evicted is the key that gave way (0: none). The pointer
// holds until the next share.
func (t *table[V]) edit(key, seq uint64) (v *V, evicted uint64) {
	c, from := t.place(key)
	t.own(c)
	ch := t.chunks[c]
	oldest := from
	for i := from; i < from+ways; i++ {
		if ch.keys[i] == key {
			ch.seqs[i] = seq
			return &ch.vals[i], 0
		}
		if ch.seqs[i] < ch.seqs[oldest] {
			oldest = i
		}
	}
	evicted = ch.keys[oldest]
	var zero V
	ch.keys[oldest], ch.seqs[oldest], ch.vals[oldest] = key, seq, zero
	return &ch.vals[oldest], evicted
}

func (t *table[V]) own(c int) {
	if t.owned[c] {
		return
	}
	n := new(chunk[V])
	if t.chunks[c] != nil {
		*n = *t.chunks[c]
	}
	t.chunks[c], t.owned[c] = n, true
}

// share gives a read-only view; later writes leave it untouched.
func (t *table[V]) share() table[V] {
	v := table[V]{chunks: make([]*chunk[V], len(t.chunks))}
	copy(v.chunks, t.chunks)
	clear(t.owned)
	return v
}

// each calls f for every entry, for writing, in slot order.
func (t *table[V]) each(f func(key uint64, v *V)) {
	for c := range t.chunks {
		if t.chunks[c] == nil {
			continue
		}
		t.own(c)
		for i, k := range t.chunks[c].keys {
			if k != 0 {
				f(k, &t.chunks[c].vals[i])
			}
		}
	}
}

// hash is seeded FNV-1a with a finaliser: equal on every replica, and not to be steered by who chooses names
// without knowing the seed.
func hash(seed uint64, s string) uint64 {
	h := 14695981039346656037 ^ mix(seed)
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return max(mix(h), 1)
}

// pairKey is the key of a function on a node.
func pairKey(fn, node uint64) uint64 { return max(mix(fn^(node<<23|node>>41)), 1) }

// mix is the finaliser of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// rng is splitmix64: small, seeded, and without state that outlives a tree's growth.
type rng uint64

func (r *rng) next() uint64 {
	x := mix(uint64(*r))
	*r += 0x9e3779b97f4a7c15
	return x
}

// below draws from 0..n-1; n is far below 2^32, so the bias of the multiplication does not matter.
func (r *rng) below(n int) int { return int((r.next() >> 32) * uint64(n) >> 32) }

// poisson1 turns 32 random bits into a draw from Poisson(1), at most 5.
func poisson1(bits uint32) float32 {
	switch {
	case bits < 1580030169: // e^-1
		return 0
	case bits < 3160060337:
		return 1
	case bits < 3950075421:
		return 2
	case bits < 4213413783:
		return 3
	case bits < 4279248373:
		return 4
	}
	return 5
}

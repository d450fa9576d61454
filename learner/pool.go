package learner

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/assert"
)

// Limits of the pool. An encoded manifest stays below MaxManifestBytes by them.
const (
	MaxManifestBytes = 96 << 10
	// MaxPool is the largest pool.
	MaxPool = maxPool
	// maxBallots is how many zones' votes are kept; beyond, those heard longest ago go.
	maxBallots = 1024
	// bestOf is how many trees a zone votes for: the lowest errors of its scorecard.
	bestOf = 32
	// halfLife is after how many versions a tree's utility is halved.
	halfLife = 16
	// graceAge is until which age a tree counts as if it had graceVotes votes: no zone has judged it yet.
	graceAge, graceVotes = 2, 2
	manifestVersion      = 2
)

// Update is what one zone sends in a round. Seq in its card orders the updates of a zone.
type Update struct {
	Zone  string
	Trees []TreeInfo
	Card  Scorecard
}

// PoolEntry is one tree of the pool.
type PoolEntry struct {
	Digest string
	Zone   string
	// Grown is TreeInfo.Born: rows of its zone when it was grown.
	Grown uint64
	// Since is the manifest version that took it in.
	Since uint64
	// Votes is how many zones have it among their best 32.
	Votes uint32
}

// Ballot is one zone's last vote: the entries that it ranks among its best 32.
type Ballot struct {
	Zone  uint64 // hash of the zone's name
	Seq   uint64 // of the scorecard it was taken from
	Heard uint64 // manifest version
	Best  [MaxPool / 64]uint64
}

// Manifest is the pool at one version: what raft keeps. Entries are ordered by utility, so a new zone takes the
// first ones.
type Manifest struct {
	Version uint64
	// Parent is the digest of the manifest that this one was merged from.
	Parent  string
	Entries []PoolEntry
	Ballots []Ballot // by zone hash
	// Grid is what zones quantise on from here on, nil for the first one; it came with version GridSince.
	Grid      *Grid
	GridSince uint64
	// Sketch is where the zones' rows lie on it.
	Sketch Sketch
}

// MergePool makes the next manifest from a set of updates. It is pure and does not depend on their order; an update
// that was merged before (its zone's last Seq) changes nothing, so merging a set again returns prev. At most
// limit trees stay: ordered by votes, halved every 16 versions, young trees as if they had two votes and with a
// quarter of the places; the best tree of each zone of origin stays first of all, so that the only tree for rare hardware is not voted away.
// All of it is integer arithmetic, so replicas on unlike CPUs would agree.
func MergePool(prev Manifest, updates []Update, limit int) Manifest {
	fresh := freshest(prev, updates)
	if len(fresh) == 0 {
		return prev
	}
	limit = min(max(limit, 1), MaxPool)
	next := Manifest{Version: prev.Version + 1, Parent: prev.Digest()}
	all := candidates(prev, fresh, next.Version)
	votes := ballots(prev, fresh, next.Version)
	for i := range all {
		all[i].Votes = votes.count(all[i].Digest)
	}
	slices.SortFunc(all, func(a, b PoolEntry) int {
		return cmp.Or(cmp.Compare(b.utility(next.Version), a.utility(next.Version)), strings.Compare(a.Digest, b.Digest))
	})
	next.Entries = keep(all, limit, next.Version)
	next.Ballots = votes.bind(next.Entries)
	next.schema(prev, fresh)
	return next
}

// schema takes over the grid and adds up where the rows lie on it, until that calls for another grid.
func (m *Manifest) schema(prev Manifest, fresh []Update) {
	m.Grid, m.GridSince = prev.Grid, prev.GridSince
	m.Sketch = Sketch{Epoch: prev.Sketch.Epoch, Counts: slices.Clone(prev.Sketch.Counts)}
	for i := range fresh {
		m.Sketch.add(&fresh[i].Card.Sketch)
	}
	if m.Version < m.GridSince+gridAge {
		return
	}
	if next := nextGrid(m.grid(), &m.Sketch); next != nil {
		m.Grid, m.GridSince, m.Sketch = next, m.Version, Sketch{Epoch: next.epoch}
	}
}

// utility decays votes with age, in 1/1024 of a vote.
func (p *PoolEntry) utility(version uint64) uint64 {
	age, votes := version-p.Since, uint64(p.Votes)
	if age < graceAge {
		votes = max(votes, graceVotes)
	}
	return (1 + votes) << 10 >> min(age/halfLife, 63)
}

// freshest groups the updates by zone, in order of names: the card with the highest Seq, and the trees of all.
// Zones whose highest Seq was merged before are left out, as are invalid names. A zone that lost its state starts
// from a lower Seq and is heard all the same.
func freshest(prev Manifest, updates []Update) []Update {
	sorted := slices.Clone(updates)
	slices.SortFunc(sorted, func(a, b Update) int {
		return cmp.Or(strings.Compare(a.Zone, b.Zone), cmp.Compare(b.Card.Seq, a.Card.Seq), compareCards(a.Card, b.Card))
	})
	var out []Update
	for _, u := range sorted {
		if api.CheckName("zone", u.Zone) != nil {
			continue
		}
		if n := len(out); n > 0 && out[n-1].Zone == u.Zone {
			out[n-1].Trees = slices.Concat(out[n-1].Trees, u.Trees)
			continue
		}
		out = append(out, u)
	}
	return slices.DeleteFunc(out, func(u Update) bool {
		i, found := prev.ballot(hash(0, u.Zone))
		return found && prev.Ballots[i].Seq == u.Card.Seq
	})
}

func compareCards(a, b Scorecard) int {
	return cmp.Or(slices.CompareFunc(a.Scores, b.Scores, compareScores), cmp.Compare(a.Sketch.Epoch, b.Sketch.Epoch), slices.Compare(a.Sketch.Counts, b.Sketch.Counts))
}

func compareScores(x, y Score) int {
	return cmp.Or(cmp.Compare(x.Error, y.Error), strings.Compare(x.Digest, y.Digest))
}

func (m *Manifest) ballot(zone uint64) (int, bool) {
	return slices.BinarySearchFunc(m.Ballots, zone, func(b Ballot, z uint64) int { return cmp.Compare(b.Zone, z) })
}

// candidates are the entries of prev and at most maxExport new trees of each zone, the newest first. The origin is
// the zone that sent the tree, whatever the tree says.
func candidates(prev Manifest, fresh []Update, version uint64) []PoolEntry {
	all := slices.Clone(prev.Entries)
	known := make(map[string]bool, len(all))
	for i := range all {
		known[all[i].Digest] = true
	}
	for _, u := range fresh {
		trees := slices.Clone(u.Trees)
		slices.SortFunc(trees, func(a, b TreeInfo) int {
			return cmp.Or(cmp.Compare(b.Born, a.Born), strings.Compare(a.Digest, b.Digest))
		})
		taken := 0
		for _, t := range trees {
			if taken == maxExport || !isDigest(t.Digest) || known[t.Digest] {
				continue
			}
			known[t.Digest] = true
			all = append(all, PoolEntry{Digest: t.Digest, Zone: u.Zone, Grown: t.Born, Since: version})
			taken++
		}
	}
	return all
}

// vote is one zone's ballot by digests.
type vote struct {
	Ballot
	best []string
}

type votes struct {
	all    []vote
	counts map[string]uint32
}

func (v votes) count(digest string) uint32 { return v.counts[digest] }

// ballots takes the fresh cards, and the last ballots of the zones that are silent this time.
func ballots(prev Manifest, fresh []Update, version uint64) votes {
	v := votes{counts: make(map[string]uint32)}
	heard := make(map[uint64]bool, len(fresh))
	for _, u := range fresh {
		z := hash(0, u.Zone)
		heard[z] = true
		v.all = append(v.all, vote{Ballot{Zone: z, Seq: u.Card.Seq, Heard: version}, bestScores(u.Card)})
	}
	for _, b := range prev.Ballots {
		if heard[b.Zone] {
			continue
		}
		old := vote{Ballot: b}
		for i := range prev.Entries {
			if b.Best[i/64]>>(i%64)&1 == 1 {
				old.best = append(old.best, prev.Entries[i].Digest)
			}
		}
		v.all = append(v.all, old)
	}
	slices.SortFunc(v.all, func(a, b vote) int {
		return cmp.Or(cmp.Compare(b.Heard, a.Heard), cmp.Compare(a.Zone, b.Zone))
	})
	v.all = v.all[:min(len(v.all), maxBallots)]
	for _, b := range v.all {
		for _, d := range b.best {
			v.counts[d]++
		}
	}
	return v
}

// bestScores are the digests with the lowest errors, ties by digest; a digest counts once. Errors are bytes, so counting
// finds the last error that is still among the best, without sorting 1,000 cards.
func bestScores(c Scorecard) []string {
	s := c.Scores
	byDigest := func(a, b Score) int {
		return cmp.Or(strings.Compare(a.Digest, b.Digest), cmp.Compare(a.Error, b.Error))
	}
	if !slices.IsSortedFunc(s, byDigest) {
		s = slices.SortedFunc(slices.Values(s), byDigest)
	}
	for i := 1; i < len(s); i++ {
		if s[i].Digest == s[i-1].Digest {
			s = slices.CompactFunc(slices.Clone(s), func(a, b Score) bool { return a.Digest == b.Digest })
			break
		}
	}
	var count [256]int
	for _, x := range s {
		count[x.Error]++
	}
	last, ties := 0, bestOf // the last error taken, and how many of it
	for ; last < 255 && ties > count[last]; last++ {
		ties -= count[last]
	}
	best := make([]string, 0, bestOf)
	for _, x := range s {
		switch {
		case int(x.Error) < last:
			best = append(best, x.Digest)
		case int(x.Error) == last && ties > 0:
			best, ties = append(best, x.Digest), ties-1
		}
	}
	return best
}

// bind writes the votes as bits over the entries that stayed.
func (v votes) bind(entries []PoolEntry) []Ballot {
	at := make(map[string]int, len(entries))
	for i := range entries {
		at[entries[i].Digest] = i
	}
	out := make([]Ballot, len(v.all))
	for k, b := range v.all {
		b.Best = [MaxPool / 64]uint64{}
		for _, d := range b.best {
			if i, ok := at[d]; ok {
				b.Best[i/64] |= 1 << (i % 64)
			}
		}
		out[k] = b.Ballot
	}
	slices.SortFunc(out, func(a, b Ballot) int { return cmp.Compare(a.Zone, b.Zone) })
	return out
}

// keep takes limit of the ranked entries: the best of each zone first (for as many zones as half the pool holds),
// then young trees up to a quarter of the pool (else no newcomer could ever gather votes against incumbents), then by
// rank. The result keeps the rank's order.
func keep(ranked []PoolEntry, limit int, version uint64) []PoolEntry {
	if len(ranked) <= limit {
		return ranked
	}
	stay := make([]bool, len(ranked))
	left := limit
	take := func(most int, want func(p *PoolEntry) bool) {
		for i := range ranked {
			if most > 0 && left > 0 && !stay[i] && want(&ranked[i]) {
				stay[i] = true
				most, left = most-1, left-1
			}
		}
	}
	seen := make(map[string]bool)
	take(max(limit/2, 1), func(p *PoolEntry) bool {
		first := !seen[p.Zone]
		seen[p.Zone] = true
		return first
	})
	take(limit/4, func(p *PoolEntry) bool { return version-p.Since < graceAge })
	take(limit, func(*PoolEntry) bool { return true })
	var out []PoolEntry
	for i := range ranked {
		if stay[i] {
			out = append(out, ranked[i])
		}
	}
	assert.That(len(out) <= limit, "pool of %d trees, limit %d", len(out), limit)
	return out
}

func (m *Manifest) grid() *Grid {
	if m.Grid == nil {
		return zoneGrid
	}
	return m.Grid
}

// Digest is the SHA-256 of the encoding, in hex.
func (m *Manifest) Digest() string {
	sum := sha256.Sum256(m.write().buf.Bytes())
	return hex.EncodeToString(sum[:])
}

func (m *Manifest) write() *writer {
	w := newWriter(manifestVersion)
	w.u64(m.Version)
	w.str(m.Parent)
	w.u64(uint64(len(m.Entries)))
	for _, e := range m.Entries {
		raw, err := hex.DecodeString(e.Digest)
		w.keep(err)
		w.bytes(raw)
		w.str(e.Zone)
		w.u64(e.Grown)
		w.u64(e.Since)
		w.u64(uint64(e.Votes))
	}
	w.pack(m.Ballots)
	m.grid().write(w)
	w.u64(m.GridSince)
	m.Sketch.write(w)
	return w
}

// EncodeManifest encodes m for raft.
func EncodeManifest(m Manifest) ([]byte, error) {
	w := m.write()
	if w.err != nil {
		return nil, fmt.Errorf("learner encode manifest: %w", w.err)
	}
	if w.buf.Len() > MaxManifestBytes {
		return nil, fmt.Errorf("learner encode manifest: %w: %d bytes, limit %d", api.ErrTooLarge, w.buf.Len(), MaxManifestBytes)
	}
	return w.buf.Bytes(), nil
}

// DecodeManifest decodes and checks a manifest.
func DecodeManifest(b []byte) (Manifest, error) {
	if len(b) > MaxManifestBytes {
		return Manifest{}, fmt.Errorf("learner decode manifest: %w: %d bytes, limit %d", api.ErrTooLarge, len(b), MaxManifestBytes)
	}
	r := newReader(b, manifestVersion-1, manifestVersion)
	m := Manifest{Version: r.u64(), Parent: r.str(digestLen)}
	r.check(m.Parent == "" || isDigest(m.Parent), "parent")
	known := make(map[string]bool)
	for range r.count(MaxPool) {
		e := PoolEntry{Digest: hex.EncodeToString(r.bytes(digestLen / 2)), Zone: r.str(api.MaxNameLen), Grown: r.u64(), Since: r.u64(), Votes: uint32(r.count(maxBallots))}
		if r.err != nil {
			break
		}
		r.check(isDigest(e.Digest) && !known[e.Digest] && e.Since <= m.Version && api.CheckName("zone", e.Zone) == nil, "entry")
		known[e.Digest] = true
		m.Entries = append(m.Entries, e)
	}
	m.Ballots = readBallots(r, len(m.Entries))
	if r.version >= 2 {
		if g := readGrid(r); g.epoch > 0 {
			m.Grid = g
		}
		m.GridSince, m.Sketch = r.u64(), readSketch(r)
		r.check(m.GridSince <= m.Version && m.Sketch.Epoch == m.grid().epoch, "epoch of the grid")
	}
	if err := r.end(); err != nil {
		return Manifest{}, fmt.Errorf("learner decode manifest: %w", err)
	}
	return m, nil
}

// readBallots checks that zones rise and that votes are for entries there are.
func readBallots(r *reader, entries int) []Ballot {
	all := unpack[Ballot](r, maxBallots)
	for i := range all {
		r.check(i == 0 || all[i].Zone > all[i-1].Zone, "order of ballots")
		highest := -1
		for w, x := range all[i].Best {
			if x != 0 {
				highest = w*64 + bits.Len64(x) - 1
			}
		}
		r.check(highest < entries, "vote")
	}
	return all
}

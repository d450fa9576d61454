package learner

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/rubato-faas/rubato/api"
)

const (
	// maxExport is how many trees leave the zone in a round at most.
	maxExport = 2
	// exportRows is how many rows there must be before any tree leaves.
	exportRows = 3 * ExportMinLeaf
)

// Export grows trees to be shown to other zones: at most two, from rows drawn without repetition, each leaf on at
// least ExportMinLeaf samples from at least min(3, tenants seen) tenants. The first looks back over the whole
// window, the second over an eighth of it. Below 60 rows nothing is exported. It does not change the learner.
func (l *Learner) Export(max int) []*Tree {
	return l.ens.export(&l.win, max, l.tenantsSeen())
}

func (e *ensemble) export(w *window, max, minTenants int) []*Tree {
	var out []*Tree
	if w.total < exportRows {
		return nil
	}
	for i := range min(max, maxExport) {
		if t, err := e.exportTree(w, i, minTenants); err == nil {
			out = append(out, t)
		}
	}
	return out
}

func (e *ensemble) exportTree(w *window, i, minTenants int) (*Tree, error) {
	g := growth{
		rows: w.rows, width: len(e.grid.edges), target: w.target, tenants: w.tenants, leaves: exportLeaves, minLeaf: ExportMinLeaf,
		minTenants: minTenants, draw: rng(mix(mix(e.cfg.Seed+uint64(i)+1e6) ^ w.total)),
	}
	span := w.len()
	if i == 1 {
		span = min(span, max(e.cfg.Window/8, exportRows))
	}
	g.idx = make([]int32, span)
	for k := range g.idx {
		g.idx[k] = int32(w.back(k))
	}
	n := max(span*4/5, min(span, exportRows))
	for k := range n {
		j := k + g.draw.below(span-k)
		g.idx[k], g.idx[j] = g.idx[j], g.idx[k]
	}
	g.idx = g.idx[:n]
	shape, leaves := new(grower).grow(&g)
	return newTree(e.cfg.Zone, w.total, e.grid, shape, leaves)
}

// Scorecard is what a zone thinks of the pool: its error with each pooled tree on its own recent rows.
type Scorecard struct {
	Zone string
	// Seq is the learner's sequence number: of two cards of one zone the higher speaks.
	Seq uint64
	// Samples is how many rows the scores rest on at most.
	Samples uint64
	// Scores are ordered by digest.
	Scores []Score
	// Sketch says where the zone's rows lie on its grid.
	Sketch Sketch
}

// Score is one tree's error. Error is on a logarithmic scale, 16 steps to the doubling from .001: lower is better.
type Score struct {
	Digest string
	Error  uint8
}

// quantise makes a mean absolute error in ln ms a byte.
func quantise(err float64) uint8 {
	return uint8(min(max(math.Round(16*math.Log2(max(err, 1e-9)/.001)), 0), 255))
}

// Scorecard judges each tree of the adopted pool on own rows that the tree has not seen; trees with fewer than 50 of
// them are left out.
func (l *Learner) Scorecard() Scorecard {
	c := l.ens.scorecard(&l.win, l.seq)
	c.Sketch = l.ens.sketch(&l.win)
	return c
}

func (e *ensemble) scorecard(w *window, seq uint64) Scorecard {
	c := Scorecard{Zone: e.cfg.Zone, Seq: seq}
	m := min(w.len(), scoreRows)
	c.Samples = uint64(m)
	for i := range e.pool {
		t := &e.pool[i]
		if n := e.newer(t.Tree, w, m); n >= pickRows {
			c.Scores = append(c.Scores, Score{t.digest, quantise(poolError(t, w, n))})
		}
	}
	slices.SortFunc(c.Scores, func(a, b Score) int { return strings.Compare(a.Digest, b.Digest) })
	return c
}

const scorecardVersion = 2

// EncodeScorecard encodes c for the object store.
func EncodeScorecard(c Scorecard) ([]byte, error) {
	w := newWriter(scorecardVersion)
	w.str(c.Zone)
	w.u64(c.Seq)
	w.u64(c.Samples)
	w.u64(uint64(len(c.Scores)))
	for _, s := range c.Scores {
		w.str(s.Digest)
		w.u64(uint64(s.Error))
	}
	c.Sketch.write(w)
	if w.err != nil {
		return nil, fmt.Errorf("learner encode scorecard: %w", w.err)
	}
	return w.buf.Bytes(), nil
}

// DecodeScorecard decodes and checks a scorecard from outside.
func DecodeScorecard(b []byte) (Scorecard, error) {
	r := newReader(b, scorecardVersion-1, scorecardVersion)
	c := Scorecard{Zone: r.str(api.MaxNameLen), Seq: r.u64(), Samples: r.u64()}
	for range r.count(maxPool) {
		s := Score{Digest: r.str(digestLen), Error: uint8(r.count(255))}
		if r.err != nil {
			break
		}
		r.check(isDigest(s.Digest), "digest")
		r.check(len(c.Scores) == 0 || c.Scores[len(c.Scores)-1].Digest < s.Digest, "order of digests")
		c.Scores = append(c.Scores, s)
	}
	if r.version >= 2 {
		c.Sketch = readSketch(r)
	}
	err := r.end()
	if err == nil {
		err = api.CheckName("zone", c.Zone)
	}
	if err != nil {
		return Scorecard{}, fmt.Errorf("learner decode scorecard: %w", err)
	}
	return c, nil
}

const digestLen = 64

// isDigest reports whether s is a SHA-256 in lower-case hex.
func isDigest(s string) bool {
	return len(s) == digestLen && strings.Trim(s, "0123456789abcdef") == ""
}

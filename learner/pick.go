package learner

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"slices"
)

// localDigest names an own tree: its slot, its birth and its shape.
func localDigest(slot int, t *local) string {
	h := sha256.New()
	b := binary.LittleEndian.AppendUint64(nil, uint64(slot))
	b = binary.LittleEndian.AppendUint64(b, t.born)
	for _, s := range t.shape {
		b = binary.LittleEndian.AppendUint16(append(b, s.feat, s.bin), s.next)
	}
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}

// setPool replaces the adopted trees within the limits. Picks of old trees go with them.
func (e *ensemble) setPool(trees []*Tree) {
	old := e.pool
	e.pool = nil
	at := make(map[string]int, len(trees))
	nodes := 0
	for _, t := range trees {
		if t == nil || t.digest == "" || len(e.pool) == maxPool || nodes+2*t.Leaves() > maxPoolNodes {
			continue
		}
		if _, twice := at[t.digest]; !twice {
			at[t.digest] = len(e.pool)
			e.pool = append(e.pool, pool(t, e.grid))
			nodes += 2 * t.Leaves()
		}
	}
	e.picks = slices.DeleteFunc(e.picks, func(c pick) bool {
		return c.pool && !in(at, old[c.i].digest)
	})
	for k, c := range e.picks {
		if c.pool {
			e.picks[k].i = at[old[c.i].digest]
		}
	}
	e.weigh()
}

// adopt takes the pool's trees, picks anew, and reports whether more than half of the picks changed.
func (e *ensemble) adopt(w *window, version uint64, trees []*Tree) (another bool) {
	e.version = version
	e.setPool(trees)
	another = 2*e.repick(w) > len(e.picks)
	if another && e.ownFrom > 0 && len(e.batch.jobs) <= 1 { // more than one: residual trees are among them, if they can be
		e.beginAll(w, e.every, func(slot int) bool { return slot >= len(e.own) })
	}
	return another
}

func in(at map[string]int, digest string) bool {
	_, ok := at[digest]
	return ok
}

// firstTrees is at which row the first trees predict.
const firstTrees = 17

// judged is how many of the newest rows own slots can be judged by.
func (e *ensemble) judged(w *window) int {
	if e.ownFrom == 0 {
		return 0
	}
	return int(min(w.total-e.ownFrom, scoreRows, uint64(w.len())))
}

// newer is how many of the newest m rows tree t cannot have seen: all for a tree from elsewhere; for one that this
// zone grew, those since. One that claims to come from rows this zone has not had yet is from an earlier life.
func (e *ensemble) newer(t *Tree, w *window, m int) int {
	if t.zone != e.cfg.Zone || t.born > w.total {
		return m
	}
	return int(min(uint64(m), w.total-t.born))
}

// pooled is a tree of the pool, ready for this ensemble's grid.
type pooled struct {
	*Tree
	at   []split
	leaf []leafOut
}

func pool(t *Tree, g *Grid) pooled {
	shape, leaf := t.compile(g)
	return pooled{t, shape, leaf}
}

func (t *pooled) says(x *row) float64 { return float64(t.leaf[walk(t.at, x)].Mean) }

// poolError is the mean absolute error of a pool tree over the newest m rows, newer rows weighing more.
func poolError(t *pooled, w *window, m int) float64 {
	return weighted(m, func(k int) float64 {
		i := w.back(k)
		return t.says(&w.rows[i]) - float64(w.target[i])
	})
}

func weighted(m int, errOf func(k int) float64) float64 {
	var sum, n float64
	for k := range m {
		f := float64(m - k)
		sum, n = sum+f*math.Abs(errOf(k)), n+f
	}
	return sum / max(n, 1)
}

// ownPred is what own slot i said of the k-th newest row before it was learned.
func (e *ensemble) ownPred(w *window, k, i int) float32 {
	return e.preds[int((w.total-1-uint64(k))%scoreRows)*len(e.own)+i]
}

// repick chooses the base trees that predict and returns how many changed. Own slots are judged by what they said at
// the time, pool trees by what they say of rows they cannot have seen: on rows that a tree was grown from it would
// always win. Own slots win ties.
func (e *ensemble) repick(w *window) (changed int) {
	before := slices.Clone(e.picks)
	m := e.judged(w)
	switch {
	case m < pickRows-firstTrees && len(e.pool) > 0:
		e.picks = e.picks[:0]
		for i := range min(len(e.pool), e.cfg.Pick) {
			e.picks = append(e.picks, pick{pool: true, i: i})
		}
	case e.ownFrom == 0:
		e.picks = e.picks[:0]
	case len(e.pool) == 0 && len(e.own) <= e.cfg.Pick:
		e.picks = e.picks[:0]
		for i := range e.own {
			e.picks = append(e.picks, pick{i: i})
		}
	default:
		e.picks = e.best(w, m)
	}
	for _, c := range e.picks {
		if !slices.Contains(before, c) {
			changed++
		}
	}
	if changed > 0 || len(before) != len(e.picks) {
		e.rejudge(w, m)
	}
	e.weigh()
	return changed
}

// poolMargin is how many times smaller a pool tree's error must be than an own one's. Own leaves go on following the samples
// and own trees are grown anew; a pool tree stays what it is. Without a margin a zone with data of its own was 3 % worse for
// the exchange on average, and the worst zone 7 %.
const poolMargin = 2

// poolPart: at most one in so many picks is a pool tree once own trees can be judged. Pool trees are judged as they are, own
// slots by what younger trees said; by rank alone a zone with little data took too many, and a zone that joined with 100
// rows was 5 % worse for it.
const poolPart = 4

// best ranks all trees by error and takes the first Pick.
func (e *ensemble) best(w *window, m int) []pick {
	type scored struct {
		pick
		err float64
	}
	var all []scored
	for i := range e.own {
		err := weighted(m, func(k int) float64 { return float64(e.ownPred(w, k, i) - w.target[w.back(k)]) })
		all = append(all, scored{pick{i: i}, err})
	}
	for i := range e.pool {
		t := &e.pool[i]
		if n := e.newer(t.Tree, w, m); n == m || n >= pickRows {
			all = append(all, scored{pick{pool: true, i: i}, poolMargin * poolError(t, w, n)})
		}
	}
	slices.SortStableFunc(all, func(a, b scored) int { return cmpFloat(a.err, b.err) })
	pool := 0
	all = slices.DeleteFunc(all, func(s scored) bool {
		pool += bit(s.pool)
		return s.pool && pool > max(e.cfg.Pick/poolPart, 1)
	})
	all = all[:min(len(all), e.cfg.Pick)]
	picks := make([]pick, len(all))
	for k := range all {
		picks[k] = all[k].pick
	}
	return picks
}

// rejudge computes the groups' errors for the new picks over the newest m rows, and the residuals of these rows
// against the new stage one, so that the second stage corrects the forest there is and not the one there was.
func (e *ensemble) rejudge(w *window, m int) {
	e.groupErr = [groups]ew{}
	e.gateErr = [len(lambdas)]ew{}
	e.lambda = 0
	if m == 0 || len(e.picks) == 0 {
		return
	}
	said := make([]float64, len(e.picks)*m)
	for k := range m {
		var mean [groups]float64
		var n [groups]int
		at := w.back(m - 1 - k) // oldest first
		for j, c := range e.picks {
			v := e.said(w, c, m-1-k, &w.rows[at])
			said[k*len(e.picks)+j] = v
			g := e.group(c)
			mean[g], n[g] = mean[g]+v, n[g]+1
		}
		for g := range mean {
			if n[g] > 0 {
				e.groupErr[g].add(math.Abs(float64(w.target[at])-mean[g]/float64(n[g])), errMemory)
			}
		}
	}
	e.weigh()
	for k := range m {
		at, p := w.back(m-1-k), 0.
		for j := range e.picks {
			p += e.weights[j] * said[k*len(e.picks)+j]
		}
		w.resid[at] = w.target[at] - float32(p)
	}
	e.beginAgain() // second-stage trees that are being grown are grown from these residuals
}

func (e *ensemble) said(w *window, c pick, k int, x *row) float64 {
	if !c.pool {
		return float64(e.ownPred(w, k, c.i))
	}
	return e.pool[c.i].says(x)
}

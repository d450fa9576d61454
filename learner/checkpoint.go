package learner

import (
	"fmt"
	"slices"

	"github.com/rubato-faas/rubato/api"
)

// MaxCheckpointBytes bounds a checkpoint: the limits of the parts keep it below.
const (
	MaxCheckpointBytes = 4 << 20
	checkpointVersion  = 3
	oldestCheckpoint   = 2
)

// Checkpoint encodes the whole state. A learner restored from it goes on exactly as this one would.
func (l *Learner) Checkpoint() ([]byte, error) {
	w := newWriter(checkpointVersion)
	l.write(w)
	if w.err != nil {
		return nil, fmt.Errorf("learner checkpoint: %w", w.err)
	}
	if w.buf.Len() > MaxCheckpointBytes {
		return nil, fmt.Errorf("learner checkpoint: %w: %d bytes, limit %d", api.ErrTooLarge, w.buf.Len(), MaxCheckpointBytes)
	}
	return w.buf.Bytes(), nil
}

// Restore makes a learner from a checkpoint of one with an equal config. Version 2 was written before there were grids, a
// pace of growth and parts to leave out: its learner is on the first grid, keeps its config's pace and leaves nothing out.
func Restore(cfg Config, b []byte) (*Learner, error) {
	if len(b) > MaxCheckpointBytes {
		return nil, fmt.Errorf("learner restore: %w: %d bytes, limit %d", api.ErrTooLarge, len(b), MaxCheckpointBytes)
	}
	l, err := New(cfg)
	if err != nil {
		return nil, err
	}
	r := newReader(b, oldestCheckpoint, checkpointVersion)
	l.read(r)
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("learner restore: %w", err)
	}
	return l, nil
}

// shapeOf is the part of a config that a checkpoint must agree with.
func (c Config) shapeOf() []uint64 {
	return []uint64{c.Seed, hash(0, c.Zone), uint64(c.Window), uint64(c.Trees), uint64(c.ResidualTrees), uint64(c.Pick), uint64(c.Regrow), uint64(c.MinForest), uint64(c.Without)}
}

func (l *Learner) write(w *writer) {
	w.pack(l.cfg.shapeOf())
	w.u64(l.seq)
	w.u64(l.usable)
	w.pack(l.tenants[:])
	w.pack(l.calls[:])
	w.pack(l.misses[:])
	w.pack([]ew{l.forestErr, l.averagesErr})
	w.u64(uint64(bit(l.guarded)))
	w.pack(l.rts[:])
	w.pack([]cell{l.fetch})
	writeTable(w, &l.fns)
	writeTable(w, &l.nodes)
	writeTable(w, &l.pairs)
	for k := range kinds {
		l.zoneBound[k].write(w)
		l.youngBound[k].write(w)
	}
	l.writeHots(w)
	l.ens.grid.write(w)
	w.u64(uint64(bit(l.former != nil)))
	if l.former != nil {
		l.former.write(w)
	}
	l.win.write(w)
	l.ens.write(w, &l.win)
}

func (l *Learner) read(r *reader) {
	shape := unpack[uint64](r, 9)
	if r.version < 3 {
		shape = append(shape, 0)
	}
	r.check(slices.Equal(shape, l.cfg.shapeOf()), "config of the checkpoint")
	l.seq, l.usable = r.u64(), r.u64()
	readArray(r, l.tenants[:])
	readArray(r, l.calls[:])
	readArray(r, l.misses[:])
	errs := make([]ew, 2)
	readArray(r, errs)
	l.forestErr, l.averagesErr = errs[0], errs[1]
	l.guarded = r.count(1) == 1
	readArray(r, l.rts[:])
	fetch := []cell{{}}
	readArray(r, fetch)
	l.fetch = fetch[0]
	readTable(r, &l.fns)
	readTable(r, &l.nodes)
	readTable(r, &l.pairs)
	for k := range kinds {
		l.zoneBound[k].read(r)
		l.youngBound[k].read(r)
	}
	l.readHots(r)
	if r.version >= 3 {
		l.ens.grid = readGrid(r)
		if r.count(1) == 1 {
			l.former = readGrid(r)
		}
	}
	l.win.read(r)
	l.ens.read(r, &l.win)
}

// readArray fills all of to.
func readArray[T any](r *reader, to []T) {
	v := unpack[T](r, len(to))
	r.check(len(v) == len(to), "length of an array")
	copy(to, v)
}

// writeTable writes the occupied slots: where, key, sequence, value.
func writeTable[V any](w *writer, t *table[V]) {
	slots, keys, seqs := tableIndex(t)
	vals := make([]V, 0, len(slots))
	for _, s := range slots {
		vals = append(vals, t.chunks[s/chunkSlots].vals[s%chunkSlots])
	}
	w.pack(slots)
	w.pack(keys)
	w.pack(seqs)
	w.pack(vals)
}

func tableIndex[V any](t *table[V]) (slots []uint16, keys, seqs []uint64) {
	for c, ch := range t.chunks {
		if ch == nil {
			continue
		}
		for i, k := range ch.keys {
			if k != 0 {
				slots, keys, seqs = append(slots, uint16(c*chunkSlots+i)), append(keys, k), append(seqs, ch.seqs[i])
			}
		}
	}
	return slots, keys, seqs
}

func readTable[V any](r *reader, t *table[V]) {
	slots, keys, seqs := readIndex(r, t)
	vals := unpack[V](r, len(slots))
	r.check(len(vals) == len(slots), "values of a table")
	if r.err != nil {
		return
	}
	for i, s := range slots {
		t.set(int(s), keys[i], seqs[i], vals[i])
	}
}

// readIndex reads slots, keys and sequences; each key must be in its set and slots must rise.
func readIndex[V any](r *reader, t *table[V]) (slots []uint16, keys, seqs []uint64) {
	limit := len(t.chunks) * chunkSlots
	slots, keys, seqs = unpack[uint16](r, limit), unpack[uint64](r, limit), unpack[uint64](r, limit)
	r.check(len(slots) == len(keys) && len(slots) == len(seqs), "length of a table")
	if r.err != nil {
		return nil, nil, nil
	}
	for i, s := range slots {
		c, from := t.place(keys[i])
		at := int(s) - c*chunkSlots
		r.check(keys[i] != 0 && at >= from && at < from+ways && (i == 0 || s > slots[i-1]), "slot of a table")
	}
	return slots, keys, seqs
}

func (t *table[V]) set(slot int, key, seq uint64, v V) {
	c, i := slot/chunkSlots, slot%chunkSlots
	t.own(c)
	t.chunks[c].keys[i], t.chunks[c].seqs[i], t.chunks[c].vals[i] = key, seq, v
}

func (a *aci) write(w *writer) {
	w.pack(append(slices.Clone(a.ring[a.next:]), a.ring[:a.next]...))
	w.pack(a.alpha[:])
}

func (a *aci) read(r *reader) {
	a.ring = append(a.ring, unpack[float32](r, cap(a.ring))...)
	a.sorted = append(a.sorted, a.ring...)
	slices.Sort(a.sorted)
	readArray(r, a.alpha[:])
	for _, x := range a.alpha {
		r.check(x <= maxAlpha && x > -1, "alpha")
	}
}

func (l *Learner) writeHots(w *writer) {
	slots, keys, seqs := tableIndex(&l.hots)
	w.pack(slots)
	w.pack(keys)
	w.pack(seqs)
	for _, s := range slots {
		for _, a := range l.hots.chunks[s/chunkSlots].vals[s%chunkSlots] {
			a.write(w)
		}
	}
}

func (l *Learner) readHots(r *reader) {
	slots, keys, seqs := readIndex(r, &l.hots)
	for i, s := range slots {
		var h hot
		for k := range h {
			if h[k] = newACI(hotScores); r.err == nil {
				h[k].read(r)
			}
		}
		if r.err != nil {
			return
		}
		l.hots.set(int(s), keys[i], seqs[i], h)
	}
}

// write writes the rows from the oldest to the newest.
func (w *window) write(to *writer) {
	n := w.len()
	rows := make([]byte, 0, n*maxFeatures)
	target, resid, tenants := make([]float32, n), make([]float32, n), make([]uint32, n)
	for k := range n {
		i := w.back(n - 1 - k)
		rows = append(rows, w.rows[i][:]...)
		target[k], resid[k], tenants[k] = w.target[i], w.resid[i], w.tenants[i]
	}
	to.u64(w.total)
	to.bytes(rows)
	to.pack(target)
	to.pack(resid)
	to.pack(tenants)
}

func (w *window) read(r *reader) {
	total := r.u64()
	r.check(total < 1<<62, "rows")
	rows := r.bytes(len(w.rows) * maxFeatures)
	target, resid := unpack[float32](r, len(w.rows)), unpack[float32](r, len(w.rows))
	tenants := unpack[uint32](r, len(w.rows))
	n := len(target)
	r.check(uint64(n) == min(total, uint64(len(w.rows))) && len(resid) == n && len(tenants) == n && len(rows) == n*maxFeatures, "length of the window")
	if r.err != nil {
		return
	}
	for _, b := range rows {
		r.check(b < api.MaxBins, "bin")
	}
	w.total = total - uint64(n)
	for k := range n {
		w.push(row(rows[k*maxFeatures:]), target[k], resid[k], tenants[k])
	}
}

func (e *ensemble) write(w *writer, win *window) {
	w.u64(e.version)
	w.u64(e.ownFrom)
	w.u64(e.residFrom)
	w.f64(e.lambda)
	w.pack([]drift{e.drift})
	w.pack(append(append(slices.Clone(e.groupErr[:]), e.gateErr[:]...), e.absErr))
	for i := range e.own {
		e.own[i].write(w)
	}
	for i := range e.resid {
		e.resid[i].write(w)
	}
	w.u64(uint64(len(e.pool)))
	for _, t := range e.pool {
		w.bytes(EncodeTree(t.Tree))
	}
	w.u64(uint64(len(e.picks)))
	for _, c := range e.picks {
		w.u64(uint64(c.i))
		w.u64(uint64(bit(c.pool)))
	}
	w.pack(e.recent(win))
	// The rows of jobs are drawn again from the window.
	w.u64(e.every)
	w.u64(e.batch.born)
	w.u64(e.batch.due)
	slots := make([]byte, len(e.batch.jobs))
	for k, j := range e.batch.jobs {
		slots[k] = byte(j.slot)
	}
	w.bytes(slots)
}

// recent lists the predictions of own slots for the newest rows, oldest first.
func (e *ensemble) recent(win *window) []float32 {
	m := min(win.len(), scoreRows)
	out := make([]float32, 0, m*len(e.own))
	for k := m - 1; k >= 0; k-- {
		for i := range e.own {
			out = append(out, e.ownPred(win, k, i))
		}
	}
	return out
}

func (e *ensemble) read(r *reader, win *window) {
	e.version, e.ownFrom, e.residFrom, e.lambda = r.u64(), r.u64(), r.u64(), r.f64()
	r.check(e.ownFrom <= win.total && e.residFrom <= win.total+1, "beginning of trees")
	r.check(slices.Contains(lambdas[:], e.lambda), "gate")
	d := []drift{{}}
	readArray(r, d)
	e.drift = d[0]
	r.check(e.drift.Cut <= win.total && e.drift.Floor <= win.total && e.drift.Fast.Mean >= 0 && e.drift.Slow.Mean >= 0, "drift")
	errs := make([]ew, len(e.groupErr)+len(e.gateErr)+1)
	readArray(r, errs)
	copy(e.groupErr[:], errs)
	copy(e.gateErr[:], errs[len(e.groupErr):])
	e.absErr = errs[len(errs)-1]
	for _, x := range errs {
		r.check(x.Mean >= 0, "error")
	}
	for i := range e.own {
		e.own[i].read(r, i, win.total, len(e.grid.edges))
		r.check(e.own[i].alive() == (e.ownFrom > 0), "own tree")
	}
	for i := range e.resid {
		e.resid[i].read(r, len(e.own)+i, win.total, len(e.grid.edges))
	}
	e.readPool(r)
	e.readPicks(r)
	m := min(win.len(), scoreRows)
	recent := unpack[float32](r, m*len(e.own))
	r.check(len(recent) == m*len(e.own), "recent predictions")
	if r.err != nil {
		return
	}
	for k := range m {
		copy(e.preds[int((win.total-uint64(m-k))%scoreRows)*len(e.own):], recent[k*len(e.own):][:len(e.own)])
	}
	e.weigh()
	e.readBatch(r, win)
}

func (e *ensemble) readBatch(r *reader, win *window) {
	if r.version >= 3 {
		e.every = r.u64()
	}
	r.check(e.every >= 1 && e.every <= uint64(e.cfg.maxRegrow()), "rows between trees")
	var b batch
	var slots []byte
	if r.version == 2 && r.binary() {
		b, slots = e.readJob(r)
	} else {
		b = batch{born: r.u64(), due: r.u64()}
		slots = r.bytes(len(e.own) + len(e.resid))
	}
	if r.err != nil || len(slots) == 0 {
		return
	}
	r.check(b.born > 0 && b.born <= win.total && b.born < b.due && win.total < b.due && b.due-b.born < uint64(len(win.rows)), "time of the jobs")
	for k, i := range slots {
		ok := int(i) < len(e.own) || int(i) < len(e.own)+len(e.resid) && e.residReady(b.born)
		r.check(ok && (k == 0 || slots[k-1] < i), "slot of a job")
		b.jobs = append(b.jobs, &Job{slot: int(i)})
	}
	// The first trees are grown all together, and then there is always something to grow.
	r.check(e.ownFrom > 0 || len(slots) == len(e.own), "first jobs")
	if r.err == nil {
		e.batch = b
	}
}

// readJob reads the one job, slot and birth, that version 2 ended in before jobs came in batches.
func (e *ensemble) readJob(r *reader) (b batch, slots []byte) {
	var job [2]uint64
	readArray(r, job[:])
	slot, born := job[0], job[1]
	if born == 0 || r.err != nil {
		return b, nil
	}
	r.check(slot < uint64(len(e.own)+len(e.resid)) && born <= 1<<62, "job")
	return batch{born: born, due: born + e.every}, []byte{byte(slot)}
}

func (e *ensemble) readPool(r *reader) {
	var trees []*Tree
	n := r.count(maxPool)
	for range n {
		b := r.bytes(MaxTreeBytes)
		if r.err != nil {
			return
		}
		t, err := decodeTree(b, len(e.grid.edges))
		if err != nil {
			r.fail("%v", err)
			return
		}
		trees = append(trees, t)
	}
	e.setPool(trees)
	r.check(len(e.pool) == n, "pool")
}

func (e *ensemble) readPicks(r *reader) {
	for range r.count(MaxTrees) {
		c := pick{i: r.count(maxPool), pool: r.count(1) == 1}
		if r.err != nil {
			return
		}
		r.check(c.pool && c.i < len(e.pool) || !c.pool && c.i < len(e.own) && e.own[c.i].alive(), "pick")
		e.picks = append(e.picks, c)
	}
}

func (t *local) write(w *writer) {
	nodes := make([]byte, 0, 4*len(t.shape))
	for _, s := range t.shape {
		nodes = append(nodes, s.feat, s.bin, byte(s.next), byte(s.next>>8))
	}
	w.u64(t.born)
	w.u64(uint64(bit(t.fresh)))
	w.bytes(nodes)
	w.pack(t.leaf)
}

func (t *local) read(r *reader, slot int, total uint64, features int) {
	t.born = r.u64()
	t.fresh = r.count(1) == 1
	nodes := r.bytes(4 * MaxTreeNodes)
	t.leaf = unpack[leafStat](r, MaxTreeNodes)
	r.check(t.born <= total && len(nodes)%4 == 0, "tree")
	if r.err != nil || len(nodes) == 0 && len(t.leaf) == 0 {
		return
	}
	t.shape = make([]split, len(nodes)/4)
	for i := range t.shape {
		n := nodes[4*i:]
		t.shape[i] = split{n[0], n[1], uint16(n[2]) | uint16(n[3])<<8}
	}
	for _, l := range t.leaf {
		r.check(l.N > 0 && l.M2 >= 0, "leaf")
	}
	r.check(wellFormed(t.shape, len(t.leaf), MaxTreeDepth, features), "shape of a tree")
	t.digest = localDigest(slot, t)
}

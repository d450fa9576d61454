package learner

// walk finds the leaf of a row.
func walk(shape []split, r *row) int {
	i := 0
	for {
		s := shape[i]
		if s.feat >= maxFeatures {
			return int(s.next)
		}
		if r[s.feat] <= s.bin {
			i++
		} else {
			i = int(s.next)
		}
	}
}

// walk4 is four walks at a time: which way a walk turns cannot be foreseen, so one alone waits for each of its loads, and
// mostly guesses the branch wrong. Four without branches take little longer than one. Those that have arrived stay.
func walk4(a, b, c, d []split, ra, rb, rc, rd *row) (ka, kb, kc, kd int) {
	for {
		sa, sb, sc, sd := a[ka], b[kb], c[kc], d[kd]
		if sa.feat&sb.feat&sc.feat&sd.feat == leafMark {
			return int(sa.next), int(sb.next), int(sc.next), int(sd.next)
		}
		ka, kb, kc, kd = sa.step(ka, ra), sb.step(kb, rb), sc.step(kc, rc), sd.step(kd, rd)
	}
}

// step is the node after i, i itself in a leaf, without a branch.
func (s split) step(i int, r *row) int {
	right := (int(s.bin) - int(r[s.feat&(maxFeatures-1)])) >> 63 // all ones or zero
	leaf := int(int8(s.feat)) >> 63                              // features are below 128, leafMark is not
	next := i + 1 + (int(s.next)-i-1)&right
	return i&leaf | next&^leaf
}

// walkBlock finds the leaves of the first n rows.
func walkBlock(shape []split, rows *[block]row, n int, to *[block]int) {
	i := 0
	for ; i+4 <= n; i += 4 {
		to[i], to[i+1], to[i+2], to[i+3] = walk4(shape, shape, shape, shape, &rows[i], &rows[i+1], &rows[i+2], &rows[i+3])
	}
	for ; i < n; i++ {
		to[i] = walk(shape, &rows[i])
	}
}

// walkTrees finds the leaf of one row in each tree that is alive.
func walkTrees(trees []local, r *row, to []int) {
	i := 0
	for ; i+4 <= len(trees) && trees[i].alive() && trees[i+1].alive() && trees[i+2].alive() && trees[i+3].alive(); i += 4 {
		to[i], to[i+1], to[i+2], to[i+3] = walk4(trees[i].shape, trees[i+1].shape, trees[i+2].shape, trees[i+3].shape, r, r, r, r)
	}
	for ; i < len(trees); i++ {
		if trees[i].alive() {
			to[i] = walk(trees[i].shape, r)
		}
	}
}

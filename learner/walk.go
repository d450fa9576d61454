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

// walkForest adds what the trees say of the first n rows, in the order of the trees: of four rows by one tree at a time, and of what rows
// are left by four trees at a time.
func walkForest(trees []flat, rows *[block]row, n int, to *sums) {
	fours := n &^ 3
	for t := range trees {
		f := &trees[t]
		for i := 0; i < fours; i += 4 {
			a, b, c, d := walk4(f.shape, f.shape, f.shape, f.shape, &rows[i], &rows[i+1], &rows[i+2], &rows[i+3])
			to[i].leaf(f, a)
			to[i+1].leaf(f, b)
			to[i+2].leaf(f, c)
			to[i+3].leaf(f, d)
		}
	}
	for i := fours; i < n; i++ {
		r, t := &rows[i], 0
		for ; t+4 <= len(trees); t += 4 {
			f := (*[4]flat)(trees[t:])
			a, b, c, d := walk4(f[0].shape, f[1].shape, f[2].shape, f[3].shape, r, r, r, r)
			to[i].leaf(&f[0], a)
			to[i].leaf(&f[1], b)
			to[i].leaf(&f[2], c)
			to[i].leaf(&f[3], d)
		}
		for ; t < len(trees); t++ {
			to[i].leaf(&trees[t], walk(trees[t].shape, r))
		}
	}
}

// leaf adds what f's k-th leaf says.
func (s *weighed) leaf(f *flat, k int) {
	l := f.leaf[k].weighed(f.weight)
	s.add(&l)
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

package learner

// window is the ring of the last rows. It keeps bins, never raw values: 44 bytes a row.
type window struct {
	rows    []row
	target  []float32 // ln ms
	resid   []float32 // target minus what stage one predicted before it saw the row
	tenants []uint32  // hash of the tenant, for the privacy rule only
	total   uint64    // rows ever
}

func newWindow(size int) window {
	return window{rows: make([]row, size), target: make([]float32, size), resid: make([]float32, size), tenants: make([]uint32, size)}
}

func (w *window) len() int { return int(min(w.total, uint64(len(w.rows)))) }

// back is the ring index of the k-th newest row, k from 0.
func (w *window) back(k int) int { return int((w.total - 1 - uint64(k)) % uint64(len(w.rows))) }

func (w *window) push(x row, y, resid float32, tenant uint32) {
	i := int(w.total % uint64(len(w.rows)))
	w.rows[i], w.target[i], w.resid[i], w.tenants[i] = x, y, resid, tenant
	w.total++
}

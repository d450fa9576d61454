package stage

import "sync"

// Tail keeps the last bytes written to it, as many as its limit. The end is kept rather than the beginning
// because that is where a failing function says why.
type Tail struct {
	mu    sync.Mutex
	limit int
	buf   []byte // grows to limit, then is a ring
	next  int    // where the ring's oldest byte is, once full
}

// NewTail makes a tail of at most limit bytes. Nothing is allocated before something is written.
func NewTail(limit int) *Tail { return &Tail{limit: limit} }

// Write never fails and never blocks on anything but the lock.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if len(p) > t.limit {
		p = p[len(p)-t.limit:]
	}
	if room := t.limit - len(t.buf); room > 0 {
		k := min(room, len(p))
		t.buf = append(t.buf, p[:k]...)
		p = p[k:]
	}
	for len(p) > 0 {
		k := copy(t.buf[t.next:], p)
		t.next = (t.next + k) % t.limit
		p = p[k:]
	}
	return n, nil
}

// Reset forgets everything written.
func (t *Tail) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf, t.next = t.buf[:0], 0
}

// Bytes is a copy of what is kept, oldest first; nil when nothing was written.
func (t *Tail) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.buf) == 0 {
		return nil
	}
	out := make([]byte, 0, len(t.buf))
	out = append(out, t.buf[t.next:]...)
	return append(out, t.buf[:t.next]...)
}

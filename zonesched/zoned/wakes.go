package zoned

import (
	"container/heap"
	"time"

	"github.com/rubato-faas/rubato/zonesched"
)

// wake is one time asked for by the core. A later one for the same id replaces it, and an answer removes it, so there
// are never more than accepted calls.
type wake struct {
	at  time.Time
	id  string
	gen uint32
	pos int
}

// wakes is a heap of wakes with an index by id.
type wakes struct {
	heap []*wake
	byID map[string]*wake
}

func (w *wakes) Len() int           { return len(w.heap) }
func (w *wakes) Less(i, j int) bool { return w.heap[i].at.Before(w.heap[j].at) }
func (w *wakes) Swap(i, j int) {
	w.heap[i], w.heap[j] = w.heap[j], w.heap[i]
	w.heap[i].pos, w.heap[j].pos = i, j
}

// Push and Pop serve container/heap.
func (w *wakes) Push(x any) { k := x.(*wake); k.pos = len(w.heap); w.heap = append(w.heap, k) }

// Pop serves container/heap.
func (w *wakes) Pop() any {
	k := w.heap[len(w.heap)-1]
	w.heap = w.heap[:len(w.heap)-1]
	return k
}

func (w *wakes) set(id string, gen uint32, at time.Time) {
	if w.byID == nil {
		w.byID = map[string]*wake{}
	}
	if k := w.byID[id]; k != nil {
		k.at, k.gen = at, gen
		heap.Fix(w, k.pos)
		return
	}
	k := &wake{at: at, id: id, gen: gen}
	w.byID[id] = k
	heap.Push(w, k)
}

func (w *wakes) remove(id string) {
	if k := w.byID[id]; k != nil {
		delete(w.byID, id)
		heap.Remove(w, k.pos)
	}
}

// wait is the time until the next wake.
func (w *wakes) wait(now time.Time) time.Duration {
	if len(w.heap) == 0 {
		return time.Hour
	}
	return max(w.heap[0].at.Sub(now), 0)
}

// fire gives the core every wake that is due.
func (d *Daemon) fire() {
	for now := time.Now(); len(d.wakes.heap) > 0 && !d.wakes.heap[0].at.After(now); {
		k := heap.Pop(&d.wakes).(*wake)
		delete(d.wakes.byID, k.id)
		d.step(&zonesched.Event{Kind: zonesched.EvWake, ID: k.id, Gen: k.gen})
	}
}

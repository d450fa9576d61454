package sim

// kind tags an event. The numbers are part of the trace hash.
type kind uint8

const (
	evTick      kind = iota // the zone's tick
	evDo                    // a function given by At. ref: payload
	evArrival               // the next call of a stream. ref: stream
	evTrace                 // the next recorded call of the zone
	evChange                // the world's laws change. ref: index into Config.Changes
	evWake                  // a wake that the zone's core asked for. ref: call, aux: its serial, gen
	evReport                // a node's heartbeat reaches the zone. ref: payload
	evComplete              // a completion reaches the zone. ref: payload
	evRun                   // a dispatch reaches its node. ref: payload
	evCancel                // a cancel reaches its node. ref: payload
	evAck                   // an acknowledgement reaches its node. ref: payload
	evHello                 // a leader's first word reaches a node. ref: payload
	evBeat                  // a node's tick
	evCPU                   // the first of a node's computations is over. gen
	evLink                  // the first of a node's transfers is over. gen
	evNode                  // something that a node's core is told later. ref: payload
	evDeadline              // a time that a node's core asked for. aux: serial of the run, gen
	evCrash                 // a node dies
	evRestart               // and comes back
	evForward               // a call comes from another zone. ref: payload
	evForwarded             // the answer to a call that went to another zone. ref: payload
	evGrant                 // another zone's promise. ref: payload
	evShares                // the coordinator's table. ref: payload
	evDigest                // a zone's digest reaches the coordinator. ref: payload
	evPlan                  // a time that the coordinator's core asked for. gen
	evOffer                 // a zone's trees reach the coordinator. ref: payload
	evPool                  // the pool reaches a zone. ref: payload
	evTurn                  // a stream is followed from here on. ref: stream
)

func (k kind) hasPayload() bool {
	switch k {
	case evDo, evReport, evComplete, evRun, evCancel, evAck, evHello, evNode, evForward, evForwarded, evGrant, evShares, evDigest, evOffer, evPool:
		return true
	}
	return false
}

// event is one entry of a heap: plain data of 40 bytes without pointers, so that the garbage collector never looks into a
// heap of a million. What does not fit is a payload, found by index.
type event struct {
	at   int64 // ns of virtual time
	seq  uint64
	aux  uint64
	node int32
	ref  int32
	gen  uint32
	kind kind
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// heap is a 4-ary heap: half the levels of a binary one, and the four children lie in two or three cache lines.
type heap []event

func (h *heap) push(e event) {
	*h = append(*h, e)
	h.up(len(*h) - 1)
}

func (h heap) up(i int) {
	e := h[i]
	for i > 0 {
		p := (i - 1) / 4
		if !e.before(&h[p]) {
			break
		}
		h[i] = h[p]
		i = p
	}
	h[i] = e
}

func (h *heap) pop() event {
	old := *h
	top, n := old[0], len(old)-1
	old[0] = old[n]
	*h = old[:n]
	if n > 1 {
		h.down(0)
	}
	return top
}

func (h heap) down(i int) {
	e := h[i]
	for {
		first := 4*i + 1
		if first >= len(h) {
			break
		}
		least := first
		for c := first + 1; c < min(first+4, len(h)); c++ {
			if h[c].before(&h[least]) {
				least = c
			}
		}
		if !h[least].before(&e) {
			break
		}
		h[i] = h[least]
		i = least
	}
	h[i] = e
}

// sweep takes out all events that are void.
func (h *heap) sweep(void func(*event) bool) {
	kept := (*h)[:0]
	for i := range *h {
		if !void(&(*h)[i]) {
			kept = append(kept, (*h)[i])
		}
	}
	*h = kept
	for i := (len(kept) - 2) / 4; i >= 0 && len(kept) > 1; i-- {
		kept.down(i)
	}
}

// arena keeps the payloads of events on their way.
type arena struct {
	items []any
	free  []int32
}

func (a *arena) put(x any) int32 {
	if n := len(a.free); n > 0 {
		i := a.free[n-1]
		a.free = a.free[:n-1]
		a.items[i] = x
		return i
	}
	a.items = append(a.items, x)
	return int32(len(a.items) - 1)
}

func (a *arena) take(i int32) any {
	x := a.items[i]
	a.items[i] = nil
	a.free = append(a.free, i)
	return x
}

package membus

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/messaging"
)

// deliver puts m into the queue of every plain receiver and of one member of each group. It returns the number of
// receivers, also when a fault takes the message on its way to them.
func (h *Hub) deliver(m *messaging.Msg) int {
	dropped := h.cfg.Drop != nil && h.cfg.Drop(m.Subject)
	var due time.Time
	if h.cfg.Delay != nil {
		if d := h.cfg.Delay(m.Subject); d > 0 {
			due = time.Now().Add(d)
		}
	}
	if dropped {
		h.lost.Add(1)
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	if answer, ok := h.waiting[m.Subject]; ok {
		if !dropped {
			select {
			case answer <- bytes.Clone(m.Data):
			default: // a second answer
			}
		}
		return 1
	}
	to := h.receivers(m.Subject)
	if dropped {
		return len(to)
	}
	for _, s := range to {
		c := *m
		c.Data = bytes.Clone(m.Data)
		s.push(queued{msg: &c, due: due})
	}
	return len(to)
}

// receivers picks who hears a subject. Groups are told apart by name alone, whatever pattern their members gave.
func (h *Hub) receivers(subject string) []*subscription {
	var to []*subscription
	var groups [][]*subscription
	add := func(s *subscription) {
		if s.group == "" {
			to = append(to, s)
			return
		}
		i := slices.IndexFunc(groups, func(g []*subscription) bool { return g[0].group == s.group })
		if i < 0 {
			groups = append(groups, []*subscription{s})
			return
		}
		groups[i] = append(groups[i], s)
	}
	for _, s := range h.exact[subject] {
		add(s)
	}
	if len(h.wild) > 0 {
		tokens := strings.Split(subject, ".")
		for _, s := range h.wild {
			if matches(s.tokens, tokens) {
				add(s)
			}
		}
	}
	for _, g := range groups {
		to = append(to, g[h.turn.Add(1)%uint64(len(g))])
	}
	return to
}

// matches reports whether the pattern (* is one token, a last > the rest, at least one) takes the subject.
func matches(pattern, subject []string) bool {
	for i, p := range pattern {
		if p == ">" {
			return len(subject) > i
		}
		if i >= len(subject) || p != "*" && p != subject[i] {
			return false
		}
	}
	return len(pattern) == len(subject)
}

// validPattern wants non-empty tokens without spaces, and > only at the end.
func validPattern(tokens []string) bool {
	for i, t := range tokens {
		if t == "" || strings.ContainsAny(t, " \t\r\n") || t == ">" && i != len(tokens)-1 {
			return false
		}
	}
	return true
}

func (h *Hub) add(s *subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.isWild() {
		h.wild = append(h.wild, s)
		return
	}
	h.exact[s.pattern] = append(h.exact[s.pattern], s)
}

func (h *Hub) remove(s *subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	is := func(o *subscription) bool { return o == s }
	if s.isWild() {
		h.wild = slices.DeleteFunc(h.wild, is)
		return
	}
	left := slices.DeleteFunc(h.exact[s.pattern], is)
	if len(left) == 0 {
		delete(h.exact, s.pattern)
		return
	}
	h.exact[s.pattern] = left
}

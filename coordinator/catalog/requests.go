package catalog

// request is a remembered answer.
type request struct {
	Key    string `msgpack:"k"`
	Sum    Hash   `msgpack:"s"`
	Result Result `msgpack:"r"`
}

// requestLog remembers the last MaxRequests answers, the oldest making room for the newest.
type requestLog struct {
	ring []request
	next int
	at   map[string]int
}

func newRequestLog() requestLog { return requestLog{at: map[string]int{}} }

// requestKey scopes the id by tenant: two tenants may choose the same.
func requestKey(cmd *Command) string {
	tenant := cmd.Tenant
	if cmd.Function != nil {
		tenant = cmd.Function.Tenant
	}
	return tenant + "/" + cmd.RequestID
}

func (l *requestLog) find(key string) (request, bool) {
	i, ok := l.at[key]
	if !ok {
		return request{}, false
	}
	return l.ring[i], true
}

func (l *requestLog) add(r request) {
	if len(l.ring) < MaxRequests {
		l.at[r.Key] = len(l.ring)
		l.ring = append(l.ring, r)
		return
	}
	delete(l.at, l.ring[l.next].Key)
	l.ring[l.next] = r
	l.at[r.Key] = l.next
	l.next = (l.next + 1) % MaxRequests
}

// list returns the answers, oldest first.
func (l *requestLog) list() []request {
	out := make([]request, 0, len(l.ring))
	out = append(out, l.ring[l.next:]...)
	return append(out, l.ring[:l.next]...)
}

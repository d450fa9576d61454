package nodeagent

import (
	"container/list"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// object is a cached input, or one on its way.
type object struct {
	key     string
	bytes   int64
	here    bool
	pins    int // calls that use it: it cannot be evicted
	waiting []*run
	place   *list.Element // in Node.used
}

type artState uint8

const (
	artNone artState = iota
	artFetching
	artHere
	artPreparing
	artReady
)

// artifact is what the node holds of one artifact; versions and functions may share it.
type artifact struct {
	digest  string
	bytes   int64
	state   artState
	use     uint64
	fnKeys  []string
	waiting []*run
}

// sandboxState is one environment: being brought up, busy, or warm and idle.
type sandboxState struct {
	id     uint64
	fnKey  string
	digest string
	memMB  int
	up     bool
	run    *run // nil: idle
	idleAt time.Time
	keep   time.Duration // how long it may be idle, as its last run said
}

func (n *Node) tick() uint64 { n.useClock++; return n.useClock }

// claim finds or makes a sandbox for r, evicting idle ones when memory is short. It takes nothing when it fails.
func (n *Node) claim(now time.Time, r *run, out []Action) ([]Action, bool) {
	var warm *sandboxState
	for _, s := range n.sbs {
		// The most recently used one: the others can cool down and be evicted.
		// A prewarming wants another one.
		if !r.m.Prewarm && s.fnKey == r.fnKey && s.run == nil && s.up && (warm == nil || s.idleAt.After(warm.idleAt)) {
			warm = s
		}
	}
	if warm != nil {
		r.start = api.SandboxWarm
		r.sb, warm.run, warm.keep = warm, r, n.keep(r.m)
		n.artifactFor(&r.m.Fn, r.fnKey).use = n.tick()
		return out, true
	}
	need := r.m.Fn.MemoryMB
	if n.cfg.MemoryMB-n.memUsed+n.idleMB() < need {
		return out, false
	}
	for named := r.m.Evict[:min(len(r.m.Evict), wire.MaxEvict)]; n.cfg.MemoryMB-n.memUsed < need; {
		var s *sandboxState
		for ; s == nil && len(named) > 0; named = named[1:] {
			s = n.coldestIdle(named[0])
		}
		if s == nil {
			s = n.coldestIdle("")
		}
		out = n.dropSandbox(s, out)
	}
	a := n.artifactFor(&r.m.Fn, r.fnKey)
	switch a.state {
	case artReady:
		r.start = api.SandboxPrepared
	case artHere, artPreparing:
		r.start = api.SandboxFetched
	default:
		r.start = api.SandboxNone
	}
	a.use = n.tick()
	n.sbSeq++
	sb := &sandboxState{id: n.sbSeq, fnKey: r.fnKey, digest: r.m.Fn.Artifact, memMB: need, run: r, keep: n.keep(r.m)}
	n.sbs = append(n.sbs, sb)
	n.memUsed += need
	r.sb = sb
	n.touched[r.fnKey] = true
	return n.trimArtifacts(out), true
}

func (n *Node) idleMB() int {
	mb := 0
	for _, s := range n.sbs {
		if s.run == nil && s.up {
			mb += s.memMB
		}
	}
	return mb
}

// coldestIdle is the sandbox of the function that was used longest ago, of any function for the empty key; nil when none is idle.
func (n *Node) coldestIdle(fnKey string) *sandboxState {
	var c *sandboxState
	for _, s := range n.sbs {
		if s.run == nil && s.up && (fnKey == "" || s.fnKey == fnKey) && (c == nil || s.idleAt.Before(c.idleAt)) {
			c = s
		}
	}
	return c
}

func (n *Node) sandboxByID(id uint64) *sandboxState {
	for _, s := range n.sbs {
		if s.id == id {
			return s
		}
	}
	return nil
}

func (n *Node) dropSandbox(sb *sandboxState, out []Action) []Action {
	for i, s := range n.sbs {
		if s == sb {
			n.sbs = append(n.sbs[:i], n.sbs[i+1:]...)
			break
		}
	}
	n.memUsed -= sb.memMB
	n.touched[sb.fnKey] = true
	if sb.run != nil {
		sb.run.sb, sb.run = nil, nil
	}
	return append(out, Action{Kind: ActClose, Sandbox: sb.id})
}

// idle keeps a sandbox warm, unless its artifact was dropped meanwhile.
func (n *Node) idle(now time.Time, sb *sandboxState, out []Action) []Action {
	if n.arts[sb.digest] == nil {
		return n.dropSandbox(sb, out)
	}
	sb.idleAt = now
	n.touched[sb.fnKey] = true
	return out
}

// keep is how long the run's sandbox may be idle after it.
func (n *Node) keep(m *wire.Run) time.Duration {
	if m.KeepMs <= 0 || m.KeepMs > n.cfg.KeepAlive.Milliseconds() {
		return n.cfg.KeepAlive
	}
	return time.Duration(m.KeepMs) * time.Millisecond
}

// expire drops sandboxes that have been idle for longer than they are worth. What they were prepared from stays.
func (n *Node) expire(now time.Time, out []Action) []Action {
	for i := 0; i < len(n.sbs); {
		if s := n.sbs[i]; s.run == nil && s.up && now.Sub(s.idleAt) >= s.keep {
			out = n.dropSandbox(s, out)
			continue
		}
		i++
	}
	return out
}

func (n *Node) artifactFor(fn *api.Function, fnKey string) *artifact {
	a := n.arts[fn.Artifact]
	if a == nil {
		a = &artifact{digest: fn.Artifact, bytes: fn.ArtifactBytes}
		n.arts[fn.Artifact] = a
	}
	for _, k := range a.fnKeys {
		if k == fnKey {
			return a
		}
	}
	if len(a.fnKeys) >= maxSharers {
		n.touched[a.fnKeys[0]] = true
		n.unlist(a, a.fnKeys[0])
		a.fnKeys = slices.Delete(a.fnKeys, 0, 1)
	}
	a.fnKeys = append(a.fnKeys, fnKey)
	n.artsOf[fnKey] = append(n.artsOf[fnKey], a)
	return a
}

// maxSharers bounds the functions and versions that a node reports an artifact for; of more the ones that came last stay.
const maxSharers = 256

// unlist takes a from those of the function.
func (n *Node) unlist(a *artifact, fnKey string) {
	if n.artsOf[fnKey] = slices.DeleteFunc(n.artsOf[fnKey], func(x *artifact) bool { return x == a }); len(n.artsOf[fnKey]) == 0 {
		delete(n.artsOf, fnKey)
	}
}

func (n *Node) touch(a *artifact) {
	for _, k := range a.fnKeys {
		n.touched[k] = true
	}
}

// trimArtifacts drops the least recently used artifacts above the limit; those in use stay.
func (n *Node) trimArtifacts(out []Action) []Action {
	for len(n.arts) > n.cfg.Artifacts {
		var old *artifact
		for _, d := range sortedKeys(n.arts) {
			a := n.arts[d]
			if a.state == artFetching || a.state == artPreparing || n.artifactBusy(d) {
				continue
			}
			if old == nil || a.use < old.use {
				old = a
			}
		}
		if old == nil {
			return out
		}
		out = n.dropArtifact(old, out)
	}
	return out
}

func (n *Node) artifactBusy(digest string) bool {
	for _, s := range n.sbs {
		if s.digest == digest && (s.run != nil || !s.up) {
			return true
		}
	}
	return false
}

func (n *Node) dropArtifact(a *artifact, out []Action) []Action {
	for i := 0; i < len(n.sbs); {
		if s := n.sbs[i]; s.digest == a.digest && s.run == nil {
			out = n.dropSandbox(s, out)
			continue
		}
		i++
	}
	delete(n.arts, a.digest)
	for _, k := range a.fnKeys {
		n.unlist(a, k)
	}
	n.touch(a)
	return append(out, Action{Kind: ActDropArtifact, Digest: a.digest})
}

// maxObjects bounds the objects that are kept, however small they are: each is a file in one folder.
const maxObjects = 1 << 17

// trim evicts least recently used objects above the limits. What running calls use stays: the cache may be over its
// limit for as long as they run.
func (n *Node) trim(out []Action) []Action {
	for e := n.used.Front(); e != nil && (n.bytes > n.cfg.CacheBytes || len(n.objs) > maxObjects); {
		o := e.Value.(*object)
		e = e.Next()
		if o.here && o.pins == 0 {
			out = n.dropObject(o, out)
		}
	}
	return out
}

// newObject notes an object that will be fetched, and forget that it is no more.
func (n *Node) newObject(in *api.Object) *object {
	o := &object{key: in.Key, bytes: in.Bytes}
	n.objs[o.key], o.place = o, n.used.PushBack(o)
	n.bytes += o.bytes
	return o
}

func (n *Node) forget(o *object) {
	delete(n.objs, o.key)
	n.used.Remove(o.place)
	n.bytes -= o.bytes
	n.gone(o.key)
}

func (n *Node) dropObject(o *object, out []Action) []Action {
	n.forget(o)
	return append(out, Action{Kind: ActDropObject, Key: o.key})
}

// gone and came keep the deltas to each key's last state: the zone takes over what came before what went.
func (n *Node) gone(key string) {
	n.newObjects = slices.DeleteFunc(n.newObjects, func(o api.Object) bool { return o.Key == key })
	n.evicted = append(n.evicted, key)
}

func (n *Node) came(o *object) {
	n.evicted = slices.DeleteFunc(n.evicted, func(k string) bool { return k == o.key })
	if o.bytes >= api.LocalityBytes {
		n.newObjects = append(n.newObjects, api.Object{Key: o.key, Bytes: o.bytes})
	}
}

// flush empties everything that no running call uses.
func (n *Node) flush(out []Action) []Action {
	for _, k := range sortedKeys(n.objs) {
		if o := n.objs[k]; o.here && o.pins == 0 {
			out = n.dropObject(o, out)
		}
	}
	for i := 0; i < len(n.sbs); {
		if s := n.sbs[i]; s.run == nil && s.up {
			out = n.dropSandbox(s, out)
			continue
		}
		i++
	}
	for _, d := range sortedKeys(n.arts) {
		a := n.arts[d]
		if a.state != artFetching && a.state != artPreparing && !n.artifactBusy(d) {
			out = n.dropArtifact(a, out)
		}
	}
	n.flushed++
	return append(out, Action{Kind: ActReport})
}

func (n *Node) functionKeys() []string {
	set := map[string]bool{}
	for k := range n.artsOf {
		set[k] = true
	}
	for _, s := range n.sbs {
		set[s.fnKey] = true
	}
	return sortedKeys(set)
}

func (n *Node) sandboxReport(now time.Time, fnKey string) wire.SandboxReport {
	r := wire.SandboxReport{Function: fnKey}
	for _, s := range n.sbs {
		if s.fnKey != fnKey {
			continue
		}
		r.MemoryMB = s.memMB
		if s.run == nil && s.up {
			r.Idle++
			r.IdleMs = max(r.IdleMs, now.Sub(s.idleAt).Milliseconds())
		} else {
			r.Busy++
		}
	}
	for _, a := range n.artsOf[fnKey] {
		switch a.state {
		case artReady:
			r.State = max(r.State, api.SandboxPrepared)
		case artHere, artPreparing:
			r.State = max(r.State, api.SandboxFetched)
		}
	}
	return r
}

func (n *Node) objectReport() []api.Object {
	var out []api.Object
	for _, o := range n.objs {
		if o.here && o.bytes >= api.LocalityBytes {
			out = append(out, api.Object{Key: o.key, Bytes: o.bytes})
		}
	}
	slices.SortFunc(out, func(a, b api.Object) int { return strings.Compare(a.Key, b.Key) })
	return out[:min(len(out), wire.MaxObjects)]
}

// withDeltas adds what changed since the last completion, so that the zone need not wait for a report. Deltas of one
// function are final states, so a lost one is mended by the next report, as are those beyond what a message holds.
func (n *Node) withDeltas(now time.Time, c *wire.Completion) *wire.Completion {
	cp := *c
	for _, k := range sortedKeys(n.touched) {
		cp.Sandboxes = append(cp.Sandboxes, n.sandboxReport(now, k))
	}
	cp.MemUsedMB, cp.SeenSeq = n.memUsed, n.seen(c.Epoch)
	cp.Objects, cp.Evicted = n.newObjects[:min(len(n.newObjects), wire.MaxObjects)], n.evicted[:min(len(n.evicted), wire.MaxObjects)]
	n.newObjects, n.evicted = nil, nil
	clear(n.touched)
	return &cp
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

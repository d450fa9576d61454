// Package learner predicts how long a function will run on a node, learns from every completion, and exchanges
// trees between zones. It is a plain state machine: no goroutine, no lock, no clock, no I/O. It is not a decision
// maker (zonesched asks it through a Forest) and not a transport (shells carry its bytes). Times are ln(milliseconds)
// inside and milliseconds at its face. A Learner belongs to one goroutine; Forest, Tree and Manifest are immutable
// and safe for concurrent use. DESIGN.md beside this file says how and why.
package learner

import (
	"crypto/sha256"
	"fmt"
	"math"
	"strings"

	"github.com/rubato-faas/rubato/api"
)

// Learner is the whole state of one zone's model: a pure function of its config and the records it was given, in
// order, so leader and standbys that read one stream hold equal models.
type Learner struct {
	cfg    Config
	seq    uint64 // records taken
	usable uint64

	fns     table[fnStat]
	nodes   table[nodeStat]
	pairs   table[nodeStat]
	rts     [runtimeClasses]rtStat
	fetch   cell // ln(measured/ideal) of fetches
	hots    table[hot]
	tenants [tenantSketch]uint32 // hashes of the first tenants seen; 0: free

	zoneBound [kinds]*aci
	// youngBound is the bound of functions below MinForest samples, apart: their estimates are of another kind, and with a
	// state of their own the promise holds among them too.
	youngBound    [kinds]*aci
	calls, misses [kinds]uint64

	win    window
	ens    ensemble
	former *Grid // the one before ens.grid, nil for none

	forestErr, averagesErr ew // absolute errors on the same samples, mature functions only
	guarded                bool

	last *Forest // the newest snapshot, while nothing has changed since
}

// tenantSketch is how many tenants are told apart by the privacy rule; it never asks for more than three.
const tenantSketch = 3

// guard limits: averages take over when the forest's error is above guardOn times theirs, after guardSamples.
const (
	guardOn, guardOff = 1.1, 1.05
	guardSamples      = 100
	guardMemory       = 300
)

// ew is an exponentially weighted mean that starts as a plain one. Fields are exported for encoding/binary only.
type ew struct {
	N    uint64
	Mean float64
}

func (e *ew) add(x float64, memory uint64) {
	e.N++
	e.Mean += (x - e.Mean) / float64(min(e.N, memory))
}

// New makes a learner that knows nothing.
func New(cfg Config) (*Learner, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("learner config: %w", err)
	}
	l := &Learner{
		cfg: cfg, win: newWindow(cfg.Window),
		fns: newTable[fnStat](maxFunctions), nodes: newTable[nodeStat](maxNodes), pairs: newTable[nodeStat](maxPairs),
		hots: newTable[hot](maxHot),
	}
	for k := range l.zoneBound {
		l.zoneBound[k], l.youngBound[k] = newACI(zoneScores), newACI(zoneScores)
	}
	l.zoneBound[1].prior, l.youngBound[1].prior = l.zoneBound[0], l.youngBound[0]
	l.ens.init(cfg, zoneGrid)
	return l, nil
}

// Seq is how many records (Learn and Adopt) were taken.
func (l *Learner) Seq() uint64 { return l.seq }

// Learn takes one completion. Samples that cannot be learned are counted and otherwise ignored. A crash counts
// against the bound but teaches no time: it ended early.
func (l *Learner) Learn(s *api.Sample) {
	l.seq++
	l.last = nil
	if !s.Usable() {
		return
	}
	l.usable++
	e := &s.Echo
	y := min(max(math.Log(s.ExecMs()), -10), 20)
	fn := hash(l.cfg.Seed, e.Function)
	st, evicted := l.fns.edit(fn, l.seq)
	if evicted != 0 {
		st.Scores = [kinds]uint32{}
	}
	l.calibrate(s, fn, st, y)
	if s.Outcome == api.OutcomeCrash {
		return
	}
	if x, ok := l.rowOf(e); ok {
		l.train(e, x, y-e.AveragesMu, int(st.Count) >= l.cfg.MinForest)
	}
	if st.SizeN > 0 && math.Abs(e.AveragesMu) <= maxMean {
		st.Dev.add(math.Abs(y - e.AveragesMu))
	}
	l.learnAverages(s, fn, st, y)
}

// rowOf checks the row that the decision was made with.
func (l *Learner) rowOf(e *api.Echo) (x row, ok bool) {
	if e.SchemaEpoch != SchemaEpoch || !(math.Abs(e.AveragesMu) <= maxMean) {
		return x, false
	}
	copy(x[:], e.Bins)
	for _, b := range x {
		if b >= api.MaxBins {
			return x, false
		}
	}
	return x, l.onGrid(&x, e.Grid) == nil
}

// train lets the forest predict the row, judges it beside the averages, and then learns the row: y is
// ln(measured/averages), with the averages as they were when deciding.
func (l *Learner) train(e *api.Echo, x row, y float64, mature bool) {
	p := l.ens.predict(&x)
	if p.known && mature {
		l.forestErr.add(math.Abs(y-p.mu), guardMemory)
		l.averagesErr.add(math.Abs(y), guardMemory)
		if l.forestErr.N >= guardSamples && !l.cfg.Without.has(PartGuard) {
			limit := guardOn
			if l.guarded {
				limit = guardOff
			}
			l.guarded = l.forestErr.Mean > limit*l.averagesErr.Mean
		}
	}
	l.ens.learn(&l.win, x, y, p, l.tenantOf(e.Function))
}

func (l *Learner) learnAverages(s *api.Sample, fn uint64, st *fnStat, y float64) {
	e := &s.Echo
	p := partsOf(s)
	st.learn(&p)
	l.rts[runtimeClass(e.Runtime)].learn(&p)
	if e.MissingBytes > 0 && s.FetchMs > 0 {
		l.fetch.add(min(max(math.Log(s.FetchMs/idealFetchMs(e.MissingBytes, e.LinkMbps)), -1), 3))
	}
	if e.Source == api.SourceNone || e.Node == "" || !(math.Abs(e.Mu) <= maxMean) {
		return
	}
	node := hash(l.cfg.Seed, e.Node)
	n, _ := l.nodes.edit(node, l.seq)
	n.add(y - e.Mu)
	n, _ = l.pairs.edit(pairKey(fn, node), l.seq)
	n.add(y - e.Mu)
}

// tenantOf is the hash of the tenant in "tenant/name", noted among the tenants seen. Two tenants with one hash count
// as one, which makes the privacy rule stricter, never laxer.
func (l *Learner) tenantOf(function string) uint32 {
	name, _, _ := strings.Cut(function, "/")
	h := max(uint32(hash(l.cfg.Seed, name)), 1)
	for i := range l.tenants {
		if l.tenants[i] == h {
			break
		}
		if l.tenants[i] == 0 {
			l.tenants[i] = h
			break
		}
	}
	return h
}

func (l *Learner) tenantsSeen() int {
	n := 0
	for _, t := range l.tenants {
		if t != 0 {
			n++
		}
	}
	return n
}

// Adopt takes the pool's trees, in the manifest's order, as of its version, picks anew and swaps. Trees beyond the
// limits, twice the same, or nil are left out. When more than half of the picks changed, bounds start new scores.
func (l *Learner) Adopt(version uint64, trees []*Tree) {
	l.seq++
	l.last = nil
	if l.ens.adopt(&l.win, version, trees) {
		l.resetScores()
	}
}

// SetRegrow is a record of its own: from here on a tree is grown anew every so many rows, within what Config allows. Whoever
// watches what growing costs may slow it down; since it is a record, replicas go on being equal.
func (l *Learner) SetRegrow(rows int) {
	l.seq++
	l.last = nil
	l.ens.every = uint64(min(max(rows, 1), l.cfg.maxRegrow()))
}

// Regrow is after how many rows one tree is grown anew.
func (l *Learner) Regrow() int { return int(l.ens.every) }

// Digest is the SHA-256 of the whole state: equal for equal configs and streams.
func (l *Learner) Digest() [32]byte {
	w := newWriter(checkpointVersion)
	l.write(w)
	return sha256.Sum256(w.buf.Bytes())
}

// Stats are counters and errors for metrics and dashboards.
type Stats struct {
	Seq, Usable, Rows uint64
	// Version is that of the adopted pool manifest, 0 for none.
	Version uint64
	// Grid is the epoch of the grid in use, Regrow after how many rows one tree is grown anew, Drifts how many drifts were
	// noticed.
	Grid   uint32
	Regrow int
	Drifts uint64
	// Own, Foreign and Residual count the trees that predict.
	Own, Foreign, Residual int
	// MAEForest and MAEAverages are mean absolute errors in ln ms, each made before the sample was learned, on the
	// same samples, exponentially weighted. ErrorOverAverages is their ratio (0: not known yet).
	MAEForest, MAEAverages, ErrorOverAverages float64
	// Guarded says that estimates come from averages because the forest is worse.
	Guarded bool
	// Calls count executed calls that had a finite bound; Misses those that ran past it.
	DelayedCalls, DelayedMisses, ImmediateCalls, ImmediateMisses uint64
}

// Stats reads the counters.
func (l *Learner) Stats() Stats {
	s := Stats{
		Seq: l.seq, Usable: l.usable, Rows: l.win.total, Version: l.ens.version, Grid: l.ens.grid.epoch, Regrow: l.Regrow(), Drifts: l.ens.drift.Alarms,
		MAEForest: l.forestErr.Mean, MAEAverages: l.averagesErr.Mean, Guarded: l.guarded,
		ImmediateCalls: l.calls[0], ImmediateMisses: l.misses[0], DelayedCalls: l.calls[1], DelayedMisses: l.misses[1],
	}
	if l.averagesErr.Mean > 0 {
		s.ErrorOverAverages = l.forestErr.Mean / l.averagesErr.Mean
	}
	for _, p := range l.ens.picks {
		if p.pool {
			s.Foreign++
		} else {
			s.Own++
		}
	}
	for i := range l.ens.resid {
		if l.ens.resid[i].alive() {
			s.Residual++
		}
	}
	return s
}

package learner

import (
	"math"
	"slices"
)

// horizons are the shares of the window that own trees look back, in parts of W; slots get them 3:2:2:1. The pool's
// trees form one more group.
var horizons = [...]int{1, 3, 8, 32}

var horizonOf = [...]uint8{0, 1, 2, 0, 3, 1, 2, 0}

const (
	groups     = len(horizons) + 2
	poolGroup  = len(horizons)
	freshGroup = poolGroup + 1
	// errMemory is over how many samples the errors of groups and gates are weighed.
	errMemory = 50
	// horizonTemper: a group's weight is exp(-8 (E/Ebest - 1)).
	horizonTemper = 8
	// maxPool and maxPoolNodes bound the adopted pool, and with it the checkpoint.
	maxPool      = 128
	maxPoolNodes = 65536
)

// lambdas are the gate's positions: how much of the second stage is added.
var lambdas = [...]float64{0, .25, .5, .75, 1, 1.25}

// warmUp lists the rows at which all own trees are grown anew: with little data a tree is old within a few rows.
var warmUp = []uint64{16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1280, 1536}

// local is an own tree: its shape is fixed while it lives, its leaves follow the samples.
type local struct {
	shape  []split // nil: not grown yet
	leaf   []leafStat
	born   uint64 // rows learned when grown
	fresh  bool   // grown from rows after a drift only
	digest string
}

func (t *local) alive() bool { return t.shape != nil }

// pick names one base tree that predicts.
type pick struct {
	pool bool
	i    int // slot of own, or index into pool
}

// ensemble is the two-stage forest.
type ensemble struct {
	cfg     Config
	version uint64
	own     []local
	resid   []local
	grid    *Grid
	pool    []pooled
	picks   []pick
	weights []float64 // of picks; they sum to 1

	ownFrom   uint64    // rows when the first own trees were grown; 0: none yet
	residFrom uint64    // rows when the first residual was recorded; 0: none yet
	preds     []float32 // own slots' predictions of the last scoreRows rows, each made before the row was learned
	groupErr  [groups]ew
	gateErr   [len(lambdas)]ew
	lambda    float64
	absErr    ew // |residual| of the whole forest
	drift     drift

	every  uint64 // rows from the beginning of a tree to its installation
	batch  batch
	spare  []*Job // installed ones, for their memory
	leafAt []int  // scratch of predict: leaf of each own, then of each residual tree
	ownMu  []float32
}

func (e *ensemble) init(cfg Config, g *Grid) {
	e.cfg, e.grid, e.every = cfg, g, uint64(cfg.Regrow)
	if cfg.Without.has(PartResidual) {
		e.cfg.ResidualTrees = 0
	}
	e.own, e.resid = make([]local, cfg.Trees), make([]local, e.cfg.ResidualTrees)
	e.preds = make([]float32, scoreRows*cfg.Trees)
	e.leafAt = make([]int, cfg.Trees+e.cfg.ResidualTrees)
	e.ownMu = make([]float32, cfg.Trees)
}

// prediction is what the forest says of a row before it learns it.
type prediction struct {
	known     bool // there are base trees
	mu        float64
	stage1    float64
	resid     float64
	hasResid  bool
	groupMean [groups]float64
	groupN    [groups]int
	variance  float64 // within leaves and between trees of stage one
}

func (e *ensemble) predict(x *row) prediction {
	var p prediction
	walkTrees(e.own, x, e.leafAt)
	for i := range e.own {
		if t := &e.own[i]; t.alive() {
			e.ownMu[i] = t.leaf[e.leafAt[i]].Mean
		}
	}
	var square float64
	for k, c := range e.picks {
		var v, within float64
		g := e.group(c)
		if c.pool {
			t := &e.pool[c.i]
			l := &t.leaf[walk(t.at, x)]
			v, within = float64(l.Mean), float64(l.Variance)
		} else {
			v, within = float64(e.ownMu[c.i]), float64(e.own[c.i].leaf[e.leafAt[c.i]].variance())
		}
		w := e.weights[k]
		p.stage1 += w * v
		square += w * v * v
		p.variance += w * within
		p.groupMean[g] += v
		p.groupN[g]++
	}
	for g := range p.groupMean {
		p.groupMean[g] /= float64(max(p.groupN[g], 1))
	}
	p.variance += max(square-p.stage1*p.stage1, 0)
	n := 0
	walkTrees(e.resid, x, e.leafAt[len(e.own):])
	for i := range e.resid {
		if t := &e.resid[i]; t.alive() {
			p.resid += float64(t.leaf[e.leafAt[len(e.own)+i]].Mean)
			n++
		}
	}
	p.resid /= float64(max(n, 1))
	p.known, p.hasResid = len(e.picks) > 0, n > 0
	p.mu = p.stage1 + e.lambda*p.resid
	return p
}

// group is the horizon group of a pick.
func (e *ensemble) group(c pick) int {
	if c.pool {
		return poolGroup
	}
	if e.own[c.i].fresh {
		return freshGroup
	}
	return int(horizonOf[c.i%len(horizonOf)])
}

// learn takes a row with the prediction made for it.
func (e *ensemble) learn(w *window, x row, y float64, p prediction, tenant uint32) {
	if p.known {
		e.judge(y, p)
		if e.residFrom == 0 {
			e.residFrom = w.total + 1
		}
	}
	r := float32(0)
	if p.known {
		r = float32(y - p.stage1)
	}
	copy(e.preds[int(w.total%scoreRows)*len(e.own):][:len(e.own)], e.ownMu)
	w.push(x, float32(y), r, tenant)
	e.follow(w.total, float32(y), r)
	e.watch(w)
	e.regrow(w)
	switch w.total {
	case pickRows, 2 * pickRows, 4 * pickRows:
		e.repick(w)
	default:
		if len(e.pool) > 0 && w.total%256 == 0 {
			e.repick(w)
		}
	}
	e.weigh()
}

// judge updates the errors of groups, gate and forest.
func (e *ensemble) judge(y float64, p prediction) {
	for g := range e.groupErr {
		if p.groupN[g] > 0 {
			e.groupErr[g].add(math.Abs(y-p.groupMean[g]), errMemory)
		}
	}
	e.absErr.add(math.Abs(y-p.mu), errMemory)
	e.drift.add(math.Abs(y - p.mu))
	if !p.hasResid {
		return
	}
	best := 0
	for i, lam := range lambdas {
		e.gateErr[i].add(math.Abs(y-p.stage1-lam*p.resid), errMemory)
		if e.gateErr[i].Mean < e.gateErr[best].Mean {
			best = i
		}
	}
	e.lambda = lambdas[best]
}

// follow moves the leaves that the row fell into.
func (e *ensemble) follow(total uint64, y, resid float32) {
	if e.cfg.Without.has(PartOnlineLeaves) {
		return
	}
	base := mix(e.cfg.Seed ^ total)
	for i, at := range e.leafAt {
		t, v := (*local)(nil), y
		if i < len(e.own) {
			t = &e.own[i]
		} else {
			t, v = &e.resid[i-len(e.own)], resid
		}
		if !t.alive() {
			continue
		}
		if k := poisson1(uint32(mix(base + uint64(i)))); k > 0 {
			t.leaf[at].add(v, k)
		}
	}
}

// weigh sets the weights of the picks from their groups' errors.
func (e *ensemble) weigh() {
	e.weights = slices.Grow(e.weights[:0], len(e.picks))[:len(e.picks)]
	best := math.Inf(1)
	var used [groups]bool
	for _, c := range e.picks {
		g := e.group(c)
		used[g] = true
		if e.groupErr[g].N > 0 {
			best = min(best, e.groupErr[g].Mean)
		}
	}
	var of [groups]float64
	for g := range of {
		of[g] = 1
		if used[g] && e.groupErr[g].N > 0 && best > 0 && !e.cfg.Without.has(PartHorizons) {
			of[g] = math.Exp(-horizonTemper * (e.groupErr[g].Mean/best - 1))
		}
	}
	var sum float64
	for k, c := range e.picks {
		e.weights[k] = of[e.group(c)]
		sum += e.weights[k]
	}
	for k := range e.weights {
		e.weights[k] /= sum
	}
}

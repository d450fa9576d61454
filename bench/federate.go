package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/learner"
)

// FederateOptions say which zones take part.
type FederateOptions struct {
	// Data is a folder with one CSV a zone; without it zones are generated.
	Data     string
	Seed     uint64
	Progress func(done, total int, doing string)
}

// DefaultFederateOptions generates 16 zones.
func DefaultFederateOptions() FederateOptions {
	return FederateOptions{Seed: 1, Progress: func(int, int, string) {}}
}

const (
	chooseRows, judgeRows = 500, 2000
	fedRounds             = 12
	newZoneRows           = 100
)

// member is one zone: rows to learn, rows to choose trees by, rows to be judged on.
type member struct {
	*stream
	train int
}

func (m *member) judge(predict func(x []float64) float64) float64 {
	sum := 0.
	for i := m.train + chooseRows; i < m.rows(); i++ {
		d := predict(m.row(i)) - m.y[i]
		sum += d * d
	}
	return math.Sqrt(sum / judgeRows)
}

// federation is the setting of one run.
type federation struct {
	seed    uint64
	members []*member // with rows to learn
	young   []*member // that join later, with nothing
	grid    *learner.Grid
}

// Federate compares what zones gain by exchanging trees: each for itself, all trees of all zones together, one model of
// all raw data, that with residual trees of the zone's own, and Rubato's pool, from which each zone picks. The last 2,500
// rows of a zone choose (500) and judge (2,000, with frozen models). Figures are means of the zones' RMSE.
func Federate(ctx context.Context, o FederateOptions) (*Report, error) {
	f, err := newFederation(o)
	if err != nil {
		return nil, err
	}
	r := &Report{Bench: "federate", Env: environment()}
	steps, at := 6, 0
	step := func(what string) error {
		o.Progress(at, steps, what)
		at++
		return context.Cause(ctx)
	}
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	note(step("each for itself"))
	local, locals, err := f.alone()
	if err != nil {
		return nil, err
	}
	note(step("one model of all data"))
	central, base, err := f.central()
	if err != nil {
		return nil, err
	}
	note(step("with residual trees"))
	residual, _, err := f.pooled(func(zone int, m *learner.Regressor, _ int) { m.Adopt(1, base) }, nil)
	if err != nil {
		return nil, err
	}
	note(step("pool"))
	p := newPool(f, nil)
	pool, _, err := f.pooled(p.adopt, p.round)
	if err != nil {
		return nil, err
	}
	note(step("poisoned pool"))
	bad := newPool(f, func(zone int) bool { return zone%3 == 2 })
	poisoned, _, err := f.pooledPoisoned(bad)
	if err != nil {
		return nil, err
	}
	note(step("cost of merging"))
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	r.add("local.rmse", mean(local), "target")
	r.add("union.rmse", f.union(locals), "target")
	r.add("central.rmse", mean(central[:len(f.members)]), "target")
	r.add("central_residual.rmse", mean(residual), "target")
	r.add("pool.rmse", mean(pool), "target")
	worst := math.Inf(-1)
	for i := range pool {
		worst = max(worst, pool[i]/local[i]-1)
	}
	r.add("pool_over_local.worst_zone", worst, "share")
	var honest, same []float64
	for i := range pool {
		if !bad.evil(i) {
			honest, same = append(honest, poisoned[i]), append(same, pool[i])
		}
	}
	r.add("poisoned.rmse", mean(honest), "target")
	r.add("poisoned.cost", mean(honest)/mean(same)-1, "share")
	young, err := f.join(p)
	if err != nil {
		return nil, err
	}
	r.add("new_zone.rmse", mean(young), "target")
	r.add("new_zone.central_rmse", mean(central[len(f.members):]), "target")
	return r, f.costs(r, p)
}

func newFederation(o FederateOptions) (*federation, error) {
	var streams []*stream
	var err error
	if o.Data != "" {
		streams, err = loadStreams(o.Data, "", o.Seed)
	} else {
		streams = zoneStreams(o.Seed)
	}
	if err != nil {
		return nil, err
	}
	f := &federation{seed: o.Seed}
	var all []float64
	for _, s := range streams {
		m := &member{s, s.rows() - chooseRows - judgeRows}
		switch {
		case m.train < 0 || s.width != streams[0].width:
			return nil, fmt.Errorf("%w: zone %s: %d rows of %d columns: want at least %d, and %d", api.ErrInvalid, s.name, s.rows(), s.width, chooseRows+judgeRows, streams[0].width)
		case m.train < newZoneRows:
			f.young = append(f.young, m)
		default:
			f.members = append(f.members, m)
			all = append(all, s.x[:(m.train+chooseRows)*s.width]...)
		}
	}
	if len(f.members) < 3 {
		return nil, fmt.Errorf("%w: %d zones with more than %d rows to learn: want at least 3", api.ErrInvalid, len(f.members), newZoneRows)
	}
	if len(f.young) == 0 { // the smallest joins late instead
		i := 0
		for k, m := range f.members {
			if m.train < f.members[i].train {
				i = k
			}
		}
		f.young, f.members = f.members[i:i+1:i+1], slices.Concat(f.members[:i], f.members[i+1:])
	}
	f.grid = learner.GridOf(o.Seed, streams[0].width, all)
	return f, nil
}

func (f *federation) regressor(zone string) (*learner.Regressor, error) {
	cfg := learner.DefaultConfig()
	cfg.Seed, cfg.Zone = f.seed, zone
	return learner.NewRegressorOn(cfg, f.grid)
}

func mu(m *learner.Regressor) func(x []float64) float64 {
	return func(x []float64) float64 { p, _, _ := m.Predict(x); return p }
}

func (f *federation) alone() (rmse []float64, models []*learner.Regressor, err error) {
	return f.pooled(nil, nil)
}

// pooled lets every zone learn its rows in rounds; after a round `round` sees all, and then every zone adopts.
func (f *federation) pooled(adopt func(zone int, m *learner.Regressor, round int), round func(models []*learner.Regressor) error) (rmse []float64, models []*learner.Regressor, err error) {
	return f.learn(adopt, round, func(int, float64) bool { return false })
}

func (f *federation) pooledPoisoned(p *treePool) ([]float64, []*learner.Regressor, error) {
	return f.learn(p.adopt, p.round, func(zone int, _ float64) bool { return p.evil(zone) })
}

func (f *federation) learn(adopt func(zone int, m *learner.Regressor, round int), round func([]*learner.Regressor) error, lie func(zone int, y float64) bool) (rmse []float64, models []*learner.Regressor, err error) {
	for _, m := range f.members {
		r, err := f.regressor(m.name)
		if err != nil {
			return nil, nil, err
		}
		models = append(models, r)
	}
	for k := range fedRounds + 1 {
		for z, m := range f.members {
			from, to := m.train*k/fedRounds, m.train*(k+1)/fedRounds
			if k == fedRounds {
				from, to = m.train, m.train+chooseRows
			}
			for i := from; i < to; i++ {
				y := m.y[i]
				if lie(z, y) {
					y = 2*mean(m.y[:chooseRows]) - y + 1
				}
				models[z].Learn(m.row(i), y)
			}
		}
		if round != nil {
			if err := round(models); err != nil {
				return nil, nil, err
			}
		}
		if adopt != nil {
			for z := range models {
				adopt(z, models[z], k)
			}
		}
	}
	for z, m := range f.members {
		rmse = append(rmse, m.judge(mu(models[z])))
	}
	return rmse, models, nil
}

// central learns all zones' rows, mixed, as one; the zones that join late come last in rmse.
func (f *federation) central() (rmse []float64, base []*learner.Tree, err error) {
	r, err := f.regressor("central")
	if err != nil {
		return nil, nil, err
	}
	type at struct{ zone, row int }
	var all []at
	for z, m := range f.members {
		for i := range m.train + chooseRows {
			all = append(all, at{z, i})
		}
	}
	rand.New(rand.NewPCG(f.seed, 31)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, a := range all {
		m := f.members[a.zone]
		r.Learn(m.row(a.row), m.y[a.row])
	}
	for _, m := range slices.Concat(f.members, f.young) {
		rmse = append(rmse, m.judge(mu(r)))
	}
	return rmse, r.Base(), nil
}

// union is the mean RMSE of all zones' trees together, each zone weighted by its rows.
func (f *federation) union(models []*learner.Regressor) float64 {
	c := learner.NewCommittee(f.grid)
	for z, m := range models {
		if trees := m.Base(); len(trees) > 0 {
			c.Add(trees, float64(f.members[z].train+chooseRows)/float64(len(trees)))
		}
	}
	var rmse []float64
	for _, m := range f.members {
		rmse = append(rmse, m.judge(c.Predict))
	}
	return mean(rmse)
}

// treePool is the coordinator's part: manifests and trees by digest.
type treePool struct {
	f        *federation
	manifest learner.Manifest
	trees    map[string]*learner.Tree
	evil     func(zone int) bool
}

func newPool(f *federation, evil func(int) bool) *treePool {
	if evil == nil {
		evil = func(int) bool { return false }
	}
	return &treePool{f: f, trees: map[string]*learner.Tree{}, evil: evil}
}

func (p *treePool) round(models []*learner.Regressor) error {
	var updates []learner.Update
	for z, m := range models {
		u := learner.Update{Zone: p.f.members[z].name, Card: m.Scorecard()}
		for _, t := range m.Export(2) {
			p.trees[t.Digest()] = t
			u.Trees = append(u.Trees, t.Info())
		}
		updates = append(updates, u)
	}
	p.manifest = learner.MergePool(p.manifest, updates, learner.MaxPool)
	return nil
}

func (p *treePool) adopt(_ int, m *learner.Regressor, _ int) {
	m.Adopt(p.manifest.Version, p.current())
}

func (p *treePool) current() []*learner.Tree {
	var out []*learner.Tree
	for _, e := range p.manifest.Entries {
		out = append(out, p.trees[e.Digest])
	}
	return out
}

// join lets the zones that come late begin with the pool and a hundred rows.
func (f *federation) join(p *treePool) (rmse []float64, err error) {
	for _, m := range f.young {
		r, err := f.regressor(m.name)
		if err != nil {
			return nil, err
		}
		r.Adopt(p.manifest.Version, p.current())
		for i := m.train + chooseRows - newZoneRows; i < m.train+chooseRows; i++ {
			r.Learn(m.row(i), m.y[i])
		}
		rmse = append(rmse, m.judge(mu(r)))
	}
	return rmse, nil
}

// costs measures a merge of 1,000 zones with 256 new trees, and a zone picking from 128 trees by 400 rows.
func (f *federation) costs(r *Report, p *treePool) error {
	rng := rand.New(rand.NewPCG(f.seed, 32))
	digest := func(i int) string {
		sum := sha256.Sum256(fmt.Appendf(nil, "tree %d", i))
		return hex.EncodeToString(sum[:])
	}
	var updates []learner.Update
	for z := range 1000 {
		u := learner.Update{Zone: fmt.Sprintf("zone-%d", z), Card: learner.Scorecard{Zone: fmt.Sprintf("zone-%d", z), Seq: 1, Samples: 400}}
		for i := range learner.MaxPool {
			u.Card.Scores = append(u.Card.Scores, learner.Score{Digest: digest(i), Error: uint8(rng.IntN(256))})
		}
		slices.SortFunc(u.Card.Scores, func(a, b learner.Score) int { return strings.Compare(a.Digest, b.Digest) }) // as zones send them
		if z < 128 {
			u.Trees = []learner.TreeInfo{{Digest: digest(2 * z), Zone: u.Zone, Born: 1}, {Digest: digest(2*z + 1), Zone: u.Zone, Born: 2}}
		}
		updates = append(updates, u)
	}
	var next learner.Manifest
	r.add("merge_ms", nsEach(300*time.Millisecond, func() { next = learner.MergePool(learner.Manifest{}, updates, learner.MaxPool) })/1e6, "ms")
	if len(next.Entries) != learner.MaxPool {
		return fmt.Errorf("bench federate: merged %d trees, want %d", len(next.Entries), learner.MaxPool)
	}
	m := f.members[0]
	reg, err := f.regressor(m.name)
	if err != nil {
		return err
	}
	for i := range min(m.train+chooseRows, 1500) {
		reg.Learn(m.row(i), m.y[i])
	}
	trees := p.current()
	reg.Adopt(1, trees)
	r.add("repick_ms", nsEach(300*time.Millisecond, func() { reg.Adopt(1, trees) })/1e6, "ms")
	r.Notes = append(r.Notes, fmt.Sprintf("%d zones, %d join late with %d rows; repick_ms is a whole adoption of %d trees that changes nothing", len(f.members), len(f.young), newZoneRows, len(trees)))
	return nil
}

// zoneStreams makes 16 unlike zones: the same functions, but each zone with its own mix, speed, link and little or much
// to learn from. The last one joins late.
func zoneStreams(seed uint64) []*stream {
	var out []*stream
	rng := rand.New(rand.NewPCG(seed, 33))
	const fns = 24
	var base, exponent [fns]float64
	for i := range fns {
		base[i], exponent[i] = rng.NormFloat64()*1.2+4, []float64{0, .5, 1}[rng.IntN(3)]
	}
	for z := range 16 {
		s := &stream{name: fmt.Sprintf("z%02d", z)}
		speed, link := .8*rng.NormFloat64(), math.Exp(rng.NormFloat64())
		train := []int{200, 400, 1000, 3000, 8000}[z%5]
		if z == 15 {
			train = 0
		}
		first := rng.IntN(fns)
		for range train + chooseRows + judgeRows {
			fn := (first + int(math.Abs(rng.NormFloat64())*5)) % fns
			input, missing, sandbox, load := rng.NormFloat64()*1.5+13, 0., float64([]int{0, 2, 3, 3, 3}[rng.IntN(5)]), float64(rng.IntN(4))/4
			if rng.IntN(2) == 0 {
				missing = math.Exp(input)
			}
			ms := math.Exp(base[fn]+exponent[fn]*(input-13)+speed*.5+.12*rng.NormFloat64())*(1+.5*load) + missing/(5e4*link)
			if sandbox == 0 {
				ms += 700 * math.Exp(.3*speed)
			}
			s.add(math.Log(ms), base[fn]+.2*rng.NormFloat64(), exponent[fn], input, math.Log1p(missing), sandbox, load, link, float64(z%3))
		}
		out = append(out, s)
	}
	return out
}

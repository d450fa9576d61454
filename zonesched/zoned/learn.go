package zoned

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/learner"
	"github.com/rubato-faas/rubato/membership"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/objectstore"
	"github.com/rubato-faas/rubato/zonesched"
)

// learning gives the zone's learner a goroutine of its own, so that it never holds up a decision. Leader and standbys
// alike learn from the sample stream only; a published forest reaches the core as an event.
type learning struct {
	d      *Daemon
	in     chan learnMail
	forest atomic.Pointer[learner.Forest]
	stats  atomic.Pointer[learner.Stats]
	// scratch is the core's: only Estimate touches it, on the core's goroutine.
	scratch *learner.Scratch

	// Owned by run.
	l         *learner.Learner
	jobs      []*learner.Job // last ones given to the background
	built     chan struct{}  // closed when they are over
	building  atomic.Int64   // nanoseconds spent on growing trees
	epoch     api.Epoch
	published uint64
	trees     map[string]*learner.Tree // of the adopted pool, by digest
	adopting  atomic.Uint64            // version on its way into the stream
}

type learnMail struct {
	batch *wire.Batch
	do    func()
}

// Limits of the learner's mailbox and of what it fetches.
const (
	learnMailbox    = 1024
	exportTrees     = 2
	modelObjectMax  = 8 << 20
	modelOpTimeout  = 10 * time.Second
	adoptRetries    = 5
	adoptRetryPause = 200 * time.Millisecond
	// buildShare of a core may go into growing trees, looked at every paceEvery; maxRegrow bounds how slow that makes it.
	buildShare = .05
	paceEvery  = 10 * time.Second
	maxRegrow  = 4096
)

func newLearning(d *Daemon) (*learning, error) {
	cfg := learner.DefaultConfig()
	cfg.Zone = d.cfg.Zone
	l, err := learner.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("zoned learner: %w", err)
	}
	return &learning{d: d, in: make(chan learnMail, learnMailbox), l: l, scratch: learner.NewScratch(), trees: map[string]*learner.Tree{}}, nil
}

func (g *learning) put(m learnMail) bool {
	select {
	case g.in <- m:
		return true
	case <-g.d.ctx.Done():
		return false
	}
}

// ask runs f with the learner and waits for it. When it returns false, f may still run: what f wrote is not to be read.
func (g *learning) ask(f func(*learner.Learner)) bool {
	ran := make(chan struct{})
	if !g.put(learnMail{do: func() { f(g.l); close(ran) }}) {
		return false
	}
	select {
	case <-ran:
		return true
	case <-g.d.ctx.Done():
		return false
	}
}

// drained waits until everything heard so far is learned and returns the position in the stream.
func (g *learning) drained() uint64 {
	var seq uint64
	if !g.ask(func(l *learner.Learner) { seq = l.Seq() }) {
		return 0 // the scheduler ends
	}
	return seq
}

func (g *learning) onBatch(m *messaging.Msg) {
	b, ok := decode[wire.Batch](g.d, m)
	if !ok || b.Zone != g.d.cfg.Zone || len(b.Records) > 2*wire.MaxBatch {
		return
	}
	// A leader learns here that it was replaced; a scheduler that etcd has told nothing yet, that somebody leads.
	if r := g.d.role.Load(); (r.Mine || r.nobody()) && b.Epoch.Compare(r.Epoch) > 0 {
		g.d.deps.Elector.Heard(membership.Leadership{Epoch: b.Epoch})
	}
	g.put(learnMail{batch: b})
}

func (g *learning) run() {
	for {
		select {
		case m := <-g.in:
			if m.do != nil {
				m.do()
			} else {
				g.learn(m.batch)
			}
			if len(g.in) == 0 {
				g.publish()
			}
		case <-g.d.ctx.Done():
			return
		}
	}
}

// publish hands the core an immutable view when something was learned since the last.
func (g *learning) publish() {
	if g.l.Seq() == g.published {
		return
	}
	g.published = g.l.Seq()
	f := g.l.Snapshot()
	g.forest.Store(f)
	s := g.l.Stats()
	g.stats.Store(&s)
	g.d.post(zonesched.Event{Kind: zonesched.EvModel, Predictor: f.Estimator(g.scratch)})
}

// learn takes the part of a batch that is new. A batch that begins beyond what is known means that something was lost:
// a standby takes the leader's checkpoint, a leader counts on from where it stands.
func (g *learning) learn(b *wire.Batch) {
	if b.Epoch.Compare(g.epoch) < 0 {
		return // of a leader that was replaced
	}
	g.epoch = b.Epoch
	if b.First != g.l.Seq() && b.First+uint64(len(b.Records)) > g.l.Seq() || b.First+uint64(len(b.Records)) < g.l.Seq() && g.diverged(b) {
		if !g.catchUp(b) {
			return
		}
	}
	for i := range b.Records {
		if b.First+uint64(i) < g.l.Seq() {
			continue
		}
		r := &b.Records[i]
		switch {
		case r.Sample != nil:
			g.learnSample(r.Sample)
		case r.AdoptDigest != "":
			g.adopt(r.AdoptVersion, r.AdoptDigest)
		case r.Regrow > 0:
			g.l.SetRegrow(r.Regrow)
		}
	}
}

// learnSample learns one sample and lets the trees that are due next grow in the background: growing takes milliseconds,
// and samples and questions would wait for it.
func (g *learning) learnSample(s *api.Sample) {
	g.await()
	g.l.Learn(s)
	g.grow()
}

// await waits for the jobs that the next record needs.
func (g *learning) await() {
	if g.l.JobsDue() && slices.Equal(g.l.Jobs(), g.jobs) {
		<-g.built
	}
}

func (g *learning) grow() {
	if slices.Equal(g.l.Jobs(), g.jobs) {
		return
	}
	jobs, built := slices.Clone(g.l.Jobs()), make(chan struct{})
	g.jobs, g.built = jobs, built
	g.d.task(func() {
		began := time.Now()
		for _, j := range jobs {
			j.Build()
		}
		close(built)
		if len(jobs) == 1 { // the warm-up is short, and not to be slowed down
			g.building.Add(int64(time.Since(began)))
		}
	})
}

// pace keeps growing trees below a share of a core: the leader watches what it costs and puts a change of pace into the
// sample stream, so that standbys change at the same record.
func (g *learning) pace(ctx context.Context) {
	t := time.NewTicker(paceEvery)
	defer t.Stop()
	last, spent := time.Now(), g.building.Load()
	for {
		var now time.Time
		select {
		case now = <-t.C:
		case <-ctx.Done():
			return
		}
		share := float64(g.building.Load()-spent) / float64(now.Sub(last))
		last, spent = now, g.building.Load()
		var was, rows int
		if !g.ask(func(l *learner.Learner) { was = l.Regrow(); rows = paced(was, share) }) || rows == was {
			continue
		}
		g.d.call(func() {
			if g.d.leads() {
				g.d.batch = append(g.d.batch, wire.Record{Regrow: rows})
				g.d.flushSamples()
			}
		})
	}
}

// paced is the number of rows between trees when growing them takes a share of a core: twice as many above buildShare, half
// as many, down to the default, once that would stay well below it.
func paced(rows int, share float64) int {
	switch floor := learner.DefaultConfig().Regrow; {
	case share > buildShare:
		return min(2*rows, maxRegrow)
	case share < buildShare/4 && rows > floor:
		return max(rows/2, floor)
	}
	return rows
}

// diverged: this learner is ahead of its leader's stream, so it learned what the leader never did.
func (g *learning) diverged(*wire.Batch) bool { return !g.d.role.Load().Mine }

// catchUp brings the learner to a state from which b can be learned.
func (g *learning) catchUp(b *wire.Batch) bool {
	log := g.d.deps.Log
	if g.d.role.Load().Mine {
		log.Warn("own samples were lost on the bus", "zone", g.d.cfg.Zone, "have", g.l.Seq(), "next", b.First)
		g.d.task(func() {
			seq := g.drained()
			g.d.call(func() { g.d.next = seq })
		})
		for i := range b.Records {
			if s := b.Records[i].Sample; s != nil {
				g.learnSample(s)
			}
		}
		return false
	}
	ctx, cancel := context.WithTimeout(g.d.ctx, modelOpTimeout)
	defer cancel()
	l, err := g.checkpoint(ctx)
	if err != nil {
		log.Warn("checkpoint not to be had; the standby learns nothing until it is", "zone", g.d.cfg.Zone, "err", err)
		return false
	}
	log.Info("checkpoint taken", "zone", g.d.cfg.Zone, "seq", l.Seq(), "had", g.l.Seq())
	g.l = l
	return b.First <= l.Seq()
}

func (g *learning) checkpoint(ctx context.Context) (*learner.Learner, error) {
	ask, err := wire.Encode(&wire.Query{Kind: "checkpoint"})
	if err != nil {
		return nil, err
	}
	reply, err := g.d.deps.Bus.Request(ctx, wire.SubjectLeader(g.d.cfg.Zone, "checkpoint"), ask)
	if err != nil {
		return nil, err
	}
	var cp wire.Checkpoint
	if err := wire.Decode(reply, &cp); err != nil {
		return nil, err
	}
	if cp.Code != api.CodeOK {
		return nil, cp.Code.Err("the leader has no checkpoint")
	}
	b, err := g.get(ctx, cp.Digest)
	if err != nil {
		return nil, err
	}
	cfg := learner.DefaultConfig()
	cfg.Zone = g.d.cfg.Zone
	return learner.Restore(cfg, b)
}

// onCheckpoint answers a standby that joined late or lost something.
func (g *learning) onCheckpoint(m *messaging.Msg) {
	if m.Reply == "" {
		return
	}
	if len(m.Data) > 0 { // standbys of the release before ask by an empty message
		if _, ok := decode[wire.Query](g.d, m); !ok {
			return
		}
	}
	reply := m.Reply
	g.d.task(func() {
		var cp wire.Checkpoint
		var b []byte
		var err error
		if !g.ask(func(l *learner.Learner) { cp.Seq = l.Seq(); b, err = l.Checkpoint() }) {
			return
		}
		if err == nil {
			cp.Digest, err = g.store(b)
		}
		if err != nil {
			cp.Code = api.CodeOf(err)
			g.d.deps.Log.Warn("checkpoint", "zone", g.d.cfg.Zone, "err", err)
		}
		g.d.send(reply, &cp)
	})
}

// store puts bytes of the model under their digest.
func (g *learning) store(b []byte) (string, error) {
	sum := sha256.Sum256(b)
	digest := hex.EncodeToString(sum[:])
	ctx, cancel := context.WithTimeout(g.d.ctx, modelOpTimeout)
	defer cancel()
	if _, err := g.d.deps.Store.Stat(ctx, objectstore.ModelKey(digest)); err == nil {
		return digest, nil
	}
	_, err := g.d.deps.Store.Put(ctx, objectstore.ModelKey(digest), bytes.NewReader(b))
	return digest, err
}

// get fetches bytes of the model and checks them against their name.
func (g *learning) get(ctx context.Context, digest string) ([]byte, error) {
	r, info, err := g.d.deps.Store.Get(ctx, objectstore.ModelKey(digest))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if info.Bytes > modelObjectMax {
		return nil, fmt.Errorf("%w: model object of %d bytes", api.ErrTooLarge, info.Bytes)
	}
	b, err := io.ReadAll(io.LimitReader(r, modelObjectMax+1))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != digest {
		return nil, fmt.Errorf("%w: model object %s has other content", api.ErrInvalid, digest)
	}
	return b, nil
}

// fetchPool brings a manifest and those of its trees that are not here yet. Bytes from outside are checked before use;
// one bad tree refuses the whole manifest and the old model stays.
func (g *learning) fetchPool(ctx context.Context, digest string, have map[string]*learner.Tree) (learner.Manifest, []*learner.Tree, error) {
	b, err := g.get(ctx, digest)
	if err != nil {
		return learner.Manifest{}, nil, fmt.Errorf("zoned fetch manifest: %w", err)
	}
	m, err := learner.DecodeManifest(b)
	if err != nil {
		return learner.Manifest{}, nil, err
	}
	trees := make([]*learner.Tree, 0, len(m.Entries))
	for _, e := range m.Entries {
		t := have[e.Digest]
		if t == nil {
			b, err := g.get(ctx, e.Digest)
			if err != nil {
				return m, nil, fmt.Errorf("zoned fetch tree: %w", err)
			}
			if t, err = learner.DecodeTree(b); errors.Is(err, learner.ErrSchema) {
				continue // of a zone that runs another version, or from before an upgrade
			} else if err != nil {
				return m, nil, fmt.Errorf("zoned tree %s of zone %s: %w", e.Digest, e.Zone, err)
			}
		}
		trees = append(trees, t)
	}
	return m, trees, nil
}

// adopt is a record of the stream: from here on everybody predicts with the pool.
func (g *learning) adopt(version uint64, digest string) {
	var err error
	for try := 0; try < adoptRetries; try++ {
		ctx, cancel := context.WithTimeout(g.d.ctx, modelOpTimeout)
		var trees []*learner.Tree
		var m learner.Manifest
		m, trees, err = g.fetchPool(ctx, digest, g.trees)
		cancel()
		if err == nil {
			g.l.AdoptGrid(m.Grid)
			g.l.Adopt(version, trees)
			g.grow()
			clear(g.trees)
			for _, t := range trees {
				g.trees[t.Digest()] = t
			}
			return
		}
		t := time.NewTimer(adoptRetryPause)
		select {
		case <-t.C:
		case <-g.d.ctx.Done():
			t.Stop()
			return
		}
	}
	// The position in the stream now differs from the leader's: the next batch makes this standby take a checkpoint.
	g.d.deps.Log.Error("pool not adopted", "zone", g.d.cfg.Zone, "version", version, "err", err)
}

// propose is called on the leader when a newer pool was announced: once all its bytes are here and sound, its adoption
// goes into the stream.
func (g *learning) propose(version uint64, digest string) {
	if g.adopting.Load() >= version {
		return
	}
	g.adopting.Store(version)
	g.d.task(func() {
		ctx, cancel := context.WithTimeout(g.d.ctx, modelOpTimeout)
		defer cancel()
		var have map[string]*learner.Tree
		if !g.ask(func(*learner.Learner) {
			have = make(map[string]*learner.Tree, len(g.trees))
			for k, t := range g.trees {
				have[k] = t
			}
		}) {
			return
		}
		if _, _, err := g.fetchPool(ctx, digest, have); err != nil {
			g.adopting.CompareAndSwap(version, version-1) // the next announcement tries again
			g.d.deps.Log.Warn("pool refused", "zone", g.d.cfg.Zone, "version", version, "err", err)
			return
		}
		g.d.call(func() {
			if g.adopting.Load() > version {
				return // a newer one overtook it: the pool must not go back
			}
			if g.d.leads() {
				g.d.batch = append(g.d.batch, wire.Record{AdoptVersion: version, AdoptDigest: digest})
				g.d.flushSamples()
			} else {
				g.adopting.CompareAndSwap(version, version-1) // should this scheduler lead again
			}
		})
	})
}

// offer sends the coordinator new trees and a scorecard now and then, while this scheduler leads.
func (g *learning) offer(ctx context.Context) {
	t := time.NewTicker(g.d.cfg.ModelEvery)
	defer t.Stop()
	last := uint64(0)
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		if err := g.offerOnce(ctx, &last); err != nil && ctx.Err() == nil {
			g.d.deps.Log.Warn("trees not offered", "zone", g.d.cfg.Zone, "err", err)
		}
	}
}

func (g *learning) offerOnce(ctx context.Context, last *uint64) error {
	var trees []*learner.Tree
	var card learner.Scorecard
	var seq uint64
	if !g.ask(func(l *learner.Learner) {
		if seq = l.Seq(); seq != *last {
			trees, card = l.Export(exportTrees), l.Scorecard()
		}
	}) || len(trees) == 0 {
		return nil
	}
	u := wire.ModelUpdate{Zone: g.d.cfg.Zone, Epoch: g.d.role.Load().Epoch, Seq: seq}
	for _, t := range trees {
		digest, err := g.store(learner.EncodeTree(t))
		if err != nil {
			return err
		}
		u.Trees = append(u.Trees, digest)
	}
	b, err := learner.EncodeScorecard(card)
	if err != nil {
		return err
	}
	if u.Card, err = g.store(b); err != nil {
		return err
	}
	b, err = wire.Encode(&u)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, modelOpTimeout)
	defer cancel()
	reply, err := g.d.deps.Bus.Request(ctx, wire.SubjectUpdate, b)
	if err != nil {
		return err
	}
	var r wire.Reply
	if err := wire.Decode(reply, &r); err != nil {
		return err
	}
	if r.Code != api.CodeOK {
		return r.Code.Err(r.Message)
	}
	*last = seq
	return nil
}

// ModelView is what `rubato model` shows of a zone.
type ModelView struct {
	Zone   string         `json:"zone"`
	Name   string         `json:"scheduler"`
	Digest string         `json:"digest"`
	Stats  learner.Stats  `json:"stats"`
	Trees  map[string]int `json:"trees"` // that predict, by zone of origin
}

func (g *learning) view() ModelView {
	empty := ModelView{Zone: g.d.cfg.Zone, Name: g.d.cfg.Name, Trees: map[string]int{}}
	v := empty
	v.Trees = map[string]int{}
	if !g.ask(func(l *learner.Learner) {
		sum := l.Digest()
		v.Digest, v.Stats = hex.EncodeToString(sum[:]), l.Stats()
		for _, t := range l.Snapshot().Trees() {
			v.Trees[t.Zone]++
		}
	}) {
		return empty
	}
	return v
}

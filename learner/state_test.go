package learner

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

// record makes a stream of n samples, some of them unusable, crashed or of another schema epoch.
func record(n int) []*api.Sample {
	w := newWorld(3, 6)
	cfg := DefaultConfig()
	l, _ := New(cfg)
	var all []*api.Sample
	w.run(l, n, func(_ *api.Estimate, s *api.Sample) {
		switch len(all) % 50 {
		case 7:
			s.Outcome = api.OutcomeCanceled
		case 17:
			s.Outcome = api.OutcomeCrash
		case 27:
			s.Outcome = api.OutcomeTimeout
		case 37:
			s.Echo.SchemaEpoch = SchemaEpoch + 1
		}
		all = append(all, s)
	})
	return all
}

// poolFrom grows a pool in another zone.
func poolFrom(t testing.TB, zone string, seed uint64, n, trees int) []*Tree {
	t.Helper()
	w, l := newWorld(seed, 6), testLearner(t, zone)
	var out []*Tree
	for len(out) < trees {
		w.run(l, n, nil)
		out = append(out, l.Export(2)...)
	}
	return out
}

// TestJobsBuiltElsewhere: trees grown in the background, on time or not at all, make the same forest.
func TestJobsBuiltElsewhere(t *testing.T) {
	samples, pool := record(700), poolFrom(t, "b", 4, 100, 6)
	a, b := testLearner(t, "a"), testLearner(t, "a")
	var last *Job
	built := make(chan struct{})
	close(built)
	jobs := 0
	for i, s := range samples {
		if a.JobsDue() {
			<-built
		}
		a.Learn(s)
		if js := slices.Clone(a.Jobs()); len(js) > 0 && js[0] != last {
			jobs += len(js)
			over := make(chan struct{})
			last, built = js[0], over
			go func() {
				for _, j := range js {
					j.Build()
				}
				close(over)
			}()
		}
		b.Learn(s)
		if i == 300 || i == 333 {
			a.Adopt(uint64(i), pool)
			b.Adopt(uint64(i), pool)
		}
	}
	<-built
	if jobs < 5 || a.Digest() != b.Digest() {
		t.Errorf("%d jobs, digests %x and %x: want some, and equal ones", jobs, a.Digest(), b.Digest())
	}
}

func TestSameStreamSameDigest(t *testing.T) {
	samples, pool := record(700), poolFrom(t, "b", 4, 100, 6)
	a, b := testLearner(t, "a"), testLearner(t, "a")
	for i, s := range samples {
		a.Learn(s)
		b.Learn(s)
		if i == 300 {
			a.Adopt(1, pool)
			b.Adopt(1, pool)
		}
		if i%90 == 0 {
			a.Snapshot() // looking and exporting must leave no trace
			a.Export(2)
			a.Scorecard()
		}
		if i%200 == 0 && a.Digest() != b.Digest() {
			t.Fatalf("digests differ after %d samples", i)
		}
	}
	if a.Digest() != b.Digest() || a.Seq() != 701 || b.Seq() != 701 {
		t.Fatalf("digests differ, or seq %d, %d: want 701", a.Seq(), b.Seq())
	}
	b.Learn(samples[0])
	if a.Digest() == b.Digest() {
		t.Fatal("one more sample left the digest as it was")
	}
	cfg := DefaultConfig()
	cfg.Zone, cfg.Seed = "a", 99
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if c.Digest() == testLearner(t, "a").Digest() {
		t.Fatal("another seed has the same digest")
	}
}

func TestRestoredLearnerGoesOnIdentically(t *testing.T) {
	samples, pool := record(650), poolFrom(t, "b", 4, 100, 6)
	for _, cut := range []int{0, 40, 500} {
		a := testLearner(t, "a")
		for i, s := range samples[:cut] {
			if a.Learn(s); i == 200 {
				a.Adopt(3, pool)
			}
		}
		b, err := a.Checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		r, err := Restore(a.cfg, b)
		if err != nil {
			t.Fatalf("after %d: %v", cut, err)
		}
		if a.Digest() != r.Digest() {
			t.Fatalf("after %d: the restored learner has another digest", cut)
		}
		for _, s := range samples[cut:] {
			a.Learn(s)
			r.Learn(s)
		}
		if a.Digest() != r.Digest() || a.Stats() != r.Stats() {
			t.Fatalf("after %d: learners part ways after the restore", cut)
		}
		w := newWorld(9, 6)
		for range 50 {
			c := w.call()
			if x, y := w.estimate(a, &c), w.estimate(r, &c); x != y {
				t.Fatalf("estimates differ: %+v, %+v", x, y)
			}
		}
	}
}

func TestCheckpointOfAFullLearnerIsBounded(t *testing.T) {
	l := testLearner(t, "a")
	w := newWorld(1, 8)
	w.run(l, 1100, nil)
	// Fill what a test cannot reach in time: the window, the tables, and each tree with the most leaves it may have.
	for l.win.total < uint64(l.cfg.Window) {
		i := l.win.back(int(l.win.total % 1000))
		l.win.push(l.win.rows[i], l.win.target[i], l.win.resid[i], 1)
	}
	for i := range l.ens.own {
		l.ens.own[i].shape, l.ens.own[i].leaf = chain(baseLeaves)
	}
	for i := range l.ens.resid {
		l.ens.resid[i].shape, l.ens.resid[i].leaf = chain(residLeaves)
	}
	for i := range uint64(200_000) {
		l.fns.edit(mix(i), i+1)
		l.nodes.edit(mix(i), i+1)
		l.pairs.edit(mix(i), i+1)
		if i < 10_000 {
			h := l.hotBound(mix(i))
			for range hotScores {
				h[0].add(1)
				h[1].add(2)
			}
		}
	}
	var pool []*Tree
	for i := range maxPool {
		shape, leaves := chain(exportLeaves)
		tr, err := newTree("a", uint64(i), zoneGrid, shape, leaves)
		if err != nil {
			t.Fatal(err)
		}
		pool = append(pool, tr)
	}
	l.Adopt(1, pool)
	b, err := l.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, pool of %d", len(b), len(l.ens.pool))
	if len(l.ens.pool) != maxPool {
		t.Fatalf("%d trees adopted, want %d", len(l.ens.pool), maxPool)
	}
}

// chain is a well-formed tree of n leaves: balanced, by halves.
func chain(n int) ([]split, []leafStat) {
	var shape []split
	var leaves []leafStat
	var build func(n int)
	build = func(n int) {
		if n == 1 {
			shape = append(shape, split{feat: leafMark, next: uint16(len(leaves))})
			leaves = append(leaves, leafStat{N: 20, Mean: float32(len(leaves)) / 100, M2: 1})
			return
		}
		at := len(shape)
		shape = append(shape, split{feat: uint8(at % int(api.NumFeatures)), bin: 3})
		build(n / 2)
		shape[at].next = uint16(len(shape))
		build(n - n/2)
	}
	build(n)
	return shape, leaves
}

func TestRestoreRefusesDamage(t *testing.T) {
	l := testLearner(t, "a")
	newWorld(1, 4).run(l, 120, nil)
	b, err := l.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	other := l.cfg
	other.Zone = "b"
	if _, err := Restore(other, b); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a checkpoint of another zone: %v, want invalid", err)
	}
	for _, cut := range []int{0, 1, len(b) / 2, len(b) - 1} {
		if _, err := Restore(l.cfg, b[:cut]); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("cut at %d: %v, want invalid", cut, err)
		}
	}
	if _, err := Restore(l.cfg, append(bytes.Clone(b), 0)); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a byte too many: %v, want invalid", err)
	}
	strange := testLearner(t, "a")
	newWorld(1, 4).run(strange, 120, nil)
	shape := strange.ens.own[slices.IndexFunc(strange.ens.own, func(t local) bool { return len(t.shape) > 1 })].shape
	shape[0].feat = uint8(api.NumFeatures)
	if b, err = strange.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(strange.cfg, b); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a tree that tests a feature there is not: %v, want invalid", err)
	}
	if _, err := Restore(l.cfg, make([]byte, MaxCheckpointBytes+1)); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func TestSnapshotDoesNotChange(t *testing.T) {
	w, l := newWorld(5, 6), testLearner(t, "a")
	w.run(l, 400, nil)
	f := l.Snapshot()
	if l.Snapshot() != f {
		t.Error("a second snapshot without a record in between is another forest")
	}
	var calls []call
	var before []api.Estimate
	ask := func(f *Forest) (out []api.Estimate) {
		for i := range calls {
			var e [1]api.Estimate
			f.Estimate(&calls[i].req, []api.Candidate{calls[i].cand}, e[:])
			out = append(out, e[0])
		}
		return out
	}
	for range 30 {
		calls = append(calls, w.call())
	}
	before = ask(f)
	done := make(chan []api.Estimate)
	go func() {
		for range 20 {
			ask(f)
		}
		done <- ask(f)
	}()
	w.slow = 3
	w.run(l, 300, nil)
	if after := <-done; !slices.Equal(before, after) {
		t.Error("a snapshot changed while the learner went on")
	}
	if slices.Equal(before, ask(l.Snapshot())) {
		t.Error("300 samples changed nothing")
	}
}

func TestUnusableSamplesTeachNothing(t *testing.T) {
	l := testLearner(t, "a")
	bad := []*api.Sample{{}, {RunMs: math.NaN()}, {RunMs: math.Inf(1), Echo: api.Echo{Bins: make([]byte, api.NumFeatures)}}}
	crooked := record(1)[0]
	crooked.Echo.Bins = slices.Clone(crooked.Echo.Bins)
	crooked.Echo.Bins[0] = 200
	crooked.Echo.Mu, crooked.Echo.Sigma = math.NaN(), math.Inf(1)
	for _, s := range append(bad, crooked) {
		l.Learn(s)
	}
	if s := l.Stats(); s.Seq != 4 || s.Usable != 1 || s.Rows != 0 {
		t.Errorf("stats %+v: want 4 records, 1 usable, no rows", s)
	}
	if _, err := l.Checkpoint(); err != nil {
		t.Error(err)
	}
}

// Package membershiptest is the conformance suite of membership.Elector: what zone schedulers rely on, run against
// every implementation. It is imported by tests only.
package membershiptest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/membership"
)

// Harness is an implementation under test.
type Harness struct {
	// Elector makes a candidate. All that it makes share one registry.
	Elector func(t *testing.T, zone, candidate string) membership.Elector
	// Lose makes the candidate's session vanish, as if its lease had run out.
	Lose func(t *testing.T, zone, candidate string)
	// Patience bounds each wait.
	Patience time.Duration
}

// Run checks the implementation. Each part uses a zone of its own.
func Run(t *testing.T, h Harness) {
	for _, part := range []struct {
		name string
		run  func(*testing.T, Harness, string)
	}{
		{"standby-sees-leader", standbySeesLeader}, {"resign-hands-over", resignHandsOver},
		{"lost-leader-is-replaced", lostLeaderIsReplaced}, {"forgotten-leader-leads-on", forgottenLeaderLeadsOn},
		{"heard-of-another", heardOfAnother}, {"heard-of-another-alone", heardOfAnotherAlone}, {"heard-nothing-new", heardNothingNew},
		{"one-leader-at-a-time", oneLeaderAtATime}, {"zones-apart", zonesApart},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, h, "zone-"+part.name) })
	}
}

// Candidate is an elector that runs, with all that it told.
type Candidate struct {
	Name    string
	Elector membership.Elector

	t      *testing.T
	wait   time.Duration
	cancel context.CancelFunc
	done   chan error

	mu      sync.Mutex
	history []membership.Leadership
	changed chan struct{}
}

// Start runs a candidate until it is stopped or the test ends.
func (h Harness) Start(t *testing.T, zone, name string) *Candidate {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &Candidate{
		Name: name, Elector: h.Elector(t, zone, name), t: t, wait: h.Patience, cancel: cancel, done: make(chan error, 1),
		changed: make(chan struct{}),
	}
	go func() { c.done <- c.Elector.Run(ctx, c.record) }()
	t.Cleanup(c.Stop)
	return c
}

func (c *Candidate) record(l membership.Leadership) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.history); n > 0 && c.history[n-1] == l {
		c.t.Errorf("%s was told %+v twice in a row", c.Name, l)
	}
	if n := len(c.history); n > 0 && l != (membership.Leadership{}) && l.Epoch.Compare(c.history[n-1].Epoch) < 0 {
		c.t.Errorf("%s was told %+v after %+v", c.Name, l, c.history[n-1])
	}
	c.history = append(c.history, l)
	close(c.changed)
	c.changed = make(chan struct{})
}

// Stop ends Run and waits for it. It may be called again.
func (c *Candidate) Stop() {
	c.cancel()
	select {
	case err := <-c.done:
		if err != nil {
			c.t.Errorf("%s: Run: %v", c.Name, err)
		}
		c.done <- nil
	case <-time.After(c.wait):
		c.t.Errorf("%s: Run did not end", c.Name)
	}
}

// Last is the latest that was told.
func (c *Candidate) Last() membership.Leadership {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.history) == 0 {
		return membership.Leadership{}
	}
	return c.history[len(c.history)-1]
}

// Until waits until ok holds of the latest that was told.
func (c *Candidate) Until(what string, ok func(membership.Leadership) bool) membership.Leadership {
	c.t.Helper()
	deadline := time.After(c.wait)
	for {
		c.mu.Lock()
		next := c.changed
		c.mu.Unlock()
		if l := c.Last(); ok(l) {
			return l
		}
		select {
		case <-next:
		case <-deadline:
			c.t.Fatalf("%s: %s did not come; was told %+v", c.Name, what, c.Last())
		}
	}
}

func (c *Candidate) lead() membership.Leadership {
	c.t.Helper()
	return c.Until("leadership", func(l membership.Leadership) bool { return l.Mine })
}

func (c *Candidate) follow(leader string) membership.Leadership {
	c.t.Helper()
	return c.Until("leader "+leader, func(l membership.Leadership) bool { return l.Leader == leader && !l.Mine })
}

// wasTold reports whether ok held of anything told from the i-th on.
func (c *Candidate) wasTold(from int, ok func(membership.Leadership) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.history[from:] {
		if ok(l) {
			return true
		}
	}
	return false
}

func (c *Candidate) told() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.history)
}

func standbySeesLeader(t *testing.T, h Harness, zone string) {
	a := h.Start(t, zone, "a")
	mine := a.lead()
	if mine.Leader != "a" || mine.Epoch.IsZero() || mine.Epoch.Revision <= 0 {
		t.Fatalf("leader's own view: %+v", mine)
	}
	b := h.Start(t, zone, "b")
	if seen := b.follow("a"); seen.Epoch != mine.Epoch {
		t.Fatalf("standby sees epoch %v, the leader has %v", seen.Epoch, mine.Epoch)
	}
}

func resignHandsOver(t *testing.T, h Harness, zone string) {
	a := h.Start(t, zone, "a")
	first := a.lead()
	b := h.Start(t, zone, "b")
	b.follow("a")
	start := time.Now()
	a.Stop()
	second := b.lead()
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v after a resignation: that is a lease running out, not a hand-over", took)
	}
	if second.Epoch.Compare(first.Epoch) <= 0 {
		t.Fatalf("epoch %v after %v", second.Epoch, first.Epoch)
	}
	if a.Last().Mine {
		t.Fatal("resigned and never told Mine=false")
	}
}

func lostLeaderIsReplaced(t *testing.T, h Harness, zone string) {
	a := h.Start(t, zone, "a")
	first := a.lead()
	b := h.Start(t, zone, "b")
	b.follow("a")
	from := a.told()
	h.Lose(t, zone, "a")
	second := b.lead()
	if second.Epoch.Compare(first.Epoch) <= 0 {
		t.Fatalf("epoch %v after %v", second.Epoch, first.Epoch)
	}
	if seen := a.follow("b"); seen.Epoch != second.Epoch {
		t.Fatalf("the old leader sees epoch %v, the new one has %v", seen.Epoch, second.Epoch)
	}
	if !a.wasTold(from, func(l membership.Leadership) bool { return !l.Mine }) {
		t.Fatal("the old leader was never told")
	}
	// It stands again: when the new one resigns, it leads under a higher epoch.
	b.Stop()
	if third := a.lead(); third.Epoch.Compare(second.Epoch) <= 0 {
		t.Fatalf("epoch %v after %v", third.Epoch, second.Epoch)
	}
}

// forgottenLeaderLeadsOn: a leader that the registry has forgotten takes a new epoch and goes on, if nobody led between;
// who comes later learns since when it leads.
func forgottenLeaderLeadsOn(t *testing.T, h Harness, zone string) {
	a := h.Start(t, zone, "a")
	first := a.lead()
	if first.Since != first.Epoch {
		t.Fatalf("leads since %v under epoch %v", first.Since, first.Epoch)
	}
	from := a.told()
	h.Lose(t, zone, "a")
	second := a.Until("leadership under a higher epoch", func(l membership.Leadership) bool {
		return l.Mine && l.Epoch.Compare(first.Epoch) > 0
	})
	if a.wasTold(from, func(l membership.Leadership) bool { return !l.Mine }) {
		t.Fatalf("told Mine=false between %v and %v", first.Epoch, second.Epoch)
	}
	if second.Since != first.Epoch {
		t.Fatalf("leads since %v, told as %v", first.Epoch, second.Since)
	}
	b := h.Start(t, zone, "b")
	if seen := b.follow("a"); seen.Epoch != second.Epoch || seen.Since != first.Epoch {
		t.Fatalf("the standby sees %+v, the leader is %+v", seen, second)
	}
	a.Stop()
	if third := b.lead(); third.Since != third.Epoch {
		t.Fatalf("the next leader leads since %v under epoch %v", third.Since, third.Epoch)
	}
}

// heardOfAnother: a leader that hears of a higher epoch stops at once and lets a standby lead.
func heardOfAnother(t *testing.T, h Harness, zone string) {
	a := h.Start(t, zone, "a")
	first := a.lead()
	b := h.Start(t, zone, "b")
	b.follow("a")
	from := a.told()
	higher := api.Epoch{Generation: first.Epoch.Generation, Revision: first.Epoch.Revision + 1}
	a.Elector.Heard(membership.Leadership{Leader: "x", Epoch: higher, Since: first.Epoch})
	second := b.lead()
	a.follow("b")
	if seen := a.snapshot()[from]; seen != (membership.Leadership{Leader: "x", Epoch: higher, Since: first.Epoch}) {
		t.Fatalf("the leader made of what it heard: %+v", seen)
	}
	b.Stop()
	if third := a.lead(); third.Epoch.Compare(second.Epoch) <= 0 || third.Since != third.Epoch {
		t.Fatalf("leads again as %+v after %+v", third, second)
	}
}

func heardOfAnotherAlone(t *testing.T, h Harness, zone string) {
	a := h.Start(t, zone, "a")
	first := a.lead()
	from := a.told()
	higher := api.Epoch{Generation: first.Epoch.Generation, Revision: first.Epoch.Revision + 1}
	a.Elector.Heard(membership.Leadership{Epoch: higher})
	second := a.Until("leadership above what was heard", func(l membership.Leadership) bool {
		return l.Mine && l.Epoch.Compare(higher) > 0
	})
	if seen := a.snapshot()[from]; seen.Mine || seen.Leader != "" || seen.Epoch != higher {
		t.Fatalf("the leader made of what it heard: %+v", seen)
	}
	if second.Since != second.Epoch {
		t.Fatalf("leads since %v though it stopped before %v", second.Since, second.Epoch)
	}
}

func heardNothingNew(t *testing.T, h Harness, zone string) {
	a := h.Start(t, zone, "a")
	first := a.lead()
	b := h.Start(t, zone, "b")
	seen := b.follow("a")
	for _, c := range []*Candidate{a, b} {
		c.Elector.Heard(membership.Leadership{Leader: "a", Epoch: first.Epoch})
		c.Elector.Heard(membership.Leadership{Leader: "x", Epoch: api.Epoch{Generation: first.Epoch.Generation, Revision: first.Epoch.Revision - 1}})
	}
	// A standby that knows who leads learns nothing from an epoch without a name.
	b.Elector.Heard(membership.Leadership{Epoch: api.Epoch{Generation: first.Epoch.Generation, Revision: first.Epoch.Revision + 1}})
	b.Elector.Heard(membership.Leadership{Leader: "y", Epoch: api.Epoch{Generation: first.Epoch.Generation, Revision: first.Epoch.Revision + 2}})
	b.follow("y") // all before was taken in
	if n := b.snapshot(); n[len(n)-2] != seen {
		t.Fatalf("the standby was told %+v", n)
	}
	if l := a.Last(); l != first {
		t.Fatalf("the leader was %+v, is %+v", first, l)
	}
}

// oneLeaderAtATime removes leader after leader: no epoch is led by two, and epochs strictly grow over leaders.
func oneLeaderAtATime(t *testing.T, h Harness, zone string) {
	all := map[string]*Candidate{}
	names := []string{"a", "b", "c", "d"}
	for _, n := range names {
		all[n] = h.Start(t, zone, n)
	}
	var last api.Epoch
	for round := range 6 {
		leader := leaderAbove(t, h, all, names, last)
		if e := all[leader].Last().Epoch; e.Compare(last) <= 0 {
			t.Fatalf("epoch %v after %v", e, last)
		} else {
			last = e
		}
		if round%2 == 0 {
			h.Lose(t, zone, leader)
			continue
		}
		all[leader].Stop()
		all[leader] = h.Start(t, zone, leader)
	}
	led := map[api.Epoch]string{}
	for _, n := range names {
		for _, l := range all[n].snapshot() {
			if !l.Mine {
				continue
			}
			if other, ok := led[l.Epoch]; ok && other != n {
				t.Errorf("epoch %v was led by %s and %s", l.Epoch, other, n)
			}
			led[l.Epoch] = n
		}
	}
}

func (c *Candidate) snapshot() []membership.Leadership {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]membership.Leadership(nil), c.history...)
}

func leaderAbove(t *testing.T, h Harness, all map[string]*Candidate, names []string, above api.Epoch) string {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(h.Patience)
	for {
		for _, n := range names {
			if l := all[n].Last(); l.Mine && l.Epoch.Compare(above) > 0 {
				return n
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no leader above epoch %v", above)
		}
	}
}

func zonesApart(t *testing.T, h Harness, zone string) {
	a, b := h.Start(t, zone, "a"), h.Start(t, zone+"2", "b")
	a.lead()
	b.lead()
}

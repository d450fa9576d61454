package coordinator

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/storytest"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newPlanner(t interface{ Fatal(...any) }) *Planner {
	p, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// player turns the lines of a story into events.
type player struct {
	t    *testing.T
	p    *Planner
	now  time.Time
	seq  uint64
	last []api.Share
	out  strings.Builder
}

func (pl *player) step(ev *Event) {
	fmt.Fprintf(&pl.out, "  %v\n", ev)
	for _, a := range pl.p.Step(pl.now, ev, nil) {
		fmt.Fprintf(&pl.out, "    -> %v\n", a)
		if a.Kind == ProposeShares {
			pl.last = a.Shares
		}
	}
}

func (pl *player) line(line string) {
	w := strings.Fields(line)
	var n [3]int
	for i := 2; i < len(w) && i < 5; i++ {
		fmt.Sscan(w[i], &n[i-2]) //nolint:errcheck // words that are no numbers stay 0
	}
	switch w[0] {
	case "#":
	case "at":
		d, err := time.ParseDuration(w[1])
		if err != nil {
			pl.t.Fatal(err)
		}
		pl.now = t0.Add(d)
	case "zones":
		pl.step(&Event{Kind: ZonesChanged, Zones: w[1:]})
	case "lead", "follow":
		pl.step(&Event{Kind: LeaderChanged, Leading: w[0] == "lead"})
	case "tick":
		pl.step(&Event{Kind: Tick})
	case "committed":
		pl.step(&Event{Kind: SharesChanged, Shares: pl.last})
	case "digest":
		pl.seq++
		pl.step(&Event{Kind: DigestArrived, Digest: api.Digest{Zone: w[1], Seq: pl.seq, Slots: n[0], Busy: n[1], Queued: n[2]}})
	case "offer":
		pl.step(&Event{Kind: ModelOffered, Update: ModelUpdate{Zone: w[1], Seq: uint64(n[0]), Trees: []string{"d1", "d2"}}})
	case "done":
		var id uint64
		fmt.Sscan(w[1], &id) //nolint:errcheck // see above
		pl.step(&Event{Kind: MergeDone, MergeID: id, OK: w[2] == "ok"})
	default:
		pl.t.Fatalf("unknown line %q", line)
	}
}

// TestStories plays testdata/*.txtar: the transcript of events and actions.
func TestStories(t *testing.T) {
	storytest.Play(t, func(t *testing.T, lines []string) string {
		pl := &player{t: t, p: newPlanner(t), now: t0}
		for _, line := range lines {
			if strings.HasPrefix(line, "at ") || strings.HasPrefix(line, "#") {
				fmt.Fprintln(&pl.out, line)
			}
			pl.line(line)
		}
		return pl.out.String()
	})
}

// TestPlanProperties: whatever comes, a planner that does not lead asks for nothing; proposed shares never point to
// the sender, are at most 1000 permille per sender, name fresh zones only, and fit into the receiver's room; merges
// never overlap and stay within their bounds.
func TestPlanProperties(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f"}
	rapid.Check(t, func(t *rapid.T) {
		p := newPlanner(t)
		now, seq, leading, merging := t0, uint64(0), false, uint64(0)
		heard := map[string]time.Time{}
		last := map[string]api.Digest{}
		p.Step(now, &Event{Kind: ZonesChanged, Zones: names}, nil)
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			ev := &Event{Kind: EventKind(rapid.IntRange(1, 7).Draw(t, "kind"))}
			seq++
			switch ev.Kind {
			case LeaderChanged:
				ev.Leading = rapid.IntRange(0, 4).Draw(t, "lead") > 0
				leading, merging = ev.Leading, 0
			case ZonesChanged:
				ev.Zones = names
			case SharesChanged:
				ev.Shares = p.shares
			case DigestArrived:
				z := rapid.SampledFrom(names).Draw(t, "zone")
				count := rapid.OneOf(rapid.IntRange(0, 20), rapid.Just(1<<30))
				ev.Digest = api.Digest{Zone: z, Seq: seq, Slots: count.Draw(t, "slots"), Busy: count.Draw(t, "busy"), Queued: count.Draw(t, "queued")}
				heard[z], last[z] = now, ev.Digest
			case ModelOffered:
				ev.Update = ModelUpdate{Zone: rapid.SampledFrom(names).Draw(t, "zone"), Seq: rapid.Uint64Range(1, 300).Draw(t, "seq"), Trees: []string{"d"}}
			case MergeDone:
				ev.MergeID, ev.OK = p.merge.id, rapid.Bool().Draw(t, "ok")
				merging = 0
			}
			started := p.merge.until
			actions := p.Step(now, ev, nil)
			if !leading && len(actions) > 0 {
				t.Fatalf("does not lead and asks for %v", actions)
			}
			for _, a := range actions {
				switch a.Kind {
				case ProposeShares:
					checkShares(t, now, a.Shares, heard, last)
				case Merge:
					if merging != 0 && now.Before(started) {
						t.Fatalf("merge %d began while %d runs", a.MergeID, merging)
					}
					merging = a.MergeID
					if len(a.Updates) == 0 || len(a.Updates) > MaxPending*len(names) {
						t.Fatalf("merge of %d updates", len(a.Updates))
					}
				case Wake:
					if a.After < 0 {
						t.Fatalf("wake in the past: %v", a)
					}
				}
			}
			for _, z := range p.zones {
				if len(z.pending) > MaxPending {
					t.Fatalf("%d updates of %s wait", len(z.pending), z.name)
				}
			}
		}
	})
}

func checkShares(t *rapid.T, now time.Time, rows []api.Share, heard map[string]time.Time, last map[string]api.Digest) {
	sum, inflow := map[string]int{}, map[string]float64{}
	for i, s := range rows {
		if s.From == s.To || s.Permille < 1 {
			t.Fatalf("share %v", s)
		}
		if i > 0 && compareRows(rows[i-1], s) >= 0 {
			t.Fatalf("rows out of order at %v", s)
		}
		if sum[s.From] += s.Permille; sum[s.From] > api.MaxPermille {
			t.Fatalf("%d permille from %s", sum[s.From], s.From)
		}
		for _, z := range []string{s.From, s.To} {
			if now.Sub(heard[z]) > DefaultConfig().StaleAfter {
				t.Fatalf("share %v names %s, which is stale", s, z)
			}
		}
		from := last[s.From]
		inflow[s.To] += float64(load(&from)) * float64(s.Permille) / 1000
	}
	for z, in := range inflow {
		to := last[z]
		if have := float64(room(&to)) / pressureDen; in > have*(1+1e-9) {
			t.Fatalf("%s has room for %v and gets %v", z, have, in)
		}
	}
}

func TestStatusAndWhatIsDropped(t *testing.T) {
	p := newPlanner(t)
	p.Step(t0, &Event{Kind: ZonesChanged, Zones: []string{"b", "a", "a"}}, nil)
	for _, d := range []api.Digest{{Zone: "a", Seq: 2, Slots: 4}, {Zone: "a", Seq: 1, Slots: 9}, {Zone: "x", Seq: 1}, {Zone: "a", Seq: 3, Slots: -1}} {
		p.Step(t0, &Event{Kind: DigestArrived, Digest: d}, nil)
	}
	p.Step(t0, &Event{Kind: ModelOffered, Update: ModelUpdate{Zone: "b", Seq: 1, Trees: []string{"d"}}}, nil)
	p.Step(t0, &Event{Kind: ModelOffered, Update: ModelUpdate{Zone: "b", Seq: 2}}, nil)
	s := p.Status(t0.Add(6 * time.Second))
	if len(s) != 2 || s[0].Name != "a" || s[0].Digest.Slots != 4 || !s[0].Stale || s[0].Age != 6*time.Second || s[1].Heard || s[1].Pending != 1 {
		t.Fatalf("status %+v", s)
	}
	if p.Dropped() != 3 {
		t.Fatalf("dropped %d, want 3", p.Dropped())
	}
	// A new leader of the zone begins its sequence again, under a higher epoch.
	p.Step(t0, &Event{Kind: DigestArrived, Digest: api.Digest{Zone: "a", Epoch: api.Epoch{Revision: 1}, Seq: 1, Slots: 5}}, nil)
	if s := p.Status(t0); s[0].Digest.Slots != 5 || s[0].Stale {
		t.Fatalf("status %+v", s[0])
	}
}

func TestTableFitsTheLog(t *testing.T) {
	p := newPlanner(t)
	var names []string
	for i := range api.MaxZones {
		names = append(names, fmt.Sprintf("z%04d", i))
	}
	p.Step(t0, &Event{Kind: LeaderChanged, Leading: true}, nil)
	p.Step(t0, &Event{Kind: ZonesChanged, Zones: append(names, "zz")}, nil)
	if len(p.zones) != api.MaxZones {
		t.Fatalf("%d zones", len(p.zones))
	}
	for i, n := range names {
		p.Step(t0, &Event{Kind: DigestArrived, Digest: api.Digest{Zone: n, Seq: 1, Slots: 100, Busy: (i % 2) * 100}}, nil)
	}
	a := p.Step(t0.Add(2*time.Second), &Event{Kind: Tick}, nil)
	if len(a) == 0 || a[0].Kind != ProposeShares || len(a[0].Shares) == 0 || len(a[0].Shares) > api.MaxShares {
		t.Fatalf("%d actions", len(a))
	}
}

func TestConfigValidate(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"plan": func(c *Config) { c.PlanEvery = 0 }, "stale": func(c *Config) { c.StaleAfter = time.Second },
		"merge": func(c *Config) { c.MergeEvery = 0 }, "timeout": func(c *Config) { c.MergeTimeout = 0 },
		"change": func(c *Config) { c.MinChange = 1001 },
	} {
		cfg := DefaultConfig()
		spoil(&cfg)
		if _, err := New(cfg); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var zones []*zone
			for i := range n {
				zones = append(zones, &zone{name: fmt.Sprintf("z%04d", i), digest: api.Digest{Slots: 100, Busy: i * 37 % 101}})
			}
			b.ReportAllocs()
			for b.Loop() {
				if len(plan(zones)) == 0 {
					b.Fatal("no plan")
				}
			}
		})
	}
}

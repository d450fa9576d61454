package zoned

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

func (b *bed) view(s *scheduler) (z ZoneView) {
	b.t.Helper()
	raw, err := s.Query(b.ctx, "zone", "")
	if err := errors.Join(err, json.Unmarshal(raw, &z)); err != nil {
		b.t.Fatal(err)
	}
	return z
}

// What an operator switches off stays off: under the next leader, and after everything has restarted without the coordinator.
func TestSwitchesSurvive(t *testing.T) {
	b := newBed(t)
	dir := t.TempDir()
	lead, follow := b.scheduler("a", nil), b.scheduler("b", func(c *Config, _ *Deps) { c.Dir = dir })
	if z := b.view(follow); z.Mode != "on" || z.Policy != "rubato" || len(z.Modes) != 0 {
		t.Fatalf("at first: %+v", z)
	}
	for _, q := range [][2]string{{"mode", "off"}, {"mode", "canary=0.25 t/f"}, {"policy", "cidre"}} {
		if _, err := follow.Query(b.ctx, q[0], q[1]); err != nil {
			t.Fatal(err)
		}
	}
	is := func(z ZoneView) bool {
		return z.Mode == "off" && z.Policy == "cidre" && len(z.Modes) == 1 && z.Modes["t/f"] == "canary=0.25" && z.Fallback == "least-loaded"
	}
	if z := b.view(lead); !is(z) {
		t.Fatalf("at the leader at once: %+v", z)
	}
	applied := func(s *scheduler) bool {
		var core zonesched.Mode
		if err := s.view(b.ctx, func() { core = s.core.Mode() }); err != nil {
			t.Fatal(err)
		}
		return core.Kind == zonesched.ModeOff
	}
	b.until("the standby has heard", func() bool { return applied(follow) })
	lead.Kill()
	b.until("the standby leads", follow.leads)
	if z := b.view(follow); z.Leader != "b" || !is(z) {
		t.Fatalf("under the next leader: %+v", z)
	}
	follow.stop()
	follow.wait()
	b.quiet()
	again := b.scheduler("c", func(c *Config, _ *Deps) { c.Dir = dir })
	if z := b.view(again); !is(z) {
		t.Fatalf("after a restart: %+v", z)
	}
	// Without a coordinator a switch works at once, and says that it will not last.
	_, err := again.Query(b.ctx, "mode", "default")
	if !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), "only until another leads") {
		t.Errorf("an unrecorded switch: %v", err)
	}
	if z := b.view(again); z.Mode != "on" || z.Policy != "cidre" {
		t.Errorf("after it: %+v", z)
	}
}

func TestSwitchesTakenBack(t *testing.T) {
	b := newBed(t)
	s := b.scheduler("a", nil)
	for _, q := range [][2]string{{"mode", "shadow"}, {"mode", "off t/f"}, {"policy", "fixed-delay,20ms"}, {"mode", "default"}, {"mode", "default t/f"}, {"policy", "default"}} {
		if _, err := s.Query(b.ctx, q[0], q[1]); err != nil {
			t.Fatalf("%v: %v", q, err)
		}
	}
	if z := b.view(s); z.Mode != "on" || z.Policy != "rubato" || len(z.Modes) != 0 {
		t.Errorf("all taken back: %+v", z)
	}
	for arg, want := range map[string]error{"of": api.ErrInvalid, "canary=7": api.ErrInvalid, "off t/nobody": api.ErrNotFound} {
		if _, err := s.Query(b.ctx, "mode", arg); !errors.Is(err, want) {
			t.Errorf("mode %s: %v, want %v", arg, err, want)
		}
	}
}

// Settings of other zones, or under a key that is not theirs, are not this zone's.
func TestSettingsOfAZone(t *testing.T) {
	mine := strings.Fields("mode z t/f")
	all := settings{
		settingKey(mine): "mode z t/f off", settingKey([]string{"mode", "y"}): "mode y off", "mode-1": "mode z shadow",
		settingKey([]string{"mode", "z"}): "mode z of-another-version", "x": "", "y": "policy",
	}
	own := all.ofZone("z")
	cfg := zonesched.DefaultConfig()
	if ev := own.event(&cfg); len(own) != 2 || ev.Mode.Kind != "" || len(ev.Modes) != 1 || ev.Modes["t/f"].Kind != zonesched.ModeOff || ev.PolicyName != "rubato" {
		t.Errorf("%v gives %v", own, ev.String())
	}
}

// What is in force ahead of the catalogue is not undone by what the catalogue had before, and not kept against what it says later.
func TestSettingsAheadOfTheCatalogue(t *testing.T) {
	b := newBed(t)
	s := b.scheduler("a", nil)
	about := []string{"mode", s.cfg.Zone}
	key, text := settingKey(about), strings.Join(about, " ")
	ahead := &setting{value: text + " off"}
	for _, x := range []struct {
		rev, settled uint64
		want         string
	}{{0, 1000, "off"}, {1007, 1006, "off"}, {1007, 1007, "shadow"}, {1007, 1008, "shadow"}} {
		var got zonesched.Mode
		if err := s.view(b.ctx, func() {
			ahead.rev = x.rev
			s.ahead, s.committed, s.settled = map[string]*setting{key: ahead}, settings{key: text + " shadow"}, x.settled
			s.apply()
			got = s.core.Mode()
		}); err != nil {
			t.Fatal(err)
		}
		if got.Kind != x.want {
			t.Errorf("committed at %d, the catalogue at %d: %s, want %s", x.rev, x.settled, got.Kind, x.want)
		}
	}
}

// What an operator sets is held to the same limits as what stands in a file.
func TestWaitsOfPoliciesAreBounded(t *testing.T) {
	for text, good := range map[string]bool{"fixed-delay,250ms": true, "fixed-delay,2h": false, "fixed-delay,-1s": false, "rubato": true, "nonsense": false} {
		if _, _, err := readPolicy(text, policy.DefaultConfig()); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
}

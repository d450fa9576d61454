package zoned

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/coordinator/catalog"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// An operator's settings of the zone: which rule, and how far it acts, for the zone and for single functions. They live among
// the catalogue's policy settings, through raft, and so survive a take-over and a restart of everything. Each is one entry: its
// value is "policy ZONE NAME[,WAIT]", "mode ZONE MODE" or "mode ZONE TENANT/FUNCTION MODE", its key a digest of what it is about,
// since keys are names.
type settings map[string]string

// ofZone keeps the zone's own out of all.
func (s settings) ofZone(zone string) settings {
	own := settings{}
	for key, value := range s {
		if w := strings.Fields(value); len(w) >= 3 && w[1] == zone && settingKey(w[:len(w)-1]) == key {
			own[key] = value
		}
	}
	return own
}

// settingKey names the setting about something: "mode edge t/f".
func settingKey(about []string) string {
	return about[0] + "-" + strconv.FormatUint(zonesched.HashOf(strings.Join(about, " ")), 16)
}

// event is what the core is told. A setting that this version cannot read is left out.
func (s settings) event(cfg *zonesched.Config) zonesched.Event {
	ev := zonesched.Event{Kind: zonesched.EvPolicy, PolicyName: cfg.Policy, PolicyConfig: cfg.PolicyConfig, Modes: map[string]zonesched.Mode{}}
	for _, value := range s {
		w := strings.Fields(value)
		last := w[len(w)-1]
		switch {
		case w[0] == "policy":
			if name, c, err := readPolicy(last, cfg.PolicyConfig); err == nil {
				ev.PolicyName, ev.PolicyConfig = name, c
			}
		case w[0] == "mode":
			m, err := zonesched.ParseMode(last)
			switch {
			case err != nil:
			case len(w) == 3:
				ev.Mode = m
			default:
				ev.Modes[w[2]] = m
			}
		}
	}
	return ev
}

// readPolicy reads "rubato" or "fixed-delay,250ms".
func readPolicy(text string, cfg policy.Config) (string, policy.Config, error) {
	name, wait, has := strings.Cut(text, ",")
	if has {
		w, err := time.ParseDuration(wait)
		if err != nil {
			return "", cfg, fmt.Errorf("%w: wait %q: want a duration like 250ms", api.ErrInvalid, wait)
		}
		cfg.FixedDelay = w
	}
	if err := cfg.Validate(); err != nil {
		return "", cfg, err
	}
	if _, err := policy.New(name, cfg); err != nil {
		return "", cfg, err
	}
	return name, cfg, nil
}

// settingDefault takes a setting back.
const settingDefault = "default"

// setPolicy changes the rule in force: "rubato", "fixed-delay,250ms", or "default" for the configuration's.
func (d *Daemon) setPolicy(ctx context.Context, arg string) error {
	if arg != settingDefault {
		if _, _, err := readPolicy(arg, d.cfg.Sched.PolicyConfig); err != nil {
			return fmt.Errorf("%w; or default, for the configuration's", err)
		}
	}
	return d.set(ctx, []string{"policy", d.cfg.Zone}, arg)
}

// setMode changes how far the rule acts: "MODE" for the zone, "MODE TENANT/FUNCTION" for one function; "default" takes it back.
func (d *Daemon) setMode(ctx context.Context, arg string) error {
	mode, fn, ofFunction := strings.Cut(arg, " ")
	if mode != settingDefault {
		m, err := zonesched.ParseMode(mode)
		if err != nil {
			return fmt.Errorf("%w; or default, for the configuration's", err)
		}
		mode = m.String()
	}
	about := []string{"mode", d.cfg.Zone}
	if ofFunction {
		if _, ok := d.Function(fn); !ok && mode != settingDefault {
			return fmt.Errorf("%w: no function %q", api.ErrNotFound, fn)
		}
		about = append(about, fn)
	}
	return d.set(ctx, about, mode)
}

// set puts a setting in force here, at the leader, at once, and then commits it. An operator who stops something in an emergency
// must not wait for a majority of coordinators; without one, he is told how long the setting will hold.
func (d *Daemon) set(ctx context.Context, about []string, value string) error {
	key, text := settingKey(about), ""
	if value != settingDefault {
		text = strings.Join(append(about, value), " ")
	}
	s := &setting{value: text}
	leads := false
	if err := d.view(ctx, func() {
		if leads = d.leads(); !leads {
			return
		}
		if d.ahead == nil {
			d.ahead = map[string]*setting{}
		}
		d.ahead[key] = s
		d.apply()
	}); err != nil {
		return err
	}
	if !leads {
		return fmt.Errorf("%w: zone %s has another leader now", api.ErrUnavailable, d.cfg.Zone)
	}
	r, err := d.control(ctx, "", catalog.Command{Kind: catalog.PutPolicy, Policy: map[string]string{key: text}})
	if err != nil {
		return fmt.Errorf("in force at the leader of zone %s, but not recorded, so only until another leads: %w", d.cfg.Zone, err)
	}
	d.call(func() { s.rev = r.Revision; d.apply() })
	return nil
}

// setting is one that is in force ahead of the catalogue, which may still be telling an older one.
type setting struct {
	value string // "": taken back
	rev   uint64 // of the catalogue that has it, 0 before it is committed: from then on the catalogue's word counts
}

// apply puts settings in force; on the loop.
func (d *Daemon) apply() {
	now := settings{}
	maps.Copy(now, d.committed)
	for key, s := range d.ahead {
		switch {
		case s.rev > 0 && s.rev <= d.settled:
			delete(d.ahead, key)
		case s.value == "":
			delete(now, key)
		default:
			now[key] = s.value
		}
	}
	ev := now.event(&d.cfg.Sched)
	d.step(&ev)
}

// FunctionModes are the functions with a mode of their own, by "tenant/name", as `rubato functions` shows them.
type FunctionModes map[string]string

func functionModes(core *zonesched.Zone) FunctionModes {
	out := FunctionModes{}
	for id, m := range core.FunctionModes() {
		out[id] = m.String()
	}
	return out
}

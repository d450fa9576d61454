package zonesched

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

var update = flag.Bool("update", false, "rewrite the expected transcripts")

// player turns the lines of a story into events:
//
//	at 10ms                 the time since the beginning
//	node N slots warm       a report
//	call ID fn [async] [budget=100]
//	done ID N [attempt]     a completion; refuse ID N: of a call that did not run
//	idempotent fn           calls of it may be sent to a second node, without a budget
//	wake ID                 the last wake asked for
//	mode KIND [t/fn]        an operator's setting
//	tick, cancel ID, explain ID
type player struct {
	*bed
	gens  map[string]uint32
	modes map[string]Mode
	out   strings.Builder
}

func (p *player) tell(acts []Action) {
	for i := range acts {
		a := &acts[i]
		if a.Kind == ActWake {
			p.gens[a.ID] = a.Gen
			fmt.Fprintf(&p.out, "  -> wake %s at %v\n", a.ID, a.At.Sub(t0))
			continue
		}
		fmt.Fprintf(&p.out, "  -> %v\n", a)
	}
}

func (p *player) line(line string) {
	w := strings.Fields(line)
	num := func(i int) (n int) {
		if _, err := fmt.Sscan(w[i], &n); err != nil {
			p.t.Fatalf("%q: %v", line, err)
		}
		return n
	}
	fmt.Fprintln(&p.out, line)
	switch w[0] {
	case "#":
	case "at":
		d, err := time.ParseDuration(w[1])
		if err != nil {
			p.t.Fatal(err)
		}
		p.now = t0.Add(d)
	case "node":
		p.tell(p.node(w[1], num(2), num(3)))
	case "call":
		p.tell(p.invoke(w[1], w[2], func(i *api.Invocation) {
			for _, o := range w[3:] {
				i.Async = i.Async || o == "async"
				if v, ok := strings.CutPrefix(o, "budget="); ok {
					fmt.Sscan(v, &i.BudgetMs) //nolint:errcheck // a fault shows in the transcript
				}
			}
		}))
	case "done", "refuse":
		p.tell(p.done(w[1], w[2], func(c *wire.Completion) {
			if k := p.z.calls[w[1]]; k != nil {
				c.Attempt = k.attempt
			}
			if len(w) > 3 {
				c.Attempt = uint8(num(3))
			}
			if w[0] == "refuse" {
				c.Outcome, c.Code, c.Sandboxes = api.OutcomeRefused, api.CodeOverloaded, nil
			}
		}))
	case "wake":
		p.tell(p.step(&Event{Kind: EvWake, ID: w[1], Gen: p.gens[w[1]]}))
	case "mode":
		m, err := ParseMode(w[1])
		if err != nil {
			p.t.Fatal(err)
		}
		if len(w) > 2 {
			p.modes[w[2]], m = m, p.z.mode
		}
		p.tell(p.step(&Event{Kind: EvPolicy, PolicyName: p.z.cfg.Policy, PolicyConfig: p.z.cfg.PolicyConfig, Mode: m, Modes: maps.Clone(p.modes)}))
	case "idempotent":
		p.z.fns["t/"+w[1]].spec.Idempotent, p.z.cfg.HedgeBudget = true, 1
	case "tick":
		p.tell(p.step(&Event{Kind: EvTick}))
	case "cancel":
		p.tell(p.step(&Event{Kind: EvCancel, ID: w[1]}))
	case "explain":
		d, _ := p.z.Decision(w[1])
		for _, l := range strings.Split(strings.TrimSpace(d.Explain()), "\n") {
			fmt.Fprintln(&p.out, "  |", l)
		}
	default:
		p.t.Fatalf("unknown line %q", line)
	}
}

// TestStories plays testdata/*.txt and compares what the zone wants done with *.golden.
func TestStories(t *testing.T) {
	stories, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(stories) == 0 {
		t.Fatal("no stories", err)
	}
	for _, path := range stories {
		t.Run(filepath.Base(path), func(t *testing.T) {
			src, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			p := &player{bed: newBed(t, nil), gens: map[string]uint32{}, modes: map[string]Mode{}}
			for _, line := range strings.Split(strings.TrimSpace(string(src)), "\n") {
				p.line(line)
			}
			golden := strings.TrimSuffix(path, ".txt") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(p.out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got := p.out.String(); got != string(want) {
				t.Errorf("transcript differs (-update rewrites it):\n%s", got)
			}
		})
	}
}

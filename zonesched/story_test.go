package zonesched

import (
	"flag"
	"fmt"
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
//	function NAME [off]     one more function like f; off: its calls are never held back
//	call ID fn [async] [budget=100] [key=K]
//	done ID N [cold=20]     a completion, of a cold start of 20 ms
//	refuse ID N             a completion that says that nothing ran
//	grant ZONE ID SLOTS     another zone's promise of room, for a second
//	answer ID ZONE          what another zone made of a forwarded call
//	wake ID                 the last wake asked for
//	tick, cancel ID, explain ID
type player struct {
	*bed
	gens map[string]uint32
	out  strings.Builder
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
	case "function":
		spec, _ := p.z.Function("t/f")
		spec.Name, spec.DelayOff = w[1], len(w) > 2 && w[2] == "off"
		p.tell(p.step(&Event{Kind: EvFunctions, Functions: []api.Function{spec}}))
	case "call":
		p.tell(p.invoke(w[1], w[2], func(i *api.Invocation) {
			for _, o := range w[3:] {
				i.Async = i.Async || o == "async"
				if v, ok := strings.CutPrefix(o, "budget="); ok {
					fmt.Sscan(v, &i.BudgetMs) //nolint:errcheck // a fault shows in the transcript
				}
				if v, ok := strings.CutPrefix(o, "key="); ok {
					i.IdemKey = v
				}
			}
		}))
	case "done", "refuse":
		p.tell(p.done(w[1], w[2], func(c *wire.Completion) {
			if k := p.z.calls[w[1]]; k != nil {
				c.Attempt = k.attempt
			}
			if w[0] == "refuse" {
				c.Outcome, c.Code, c.Sandboxes = api.OutcomeRefused, api.CodeOverloaded, nil
			}
			for _, o := range w[3:] {
				if v, ok := strings.CutPrefix(o, "cold="); ok {
					c.Start = api.SandboxPrepared
					fmt.Sscan(v, &c.InitMs) //nolint:errcheck // a fault shows in the transcript
				}
			}
		}))
	case "grant":
		p.tell(p.step(&Event{Kind: EvGrant, Grant: &wire.Grant{
			ID: uint64(num(2)), From: w[1], To: "z", Epoch: api.Epoch{Generation: 1, Revision: 9}, Slots: num(3), TTLMs: 1000, MeanMs: 10,
		}}))
	case "answer":
		p.tell(p.step(&Event{Kind: EvForwardDone, ID: w[1], Answer: &wire.Answer{ID: w[1], Timing: wire.Timing{Zone: w[2], Node: w[2] + "-n", RunMs: 10}}}))
	case "wake":
		p.tell(p.step(&Event{Kind: EvWake, ID: w[1], Gen: p.gens[w[1]]}))
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
			p := &player{bed: newBed(t, nil), gens: map[string]uint32{}}
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

package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/client"
	"github.com/rubato-faas/rubato/coordinator/globald"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/zoned"
)

func newNodes(g *globals) *cobra.Command {
	var zone string
	cmd := &cobra.Command{
		Use: "nodes", Short: "Show the zone's nodes: slots, memory, sandboxes, cached objects", Args: cobra.NoArgs, Example: "  rubato nodes\n  rubato nodes --zone edge -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				var nodes []zonesched.NodeView
				if err := c.Look(ctx, view("nodes", zone), &nodes); err != nil {
					return err
				}
				return g.show(cmd, nodes, "NODE\tZONE\tSTATE\tSLOTS\tMEMORY\tLABELS\tOBJECTS\tSANDBOXES", func(row func(...any)) {
					for _, n := range nodes {
						var boxes []string
						for _, s := range n.Sandboxes {
							boxes = append(boxes, fmt.Sprintf("%s %s idle=%d busy=%d", s.Function, s.State, s.Idle, s.Busy))
						}
						row(n.Name, n.Zone, nodeState(&n), fmt.Sprintf("%d/%d", n.Running, n.Slots), fmt.Sprintf("%d/%d MB", n.MemUsedMB, n.MemMB), labels(n.Labels),
							fmt.Sprintf("%d (%s)", n.Objects, size(n.ObjectBytes)), strings.Join(boxes, "; "))
					}
				})
			})
		},
	}
	g.addZone(cmd, &zone)
	return cmd
}

// view is the path of a look at a zone, with what it asks for.
func view(name, zone string, params ...string) string {
	q := url.Values{}
	if zone != "" {
		q.Set("zone", zone)
	}
	for i := 0; i+1 < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	if len(q) == 0 {
		return name
	}
	return name + "?" + q.Encode()
}

func nodeState(n *zonesched.NodeView) string {
	switch {
	case !n.Live:
		return "lost"
	case n.Draining:
		return "draining"
	case n.Quarantined:
		return "quarantined"
	case n.KeptFor != "":
		return "kept for " + n.KeptFor
	case n.Offered < n.Slots:
		return "starting"
	}
	return "live"
}

func newZones(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "zones", Short: "Show all zones as the coordinator sees them, and the shares between them", Args: cobra.NoArgs, Example: "  rubato zones -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				var s globald.Status
				if err := c.Look(ctx, "zones", &s); err != nil {
					return err
				}
				return g.show(cmd, s, "ZONE\tTIER\tREGION\tEPOCH\tBUSY\tQUEUED\tDELAYED\tRULE\tMAY SEND TO", func(row func(...any)) {
					for i := range s.Zones {
						z := &s.Zones[i]
						if !z.Heard {
							row(z.Name, "-", "-", "-", "-", "-", "-", "-", "not heard of yet") // its digest is empty, without a name too
							continue
						}
						var to []string
						for _, sh := range s.Shares {
							if sh.From == z.Name {
								to = append(to, fmt.Sprintf("%s %.1f %%", sh.To, float64(sh.Permille)/10))
							}
						}
						row(z.Name, z.Digest.Tier, z.Digest.Region, z.Digest.Epoch, fmt.Sprintf("%d/%d", z.Digest.Busy, z.Digest.Slots), z.Digest.Queued, z.Digest.Delayed, ruleOf(&z.Digest), strings.Join(to, ", "))
					}
				})
			})
		},
	}
}

// hindsight is what a candidate would have taken, as far as is known afterwards.
func hindsight(k *zonesched.Candidate) string {
	if k.Hindsight == "" {
		return "-"
	}
	return ms(k.HindsightMs) + " " + k.Hindsight
}

// ruleOf says by what a zone decides, "rubato on", and what its guards have changed about that: "rubato on, waiting stopped".
func ruleOf(d *api.Digest) string {
	s := strings.TrimSpace(d.Policy + " " + d.Mode)
	if d.Guarded {
		s += ", waiting stopped"
	}
	if d.Distrusted {
		s += ", forest distrusted"
	}
	if d.FallbackDecides {
		s += ", fallback decides"
	}
	return s
}

func newModel(g *globals) *cobra.Command {
	var zone string
	cmd := &cobra.Command{
		Use: "model", Short: "Show the zone's model: samples, version, trees, error against averages", Args: cobra.NoArgs, Example: "  rubato model\n  rubato model --zone edge",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				var m zoned.ModelView
				if err := c.Look(ctx, view("model", zone), &m); err != nil {
					return err
				}
				return g.show(cmd, m, "ZONE\tVERSION\tSAMPLES\tTREES own/foreign/residual\tERROR OVER AVERAGES\tGUARDED\tDIGEST", func(row func(...any)) {
					s := m.Stats
					row(m.Zone, s.Version, s.Usable, fmt.Sprintf("%d/%d/%d", s.Own, s.Foreign, s.Residual), fmt.Sprintf("%.2f", s.ErrorOverAverages), s.Guarded, short(m.Digest))
				})
			})
		},
	}
	g.addZone(cmd, &zone)
	return cmd
}

func newExplain(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "explain ID", Short: "Say in words why a call went where it went", Args: cobra.ExactArgs(1),
		Long:    "explain shows the decision about one of the zone's last calls: candidates, estimates, bounds, the clause that decided, and what then happened. OTHERS MS is what a choice costs other calls: what it pushes out, and slots that it leaves without memory; OWNER MS what the function's weights make of its price and of a missed deadline. invoke -v prints ids.",
		Example: "  rubato explain 01k9...\n  rubato explain 01k9... -o json",
		RunE: func(cmd *cobra.Command, a []string) error {
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				var e zoned.Explanation
				if err := c.Look(ctx, "invocations/"+url.PathEscape(a[0])+"/explain", &e); err != nil {
					return err
				}
				if g.output == "json" {
					return writeJSON(cmd.OutOrStdout(), e)
				}
				fmt.Fprintln(cmd.OutOrStdout(), e.Words)
				return table(cmd.OutOrStdout(), "NODE\tFREE\tSTART MS\tSANDBOX\tTO FETCH\tEXEC MS\tBOUND MS\tOTHERS MS\tOWNER MS\tCOST MS\tEXPECTED MS\tHINDSIGHT MS", func(row func(...any)) {
					for i, k := range e.Candidates {
						mark := ""
						if i == e.Best {
							mark = " *"
						}
						row(k.Node+mark, k.Free, ms(k.StartMs), k.Sandbox, size(k.Missing), ms(k.ExecMs), ms(k.UpperMs), ms(k.EvictMs+k.PushMs+k.StrandMs), ms(k.PriceMs+k.MissMs), ms(k.CostMs), fmt.Sprintf("%s (%s-%s)", ms(k.ExpectedMs), ms(k.LowMs), ms(k.HighMs)), hindsight(&k))
					}
				})
			})
		},
	}
}

func newTail(g *globals) *cobra.Command {
	var n int
	var zone string
	cmd := &cobra.Command{
		Use: "tail", Short: "Show the last decisions, and watch those that follow", Args: cobra.NoArgs, Annotations: map[string]string{watches: "yes"},
		Long: `tail prints the zone's last decisions (200 at most) and then each one as it is made, until interrupted or after --timeout.
With -n it ends after so many: the last ones, if there have been as many. With -o json it prints one document a line.`,
		Example: "  rubato tail\n  rubato tail -n 10 -o json\n  rubato tail --zone edge",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n < 0 {
				return usage("--number %d: want 0 or more", n)
			}
			return g.within(cmd, func(ctx context.Context, c *client.Client) error { return tail(ctx, cmd, g, c, zone, n) })
		},
	}
	g.addZone(cmd, &zone)
	cmd.Flags().IntVarP(&n, "number", "n", 0, "decisions to show, the newest that there are and then new ones (0: until interrupted)")
	return cmd
}

// tailEvery is how often tail asks for what is new.
const tailEvery = 250 * time.Millisecond

func tail(ctx context.Context, cmd *cobra.Command, g *globals, c *client.Client, zone string, n int) error {
	w := cmd.OutOrStdout()
	if g.output == "table" {
		fmt.Fprintf(w, "%-26s  %-24s %-9s %-22s %-10s %9s %9s\n", "ID", "FUNCTION", "KIND", "CLAUSE", "NODE", "WAITED MS", "EXEC MS")
	}
	t := time.NewTicker(tailEvery)
	defer t.Stop()
	var since uint64
	for shown := 0; ; {
		var page zoned.Tail
		if err := c.Look(ctx, view("decisions", zone, "since", strconv.FormatUint(since, 10)), &page); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if latest := len(page.Decisions) - n; since == 0 && n > 0 && latest > 0 {
			page.Decisions = page.Decisions[latest:]
		}
		since = page.Next
		for i := range page.Decisions {
			if err := printDecision(cmd, g, &page.Decisions[i]); err != nil {
				return err
			}
			if shown++; n > 0 && shown >= n {
				return nil
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func printDecision(cmd *cobra.Command, g *globals, d *zonesched.Decision) error {
	if g.output == "json" {
		return writeJSONLine(cmd.OutOrStdout(), d)
	}
	node := "-"
	if d.Best >= 0 && d.Best < len(d.Candidates) {
		node = d.Candidates[d.Best].Node
	}
	if d.Timing.Node != "" {
		node = d.Timing.Node
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%-26s  %-24s %-9s %-22s %-10s %9.1f %9.1f\n", d.ID, d.Function, d.Kind, d.Clause, node, d.Timing.DelayMs+d.Timing.QueueMs, d.ExecMs)
	return err
}

func newPolicy(g *globals) *cobra.Command {
	var wait time.Duration
	var mode, function, zone string
	cmd := &cobra.Command{
		Use: "policy [NAME]", Short: "Change the rule that a zone schedules by, or how far it acts", Args: cobra.MaximumNArgs(1),
		Long: "policy NAME changes the rule at once: " + strings.Join(policies, ", ") + `. policy --mode MODE says how far it acts: on;
canary=SHARE (0.05 or 5%), on a share of the calls (canary alone: the configuration's); shadow, where it is only recorded and the zone's
fallback decides; off, where the fallback decides alone and nothing waits beside a free slot. With --function it concerns one
function; off for the whole zone is above that. "default", as a NAME or a MODE, goes back to the configuration. It is in force
at once, outlives leaders and restarts, and is shown by zones and functions. It concerns one zone, that of the server unless
--zone names another: to stop waiting everywhere, say it for each zone that "rubato zones" shows.`,
		Example: "  rubato policy --mode off\n  rubato policy --mode off --zone edge\n  rubato policy --mode canary=0.05 --function wordcount\n  rubato policy --mode default\n  rubato policy fixed-delay --wait 100ms",
		ValidArgsFunction: func(_ *cobra.Command, a []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(a) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return append(slices.Clone(policies), "default"), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, a []string) error {
			switch {
			case (len(a) == 0) == (mode == ""):
				return usage("want a NAME or --mode, and not both")
			case function != "" && mode == "":
				return usage("--function goes with --mode")
			case cmd.Flags().Changed("wait") && (mode != "" || !strings.HasPrefix(a[0], "fixed-delay")):
				return usage("--wait goes with fixed-delay or fixed-delay-matched")
			case cmd.Flags().Changed("wait") && (wait < time.Millisecond || wait%time.Millisecond != 0):
				return usage("--wait %v: want whole milliseconds, at least 1ms", wait)
			}
			change := client.PolicyChange{Zone: zone, WaitMs: wait.Milliseconds(), Mode: mode, Function: function}
			if len(a) > 0 {
				change.Policy = a[0]
			}
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				var r zoned.Ruling
				if err := c.SetPolicy(ctx, change, &r); err != nil {
					return err
				}
				return g.show(cmd, r, "ZONE\tRULE\tMODE\tFALLBACK\tFUNCTIONS WITH A MODE OF THEIR OWN", func(row func(...any)) {
					var own []string
					for _, id := range slices.Sorted(maps.Keys(r.Modes)) {
						own = append(own, id+" "+r.Modes[id])
					}
					rule := r.Policy
					if r.WaitMs > 0 {
						rule += " " + time.Duration(r.WaitMs*float64(time.Millisecond)).String()
					}
					row(r.Zone, rule, r.Mode, r.Fallback, cmp.Or(strings.Join(own, ", "), "-"))
				})
			})
		},
	}
	g.addZone(cmd, &zone)
	cmd.Flags().DurationVar(&wait, "wait", 0, "the wait of fixed-delay and fixed-delay-matched (default: the configuration's)")
	cmd.Flags().StringVar(&mode, "mode", "", "how far the rule acts: on, canary=SHARE, shadow, off or default")
	cmd.Flags().StringVar(&function, "function", "", "the function that --mode is about (NAME, or TENANT/NAME)")
	complete(cmd, "mode", "on", "canary=0.05", "shadow", "off", "default")
	_ = cmd.RegisterFlagCompletionFunc("function", g.functionNames) // the flag exists
	return cmd
}

func newFlush(g *globals) *cobra.Command {
	var zone string
	cmd := &cobra.Command{
		Use: "flush", Short: "Empty all sandboxes and caches of the zone's nodes", Args: cobra.NoArgs, Example: "  rubato flush\n  rubato flush --zone edge",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.within(cmd, func(ctx context.Context, c *client.Client) error { return c.Flush(ctx, zone) })
		},
	}
	g.addZone(cmd, &zone)
	return cmd
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/client"
	"github.com/rubato-faas/rubato/coordinator/globald"
)

// globals are the flags that all commands against a front door share.
type globals struct {
	server, token, tenant, output string
	timeout                       time.Duration
	getenv                        func(string) string
}

// errUsage marks wrong usage: exit code 2.
var errUsage = errors.New("usage")

func usage(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errUsage}, args...)...)
}

func exitCode(err error) int {
	switch {
	case errors.Is(err, errUsage):
		return 2
	case errors.Is(err, api.ErrFunction):
		return 3
	}
	return 1
}

// addClientCommands adds everything that talks to a front door.
func addClientCommands(root *cobra.Command, getenv func(string) string) {
	g := &globals{getenv: getenv}
	cmds := []*cobra.Command{
		newDeploy(g), newFunctions(g), newDelete(g), newInvoke(g), newResult(g), newCancel(g), newPut(g), newGet(g), newObjects(g), newRemove(g),
		newNodes(g), newZones(g), newModel(g), newExplain(g), newTail(g), newRecord(g), newLogs(g), newPrewarm(g), newPolicy(g), newFlush(g),
	}
	for _, c := range cmds {
		f := c.Flags()
		f.StringVar(&g.server, "server", cmp.Or(getenv("RUBATO_SERVER"), "http://127.0.0.1:7070"), "front doors, comma separated; the first that answers serves (RUBATO_SERVER)")
		f.StringVar(&g.token, "token", "", "bearer token (default: RUBATO_TOKEN)")
		f.StringVar(&g.tenant, "tenant", getenv("RUBATO_TENANT"), "tenant, where the door asks for no token (RUBATO_TENANT)")
		addOutput(c, &g.output)
		limit := time.Minute
		if c.Annotations[watches] != "" {
			limit = 0
		}
		f.DurationVar(&g.timeout, "timeout", limit, "longest time for the whole command (0: none)")
		root.AddCommand(c)
	}
}

// watches marks commands that go on until they are interrupted: they have no time limit unless they are given one.
const watches = "watches"

// addOutput gives a command -o, with its completion; checkOutput refuses what is neither.
func addOutput(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "table", "table or json")
	complete(cmd, "output", "table", "json")
}

// complete offers values for a flag. Of a flag that takes several, separated by commas, it offers the next one.
func complete(cmd *cobra.Command, flag string, values ...string) {
	several := cmd.Flags().Lookup(flag).Value.Type() == "stringSlice"
	_ = cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) { // the flag exists
		if i := strings.LastIndexByte(begun, ','); several && i >= 0 {
			var out []string
			for _, v := range values {
				out = append(out, begun[:i+1]+v)
			}
			return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
		return values, cobra.ShellCompDirectiveNoFileComp
	})
}

// logLevels are those of --log.
var logLevels = []string{"debug", "info", "warn", "error"}

func checkOutput(output string) error {
	if output != "table" && output != "json" {
		return usage("--output %q: want table or json", output)
	}
	return nil
}

func (g *globals) client() (*client.Client, error) {
	if err := checkOutput(g.output); err != nil {
		return nil, err
	}
	if g.timeout < 0 {
		return nil, usage("--timeout %v: want 0 or more", g.timeout)
	}
	token := cmp.Or(g.token, g.getenv("RUBATO_TOKEN")) // no default of the flag: help would show it
	c, err := client.New(strings.Split(g.server, ","), client.WithToken(token), client.WithTenant(g.tenant))
	if err != nil {
		return nil, usage("--server: %v", err)
	}
	return c, nil
}

// completionTimeout bounds what a press of the tab key waits for a front door: without one, the client tries for seconds.
const completionTimeout = 2 * time.Second

// addZone gives a command --zone, with its completion.
func (g *globals) addZone(cmd *cobra.Command, zone *string) {
	cmd.Flags().StringVar(zone, "zone", "", "zone that is meant (default: the server's)")
	_ = cmd.RegisterFlagCompletionFunc("zone", g.zoneNames) // the flag exists
}

// functionNames completes the names of deployed functions.
func (g *globals) functionNames(cmd *cobra.Command, a []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(a) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return g.asked(cmd, func(ctx context.Context, c *client.Client) (names []string, err error) {
		fns, err := c.Functions(ctx)
		for _, f := range fns {
			names = append(names, f.Name)
		}
		return names, err
	})
}

// zoneNames completes the names of zones.
func (g *globals) zoneNames(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return g.asked(cmd, func(ctx context.Context, c *client.Client) (names []string, err error) {
		var s globald.Status
		err = c.Look(ctx, "zones", &s)
		for i := range s.Zones {
			names = append(names, s.Zones[i].Name)
		}
		return names, err
	})
}

// asked completes with what a front door says.
func (g *globals) asked(cmd *cobra.Command, ask func(context.Context, *client.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	c, err := g.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	names, err := ask(ctx, c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// table prints rows under a heading.
func table(w io.Writer, heading string, rows func(row func(cells ...any))) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, heading)
	rows(func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(tw, "\t")
			}
			fmt.Fprint(tw, c)
		}
		fmt.Fprintln(tw)
	})
	return tw.Flush()
}

// show prints v as JSON, or as a table made by rows.
func (g *globals) show(cmd *cobra.Command, v any, heading string, rows func(row func(cells ...any))) error {
	if g.output == "json" {
		return writeJSON(cmd.OutOrStdout(), v)
	}
	return table(cmd.OutOrStdout(), heading, rows)
}

// short is as much of a digest as tells two apart; a scheduler that has not begun to learn has none.
func short(digest string) string { return digest[:min(12, len(digest))] }

func ms(x float64) string { return fmt.Sprintf("%.1f", x) }

func size(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

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
		f.DurationVar(&g.timeout, "timeout", time.Minute, "longest time for the whole command (0: none)")
		root.AddCommand(c)
	}
}

// addOutput gives a command -o, with its completion; checkOutput refuses what is neither.
func addOutput(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "table", "table or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
}

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

// functionNames completes the names of deployed functions.
func (g *globals) functionNames(cmd *cobra.Command, a []string, _ string) ([]string, cobra.ShellCompDirective) {
	c, err := g.client()
	if err != nil || len(a) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	fns, err := c.Functions(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []string
	for _, f := range fns {
		out = append(out, f.Name)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
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

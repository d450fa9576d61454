package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/client"
)

// within runs f with the command's client and time limit.
func (g *globals) within(cmd *cobra.Command, f func(ctx context.Context, c *client.Client) error) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	if g.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, g.timeout)
		defer cancel()
	}
	return f(ctx, c)
}

func newDeploy(g *globals) *cobra.Command {
	var f client.Function
	var runtime string
	var timeout, deadline time.Duration
	var environ []string
	cmd := &cobra.Command{
		Use: "deploy NAME ARTIFACT", Short: "Deploy a function, or a new version of one", Args: cobra.ExactArgs(2),
		Long: `deploy uploads the artifact and makes it the newest version of the function. Calls that run go on with the version they
began with. The runtime is guessed from the file: a WASM module runs in wazero (command or reactor), anything else is
started as a process that speaks the AWS Lambda Runtime API.`,
		Example: "  rubato deploy wordcount bin/functions/wordcount --memory 256 --deadline 2s\n  rubato deploy render bin/functions/htmlrender.wasm --min-warm 2\n  rubato deploy infer bin/functions/infer --arch amd64 --accelerator gpu --tag ssd",
		RunE: func(cmd *cobra.Command, a []string) error {
			f.Name, f.Runtime = a[0], api.Runtime(runtime)
			f.TimeoutMs, f.ObjectiveDeadlineMs = timeout.Milliseconds(), deadline.Milliseconds()
			for _, kv := range environ {
				k, v, ok := strings.Cut(kv, "=")
				if !ok {
					return usage("--env %q: want NAME=VALUE", kv)
				}
				if f.Env == nil {
					f.Env = map[string]string{}
				}
				f.Env[k] = v
			}
			return g.within(cmd, func(ctx context.Context, c *client.Client) error { return deploy(ctx, cmd, g, c, f, a[1]) })
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&runtime, "runtime", "", "process or wasm (default: guessed)")
	complete(cmd, "runtime", "process", "wasm")
	fl.IntVar(&f.MemoryMB, "memory", 128, "memory in MB")
	fl.DurationVar(&timeout, "run-timeout", 30*time.Second, "longest execution of a call")
	fl.DurationVar(&deadline, "deadline", 0, "objective: the time from arrival to answer that calls should meet (0: none)")
	fl.Float64Var(&f.ObjectiveShare, "share", 0, "objective: the share of calls that should meet it (default .95)")
	fl.Float64Var(&f.PriceWeight, "price-weight", 0, "objective: milliseconds that one unit of price is worth (nodes have a price per slot and hour)")
	fl.Float64Var(&f.MissWeight, "miss-weight", 0, "objective: milliseconds that a certain miss of the deadline is worth")
	fl.BoolVar(&f.DelayOff, "no-delay", false, "never hold a call back for a better node")
	fl.StringVar(&f.Arch, "arch", "", "processor architecture that it needs, like amd64 (default: any)")
	fl.StringVar(&f.Accelerator, "accelerator", "", "class of accelerator that it needs, like gpu-a100, or a family: gpu")
	fl.StringArrayVar(&f.Tags, "tag", nil, "tag that its nodes must have (repeatable)")
	fl.IntVar(&f.MinWarm, "min-warm", 0, "sandboxes that each zone keeps warm, calls or not (0-100)")
	fl.BoolVar(&f.Idempotent, "idempotent", false, "running a call twice does no harm: a slow one may be sent to a second node")
	fl.StringArrayVar(&environ, "env", nil, "NAME=VALUE for the function's environment (repeatable)")
	return cmd
}

func deploy(ctx context.Context, cmd *cobra.Command, g *globals, c *client.Client, f client.Function, path string) error {
	art, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read artifact: %w", err)
	}
	if f.Runtime == "" {
		f.Runtime = api.RuntimeProcess
		if bytes.HasPrefix(art, []byte("\x00asm")) {
			f.Runtime = api.RuntimeWasm
		}
	}
	sum := sha256.Sum256(art)
	f.Artifact = hex.EncodeToString(sum[:])
	bar := newTransfer(cmd.ErrOrStderr(), "uploading "+f.Name, int64(len(art)))
	err = c.PutArtifact(ctx, f.Artifact, int64(len(art)), func() (io.Reader, error) { return bar.reader(bytes.NewReader(art)), nil })
	bar.done()
	if err != nil {
		return err
	}
	version, err := c.Deploy(ctx, f, "")
	if err != nil {
		return err
	}
	f.Version = version
	return g.show(cmd, f, "FUNCTION\tVERSION\tRUNTIME\tARTIFACT", func(row func(...any)) {
		row(f.Name, version, f.Runtime, short(f.Artifact))
	})
}

func newFunctions(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "functions", Short: "List deployed functions", Args: cobra.NoArgs, Example: "  rubato functions -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				fns, err := c.Functions(ctx)
				if err != nil {
					return err
				}
				return g.show(cmd, fns, "FUNCTION\tVERSION\tRUNTIME\tMEMORY\tTIMEOUT\tDEADLINE\tNEEDS\tMIN WARM\tSIZE\tMODE", func(row func(...any)) {
					for _, f := range fns {
						deadline := "-"
						if f.ObjectiveDeadlineMs > 0 {
							deadline = (time.Duration(f.ObjectiveDeadlineMs) * time.Millisecond).String()
						}
						row(f.Name, f.Version, f.Runtime, fmt.Sprintf("%d MB", f.MemoryMB), time.Duration(f.TimeoutMs)*time.Millisecond, deadline, labels(api.Labels{Arch: f.Arch, Accelerator: f.Accelerator, Tags: f.Tags}), f.MinWarm, size(f.ArtifactBytes), cmp.Or(f.Mode, "-"))
					}
				})
			})
		},
	}
}

// labels are short words in a table: "amd64 gpu-a100 ssd", "-" for none.
func labels(l api.Labels) string {
	var s []string
	for _, v := range append([]string{l.Arch, l.Accelerator}, l.Tags...) {
		if v != "" {
			s = append(s, v)
		}
	}
	return cmp.Or(strings.Join(s, " "), "-")
}

func newPrewarm(g *globals) *cobra.Command {
	count := 1
	cmd := &cobra.Command{
		Use: "prewarm NAME", Short: "Bring up sandboxes of a function for calls that will come", Args: cobra.ExactArgs(1), ValidArgsFunction: g.functionNames,
		Long:    "prewarm brings up sandboxes in this zone at once, as many as there is room for beside calls; they idle as long as any other. deploy --min-warm keeps some for good.",
		Example: "  rubato prewarm wordcount --count 4",
		RunE: func(cmd *cobra.Command, a []string) error {
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				n, err := c.Prewarm(ctx, a[0], count)
				if err != nil {
					return err
				}
				return g.show(cmd, map[string]any{"name": a[0], "begun": n}, "FUNCTION\tON THEIR WAY", func(row func(...any)) { row(a[0], n) })
			})
		},
	}
	cmd.Flags().IntVar(&count, "count", count, "sandboxes to bring up (1-8)")
	return cmd
}

func newDelete(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Remove a function", Args: cobra.ExactArgs(1), ValidArgsFunction: g.functionNames,
		Long: "delete removes all versions of a function. Running calls end normally; waiting ones are answered not_found.", Example: "  rubato delete wordcount",
		RunE: func(cmd *cobra.Command, a []string) error {
			return g.within(cmd, func(ctx context.Context, c *client.Client) error { return c.Delete(ctx, a[0]) })
		},
	}
}

func newLogs(g *globals) *cobra.Command {
	last := 20
	cmd := &cobra.Command{
		Use: "logs NAME", Short: "Show what a function's last calls wrote to stdout and stderr", Args: cobra.ExactArgs(1), ValidArgsFunction: g.functionNames,
		Long: "logs shows the captured output of the last calls in this zone; at most 16 KiB of each call are kept.", Example: "  rubato logs wordcount --last 5",
		RunE: func(cmd *cobra.Command, a []string) error {
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				lines, err := c.Logs(ctx, a[0], last)
				if err == nil && len(lines) == 0 {
					_, err = c.Function(ctx, a[0]) // a name that is wrong must not look like a function that is quiet
				}
				if err != nil {
					return err
				}
				if g.output == "json" {
					return writeJSON(cmd.OutOrStdout(), lines)
				}
				for _, l := range lines {
					fmt.Fprintf(cmd.OutOrStdout(), "== %s on %s at %s\n%s\n", l.ID, l.Node, time.UnixMilli(l.UnixMs).Format(time.RFC3339), strings.TrimRight(l.Text, "\n"))
				}
				return nil
			})
		},
	}
	cmd.Flags().IntVar(&last, "last", last, "calls to show")
	return cmd
}

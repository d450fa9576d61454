package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/client"
)

func newInvoke(g *globals) *cobra.Command {
	var i client.Invocation
	var file string
	var async, wait, verbose bool
	cmd := &cobra.Command{
		Use: "invoke NAME [PAYLOAD]", Short: "Call a function", Args: cobra.RangeArgs(1, 2), ValidArgsFunction: g.functionNames,
		Long: `invoke calls a function and prints its result. The payload is the argument, the file of --file, or standard input when
the argument is "-". Input objects are named by --input. With --async the call is accepted and its id printed; --wait
then waits for its result. The exit code is 3 when the function itself failed.`,
		Example: "  rubato invoke matmul '{\"n\":200}'\n  rubato invoke wordcount --input books/moby.txt -v\n  echo hello | rubato invoke upper -\n  rubato invoke gzip '{\"level\":9}' --input logs/1.txt --async --wait",
		RunE: func(cmd *cobra.Command, a []string) error {
			i.Function = a[0]
			var err error
			if i.Payload, err = payload(cmd.InOrStdin(), a[1:], file); err != nil {
				return err
			}
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				if async {
					return invokeAsync(ctx, cmd, g, c, i, wait)
				}
				res, err := c.Invoke(ctx, i)
				if err != nil {
					return err
				}
				if verbose {
					h := res.Header
					fmt.Fprintf(cmd.ErrOrStderr(), "id %s\n%s on %s/%s, start %s, estimate by %s (model %s)\n%s\n", res.ID, h.Get("X-Decision"), h.Get("X-Zone"), h.Get("X-Node"),
						h.Get("X-Start-Type"), h.Get("X-Estimate"), h.Get("X-Model-Version"), h.Get("Server-Timing"))
				}
				_, err = cmd.OutOrStdout().Write(res.Body)
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "file with the payload")
	f.StringSliceVar(&i.Inputs, "input", nil, "keys of input objects (repeatable, comma separated)")
	f.BoolVar(&async, "async", false, "have the call accepted and come back at once")
	f.BoolVar(&wait, "wait", false, "with --async: wait for the result")
	f.DurationVar(&i.Deadline, "deadline", 0, "the time after which the result is of no use")
	f.StringVar(&i.IdempotencyKey, "idempotency-key", "", "calls with the same key run once and share the answer")
	f.StringVar(&i.Affinity, "affinity", "", "locality hint")
	f.IntVar(&i.Priority, "priority", 0, "0-9")
	f.BoolVarP(&verbose, "verbose", "v", false, "print where the call ran and where its time went, on stderr")
	return cmd
}

// payload is the argument, a file, or standard input.
func payload(stdin io.Reader, a []string, file string) ([]byte, error) {
	switch {
	case file != "" && len(a) > 0:
		return nil, usage("a payload as argument and --file: want one of them")
	case file != "":
		return os.ReadFile(file)
	case len(a) > 0 && a[0] == "-":
		return io.ReadAll(io.LimitReader(stdin, api.MaxPayloadBytes+1))
	case len(a) > 0:
		return []byte(a[0]), nil
	}
	return nil, nil
}

func invokeAsync(ctx context.Context, cmd *cobra.Command, g *globals, c *client.Client, i client.Invocation, wait bool) error {
	id, err := c.InvokeAsync(ctx, i)
	if err != nil {
		return err
	}
	if !wait {
		return g.show(cmd, map[string]string{"id": id}, "ID", func(row func(...any)) { row(id) })
	}
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		s, err := c.Result(ctx, id)
		if err != nil {
			return err
		}
		if s.State != "pending" {
			return printState(cmd, g, s)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: call %s has not ended; rubato result %s asks again", api.ErrDeadline, id, id)
		}
	}
}

func printState(cmd *cobra.Command, g *globals, s client.State) error {
	if g.output == "json" {
		return writeJSON(cmd.OutOrStdout(), s)
	}
	switch {
	case s.State == "pending":
		return table(cmd.OutOrStdout(), "ID\tSTATE", func(row func(...any)) { row(s.ID, s.State) })
	case s.Code != api.CodeOK:
		detail := ""
		if json.Valid(s.Result) {
			detail = " " + string(s.Result)
		}
		return s.Code.Err(s.Message + detail)
	case s.Large:
		return errors.New("the result is large: GET /v1/invocations/" + s.ID + " with Accept: application/octet-stream")
	}
	b := []byte(s.Result)
	if len(b) == 0 {
		b = s.ResultBase64
	}
	_, err := cmd.OutOrStdout().Write(b)
	return err
}

func newResult(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "result ID", Short: "Look up what became of an asynchronous call", Args: cobra.ExactArgs(1), Example: "  rubato result 01k9...",
		RunE: func(cmd *cobra.Command, a []string) error {
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				s, err := c.Result(ctx, a[0])
				if err != nil {
					return err
				}
				return printState(cmd, g, s)
			})
		},
	}
}

func newCancel(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "cancel ID", Short: "Stop a call, down to its sandbox", Args: cobra.ExactArgs(1), Example: "  rubato cancel 01k9...",
		RunE: func(cmd *cobra.Command, a []string) error {
			return g.within(cmd, func(ctx context.Context, c *client.Client) error { return c.Cancel(ctx, a[0]) })
		},
	}
}

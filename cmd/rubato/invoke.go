package main

import (
	"bytes"
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
then waits for its result. With -o json it prints what "rubato result -o json" prints: id, state, and the result or what
went wrong. The exit code, with -o json too, is 3 when the function itself failed and 1 when the call did.`,
		Example: "  rubato invoke matmul '{\"n\":200}'\n  rubato invoke wordcount --input books/moby.txt -v\n  echo hello | rubato invoke upper -\n  rubato invoke gzip '{\"level\":9}' --input logs/1.txt --async --wait",
		RunE: func(cmd *cobra.Command, a []string) error {
			if wait && !async {
				return usage("--wait without --async: a call without --async always waits for its result")
			}
			i.Function = a[0]
			var err error
			if i.Payload, err = payload(cmd.InOrStdin(), a[1:], file); err != nil {
				return err
			}
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				if async {
					return invokeAsync(ctx, cmd, g, c, i, wait)
				}
				return invokeNow(ctx, cmd, g, c, i, verbose)
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

func invokeNow(ctx context.Context, cmd *cobra.Command, g *globals, c *client.Client, i client.Invocation, verbose bool) error {
	res, err := c.Invoke(ctx, i)
	var told *client.Error
	if errors.As(err, &told) && g.output == "json" {
		s := client.State{ID: told.RequestID, State: "done", Code: told.Code, Message: told.Message, Result: told.Detail}
		return errors.Join(writeJSON(cmd.OutOrStdout(), s), err)
	}
	if err != nil {
		return err
	}
	if verbose {
		h := res.Header
		fmt.Fprintf(cmd.ErrOrStderr(), "id %s\n%s on %s/%s, start %s, estimate by %s (model %s)\n%s\n", res.ID, h.Get("X-Decision"), h.Get("X-Zone"), h.Get("X-Node"),
			h.Get("X-Start-Type"), h.Get("X-Estimate"), h.Get("X-Model-Version"), h.Get("Server-Timing"))
	}
	if g.output == "json" {
		s := client.State{ID: res.ID, State: "done"}
		setResult(&s, res.Body)
		return writeJSON(cmd.OutOrStdout(), s)
	}
	_, err = cmd.OutOrStdout().Write(res.Body)
	return err
}

// payload is the argument, a file, or standard input.
func payload(stdin io.Reader, a []string, file string) ([]byte, error) {
	switch {
	case file != "" && len(a) > 0:
		return nil, usage("a payload as argument and --file: want one of them")
	case file != "":
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read payload: %w", err)
		}
		return b, nil
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
		switch {
		case err == nil && s.State != "pending":
			return printState(ctx, cmd, g, c, s)
		case ctx.Err() != nil: // it ended between two looks or during one
			return fmt.Errorf("wait for call %s, which has not ended (rubato result %s asks again): %w", id, id, ctx.Err())
		case err != nil:
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
}

// printState prints what became of a call; one that failed is an error, however it is printed.
func printState(ctx context.Context, cmd *cobra.Command, g *globals, c *client.Client, s client.State) error {
	w := cmd.OutOrStdout()
	failure := s.Code.Err(s.Message)
	switch {
	case g.output == "json":
		if failure == nil && s.Large {
			if err := fetchLarge(ctx, c, &s); err != nil {
				return err
			}
		}
		return errors.Join(writeJSON(w, s), failure)
	case s.State == "pending":
		return table(w, "ID\tSTATE", func(row func(...any)) { row(s.ID, s.State) })
	case failure != nil && json.Valid(s.Result):
		return fmt.Errorf("%w %s", failure, s.Result)
	case failure != nil:
		return failure
	case s.Large:
		return copyLarge(ctx, c, w, s.ID)
	}
	b := []byte(s.Result)
	if len(b) == 0 {
		b = s.ResultBase64
	}
	_, err := w.Write(b)
	return err
}

// setResult puts a result into a state as the door does: as JSON where it is JSON.
func setResult(s *client.State, b []byte) {
	if json.Valid(b) {
		s.Result = b
	} else {
		s.ResultBase64 = b
	}
}

// fetchLarge puts the result, which the door keeps out of its JSON, into the state. Results are bounded
// (api.MaxPayloadBytes), so one fits into memory.
func fetchLarge(ctx context.Context, c *client.Client, s *client.State) error {
	var b bytes.Buffer
	if err := copyLarge(ctx, c, &b, s.ID); err != nil {
		return err
	}
	setResult(s, b.Bytes())
	s.Large = false
	return nil
}

func copyLarge(ctx context.Context, c *client.Client, w io.Writer, id string) error {
	body, err := c.RawResult(ctx, id)
	if err != nil {
		return fmt.Errorf("fetch result: %w", err)
	}
	defer body.Close()
	if _, err := io.Copy(w, body); err != nil {
		return fmt.Errorf("read result: %w", err)
	}
	return nil
}

func newResult(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "result ID", Short: "Look up what became of an asynchronous call", Args: cobra.ExactArgs(1),
		Long: `result prints the result of an asynchronous call that has ended, however large, and "pending" for one that has not. The
exit code is 3 when the function itself failed and 1 when the call did. With -o json it prints id, state, code, message,
timing and the result: as it is (result) where it is JSON, else in base64 (result_base64).`,
		Example: "  rubato result 01k9...\n  rubato result 01k9... > out.bin\n  rubato result 01k9... -o json",
		RunE: func(cmd *cobra.Command, a []string) error {
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				s, err := c.Result(ctx, a[0])
				if err != nil {
					return err
				}
				return printState(ctx, cmd, g, c, s)
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

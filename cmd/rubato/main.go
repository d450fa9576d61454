// Command rubato is what people type: it starts a cluster, deploys and calls functions, and shows what was decided.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/rubato-faas/rubato/internal/ops"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run carries out a command line and returns the exit code: 0, 1 for an error, 2 for wrong usage, 3 when the called
// function failed.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	soft, hard, stop := ops.SignalContext(ctx)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(soft) }()
	var err error
	select {
	case err = <-done:
	case <-hard.Done():
		err = fmt.Errorf("stopped at once by a second signal")
	}
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "rubato: %v\n", err)
	return exitCode(err)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "rubato",
		Short: "A scheduler for serverless functions that waits when waiting is quicker",
		Long: `rubato schedules serverless functions over zones of nodes. It predicts, per call and node, how long execution will take,
and holds a call back for a better node only where the predicted gain is real and the deadline allows it.

Begin with "rubato demo" (what is gained, in three minutes) or "rubato up" (a cluster of your own).`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(newDemo(), newBench(), newUp())
	addClientCommands(root)
	return root
}

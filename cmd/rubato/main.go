// Command rubato is what people type: it starts a cluster, deploys and calls functions, and shows what was decided.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rubato-faas/rubato/internal/ops"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}

// run carries out a command line and returns the exit code: 0, 1 for an error, 2 for wrong usage, 3 when the called
// function failed. What it reads of the process (arguments, environment, standard streams) is handed in, so that tests
// run many command lines at once.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	soft, hard, stop := ops.SignalContext(ctx)
	defer stop()
	root := newRoot(getenv)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	strict(root) // after the streams are set: cobra's completion command keeps the one that it finds
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

func newRoot(getenv func(string) string) *cobra.Command {
	root := &cobra.Command{
		Use:   "rubato",
		Short: "A scheduler for serverless functions that waits when waiting is quicker",
		Long: `rubato schedules serverless functions over zones of nodes. It predicts, per call and node, how long execution will take,
and holds a call back for a better node only where the predicted gain is real and the deadline allows it.

Begin with "rubato demo" (what is gained, in three minutes) or "rubato up" (a cluster of your own).

Exit codes: 0 done; 1 it failed; 2 wrong usage (unknown command, bad flag or argument); 3 the called function failed.`,
		Example:      "  rubato up\n  rubato deploy wordcount bin/functions/wordcount --memory 256\n  rubato invoke wordcount --input books/one.txt -v",
		Version:      currentBuild().String(),
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(newDemo(), newBench(), newSim(), newUp(), newVersion())
	addClientCommands(root, getenv)
	return root
}

// strict makes every command's wrong usage exit with 2. Left alone, cobra fails on it like on anything else, and shows
// help with exit code 0 where a command that only groups others is given a name that it does not know.
func strict(root *cobra.Command) {
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage("%v (see %s --help)", err, cmd.CommandPath()) })
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	each(root, func(cmd *cobra.Command) {
		switch {
		case cmd.HasSubCommands():
			cmd.Args, cmd.RunE = known, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		case cmd.Name() == "help":
			cmd.Args = topic
		case cmd.Args != nil:
			cmd.Args = args(cmd.Args)
		}
	})
}

// each calls f for a command and all below it.
func each(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, sub := range cmd.Commands() {
		each(sub, f)
	}
}

// args is cobra's check with our exit code.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if err := check(cmd, a); err != nil {
			return usage("%v (see %s --help)", err, cmd.CommandPath())
		}
		return nil
	}
}

// known refuses a name below a command that only groups others.
func known(cmd *cobra.Command, a []string) error {
	if len(a) == 0 {
		return nil
	}
	hint := fmt.Sprintf("%s --help lists all", cmd.CommandPath())
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2 // cobra's own default, which it sets only where it suggests by itself
	}
	if s := cmd.SuggestionsFor(a[0]); len(s) > 0 {
		hint = fmt.Sprintf("did you mean %s?", strings.Join(s, " or "))
	}
	return usage("unknown command %q for %q (%s)", a[0], cmd.CommandPath(), hint)
}

// topic refuses help about a command that does not exist.
func topic(cmd *cobra.Command, a []string) error {
	found, rest, err := cmd.Root().Find(a)
	if err != nil {
		return usage("%v", err)
	}
	return known(found, rest)
}

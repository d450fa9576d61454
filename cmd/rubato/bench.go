package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rubato-faas/rubato/bench"
)

func newBench() *cobra.Command {
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure Rubato on this machine",
		Long: "bench runs one benchmark and prints its figures: a table, or with -o json one document {bench, results, env}.",
	}
	cmd.AddCommand(newBenchInvoke())
	return cmd
}

func newBenchInvoke() *cobra.Command {
	o := bench.DefaultInvokeOptions()
	var output string
	cmd := &cobra.Command{
		Use: "invoke", Short: "What the whole path adds to a no-op call, and calls a second at saturation",
		Long: `invoke calls a no-op WASM function through the HTTP front door on loopback, one call at a time and then with many
callers at once, and compares with calling the runtime directly. Callers and cluster share the machine.`,
		Example: "  rubato bench invoke\n  rubato bench invoke -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := bench.Invoke(cmd.Context(), o)
			if err != nil {
				return err
			}
			return writeReport(cmd, r, output)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "table", "table or json")
	f.StringVar(&o.Functions, "functions", functionsDir(), "folder with the built example functions")
	f.IntVar(&o.Calls, "calls", o.Calls, "calls made one after another")
	f.IntVar(&o.Callers, "callers", o.Callers, "callers at once for the saturation figure")
	f.DurationVar(&o.Saturate, "saturate", o.Saturate, "length of the saturation run")
	return cmd
}

func writeReport(cmd *cobra.Command, r *bench.Report, output string) error {
	switch output {
	case "json":
		return writeJSON(cmd.OutOrStdout(), r)
	case "table":
		return r.WriteText(cmd.OutOrStdout())
	}
	return fmt.Errorf("output %q: want table or json", output)
}

package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/rubato-faas/rubato/bench"
)

func newBench() *cobra.Command {
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure Rubato on this machine",
		Long:    "bench runs one benchmark and prints its figures: a table, or with -o json one document {bench, results, env}.",
		Example: "  rubato bench invoke -o json",
	}
	cmd.AddCommand(newBenchInvoke(), newBenchLearn(), newBenchScore(), newBenchBound(), newBenchFederate(), newBenchDecide(), newBenchSim(), newBenchSimVsLive())
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
			if err := checkOutput(output); err != nil {
				return err
			}
			if err := o.Validate(); err != nil {
				return usage("%v", err)
			}
			r, err := bench.Invoke(cmd.Context(), o)
			if err != nil {
				return err
			}
			return writeReport(cmd, r, output)
		},
	}
	addOutput(cmd, &output)
	f := cmd.Flags()
	f.StringVar(&o.Functions, "functions", functionsDir(), "folder with the built example functions")
	f.IntVar(&o.Calls, "calls", o.Calls, "calls made one after another")
	f.IntVar(&o.Callers, "callers", o.Callers, "callers at once for the saturation figure")
	f.DurationVar(&o.Saturate, "saturate", o.Saturate, "length of the saturation run")
	return cmd
}

func newBenchLearn() *cobra.Command {
	o := bench.DefaultLearnOptions()
	var output string
	cmd := &cobra.Command{
		Use: "learn", Short: "How well and how fast the forest learns a stream",
		Long: `learn tests and then trains on streams: every row is predicted before its label is learned. A stream is a headerless CSV
(.csv or .csv.gz), the last column the target, file order. A file <stream>.json beside it may say what columns mean:
{"function": 0, "node": 4, "zone": 5, "node_side": [4, 6], "ln_ms": true}, numbered from 0. Without --data and --stream it
generates its own: Friedman's function with abrupt and with gradual drift, and a serverless zone with deployments and
throttled nodes. All streams are learned with the settings that a zone uses.

--peers runs scikit-learn's forest on the same streams (48 trees, trained anew every 1,000 rows), if python3 has it;
it takes minutes on long streams.
--ablation learns every stream again without each part of the forest, to show what the part is worth.`,
		Example: "  rubato bench learn\n  rubato bench learn --data streams/ -o json\n  rubato bench learn --stream bike.csv --late",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Validate(); err != nil {
				return usage("%v", err)
			}
			return measure(cmd, output, &o.Progress, func(ctx context.Context) (*bench.Report, error) { return bench.Learn(ctx, o) })
		},
	}
	addOutput(cmd, &output)
	f := cmd.Flags()
	f.StringVar(&o.Data, "data", "", "folder of CSV streams")
	f.StringVar(&o.Stream, "stream", "", "a single CSV stream")
	f.BoolVar(&o.Late, "late", false, "labels arrive after their own time; prints what that costs (late_cost)")
	f.Float64Var(&o.Outstanding, "outstanding", o.Outstanding, "labels on their way on average, with --late")
	f.Uint64Var(&o.Seed, "seed", o.Seed, "seed of the forest and of generated streams")
	f.BoolVar(&o.Peers, "peers", false, "also run scikit-learn's forest (Debian's python3-sklearn)")
	f.BoolVar(&o.Ablation, "ablation", false, "also learn without each part of the forest")
	return cmd
}

func newBenchScore() *cobra.Command {
	o := bench.DefaultScoreOptions()
	var output string
	cmd := &cobra.Command{
		Use: "score", Short: "Nanoseconds to score a candidate node with a full forest",
		Long: `score grows a full forest and scores the candidates of one request, 12 to 1,000 of them, in ways that give the same result:
walking every tree one by one; as a request that was not seen before, whose candidates walk together, or, if they are more than 64,
with a forest specialised for the request first; and with that at hand already.`,
		Example: "  rubato bench score\n  rubato bench score -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Validate(); err != nil {
				return usage("%v", err)
			}
			return measure(cmd, output, &o.Progress, func(ctx context.Context) (*bench.Report, error) { return bench.Score(ctx, o) })
		},
	}
	addOutput(cmd, &output)
	f := cmd.Flags()
	f.IntVar(&o.Samples, "samples", o.Samples, "samples to learn first")
	f.Uint64Var(&o.Seed, "seed", o.Seed, "seed of the forest and of the candidates")
	return cmd
}

func newBenchBound() *cobra.Command {
	o := bench.DefaultLearnOptions()
	var output string
	cmd := &cobra.Command{
		Use: "bound", Short: "How well the calibrated bound keeps its promise on a stream",
		Long: `bound tests and then trains on streams whose target is ln ms and counts how often the outcome exceeds the bound that was
said before, at alpha .05 and .01: in the long run, in the worst 500 rows, for the worst function. Streams as for bench learn.`,
		Example: "  rubato bench bound\n  rubato bench bound --data streams/ --seed 7 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Validate(); err != nil {
				return usage("%v", err)
			}
			return measure(cmd, output, &o.Progress, func(ctx context.Context) (*bench.Report, error) { return bench.Bound(ctx, o) })
		},
	}
	addOutput(cmd, &output)
	f := cmd.Flags()
	f.StringVar(&o.Data, "data", "", "folder of CSV streams")
	f.StringVar(&o.Stream, "stream", "", "a single CSV stream")
	f.Uint64Var(&o.Seed, "seed", o.Seed, "seed of the forest and of generated streams")
	return cmd
}

func newBenchFederate() *cobra.Command {
	o := bench.DefaultFederateOptions()
	var output string
	cmd := &cobra.Command{
		Use: "federate", Short: "What zones gain by exchanging trees",
		Long: `federate compares models of unlike zones: each for itself, the union of all trees, one model of all raw data, that with
residual trees of each zone's own, and the pool from which each zone picks; then with a third of the zones sending
harmful trees, and for a zone that joins with 100 rows. One CSV a zone (headerless, last column the target); the last
2,500 rows choose (500) and judge (2,000). Without --data it generates 16 zones.`,
		Example: "  rubato bench federate\n  rubato bench federate --data zones/ --seed 3 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return measure(cmd, output, &o.Progress, func(ctx context.Context) (*bench.Report, error) { return bench.Federate(ctx, o) })
		},
	}
	addOutput(cmd, &output)
	f := cmd.Flags()
	f.StringVar(&o.Data, "data", "", "folder with one CSV a zone")
	f.Uint64Var(&o.Seed, "seed", o.Seed, "seed of the forests and of generated zones")
	return cmd
}

func newBenchDecide() *cobra.Command {
	o := bench.DefaultDecideOptions()
	var output string
	cmd := &cobra.Command{
		Use: "decide", Short: "Microseconds of one decision, in zones of 10 to 10,000 nodes",
		Long: `decide brings zones of several sizes under load, with warm sandboxes and objects spread over the nodes, and measures one
decision: candidates found, scored with the full forest, decided and reserved. The forest goes on learning and is published
anew every 64 completions; decisions for which it was specialised since (hits) and others (misses) are shown apart. The host's own
stalls (host.stalls_per_s, host.stall_us: what a loop that only reads the clock loses) are in the tails: a decision of 10 us meets one
in fifty times where there are 2,000 a second.`,
		Example: "  rubato bench decide\n  rubato bench decide --nodes 1000 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Validate(); err != nil {
				return usage("%v", err)
			}
			return measure(cmd, output, &o.Progress, func(ctx context.Context) (*bench.Report, error) { return bench.Decide(ctx, o) })
		},
	}
	addOutput(cmd, &output)
	f := cmd.Flags()
	f.IntSliceVar(&o.Nodes, "nodes", o.Nodes, "sizes of the zones")
	f.IntVar(&o.Decisions, "decisions", o.Decisions, "decisions measured for each size")
	f.Uint64Var(&o.Seed, "seed", o.Seed, "seed of the zone and of the calls")
	return cmd
}

func newBenchSimVsLive() *cobra.Command {
	o := bench.DefaultSimLiveOptions()
	var output string
	var short bool
	cmd := &cobra.Command{
		Use: "sim-vs-live", Short: "How far the simulator is from a live cluster on the same calls",
		Long: `sim-vs-live runs one workload of the example functions on a cluster as "rubato up --zones 1" makes it, and in the simulator, and
prints for each policy what both say and the gap in percent of the live figure: for all calls, and function by function. The
model's laws (run times by input size, cold starts, messages, the cores that many calls get of this host) are measured
first, with calls alone; of the measured workload the model knows only when calls come and what they ask for. Times are
from arrival at the zone to its answer. Other load on this host while it runs shows in others_cpu of each policy, and in the gap.`,
		Example: "  rubato bench sim-vs-live\n  rubato bench sim-vs-live --seed 7 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if short {
				o.Warmup, o.Measure, o.Alone, o.Cold, o.Repeats, o.SimSeeds = time.Second, 3*time.Second, 4, 1, 1, 2
			}
			if err := o.Validate(); err != nil {
				return usage("%v", err)
			}
			return measure(cmd, output, &o.Progress, func(ctx context.Context) (*bench.Report, error) { return bench.SimVsLive(ctx, o) })
		},
	}
	addOutput(cmd, &output)
	f := cmd.Flags()
	f.StringVar(&o.Functions, "functions", functionsDir(), "folder with the built example functions")
	f.StringSliceVar(&o.Policies, "policies", o.Policies, "policies to compare under")
	complete(cmd, "policies", policies...)
	f.DurationVar(&o.Measure, "measure", o.Measure, "how long is measured under each policy, after the warm-up")
	f.DurationVar(&o.Warmup, "warmup", o.Warmup, "how long calls are made before, without being counted")
	f.IntVar(&o.Repeats, "repeats", o.Repeats, "how often is measured, each time with other arrivals on an empty cluster")
	f.Float64Var(&o.Use, "use", o.Use, "part of the host's cores that functions are to keep busy")
	f.BoolVar(&short, "short", false, "a few seconds only: shows that it works, not how far the model is off")
	f.Uint64Var(&o.Seed, "seed", o.Seed, "seed of arrivals and of the simulator's luck")
	return cmd
}

// measure runs a benchmark with its progress shown, and prints its report.
func measure(cmd *cobra.Command, output string, hear *func(done, total int, doing string), run func(context.Context) (*bench.Report, error)) error {
	if err := checkOutput(output); err != nil {
		return err
	}
	done := showProgress(hear, cmd.ErrOrStderr())
	r, err := run(cmd.Context())
	done(err == nil)
	if err != nil {
		return err
	}
	return writeReport(cmd, r, output)
}

func writeReport(cmd *cobra.Command, r *bench.Report, output string) error {
	if output == "json" {
		return writeJSON(cmd.OutOrStdout(), r)
	}
	return r.WriteText(cmd.OutOrStdout())
}

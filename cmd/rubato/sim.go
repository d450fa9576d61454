package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rubato-faas/rubato/bench"
	"github.com/rubato-faas/rubato/sim/lab"
)

func newSim() *cobra.Command {
	cmd := &cobra.Command{
		Use: "sim", Short: "Simulate zones, nodes and workloads with the production cores, in virtual time",
		Long: `sim runs the schedulers, nodes and learners of production against a modelled world in virtual time: no cluster, no clock, no
network. A scenario file describes the world and its workload (docs/simulator.md); the seed decides all the rest.`,
		Example: "  rubato sim run scenarios/small.yaml\n  rubato sim compare scenarios/mixed.yaml --policies rubato,least-loaded",
	}
	cmd.PersistentPreRun = func(*cobra.Command, []string) { collectLess() }
	cmd.AddCommand(newSimRun(), newSimCompare(), newSimExperiments())
	return cmd
}

// collectLess lets the heap grow to four times what is in use, instead of twice, before it is collected, unless GOGC says otherwise. A
// simulated world is small beside a machine's memory, and was 5-8 % slower otherwise.
func collectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300)
	}
}

// traceFlags choose a recorded workload instead of the scenario's own.
type traceFlags struct {
	azure2019, azure2021, faasrail, csv string
	minute                              int
	window                              time.Duration
}

func (t *traceFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&t.azure2019, "azure2019", "", "instead of the scenario's functions, Azure's trace of 2019 in this folder (first day)")
	f.IntVar(&t.minute, "minute", 0, "minute of the day to begin at, with --azure2019")
	f.StringVar(&t.azure2021, "azure2021", "", "instead of the scenario's functions, Azure's trace of 2021 in this file")
	f.StringVar(&t.faasrail, "faasrail", "", "instead of the scenario's functions, a load specification of FaaSRail in this file")
	f.DurationVar(&t.window, "window", time.Minute, "length of a window of calls, with --faasrail")
	f.StringVar(&t.csv, "csv", "", "instead of the scenario's functions, calls in this file: at_ms,function,exec_ms[,input_bytes]")
}

// chosen is how many traces were asked for.
func (t *traceFlags) chosen() int {
	n := 0
	for _, name := range []string{t.azure2019, t.azure2021, t.faasrail, t.csv} {
		if name != "" {
			n++
		}
	}
	return n
}

// apply puts the chosen trace, if any, into the scenario.
func (t *traceFlags) apply(s *lab.Scenario) (*lab.Scenario, error) {
	until := time.Duration(s.Duration)
	var trace *lab.Trace
	var err error
	file := func(name string, read func(io.Reader) (*lab.Trace, error)) {
		var f *os.File
		if f, err = os.Open(name); err != nil {
			return
		}
		defer f.Close()
		if trace, err = read(f); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	switch {
	case t.minute < 0 || t.minute > 1439:
		return nil, usage("--minute %d: want 0-1439", t.minute)
	case t.window < time.Millisecond:
		return nil, usage("--window %v: want at least 1ms", t.window)
	case t.azure2019 != "":
		if st, e := os.Stat(t.azure2019); e != nil || !st.IsDir() {
			return nil, usage("--azure2019 %q: want a folder with the files of one day", t.azure2019)
		}
		if trace, err = lab.ReadAzure2019(os.DirFS(t.azure2019), t.minute, until, s.Seed); err != nil {
			err = fmt.Errorf("%s: %w", t.azure2019, err)
		}
	case t.azure2021 != "":
		file(t.azure2021, func(r io.Reader) (*lab.Trace, error) { return lab.ReadAzure2021(r, until) })
	case t.faasrail != "":
		file(t.faasrail, func(r io.Reader) (*lab.Trace, error) { return lab.ReadFaaSRail(r, t.window, until, s.Seed) })
	case t.csv != "":
		file(t.csv, func(r io.Reader) (*lab.Trace, error) { return lab.ReadCSV(r, until) })
	default:
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	return s.WithTrace(trace)
}

// simPolicies are what a simulation can run under; more follow from waits, like fixed-delay=400ms.
var simPolicies = append(slices.Clone(policies), "fixed-delay=100ms", "fixed-delay=400ms", "oracle", "laws")

// simFlags are those of every simulation.
type simFlags struct {
	traces   traceFlags
	replay   string
	scenario string
	seed     uint64
	duration time.Duration
	output   string
}

func (o *simFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.output, "output", "o", "table", "table, json or csv")
	complete(cmd, "output", "table", "json", "csv")
	cmd.Flags().Uint64Var(&o.seed, "seed", 0, "seed of the first run (0: the scenario's)")
	cmd.Flags().DurationVar(&o.duration, "duration", 0, "virtual time in which calls arrive (0: the scenario's)")
	cmd.Flags().StringVar(&o.replay, "replay", "", "instead of a scenario, the cluster and the calls in this `file` of rubato record")
	cmd.Flags().StringVar(&o.scenario, "scenario", "", "with --replay, the zones and nodes of this scenario instead of the recorded ones")
	o.traces.add(cmd)
}

func (o *simFlags) check() error {
	switch {
	case o.output != "table" && o.output != "json" && o.output != "csv":
		return usage("--output %q: want table, json or csv", o.output)
	case o.traces.chosen() > 1 || o.traces.chosen() == 1 && o.replay != "":
		return usage("want one of --azure2019, --azure2021, --faasrail, --csv and --replay: a run has one workload")
	case o.scenario != "" && o.replay == "":
		return usage("--scenario: want it with --replay; a scenario to run is an argument")
	case o.duration < 0 || o.duration > lab.MaxDuration:
		return usage("--duration %v: want 0-%v", o.duration, lab.MaxDuration)
	}
	return nil
}

// fileArgs: scenarios are arguments, unless there is a record to replay, which needs none.
func (o *simFlags) fileArgs(otherwise cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if o.replay == "" {
			return otherwise(cmd, a)
		}
		if len(a) > 0 {
			return fmt.Errorf("%q: --replay needs no scenario (--scenario replaces the recorded zones)", a)
		}
		return nil
	}
}

// loadAll reads the scenarios, or the record that takes their place, and reports every fault.
func (o *simFlags) loadAll(files []string) ([]*lab.Scenario, error) {
	if o.replay != "" {
		s, err := o.loadReplay()
		return []*lab.Scenario{s}, err
	}
	var all []*lab.Scenario
	var errs []error
	for _, name := range files {
		s, err := o.load(name)
		errs = append(errs, err)
		all = append(all, s)
	}
	return all, errors.Join(errs...)
}

func (o *simFlags) loadReplay() (*lab.Scenario, error) {
	rec, err := open(o.replay, lab.ReadRecord)
	if err != nil {
		return nil, err
	}
	s, err := rec.Replay()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.replay, err)
	}
	if o.scenario != "" {
		world, err := open(o.scenario, lab.Read)
		if err == nil {
			s, err = world.WithReplay(s)
		}
		if err != nil {
			return nil, err
		}
	}
	if o.duration > 0 {
		if s, err = s.Until(o.duration); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// first is the seed of the first run. The scenario's own, which its groups of functions vary by, stays as it is: one seed is one run,
// whichever command it is given to.
func (o *simFlags) first(s *lab.Scenario) uint64 { return cmp.Or(o.seed, s.Seed) }

// open reads a file, and says which one was wrong.
func open[T any](name string, read func(io.Reader) (T, error)) (T, error) {
	var zero T
	f, err := os.Open(name)
	if err != nil {
		return zero, err
	}
	defer f.Close()
	v, err := read(f)
	if err != nil {
		return zero, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

// load reads a scenario and applies the flags.
func (o *simFlags) load(name string) (*lab.Scenario, error) {
	s, err := open(name, lab.Read)
	if err != nil {
		return nil, err
	}
	if o.duration > 0 {
		s.Duration = lab.Duration(o.duration)
		if s.Warmup >= s.Duration {
			return nil, usage("--duration %v: want more than the scenario's warm-up of %v", o.duration, time.Duration(s.Warmup))
		}
	}
	return o.traces.apply(s)
}

func (o *simFlags) write(w io.Writer, results []*lab.Result) error {
	switch o.output {
	case "json":
		return writeJSON(w, struct {
			Results []*lab.Result `json:"results"`
		}{results})
	case "csv":
		return lab.WriteCSV(w, results)
	}
	return lab.WriteText(w, results)
}

func newSimRun() *cobra.Command {
	var o simFlags
	var policy string
	cmd := &cobra.Command{
		Use: "run SCENARIO...", Short: "Run scenarios, each once",
		Long: `run simulates each scenario once and prints what callers saw, for all functions together and one by one. The same scenario,
policy and seed give the same run, down to its trace hash.`,
		Example: "  rubato sim run scenarios/*.yaml\n  rubato sim run scenarios/small.yaml --policy least-loaded --seed 7 -o json\n  rubato sim run scenarios/mixed.yaml --faasrail spec.csv\n  rubato sim run --replay yesterday.jsonl.gz --policy least-loaded",
		Args:    o.fileArgs(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) error {
			if err := o.check(); err != nil {
				return err
			}
			all, err := o.loadAll(files)
			if err != nil {
				return err
			}
			var results []*lab.Result
			for _, s := range all {
				text := s.Policy
				if policy != "" {
					text = policy
				}
				p, err := lab.ParsePolicy(text)
				if err != nil {
					return usage("--policy: %v", err)
				}
				r, err := compareShown(cmd, s, []lab.Policy{p}, []uint64{o.first(s)})
				if err != nil {
					return err
				}
				results = append(results, r)
			}
			return o.write(cmd.OutOrStdout(), results)
		},
	}
	o.add(cmd)
	cmd.Flags().StringVar(&policy, "policy", "", "policy (default: the scenario's); oracle is rubato with each call's true times, laws with the true laws")
	complete(cmd, "policy", simPolicies...)
	return cmd
}

func newSimCompare() *cobra.Command {
	var o simFlags
	var policies []string
	var seeds int
	var plots, format string
	cmd := &cobra.Command{
		Use: "compare SCENARIO...", Short: "Compare policies on the same arrivals, over several seeds",
		Long: `compare runs each scenario under every policy with every seed. Under one seed all policies see the same arrivals and each call has
the same luck; figures are means over seeds with 95 % confidence intervals (Student's t), differences are paired by seed.`,
		Example: "  rubato sim compare scenarios/mixed.yaml\n  rubato sim compare scenarios/{light,mixed}.yaml -o csv\n  rubato sim compare scenarios/data-heavy.yaml --policies rubato,fixed-delay=400ms --seeds 20 --plot plots\n  rubato sim compare --replay yesterday.jsonl.gz --policies rubato,least-loaded --seeds 3",
		Args:    o.fileArgs(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if err := o.check(); err != nil {
				return err
			}
			if seeds < 1 || seeds > 10000 {
				return usage("--seeds %d: want 1-10000", seeds)
			}
			if !slices.Contains(lab.PlotFormats, format) {
				return usage("--plot-format %q: want %s", format, strings.Join(lab.PlotFormats, " or "))
			}
			var ps []lab.Policy
			for _, name := range policies {
				p, err := lab.ParsePolicy(strings.TrimSpace(name))
				if err != nil {
					return usage("--policies: %v", err)
				}
				ps = append(ps, p)
			}
			all, err := o.loadAll(a)
			if err != nil {
				return err
			}
			names := map[string]bool{}
			for _, s := range all {
				if names[s.Name] {
					return usage("two scenarios have the name %q: rows and figures of one could not be told from those of the other", s.Name)
				}
				names[s.Name] = true
			}
			var results []*lab.Result
			for _, s := range all {
				var list []uint64
				for i := range seeds {
					list = append(list, o.first(s)+uint64(i))
				}
				r, err := compareShown(cmd, s, ps, list)
				if err != nil {
					return err
				}
				if plots != "" {
					if err := os.MkdirAll(plots, 0o777); err != nil {
						return err
					}
					if err := lab.Plots(r, func(name string) (io.WriteCloser, error) { return os.Create(filepath.Join(plots, name)) }, format); err != nil {
						return err
					}
				}
				results = append(results, r)
			}
			return o.write(cmd.OutOrStdout(), results)
		},
	}
	o.add(cmd)
	cmd.Flags().StringSliceVar(&policies, "policies", []string{"rubato", "least-loaded", "round-robin", "fixed-delay=100ms", "fixed-delay=400ms", "oracle"}, "policies to compare; differences are against the first")
	complete(cmd, "policies", simPolicies...)
	cmd.Flags().IntVar(&seeds, "seeds", 10, "how many seeds, from --seed on")
	cmd.Flags().StringVar(&plots, "plot", "", "also draw figures into this folder")
	cmd.Flags().StringVar(&format, "plot-format", lab.PlotFormats[0], "of the figures: "+strings.Join(lab.PlotFormats, " or "))
	complete(cmd, "plot-format", lab.PlotFormats...)
	_ = cmd.MarkFlagDirname("plot") // the flag exists
	return cmd
}

// compareShown runs with progress on standard error.
func compareShown(cmd *cobra.Command, s *lab.Scenario, policies []lab.Policy, seeds []uint64) (*lab.Result, error) {
	var hear func(done, total int, doing string)
	done := showProgress(&hear, cmd.ErrOrStderr())
	r, err := lab.Compare(cmd.Context(), s, policies, seeds, hear)
	done(err == nil)
	return r, err
}

func newBenchSim() *cobra.Command {
	o := bench.DefaultSimOptions()
	var output string
	cmd := &cobra.Command{
		Use: "sim", Short: "How fast the simulator is, and what an event costs in a large world beside a small one",
		Long: `sim simulates a large world (10,000 nodes in zones of at most 500, 100,000 calls a second, 60 virtual seconds, policy rubato with
full forests that learn) and, in turns with it, a small one of the same kind, and prints events a second, wall time, memory, and the
ratio of the costs of an event.`,
		Example: "  rubato bench sim -o json\n  rubato bench sim --nodes 1000 --rate 10000 --seconds 10",
		Args:    cobra.NoArgs,
		PreRun:  func(*cobra.Command, []string) { collectLess() },
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Validate(); err != nil {
				return usage("%v", err)
			}
			return measure(cmd, output, &o.Progress, func(ctx context.Context) (*bench.Report, error) { return bench.Sim(ctx, o) })
		},
	}
	addOutput(cmd, &output)
	f := cmd.Flags()
	f.IntVar(&o.Nodes, "nodes", o.Nodes, "nodes in all")
	f.IntVar(&o.ZoneNodes, "zone-nodes", o.ZoneNodes, "nodes of a zone at most")
	f.Float64Var(&o.Rate, "rate", o.Rate, "calls a second in all")
	f.IntVar(&o.Seconds, "seconds", o.Seconds, "virtual seconds")
	f.IntVar(&o.Functions, "functions", o.Functions, "functions")
	f.IntVar(&o.Learn, "learn", o.Learn, "learn one of so many samples, once forests are warm")
	f.IntVar(&o.Small, "small", o.Small, "nodes of the world to compare with")
	f.StringVar(&o.Policy, "policy", o.Policy, "policy")
	complete(cmd, "policy", policies...)
	f.Uint64Var(&o.Seed, "seed", o.Seed, "seed")
	return cmd
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/rubato-faas/rubato/bench"
	"github.com/rubato-faas/rubato/internal/ops"
)

// functionsDir is where `make build` leaves the example functions: beside this program.
func functionsDir() string {
	exe, err := os.Executable()
	if err != nil {
		return "functions"
	}
	return filepath.Join(filepath.Dir(exe), "functions")
}

func newDemo() *cobra.Command {
	o := bench.DefaultDemoOptions()
	var short bool
	var check, output, level, calls string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start a cluster, drive a real workload under four policies, print what was gained",
		Long: `demo starts a whole cluster in this process (embedded NATS and etcd, three coordinators, an edge and a core zone with
a leader and a standby each, four nodes a zone), deploys real functions of three tenants and drives the same open-loop
arrivals under round-robin, least-loaded, fixed-delay (three waits) and rubato. Each run starts from nothing: no sandbox,
no cached object, no compiled module, no model. It needs no root, no network and no fixed port, and leaves nothing behind.`,
		Example: "  rubato demo\n  rubato demo -o json > demo.json\n  rubato demo --short",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if check != "" {
				return checkDemo(cmd.OutOrStdout(), check)
			}
			if err := checkOutput(output); err != nil {
				return err
			}
			if err := o.Validate(); err != nil {
				return usage("%v", err)
			}
			if short {
				o.Duration = min(o.Duration, 12*time.Second)
			}
			var err error
			if o.Log, err = ops.NewLogger(cmd.ErrOrStderr(), level, "text"); err != nil {
				return usage("--log: %v", err)
			}
			if calls != "" {
				f, err := os.Create(calls)
				if err != nil {
					return err
				}
				defer f.Close()
				o.Calls = f
			}
			done := showProgress(&o.Progress, cmd.ErrOrStderr())
			res, err := bench.Demo(cmd.Context(), o)
			done(err == nil)
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(cmd.OutOrStdout(), res)
			}
			return res.WriteText(cmd.OutOrStdout())
		},
	}
	addOutput(cmd, &output)
	f := cmd.Flags()
	f.StringVar(&level, "log", "error", "log level of the clusters, on stderr: debug, info, warn or error")
	f.StringVar(&o.Functions, "functions", functionsDir(), "folder with the built example functions")
	f.DurationVar(&o.Duration, "duration", o.Duration, "length of each of the six runs")
	f.Float64Var(&o.Rate, "rate", o.Rate, "scale of the arrival rates")
	f.Uint64Var(&o.Seed, "seed", o.Seed, "seed of arrivals and draws")
	f.StringSliceVar(&o.Only, "policies", nil, "run only these, of "+strings.Join(bench.DemoPolicies(), ", ")+" (default: all)")
	f.StringVar(&calls, "calls", "", "also write every call of every run to this CSV file")
	f.BoolVar(&short, "short", false, "runs of at most twelve seconds, for a quick look: too short to learn much")
	complete(cmd, "policies", bench.DemoPolicies()...)
	complete(cmd, "log", logLevels...)
	f.StringVar(&check, "check", "", "check a document that demo -o json wrote: every call served, the model merged and used")
	return cmd
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// showProgress draws a bar on a terminal and prints a line per run elsewhere.
func showProgress(hear *func(done, total int, doing string), w io.Writer) (done func(ok bool)) {
	if !isTerminal(w) {
		last := ""
		*hear = func(n, total int, doing string) {
			if doing != last {
				last = doing
				fmt.Fprintf(w, "%3d %%  %s\n", 100*n/max(total, 1), doing)
			}
		}
		return func(bool) {}
	}
	p := mpb.New(mpb.WithOutput(w), mpb.WithWidth(48))
	var doing atomic.Value // the bar is drawn by a goroutine of its own
	doing.Store("starting")
	bar := p.AddBar(0, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return fmt.Sprintf("%-20s ", doing.Load()) })),
		mpb.AppendDecorators(decor.Percentage(), decor.Elapsed(decor.ET_STYLE_GO, decor.WCSyncSpace)))
	*hear = func(n, total int, what string) {
		doing.Store(what)
		bar.SetTotal(int64(total), false)
		bar.SetCurrent(int64(n))
	}
	return func(ok bool) {
		if ok {
			bar.SetTotal(-1, true)
		} else {
			bar.Abort(true)
		}
		p.Wait()
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	return isatty.IsTerminal(f.Fd()) // a character device is not enough: /dev/null is one
}

// checkDemo states what must hold of every demo, however short.
func checkDemo(w io.Writer, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var res bench.DemoResult
	if err := json.Unmarshal(b, &res); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var errs []error
	seen := map[string]bool{}
	for _, r := range res.Policies {
		seen[r.Policy] = true
		if r.Calls == 0 || r.Answered != r.Calls {
			errs = append(errs, fmt.Errorf("policy %s, function %s: %d of %d calls answered", r.Policy, r.Function, r.Answered, r.Calls))
		}
	}
	for _, p := range bench.DemoPolicies() {
		if !seen[p] {
			errs = append(errs, fmt.Errorf("no row of policy %s", p))
		}
	}
	if res.Model.Samples == 0 || res.Model.MergedVersions == 0 {
		errs = append(errs, fmt.Errorf("%d samples learned, %d versions merged: want some of both", res.Model.Samples, res.Model.MergedVersions))
	}
	for _, zone := range []string{"edge", "core"} {
		i := slices.IndexFunc(res.Model.Zones, func(z bench.ZoneModel) bool { return z.Zone == zone })
		if i < 0 || res.Model.Zones[i].Version == 0 || len(res.Model.Zones[i].Trees) == 0 {
			errs = append(errs, fmt.Errorf("zone %s does not predict with a merged model", zone))
		}
	}
	if res.Explain == "" {
		errs = append(errs, errors.New("no call is explained"))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "demo: every policy served every call; %d samples, %d merged versions, in use in %d zones\n", res.Model.Samples, res.Model.MergedVersions, len(res.Model.Zones))
	return err
}

func writeJSONLine(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rubato-faas/rubato/sim/lab"
)

func newSimExperiments() *cobra.Command {
	var out, cache string
	var short bool
	cmd := &cobra.Command{
		Use: "experiments PLAN", Short: "Run a plan of experiments and write a page for each",
		Long: `experiments runs every experiment of a plan: a scenario at several loads, under many policies, over many seeds. It writes a page
for each (question, setup, seeds, tables, figures, conclusion), one about the load that each policy holds, one about what the
forest is worth, and one about the disasters that the rule is to survive. Scenarios are files of the folder ../scenarios, as
seen from the plan's; docs/simulator.md says what a plan may contain. What was run before by this very program with the same
inputs is taken from the cache, so an interrupted run goes on where it stopped.`,
		Example: "  rubato sim experiments experiments/plan.yaml\n  rubato sim experiments experiments/plan.yaml --short --out /tmp/pages",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, a []string) error {
			f, err := os.Open(a[0])
			if err != nil {
				return err
			}
			defer f.Close()
			p, err := lab.ReadPlan(f)
			if err != nil {
				return fmt.Errorf("%s: %w", a[0], err)
			}
			if short {
				p = p.Brief()
			}
			for _, dir := range []string{out, cache} {
				if err := os.MkdirAll(dir, 0o777); err != nil {
					return err
				}
			}
			program, err := fileHash(os.Executable)
			if err != nil {
				return err
			}
			var all []lab.Ran
			for i := range p.Experiments {
				e := &p.Experiments[i]
				cells, err := runExperiment(cmd, p, e, filepath.Join(filepath.Dir(a[0]), "..", "scenarios", e.Scenario), out, cache, program)
				if err != nil {
					return fmt.Errorf("experiment %s: %w", e.Name, err)
				}
				all = append(all, lab.Ran{Experiment: e, Cells: cells})
				// After each one: whoever interrupts a run of an hour finds what is there.
				for _, page := range []struct {
					name  string
					write func(io.Writer, *lab.Plan, []lab.Ran) error
				}{{"README.md", lab.WriteSummary}, {"throughput.md", lab.WriteThroughput}, {"forest.md", lab.WriteForest}} {
					if err := writeFile(filepath.Join(out, page.name), func(w io.Writer) error { return page.write(w, p, all) }); err != nil {
						return err
					}
				}
				if err := lab.PlotTopics(p, all, func(name string) (io.WriteCloser, error) { return os.Create(filepath.Join(out, name)) }); err != nil {
					return err
				}
			}
			if p.Disasters == "" {
				return nil
			}
			return runDisasters(cmd, p, filepath.Join(filepath.Dir(a[0]), "..", "scenarios", p.Disasters), out, cache, program)
		},
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", filepath.Join("docs", "experiments"), "folder for pages and figures")
	f.StringVar(&cache, "cache", filepath.Join(os.TempDir(), "rubato-experiments"), "folder for results of cells, by inputs and program")
	f.BoolVar(&short, "short", false, "the plan's short form: fewer seeds, policies and loads")
	_ = cmd.MarkFlagDirname("out")   // the flags exist
	_ = cmd.MarkFlagDirname("cache") // the flags exist
	return cmd
}

// fileHash is the SHA-256 of the file that name names.
func fileHash(name func() (string, error)) (string, error) {
	path, err := name()
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func runExperiment(cmd *cobra.Command, p *lab.Plan, e *lab.Experiment, scenario, out, cache, program string) ([]*lab.Cell, error) {
	o := simFlags{traces: traceFlags{window: time.Minute}}
	s, err := o.load(scenario)
	if err != nil {
		return nil, err
	}
	inputs, err := fileHash(func() (string, error) { return scenario, nil })
	if err != nil {
		return nil, err
	}
	var cells []*lab.Cell
	for _, load := range e.Loads {
		path := cached(cache, "%s %s %v %v %d %d %v", program, inputs, time.Duration(e.Late), load, p.FirstSeed, p.SeedsOf(e), p.PoliciesOf(e))
		if b, err := os.ReadFile(path); err == nil {
			if c, err := lab.ReadCell(b); err == nil {
				cells = append(cells, c)
				continue
			}
		}
		var hear func(done, total int, doing string)
		done := showProgress(&hear, cmd.ErrOrStderr())
		c, err := lab.RunCell(cmd.Context(), s, p, e, load, func(n, total int, _ string) { hear(n, total, fmt.Sprintf("%s at load %g", e.Name, load)) })
		done(err == nil)
		if err != nil {
			return nil, err
		}
		if err := keep(path, c); err != nil {
			return nil, err
		}
		cells = append(cells, c)
	}
	// Always, whether or not the cell was run just now: figures that are there already may be those of another program or plan.
	drawn := plotted(cells).Result
	drawn.Scenario = e.Name // files and titles are the experiment's
	var figures []string
	if err := lab.Plots(drawn, func(name string) (io.WriteCloser, error) {
		figures = append(figures, name)
		return os.Create(filepath.Join(out, name))
	}); err != nil {
		return nil, err
	}
	return cells, writeFile(filepath.Join(out, e.Name+".md"), func(w io.Writer) error { return lab.WriteMarkdown(w, e, s, p, cells, figures) })
}

// plotted is the cell that is drawn: the one nearest to a load of .8.
func plotted(cells []*lab.Cell) *lab.Cell {
	var at *lab.Cell
	for _, c := range cells {
		if at == nil || math.Abs(c.Load-.8) < math.Abs(at.Load-.8) {
			at = c
		}
	}
	return at
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// cached is where the result of these inputs is kept.
func cached(dir, format string, inputs ...any) string {
	key := sha256.Sum256(fmt.Appendf(nil, format, inputs...))
	return filepath.Join(dir, hex.EncodeToString(key[:])+".json")
}

// keep writes a result, all of it or nothing.
func keep(path string, result any) error {
	b, err := json.Marshal(result)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".part", b, 0o666); err != nil {
		return err
	}
	return os.Rename(path+".part", path)
}

// runDisasters faces all disasters and writes their page.
func runDisasters(cmd *cobra.Command, p *lab.Plan, folder, out, cache, program string) error {
	seeds := make([]uint64, p.Seeds)
	for i := range seeds {
		seeds[i] = p.FirstSeed + uint64(i)
	}
	var scenarios []*lab.Scenario
	var faced [][]lab.Faced
	var hear func(done, total int, doing string)
	done := showProgress(&hear, cmd.ErrOrStderr())
	all := lab.Disasters()
	var known lab.Known
	for i := range all {
		d := &all[i]
		o := simFlags{traces: traceFlags{window: time.Minute}}
		file := filepath.Join(folder, d.Scenario)
		s, err := o.load(file)
		var inputs string
		if err == nil {
			inputs, err = fileHash(func() (string, error) { return file, nil })
		}
		if err != nil {
			done(false)
			return fmt.Errorf("disaster %s: %w", d.Name, err)
		}
		path := cached(cache, "%s %s %s %v", program, inputs, d.Name, seeds)
		var runs []lab.Faced
		if b, err := os.ReadFile(path); err != nil || json.Unmarshal(b, &runs) != nil {
			hear(i, len(all), d.Name)
			if runs, err = d.Face(cmd.Context(), s, seeds, &known); err == nil {
				err = keep(path, runs)
			}
			if err != nil {
				done(false)
				return err
			}
		}
		scenarios, faced = append(scenarios, s), append(faced, runs)
	}
	done(true)
	return writeFile(filepath.Join(out, "disasters.md"), func(w io.Writer) error { return lab.WriteDisasters(w, p, scenarios, faced) })
}

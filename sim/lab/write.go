package lab

import (
	"encoding/csv"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"text/tabwriter"
)

// WriteText prints results as tables for people; figures of several seeds with their confidence intervals.
func WriteText(w io.Writer, results []*Result) error {
	for i, r := range results {
		if i > 0 {
			fmt.Fprintln(w)
		}
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(tw, "scenario %s, %.4g s", r.Scenario, r.DurationS)
		if r.WarmupS > 0 {
			fmt.Fprintf(tw, " (%.4g of them not counted)", r.WarmupS)
		}
		fmt.Fprintf(tw, "\npolicy\tfunction\tcalls\tanswered\trefused\tfailed\tmean ms\tp50\tp95\tp99\texec\tdelay\tmissed\tcold\tfetched MB\n")
		for k := range r.Rows {
			x := &r.Rows[k]
			fmt.Fprintf(tw, "%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%d/%d\t%d\t%.1f\n", x.Policy, x.Function, x.Calls, x.Answered, x.Refused, x.Failed,
				with(x.MeanMs, x.MeanCI), with(x.P50Ms, x.P50CI), with(x.P95Ms, x.P95CI), with(x.P99Ms, x.P99CI), with(x.ExecMeanMs, x.ExecMeanCI), with(x.DelayMeanMs, x.DelayMeanCI),
				x.Misses, x.Deadlines, x.ColdStarts, float64(x.FetchedBytes)/1e6)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		for k := range r.Rows {
			if x := &r.Rows[k]; x.Function == "all" && x.Policy != r.Rows[0].Policy {
				fmt.Fprintf(w, "%s: %+.4g ms against %s", x.Policy, x.MeanVsFirst, r.Rows[0].Policy)
				if x.Seeds > 1 {
					fmt.Fprintf(w, " (±%.3g at 95 %%, paired over %d seeds)", x.MeanVsFirstCI, x.Seeds)
				}
				fmt.Fprintln(w)
			}
		}
		if len(r.Runs) == 1 {
			run := &r.Runs[0]
			fmt.Fprintf(w, "seed %d, %d events, trace %s; %d samples learned, one of %d\n", run.Seed, run.Events, run.Hash, run.Learned, run.LearnEvery)
		}
		for _, n := range r.Notes {
			fmt.Fprintln(w, n)
		}
	}
	return nil
}

// with prints a figure and, if there is one, how far off it may be.
func with(x, ci float64) string {
	if ci == 0 {
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.1f±%.1f", x, ci)
}

// WriteCSV prints all rows with a header of the names that they have in JSON.
func WriteCSV(w io.Writer, results []*Result) error {
	c := csv.NewWriter(w)
	t := reflect.TypeFor[Row]()
	var head []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		head = append(head, name)
	}
	if err := c.Write(head); err != nil {
		return err
	}
	for _, r := range results {
		for k := range r.Rows {
			v := reflect.ValueOf(r.Rows[k])
			row := make([]string, v.NumField())
			for i := range row {
				if f := v.Field(i); f.CanFloat() {
					row[i] = strconv.FormatFloat(f.Float(), 'g', 8, 64)
				} else {
					row[i] = fmt.Sprint(f.Interface())
				}
			}
			if err := c.Write(row); err != nil {
				return err
			}
		}
	}
	c.Flush()
	return c.Error()
}

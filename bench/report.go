package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Result is one figure of a benchmark.
type Result struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// Report is what `rubato bench NAME -o json` prints.
type Report struct {
	Bench   string         `json:"bench"`
	Results []Result       `json:"results"`
	Env     map[string]any `json:"env"`
	// Notes are for people: where the time goes.
	Notes []string `json:"notes,omitempty"`
}

func (r *Report) add(name string, value float64, unit string) {
	r.Results = append(r.Results, Result{name, value, unit})
}

// WriteText prints the report as a table.
func (r *Report) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "bench %s\tvalue\tunit\n", r.Bench)
	for _, x := range r.Results {
		fmt.Fprintf(tw, "%s\t%.4g\t%s\n", x.Name, x.Value, x.Unit)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(tw, "%s\n", n)
	}
	return tw.Flush()
}

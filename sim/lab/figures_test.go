package lab

import (
	"math"
	"strings"
	"testing"
)

// The figures that are shipped are those of the traces: quantiles as the publications print them, between the points and at
// them. Each names a source with its licence.
func TestPublishedFigures(t *testing.T) {
	f, err := published()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		table   string
		u, want float64
		within  float64 // relative
	}{
		{"calls_per_day", .5, 74, 1e-9},
		{"calls_per_day", .99, 333222, 1e-9},
		{"calls_per_day", .995, 954419, 1e-9},
		{"calls_per_day", .819, 24 * 60, .05},           // "81.9 % of apps are called once a minute at most"
		{"run_ms", .5, 670, 1e-9},                       // Azure 2019: the median function's mean
		{"run_ms", .573, 1000, .05},                     // F(1 s), between two points
		{"run_ms", .746, 3000, .05},                     // F(3 s)
		{"run_ms", .963, 60000, .05},                    // F(60 s)
		{"run_ms", .03, 5, 1e-9},                        // from 0 on in the value itself
		{"run_ms_by_call", .5, 126, 1e-9},               // FaaSRail
		{"interval_cv", .1, 0, 0},                       // timers
		{"interval_cv", .62, 1, .1},                     // "38 % above 1"
		{"memory_mb", .5, 140, 1e-9},                    //
		{"object_bytes", .5, 5302, .02},                 // as printed in the notebook
		{"object_bytes", .99, 1589532, .02},             //
		{"objects", .6612, 100, .2},                     // "at most 100 for 66.12 %"
		{"run_sigma", .01, .25, 1e-9},                   // below the first point: its value
		{"run_sigma", .99, 1.14, 1e-9},                  // above the last
		{"run_sigma", .375, math.Sqrt(.25 * .67), 1e-9}, // half-way, in the logarithm
	} {
		q, ok := f.Quantiles[c.table]
		if !ok {
			t.Fatalf("no quantiles %s", c.table)
		}
		if got := q.quantile(c.u); math.Abs(got-c.want) > c.within*c.want {
			t.Errorf("%s at %v: %v, want %v", c.table, c.u, got, c.want)
		}
		last := 0.0
		for u := -.1; u < 1.1; u += .001 {
			if x := q.quantile(u); !(x >= last) {
				t.Fatalf("%s falls to %v at %v", c.table, x, u)
			} else {
				last = x
			}
		}
	}
	if l := f.Laws["cold"]; l.Median != 1.35 || math.Abs(l.Median*math.Exp(l.Sigma*l.Sigma/2)-3.24) > .05 {
		t.Errorf("cold starts %+v: want a median of 1.35 s, a mean of 3.24 s", l)
	}
	if f.Numbers["cold_median_low"].Value != .1 || f.Numbers["cold_median_high"].Value != 2.09 || f.Shares["locality"].Parts["compression"] != 3.47 {
		t.Errorf("numbers %+v, locality %+v", f.Numbers, f.Shares["locality"])
	}
	python := 0
	runtimes := f.Shares["runtimes"]
	for i := range 1000 {
		part := runtimes.draw((float64(i) + .5) / 1000)
		if part == "python3" {
			python++
		}
		if _, ok := f.Laws["cold_r2_"+part]; !ok {
			t.Fatalf("no cold starts of runtime %s", part)
		}
	}
	if python < 610 || python > 640 {
		t.Errorf("%d of 1000 functions are Python's, want 618 of 988", python)
	}
	for _, r := range regions {
		if _, ok := f.Laws["cold_"+r]; !ok {
			t.Errorf("no cold starts of region %s", r)
		}
	}
}

func TestFiguresAreStrict(t *testing.T) {
	const good = `
sources: {s: {what: a trace, licence: none}}
quantiles: {q: {of: x, source: s, at: [[.1, 1], [.9, 5]]}}
laws: {l: {of: x, source: s, median: 2, sigma: 1}}
shares: {p: {of: x, source: s, parts: {a: 1, b: 2}}}
numbers: {n: {of: x, source: s, value: 1}}
`
	if _, err := readFigures(strings.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ from, to, want string }{
		{"[.9, 5]", "[.1, 5]", "want probabilities that rise"},
		{"[.9, 5]", "[.9, .5]", "never fall"},
		{"[.9, 5]", "[1, 5]", "between 0 and 1"},
		{"[.9, 5]", "[.9, .nan]", "values from 0"},
		{"[.9, 5]", "[.9, 5, 6]", "array"},
		{", [.9, 5]", "", "1 points"},
		{"median: 2", "median: 0", "a median above 0"},
		{"sigma: 1", "sigma: 5", "a sigma of 0-4"},
		{"b: 2", "b: 0", "want more than 0"},
		{"value: 1", "value: -1", "number"},
		{"licence: none", "licence: ''", "its licence"},
		{"numbers: {n: {of: x, source: s", "numbers: {n: {of: x, source: z", "no source \"z\""},
		{"value: 1", "values: 1", "values"},
	} {
		if !strings.Contains(good, c.from) {
			t.Fatalf("no %q", c.from)
		}
		if _, err := readFigures(strings.NewReader(strings.Replace(good, c.from, c.to, 1))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.to, err, c.want)
		}
	}
	if _, err := readFigures(strings.NewReader("")); err == nil {
		t.Error("an empty file is taken")
	}
	if _, err := readFigures(strings.NewReader(strings.Repeat(" ", maxFiguresBytes+1))); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a large file: %v", err)
	}
}

// Whatever stands in a file, its quantiles never fall, and every draw falls on something.
func FuzzReadFigures(f *testing.F) {
	f.Add(string(figuresFile), .5)
	f.Add("sources: {s: {what: a, licence: b}}\nquantiles: {q: {source: s, at: [[.1, 0], [.9, 5]]}}\nshares: {p: {source: s, parts: {a: 1}}}\n", .2)
	f.Fuzz(func(t *testing.T, text string, u float64) {
		got, err := readFigures(strings.NewReader(text))
		if err != nil {
			return
		}
		for name, q := range got.Quantiles {
			if a, b := q.quantile(u), q.quantile(u+.01); !(a >= q.At[0][1] && a <= q.At[len(q.At)-1][1]) || b < a-1e-9*a {
				t.Fatalf("%s: %v at %v, %v a hundredth on", name, a, u, b)
			}
		}
		for name, s := range got.Shares {
			if part := s.draw(u); s.Parts[part] == 0 {
				t.Fatalf("%s: no part %q", name, part)
			}
		}
	})
}

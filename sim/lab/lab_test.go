package lab

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sim"
)

const tiny = `
name: tiny
duration: 3s
learn: {every: 1}
objects: [{name: o, count: 10, size: 1MB}]
functions:
  - {name: f, run: 5ms, spread: .3, deadline: 1s, calls: {per_s: 40}}
  - {name: g, count: 2, vary: .5, zipf: 1, run: 5ms, per_mb: 10ms, calls: {per_s: 20, objects: o}}
zones:
  - name: z
    nodes: [{count: 3, slots: 2, cores: 2, link_mbps: 400}]
`

func read(t *testing.T, text string) *Scenario {
	t.Helper()
	s, err := Read(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func policies(t *testing.T, names ...string) (out []Policy) {
	t.Helper()
	for _, n := range names {
		p, err := ParsePolicy(n)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// A wrong scenario is refused, with words that tell what was wrong.
func TestScenariosAreStrict(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"duration: 3s", "duraton: 3s", "field duraton is not known in scenario"},
		{"per_s: 40", "per_sec: 40", "field per_sec is not known in calls"},
		{"slots: 2", "slot: 2", "field slot is not known in nodes"},
		{"duration: 3s", "duration: 3", `line 3: duration "3": want one`},
		{"duration: 3s", "duration: -3s", "not negative"},
		{"size: 1MB", "size: 1000", `size "1000": want a number with a unit`},
		{"name: tiny", "name: Tiny!", "scenario \"Tiny!\": want"},
		{"objects: o}", "objects: p}", "no object set \"p\""},
		{"name: tiny", "name: tiny\npolicy: best", "policy \"best\""},
		{"name: tiny", "name: tiny\nwarmup: 3s", "above the warm-up"},
		{"count: 3, slots", "count: 0, slots", "0 nodes in all zones"},
		{"count: 3, slots: 2", "count: 3, slots: -2", "slots -2"},
		{"count: 3, slots", "count: 3, speed: {gpu: 2}, slots", `kernel "gpu": want cpu, memory or io`},
		{"name: g, count: 2", "name: f", "two functions f"},
		{"name: z", "name: z\n    share: 0", "no zone has a share"},
		{"name: tiny", "name: tiny\nchanges: [{at: 1s, function: h, run: 2}]", "no function \"h\""},
		{"run: 5ms, spread", "run: 5ms, kernel: quantum, spread", "kernel \"quantum\""},
		{"name: tiny", "name: tiny\n---\nname: two", "more than one document"},
		{"per_s: 40", "per_s: .nan", "want 0 or more"},
		{"count: 10", "count: 100000000", "object set o"},
	} {
		if !strings.Contains(tiny, c.from) {
			t.Fatalf("no %q in the scenario", c.from)
		}
		_, err := Read(strings.NewReader(strings.Replace(tiny, c.from, c.to, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.to, err, c.want)
		}
	}
	if _, err := Read(strings.NewReader("")); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an empty file: %v", err)
	}
	if _, err := Read(io.LimitReader(zeros{}, 2*MaxScenarioBytes)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a large file: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// Every scenario that is shipped can be read and run; all kinds that there should be are there.
func TestShippedScenarios(t *testing.T) {
	files, err := filepath.Glob("../../scenarios/*.yaml")
	if err != nil || len(files) < 7 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Read(f)
		f.Close()
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if s.Name+".yaml" != filepath.Base(file) || s.About == "" {
			t.Errorf("%s: is named %s, about %q", file, s.Name, s.About)
		}
		s.Duration, s.Warmup = Duration(2*time.Second), 0
		r, err := Compare(t.Context(), s, policies(t, "rubato"), []uint64{1}, nil)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if row := r.Rows[0]; row.Calls == 0 || row.Answered+row.Refused+row.Failed != row.Calls || row.Answered < row.Calls*9/10 {
			t.Errorf("%s: of %d calls %d answered, %d refused, %d failed", file, row.Calls, row.Answered, row.Refused, row.Failed)
		}
	}
}

// The scenario in the documentation, which shows every key, can be read and run.
func TestTheDocumentedScenario(t *testing.T) {
	b, err := os.ReadFile("../../docs/simulator.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "```yaml\n")
	text, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no scenario in docs/simulator.md")
	}
	s := read(t, text)
	s.Duration, s.Warmup, s.Changes[0].At, s.Changes[1].At = Duration(2*time.Second), 0, Duration(time.Second), Duration(time.Second)
	if _, err := Compare(t.Context(), s, policies(t, "rubato"), []uint64{1}, nil); err != nil {
		t.Error(err)
	}
	// Every key of the types is shown, in this scenario or in another piece of YAML.
	var yaml strings.Builder
	for rest := string(b); ; {
		_, after, ok := strings.Cut(rest, "```yaml\n")
		if !ok {
			break
		}
		var block string
		block, rest, _ = strings.Cut(after, "```")
		yaml.WriteString(block)
	}
	for _, v := range []any{Scenario{}, Rule{}, Scheduler{}, Network{}, Learn{}, Runtime{}, Objects{}, Function{}, Population{}, Link{}, Calls{}, Zone{}, Nodes{}, Change{}} {
		typ := reflect.TypeOf(v)
		for i := range typ.NumField() {
			if key := typ.Field(i).Tag.Get("yaml"); key != "" && !regexp.MustCompile(`\b`+key+`:`).MatchString(yaml.String()) {
				t.Errorf("docs/simulator.md does not mention %s of %s", key, typ.Name())
			}
		}
	}
}

// A comparison is the same each time, policies see the same calls, and its figures are means with their intervals.
func TestCompareIsPairedAndRepeats(t *testing.T) {
	s := read(t, tiny)
	seeds := []uint64{1, 2, 3}
	var texts []string
	var r *Result
	for range 2 {
		var err error
		if r, err = Compare(t.Context(), s, policies(t, "rubato", "least-loaded", "fixed-delay=50ms", "oracle"), seeds, nil); err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(b))
	}
	if texts[0] != texts[1] {
		t.Error("two comparisons of the same differ")
	}
	if len(r.Rows) != 4*4 || len(r.Runs) != 4*3 {
		t.Fatalf("%d rows, %d runs", len(r.Rows), len(r.Runs))
	}
	for i, row := range r.Rows {
		first := r.Rows[i%4]
		if row.Function != first.Function || row.Calls != first.Calls {
			t.Errorf("%s %s: %d calls, %s had %d", row.Policy, row.Function, row.Calls, first.Policy, first.Calls)
		}
		if row.MeanCI <= 0 || row.MeanMs <= 0 || row.P50Ms > row.P95Ms || row.P95Ms > row.P99Ms || row.Workload != "tiny" || row.Seeds != 3 {
			t.Errorf("row %+v", row)
		}
		if i >= 4 && math.Abs(row.MeanVsFirst-(row.MeanMs-first.MeanMs)) > 1e-9 {
			t.Errorf("%s: %v against the first, means are %v and %v", row.Policy, row.MeanVsFirst, row.MeanMs, first.MeanMs)
		}
	}
	if r.Rows[0].Function != "all" || r.Rows[1].Function != "f" || r.Rows[2].Function != "g-0" {
		t.Errorf("functions %s, %s, %s", r.Rows[0].Function, r.Rows[1].Function, r.Rows[2].Function)
	}
	if r.Rows[2].Calls <= r.Rows[3].Calls {
		t.Errorf("of a group, the first function has %d calls and the second %d", r.Rows[2].Calls, r.Rows[3].Calls)
	}
	hashes := map[string]bool{}
	for _, run := range r.Runs {
		hashes[run.Hash] = true
	}
	if len(hashes) != len(r.Runs) {
		t.Errorf("%d traces of %d runs", len(hashes), len(r.Runs))
	}

	var text, table bytes.Buffer
	if err := WriteText(&table, []*Result{r}); err != nil || !strings.Contains(table.String(), "±") || !strings.Contains(table.String(), "against rubato") {
		t.Errorf("table %s, %v", table.String(), err)
	}
	if err := WriteCSV(&text, []*Result{r}); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&text).ReadAll()
	if err != nil || len(rows) != 1+len(r.Rows) {
		t.Fatalf("%d rows of CSV, %v", len(rows), err)
	}
	head := strings.Join(rows[0], ",")
	for _, col := range strings.Split("policy,workload,function,calls,answered,refused,mean_ms,p50_ms,p95_ms,p99_ms,exec_mean_ms,delay_mean_ms,misses,cold_starts,fetched_bytes,mean_ci95_ms", ",") {
		if !strings.Contains(","+head+",", ","+col+",") {
			t.Errorf("no column %s in %s", col, head)
		}
	}

	plots := map[string]*file{}
	err = Plots(r, func(name string) (io.WriteCloser, error) { plots[name] = &file{}; return plots[name], nil })
	if err != nil || len(plots) != 3 {
		t.Fatalf("%d plots, %v", len(plots), err)
	}
	for name, f := range plots {
		if !f.closed || !strings.Contains(f.String(), "<svg") || !strings.Contains(f.String(), "least-loaded") {
			t.Errorf("plot %s: closed %v, %.80s", name, f.closed, f.String())
		}
	}
}

// Plots are written in every format that is asked for, and in none that nobody knows.
func TestPlotFormats(t *testing.T) {
	r, err := Compare(t.Context(), read(t, tiny), policies(t, "rubato", "least-loaded"), []uint64{1, 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	plots := map[string]*file{}
	create := func(name string) (io.WriteCloser, error) { plots[name] = &file{}; return plots[name], nil }
	if err := Plots(r, create, "png", "svg"); err != nil || len(plots) != 2*len(Plotted) {
		t.Fatalf("%d plots, %v", len(plots), err)
	}
	for _, name := range Plotted {
		f := plots["tiny-"+name+".png"]
		if f == nil || !f.closed {
			t.Fatalf("no %s as PNG", name)
		}
		if img, err := png.Decode(&f.Buffer); err != nil || img.Bounds().Dx() < 400 || img.Bounds().Dy() < 200 {
			t.Errorf("%s: %v", name, err)
		}
	}
	clear(plots)
	if err := Plots(r, create, "svg", "gif"); !errors.Is(err, api.ErrInvalid) || len(plots) != 0 {
		t.Errorf("as gif: %v, %d files", err, len(plots))
	}
}

// Every count has the interval of its sum over seeds, as every time has that of its mean.
func TestCountsHaveIntervals(t *testing.T) {
	s := read(t, strings.Replace(tiny, "name: tiny", "name: tiny\nscheduler: {max_waiting: 1}", 1))
	s.Functions[0].Run = Duration(200 * time.Millisecond)
	seeds := []uint64{1, 2, 3}
	all, err := Compare(t.Context(), s, policies(t, "least-loaded"), seeds, nil)
	if err != nil {
		t.Fatal(err)
	}
	each := map[string][]float64{}
	fields := func(r *Row) map[string]float64 {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]any{}
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for k, v := range m {
			if x, ok := v.(float64); ok {
				out[k] = x
			}
		}
		return out
	}
	for _, seed := range seeds {
		one, err := Compare(t.Context(), s, policies(t, "least-loaded"), []uint64{seed}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range fields(&one.Rows[0]) {
			each[k] = append(each[k], v)
			if strings.Contains(k, "_ci95") && v != 0 {
				t.Errorf("of one seed: %s %v", k, v)
			}
		}
	}
	got := fields(&all.Rows[0])
	for _, name := range strings.Fields("calls answered refused misses cold_starts fetched_bytes forwarded delayed failed deadlines") {
		mean, half := meanCI(each[name])
		if near := func(a, b float64) bool { return math.Abs(a-b) <= 1e-9*math.Max(b, 1) }; !near(got[name], 3*mean) || !near(got[name+"_ci95"], 3*half) {
			t.Errorf("%s: %v±%v, want %v±%v", name, got[name], got[name+"_ci95"], 3*mean, 3*half)
		}
	}
	for _, name := range strings.Fields("mean p50 p95 p99 exec_mean delay_mean queue_mean") {
		mean, half := meanCI(each[name+"_ms"])
		if math.Abs(got[name+"_ms"]-mean) > 1e-9*mean || math.Abs(got[name+"_ci95_ms"]-half) > 1e-9*mean {
			t.Errorf("%s: %v±%v, want %v±%v", name, got[name+"_ms"], got[name+"_ci95_ms"], mean, half)
		}
	}
	if got["refused"] == 0 || got["refused_ci95"] == 0 || got["misses_ci95"] == 0 || got["calls_ci95"] == 0 {
		t.Errorf("too little happened: %v", got)
	}
}

type file struct {
	bytes.Buffer
	closed bool
}

func (f *file) Close() error { f.closed = true; return nil }

// 2.776 is Student's t for four degrees of freedom.
func TestIntervals(t *testing.T) {
	mean, half := meanCI([]float64{1, 2, 3, 4, 5})
	if mean != 3 || math.Abs(half-2.776*math.Sqrt(2.5/5)) > 1e-3 {
		t.Errorf("%v and %v", mean, half)
	}
	if mean, half := meanCI([]float64{7}); mean != 7 || half != 0 {
		t.Errorf("of one: %v and %v", mean, half)
	}
}

// A comparison that is stopped, or cannot go on, says why.
func TestCompareStops(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	heard := 0
	_, err := Compare(ctx, read(t, tiny), policies(t, "rubato"), []uint64{1, 2, 3, 4, 5}, func(done, total int, _ string) {
		if heard++; done > total {
			t.Errorf("%d of %d done", done, total)
		}
		stop()
	})
	if !errors.Is(err, context.Canceled) || heard == 0 {
		t.Errorf("stopped: %v after %d reports", err, heard)
	}
	s := read(t, tiny)
	s.Zones[0].Nodes[0].Slots = -1
	if _, err := Compare(t.Context(), s, policies(t, "rubato"), []uint64{1, 2, 3}, nil); err == nil || !strings.Contains(err.Error(), "slots -1") {
		t.Errorf("error %v", err)
	}
	if _, err := Compare(t.Context(), s, nil, []uint64{1}, nil); err == nil {
		t.Error("no policies are compared")
	}
}

// A call that is refused, or never answered, misses its deadline; a refused one is a miss without any.
func TestRefusedCallsMiss(t *testing.T) {
	s := read(t, strings.Replace(tiny, "name: tiny", "name: tiny\nscheduler: {max_waiting: 1}", 1))
	s.Functions[0].Run = Duration(400 * time.Millisecond)
	r, err := Compare(t.Context(), s, policies(t, "least-loaded"), []uint64{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if f := r.Rows[1]; f.Function != "f" || f.Refused == 0 || f.Misses < f.Refused || f.Deadlines != f.Calls {
		t.Errorf("%d calls, %d refused, %d misses of %d deadlines", f.Calls, f.Refused, f.Misses, f.Deadlines)
	}
	if g := r.Rows[2]; g.Function != "g-0" || g.Refused == 0 || g.Misses != g.Refused || g.Deadlines != g.Refused || g.MissShare != float64(g.Misses)/float64(g.Calls) {
		t.Errorf("without a deadline: %d calls, %d refused, %d misses of %d", g.Calls, g.Refused, g.Misses, g.Deadlines)
	}
}

func TestReadCSV(t *testing.T) {
	tr, err := ReadCSV(strings.NewReader("at_ms,function,exec_ms,input_bytes\n20,b,3.5,1000\n10,a/x,2,0\n99999,b,1,1\n"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	want := []TraceCall{{10 * time.Millisecond, 1, 2, 0}, {20 * time.Millisecond, 0, 3.5, 1000}}
	if fmt.Sprint(tr.Calls) != fmt.Sprint(want) || tr.Functions[0].Name != "b" || tr.Functions[1].Name != "ax-1" {
		t.Errorf("%+v", tr)
	}
	for text, want := range map[string]string{
		"":                                    "no header",
		"at,function,exec_ms\n":               "no column at_ms",
		"at_ms,function,exec_ms\n1,a\n":       "row 2: 2 columns: want 3",
		"at_ms,function,exec_ms\nx,a,1\n":     `row 2, column at_ms: "x": want a number`,
		"at_ms,function,exec_ms\n1,a,-1\n":    "column exec_ms",
		"at_ms,function,exec_ms\n1,a,NaN\n":   "column exec_ms",
		"at_ms,function,exec_ms\n1,\"a,1\n":   "csv",
		"at_ms,function,exec_ms\n1,a,1e300\n": "from 0 to",
		"at_ms,function,exec_ms\n1," + strings.Repeat("a", 2<<20): "a row of more than",
		strings.Repeat("a,", 2<<20):                               "a row of more than",
	} {
		if _, err := ReadCSV(strings.NewReader(text), time.Second); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
}

func TestReadAzure2021(t *testing.T) {
	tr, err := ReadAzure2021(strings.NewReader("app,func,end_timestamp,duration\na1,f,1.5,0.5\na2,f,2,1.5\na1,f,100,1\n"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	// The second began first, at .5; functions of two apps are two, whatever they are called.
	want := []TraceCall{{0, 1, 1500, 0}, {500 * time.Millisecond, 0, 500, 0}}
	if fmt.Sprint(tr.Calls) != fmt.Sprint(want) || len(tr.Functions) != 2 {
		t.Errorf("%+v", tr)
	}
}

func TestReadFaaSRail(t *testing.T) {
	const text = "trace_avg_ms,mapped_bench,mapped_payload,mapped_mean_ms,25,26,27\n" +
		"1633,float,\"{\"\"n\"\": 10000}\",2721.2,3,0,5\n5,pyaes,\"{}\",6,0,2,0\n7,pyaes,\"{}\",6,0,0,9\n"
	tr, err := ReadFaaSRail(strings.NewReader(text), time.Minute, 2*time.Minute, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(tr.Functions) != 2 || len(tr.Calls) != 5 || tr.Functions[0].Name != "float-row1" {
		t.Fatalf("%+v", tr)
	}
	for i, c := range tr.Calls {
		if f := i / 3; c.Function != f || c.Ms != []float64{1633, 5}[f] || c.At/time.Minute != time.Duration(f) {
			t.Errorf("call %d: %+v", i, c)
		}
	}
	// As its authors' own files have it.
	if tr, err = ReadFaaSRail(strings.NewReader("avg,mapped_wreq,1-288,289-576\n12,chameleon-1,2,1\n"), time.Minute, 2*time.Minute, 1); err != nil || len(tr.Calls) != 3 || tr.Calls[0].Ms != 12 || tr.Functions[0].Name != "chameleon-1-row1" {
		t.Fatalf("%+v, %v", tr, err)
	}
	if _, err := ReadFaaSRail(strings.NewReader("trace_avg_ms,mapped_bench\n1,a\n"), time.Minute, time.Minute, 1); err == nil || !strings.Contains(err.Error(), "no column of a window") {
		t.Errorf("error %v", err)
	}
}

func azureDay() fstest.MapFS {
	head := "HashOwner,HashApp,HashFunction,Trigger"
	rows := []string{"o,a,f,http", "o,a,g,timer", "o,b,f,queue"}
	for m := 1; m <= 1440; m++ {
		head += fmt.Sprintf(",%d", m)
		for i := range rows {
			rows[i] += fmt.Sprintf(",%d", []int{0, 10, 2}[(m+i)%3])
		}
	}
	const p = "HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum,percentile_Average_0,percentile_Average_1,percentile_Average_25,percentile_Average_50,percentile_Average_75,percentile_Average_99,percentile_Average_100\n"
	return fstest.MapFS{
		"invocations_per_function_md.anon.d02.csv":    {Data: []byte("not this day")},
		"invocations_per_function_md.anon.d01.csv":    {Data: []byte(head + "\n" + strings.Join(rows, "\n") + "\n")},
		"function_durations_percentiles.anon.d01.csv": {Data: []byte(p + "o,a,f,50,9,1,900,1,2,20,40,80,700,900\no,a,g,5,9,5,5,5,5,5,5,5,5,5\n")},
		"app_memory_percentiles.anon.d01.csv":         {Data: []byte("HashOwner,HashApp,SampleCount,AverageAllocatedMb\no,a,3,170\n")},
	}
}

func TestReadAzure2019(t *testing.T) {
	tr, err := ReadAzure2019(azureDay(), 600, 3*time.Minute, 1)
	if err != nil {
		t.Fatal(err)
	}
	// b/f has no durations and is left out; of the others each has 0, 10 and 2 calls in some order.
	if len(tr.Functions) != 2 || len(tr.Calls) != 24 || tr.Functions[0].MemoryMB != 170 || tr.UntimedFunctions != 1 || tr.UntimedCalls != 12 {
		t.Fatalf("%d functions, %d calls, %+v", len(tr.Functions), len(tr.Calls), tr.Functions)
	}
	for i, c := range tr.Calls {
		if c.At < 0 || c.At >= 3*time.Minute || i > 0 && c.At < tr.Calls[i-1].At {
			t.Errorf("call %d at %v", i, c.At)
		}
		if c.Function == 1 && math.Abs(c.Ms-5) > 1e-9 || c.Function == 0 && (c.Ms < 1 || c.Ms > 900) {
			t.Errorf("call of function %d ran %v ms", c.Function, c.Ms)
		}
	}
	day := azureDay()
	file := day["function_durations_percentiles.anon.d01.csv"]
	file.Data = bytes.Replace(file.Data, []byte("o,a,g,5,9,5,5,5,"), []byte("o,a,g,-41692,9,5,5,-41692,"), 1)
	if tr, err = ReadAzure2019(day, 600, 3*time.Minute, 1); err != nil || slices.ContainsFunc(tr.Calls, func(c TraceCall) bool { return c.Function == 1 && !(c.Ms >= 0 && c.Ms <= 5) }) {
		t.Errorf("a negative percentile, as there are in the published day: %v", err)
	}
	day = azureDay()
	day["function_durations_percentiles.anon.d00.csv"] = &fstest.MapFile{Data: []byte("of another day than the calls")}
	if _, err := ReadAzure2019(day, 0, time.Minute, 1); err != nil {
		t.Errorf("a folder with durations of another day, too: %v", err)
	}
	delete(day, "function_durations_percentiles.anon.d01.csv")
	if _, err := ReadAzure2019(day, 0, time.Minute, 1); err == nil || !strings.Contains(err.Error(), "no file function_durations_percentiles") {
		t.Errorf("error %v", err)
	}
	if _, err := ReadAzure2019(azureDay(), 1440, time.Minute, 1); err == nil || !strings.Contains(err.Error(), "no column 1441") {
		t.Errorf("a minute beyond the day: %v", err)
	}
}

// A trace's calls run in the scenario's zones, for the times that it says.
func TestTracesRun(t *testing.T) {
	var b strings.Builder
	b.WriteString("at_ms,function,exec_ms\n")
	for i := range 200 {
		fmt.Fprintf(&b, "%d,f%d,%d\n", 10*i, i%3, 20+10*(i%3))
	}
	tr, err := ReadCSV(strings.NewReader(b.String()), 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	s, err := read(t, tiny).WithTrace(tr)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Compare(t.Context(), s, policies(t, "rubato"), []uint64{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if row := r.Rows[0]; row.Calls != 200 || row.Answered != 200 || row.Workload != "tiny/csv" {
		t.Errorf("%+v", row)
	}
	for i, row := range r.Rows[1:] {
		if want := float64(20 + 10*i); row.P50Ms < want || row.P50Ms > want+5 {
			t.Errorf("%s: median %v ms, recorded were %v", row.Function, row.P50Ms, want)
		}
	}
	if _, err := read(t, tiny).WithTrace(&Trace{Name: "none"}); err == nil {
		t.Error("a trace without a call was taken")
	}
}

// What a trace calls two functions may come to the same name.
func TestTraceFunctionsHaveNamesOfTheirOwn(t *testing.T) {
	tr, err := ReadCSV(strings.NewReader("at_ms,function,exec_ms\n1,foo-1,1\n2,FOO,1\n3,f1,1\n"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, f := range tr.Functions {
		if err := api.CheckName("function", f.Name); err != nil || names[f.Name] {
			t.Errorf("%q once more, or no name: %v", f.Name, err)
		}
		names[f.Name] = true
	}
	if s, err := read(t, tiny).WithTrace(tr); err != nil {
		t.Error(err)
	} else if _, err := Compare(t.Context(), s, policies(t, "rubato"), []uint64{1}, nil); err != nil {
		t.Error(err)
	}
}

// What is known of a trace's function before a call of it is how long its calls take in the middle.
func TestTraceFunctionsHaveTheLawsOfTheirCalls(t *testing.T) {
	tr, err := ReadCSV(strings.NewReader("at_ms,function,exec_ms\n1,a,50\n2,a,100\n3,a,200\n4,b,7\n"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	s, err := read(t, tiny).WithTrace(tr)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := s.Config(policies(t, "laws")[0], 1)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := cfg.Functions[0], cfg.Functions[1]; math.Abs(float64(a.Run)-100e6) > 1e4 || a.Spread < .3 || math.Abs(float64(b.Run)-7e6) > 1e3 || b.Spread != 0 {
		t.Errorf("run %v spread %v, run %v spread %v", a.Run, a.Spread, b.Run, b.Spread)
	}
	if r, err := Compare(t.Context(), s, policies(t, "rubato"), []uint64{1, 2}, nil); err != nil || !strings.Contains(strings.Join(r.Notes, "\n"), "under every seed") {
		t.Errorf("%v, notes %q", err, r.Notes)
	}
}

// A change of one function is none of another whose name begins like its.
func TestAChangeIsOfOneFunctionOrGroup(t *testing.T) {
	for name, want := range map[string]bool{"word-1": true, "word-12": true, "word-count": false, "word": false, "words-1": false, "word-": false, "word-1-2": false} {
		if got := ofGroup(name, "word"); got != want {
			t.Errorf("%s of the group word: %t", name, got)
		}
	}
}

// A seed under which no call was answered says nothing of times.
func TestSeedsWithoutAnAnswerAreLeftOutOfTimes(t *testing.T) {
	some := sim.Stats{Calls: 2, Answered: 2, TotalMs: 20, ExecMs: 10}
	some.Latency.Add(10)
	var r Row
	means := r.fill([]sim.Stats{some, {Calls: 1, Refused: 1}, some})
	if r.MeanMs != 10 || r.ExecMeanMs != 5 || r.MeanCI != 0 || r.P50Ms < 9.9 || !math.IsNaN(means[1]) || r.Calls != 5 || r.Refused != 1 {
		t.Errorf("%+v, means %v", r, means)
	}
	r = Row{}
	if r.fill([]sim.Stats{{Calls: 1, Refused: 1}}); r.MeanMs != 0 || r.P99Ms != 0 {
		t.Errorf("nothing answered: %+v", r)
	}
}

// What goes beyond the world's limit is left out from the least busy end, and counted.
func TestTheBusiestFunctionsAreKept(t *testing.T) {
	b := newBuilder("x", time.Second, 1)
	for i := range sim.MaxFunctions + 10 {
		f, err := b.function(fmt.Sprint("k", i))
		if err != nil {
			t.Fatal(err)
		}
		for range 1 + min(i, 1) {
			if err := b.call(TraceCall{Function: f, Ms: 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	tr := b.done()
	if len(tr.Functions) != sim.MaxFunctions || tr.LeftFunctions != 10 || tr.LeftCalls != 1+2*9 || tr.Functions[0].Name != "k1" {
		t.Errorf("%d kept, %d left with %d calls, first %s", len(tr.Functions), tr.LeftFunctions, tr.LeftCalls, tr.Functions[0].Name)
	}
}

// Whatever stands in a file, reading it ends with a trace that runs or with an error.
func FuzzReadTraces(f *testing.F) {
	f.Add("at_ms,function,exec_ms\n1,a,1\n", uint8(0))
	f.Add("app,func,end_timestamp,duration\na,f,1,0.5\n", uint8(1))
	f.Add("trace_avg_ms,1\n5,2\n", uint8(2))
	f.Add(tiny, uint8(3))
	f.Add(people, uint8(3))
	f.Fuzz(func(t *testing.T, text string, kind uint8) {
		var tr *Trace
		var err error
		r := strings.NewReader(text)
		switch kind % 4 {
		case 0:
			tr, err = ReadCSV(r, time.Second)
		case 1:
			tr, err = ReadAzure2021(r, time.Second)
		case 2:
			tr, err = ReadFaaSRail(r, time.Second, time.Second, 1)
		case 3:
			_, _ = Read(r)
			return
		}
		if err != nil {
			return
		}
		for _, c := range tr.Calls {
			if c.Function < 0 || c.Function >= len(tr.Functions) || c.At < 0 || c.At >= time.Second || !(c.Ms >= 0) {
				t.Fatalf("call %+v", c)
			}
		}
	})
}

package lab

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sim"
)

// Limits of traces.
const (
	// MaxTraceBytes bounds the text of one file, unpacked.
	MaxTraceBytes = 4 << 30
	// MaxCalls bounds the calls of one run.
	MaxCalls = 5_000_000
	// maxTraceFunctions bounds the functions read; the busiest sim.MaxFunctions of them are kept.
	maxTraceFunctions = 1 << 20
	maxMs             = 1e9
)

// Trace is a recorded workload: when which function was called, and how long it ran.
type Trace struct {
	Name      string
	Functions []TraceFunction
	Calls     []TraceCall // in order of time
	// Left says how many functions and calls were left out, being beyond the limits: the least busy functions.
	LeftFunctions, LeftCalls int
	// Of these functions the trace does not tell how long they take: they are left out, too.
	UntimedFunctions, UntimedCalls int
}

// TraceFunction is one function of a trace.
type TraceFunction struct {
	Name     string
	MemoryMB int
}

// TraceCall is one call. Ms is its run time, InputBytes the size of its input if the trace knows one.
type TraceCall struct {
	At         time.Duration
	Function   int
	Ms         float64
	InputBytes int64
}

// WithTrace is the scenario's world with the trace's functions and calls instead of its own.
func (s *Scenario) WithTrace(t *Trace) (*Scenario, error) {
	if len(t.Calls) == 0 {
		return nil, fmt.Errorf("%w: trace %s: no call within the duration of %v", api.ErrInvalid, t.Name, time.Duration(s.Duration))
	}
	cp := *s
	cp.trace, cp.Changes = t, slices.DeleteFunc(slices.Clone(s.Changes), func(c Change) bool { return c.Function != "" })
	if err := cp.validate(); err != nil {
		return nil, err
	}
	return &cp, nil
}

// minTraceMs is what a call takes of which a trace says less.
const minTraceMs = .01

// fill gives the world the trace's functions and calls. Which zone a call arrives at is drawn by the zones' shares.
func (t *Trace) fill(cfg *sim.Config, s *Scenario, shares []float64) error {
	// A function's law is what can be said of a call of it before it is made: calls have the times of the trace.
	lns := make([][]float64, len(t.Functions))
	for _, c := range t.Calls {
		lns[c.Function] = append(lns[c.Function], math.Log(max(c.Ms, minTraceMs)))
	}
	for i := range t.Functions {
		h := fnv.New32a()
		h.Write([]byte(t.Functions[i].Name))
		run := min(time.Duration(math.Exp(median(lns[i]))*1e6), api.MaxTimeout)
		f := Function{Name: t.Functions[i].Name, MemoryMB: t.Functions[i].MemoryMB, Run: Duration(run), Spread: min(deviation(lns[i]), 4), Kernel: sim.Kernel(h.Sum32() % 3).String(), Timeout: Duration(api.MaxTimeout)}
		fn, err := s.function(&f, f.Name, i, 1)
		if err != nil {
			return err
		}
		cfg.Functions = append(cfg.Functions, fn)
	}
	rng := rand.New(rand.NewPCG(cfg.Seed, 0xd6e8feb86659fd93))
	for _, c := range t.Calls {
		u, z := rng.Float64(), 0
		for ; z < len(shares)-1 && u >= shares[z]; z++ {
			u -= shares[z]
		}
		cfg.Trace = append(cfg.Trace, sim.Recorded{At: c.At, Function: c.Function, Zone: z, ExecMs: max(c.Ms, minTraceMs), InputBytes: c.InputBytes})
	}
	return nil
}

// builder gathers a trace.
type builder struct {
	t     Trace
	index map[string]int
	names map[string]bool
	rng   *rand.Rand
	until time.Duration
}

// newBuilder takes calls up to until. Where a trace tells only how many calls came in a while, the seed places them.
func newBuilder(name string, until time.Duration, seed uint64) *builder {
	return &builder{t: Trace{Name: name}, index: map[string]int{}, names: map[string]bool{}, rng: rand.New(rand.NewPCG(seed, 0xa0761d6478bd642f)), until: until}
}

func (b *builder) function(key string) (int, error) {
	if i, ok := b.index[key]; ok {
		return i, nil
	}
	if len(b.t.Functions) >= maxTraceFunctions {
		return 0, fmt.Errorf("%w: trace %s: more than %d functions", api.ErrTooLarge, b.t.Name, maxTraceFunctions)
	}
	i := len(b.t.Functions)
	b.index[key] = i
	name := safeName(key, i)
	for n := i; b.names[name]; n++ { // another one is called as this one's number made it
		name = "f" + strconv.Itoa(n)
	}
	b.names[name] = true
	b.t.Functions = append(b.t.Functions, TraceFunction{Name: name, MemoryMB: 256})
	return i, nil
}

// safeName makes a name that the cores take of whatever a trace calls a function: its beginning if that will do, and its
// number, which mostly keeps names apart.
func safeName(key string, i int) string {
	var b strings.Builder
	for _, c := range strings.ToLower(key) {
		if b.Len() == 16 {
			break
		}
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || (c == '-' || c == '_') && b.Len() > 0 {
			b.WriteRune(c)
		}
	}
	if b.Len() == 0 {
		return "f" + strconv.Itoa(i)
	}
	if api.CheckName("function", key) == nil {
		return key
	}
	return b.String() + "-" + strconv.Itoa(i)
}

func (b *builder) call(c TraceCall) error {
	if c.At < 0 || c.At >= b.until {
		return nil
	}
	if len(b.t.Calls) >= MaxCalls {
		return fmt.Errorf("%w: trace %s: more than %d calls within %v: choose a shorter duration", api.ErrTooLarge, b.t.Name, MaxCalls, b.until)
	}
	b.t.Calls = append(b.t.Calls, c)
	return nil
}

// done keeps the busiest functions, drops those without a call, and puts calls in order.
func (b *builder) done() *Trace {
	t := &b.t
	counts := make([]int, len(t.Functions))
	for i := range t.Calls {
		counts[t.Calls[i].Function]++
	}
	order := make([]int, 0, len(counts))
	for i, n := range counts {
		if n > 0 {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return counts[b] - counts[a] })
	if len(order) > sim.MaxFunctions {
		t.LeftFunctions = len(order) - sim.MaxFunctions
		order = order[:sim.MaxFunctions]
	}
	slices.Sort(order)
	to := make([]int, len(counts))
	for i := range to {
		to[i] = -1
	}
	fns := make([]TraceFunction, len(order))
	for k, i := range order {
		to[i], fns[k] = k, t.Functions[i]
	}
	kept := t.Calls[:0]
	for _, c := range t.Calls {
		if c.Function = to[c.Function]; c.Function >= 0 {
			kept = append(kept, c)
		} else {
			t.LeftCalls++
		}
	}
	t.Functions, t.Calls = fns, kept
	slices.SortStableFunc(t.Calls, func(a, b TraceCall) int { return int(min(max(a.At-b.At, -1), 1)) })
	return t
}

// table reads a CSV with a header.
type table struct {
	r    *csv.Reader
	cols map[string]int
	head []string
	line int
	name string
	src  *capped
}

// maxTraceRow bounds a row, or a little more than one: a day of Azure's minutes takes some 7 kB.
const maxTraceRow = 1 << 20

var errLongRow = fmt.Errorf("%w: a row of more than %d bytes", api.ErrTooLarge, maxTraceRow)

// errTooLong is what a file that is longer than MaxTraceBytes ends with.
var errTooLong = fmt.Errorf("%w: more than %d bytes", api.ErrTooLarge, int64(MaxTraceBytes))

// capped fails beyond its limit instead of ending, which would look like the end of the file.
type capped struct {
	r         io.Reader
	left, row int64 // of the file, and until a row must have ended: it is kept in memory
}

func (c *capped) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errTooLong
	}
	if c.row <= 0 {
		return 0, errLongRow
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left, c.row)])
	c.left -= int64(n)
	c.row -= int64(n)
	return n, err
}

func newTable(name string, r io.Reader, need ...string) (*table, error) {
	br := bufio.NewReaderSize(r, 1<<16)
	src := io.Reader(br)
	if magic, err := br.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		src = z
	}
	t := &table{src: &capped{r: src, left: MaxTraceBytes, row: maxTraceRow}, cols: map[string]int{}, name: name, line: 1}
	t.r = csv.NewReader(t.src)
	t.r.ReuseRecord, t.r.FieldsPerRecord = true, -1
	head, err := t.r.Read()
	if err != nil {
		return nil, fmt.Errorf("%w: %s: no header: %v", api.ErrInvalid, name, err)
	}
	for i, h := range head {
		h = strings.TrimSpace(strings.TrimPrefix(h, "\ufeff"))
		t.head = append(t.head, h)
		t.cols[h] = i
	}
	for _, n := range need {
		if _, ok := t.cols[n]; !ok {
			return nil, fmt.Errorf("%w: %s: no column %s in the header %.200q: want %s", api.ErrInvalid, name, n, strings.Join(t.head, ","), strings.Join(need, ", "))
		}
	}
	return t, nil
}

// oneOf finds the first of these columns that there is.
func (t *table) oneOf(names ...string) (col int, ok bool) {
	for _, n := range names {
		if i, ok := t.cols[n]; ok {
			return i, true
		}
	}
	return 0, false
}

// next reads a row; io.EOF after the last.
func (t *table) next() ([]string, error) {
	t.src.row = maxTraceRow
	row, err := t.r.Read()
	t.line++
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", t.name, err)
	}
	if err == nil && len(row) < len(t.head) {
		return nil, fmt.Errorf("%w: %s, row %d: %d columns: want %d", api.ErrInvalid, t.name, t.line, len(row), len(t.head))
	}
	return row, err
}

// number reads a column that must be a number from 0 to most.
func (t *table) number(row []string, col string, most float64) (float64, error) {
	return t.numberAt(row, t.cols[col], most)
}

func (t *table) numberAt(row []string, i int, most float64) (float64, error) {
	x, err := strconv.ParseFloat(strings.TrimSpace(row[i]), 64)
	if err != nil || !(x >= 0 && x <= most) {
		return 0, fmt.Errorf("%w: %s, row %d, column %s: %.40q: want a number from 0 to %v", api.ErrInvalid, t.name, t.line, t.head[i], row[i], most)
	}
	return x, nil
}

// ReadCSV reads calls: columns at_ms, function, exec_ms and perhaps input_bytes.
func ReadCSV(r io.Reader, until time.Duration) (*Trace, error) {
	t, err := newTable("csv", r, "at_ms", "function", "exec_ms")
	if err != nil {
		return nil, err
	}
	_, sized := t.cols["input_bytes"]
	b := newBuilder("csv", until, 0)
	for {
		row, err := t.next()
		if errors.Is(err, io.EOF) {
			return b.done(), nil
		}
		if err != nil {
			return nil, err
		}
		at, err1 := t.number(row, "at_ms", 1e12)
		run, err2 := t.number(row, "exec_ms", maxMs)
		bytes := 0.0
		var err3 error
		if sized {
			bytes, err3 = t.number(row, "input_bytes", 1<<50)
		}
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, err
		}
		f, err := b.function(row[t.cols["function"]])
		if err != nil {
			return nil, err
		}
		if err := b.call(TraceCall{At: time.Duration(at * 1e6), Function: f, Ms: run, InputBytes: int64(bytes)}); err != nil {
			return nil, err
		}
	}
}

// ReadAzure2021 reads Azure's trace of single invocations: columns app, func, end_timestamp and duration, in seconds. Time
// begins with the earliest call.
func ReadAzure2021(r io.Reader, until time.Duration) (*Trace, error) {
	t, err := newTable("azure2021", r, "app", "func", "end_timestamp", "duration")
	if err != nil {
		return nil, err
	}
	// Rows are in order of ends, so the first to begin may come late: all are read before any is placed.
	type rec struct {
		key      string
		from, ms float64
	}
	var all []rec
	first := math.Inf(1)
	names := map[string]string{} // one string a function, not one a row
	for {
		row, err := t.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		end, err1 := t.number(row, "end_timestamp", 1e10)
		d, err2 := t.number(row, "duration", maxMs/1000)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		if len(all) >= 4*MaxCalls {
			return nil, fmt.Errorf("%w: trace azure2021: more than %d rows", api.ErrTooLarge, 4*MaxCalls)
		}
		key := row[t.cols["app"]] + "/" + row[t.cols["func"]] // a function's hash is unique only within its app
		if known, ok := names[key]; ok {
			key = known
		} else {
			names[key] = key
		}
		// Where a call was under way when the record began, its start is before 0.
		all = append(all, rec{key, end - d, d * 1000})
		first = min(first, end-d)
	}
	b := newBuilder("azure2021", until, 0)
	for _, x := range all {
		f, err := b.function(x.key)
		if err != nil {
			return nil, err
		}
		if err := b.call(TraceCall{At: time.Duration((x.from - first) * 1e9), Function: f, Ms: x.ms}); err != nil {
			return nil, err
		}
	}
	return b.done(), nil
}

// ReadFaaSRail reads a load specification of FaaSRail: a column avg or trace_avg_ms, perhaps mapped_wreq or mapped_bench with
// others about it, and then a column of calls for each window of the given length, named by a minute ("25") or by minutes ("1-288"). A row is a class of functions of one mean
// duration, and becomes one function; calls lie evenly at random within their window.
func ReadFaaSRail(r io.Reader, window, until time.Duration, seed uint64) (*Trace, error) {
	t, err := newTable("faasrail", r)
	if err != nil {
		return nil, err
	}
	avg, ok := t.oneOf("avg", "trace_avg_ms")
	if !ok {
		return nil, fmt.Errorf("%w: faasrail: no column avg or trace_avg_ms in the header %.200q", api.ErrInvalid, strings.Join(t.head, ","))
	}
	var windows []int
	for i, h := range t.head {
		from, to, span := strings.Cut(h, "-")
		_, err := strconv.ParseUint(from, 10, 32)
		if err == nil && span {
			_, err = strconv.ParseUint(to, 10, 32)
		}
		if err == nil {
			windows = append(windows, i)
		}
	}
	if len(windows) == 0 {
		return nil, fmt.Errorf("%w: faasrail: no column of a window in the header %.200q: want numbers, or spans like 1-288, after the mapped ones", api.ErrInvalid, strings.Join(t.head, ","))
	}
	bench, mapped := t.oneOf("mapped_bench", "mapped_wreq")
	b := newBuilder("faasrail", until, seed)
	for {
		row, err := t.next()
		if errors.Is(err, io.EOF) {
			return b.done(), nil
		}
		if err != nil {
			return nil, err
		}
		run, err := t.numberAt(row, avg, maxMs)
		if err != nil {
			return nil, err
		}
		key := fmt.Sprintf("row%d", t.line-1)
		if mapped {
			key = row[bench] + "-" + key
		}
		f, err := b.function(key)
		if err != nil {
			return nil, err
		}
		if err := b.windows(t, row, windows, window, func() TraceCall { return TraceCall{Function: f, Ms: run} }); err != nil {
			return nil, err
		}
	}
}

// windows places the calls that a row counts.
func (b *builder) windows(t *table, row []string, cols []int, window time.Duration, draw func() TraceCall) error {
	for k, i := range cols {
		begins := time.Duration(k) * window
		if begins >= b.until {
			return nil
		}
		n, err := t.numberAt(row, i, 1e9)
		if err != nil {
			return err
		}
		for range int(n) {
			c := draw()
			c.At = begins + time.Duration(b.rng.Float64()*float64(window))
			if err := b.call(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// percentiles are those that Azure 2019 tells of a function's durations.
var percentiles = []float64{0, .01, .25, .5, .75, .99, 1}

// ReadAzure2019 reads the first day in a folder of Azure's trace of 2019: calls by function and minute, percentiles of
// durations, and memory by app if that file is there. It begins at minute from of the day. Calls lie evenly at random within
// their minute; durations are drawn between the percentiles, log-linear.
func ReadAzure2019(dir fs.FS, from int, until time.Duration, seed uint64) (*Trace, error) {
	day, err := dayOf(dir)
	if err != nil {
		return nil, err
	}
	durations := map[string][7]float64{}
	err = readDay(dir, "function_durations_percentiles"+day, true, []string{"HashApp", "HashFunction", "percentile_Average_0", "percentile_Average_1", "percentile_Average_25", "percentile_Average_50", "percentile_Average_75", "percentile_Average_99", "percentile_Average_100"}, func(t *table, row []string) error {
		var q [7]float64
		for i, p := range []string{"0", "1", "25", "50", "75", "99", "100"} {
			col := t.cols["percentile_Average_"+p]
			if x, err := strconv.ParseFloat(strings.TrimSpace(row[col]), 64); err == nil && x < 0 {
				row[col] = "0" // five functions of the published first day have negative means: a glitch, as its authors say
			}
			var err error
			if q[i], err = t.numberAt(row, col, maxMs); err != nil {
				return err
			}
			if i > 0 {
				q[i] = max(q[i], q[i-1])
			}
		}
		if len(durations) >= maxTraceFunctions {
			return fmt.Errorf("%w: azure2019: more than %d functions", api.ErrTooLarge, maxTraceFunctions)
		}
		durations[row[t.cols["HashApp"]]+"/"+row[t.cols["HashFunction"]]] = q
		return nil
	})
	if err != nil {
		return nil, err
	}
	memory := map[string]int{}
	err = readDay(dir, "app_memory_percentiles"+day, false, []string{"HashApp", "AverageAllocatedMb"}, func(t *table, row []string) error {
		mb, err := t.number(row, "AverageAllocatedMb", 1<<20)
		if len(memory) < maxTraceFunctions {
			memory[row[t.cols["HashApp"]]] = int(max(mb, 16))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	b := newBuilder("azure2019", until, seed)
	err = readDay(dir, azureCalls+day, true, []string{"HashApp", "HashFunction", strconv.Itoa(from + 1)}, func(t *table, row []string) error {
		app := row[t.cols["HashApp"]]
		key := app + "/" + row[t.cols["HashFunction"]]
		var minutes []int
		for m := from + 1; ; m++ {
			i, ok := t.cols[strconv.Itoa(m)]
			if !ok || time.Duration(m-from-1)*time.Minute >= until {
				break
			}
			minutes = append(minutes, i)
		}
		q, ok := durations[key]
		if !ok {
			b.t.UntimedFunctions++
			for _, i := range minutes {
				n, err := t.numberAt(row, i, 1e9)
				if err != nil {
					return err
				}
				b.t.UntimedCalls += int(n)
			}
			return nil
		}
		f, err := b.function(key)
		if err != nil {
			return err
		}
		if mb := memory[app]; mb > 0 {
			b.t.Functions[f].MemoryMB = mb
		}
		return b.windows(t, row, minutes, time.Minute, func() TraceCall { return TraceCall{Function: f, Ms: drawBetween(&q, b.rng.Float64())} })
	})
	if err != nil {
		return nil, err
	}
	return b.done(), nil
}

// drawBetween is the inverse of the distribution through the percentiles, log-linear between them.
func drawBetween(q *[7]float64, u float64) float64 {
	k := 1
	for k < 6 && u > percentiles[k] {
		k++
	}
	lo, hi := math.Log(max(q[k-1], .5)), math.Log(max(q[k], .5))
	return math.Exp(lo + (hi-lo)*(u-percentiles[k-1])/(percentiles[k]-percentiles[k-1]))
}

// azureCalls is how the files with a day's calls begin.
const azureCalls = "invocations_per_function_md"

// dayOf is what the names of the first day's files have after their beginning, before ".csv".
func dayOf(dir fs.FS) (string, error) {
	names, err := fs.Glob(dir, azureCalls+"*.csv*")
	if err != nil {
		return "", err
	}
	if len(names) == 0 {
		return "", fmt.Errorf("%w: azure2019: no file %s*.csv in the folder", api.ErrInvalid, azureCalls)
	}
	day, _, _ := strings.Cut(strings.TrimPrefix(slices.Min(names), azureCalls), ".csv")
	return day, nil
}

// readDay reads the file that begins so; it may be compressed.
func readDay(dir fs.FS, prefix string, must bool, need []string, each func(*table, []string) error) error {
	names, err := fs.Glob(dir, prefix+".csv*")
	if err != nil {
		return err
	}
	if len(names) == 0 {
		if must {
			return fmt.Errorf("%w: azure2019: no file %s.csv in the folder", api.ErrInvalid, prefix)
		}
		return nil
	}
	slices.Sort(names)
	f, err := dir.Open(names[0])
	if err != nil {
		return err
	}
	defer f.Close()
	t, err := newTable(names[0], f, need...)
	if err != nil {
		return err
	}
	for {
		row, err := t.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = each(t, row)
		}
		if err != nil {
			return err
		}
	}
}

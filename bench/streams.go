package bench

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rubato-faas/rubato/api"
)

// stream is a sequence of rows to be learned one after another.
type stream struct {
	name  string
	width int
	x     []float64 // row after row, width each
	y     []float64
	// drifts are the rows at which the law changes abruptly, where that is known.
	drifts []int
	roles  streamRoles
}

// streamRoles says what columns mean, for streams whose columns mean something: <stream>.json beside <stream>.csv.
type streamRoles struct {
	// Function, Node and Zone number the columns (from 0) that identify them; nil: none.
	Function *int `json:"function"`
	Node     *int `json:"node"`
	Zone     *int `json:"zone"`
	// NodeSide numbers the columns that differ between the candidate nodes of one request; all others are equal.
	NodeSide []int `json:"node_side"`
	// LnMs says that the target is ln of milliseconds; without the file it is taken to be so unless a value is above 30.
	LnMs *bool `json:"ln_ms"`
}

func (s *stream) rows() int           { return len(s.y) }
func (s *stream) row(i int) []float64 { return s.x[i*s.width:][:s.width] }

// lnMs reports whether the target is ln of milliseconds.
func (s *stream) lnMs() bool {
	if s.roles.LnMs != nil {
		return *s.roles.LnMs
	}
	return len(s.y) > 0 && slices.Max(s.y) < 30 && slices.Max(s.y)-slices.Min(s.y) > .2
}

func (s *stream) add(y float64, x ...float64) {
	s.width = len(x)
	s.x, s.y = append(s.x, x...), append(s.y, y)
}

// Limits of a stream from outside.
const (
	maxStreamRows  = 5_000_000
	maxStreamLine  = 1 << 16
	maxStreamWidth = 32
)

// loadStreams reads one CSV (gzip if it ends in .gz), or all of a folder in order of name; with neither it makes its own.
func loadStreams(dir, file string, seed uint64) ([]*stream, error) {
	var paths []string
	switch {
	case file != "":
		paths = []string{file}
	case dir != "":
		for _, pattern := range []string{"*.csv", "*.csv.gz"} {
			m, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil {
				return nil, err
			}
			paths = append(paths, m...)
		}
		slices.Sort(paths)
		if len(paths) == 0 {
			return nil, fmt.Errorf("%w: no .csv or .csv.gz in %s", api.ErrNotFound, dir)
		}
	default:
		return []*stream{friedman("fried_abrupt", 30000, false, seed), friedman("fried_gradual", 30000, true, seed), serverless(40000, seed)}, nil
	}
	var out []*stream
	for _, p := range paths {
		s, err := readStream(p)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func readStream(path string) (*stream, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := io.Reader(f)
	if strings.HasSuffix(path, ".gz") {
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		defer z.Close()
		r = z
	}
	base := strings.TrimSuffix(strings.TrimSuffix(path, ".gz"), ".csv")
	s, err := parseStream(r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	s.name = filepath.Base(base)
	b, err := os.ReadFile(base + ".json")
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = s.readRoles(b)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s.json: %w", base, err)
	}
	return s, nil
}

func (s *stream) readRoles(b []byte) error {
	if err := json.Unmarshal(b, &s.roles); err != nil {
		return fmt.Errorf("%w: %v", api.ErrInvalid, err)
	}
	cols := slices.Clone(s.roles.NodeSide)
	for _, c := range []*int{s.roles.Function, s.roles.Node, s.roles.Zone} {
		if c != nil {
			cols = append(cols, *c)
		}
	}
	for _, c := range cols {
		if c < 0 || c >= s.width {
			return fmt.Errorf("%w: column %d: want 0-%d", api.ErrInvalid, c, s.width-1)
		}
	}
	return nil
}

// parseStream reads headerless CSV, the last column the target. Empty and unreadable features count as missing.
func parseStream(r io.Reader) (*stream, error) {
	s := &stream{}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxStreamLine)
	for line := 1; sc.Scan(); line++ {
		fields := strings.Split(strings.TrimSpace(sc.Text()), ",")
		if len(fields) == 1 && fields[0] == "" {
			continue
		}
		if s.width == 0 {
			s.width = len(fields) - 1
		}
		switch {
		case s.width < 1 || s.width > maxStreamWidth:
			return nil, fmt.Errorf("%w: line %d has %d columns: want 2-%d", api.ErrInvalid, line, len(fields), maxStreamWidth+1)
		case len(fields) != s.width+1:
			return nil, fmt.Errorf("%w: line %d has %d columns, the first %d", api.ErrInvalid, line, len(fields), s.width+1)
		case s.rows() == maxStreamRows:
			return nil, fmt.Errorf("%w: more than %d rows", api.ErrTooLarge, maxStreamRows)
		}
		y, err := strconv.ParseFloat(fields[s.width], 64)
		if err != nil || math.IsNaN(y) || math.IsInf(y, 0) {
			return nil, fmt.Errorf("%w: line %d: target %q is not a number", api.ErrInvalid, line, fields[s.width])
		}
		for _, v := range fields[:s.width] {
			x, err := strconv.ParseFloat(v, 64)
			if err != nil {
				x = math.NaN()
			}
			s.x = append(s.x, x)
		}
		s.y = append(s.y, y)
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if s.rows() == 0 {
		return nil, fmt.Errorf("%w: no rows", api.ErrInvalid)
	}
	return s, nil
}

// friedman is Friedman's first function (1991) of ten uniform features with noise of 1, as Ikonomovska et al. (2011) make
// it drift: which features matter changes at a third and at two thirds, at once or over a sixth of the stream.
func friedman(name string, n int, gradual bool, seed uint64) *stream {
	rng := rand.New(rand.NewPCG(seed, 11))
	s := &stream{name: name}
	orders := [3][5]int{{0, 1, 2, 3, 4}, {6, 4, 8, 9, 1}, {3, 7, 0, 5, 2}}
	if !gradual {
		s.drifts = []int{n / 3, 2 * n / 3}
	}
	x := make([]float64, 10)
	for i := range n {
		phase := min(3*i/n, 2)
		if since := i - phase*n/3; gradual && phase > 0 && rng.Float64() > float64(since)*6/float64(n) {
			phase--
		}
		for k := range x {
			x[k] = rng.Float64()
		}
		o := orders[phase]
		y := 10*math.Sin(math.Pi*x[o[0]]*x[o[1]]) + 20*(x[o[2]]-.5)*(x[o[2]]-.5) + 10*x[o[3]] + 5*x[o[4]] + rng.NormFloat64()
		s.add(y, x...)
	}
	return s
}

// Columns of the serverless stream.
const (
	slFunction = iota
	slInput
	slMemory
	slHour
	slNode
	slSandbox
	slMissing
	slLoad
	slClass
)

// serverless is a made-up zone: 40 functions of Zipf popularity, some of which grow with their input and some not, on 16
// nodes of three classes. Every eighth of the stream a function is deployed anew and takes another time; at a half, and
// again at three quarters, a quarter of the nodes is throttled to 2.5 times. The target is ln ms.
func serverless(n int, seed uint64) *stream {
	rng := rand.New(rand.NewPCG(seed, 12))
	fnCol, nodeCol := slFunction, slNode
	s := &stream{name: "serverless", roles: streamRoles{Function: &fnCol, Node: &nodeCol, NodeSide: []int{slNode, slSandbox, slMissing, slLoad, slClass}}}
	const fns, nodes = 40, 16
	zipf := rand.NewZipf(rng, 1.2, 2, fns-1)
	var base, exponent, cold [fns]float64
	for f := range fns {
		base[f], cold[f] = math.Exp(rng.NormFloat64()*1.3+4), math.Exp(rng.NormFloat64()*.6+6.5)
		exponent[f] = []float64{0, 0, .4, 1}[rng.IntN(4)]
	}
	for i := range n {
		if i > 0 && i%(n/8) == 0 {
			base[rng.IntN(8)] *= math.Exp(rng.NormFloat64())
		}
		f, node := int(zipf.Uint64()), rng.IntN(nodes)
		input := math.Exp(rng.NormFloat64()*1.5 + 13) // bytes
		sandbox, missing, load := float64([]int{0, 2, 3, 3, 3, 3}[rng.IntN(6)]), 0., float64(rng.IntN(4))/4
		if exponent[f] > 0 && rng.IntN(2) == 0 {
			missing = input
		}
		class := node % 3
		run := base[f] * math.Pow(input/4e5, exponent[f]) * []float64{1, .7, 1.6}[class] * (1 + .5*load)
		if i > n/2 && node%4 == (i/(n/4))%4 {
			run *= 2.5
		}
		ms := run*math.Exp(.12*rng.NormFloat64()) + missing/50e3
		switch sandbox {
		case 0:
			ms += cold[f]
		case 2:
			ms += 40
		}
		s.add(math.Log(ms), float64(f), math.Log2(1+input), 128*float64(1+f%4), float64(i/500%24), float64(node), sandbox, math.Log2(1+missing), load, float64(class))
	}
	return s
}

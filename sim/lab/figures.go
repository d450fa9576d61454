package lab

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/rubato-faas/rubato/api"
)

// Limits of a file of published figures.
const (
	maxFiguresBytes = 1 << 18
	maxTables       = 64 // of each kind
	maxPoints       = 256
	maxFigure       = 1e15
)

// regions of the published cold starts; they are r2's by runtime.
var regions = []string{"r1", "r2", "r3", "r4", "r5"}

//go:embed figures.yaml
var figuresFile []byte

// figures are what public traces say about functions, as figures.yaml ships them. Populations are drawn from them, and tests
// hold the shipped scenarios to them.
type figures struct {
	Sources   map[string]source       `yaml:"sources"`
	Quantiles map[string]quantiles    `yaml:"quantiles"`
	Laws      map[string]publishedLaw `yaml:"laws"`
	Shares    map[string]shares       `yaml:"shares"`
	Numbers   map[string]number       `yaml:"numbers"`
}

// source is where figures are from, in words.
type source struct {
	What    string `yaml:"what"`
	Licence string `yaml:"licence"`
}

// quantiles are points of a distribution: [cumulative probability, value], both rising.
type quantiles struct {
	Of     string       `yaml:"of"`
	Source string       `yaml:"source"`
	At     [][2]float64 `yaml:"at"`
}

// publishedLaw is log-normal.
type publishedLaw struct {
	Of     string  `yaml:"of"`
	Source string  `yaml:"source"`
	Median float64 `yaml:"median"`
	Sigma  float64 `yaml:"sigma"`
}

// shares are parts, which count in proportion.
type shares struct {
	Of     string             `yaml:"of"`
	Source string             `yaml:"source"`
	Parts  map[string]float64 `yaml:"parts"`
}

type number struct {
	Of     string  `yaml:"of"`
	Source string  `yaml:"source"`
	Value  float64 `yaml:"value"`
}

// published are the figures that are shipped; they are read once.
var published = sync.OnceValues(func() (*figures, error) { return readFigures(bytes.NewReader(figuresFile)) })

// readFigures reads figures and checks that they are what they say: rising quantiles, positive laws, a source for each.
func readFigures(r io.Reader) (*figures, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFiguresBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFiguresBytes {
		return nil, fmt.Errorf("%w: figures: more than %d bytes", api.ErrTooLarge, maxFiguresBytes)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	f := &figures{}
	if err := d.Decode(f); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("empty")
		}
		return nil, fmt.Errorf("%w: figures: %s", api.ErrInvalid, yamlError(err))
	}
	if err := f.validate(); err != nil {
		return nil, fmt.Errorf("%w: figures: %w", api.ErrInvalid, err)
	}
	return f, nil
}

func (f *figures) validate() error {
	for _, n := range []int{len(f.Sources), len(f.Quantiles), len(f.Laws), len(f.Shares), len(f.Numbers)} {
		if n > maxTables {
			return fmt.Errorf("%d tables of one kind: want at most %d", n, maxTables)
		}
	}
	for name, s := range f.Sources {
		if s.What == "" || s.Licence == "" {
			return fmt.Errorf("source %.60q: want what it is, and its licence", name)
		}
	}
	from := func(name, source string) error {
		if _, ok := f.Sources[source]; !ok {
			return fmt.Errorf("%.60q: no source %.60q", name, source)
		}
		return nil
	}
	ok := func(x float64) bool { return x >= 0 && x <= maxFigure } // false for NaN
	for _, name := range sortedNames(f.Quantiles) {
		q := f.Quantiles[name]
		if err := from(name, q.Source); err != nil {
			return err
		}
		if len(q.At) < 2 || len(q.At) > maxPoints {
			return fmt.Errorf("quantiles %.60q: %d points: want 2-%d", name, len(q.At), maxPoints)
		}
		for i, at := range q.At {
			if !(at[0] > 0 && at[0] < 1) || !ok(at[1]) || i > 0 && !(at[0] > q.At[i-1][0] && at[1] >= q.At[i-1][1]) {
				return fmt.Errorf("quantiles %.60q, point %d: %v: want probabilities that rise between 0 and 1, and values from 0 to %v that never fall", name, i, at, maxFigure)
			}
		}
	}
	for _, name := range sortedNames(f.Laws) {
		l := f.Laws[name]
		if err := from(name, l.Source); err != nil {
			return err
		}
		if !(l.Median > 0 && l.Median <= maxFigure) || !(l.Sigma >= 0 && l.Sigma <= 4) {
			return fmt.Errorf("law %.60q: median %v, sigma %v: want a median above 0, a sigma of 0-4", name, l.Median, l.Sigma)
		}
	}
	for _, name := range sortedNames(f.Shares) {
		s := f.Shares[name]
		if err := from(name, s.Source); err != nil {
			return err
		}
		if len(s.Parts) < 1 || len(s.Parts) > maxTables {
			return fmt.Errorf("shares %.60q: %d parts: want 1-%d", name, len(s.Parts), maxTables)
		}
		for part, x := range s.Parts {
			if !(x > 0 && x <= maxFigure) {
				return fmt.Errorf("shares %.60q: part %.60q is %v: want more than 0", name, part, x)
			}
		}
	}
	for _, name := range sortedNames(f.Numbers) {
		n := f.Numbers[name]
		if err := from(name, n.Source); err != nil {
			return err
		}
		if !ok(n.Value) {
			return fmt.Errorf("number %.60q: %v: want 0 to %v", name, n.Value, maxFigure)
		}
	}
	return nil
}

func sortedNames[T any](m map[string]T) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// quantile is the value that a part u of all are below: between two points interpolated in its logarithm, which is what
// figures over seven decades want, and in the value itself where that is 0. Beyond the points nothing is made up.
func (q *quantiles) quantile(u float64) float64 {
	first, last := q.At[0], q.At[len(q.At)-1]
	if !(u > first[0]) {
		return first[1]
	}
	if u >= last[0] {
		return last[1]
	}
	i, _ := slices.BinarySearchFunc(q.At, u, func(at [2]float64, u float64) int {
		if at[0] <= u {
			return -1
		}
		return 1
	})
	a, b := q.At[i-1], q.At[i]
	part := (u - a[0]) / (b[0] - a[0])
	if a[1] == 0 {
		return part * b[1]
	}
	return a[1] * math.Pow(b[1]/a[1], part)
}

// draw is the part that u falls on, parts being in order of their names.
func (s *shares) draw(u float64) string {
	names := sortedNames(s.Parts)
	sum := 0.0
	for _, n := range names {
		sum += s.Parts[n]
	}
	u *= sum
	for _, n := range names {
		if u -= s.Parts[n]; u < 0 {
			return n
		}
	}
	return names[len(names)-1]
}

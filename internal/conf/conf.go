// Package conf fills a daemon's configuration struct from its defaults, a YAML file, the environment and flags, and
// prints it back. It is no registry: nobody reads settings through it later, main passes the filled struct on.
// Called by the mains, once, at start; not safe for concurrent use.
//
// A field takes part when it has a `koanf:"name"` tag; nested structs make paths joined by '.', and
// `koanf:",squash"` puts a struct's fields in its parent. `doc:"..."` is the flag's help and the comment in the
// printed file; `secret:"true"` keeps a value out of what is printed. Leaves are strings, bools, numbers,
// time.Duration ("2s"), []string, map[string]string and types with UnmarshalText. Whatever is not known is an
// error: a mistyped setting that is silently ignored is found in production.
package conf

import (
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// MaxFileBytes bounds a configuration file.
const MaxFileBytes = 1 << 20

// Redacted is what a secret is printed as. Load refuses it as a value: a printed file was taken for a real one.
const Redacted = "REDACTED"

// ErrUnknown: a key in the file or a variable in the environment that no field takes.
var ErrUnknown = errors.New("unknown setting")

// Options says where settings come from; an empty field is a source not asked.
type Options struct {
	// File is the path of a YAML file. It must exist.
	File string
	// EnvPrefix begins the variables: with RUBATO_ZONE_, nats.url is RUBATO_ZONE_NATS_URL. Lists are comma-separated.
	EnvPrefix string
	// Flags overrides with those of its flags that were set and are named as a path (see BindFlags).
	Flags *pflag.FlagSet
}

// Load overwrites *dst, which holds the defaults, with what the file says, then the environment, then the flags.
// A *dst with a method Validate() error is asked at the end.
func Load[T any](dst *T, opts Options) error {
	leaves, err := walk(dst)
	if err != nil {
		return err
	}
	ko := koanf.New(".")
	if opts.File != "" {
		if err := loadFile(ko, opts.File, leaves); err != nil {
			return err
		}
	}
	if opts.EnvPrefix != "" {
		if err := loadEnv(ko, opts.EnvPrefix, leaves); err != nil {
			return err
		}
	}
	if opts.Flags != nil {
		if err := loadFlags(ko, opts.Flags, leaves); err != nil {
			return err
		}
	}
	if err := decode(ko, dst); err != nil {
		return fmt.Errorf("conf load: %w", err)
	}
	for _, l := range leaves {
		if l.secret && l.value.Kind() == reflect.String && l.value.String() == Redacted {
			return fmt.Errorf("conf load: %s is %s, the mark that printing put in its place", l.path, Redacted)
		}
	}
	if v, ok := any(dst).(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			return &Faults{err}
		}
	}
	return nil
}

// Faults is the error of settings that could be read, all of them, and are not valid together.
type Faults struct{ Err error }

func (f *Faults) Error() string { return "conf load: " + f.Err.Error() }

// Unwrap gives what Validate said.
func (f *Faults) Unwrap() error { return f.Err }

func loadFile(ko *koanf.Koanf, file string, leaves []leaf) error {
	if st, err := os.Stat(file); err == nil && st.Size() > MaxFileBytes {
		return fmt.Errorf("conf file %s: %d bytes, at most %d", file, st.Size(), MaxFileBytes)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("conf file: %w", err)
	}
	in := koanf.New(".")
	if err := in.Load(rawbytes.Provider(text), yaml.Parser()); err != nil {
		return fmt.Errorf("conf file %s: %w", file, err)
	}
	var errs []error
	for _, key := range in.Keys() { // sorted
		switch kind := classify(key, leaves); {
		case kind == keyUnknown:
			errs = append(errs, unknown(fmt.Sprintf("key %q", key), key, paths(leaves)))
		case in.Get(key) == nil && kind == keySection:
			in.Delete(key) // "nats:" and nothing under it
		case in.Get(key) == nil:
			errs = append(errs, fmt.Errorf("key %q has no value", key))
		case kind == keySection && !emptyMap(in.Get(key)):
			errs = append(errs, fmt.Errorf("key %q has settings of its own and takes no value", key))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("conf file %s: %w", file, err)
	}
	if err := ko.Merge(in); err != nil {
		return fmt.Errorf("conf file %s: %w", file, err)
	}
	return nil
}

func emptyMap(v any) bool {
	m, ok := v.(map[string]any)
	return ok && len(m) == 0
}

type keyKind int

const (
	keyUnknown keyKind = iota
	keyLeaf
	keySection
)

// classify tells what a flattened key of the file is. Keys below a map are the map's own.
func classify(key string, leaves []leaf) keyKind {
	for _, l := range leaves {
		switch {
		case l.path == key, l.value.Kind() == reflect.Map && strings.HasPrefix(key, l.path+"."):
			return keyLeaf
		case strings.HasPrefix(l.path, key+"."):
			return keySection
		}
	}
	return keyUnknown
}

// envName is the variable of a path.
func envName(prefix, path string) string {
	return prefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(path))
}

func loadEnv(ko *koanf.Koanf, prefix string, leaves []leaf) error {
	byName := map[string]leaf{}
	names := make([]string, 0, len(leaves))
	for _, l := range leaves {
		name := envName(prefix, l.path)
		if other, twice := byName[name]; twice {
			return fmt.Errorf("conf environment: %s and %s are both %s: rename one", other.path, l.path, name)
		}
		byName[name] = l
		names = append(names, name)
	}
	var errs []error
	set := map[string]any{}
	p := env.Provider("", env.Opt{Prefix: prefix, TransformFunc: func(name, value string) (string, any) {
		l, ok := byName[name]
		if !ok {
			errs = append(errs, unknown("variable "+name, name, names))
			return "", nil
		}
		set[l.path] = l.split(value)
		return name, value
	}})
	if _, err := p.Read(); err != nil {
		return fmt.Errorf("conf environment: %w", err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("conf environment: %w", err)
	}
	return merge(ko, "environment", set)
}

func loadFlags(ko *koanf.Koanf, fs *pflag.FlagSet, leaves []leaf) error {
	set := map[string]any{}
	for _, l := range leaves {
		if f := fs.Lookup(l.path); f != nil && f.Changed {
			set[l.path] = posflag.FlagVal(fs, f)
		}
	}
	return merge(ko, "flags", set)
}

// merge lays one source over what the earlier ones said. Maps are replaced, not mixed, so that a later source can
// also take an entry away.
func merge(ko *koanf.Koanf, source string, set map[string]any) error {
	for path := range set { // order does not matter: paths do not contain each other
		ko.Delete(path)
	}
	if err := ko.Load(confmap.Provider(set, "."), nil); err != nil {
		return fmt.Errorf("conf %s: %w", source, err)
	}
	return nil
}

func decode(ko *koanf.Koanf, dst any) error {
	d, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result:           dst,
		TagName:          "koanf",
		WeaklyTypedInput: true, // the environment has only strings
		ErrorUnused:      true,
		ZeroFields:       true, // a list replaces the default, not its first elements
		DecodeHook: mapstructure.ComposeDecodeHookFunc(
			strict,
			mapstructure.StringToTimeDurationHookFunc(),
			mapstructure.TextUnmarshallerHookFunc(),
			mapstructure.StringToSliceHookFunc(","),
		),
	})
	if err != nil {
		return err
	}
	return d.Decode(ko.Raw())
}

// strict takes back what weak typing would let through: durations without a unit (2 would be two nanoseconds),
// fractions and overflows for integers, empty or boolean values for numbers.
func strict(from, to reflect.Type, data any) (any, error) {
	if to == reflect.TypeFor[time.Duration]() {
		if from == to || from.Kind() == reflect.String {
			return data, nil
		}
		return nil, fmt.Errorf("duration %v has no unit: write 2s or 150ms", data)
	}
	if to.Kind() == reflect.Bool {
		if from.Kind() == reflect.Bool || from.Kind() == reflect.String && data != "" {
			return data, nil
		}
		return nil, fmt.Errorf("%q is neither true nor false", fmt.Sprint(data))
	}
	if to.Kind() >= reflect.Int && to.Kind() <= reflect.Float64 {
		if from.Kind() == reflect.Bool || data == "" || !fits(reflect.ValueOf(data), reflect.Zero(to)) {
			return nil, fmt.Errorf("%q is not a number of type %v", fmt.Sprint(data), to)
		}
	}
	return data, nil
}

// fits reports whether a number keeps its value in the type of to; what is no number yet is parsed later.
func fits(v, to reflect.Value) bool {
	switch {
	case v.CanFloat() && !to.CanFloat():
		return v.Float() == math.Trunc(v.Float()) && math.Abs(v.Float()) < 1<<53
	case v.CanInt() && to.CanInt():
		return !to.OverflowInt(v.Int())
	case v.CanInt() && to.CanUint():
		return v.Int() >= 0 && !to.OverflowUint(uint64(v.Int()))
	case v.CanUint() && to.CanUint():
		return !to.OverflowUint(v.Uint())
	}
	return true
}

// unknown names what is not known and the nearest thing that is.
func unknown(what, name string, known []string) error {
	best, dist := "", len(name)/3+1 // farther is not similar
	for _, k := range slices.Sorted(slices.Values(known)) {
		if d := distance(name, k); d < dist {
			best, dist = k, d
		}
	}
	if best == "" {
		return fmt.Errorf("%w: %s", ErrUnknown, what)
	}
	return fmt.Errorf("%w: %s (did you mean %s?)", ErrUnknown, what, best)
}

// distance is the number of letters to insert, remove or change to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diag+cost)
		}
	}
	return row[len(b)]
}

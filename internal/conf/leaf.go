package conf

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// leaf is one setting: a field that holds a value.
type leaf struct {
	path   string // names of the structs around it and its own, joined by '.'
	doc    string
	secret bool
	value  reflect.Value // the field itself
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
	stringsType  = reflect.TypeFor[[]string]()
	mapType      = reflect.TypeFor[map[string]string]()
)

// walk lists the leaves of a pointer to a struct, in the order of its fields.
func walk(cfg any) ([]leaf, error) {
	v := reflect.ValueOf(cfg)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("conf walk: %T is not a pointer to a struct", cfg)
	}
	return walkStruct(v.Elem(), "", nil)
}

func walkStruct(v reflect.Value, prefix string, out []leaf) ([]leaf, error) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("koanf"), ",")
		squash := options == "squash"
		if name == "-" || name == "" && !squash {
			continue
		}
		path := prefix
		if !squash {
			path += name
		}
		l := leaf{path: path, doc: f.Tag.Get("doc"), secret: f.Tag.Get("secret") == "true", value: v.Field(i)}
		switch {
		case !f.IsExported() || strings.Contains(name, "."):
			return nil, fmt.Errorf("conf walk: field %s (%q): must be exported and its name without '.'", f.Name, name)
		case l.supported():
			out = append(out, l)
		case f.Type.Kind() == reflect.Struct:
			if !squash {
				path += "."
			}
			var err error
			if out, err = walkStruct(v.Field(i), path, out); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("conf walk: %s: type %v is not supported", path, f.Type)
		}
	}
	return out, nil
}

func (l leaf) supported() bool {
	if l.isText() {
		return true
	}
	switch k := l.value.Kind(); k {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64:
		return true
	case reflect.Slice:
		return l.value.Type().ConvertibleTo(stringsType) && l.value.Type().Elem().Kind() == reflect.String
	case reflect.Map:
		return l.value.Type() == mapType
	default:
		return k >= reflect.Int && k <= reflect.Uint64
	}
}

func (l leaf) isText() bool { return l.value.Addr().Type().Implements(textType) }

// split makes of an environment variable what a file would have: a list of its parts, a map of k=v pairs.
func (l leaf) split(value string) any {
	if l.isText() {
		return value
	}
	switch l.value.Kind() {
	case reflect.Slice:
		if value == "" {
			return []string{}
		}
		return strings.Split(value, ",")
	case reflect.Map:
		m := map[string]any{}
		for _, pair := range strings.Split(value, ",") {
			if k, v, _ := strings.Cut(pair, "="); k != "" {
				m[k] = v
			}
		}
		return m
	}
	return value
}

func paths(leaves []leaf) []string {
	out := make([]string, len(leaves))
	for i, l := range leaves {
		out[i] = l.path
	}
	return out
}

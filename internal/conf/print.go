package conf

import (
	"encoding"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// WriteYAML prints the configuration as a commented file that Load takes, except that secrets are redacted.
// cfg is a pointer to the struct.
func WriteYAML(w io.Writer, cfg any) error {
	leaves, err := walk(cfg)
	if err != nil {
		return err
	}
	root := &yaml.Node{Kind: yaml.MappingNode}
	sections := map[string]*yaml.Node{"": root}
	for _, l := range leaves {
		value, err := l.node()
		if err != nil {
			return fmt.Errorf("conf print %s: %w", l.path, err)
		}
		parent, name := section(sections, l.path)
		key := &yaml.Node{Kind: yaml.ScalarNode, Value: name}
		if l.doc != "" {
			key.HeadComment = "# " + l.doc
		}
		parent.Content = append(parent.Content, key, value)
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return fmt.Errorf("conf print: %w", err)
	}
	return enc.Close()
}

// section finds or makes the mapping that a path's last name belongs to.
func section(sections map[string]*yaml.Node, path string) (*yaml.Node, string) {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return sections[""], path
	}
	if s, ok := sections[path[:i]]; ok {
		return s, path[i+1:]
	}
	parent, name := section(sections, path[:i])
	s := &yaml.Node{Kind: yaml.MappingNode}
	sections[path[:i]] = s
	parent.Content = append(parent.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, s)
	return s, path[i+1:]
}

// node builds strings by hand: encoding them first reads a '#' after a line break as a comment.
func (l leaf) node() (*yaml.Node, error) {
	v, err := l.plain()
	if err != nil {
		return nil, err
	}
	if l.secret && !l.value.IsZero() {
		v = Redacted
	}
	switch v := v.(type) {
	case string:
		return text(v), nil
	case []string:
		n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, s := range v {
			n.Content = append(n.Content, text(s))
		}
		return n, nil
	case map[string]string:
		n := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			n.Content = append(n.Content, text(k), text(v[k]))
		}
		return n, nil
	}
	n := &yaml.Node{}
	return n, n.Encode(v)
}

func text(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if strings.Contains(s, "\n") {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// plain is the value as a file would have it.
func (l leaf) plain() (any, error) {
	if l.value.Type() == durationType {
		return time.Duration(l.value.Int()).String(), nil
	}
	if l.isText() {
		return l.text()
	}
	if l.value.Kind() == reflect.Slice {
		if l.value.IsNil() {
			return []string{}, nil
		}
		return l.value.Convert(stringsType).Interface(), nil
	}
	if l.value.Kind() == reflect.String {
		return l.value.String(), nil
	}
	return l.value.Interface(), nil
}

func (l leaf) text() (string, error) {
	if m, ok := l.value.Addr().Interface().(encoding.TextMarshaler); ok {
		b, err := m.MarshalText()
		return string(b), err
	}
	return fmt.Sprint(l.value.Interface()), nil
}

// BindFlags adds a flag for each setting, named by its path, with the present value as the default shown. The flags
// do not write to cfg: Load does, with those that were set. cfg is a pointer to the struct.
func BindFlags(fs *pflag.FlagSet, cfg any) error {
	leaves, err := walk(cfg)
	if err != nil {
		return err
	}
	for _, l := range leaves {
		if fs.Lookup(l.path) != nil {
			return fmt.Errorf("conf flags: %s is defined already", l.path)
		}
		if err := l.bind(fs); err != nil {
			return fmt.Errorf("conf flags: %s: %w", l.path, err)
		}
	}
	return nil
}

func (l leaf) bind(fs *pflag.FlagSet) error {
	usage := l.doc
	if l.secret {
		fs.String(l.path, "", usage+" (others can see flags: prefer the file or the environment)")
		return nil
	}
	if l.isText() {
		text, err := l.text()
		fs.String(l.path, text, usage)
		return err
	}
	v := l.value
	switch k := v.Kind(); {
	case v.Type() == durationType:
		fs.Duration(l.path, time.Duration(v.Int()), usage)
	case k == reflect.String:
		fs.String(l.path, v.String(), usage)
	case k == reflect.Bool:
		fs.Bool(l.path, v.Bool(), usage)
	case k == reflect.Slice:
		fs.StringSlice(l.path, v.Convert(stringsType).Interface().([]string), usage)
	case k == reflect.Map:
		fs.StringToString(l.path, v.Interface().(map[string]string), usage)
	case v.CanInt():
		fs.Int64(l.path, v.Int(), usage)
	case v.CanUint():
		fs.Uint64(l.path, v.Uint(), usage)
	default:
		fs.Float64(l.path, v.Float(), usage)
	}
	return nil
}

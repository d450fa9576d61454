package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type config struct {
	Name string `koanf:"name" doc:"a name"`
}

func (c *config) Validate() error {
	if c.Name == "" {
		return errors.New("name: want one")
	}
	return nil
}

// What a daemon says of its configuration: faults are shown beside what there is to set, files that cannot be read are errors.
func TestPrintAndValidate(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, bad, faulty := file("good.yaml", "name: x\n"), file("bad.yaml", "bogus: 1\n"), file("faulty.yaml", "name: ''\n")
	spec := Spec[config]{
		Name: "it", Prefix: "IT_", Log: func(*config) (string, string) { return "info", "text" },
		Run: func(context.Context, config, *slog.Logger) error { return errors.New("it ran") },
	}
	for _, c := range []struct {
		args      string
		code      int
		out, errs string
	}{
		{"--print-config", 0, "name:", ""},
		{"--print-config --config " + good, 0, "name: x", ""},
		{"--print-config --config " + faulty, 0, "name:", "name: want one"},
		{"--print-config --config " + bad, 2, "", "bogus"},
		{"--print-config --config " + filepath.Join(dir, "none.yaml"), 2, "", "none.yaml"},
		{"--validate --config " + good, 0, "valid", ""},
		{"--validate --config " + faulty, 2, "", "name: want one"},
		{"--config " + faulty, 2, "", "name: want one"},
		{"--config " + good, 1, "", "it ran"},
		{"--no-such-flag", 2, "", "no-such-flag"},
	} {
		var out, errs bytes.Buffer
		code := Main(spec, strings.Fields(c.args), &out, &errs)
		if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.errs) || c.errs == "" && errs.Len() > 0 || c.out == "" && out.Len() > 0 {
			t.Errorf("%s: code %d, out %q, err %q; want %d, %q, %q", c.args, code, out.String(), errs.String(), c.code, c.out, c.errs)
		}
	}
}

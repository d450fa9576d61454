package conf_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/internal/conf"
	"github.com/spf13/pflag"
	"pgregory.net/rapid"
)

type level int

func (l *level) UnmarshalText(b []byte) error {
	if string(b) != "low" && string(b) != "high" {
		return fmt.Errorf("level %q: want low or high", b)
	}
	*l = level(map[string]int{"low": 1, "high": 2}[string(b)])
	return nil
}

func (l level) MarshalText() ([]byte, error) {
	return []byte(map[level]string{0: "low", 1: "low", 2: "high"}[l]), nil
}

type common struct {
	Zone string `koanf:"zone" doc:"name of the zone"`
}

type settings struct {
	common `koanf:"-"` // unexported and left out
	Common common      `koanf:",squash"`
	NATS   struct {
		URL      string        `koanf:"url" doc:"where the bus is"`
		Password string        `koanf:"password" secret:"true" doc:"its password"`
		Wait     time.Duration `koanf:"wait" doc:"pause between attempts"`
	} `koanf:"nats"`
	Peers   []string          `koanf:"peers" doc:"the others"`
	Labels  map[string]string `koanf:"labels"`
	Slots   uint8             `koanf:"slots"`
	Ratio   float64           `koanf:"ratio"`
	Debug   bool              `koanf:"debug"`
	Level   level             `koanf:"level"`
	Hidden  func()            `koanf:"-"`
	Unknown chan int
}

func (s *settings) Validate() error {
	if s.Slots == 0 {
		return errors.New("slots: want at least 1")
	}
	return nil
}

func defaults() settings {
	var s settings
	s.Common.Zone, s.Slots, s.Ratio, s.Level = "edge-1", 4, .5, 1
	s.NATS.URL, s.NATS.Wait = "nats://default", time.Second
	s.Peers = []string{"a", "b", "c"}
	s.Labels = map[string]string{"rack": "1"}
	return s
}

func file(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func flags(t testing.TB, args ...string) *pflag.FlagSet {
	t.Helper()
	d := defaults()
	fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
	fs.Bool("other", false, "a flag that is no setting")
	if err := conf.BindFlags(fs, &d); err != nil {
		t.Fatal(err)
	}
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestNothingGivenKeepsTheDefaults(t *testing.T) {
	got := defaults()
	if err := conf.Load(&got, conf.Options{File: file(t, "nats:\n"), EnvPrefix: "RUBATO_T_", Flags: flags(t, "--other")}); err != nil {
		t.Fatal(err)
	}
	if want := defaults(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Each source overrides those before it, setting by setting.
func TestPrecedence(t *testing.T) {
	path := file(t, `
zone: from-file
slots: 9
peers: [x]
labels: {row: "2", dotted.key: "3"}
nats: {url: from-file, wait: 2s}
level: high
`)
	t.Setenv("RUBATO_T_NATS_URL", "from-env")
	t.Setenv("RUBATO_T_NATS_WAIT", "3s")
	t.Setenv("RUBATO_T_PEERS", "y,z")
	t.Setenv("RUBATO_T_DEBUG", "true")
	t.Setenv("RUBATO_T_RATIO", "0.25")
	t.Setenv("RUBATO_OTHER", "not ours")
	fs := flags(t, "--nats.wait=4s", "--slots=11", "--labels", "a=b")
	got := defaults()
	if err := conf.Load(&got, conf.Options{File: path, EnvPrefix: "RUBATO_T_", Flags: fs}); err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Common.Zone, want.Level = "from-file", 2
	want.NATS.URL, want.Peers, want.Debug, want.Ratio = "from-env", []string{"y", "z"}, true, .25
	want.NATS.Wait, want.Slots, want.Labels = 4*time.Second, 11, map[string]string{"a": "b"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestListsAndMapsReplaceTheDefaults(t *testing.T) {
	got := defaults()
	if err := conf.Load(&got, conf.Options{File: file(t, "peers: [x]\nlabels: {k.l: v}\n")}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"x"}; !reflect.DeepEqual(got.Peers, want) {
		t.Errorf("peers %v, want %v", got.Peers, want)
	}
	if want := map[string]string{"k.l": "v"}; !reflect.DeepEqual(got.Labels, want) {
		t.Errorf("labels %v, want %v", got.Labels, want)
	}
}

func TestRefusedFiles(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"nats: {ulr: x}", `unknown setting: key "nats.ulr" (did you mean nats.url?)`},
		{"completely: different", `unknown setting: key "completely"`},
		{"a: 1\nb: 2", `key "b"`}, // all of them
		{"zone:", `key "zone" has no value`},
		{"nats: 5", `key "nats" has settings of its own`},
		{"nats: {wait: 2}", "no unit"},
		{"nats: {wait: soon}", "nats.wait"},
		{"slots: 300", "slots"},
		{"slots: 1.5", "slots"},
		{"slots: -1", "slots"},
		{"slots: true", "slots"},
		{`slots: ""`, "slots"},
		{"debug: 2", "debug"},
		{"level: middle", "want low or high"},
		{"peers: {a: b}", "peers"},
		{"slots: 0", "slots: want at least 1"}, // Validate
		{"nats: {password: REDACTED}", "nats.password is REDACTED"},
		{"zone: [", "yaml"},
		{"zone: a\nzone: b", "already defined"},
	} {
		got := defaults()
		err := conf.Load(&got, conf.Options{File: file(t, c.text)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("file %q: error %v, want one with %q", c.text, err, c.want)
		}
	}
	got := defaults()
	if err := conf.Load(&got, conf.Options{File: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := conf.Load(&got, conf.Options{File: file(t, "#"+strings.Repeat("x", conf.MaxFileBytes))}); err == nil {
		t.Error("a file beyond the limit was taken")
	}
}

func TestRefusedEnvironment(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"RUBATO_T_NATS_ULR", "x", "did you mean RUBATO_T_NATS_URL?"},
		{"RUBATO_T_SLOTS", "many", "slots"},
		{"RUBATO_T_SLOTS", "", "slots"},
		{"RUBATO_T_DEBUG", "", "debug"},
		{"RUBATO_T_NATS_WAIT", "2", "wait"},
	} {
		t.Run(c.name+"="+c.value, func(t *testing.T) {
			t.Setenv(c.name, c.value)
			got := defaults()
			err := conf.Load(&got, conf.Options{EnvPrefix: "RUBATO_T_"})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if unknown := strings.HasSuffix(c.name, "ULR"); errors.Is(err, conf.ErrUnknown) != unknown {
				t.Errorf("error %v, is ErrUnknown: want %t", err, unknown)
			}
		})
	}
}

func TestStructsThatCannotWork(t *testing.T) {
	var twins struct {
		A struct {
			B string `koanf:"b"`
		} `koanf:"a"`
		AB string `koanf:"a_b"`
	}
	var channel struct {
		C chan int `koanf:"c"`
	}
	err := conf.Load(&twins, conf.Options{EnvPrefix: "X_"})
	if err == nil || !strings.Contains(err.Error(), "both X_A_B") {
		t.Errorf("two settings of one variable: %v", err)
	}
	if err := conf.Load(&channel, conf.Options{}); err == nil {
		t.Error("a channel was taken for a setting")
	}
	if err := conf.WriteYAML(&bytes.Buffer{}, channel); err == nil {
		t.Error("a struct by value was taken")
	}
}

func TestPrintedFile(t *testing.T) {
	s := defaults()
	s.NATS.Password = "hush"
	var out bytes.Buffer
	if err := conf.WriteYAML(&out, &s); err != nil {
		t.Fatal(err)
	}
	want := `# name of the zone
zone: edge-1
nats:
  # where the bus is
  url: nats://default
  # its password
  password: REDACTED
  # pause between attempts
  wait: 1s
# the others
peers: [a, b, c]
labels: {rack: "1"}
slots: 4
ratio: 0.5
debug: false
level: low
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

// What is printed and read back is the same, secrets aside.
func TestPrintLoadRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	rapid.Check(t, func(t *rapid.T) {
		var s settings
		word := rapid.StringMatching(`[ -~äß\n]{0,12}`)
		s.Common.Zone = word.Draw(t, "zone")
		s.NATS.URL = word.Draw(t, "url")
		s.NATS.Wait = time.Duration(rapid.Int64Range(0, 1e15).Draw(t, "wait"))
		s.Peers = rapid.SliceOf(word).Draw(t, "peers")
		s.Labels = rapid.MapOf(rapid.StringMatching(`[a-z]{1,5}`), word).Draw(t, "labels")
		s.Slots = rapid.Uint8Min(1).Draw(t, "slots")
		s.Ratio = rapid.Float64Range(-1e9, 1e9).Draw(t, "ratio")
		s.Debug = rapid.Bool().Draw(t, "debug")
		s.Level = level(rapid.IntRange(1, 2).Draw(t, "level"))
		var out bytes.Buffer
		if err := conf.WriteYAML(&out, &s); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		got := defaults()
		if err := conf.Load(&got, conf.Options{File: path}); err != nil {
			t.Fatalf("%v\n%s", err, out.Bytes())
		}
		if !reflect.DeepEqual(got, s) {
			t.Fatalf("got  %+v\nwant %+v\n%s", got, s, out.Bytes())
		}
	})
}

func TestFlagsHelp(t *testing.T) {
	d := defaults()
	d.NATS.Password = "hush"
	fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
	if err := conf.BindFlags(fs, &d); err != nil {
		t.Fatal(err)
	}
	help := fs.FlagUsages()
	for _, part := range []string{"--nats.url", "where the bus is", `(default "nats://default")`, "--nats.wait duration", "--labels", "--level"} {
		if !strings.Contains(help, part) {
			t.Errorf("help lacks %q:\n%s", part, help)
		}
	}
	if strings.Contains(help, "hush") {
		t.Error("help shows a secret")
	}
	if err := conf.BindFlags(fs, &d); err == nil {
		t.Error("binding twice went through")
	}
}

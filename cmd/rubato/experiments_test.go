package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is taken from the cache is drawn too: into another folder, and over figures of something else.
func TestExperimentsAreDrawnFromTheCache(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(text string, path ...string) {
		t.Helper()
		name := filepath.Join(append([]string{dir}, path...)...)
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(`
first_seed: 11
seeds: 2
tuned_on: 1-10
policies: [rubato, least-loaded, fixed-delay=20ms, averages, oracle]
aside: [averages, oracle]
short: {seeds: 1, loads: [.5], policies: [rubato, least-loaded]}
experiments:
  - {name: little, question: "Does it run?", family: data, scenario: tiny.yaml, loads: [.3, .6]}
`, "plans", "plan.yaml")
	write(`
name: tiny
about: one function on two nodes
duration: 2s
functions:
  - {name: f, memory_mb: 128, run: 10ms, spread: .2, calls: {per_s: 50}}
zones:
  - {name: z, nodes: [{class: a, count: 2, slots: 2, cores: 2, memory_mb: 1024, cache: 10MB}]}
`, "scenarios", "tiny.yaml")
	experiments := func(out string) map[string]string {
		t.Helper()
		args := []string{"sim", "experiments", filepath.Join(dir, "plans", "plan.yaml"), "--out", filepath.Join(dir, out), "--cache", filepath.Join(dir, "cache")}
		var said strings.Builder
		if code := run(t.Context(), args, func(string) string { return "" }, strings.NewReader(""), &said, &said); code != 0 {
			t.Fatalf("exit code %d: %s", code, &said)
		}
		files, err := os.ReadDir(filepath.Join(dir, out))
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]string{}
		for _, f := range files {
			b, err := os.ReadFile(filepath.Join(dir, out, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			all[f.Name()] = string(b)
		}
		return all
	}
	first := experiments("a")
	write("a figure of something else", "a", "little-mean.svg")
	write("not to be linked", "a", "little-other.svg")
	again, other := experiments("a"), experiments("b")
	for _, name := range []string{"little.md", "little-mean.svg", "little-distribution.svg", "little-cold-and-missed.svg", "README.md", "throughput.md", "forest.md"} {
		if len(first[name]) < 200 || again[name] != first[name] || other[name] != first[name] {
			t.Errorf("%s: %d bytes, then %d, in another folder %d: want the same", name, len(first[name]), len(again[name]), len(other[name]))
		}
	}
	if page := other["little.md"]; strings.Count(page, ".svg)") != 3 || !strings.Contains(page, "![little-distribution.svg]") {
		t.Errorf("the page shows not its three figures:\n%s", page)
	}
	for name, want := range map[string]string{
		"README.md": "[throughput](throughput.md)", "throughput.md": "### data: a p99 of at most", "forest.md": "| data | 0.6 |", "little.md": "seeds 1-10 were looked at",
	} {
		if !strings.Contains(other[name], want) {
			t.Errorf("%s lacks %q:\n%s", name, want, other[name])
		}
	}
}

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The README's second quick start, line by line, on the cluster of these tests instead of `rubato up`'s.
func TestReadmeQuickStart(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(text), "```\nbin/rubato up")
	block, _, closed := strings.Cut(block, "```")
	if !found || !closed {
		t.Fatal("the README has no block that begins with bin/rubato up")
	}
	dir := t.TempDir()
	wordcount := filepath.Join(dir, "wordcount")
	build := exec.Command("go", "build", "-o", wordcount, "../../examples/functions/wordcount")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	env := func(name string) string {
		return map[string]string{"RUBATO_SERVER": door, "RUBATO_TENANT": "readme"}[name]
	}
	here := strings.NewReplacer("bin/functions/wordcount", wordcount, "README.md", "../../README.md")
	id, lines := "", 0
	for line := range strings.Lines(block) {
		line, _, _ = strings.Cut(line, " #")
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "bin/rubato" {
			continue // the rest of the first line
		}
		var args []string
		for _, w := range words[1:] {
			if w == "ID" {
				w = id
			}
			args = append(args, here.Replace(w))
		}
		var out, errs bytes.Buffer
		if code := run(context.Background(), args, env, strings.NewReader(""), &out, &errs); code != 0 {
			t.Fatalf("%s: exit code %d\n%s%s", line, code, out.String(), errs.String())
		}
		if args[0] == "invoke" {
			id = regexp.MustCompile(`[0-9a-z]{26}`).FindString(out.String() + errs.String())
		}
		if args[0] == "explain" && !strings.Contains(out.String(), "readme/wordcount") {
			t.Errorf("explain said %s", out.String())
		}
		lines++
	}
	if lines < 5 || id == "" {
		t.Errorf("%d commands were run, the call's id was %q", lines, id)
	}
}

// Package storytest plays stories: testdata/*.txtar files that hold events, one a line ("-- story --"), and the transcript that a core
// is expected to make of them ("-- transcript --"). `go test -update` rewrites transcripts; their difference is reviewed as code.
package storytest

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite the expected transcripts of stories")

const story, transcript = "story", "transcript"

// Play gives each story's lines to play, which returns the transcript.
func Play(t *testing.T, play func(t *testing.T, lines []string) string) {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no stories", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(a.Files) == 0 || a.Files[0].Name != story || len(a.Files) == 2 && a.Files[1].Name != transcript || len(a.Files) > 2 {
				t.Fatalf("%s: want -- %s -- and -- %s --", path, story, transcript)
			}
			got := play(t, strings.Split(strings.TrimSpace(string(a.Files[0].Data)), "\n"))
			if *update {
				a.Files = append(a.Files[:1], txtar.File{Name: transcript, Data: []byte(got)})
				if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if len(a.Files) < 2 || got != string(a.Files[1].Data) {
				t.Errorf("%s: the transcript differs (-update rewrites it):\n%s", path, got)
			}
		})
	}
}

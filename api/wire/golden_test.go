package wire

import (
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the expected bytes")

// TestFormat: nodes and schedulers of different builds meet on one bus, so a change of these bytes needs a new Version.
func TestFormat(t *testing.T) {
	for i, name := range []string{"run", "completion", "heartbeat"} {
		b, err := Encode(messages()[i])
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".hex")
		got := hex.EncodeToString(b) + "\n"
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s is encoded otherwise than before (-update rewrites, but then raise Version):\n got %s\nwant %s", name, strings.TrimSpace(got), want)
		}
	}
}

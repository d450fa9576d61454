package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// build says what this program was built from, as far as the Go toolchain knew.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified"` // the tree had changes that were not committed
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func readBuild(info *debug.BuildInfo) build {
	b := build{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info == nil {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// String is one line: what "rubato version" and "rubato --version" print.
func (b build) String() string {
	s := b.Version
	if b.Revision != "" {
		s += " revision " + b.Revision
	}
	if b.Modified {
		s += " (modified)"
	}
	return fmt.Sprintf("%s, %s %s", s, b.Go, b.Platform)
}

func currentBuild() build {
	info, _ := debug.ReadBuildInfo() // nil without module support, which readBuild knows
	return readBuild(info)
}

func newVersion() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "version", Short: "Show what this program was built from", Args: cobra.NoArgs,
		Long:    "version shows the version, the revision of the source and the Go toolchain that built this program. rubato --version prints the same line.",
		Example: "  rubato version\n  rubato version -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			return writeVersion(cmd.OutOrStdout(), currentBuild(), output)
		},
	}
	addOutput(cmd, &output)
	return cmd
}

func writeVersion(w io.Writer, b build, output string) error {
	if output == "json" {
		return writeJSON(w, b)
	}
	_, err := fmt.Fprintf(w, "rubato version %s\n", b) // as cobra words --version
	return err
}

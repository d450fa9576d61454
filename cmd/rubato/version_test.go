package main

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestVersionSaysWhatItWasBuiltFrom(t *testing.T) {
	b := readBuild(&debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "abc123"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"},
	}})
	if b.Version != "v1.2.3" || b.Revision != "abc123" || b.Time != "2026-01-02T03:04:05Z" || !b.Modified {
		t.Errorf("read %+v", b)
	}
	if s := b.String(); !strings.HasPrefix(s, "v1.2.3 revision abc123 (modified), go") {
		t.Errorf("line %q", s)
	}
	if s := readBuild(nil).String(); !strings.HasPrefix(s, "unknown, go") {
		t.Errorf("without build information: %q", s)
	}
}

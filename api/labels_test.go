package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestLabelsMeet(t *testing.T) {
	node := Labels{Arch: "arm64", Accelerator: "gpu-a100", Tags: []string{"ssd", "eu"}}
	for _, c := range []struct {
		need Labels
		want bool
	}{
		{Labels{}, true},
		{Labels{Arch: "arm64"}, true},
		{Labels{Arch: "amd64"}, false},
		{Labels{Accelerator: "gpu"}, true},
		{Labels{Accelerator: "gpu-a100"}, true},
		{Labels{Accelerator: "gpu-a10"}, false}, // not a family of it
		{Labels{Accelerator: "gp"}, false},
		{Labels{Accelerator: "gpu-a100-80g"}, false},
		{Labels{Tags: []string{"eu", "ssd"}}, true},
		{Labels{Tags: []string{"eu", "nvme"}}, false},
	} {
		if got := node.Meet(&c.need); got != c.want {
			t.Errorf("a node with %s meets %q: %v", &node, c.need.String(), got)
		}
	}
	if none := (&Labels{}); none.Meet(&Labels{Arch: "amd64"}) || none.Meet(&Labels{Accelerator: "gpu"}) || !none.Meet(&Labels{}) {
		t.Error("a node without labels has only what nobody asks for")
	}
}

func TestLabelsAreBounded(t *testing.T) {
	many := Labels{}
	for i := range MaxTags + 1 {
		many.Tags = append(many.Tags, fmt.Sprint("t", i))
	}
	for _, bad := range []Labels{many, {Arch: "x86/64"}, {Accelerator: "GPU"}, {Tags: []string{""}}, {Tags: []string{strings.Repeat("t", MaxNameLen+1)}}} {
		if err := bad.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", bad.String(), err)
		}
	}
	many.Tags = many.Tags[1:]
	if err := many.Validate(); err != nil {
		t.Error(err)
	}
	twice := Labels{Tags: []string{"b", "a", "b"}}
	if got := twice.Clone(); got.String() != "tag a, tag b" || len(twice.Tags) != 3 {
		t.Errorf("cloned as %s", got.String())
	}
}

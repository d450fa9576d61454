package api

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxTags bounds the tags of one node or function; each is a name of at most MaxNameLen bytes.
const MaxTags = 16

// Labels are what a node has, and what a function needs of its node. A node's empty field means that it has nothing of the
// kind, a function's that it does not care.
type Labels struct {
	// Arch is a processor architecture by Go's name for it: amd64, arm64.
	Arch string `msgpack:"a,omitempty" json:"arch,omitempty"`
	// Accelerator is a class like gpu-a100. A function may name a family: gpu is met by every class that begins with "gpu-".
	Accelerator string `msgpack:"x,omitempty" json:"accelerator,omitempty"`
	// Tags are names in no order; a function's must all be on the node.
	Tags []string `msgpack:"t,omitempty" json:"tags,omitempty"`
}

// Meet reports whether a node with these labels has everything that need asks for.
func (l *Labels) Meet(need *Labels) bool {
	if need.Arch != "" && need.Arch != l.Arch {
		return false
	}
	if a := need.Accelerator; a != "" && a != l.Accelerator && !strings.HasPrefix(l.Accelerator, a+"-") {
		return false
	}
	for _, t := range need.Tags {
		if !slices.Contains(l.Tags, t) {
			return false
		}
	}
	return true
}

// Equal reports whether both name the same in the same order.
func (l *Labels) Equal(o *Labels) bool {
	return l.Arch == o.Arch && l.Accelerator == o.Accelerator && slices.Equal(l.Tags, o.Tags)
}

// IsZero reports whether nothing is named.
func (l Labels) IsZero() bool { return l.Arch == "" && l.Accelerator == "" && len(l.Tags) == 0 }

// Clone shares nothing with l. Tags are sorted, and each is there once.
func (l *Labels) Clone() Labels {
	c := *l
	c.Tags = slices.Clone(l.Tags)
	slices.Sort(c.Tags)
	c.Tags = slices.Compact(c.Tags)
	return c
}

// String is "arch amd64, accelerator gpu-a100, tag ssd"; empty for nothing.
func (l *Labels) String() string {
	var s []string
	if l.Arch != "" {
		s = append(s, "arch "+l.Arch)
	}
	if l.Accelerator != "" {
		s = append(s, "accelerator "+l.Accelerator)
	}
	for _, t := range l.Tags {
		s = append(s, "tag "+t)
	}
	return strings.Join(s, ", ")
}

// Validate reports all faults.
func (l *Labels) Validate() error {
	var errs []error
	if l.Arch != "" {
		errs = append(errs, CheckName("arch", l.Arch))
	}
	if l.Accelerator != "" {
		errs = append(errs, CheckName("accelerator", l.Accelerator))
	}
	if len(l.Tags) > MaxTags {
		return errors.Join(append(errs, fmt.Errorf("%w: %d tags: want at most %d", ErrInvalid, len(l.Tags), MaxTags))...)
	}
	for _, t := range l.Tags {
		errs = append(errs, CheckName("tag", t))
	}
	return errors.Join(errs...)
}

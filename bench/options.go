package bench

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// faults collects what is wrong with options.
type faults []error

// want notes a fault unless ok.
func (f *faults) want(ok bool, format string, args ...any) {
	if !ok {
		*f = append(*f, fmt.Errorf("%w: "+format, append([]any{api.ErrInvalid}, args...)...))
	}
}

func (f *faults) err() error { return errors.Join(*f...) }

// longest bounds what is measured on a clock: longer ones are mistakes.
const longest = time.Hour

// DemoPolicies are those that the demo can run.
func DemoPolicies() []string { return []string{"round-robin", "least-loaded", "fixed-delay", "rubato"} }

// Validate reports all faults.
func (o *DemoOptions) Validate() error {
	var f faults
	f.want(o.Duration > 0 && o.Duration <= longest, "duration %v: want more than 0, at most %v", o.Duration, longest)
	f.want(o.Rate > 0 && o.Rate <= 1000, "rate %v: want more than 0, at most 1000", o.Rate)
	for _, p := range o.Only {
		f.want(slices.Contains(DemoPolicies(), p), "policy %.60q: want %s", p, strings.Join(DemoPolicies(), ", "))
	}
	return f.err()
}

// Validate reports all faults.
func (o *InvokeOptions) Validate() error {
	var f faults
	f.want(o.Calls >= 1 && o.Calls <= 1e7, "%d calls: want 1-1e7", o.Calls)
	f.want(o.Callers >= 1 && o.Callers <= 4096, "%d callers: want 1-4096", o.Callers)
	f.want(o.Saturate > 0 && o.Saturate <= longest, "saturation for %v: want more than 0, at most %v", o.Saturate, longest)
	return f.err()
}

// Validate reports all faults.
func (o *DecideOptions) Validate() error {
	var f faults
	f.want(len(o.Nodes) > 0, "no sizes of zones: want one or more")
	for _, n := range o.Nodes {
		f.want(n >= 1 && n <= 65536, "%d nodes: want 1-65536", n)
	}
	f.want(o.Decisions >= 1 && o.Decisions <= 1e8, "%d decisions: want 1-1e8", o.Decisions)
	f.want(o.Functions >= 1 && o.Functions <= 4096, "%d functions: want 1-4096", o.Functions)
	f.want(o.Republish >= 1, "a new forest every %d completions: want 1 or more", o.Republish)
	return f.err()
}

// Validate reports all faults.
func (o *LearnOptions) Validate() error {
	var f faults
	f.want(o.Outstanding >= 0 && o.Outstanding <= 1e5, "%v labels on their way: want 0-1e5", o.Outstanding)
	f.want(o.Data == "" || o.Stream == "", "a folder of streams and a single one: want one of them")
	return f.err()
}

// Validate reports all faults.
func (o *ScoreOptions) Validate() error {
	var f faults
	f.want(o.Samples >= 1 && o.Samples <= 1e7, "%d samples: want 1-1e7", o.Samples)
	return f.err()
}

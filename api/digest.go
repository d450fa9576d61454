package api

import (
	"errors"
	"fmt"
	"math"
)

// Limits of what zones tell the coordinator and what it plans.
const (
	// MaxDigestClasses bounds the classes of one digest: the busiest are named, the rest only counts in the totals.
	MaxDigestClasses = 64
	// MaxZones bounds the zones that one coordinator plans for.
	MaxZones = 1024
	// MaxShares bounds the rows of the table of shares, so that the table fits in one log entry.
	MaxShares = 1024
	// MaxPermille is the whole of a class's work.
	MaxPermille = 1000
	// maxDigestCount bounds each counter of a digest, so that sums over MaxZones zones stay far from overflow.
	maxDigestCount = 1 << 30
)

// AllClasses is the class of a share that applies to every class without a row of its own.
const AllClasses = "*"

// ClassLoad is one class's part of a zone's load.
type ClassLoad struct {
	// Class is a function id ("tenant/name") or a class name.
	Class    string  `msgpack:"c" json:"class"`
	RatePerS float64 `msgpack:"r" json:"rate_per_s"`
	MeanMs   float64 `msgpack:"m" json:"mean_ms"`
}

// Digest is what a zone leader tells the coordinator once a second: a bounded summary, never a list of nodes.
// The pair (Epoch, Seq) orders the digests of one zone whatever order the bus delivers them in.
type Digest struct {
	Zone   string `msgpack:"z" json:"zone"`
	Tier   Tier   `msgpack:"t" json:"tier"`
	Region string `msgpack:"r" json:"region"`
	Epoch  Epoch  `msgpack:"e" json:"epoch"`
	Seq    uint64 `msgpack:"s" json:"seq"`
	// Slots is the room for running invocations, Busy the part of it in use. Queued calls found no free slot,
	// Delayed ones declined one.
	Slots   int         `msgpack:"sl" json:"slots"`
	Busy    int         `msgpack:"b" json:"busy"`
	Queued  int         `msgpack:"q" json:"queued"`
	Delayed int         `msgpack:"d" json:"delayed"`
	Classes []ClassLoad `msgpack:"c" json:"classes,omitempty"`
	// Policy is the rule in force, Mode how far it acts. Guarded says that waiting is stopped since it lost, Distrusted that averages
	// stand in for the forest since they predict better, FallbackDecides that the fallback does, since the rule loses by these too.
	Policy     string `msgpack:"po,omitempty" json:"policy,omitempty"`
	Mode       string `msgpack:"mo,omitempty" json:"mode,omitempty"`
	Guarded    bool   `msgpack:"gu,omitempty" json:"guarded,omitempty"`
	Distrusted bool   `msgpack:"ft,omitempty" json:"distrusted,omitempty"`

	FallbackDecides bool `msgpack:"fd,omitempty" json:"fallback_decides,omitempty"`
}

// Newer reports whether d was made after o, for digests of the same zone.
func (d *Digest) Newer(o *Digest) bool {
	if c := d.Epoch.Compare(o.Epoch); c != 0 {
		return c > 0
	}
	return d.Seq > o.Seq
}

// Validate reports every fault of d at once. A receiver drops a digest that has one: it is soft state, and the
// next is a second away.
func (d *Digest) Validate() error {
	errs := []error{CheckName("zone", d.Zone)}
	if d.Tier > TierEdge {
		errs = append(errs, fmt.Errorf("%w: tier %d", ErrInvalid, d.Tier))
	}
	if len(d.Region) > MaxNameLen {
		errs = append(errs, fmt.Errorf("%w: region of %d bytes: want at most %d", ErrInvalid, len(d.Region), MaxNameLen))
	}
	if len(d.Policy) > MaxNameLen || len(d.Mode) > MaxNameLen {
		errs = append(errs, fmt.Errorf("%w: policy and mode of %d and %d bytes: want at most %d", ErrInvalid, len(d.Policy), len(d.Mode), MaxNameLen))
	}
	for _, n := range [...]int{d.Slots, d.Busy, d.Queued, d.Delayed} {
		if n < 0 || n > maxDigestCount {
			errs = append(errs, fmt.Errorf("%w: count %d: want 0-%d", ErrInvalid, n, maxDigestCount))
		}
	}
	if len(d.Classes) > MaxDigestClasses {
		return errors.Join(append(errs, fmt.Errorf("%w: %d classes: want at most %d", ErrInvalid, len(d.Classes), MaxDigestClasses))...)
	}
	for i := range d.Classes {
		c := &d.Classes[i]
		if len(c.Class) > 2*MaxNameLen+1 || !finite(c.RatePerS) || !finite(c.MeanMs) {
			errs = append(errs, fmt.Errorf("%w: class %q: want a short name, a rate and a mean that are finite and not negative", ErrInvalid, clip(c.Class)))
		}
	}
	return errors.Join(errs...)
}

func finite(x float64) bool { return x >= 0 && !math.IsInf(x, 0) && !math.IsNaN(x) }

// Share is one row of the coordinator's plan: at most Permille thousandths of Class's work that arrives at From
// may go to To. It is an integer since it is replicated through a log whose replicas must agree to the bit.
type Share struct {
	Class    string `msgpack:"c" json:"class"`
	From     string `msgpack:"f" json:"from"`
	To       string `msgpack:"t" json:"to"`
	Permille int    `msgpack:"p" json:"permille"`
}

func (s Share) String() string { return fmt.Sprintf("%s:%s->%s=%d", s.Class, s.From, s.To, s.Permille) }

package api

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func TestDigestValidate(t *testing.T) {
	good := Digest{Zone: "z", Slots: 4, Classes: make([]ClassLoad, MaxDigestClasses)}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Digest){
		"zone": func(d *Digest) { d.Zone = "Z" }, "tier": func(d *Digest) { d.Tier = 9 },
		"region":   func(d *Digest) { d.Region = strings.Repeat("x", 65) },
		"negative": func(d *Digest) { d.Queued = -1 }, "huge": func(d *Digest) { d.Slots = 1 << 40 },
		"classes": func(d *Digest) { d.Classes = make([]ClassLoad, MaxDigestClasses+1) },
		"nan":     func(d *Digest) { d.Classes = []ClassLoad{{RatePerS: math.NaN()}} },
		"inf":     func(d *Digest) { d.Classes = []ClassLoad{{MeanMs: math.Inf(1)}} },
	} {
		bad := good
		spoil(&bad)
		if err := bad.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDigestNewer(t *testing.T) {
	old := Digest{Epoch: Epoch{Revision: 1}, Seq: 9}
	for _, c := range []struct {
		d    Digest
		want bool
	}{
		{Digest{Epoch: Epoch{Revision: 1}, Seq: 10}, true}, {Digest{Epoch: Epoch{Revision: 1}, Seq: 9}, false},
		{Digest{Epoch: Epoch{Revision: 2}, Seq: 1}, true}, {Digest{Seq: 100}, false},
	} {
		if got := c.d.Newer(&old); got != c.want {
			t.Errorf("%v/%d newer: %v", c.d.Epoch, c.d.Seq, got)
		}
	}
}

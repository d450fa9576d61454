package memreg_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rubato-faas/rubato/membership"
	"github.com/rubato-faas/rubato/membership/membershiptest"
	"github.com/rubato-faas/rubato/membership/memreg"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	reg := memreg.New(3)
	membershiptest.Run(t, membershiptest.Harness{
		Elector: func(t *testing.T, zone, candidate string) membership.Elector {
			e, err := reg.Elector(zone, candidate)
			if err != nil {
				t.Fatal(err)
			}
			return e
		},
		Lose:     func(_ *testing.T, _, candidate string) { reg.Kill(candidate) },
		Patience: 5 * time.Second,
	})
}

func TestNames(t *testing.T) {
	if _, err := memreg.New(0).Elector("Zone!", "a"); err == nil {
		t.Fatal("a bad zone name was taken")
	}
}

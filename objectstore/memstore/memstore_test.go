package memstore_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/objectstore"
	"github.com/rubato-faas/rubato/objectstore/memstore"
	"github.com/rubato-faas/rubato/objectstore/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) objectstore.Store { return memstore.New(64 << 20) })
}

func TestFullStoreRefusesAndKeepsTheOld(t *testing.T) {
	s := memstore.New(10)
	put := func(key, data string) error {
		_, err := s.Put(t.Context(), key, strings.NewReader(data))
		return err
	}
	if err := put("a", "123456"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ key, data string }{{"b", "12345"}, {"a", "12345678901"}} {
		if err := put(c.key, c.data); !errors.Is(err, api.ErrOverloaded) {
			t.Errorf("put %d bytes to %s: %v, want ErrOverloaded", len(c.data), c.key, err)
		}
	}
	if in, err := s.Stat(t.Context(), "a"); err != nil || in.Bytes != 6 {
		t.Errorf("the old object: %+v, %v", in, err)
	}
	if err := put("a", "1234567890"); err != nil {
		t.Errorf("a replacement counts once: %v", err)
	}
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := put("b", "1234567890"); err != nil {
		t.Errorf("a delete makes room: %v", err)
	}
}

package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestCasesOfAWordAreOneWord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(path, []byte("The cat,\nTHE CAT, the\tÉté  été ÉTÉ\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	counts := map[string]*int{}
	if err := tally(counts, path); err != nil {
		t.Fatal(err)
	}
	want := &result{Total: 8, Distinct: 3, Top: []word{{"the", 3}, {"été", 3}, {"cat,", 2}}}
	if got := summarise(counts); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

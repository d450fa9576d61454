package lab

import "testing"

// Metronome trains a forest now and then; whatever else runs learns online, as before.
func TestOnlyMetronomeIsRetrained(t *testing.T) {
	s := read(t, tiny)
	for _, p := range policies(t, "rubato", "averages", "cidre", "oracle", "metronome", "metronome=1s") {
		cfg, err := s.Config(p, 1)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := cfg.Learn.Retrain.Window > 0, p.Rule == "metronome"; got != want {
			t.Errorf("%s: trained on a window is %v, want %v", p.Name, got, want)
		}
	}
}

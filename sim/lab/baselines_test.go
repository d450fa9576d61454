package lab

import "testing"

// Metronome trains a forest now and then; whatever else runs learns online; only the oracle and laws are told what there is to learn, and only
// the oracle what nobody can learn.
func TestWhatEachPolicyKnows(t *testing.T) {
	s := read(t, tiny)
	for _, p := range policies(t, "rubato", "averages", "cidre", "laws", "oracle", "metronome", "metronome=1s") {
		cfg, err := s.Config(p, 1)
		if err != nil {
			t.Fatal(err)
		}
		if o := p.Name == "oracle"; cfg.Learn.Oracle != (o || p.Name == "laws") || cfg.Learn.Luck != o {
			t.Errorf("%s: knows the laws is %v, the luck of each call %v", p.Name, cfg.Learn.Oracle, cfg.Learn.Luck)
		}
		if got, want := cfg.Learn.Retrain.Window > 0, p.Rule == "metronome"; got != want {
			t.Errorf("%s: trained on a window is %v, want %v", p.Name, got, want)
		}
	}
}

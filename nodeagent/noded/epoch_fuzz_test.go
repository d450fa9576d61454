package noded

import (
	"encoding/json"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

// What is read as an epoch is what would be written for it.
func FuzzParseEpoch(f *testing.F) {
	for _, s := range []string{`{"version":1,"epoch":{"generation":1,"revision":7}}`, `{"version":2}`, `{"version":1,"epoch":{"revision":-1}}`, ``, `[]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseEpoch(b)
		if err != nil {
			if e != (api.Epoch{}) {
				t.Errorf("an epoch beside the error: %v", e)
			}
			return
		}
		w, err := json.Marshal(epochRecord{Version: epochVersion, Epoch: e})
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseEpoch(w); err != nil || again != e {
			t.Errorf("%v is written as %s and read as %v, %v", e, w, again, err)
		}
	})
}

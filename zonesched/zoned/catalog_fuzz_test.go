package zoned

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// Whatever is read as a copy of the catalogue has functions that can be, and is read again after it was written.
func FuzzParseCatalog(f *testing.F) {
	fn := api.Function{Tenant: "t", Name: "f", Version: 1, Runtime: api.RuntimeProcess, Artifact: strings.Repeat("a", 64), ArtifactBytes: 1, MemoryMB: 100, Timeout: time.Minute}
	good, err := json.Marshal(catalogFile{Version: catalogVersion, Rev: 3, Functions: []api.Function{fn}})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := parseCatalog(good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"functions":[{}]}`))
	f.Add([]byte(`{"version":9}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseCatalog(b)
		if err != nil {
			return
		}
		for i := range c.Functions {
			if err := c.Functions[i].Validate(); err != nil {
				t.Errorf("accepted %+v: %v", c.Functions[i], err)
			}
		}
		w, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseCatalog(w); err != nil {
			t.Errorf("%s is not read again: %v", w, err)
		}
	})
}

package process

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rubato-faas/rubato/sandbox"
)

// The door at which functions answer: whatever a function sends, it is answered, the call that it names ends at most once, and an
// error document is JSON.
func FuzzRuntimeAPI(f *testing.F) {
	f.Add("POST", "/2018-06-01/runtime/invocation/i1/response", "", []byte(`{"ok":1}`))
	f.Add("POST", "/2018-06-01/runtime/invocation/i1/error", "My.Error", []byte("\xff"))
	f.Add("POST", "/2018-06-01/runtime/invocation/other/error", "", []byte(nil))
	f.Add("POST", "/2018-06-01/runtime/init/error", "X", []byte(strings.Repeat("y", 100)))
	f.Add("GET", "/2018-06-01/nothing", "", []byte(nil))
	f.Fuzz(func(t *testing.T, method, path, kind string, body []byte) {
		if strings.HasSuffix(path, "/next") {
			t.Skip("a long poll")
		}
		r, err := http.NewRequest(method, "http://x"+path, strings.NewReader(string(body)))
		if err != nil {
			t.Skip("no client can send it")
		}
		r.Header.Set("Lambda-Runtime-Function-Error-Type", kind)
		inv := &invocation{call: &sandbox.Call{ID: "i1"}, answers: make(chan answer, 1)}
		l := &lambda{limit: 64, failed: make(chan []byte, 1), current: inv}
		w := httptest.NewRecorder()
		l.routes().ServeHTTP(w, r)
		if w.Code == 0 || w.Code >= 500 {
			t.Fatalf("%s %s: %d", method, path, w.Code)
		}
		select {
		case a := <-inv.answers:
			if l.current != nil {
				t.Error("it is answered and still current")
			}
			if a.doc != nil && !json.Valid(a.doc) {
				t.Errorf("error document %q", a.doc)
			}
			if len(a.payload) > 64 {
				t.Errorf("%d bytes of result above the limit", len(a.payload))
			}
		default:
		}
		select {
		case doc := <-l.failed:
			if !json.Valid(doc) {
				t.Errorf("error document %q", doc)
			}
		default:
		}
	})
}

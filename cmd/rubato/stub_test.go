package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What a real cluster answers only in its first moments, or never in time for a test: a door made of one answer.
func TestAnswersThatLackParts(t *testing.T) {
	for _, c := range []struct {
		line, answer, want string
		code               int
	}{
		{"model", `{"zone": "edge"}`, "edge", 0},
		{"model", `{"zone": "edge", "digest": "0123456789abcdef"}`, "0123456789ab\n", 0},
		{"zones", `{"zones": [{"Name": "edge"}]}`, "edge  -", 0},
		{"objects", `[{"key": "a"}]`, "a    0 B", 0},
		{"functions", `null`, "FUNCTION", 0},
		{"result x", `{"id": "x", "state": "done", "code": "unavailable", "message": "node lost"}`, "node lost", 1},
		{"result x -o json", `{"id": "x", "state": "done", "code": "unavailable", "message": "node lost"}`, `"code": "unavailable"`, 1},
		{"result x", `{"id": "x", "state": "done", "code": "internal", "message": "odd"}`, "odd", 1},
		{"result x", `{"id": "x", "state": "done", "large": true}`, "fetch result: unavailable", 1},
		{"tail -n 2", `{"next": 4, "decisions": [{"id": "a"}, {"id": "b"}, {"id": "c"}]}`, "EXEC MS\nb ", 0}, // the last ones
		{"nodes", `no JSON`, "answer of GET /v1/nodes", 1},
	} {
		t.Run(c.line, func(t *testing.T) {
			door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, c.answer) }))
			defer door.Close()
			var out strings.Builder
			args := append(strings.Fields(c.line), "--server", door.URL)
			if code := run(t.Context(), args, func(string) string { return "" }, strings.NewReader(""), &out, &out); code != c.code || !strings.Contains(out.String(), c.want) {
				t.Errorf("exit code %d, want %d; printed %q, want %q in it", code, c.code, &out, c.want)
			}
		})
	}
}

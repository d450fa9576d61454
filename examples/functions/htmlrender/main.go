//go:build wasip1

// Command htmlrender renders an HTML page from its payload, {"title": "...", "rows": [["...", ...], ...]}: the
// example of a WASM function whose time grows with its payload. It is a reactor; it builds for GOOS=wasip1 only.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"html/template"
	"os"
)

// page is the payload.
type page struct {
	Title string     `json:"title"`
	Rows  [][]string `json:"rows"`
}

// tmpl is parsed once per sandbox, not per call: a warm sandbox has it.
var tmpl = template.Must(template.New("page").Parse(`<!doctype html>
<html><head><meta charset="utf-8"><title>{{.Title}}</title></head>
<body><h1>{{.Title}}</h1><table>
{{range .Rows}}<tr>{{range .}}<td>{{.}}</td>{{end}}</tr>
{{end}}</table></body></html>
`))

func main() {}

//go:wasmexport handle
func handle() int32 {
	if err := render(); err != nil {
		fmt.Printf(`{"errorMessage":%q,"errorType":"InvalidPayload"}`, err.Error())
		return 1
	}
	return 0
}

func render() error {
	var p page
	if err := json.NewDecoder(os.Stdin).Decode(&p); err != nil {
		return err
	}
	w := bufio.NewWriter(os.Stdout)
	if err := tmpl.Execute(w, p); err != nil {
		return err
	}
	return w.Flush()
}

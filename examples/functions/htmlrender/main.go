//go:build wasip1

// Command htmlrender renders an HTML page from its payload, {"title": "...", "rows": [["...", ...], ...]}: the
// example of a WASM function that is compiled for a second and then runs for a fraction of a millisecond. It is a
// reactor; it builds for GOOS=wasip1 only. It escapes by hand: html/template would double the module.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"html"
	"os"
)

// page is the payload.
type page struct {
	Title string     `json:"title"`
	Rows  [][]string `json:"rows"`
}

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
	title := html.EscapeString(p.Title)
	w := bufio.NewWriter(os.Stdout)
	fmt.Fprintf(w, "<!doctype html>\n<html><head><meta charset=\"utf-8\"><title>%s</title></head>\n<body><h1>%s</h1><table>\n", title, title)
	for _, row := range p.Rows {
		w.WriteString("<tr>")
		for _, cell := range row {
			w.WriteString("<td>" + html.EscapeString(cell) + "</td>")
		}
		w.WriteString("</tr>\n")
	}
	w.WriteString("</table></body></html>\n")
	return w.Flush()
}

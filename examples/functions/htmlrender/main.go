//go:build wasip1

// Command htmlrender renders an HTML page from its payload, tab-separated rows of text whose first line is the title: the
// example of a WASM function that is compiled for most of a second and then runs for a fraction of a millisecond. It is a
// reactor; it builds for GOOS=wasip1 only. It escapes by hand: html/template would treble the module.
package main

import (
	"bufio"
	"html"
	"os"
	"strings"
)

// maxLine bounds a line of the payload.
const maxLine = 1 << 20

func main() {}

//go:wasmexport handle
func handle() int32 {
	if err := render(); err != nil {
		os.Stdout.WriteString(`{"errorMessage":"a line is longer than 1 MiB","errorType":"InvalidPayload"}`)
		return 1
	}
	return 0
}

func render() error {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, maxLine)
	w := bufio.NewWriter(os.Stdout)
	title := ""
	if in.Scan() {
		title = html.EscapeString(in.Text())
	}
	w.WriteString("<!doctype html>\n<html><head><meta charset=\"utf-8\"><title>" + title + "</title></head>\n<body><h1>" + title + "</h1><table>\n")
	for in.Scan() {
		w.WriteString("<tr>")
		for cell := range strings.SplitSeq(in.Text(), "\t") {
			w.WriteString("<td>" + html.EscapeString(cell) + "</td>")
		}
		w.WriteString("</tr>\n")
	}
	if err := in.Err(); err != nil {
		return err
	}
	w.WriteString("</table></body></html>\n")
	return w.Flush()
}

// Command wordcount counts the words of its input objects: the example of a function whose time is its data's. It
// is an unmodified aws-lambda-go program; the client context says where the inputs are.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

// word is one of the commonest words.
type word struct {
	Word  string `json:"word"`
	Count int    `json:"count"`
}

// result is the function's answer.
type result struct {
	Total    int    `json:"total"`
	Distinct int    `json:"distinct"`
	Top      []word `json:"top"`
}

func main() { lambda.Start(handle) }

func handle(ctx context.Context) (*result, error) {
	lc, ok := lambdacontext.FromContext(ctx)
	if !ok || lc.ClientContext.Custom["rubato_input_names"] == "" {
		return nil, fmt.Errorf("wordcount: no input objects")
	}
	counts := make(map[string]*int)
	for name := range strings.SplitSeq(lc.ClientContext.Custom["rubato_input_names"], ",") {
		if err := tally(counts, filepath.Join(lc.ClientContext.Custom["rubato_inputs"], name)); err != nil {
			return nil, fmt.Errorf("wordcount: %w", err)
		}
	}
	return summarise(counts), nil
}

func tally(counts map[string]*int, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Split(bufio.ScanWords)
	for s.Scan() {
		w := lower(s.Bytes())
		n := counts[string(w)] // looking up makes no string
		if n == nil {
			n = new(int)
			counts[string(w)] = n
		}
		*n++
	}
	return s.Err()
}

// lower is w in lower case, in place where w is ASCII.
func lower(w []byte) []byte {
	for i, c := range w {
		switch {
		case c >= utf8.RuneSelf:
			return bytes.ToLower(w)
		case 'A' <= c && c <= 'Z':
			w[i] = c + 'a' - 'A'
		}
	}
	return w
}

func summarise(counts map[string]*int) *result {
	r := &result{Distinct: len(counts)}
	all := make([]word, 0, len(counts))
	for w, n := range counts {
		r.Total += *n
		all = append(all, word{w, *n})
	}
	slices.SortFunc(all, func(a, b word) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Word, b.Word))
	})
	r.Top = all[:min(5, len(all))]
	return r
}

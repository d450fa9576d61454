// Command echo is the function that the scripts call: what it does stands in its payload, so that one small program
// serves for results of every kind, failures, and calls that never end by themselves.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

func main() { lambda.Start(echo{}) }

type echo struct{}

// Invoke takes the payload as it came: scripts send text as well as JSON.
func (echo) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	fmt.Fprintf(os.Stderr, "echo got %q\n", payload)
	if inputs, err := contents(ctx); inputs != nil || err != nil {
		return inputs, err
	}
	verb, arg, _ := strings.Cut(strings.TrimSpace(string(payload)), " ")
	switch verb {
	case "fail":
		return nil, errors.New(arg)
	case "repeat":
		n, err := strconv.Atoi(arg)
		return bytes.Repeat([]byte("x"), n), err
	case "list":
		n, err := strconv.Atoi(arg)
		return fmt.Appendf(nil, "[%s0]", strings.Repeat("0,", n)), err
	case "hang":
		select {} // even past its deadline: it must be cut off
	}
	return bytes.ToUpper(payload), nil
}

// contents reads the input objects; nil when the call names none.
func contents(ctx context.Context) ([]byte, error) {
	lc, ok := lambdacontext.FromContext(ctx)
	if !ok || lc.ClientContext.Custom["rubato_input_names"] == "" {
		return nil, nil
	}
	var out []byte
	for name := range strings.SplitSeq(lc.ClientContext.Custom["rubato_input_names"], ",") {
		b, err := os.ReadFile(filepath.Join(lc.ClientContext.Custom["rubato_inputs"], name))
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	return out, nil
}

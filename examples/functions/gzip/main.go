// Command gzip compresses its input objects and answers their sizes: the example of a function that is bound by the
// processor, by an amount that its payload ({"level": 1-9}) changes.
package main

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

// request is the payload.
type request struct {
	// Level is gzip's, 1 (fast) to 9 (small); 0 means 6.
	Level int `json:"level"`
}

// size is what became of one object.
type size struct {
	Name            string `json:"name"`
	Bytes           int64  `json:"bytes"`
	CompressedBytes int64  `json:"compressed_bytes"`
}

func main() { lambda.Start(handle) }

func handle(ctx context.Context, req request) ([]size, error) {
	if req.Level == 0 {
		req.Level = 6
	}
	lc, ok := lambdacontext.FromContext(ctx)
	if !ok || lc.ClientContext.Custom["rubato_input_names"] == "" {
		return nil, fmt.Errorf("gzip: no input objects")
	}
	var sizes []size
	for name := range strings.SplitSeq(lc.ClientContext.Custom["rubato_input_names"], ",") {
		s, err := compress(filepath.Join(lc.ClientContext.Custom["rubato_inputs"], name), req.Level)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		s.Name = name
		sizes = append(sizes, s)
	}
	return sizes, nil
}

func compress(path string, level int) (size, error) {
	f, err := os.Open(path)
	if err != nil {
		return size{}, err
	}
	defer f.Close()
	var out counter
	z, err := gzip.NewWriterLevel(&out, level)
	if err != nil {
		return size{}, err
	}
	n, err := io.Copy(z, f)
	if err != nil {
		return size{}, err
	}
	if err := z.Close(); err != nil {
		return size{}, err
	}
	return size{Bytes: n, CompressedBytes: out.n}, nil
}

// counter counts what is written to it.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

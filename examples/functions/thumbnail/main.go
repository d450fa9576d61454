// Command thumbnail scales its first input object, a JPEG, down to at most the payload's {"max_pixels": n} on the
// longer side: the example of a function with a middling input and a small, binary result.
package main

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/draw"
	"image/jpeg"
	"os"
	"path/filepath"
	"strings"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

// request is the payload.
type request struct {
	// MaxPixels is the thumbnail's longer side, at most 1024; 0 means 128.
	MaxPixels int `json:"max_pixels"`
}

// result is the function's answer.
type result struct {
	Width  int    `json:"width"`
	Height int    `json:"height"`
	JPEG   []byte `json:"jpeg"` // base64 in JSON
}

func main() { lambda.Start(handle) }

func handle(ctx context.Context, req request) (*result, error) {
	if req.MaxPixels == 0 {
		req.MaxPixels = 128
	}
	lc, ok := lambdacontext.FromContext(ctx)
	if !ok || lc.ClientContext.Custom["rubato_input_names"] == "" {
		return nil, fmt.Errorf("thumbnail: no input object")
	}
	name, _, _ := strings.Cut(lc.ClientContext.Custom["rubato_input_names"], ",")
	f, err := os.Open(filepath.Join(lc.ClientContext.Custom["rubato_inputs"], name))
	if err != nil {
		return nil, fmt.Errorf("thumbnail: %w", err)
	}
	defer f.Close()
	img, err := jpeg.Decode(f)
	if err != nil {
		return nil, fmt.Errorf("thumbnail: %w", err)
	}
	if req.MaxPixels < 1 || req.MaxPixels > 1024 {
		return nil, fmt.Errorf("thumbnail: %d pixels: want 1-1024", req.MaxPixels)
	}
	small := shrink(img, req.MaxPixels)
	var b bytes.Buffer
	if err := jpeg.Encode(&b, small, &jpeg.Options{Quality: 80}); err != nil {
		return nil, fmt.Errorf("thumbnail: %w", err)
	}
	return &result{Width: small.Bounds().Dx(), Height: small.Bounds().Dy(), JPEG: b.Bytes()}, nil
}

// shrink averages the box of source pixels under each target pixel.
func shrink(img image.Image, limit int) *image.RGBA {
	w, h := img.Bounds().Dx(), img.Bounds().Dy()
	src := image.NewRGBA(image.Rect(0, 0, w, h))
	draw.Draw(src, src.Bounds(), img, img.Bounds().Min, draw.Src)
	long := max(w, h, limit) // a smaller picture stays as it is
	tw, th := max(1, w*limit/long), max(1, h*limit/long)
	if long == limit {
		tw, th = w, h
	}
	out := image.NewRGBA(image.Rect(0, 0, tw, th))
	for y := range th {
		for x := range tw {
			box := image.Rect(x*w/tw, y*h/th, max((x+1)*w/tw, x*w/tw+1), max((y+1)*h/th, y*h/th+1))
			copy(out.Pix[out.PixOffset(x, y):], average(src, box))
		}
	}
	return out
}

func average(src *image.RGBA, box image.Rectangle) []byte {
	var sum [4]int
	for y := box.Min.Y; y < box.Max.Y; y++ {
		row := src.Pix[src.PixOffset(box.Min.X, y):src.PixOffset(box.Max.X, y)]
		for i := 0; i < len(row); i += 4 {
			sum[0] += int(row[i])
			sum[1] += int(row[i+1])
			sum[2] += int(row[i+2])
			sum[3] += int(row[i+3])
		}
	}
	n := box.Dx() * box.Dy()
	return []byte{byte(sum[0] / n), byte(sum[1] / n), byte(sum[2] / n), byte(sum[3] / n)}
}

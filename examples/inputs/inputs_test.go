package inputs_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"image/jpeg"
	"io"
	"testing"
	"testing/iotest"

	"github.com/rubato-faas/rubato/examples/inputs"
)

func read(t testing.TB, r io.Reader) []byte {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTextDependsOnNothingButItsSeed(t *testing.T) {
	a := read(t, inputs.Text(1, 1<<20))
	if b := read(t, iotest.HalfReader(inputs.Text(1, 1<<20))); !bytes.Equal(a, b) {
		t.Error("the same text read in other pieces differs")
	}
	if b := read(t, inputs.Text(2, 1<<20)); bytes.Equal(a, b) {
		t.Error("two seeds, one text")
	}
	const want = "df992b58a6d82f83"
	sum := sha256.Sum256(a)
	if got := hex.EncodeToString(sum[:8]); got != want {
		t.Errorf("text of seed 1 is %s, was %s: benchmarks are no longer comparable", got, want)
	}
}

func TestTextSizes(t *testing.T) {
	for _, n := range []int{0, 1, 7, 1000, 65537} {
		if got := len(read(t, inputs.Text(3, n))); got != n {
			t.Errorf("asked for %d bytes, got %d", n, got)
		}
	}
}

func TestTextIsZipfian(t *testing.T) {
	count := map[string]int{}
	total := 0
	for _, w := range bytes.Fields(read(t, inputs.Text(4, 4<<20))) {
		count[string(w)]++
		total++
	}
	most := 0
	for _, n := range count {
		most = max(most, n)
	}
	if share := float64(most) / float64(total); share < .06 || share > .15 {
		t.Errorf("the commonest word has a share of %.3f, want about 0.095", share)
	}
	if len(count) < 8000 {
		t.Errorf("%d different words, want at least 8000", len(count))
	}
}

func TestJPEG(t *testing.T) {
	b := inputs.JPEG(1, 320, 200)
	img, err := jpeg.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if s := img.Bounds().Size(); s.X != 320 || s.Y != 200 {
		t.Errorf("size %v", s)
	}
	if !bytes.Equal(b, inputs.JPEG(1, 320, 200)) || bytes.Equal(b, inputs.JPEG(2, 320, 200)) {
		t.Error("the picture does not depend on exactly its seed")
	}
}

func BenchmarkText(b *testing.B) {
	const size = 16 << 20
	b.SetBytes(size)
	for b.Loop() {
		if n, err := io.Copy(io.Discard, inputs.Text(1, size)); n != size || err != nil {
			b.Fatal(n, err)
		}
	}
}

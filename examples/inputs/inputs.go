// Package inputs makes input objects for examples, demos and benchmarks: text and pictures that depend on nothing
// but their seed, so that every machine makes the same bytes. It keeps no state and does no I/O; its readers belong
// to one goroutine each. Sizes are bytes and pixels.
package inputs

import (
	"bytes"
	"image"
	"image/jpeg"
	"io"
	"math"
	"math/rand/v2"
)

const (
	// vocabulary is the number of different words of a text.
	vocabulary = 20_000
	// tableBits: words are drawn from a table of 2^tableBits entries in which a word has as many as its share. 256
	// KiB of table make a draw one load; an exact Zipf draw costs ten times as much.
	tableBits = 16
	// lineWords is the number of words in a line.
	lineWords = 12
)

// Text is bytes bytes of lower-case words whose frequencies follow Zipf's law, in lines. It is made while it is
// read, at several hundred MB/s, from under 1 MB of memory.
func Text(seed uint64, bytes int) io.Reader {
	rng := rand.New(rand.NewPCG(seed, 0x7e87))
	words := make([]string, vocabulary)
	for i := range words {
		words[i] = word(rng)
	}
	t := &text{rng: rng, words: words, left: bytes}
	harmonic := 0.
	for i := range words {
		harmonic += 1 / float64(i+1)
	}
	share, rank := 0., -1
	for i := range t.table {
		for rank < 0 || (share*(1<<tableBits) <= float64(i) && rank < vocabulary-1) {
			rank++
			share += 1 / float64(rank+1) / harmonic
		}
		t.table[i] = uint16(rank)
	}
	// The tail has less than an entry a word: let its words share the last entries.
	t.tail = int(t.table[len(t.table)-1]) * 3 / 4
	return t
}

// word is 2 to 11 letters, in syllables so that it can be read.
func word(rng *rand.Rand) string {
	const consonants, vowels = "bcdfghjklmnprstvwz", "aeiou"
	b := make([]byte, 0, 12)
	for range 1 + rng.IntN(4) {
		b = append(b, consonants[rng.IntN(len(consonants))], vowels[rng.IntN(len(vowels))])
		if rng.IntN(4) == 0 {
			b = append(b, consonants[rng.IntN(len(consonants))])
		}
	}
	return string(b)
}

// text is a Text in the middle of being read.
type text struct {
	rng   *rand.Rand
	words []string
	table [1 << tableBits]uint16
	tail  int    // words from this rank on are drawn evenly
	rest  []byte // what did not fit into the last Read
	buf   [128 + lineWords*16]byte
	left  int
}

func (t *text) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) && t.left > 0 {
		if len(t.rest) == 0 {
			t.rest = t.line()
		}
		k := min(copy(p[n:], t.rest), t.left)
		t.rest = t.rest[k:]
		t.left -= k
		n += k
	}
	if n == 0 && t.left == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// line makes the next line. One 64-bit draw serves three words.
func (t *text) line() []byte {
	b := t.buf[:0]
	for range lineWords / 3 {
		draw := t.rng.Uint64()
		for range 3 {
			rank := int(t.table[draw&(1<<tableBits-1)])
			draw >>= tableBits
			if rank >= t.tail {
				rank = t.tail + int(draw^draw>>13)&0x7fff%(vocabulary-t.tail)
			}
			b = append(b, t.words[rank]...)
			b = append(b, ' ')
		}
	}
	b[len(b)-1] = '\n'
	return b
}

// JPEG is a picture of soft colour fields with some grain, so that it compresses about as a photograph does.
func JPEG(seed uint64, width, height int) []byte {
	rng := rand.New(rand.NewPCG(seed, 0x19e6))
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	var fx, fy, phase [3]float64
	for c := range fx {
		fx[c], fy[c], phase[c] = 2+6*rng.Float64(), 2+6*rng.Float64(), 2*math.Pi*rng.Float64()
	}
	for y := range height {
		row := img.Pix[y*img.Stride:]
		for x := range width {
			grain := int(rng.Uint32() & 15)
			for c := range fx {
				// The conversions keep a compiler from fusing multiply and add, which would round otherwise elsewhere.
				v := math.Sin(float64(fx[c]*float64(x)/float64(width))+phase[c]) * math.Cos(float64(fy[c]*float64(y)/float64(height)))
				row[4*x+c] = uint8(120 + int(float64(100*v)) + grain)
			}
			row[4*x+3] = 255
		}
	}
	var b bytes.Buffer
	// Encoding into memory fails only for pictures wider or higher than a JPEG can be.
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 85}); err != nil {
		return nil
	}
	return b.Bytes()
}

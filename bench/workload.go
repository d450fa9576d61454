package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"time"

	"github.com/rubato-faas/rubato/examples/inputs"
)

// role says what a function of the demo stands for, and so what is expected of it.
type role string

const (
	roleData  role = "data-heavy"
	roleInit  role = "init-heavy"
	roleLight role = "light"
)

// load is one function's part of the demo's workload.
type load struct {
	function string
	example  string // the example function it is built from
	tenant   string
	role     role
	ratePerS float64
	// deadline is the objective that the function is deployed with; 0 for none.
	deadline time.Duration
	memoryMB int
	objects  []objectSpec
	payload  func(rng *rand.Rand) string
}

type objectSpec struct {
	key   string
	bytes int
	data  func() []byte
}

// arrival is one call: when, where it knocks, what it wants.
type arrival struct {
	at      time.Duration
	zone    int
	load    *load
	payload string
	input   string
}

// demoLoads is the workload: three tenants, half the functions with deadlines, two that are heavy on data, one whose
// start is expensive, three that are light. Small calls are the most frequent, as on real platforms.
func demoLoads() []*load {
	return []*load{
		{
			function: "wordcount", example: "wordcount", tenant: "archive", role: roleData, ratePerS: 7, memoryMB: 192,
			objects: texts("books/", 14, 3<<20, 5<<20),
		},
		{
			function: "gzip", example: "gzip", tenant: "archive", role: roleData, ratePerS: 1.5, deadline: 1500 * time.Millisecond, memoryMB: 192,
			objects: texts("logs/", 8, 1<<20, 3<<20), payload: func(*rand.Rand) string { return `{"level":1}` },
		},
		{
			function: "thumbnail", example: "thumbnail", tenant: "shop", role: roleLight, ratePerS: 1.5, deadline: time.Second, memoryMB: 192,
			objects: pictures("pictures/", 8, 900, 600), payload: func(*rand.Rand) string { return `{}` },
		},
		{
			function: "matmul", example: "matmul", tenant: "lab", role: roleLight, ratePerS: 8, memoryMB: 128,
			payload: func(rng *rand.Rand) string { return fmt.Sprintf(`{"n":%d}`, 40+rng.IntN(100)) },
		},
		{
			function: "htmlrender", example: "htmlrender", tenant: "shop", role: roleInit, ratePerS: 8, memoryMB: 192, payload: page,
		},
		{
			function: "score", example: "matmul", tenant: "shop", role: roleLight, ratePerS: 8, deadline: 500 * time.Millisecond, memoryMB: 128,
			payload: func(rng *rand.Rand) string { return fmt.Sprintf(`{"n":%d}`, 20+rng.IntN(60)) },
		},
	}
}

// texts are n text objects with sizes between lo and hi.
func texts(prefix string, n, lo, hi int) []objectSpec {
	var out []objectSpec
	for i := range n {
		size := lo + (hi-lo)*i/max(n-1, 1)
		seed := uint64(len(prefix)*1000 + i)
		out = append(out, objectSpec{key: fmt.Sprintf("%s%02d.txt", prefix, i), bytes: size, data: func() []byte {
			b := make([]byte, size)
			r := inputs.Text(seed, size)
			for n := 0; n < size; {
				k, err := r.Read(b[n:])
				if n += k; err != nil {
					break
				}
			}
			return b
		}})
	}
	return out
}

func pictures(prefix string, n, width, height int) []objectSpec {
	var out []objectSpec
	for i := range n {
		out = append(out, objectSpec{key: fmt.Sprintf("%s%02d.jpg", prefix, i), data: func() []byte {
			return inputs.JPEG(uint64(i), width, height)
		}})
	}
	return out
}

func page(rng *rand.Rand) string {
	s := "orders\n"
	for i := range 10 + rng.IntN(20) {
		s += fmt.Sprintf("item %d\t%d\n", i, rng.IntN(1000))
	}
	return s
}

// rampUp is how long the load takes from nothing to its full rate, linearly: a platform's load does not begin at its
// peak, and on one host the cold starts of all functions at once would queue for its cores and drown everything else.
const rampUp = 5 * time.Second

// arrivals draws a Poisson stream per function over dur, thinned while the load ramps up; every policy gets the same
// one. Calls knock at the zones in equal shares, objects are drawn by Zipf's law (exponent 0.9, between what blob traces show for hot and cold data).
func arrivals(loads []*load, zones int, dur time.Duration, seed uint64) []arrival {
	var out []arrival
	for i, l := range loads {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		var weights []float64
		sum := 0.0
		for k := range l.objects {
			sum += math.Pow(float64(k+1), -.9)
			weights = append(weights, sum)
		}
		// Which object is popular has nothing to do with its size.
		order := rng.Perm(len(l.objects))
		for t := rng.ExpFloat64() / l.ratePerS; t < dur.Seconds(); t += rng.ExpFloat64() / l.ratePerS {
			if rng.Float64()*rampUp.Seconds() > t {
				continue
			}
			a := arrival{at: time.Duration(t * float64(time.Second)), zone: rng.IntN(zones), load: l}
			if l.payload != nil {
				a.payload = l.payload(rng)
			}
			if len(weights) > 0 {
				x := rng.Float64() * sum
				a.input = l.objects[order[sort.SearchFloat64s(weights, x)]].key
			}
			out = append(out, a)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].at < out[j].at })
	return out
}

// Command matmul multiplies two seeded n x n matrices and answers a checksum of the product: the example of a
// function without data whose time its payload ({"n": n, "seed": s}) decides, with n cubed.
package main

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/aws/aws-lambda-go/lambda"
)

// maxN bounds the matrices: 2048 takes 100 MB and several seconds.
const maxN = 2048

// request is the payload.
type request struct {
	N    int    `json:"n"`
	Seed uint64 `json:"seed"`
}

// result is the function's answer.
type result struct {
	N        int     `json:"n"`
	Checksum float64 `json:"checksum"`
}

func main() { lambda.Start(handle) }

func handle(_ context.Context, req request) (*result, error) {
	if req.N < 1 || req.N > maxN {
		return nil, fmt.Errorf("matmul: n %d: want 1-%d", req.N, maxN)
	}
	rng := rand.New(rand.NewPCG(req.Seed, 1))
	a, b := matrix(rng, req.N), matrix(rng, req.N)
	sum := 0.
	for i, v := range multiply(a, b, req.N) {
		sum += v * float64(i%7+1)
	}
	return &result{N: req.N, Checksum: sum}, nil
}

func matrix(rng *rand.Rand, n int) []float64 {
	m := make([]float64, n*n)
	for i := range m {
		m[i] = rng.Float64()
	}
	return m
}

// multiply walks both factors along their rows, which is several times as fast as the textbook's order.
func multiply(a, b []float64, n int) []float64 {
	c := make([]float64, n*n)
	for i := range n {
		row := c[i*n : (i+1)*n]
		for k := range n {
			f, other := a[i*n+k], b[k*n:(k+1)*n]
			for j := range row {
				row[j] += f * other[j]
			}
		}
	}
	return c
}

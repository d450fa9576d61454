//go:build race

package lab

// underRace: what runs in one goroutine is left out.
const underRace = true

//go:build race

package lab

// underRace: one seed is enough to look for races, and ten times as slow.
const underRace = true

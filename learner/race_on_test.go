//go:build race

package learner

// raceOn: the race detector makes this package's single-goroutine arithmetic ten times slower and can find nothing there.
const raceOn = true

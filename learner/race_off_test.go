//go:build !race

package learner

const raceOn = false

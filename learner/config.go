package learner

import (
	"errors"
	"fmt"

	"github.com/rubato-faas/rubato/api"
)

// Limits of the learner. Everything that grows has one, so that a checkpoint stays below MaxCheckpointBytes.
const (
	// MaxWindow bounds Config.Window.
	MaxWindow = 16384
	// MaxTrees bounds Config.Trees, Config.ResidualTrees and Config.Pick, each.
	MaxTrees = 64
	// maxFunctions, maxNodes and maxPairs bound the tables of statistics; the oldest of a set of eight gives way.
	maxFunctions = 4096
	maxNodes     = 4096
	maxPairs     = 8192
	// maxHot bounds the functions that have a bound of their own; the others share the zone's.
	maxHot = 512
	// scoreRows is how many recent rows a tree is judged by when the zone picks its trees.
	scoreRows = 400
	// pickRows is how many rows a zone must have before it picks for itself; before, it takes the pool's first ones.
	pickRows = 50
)

// Config says how large the forest is. Replicas of one zone must have equal configs: a checkpoint of another
// config is refused.
type Config struct {
	// Seed decides every draw. Two learners with the same seed and the same records are equal, bit for bit.
	Seed uint64
	// Zone names where own trees come from in pools and scorecards.
	Zone string
	// Window is how many rows are kept to grow trees from (default 16384, at least 64). More remember longer and cost
	// 30 bytes a row; drift is handled by the horizons, not by a short window.
	Window int
	// Trees is the number of own base trees (default 32), ResidualTrees that of the second stage (default 16).
	// Cost of learning and of estimating is linear in both.
	Trees         int
	ResidualTrees int
	// Pick is how many base trees, of the pool's and the own, predict (default 32).
	Pick int
	// Regrow is after how many rows one tree is grown anew once the warm-up is over (default 48). Fewer follow
	// drift faster; each costs one tree's growth, about 2 ms with a full window.
	Regrow int
	// MinForest is how many samples a function must have before the forest speaks for it (default 20); below, averages do.
	MinForest int
}

// DefaultConfig is what a zone uses; Seed and Zone remain to be set.
func DefaultConfig() Config {
	return Config{Seed: 1, Zone: "local", Window: MaxWindow, Trees: 32, ResidualTrees: 16, Pick: 32, Regrow: 48, MinForest: 20}
}

// Validate reports every fault of c at once.
func (c Config) Validate() error {
	errs := []error{api.CheckName("zone", c.Zone)}
	within := func(name string, v, lo, hi int) {
		if v < lo || v > hi {
			errs = append(errs, fmt.Errorf("%w: %s %d: want %d-%d", api.ErrInvalid, name, v, lo, hi))
		}
	}
	within("window", c.Window, 64, MaxWindow)
	within("trees", c.Trees, 1, MaxTrees)
	within("residual trees", c.ResidualTrees, 0, MaxTrees)
	within("pick", c.Pick, 1, MaxTrees)
	within("regrow", c.Regrow, 1, max(c.Window*3/4, 1))
	within("min forest", c.MinForest, 1, 1000)
	return errors.Join(errs...)
}

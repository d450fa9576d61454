package learner

import (
	"errors"
	"fmt"
	"strings"

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
	// 44 bytes a row; drift is handled by the horizons, not by a short window.
	Window int
	// Trees is the number of own base trees (default 32), ResidualTrees that of the second stage (default 16).
	// Cost of learning and of estimating is linear in both.
	Trees         int
	ResidualTrees int
	// Pick is how many base trees, of the pool's and the own, predict (default 32).
	Pick int
	// Regrow is after how many rows one tree is grown anew once the warm-up is over (default 48), until SetRegrow says
	// otherwise. Fewer follow drift faster; each costs one tree's growth, about 2 ms with a full window.
	Regrow int
	// MinForest is how many samples a function must have before the forest speaks for it (default 20); below, averages do.
	MinForest int
	// Without leaves parts of the forest out, to measure what they are worth and to be what others have; zero for any other use.
	Without Parts
}

// Parts is a set of parts of the forest.
type Parts uint8

// The parts that can be left out.
const (
	// PartResidual is the second stage.
	PartResidual Parts = 1 << iota
	// PartOnlineLeaves lets leaves follow the samples between two growths of their tree.
	PartOnlineLeaves
	// PartHorizons lets slots look back over unlike spans and weighs them by error.
	PartHorizons
	// PartDrift starts half of the slots over after an abrupt drift.
	PartDrift
	// PartWarmUp grows all trees anew at short intervals while rows are few.
	PartWarmUp
	// PartGuard lets averages speak while the forest's errors are larger than theirs.
	PartGuard
)

// Ablations are the sets worth measuring: each part alone, and the first three together, which leaves a plain forest that is
// grown anew tree by tree.
var Ablations = []Parts{PartResidual, PartOnlineLeaves, PartHorizons, PartDrift, PartWarmUp, PartResidual | PartOnlineLeaves | PartHorizons}

func (p Parts) String() string {
	var names []string
	for i, name := range []string{"residual", "online_leaves", "horizons", "drift", "warm_up", "guard"} {
		if p>>i&1 == 1 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "_")
}

func (p Parts) has(part Parts) bool { return p&part != 0 }

// DefaultConfig is what a zone uses; Seed and Zone remain to be set.
func DefaultConfig() Config {
	return Config{Seed: 1, Zone: "local", Window: MaxWindow, Trees: 32, ResidualTrees: 16, Pick: 32, Regrow: 48, MinForest: 20}
}

// maxRegrow is how many rows may pass at most between a tree's beginning and its installation: it must still find the rows
// that it is grown from.
func (c Config) maxRegrow() int { return max(c.Window*3/4, 1) }

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
	within("regrow", c.Regrow, 1, c.maxRegrow())
	within("min forest", c.MinForest, 1, 1000)
	return errors.Join(errs...)
}

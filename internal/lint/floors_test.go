package lint

import (
	"path"
	"strings"
)

// place is where a package stands. Imports go strictly down.
type place struct {
	pattern string // path below the module, as path.Match takes it
	floor   int
}

const (
	floorNouns    = 0
	floorLearner  = 1
	floorCores    = 2
	floorAdapters = 3
	floorShells   = 4
	floorCluster  = 5
	floorCommands = 6
	floorTests    = 7
)

// floors is the table of ARCHITECTURE.md. A new package gets a line here, on the lowest floor that holds what it
// needs; the first match counts.
var floors = []place{
	{"test", floorTests}, {"test/*", floorTests},

	{"cmd/*", floorCommands},

	{"cluster", floorCluster}, {"bench", floorCluster}, {"sim/lab", floorCluster},

	{"zonesched/zoned", floorShells}, {"coordinator/globald", floorShells}, {"nodeagent/noded", floorShells}, {"sim", floorShells},

	{"messaging/natsbus", floorAdapters}, {"messaging/membus", floorAdapters},
	{"membership/etcdreg", floorAdapters}, {"membership/memreg", floorAdapters},
	{"sandbox/process", floorAdapters}, {"sandbox/wasm", floorAdapters}, {"sandbox/httpfn", floorAdapters}, {"sandbox/fake", floorAdapters},
	{"objectstore/jsstore", floorAdapters}, {"objectstore/s3store", floorAdapters}, {"objectstore/memstore", floorAdapters},
	{"coordinator/raftlog", floorAdapters}, {"zonesched/asyncq", floorAdapters},
	{"gateway", floorAdapters}, {"client", floorAdapters}, {"web", floorAdapters},
	{"sim/naive", floorAdapters}, // rules that fail, for the simulator

	{"zonesched", floorCores}, {"zonesched/policy", floorCores}, {"zonesched/takeover", floorCores},
	{"coordinator", floorCores}, {"coordinator/catalog", floorCores}, {"nodeagent", floorCores},
	{"messaging", floorCores}, {"membership", floorCores}, {"sandbox", floorCores}, {"objectstore", floorCores},
	{"sandbox/internal/*", floorCores}, // what several sandboxes share

	{"learner", floorLearner},

	{"api", floorNouns}, {"api/wire", floorNouns}, {"internal/*", floorNouns},
}

// beside lists the imports that are allowed although they do not go down: from, to, why.
var beside = [][3]string{
	{"api/wire", "api", "the encoding of the nouns"},
	{"zonesched", "zonesched/policy", "the core calls its own rule"},
	{"internal/daemon", "internal/conf", "it is what the mains have in common: flags and configuration"},
	{"internal/daemon", "internal/ops", "the same: logging and signals"},
	{"internal/etcdtest", "internal/freeport", "an etcd that is started again wants its port again"},
	{"zonesched", "zonesched/takeover", "the core's own state machine for taking over"},
	{"coordinator", "coordinator/catalog", "the planner reads the state that it plans over"},
	{"sandbox/internal/*", "sandbox", "what the sandboxes share speaks the port's types"},
	{"examples/functions", "api", "the list of demo functions, for those who deploy them; the functions beside it import nothing"},
	{"bench", "cluster", "the suites measure whole clusters"},
}

// never lists imports that the floors would allow: from, to, what to do instead, because.
var never = [][3]string{
	{"zonesched", "learner", "declare a Predictor and take each new forest as an event, because a replay must see the same forests"},
	{"zonesched/policy", "learner", "pass estimates in (api.Estimate), because cores share only api"},
	{"coordinator", "learner", "let globald call the merge on the leader, because cores share only api"},
	{"coordinator/catalog", "learner", "store manifests, not trees, because what is replicated must not depend on the learner's version"},
	{"nodeagent", "learner", "echo what the dispatch carried (api.Echo), because cores share only api"},
	{"sim", "messaging", "hand actions from core to core in virtual time, because a bus has goroutines and real time"},
	{"sim", "messaging/*", "hand actions from core to core in virtual time, because a bus has goroutines and real time"},
	{"sim", "membership/*", "feed epochs as events, because an election has goroutines and real time"},
	{"sim", "objectstore/*", "model fetches by size and link, because a store does I/O"},
	{"sim", "sandbox/process", "use sandbox/fake, because a simulation starts nothing real"},
	{"sim", "sandbox/wasm", "use sandbox/fake, because a simulation starts nothing real"},
	{"sim", "sandbox/httpfn", "use sandbox/fake, because a simulation starts nothing real"},
	{"sim", "coordinator/raftlog", "apply changes to the catalog directly, because raft has goroutines and real time"},
	{"sim", "gateway", "generate arrivals as events, because a front door does I/O"},
}

// pure lists the packages that are plain state machines or computations, without goroutines, clock or I/O.
var pure = []string{
	"zonesched", "zonesched/policy", "zonesched/takeover", "coordinator", "coordinator/catalog", "nodeagent", "learner",
}

// technology lists who may import a technology, so that it can be replaced in one place.
var technology = []struct {
	module string
	by     []string
}{
	{"go.etcd.io/etcd/client/v3", []string{"membership/etcdreg", "cluster", "cmd/*", "internal/etcdtest", "test", "test/*"}},
	{"github.com/nats-io/nats.go", []string{
		"messaging/natsbus", "objectstore/jsstore", "zonesched/asyncq", "cluster", "bench", "internal/natstest", "cmd/*", "test/*",
	}},
	{"github.com/hashicorp/raft", []string{"coordinator/raftlog"}},
	{"github.com/vmihailenco/msgpack/v5", []string{"api/wire", "learner", "coordinator/catalog"}},
}

// floorOf tells the floor of a package; -1 when the table does not know it.
func floorOf(pkg string) int {
	for _, p := range floors {
		if match(p.pattern, pkg) {
			return p.floor
		}
	}
	return -1
}

func match(pattern, pkg string) bool {
	ok, err := path.Match(pattern, pkg)
	if err != nil {
		panic(err) // a constant of this file
	}
	return ok
}

func matchAny(patterns []string, pkg string) bool {
	for _, p := range patterns {
		if match(p, pkg) {
			return true
		}
	}
	return false
}

// isHelper: packages named ...test, and those below them, hold what tests share. (test itself is the floor above all.)
func isHelper(pkg string) bool {
	for name := range strings.SplitSeq(pkg, "/") {
		if strings.HasSuffix(name, "test") && name != "test" {
			return true
		}
	}
	return false
}

// isBeside reports whether the import is on the list above.
func isBeside(from, to string) bool {
	for _, p := range beside {
		if match(p[0], from) && match(p[1], to) {
			return true
		}
	}
	return false
}

// isExample: programs of their own, written as a user of the system would.
func isExample(pkg string) bool { return pkg == "examples" || strings.HasPrefix(pkg, "examples/") }

// sharedExamples are the parts of the examples that demos, benchmarks and tests run.
var sharedExamples = []string{"examples/inputs", "examples/functions", "examples/functions/*"}

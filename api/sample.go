package api

import (
	"fmt"
	"hash/fnv"
	"math"
)

// Feature indexes one column of a row. The schema is fixed per SchemaEpoch; request-side features are equal for
// every candidate node of one call, node-side features are not. Bin 0 of every feature means "missing".
type Feature uint8

// The features. Durations enter as ln(milliseconds), bytes as log2(1+bytes).
const (
	// FnFast and FnSlow are exponentially weighted means of the function's ln run time (weights .2 and .02).
	FnFast Feature = iota
	FnSlow
	// FnSpread is the exponentially weighted mean absolute deviation from FnSlow, in ln units.
	FnSpread
	// FnCount is log2(1 + samples of the function).
	FnCount
	// FnColdGap is ln of (time to bring up a sandbox from nothing / run time).
	FnColdGap
	// FnSizeExponent is the function's slope of ln run time over log2 input bytes.
	FnSizeExponent
	InputSize
	PayloadSize
	MemoryMB
	RuntimeClass
	HourOfDay
	// NodeSandbox is the SandboxState that the call would find.
	NodeSandbox
	// NodeMissing is log2(1 + input bytes that the node would have to fetch).
	NodeMissing
	// NodeLoad is running calls over slots, this one not counted.
	NodeLoad
	// NodeLink is log2 of the node's link in Mbit/s.
	NodeLink
	// NodeClass is the hardware class (a small integer, unknown classes are missing).
	NodeClass
	// NodeResidual and FnNodeResidual are exponentially weighted means of ln(measured/predicted) on the node, and
	// of the function on the node.
	NodeResidual
	FnNodeResidual
	// NumFeatures is the width of a row.
	NumFeatures
)

// FirstNodeFeature is where the node side begins.
const FirstNodeFeature = NodeSandbox

var featureNames = [NumFeatures]string{
	"fn_fast", "fn_slow", "fn_spread", "fn_count", "fn_cold_gap", "fn_size_exponent", "input_size", "payload_size",
	"memory_mb", "runtime", "hour", "sandbox", "missing_bytes", "node_load", "node_link", "node_class",
	"node_residual", "fn_node_residual",
}

func (f Feature) String() string {
	if f < NumFeatures {
		return featureNames[f]
	}
	return fmt.Sprintf("feature(%d)", uint8(f))
}

// MaxBins is the number of bins of a feature, bin 0 ("missing") included.
const MaxBins = 64

// Bins is one quantised row.
type Bins [NumFeatures]uint8

// hardwareClasses is how many classes are told apart.
const hardwareClasses = 61

// MaxPrice bounds the price of a slot for an hour; MaxEnergyClass is the class of those that take the most energy.
const (
	MaxPrice       = 1e6
	MaxEnergyClass = 7
)

// HardwareClass numbers a class of hardware by its name, the same everywhere and without anybody being asked: 1-61, 0 for no
// name. Names whose numbers collide (of ten classes, with a probability of one half) share what is learned of them; the
// residuals of their nodes still tell them apart.
func HardwareClass(name string) uint8 {
	if name == "" {
		return 0
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	return uint8(1 + h.Sum32()%hardwareClasses)
}

// Request is the request side of a prediction.
type Request struct {
	// Function is "tenant/name": statistics outlive a version.
	Function     string
	Runtime      Runtime
	MemoryMB     int
	InputBytes   int64
	PayloadBytes int64
	Hour         int // 0-23, of the zone's local time
	// Alpha is the share of calls that may run past the bound (see Objective.Alpha).
	Alpha float64
	// Call and Attempt say which dispatch is asked about. No feature is made of them: they are for a predictor that is told the
	// truth, to measure how much better than a learned one it is.
	Call    string
	Attempt uint8
}

// Candidate is the node side of a prediction: a node as it will be when the call would start there.
type Candidate struct {
	Node         string
	Class        uint8 // hardware class (see HardwareClass), 0 = unknown
	Sandbox      SandboxState
	MissingBytes int64
	Running      int
	Slots        int
	LinkMbps     float64
	// Delayed says that the call would be held back for this node: its bound is calibrated separately.
	Delayed bool
	// Columns are what the predictor that is asked made of Node, Class and LinkMbps; nil: it finds them out.
	Columns *NodeColumns
}

// NodeColumns are a node's features that do not depend on the call, quantised. Who keeps nodes keeps them too, one set a node,
// so that a decision does not quantise each candidate anew. They hold for one predictor, one class and one link; the next predictor may
// take over what Key says that it would make alike.
type NodeColumns struct {
	// Key stands for what all but Residual was made with: equal keys make equal ones of equal nodes. 0: nothing was made yet.
	Key uint64
	// Hash of the node's name, under which the predictor knows it.
	Hash uint64
	// Bins of NodeClass, NodeLink and NodeResidual.
	Class, Link, Residual uint8
}

// Source says what an estimate rests on.
type Source uint8

const (
	// SourceNone: nothing is known; Median is a guess that only keeps arithmetic finite.
	SourceNone Source = iota
	// SourceAverages: averages per function, sandbox state and data state.
	SourceAverages
	// SourceForest: the random forest.
	SourceForest
)

func (s Source) String() string {
	switch s {
	case SourceForest:
		return "forest"
	case SourceAverages:
		return "averages"
	default:
		return "none"
	}
}

// Estimate is what a Predictor says of one candidate's execution time (fetch + init + run).
type Estimate struct {
	// Mu and Sigma describe ln(milliseconds): median exp(Mu), spread Sigma.
	Mu, Sigma float64
	// UpperMs is the calibrated bound at the request's alpha, in milliseconds; +Inf means "do not wait under a deadline".
	UpperMs float64
	// AveragesMu is what averages alone say, in ln ms: the forest predicts the difference.
	AveragesMu float64
	Source     Source
	// Grid is the epoch of the grid that Bins is on.
	Grid uint32
	// Bins is the row that produced the estimate; a dispatch carries it so that the sample learns what was known.
	Bins Bins
}

// MedianMs is the predicted execution time in milliseconds.
func (e *Estimate) MedianMs() float64 { return math.Exp(e.Mu) }

// DecisionKind says what the zone did with a call.
type DecisionKind uint8

// The kinds; see the vocabulary in ARCHITECTURE.md.
const (
	DecisionRun DecisionKind = iota
	DecisionDelayed
	DecisionQueued
	DecisionForwarded
	DecisionRefused
)

var decisionKinds = [...]string{"run", "delayed", "queued", "forwarded", "refused"}

func (k DecisionKind) String() string {
	if int(k) < len(decisionKinds) {
		return decisionKinds[k]
	}
	return fmt.Sprintf("decision(%d)", uint8(k))
}

// Echo is what a dispatch carries for its sample and the completion brings back unchanged, so that no join dies
// with a leader and nothing that was known only afterwards leaks into the features.
type Echo struct {
	Function     string       `msgpack:"f"`
	Runtime      Runtime      `msgpack:"rt"`
	Node         string       `msgpack:"n"`
	Bins         []byte       `msgpack:"b"` // NumFeatures long
	SchemaEpoch  uint32       `msgpack:"se"`
	Grid         uint32       `msgpack:"g,omitempty"` // epoch of the grid that Bins is on
	ModelVersion uint64       `msgpack:"mv"`
	Mu           float64      `msgpack:"mu"`
	AveragesMu   float64      `msgpack:"am,omitempty"`
	Sigma        float64      `msgpack:"sg"`
	UpperMs      float64      `msgpack:"u"`
	Alpha        float64      `msgpack:"al"`
	Source       Source       `msgpack:"s"`
	Kind         DecisionKind `msgpack:"k"`
	Sandbox      SandboxState `msgpack:"sb"` // as assumed when deciding
	MissingBytes int64        `msgpack:"mb"` // as assumed when deciding
	InputBytes   int64        `msgpack:"ib"`
	LinkMbps     float64      `msgpack:"lm,omitempty"` // of the node; 0: no limit
	Propensity   float64      `msgpack:"pp"`
	PricePerHour float64      `msgpack:"ph,omitempty"` // of a slot of the node, in the operator's unit
	EnergyClass  uint8        `msgpack:"ec,omitempty"` // of the node, 0: unknown
}

// Outcome says how an execution ended.
type Outcome uint8

// The outcomes. Timeout and Crash count as misses of the bound.
const (
	OutcomeOK Outcome = iota
	OutcomeFunctionError
	OutcomeTimeout
	OutcomeCrash
	OutcomeCanceled
	OutcomeRefused
	OutcomeInternal
)

var outcomes = [...]string{"ok", "function_error", "timeout", "crash", "canceled", "refused", "internal"}

func (o Outcome) String() string {
	if int(o) < len(outcomes) {
		return outcomes[o]
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// Sample is one completion as the learner sees it.
type Sample struct {
	Echo    Echo    `msgpack:"e"`
	Outcome Outcome `msgpack:"o"`
	FetchMs float64 `msgpack:"fe"`
	InitMs  float64 `msgpack:"in"`
	RunMs   float64 `msgpack:"ru"`
}

// ExecMs is the label: what the node spent on the call, in milliseconds.
func (s *Sample) ExecMs() float64 { return s.FetchMs + s.InitMs + s.RunMs }

// Usable reports whether the sample can be learned: it ran, its label is a positive finite number and its row has
// the right width.
func (s *Sample) Usable() bool {
	ms := s.ExecMs()
	return len(s.Echo.Bins) == int(NumFeatures) && ms > 0 && !math.IsInf(ms, 0) && !math.IsNaN(ms) &&
		s.Outcome != OutcomeCanceled && s.Outcome != OutcomeRefused && s.Outcome != OutcomeInternal
}

// SchemaEpoch is the feature schema that this program computes rows for. Rows of another feed averages, not the forest.
// 2: trees learn ln(measured/averages), so a row needs the averages that went with it.
const SchemaEpoch = 2

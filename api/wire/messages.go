package wire

import "github.com/rubato-faas/rubato/api"

// Limits of lists inside messages. Senders keep to them; MaxMessageBytes holds whatever is sent.
const (
	MaxBatch     = 128   // samples in one batch
	MaxSandboxes = 1024  // sandboxes that a node reports
	MaxObjects   = 2048  // objects that a node reports
	MaxRunning   = 4096  // running calls that a node reports
	MaxChanges   = 256   // catalogue entries in one answer
	MaxAcks      = 1024  // completions acknowledged at once
	MaxTrees     = 1024  // digests in one model announcement
	MaxMessage   = 2_000 // characters of an error message
)

// Run dispatches one call from a zone's leader to a node.
type Run struct {
	Epoch api.Epoch `msgpack:"e"`
	// Seq counts the leader's dispatches to this node: a node's report says up to which it has seen.
	Seq  uint64         `msgpack:"s"`
	Call api.Invocation `msgpack:"c"`
	Fn   api.Function   `msgpack:"f"`
	// TimeoutMs is what is left for the node: after it the call is stopped.
	TimeoutMs int64    `msgpack:"t"`
	Echo      api.Echo `msgpack:"x"`
	// Prewarm: bring up a sandbox and run nothing. It goes over a subject of its own, so that a node that does not know it
	// cannot take it for a call.
	Prewarm bool `msgpack:"pw,omitempty"`
	// KeepMs is how long the sandbox is worth keeping once it is idle; the node may drop it earlier. 0: as long as it likes.
	KeepMs int64 `msgpack:"ka,omitempty"`
	// Evict names functions (Function.Key) whose idle sandboxes, one for each entry, go first if memory is short: the zone knows
	// better than the node which will be missed. Without it, and for what it does not suffice, the longest idle one goes.
	Evict []string `msgpack:"ev,omitempty"`
}

// MaxEvict bounds Run.Evict; a node ignores what is beyond.
const MaxEvict = 64

// SandboxReport is what a node holds of one function version.
type SandboxReport struct {
	Function string           `msgpack:"f" json:"function"` // Function.Key
	State    api.SandboxState `msgpack:"s" json:"state"`    // of what is not warm: none, fetched or prepared
	Idle     int              `msgpack:"i" json:"idle"`
	Busy     int              `msgpack:"b" json:"busy"`
	MemoryMB int              `msgpack:"m" json:"memory_mb"` // of one sandbox
	// IdleMs is how long the longest idle one has not been used: the next to be evicted has the largest.
	IdleMs int64 `msgpack:"im" json:"idle_ms"`
}

// Completion ends one dispatch: it ran, failed, or was refused.
type Completion struct {
	Epoch   api.Epoch   `msgpack:"e"` // of the dispatch; of the node when that fenced it
	Node    string      `msgpack:"n"`
	Boot    uint64      `msgpack:"b"` // the node's incarnation
	ID      string      `msgpack:"i"`
	Attempt uint8       `msgpack:"a"`
	Seq     uint64      `msgpack:"s"` // of the dispatch
	Outcome api.Outcome `msgpack:"o"`
	Code    api.Code    `msgpack:"c"`
	Message string      `msgpack:"m"`

	Result    []byte `msgpack:"r"`
	ResultRef string `msgpack:"rr"` // object key of a result above InlineBytes

	FetchMs      float64          `msgpack:"fe"`
	InitMs       float64          `msgpack:"in"`
	RunMs        float64          `msgpack:"ru"`
	FetchedBytes int64            `msgpack:"fb"`
	Start        api.SandboxState `msgpack:"st"` // how the sandbox was found
	Echo         api.Echo         `msgpack:"x"`

	// What changed on the node, so that the zone need not wait for a heartbeat.
	Sandboxes  []SandboxReport `msgpack:"sb"`
	Objects    []api.Object    `msgpack:"ob"` // now cached, LocalityBytes or more
	Evicted    []string        `msgpack:"ev"` // object keys no longer cached
	MemUsedMB  int             `msgpack:"mu"`
	Resent     bool            `msgpack:"re"`
	SlotsInUse int             `msgpack:"sl"`
	// SeenSeq is the highest dispatch of Epoch that the node had seen when it said all this; 0 from nodes that do
	// not tell, and of an epoch that is not theirs any more.
	SeenSeq uint64 `msgpack:"ss,omitempty"`
}

// RunningReport is one call that a node is working on.
type RunningReport struct {
	ID       string `msgpack:"i"`
	Function string `msgpack:"f"` // Function.Key
	Elapsed  int64  `msgpack:"e"` // ms
	Attempt  uint8  `msgpack:"a"`
}

// Heartbeat is a node's whole soft state.
type Heartbeat struct {
	Zone  string    `msgpack:"z" json:"zone"`
	Node  string    `msgpack:"n" json:"node"`
	Boot  uint64    `msgpack:"b" json:"boot"`
	Epoch api.Epoch `msgpack:"e" json:"epoch"`
	// SeenSeq is the highest dispatch seen of the present epoch.
	SeenSeq uint64 `msgpack:"s" json:"seen_seq"`
	Slots   int    `msgpack:"sl" json:"slots"`
	MemMB   int    `msgpack:"m" json:"mem_mb"`
	// Cores are what the slots share; 0, as from older nodes: each has its own.
	Cores     float64 `msgpack:"co,omitempty" json:"cores,omitempty"`
	MemUsedMB int     `msgpack:"mu" json:"mem_used_mb"`
	LinkMbps  float64 `msgpack:"l" json:"link_mbps"`
	Class     uint8   `msgpack:"c" json:"class"`
	// ClassName is what Class was made of.
	ClassName    string  `msgpack:"cn,omitempty" json:"class_name,omitempty"`
	PricePerHour float64 `msgpack:"ph,omitempty" json:"price_per_hour,omitempty"`
	EnergyClass  uint8   `msgpack:"ec,omitempty" json:"energy_class,omitempty"`
	// Labels are what functions may need of the node. A zone takes a node whose labels are not valid for one that has none.
	Labels api.Labels `msgpack:"lb,omitempty" json:"labels,omitzero"`
	// UptimeMs is the age of the node's process; 0, from older nodes, is not known.
	UptimeMs  int64           `msgpack:"up,omitempty" json:"uptime_ms,omitempty"`
	Isolation string          `msgpack:"is" json:"isolation"`
	Draining  bool            `msgpack:"d" json:"draining"`
	Unacked   int             `msgpack:"u" json:"unacked"`
	Running   []RunningReport `msgpack:"r" json:"-"`
	Sandboxes []SandboxReport `msgpack:"sb" json:"sandboxes"`
	Objects   []api.Object    `msgpack:"o" json:"objects"`
	// Counters since boot.
	CacheBytes int64 `msgpack:"cb" json:"cache_bytes"`
	// CacheMax is what CacheBytes may come to; 0 from older nodes.
	CacheMax     int64  `msgpack:"cx,omitempty" json:"cache_max,omitempty"`
	FetchedBytes int64  `msgpack:"fb" json:"fetched_bytes"`
	ColdStarts   uint64 `msgpack:"cs" json:"cold_starts"`
	Calls        uint64 `msgpack:"ca" json:"calls"`
	// Flushed counts carried-out Flush messages.
	Flushed uint64 `msgpack:"fl" json:"flushed"`
}

// Hello is a leader's first word under an epoch. Nodes persist the epoch, then report; the zone's other schedulers learn
// who leads though they cannot reach etcd.
type Hello struct {
	Epoch  api.Epoch `msgpack:"e"`
	Leader string    `msgpack:"l"`
	// Since is the epoch under which it began to lead; zero, from older schedulers, is Epoch.
	Since api.Epoch `msgpack:"s"`
}

// Ack tells a node that completions arrived, so that it may forget them.
type Ack struct {
	Epoch api.Epoch `msgpack:"e"`
	IDs   []string  `msgpack:"i"`
}

// Cancel stops a call on a node.
type Cancel struct {
	Epoch api.Epoch `msgpack:"e"`
	ID    string    `msgpack:"i"`
	// Left: nobody asked for the call's end, one who waited for it went away. Others may wait, too.
	Left bool `msgpack:"lf,omitempty"`
}

// Flush empties a node's sandboxes, object cache and prepared artifacts (an operator's or a benchmark's wish).
type Flush struct {
	Epoch api.Epoch `msgpack:"e"`
}

// Invoke carries a call to a leader: from its own follower's door, or from another zone under a grant.
type Invoke struct {
	Call api.Invocation `msgpack:"c"`
	// GrantEpoch and GrantID name the grant under which another zone sends; empty from the own zone's doors.
	GrantEpoch api.Epoch `msgpack:"ge"`
	GrantID    uint64    `msgpack:"g"`
}

// Answer is the reply to Invoke, and the terminal record of an asynchronous call.
type Answer struct {
	ID        string   `msgpack:"i" json:"id"`
	Code      api.Code `msgpack:"c" json:"code"`
	Message   string   `msgpack:"m" json:"message,omitempty"`
	RetryMs   int64    `msgpack:"ra" json:"retry_ms,omitempty"`
	Result    []byte   `msgpack:"r" json:"result,omitempty"`
	ResultRef string   `msgpack:"rr" json:"result_ref,omitempty"`
	// Refused: the receiver did not take the call at all; the sender still owns it.
	Refused bool   `msgpack:"rf" json:"-"`
	Timing  Timing `msgpack:"t" json:"timing"`
}

// Timing is what callers see in Server-Timing and the X- headers.
type Timing struct {
	QueueMs      float64          `msgpack:"q" json:"queue_ms"`
	DelayMs      float64          `msgpack:"d" json:"delay_ms"`
	FetchMs      float64          `msgpack:"f" json:"fetch_ms"`
	InitMs       float64          `msgpack:"i" json:"init_ms"`
	NetMs        float64          `msgpack:"n" json:"net_ms"`
	RunMs        float64          `msgpack:"r" json:"run_ms"`
	FetchedBytes int64            `msgpack:"fb" json:"fetched_bytes"`
	Start        api.SandboxState `msgpack:"s" json:"-"`
	Zone         string           `msgpack:"z" json:"zone"`
	Node         string           `msgpack:"no" json:"node"`
	Decision     api.DecisionKind `msgpack:"k" json:"-"`
	Source       api.Source       `msgpack:"so" json:"-"`
	ModelVersion uint64           `msgpack:"mv" json:"model_version"`
	Version      uint64           `msgpack:"v" json:"version"`
	Missed       bool             `msgpack:"mi" json:"missed"`
}

// Record is one entry of a zone's sample stream: a sample, or a change of the pool.
type Record struct {
	Sample *api.Sample `msgpack:"s,omitempty"`
	// Adopt names the pool manifest (version, digest) from which on everybody predicts.
	AdoptVersion uint64 `msgpack:"av,omitempty"`
	AdoptDigest  string `msgpack:"ad,omitempty"`
	// Regrow, if not zero, is after how many samples a tree is grown anew from here on.
	Regrow int `msgpack:"rg,omitempty"`
}

// Batch is a run of records of the zone's sample stream: First, First+1, ...
type Batch struct {
	Zone    string    `msgpack:"z"`
	Epoch   api.Epoch `msgpack:"e"`
	First   uint64    `msgpack:"f"`
	Records []Record  `msgpack:"r"`
}

// Checkpoint answers a standby's wish for the leader's learner: the object store's key of its bytes.
type Checkpoint struct {
	Seq    uint64   `msgpack:"s"`
	Key    string   `msgpack:"k"`
	Digest string   `msgpack:"d"`
	Code   api.Code `msgpack:"c"`
}

// ModelUpdate offers a zone's new trees and scorecard to the coordinator.
type ModelUpdate struct {
	Zone  string    `msgpack:"z"`
	Epoch api.Epoch `msgpack:"e"`
	Seq   uint64    `msgpack:"s"` // of the zone's sample stream; (Epoch, Seq) orders a zone's updates
	Trees []string  `msgpack:"t"` // digests of tree objects
	Card  string    `msgpack:"c"` // digest of the scorecard object
}

// Announce tells the zones what the coordinator decided: the pool's manifest, the shares, the catalogue's revision.
type Announce struct {
	CatalogRev     uint64      `msgpack:"cr"`
	PoolVersion    uint64      `msgpack:"pv"`
	PoolDigest     string      `msgpack:"pd"`
	Shares         []api.Share `msgpack:"sh"`
	CoordinatorSeq uint64      `msgpack:"s"`
}

// Grant is a receiving zone's promise of room.
type Grant struct {
	ID    uint64    `msgpack:"i"`
	From  string    `msgpack:"f"` // the receiving zone: the one that gives
	To    string    `msgpack:"t"` // the zone that may send
	Epoch api.Epoch `msgpack:"e"`
	Slots int       `msgpack:"s"`
	TTLMs int64     `msgpack:"tt"`
	// Load and MeanMs let the sender predict what awaits its calls there.
	Load   float64 `msgpack:"l"`
	MeanMs float64 `msgpack:"m"`
}

// Control asks the coordinator to change the catalogue; Reply tells what came of it.
type Control struct {
	RequestID string `msgpack:"r"`
	Command   []byte `msgpack:"c"` // catalog.Command, encoded
}

// Reply answers Control.
type Reply struct {
	Code     api.Code `msgpack:"c"`
	Message  string   `msgpack:"m"`
	Version  uint64   `msgpack:"v"`
	Revision uint64   `msgpack:"r"`
}

// CatalogPull asks for what changed since a revision; CatalogChanges answers.
type CatalogPull struct {
	Since uint64 `msgpack:"s"`
	Zone  string `msgpack:"z"`
}

// CatalogChanges carries functions changed after Since, tombstones included, and the revision reached.
type CatalogChanges struct {
	Rev       uint64         `msgpack:"r"`
	More      bool           `msgpack:"m"`
	Functions []api.Function `msgpack:"f"`
	Deleted   []string       `msgpack:"d"` // function ids "tenant/name" removed
	Code      api.Code       `msgpack:"c"`
	// Policy are the policy settings of all zones, if they changed after Since: PolicyRev is not 0 then.
	Policy    map[string]string `msgpack:"p,omitempty"`
	PolicyRev uint64            `msgpack:"pr,omitempty"`
}

// Query asks a zone's leader for a look at its state, or for a checkpoint of its learner, and the coordinator for its status;
// QueryReply answers, a Checkpoint in the second case.
type Query struct {
	Kind string `msgpack:"k"`
	Arg  string `msgpack:"a"`
	// TakesZip: who asks reads compressed answers.
	TakesZip bool `msgpack:"z,omitempty"`
}

// QueryReply is what people look at, as JSON of the answering program: readers skip members that they do not know.
type QueryReply struct {
	Code    api.Code `msgpack:"c"`
	Message string   `msgpack:"m"`
	Data    []byte   `msgpack:"d"` // read it by JSON
	// Zipped: Data is gzip.
	Zipped bool `msgpack:"z,omitempty"`
}

// LogsPull asks a node for captured output; Logs answers.
type LogsPull struct {
	Function string `msgpack:"f"` // "tenant/name"
	Last     int    `msgpack:"l"`
}

// LogLine is the output of one call.
type LogLine struct {
	ID     string `msgpack:"i" json:"id"`
	Node   string `msgpack:"n" json:"node"`
	UnixMs int64  `msgpack:"u" json:"unix_ms"`
	Text   string `msgpack:"t" json:"text"`
}

// Logs answers LogsPull.
type Logs struct {
	Lines []LogLine `msgpack:"l" json:"lines"`
}

package nodeagent

import (
	"fmt"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// EventKind tags an Event.
type EventKind uint8

// The events; each names the fields of Event that it uses.
const (
	// EvRun: a dispatch arrived. Run.
	EvRun EventKind = iota
	// EvHello: a leader introduced itself. Epoch.
	EvHello
	// EvFetched: ActFetch ended. Key, Err, and with it Outcome and Code (none: the node's own fault).
	EvFetched
	// EvArtifact: ActFetchArtifact ended. Digest, Err, Outcome, Code likewise.
	EvArtifact
	// EvPrepared: ActPrepare ended. Digest, Err, Outcome, Code likewise.
	EvPrepared
	// EvStarted: ActStart ended. Sandbox, Err, Outcome (Crash or Internal when Err is set).
	EvStarted
	// EvExecuted: ActExec ended. ID, Sandbox, Outcome, Code, Err (message), Result, Broken, Took.
	EvExecuted
	// EvCancel: the zone wants a call stopped. ID, Epoch.
	EvCancel
	// EvDeadline: a time asked for by ActDeadline has come. ID, Gen.
	EvDeadline
	// EvAck: the zone has these completions. IDs.
	EvAck
	// EvFlush: empty all caches.
	EvFlush
	// EvDrain: take no more calls.
	EvDrain
	// EvTick: about twice a second, for reports and re-sending.
	EvTick
)

var eventNames = [...]string{
	"run", "hello", "fetched", "artifact", "prepared", "started", "executed", "cancel", "deadline", "ack", "flush", "drain", "tick",
}

// Event is one input of Step.
type Event struct {
	Kind    EventKind
	ID      string
	Gen     uint32
	Key     string
	Digest  string
	Sandbox uint64
	Epoch   api.Epoch
	Run     *wire.Run
	IDs     []string
	Err     string // empty: no error
	Outcome api.Outcome
	Code    api.Code
	Result  []byte
	Ref     string
	Broken  bool
	Took    time.Duration
}

// fault is whose fault an Err is, and how the calls end that needed it.
func (e *Event) fault() (api.Outcome, api.Code) {
	if e.Outcome == api.OutcomeOK {
		return api.OutcomeInternal, api.CodeUnavailable
	}
	return e.Outcome, e.Code
}

func (e *Event) String() string {
	name := fmt.Sprintf("event(%d)", e.Kind)
	if int(e.Kind) < len(eventNames) {
		name = eventNames[e.Kind]
	}
	switch e.Kind {
	case EvRun:
		return fmt.Sprintf("%s %s %s epoch=%v", name, e.Run.Call.ID, e.Run.Fn.Key(), e.Run.Epoch)
	case EvExecuted:
		return fmt.Sprintf("%s %s %v", name, e.ID, e.Outcome)
	case EvFetched:
		return fmt.Sprintf("%s %s %s", name, e.Key, e.Err)
	case EvStarted:
		return fmt.Sprintf("%s #%d %s", name, e.Sandbox, e.Err)
	case EvHello:
		return fmt.Sprintf("%s %v", name, e.Epoch)
	}
	return name
}

// ActionKind tags an Action.
type ActionKind uint8

// The actions; each names the fields of Action that it uses.
const (
	// ActPersistEpoch: put Epoch on disk before the next action is carried out.
	ActPersistEpoch ActionKind = iota
	// ActFetch: bring the object Key (Bytes long) into the cache; give EvFetched.
	ActFetch
	// ActFetchArtifact: bring the artifact of Fn onto the node; give EvArtifact.
	ActFetchArtifact
	// ActPrepare: prepare the artifact of Fn, for Run; give EvPrepared.
	ActPrepare
	// ActStart: start sandbox Sandbox of Fn, for Run; give EvStarted.
	ActStart
	// ActExec: run ID (Run) in Sandbox until ActStop or its end; give EvExecuted.
	ActExec
	// ActStop: end the running ID in Sandbox (Outcome says why); EvExecuted still comes.
	ActStop
	// ActClose: close sandbox Sandbox.
	ActClose
	// ActDropObject: delete the cached object Key.
	ActDropObject
	// ActDropArtifact: delete artifact Digest and what was prepared from it.
	ActDropArtifact
	// ActDeadline: give EvDeadline{ID, Gen} at At.
	ActDeadline
	// ActComplete: send Completion to the zone.
	ActComplete
	// ActReport: send a heartbeat.
	ActReport
)

var actionNames = [...]string{
	"persist_epoch", "fetch", "fetch_artifact", "prepare", "start", "exec", "stop", "close", "drop_object", "drop_artifact",
	"deadline", "complete", "report",
}

// Action is one output of Step.
type Action struct {
	Kind       ActionKind
	ID         string
	Gen        uint32
	Key        string
	Bytes      int64
	Digest     string
	Sandbox    uint64
	Epoch      api.Epoch
	At         time.Time
	Fn         *api.Function
	Run        *wire.Run
	Outcome    api.Outcome
	Completion *wire.Completion
}

func (a *Action) String() string {
	name := fmt.Sprintf("action(%d)", a.Kind)
	if int(a.Kind) < len(actionNames) {
		name = actionNames[a.Kind]
	}
	switch a.Kind {
	case ActFetch, ActDropObject:
		return fmt.Sprintf("%s %s", name, a.Key)
	case ActStart, ActClose:
		return fmt.Sprintf("%s #%d", name, a.Sandbox)
	case ActExec, ActStop:
		return fmt.Sprintf("%s %s #%d", name, a.ID, a.Sandbox)
	case ActComplete:
		return fmt.Sprintf("%s %s %v code=%q", name, a.Completion.ID, a.Completion.Outcome, a.Completion.Code)
	case ActPersistEpoch:
		return fmt.Sprintf("%s %v", name, a.Epoch)
	}
	return name
}

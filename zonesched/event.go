package zonesched

import (
	"fmt"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

// EventKind tags an Event.
type EventKind uint8

// The events; each names the fields of Event that it uses.
const (
	// EvArrive: a call was accepted at a door or came from another zone. Call, Grant* of Invoke when forwarded.
	EvArrive EventKind = iota
	// EvCompletion: a node ended a dispatch. Completion.
	EvCompletion
	// EvHeartbeat: a node reported. Heartbeat.
	EvHeartbeat
	// EvWake: a time asked for by ActWake has come. ID, Gen.
	EvWake
	// EvTick: about four times a second, for liveness and grants.
	EvTick
	// EvCancel: the caller went away or asked for it. ID, Reason.
	EvCancel
	// EvForwardDone: the zone that a call was forwarded to answered, or refused it. ID, Answer.
	EvForwardDone
	// EvModel: a new model was published. Predictor.
	EvModel
	// EvFunctions: the catalogue changed. Functions, Deleted.
	EvFunctions
	// EvLead: this scheduler leads from now on, or goes on leading under a higher epoch. Epoch.
	EvLead
	// EvShares: the coordinator's table of shares. Shares.
	EvShares
	// EvGrant: another zone grants us room. Grant.
	EvGrant
	// EvPolicy: an operator's settings changed; these are all of them. PolicyName, PolicyConfig, Mode (zero: the
	// configuration's), Modes.
	EvPolicy
	// EvPrewarm: sandboxes of a function are wanted now, as many as there is room for. ID ("tenant/name"), Count.
	EvPrewarm
	// EvUnsent: a dispatch could not be sent. Completion: ID, Node, Attempt, Message.
	EvUnsent
)

var eventNames = [...]string{
	"arrive", "completion", "heartbeat", "wake", "tick", "cancel", "forward_done", "model", "functions", "lead",
	"shares", "grant", "policy", "prewarm", "unsent",
}

// Event is one input of Step. It is passed by pointer and not kept; what it points to is kept and must not change.
type Event struct {
	Kind       EventKind
	ID         string
	Gen        uint32
	Reason     string
	Count      int
	Call       *api.Invocation
	GrantID    uint64
	GrantEpoch api.Epoch
	Completion *wire.Completion
	Heartbeat  *wire.Heartbeat
	Answer     *wire.Answer
	Predictor  Predictor
	Functions  []api.Function
	Deleted    []string
	Epoch      api.Epoch
	Shares     []api.Share
	Grant      *wire.Grant

	PolicyName   string
	PolicyConfig policy.Config
	Mode         Mode
	Modes        map[string]Mode // by "tenant/name"
}

func (e *Event) String() string {
	name := fmt.Sprintf("event(%d)", e.Kind)
	if int(e.Kind) < len(eventNames) {
		name = eventNames[e.Kind]
	}
	switch e.Kind {
	case EvArrive:
		return fmt.Sprintf("%s %s %s", name, e.Call.ID, e.Call.FunctionID())
	case EvCompletion:
		return fmt.Sprintf("%s %s on %s: %v", name, e.Completion.ID, e.Completion.Node, e.Completion.Outcome)
	case EvUnsent:
		return fmt.Sprintf("%s %s to %s: %s", name, e.Completion.ID, e.Completion.Node, e.Completion.Message)
	case EvHeartbeat:
		return fmt.Sprintf("%s %s seen=%d running=%d", name, e.Heartbeat.Node, e.Heartbeat.SeenSeq, len(e.Heartbeat.Running))
	case EvWake:
		return fmt.Sprintf("%s %s gen=%d", name, e.ID, e.Gen)
	case EvCancel:
		return fmt.Sprintf("%s %s: %s", name, e.ID, e.Reason)
	case EvForwardDone:
		return fmt.Sprintf("%s %s code=%q refused=%v", name, e.ID, e.Answer.Code, e.Answer.Refused)
	case EvLead:
		return fmt.Sprintf("%s epoch=%v", name, e.Epoch)
	case EvFunctions:
		return fmt.Sprintf("%s changed=%d deleted=%d", name, len(e.Functions), len(e.Deleted))
	case EvGrant:
		return fmt.Sprintf("%s from %s slots=%d", name, e.Grant.From, e.Grant.Slots)
	case EvPrewarm:
		return fmt.Sprintf("%s %s count=%d", name, e.ID, e.Count)
	case EvPolicy:
		return fmt.Sprintf("%s %s mode=%q functions=%d", name, e.PolicyName, e.Mode, len(e.Modes))
	}
	return name
}

// ActionKind tags an Action.
type ActionKind uint8

// The actions; each names the fields of Action that it uses.
const (
	// ActRun: send Run to Node.
	ActRun ActionKind = iota
	// ActWake: give EvWake{ID, Gen} at At. A later one for the same ID replaces it.
	ActWake
	// ActAnswer: the call has ended; Answer goes to whoever waits for it. Exactly one per accepted call.
	ActAnswer
	// ActCancelRun: tell Node to stop ID.
	ActCancelRun
	// ActCancelForward: tell zone To, which works on ID, that nobody waits for it.
	ActCancelForward
	// ActAck: tell Node that its completion of ID arrived.
	ActAck
	// ActSample: append Sample to the zone's sample stream.
	ActSample
	// ActForward: send Call to zone To under the grant; give EvForwardDone with its answer.
	ActForward
	// ActGrant: tell zone To what it is granted.
	ActGrant
	// ActHello: tell all nodes the new epoch and ask them to report.
	ActHello
	// ActNodeLost: Node is taken for dead (for logs and metrics).
	ActNodeLost
	// ActFenced: nodes have seen Epoch, which is above the own one: another scheduler leads.
	ActFenced
)

var actionNames = [...]string{"run", "wake", "answer", "cancel_run", "cancel_forward", "ack", "sample", "forward", "grant", "hello", "node_lost", "fenced"}

// Action is one output of Step.
type Action struct {
	Kind    ActionKind
	ID      string
	Gen     uint32
	Node    string
	To      string
	At      time.Time
	Run     *wire.Run
	Answer  *wire.Answer
	Sample  *api.Sample
	Grant   *wire.Grant
	Call    *api.Invocation
	GrantID uint64
	Epoch   api.Epoch
}

func (a *Action) String() string {
	name := fmt.Sprintf("action(%d)", a.Kind)
	if int(a.Kind) < len(actionNames) {
		name = actionNames[a.Kind]
	}
	switch a.Kind {
	case ActRun:
		return fmt.Sprintf("%s %s on %s seq=%d kind=%v", name, a.ID, a.Node, a.Run.Seq, a.Run.Echo.Kind)
	case ActWake:
		return fmt.Sprintf("%s %s gen=%d at=%d", name, a.ID, a.Gen, a.At.UnixNano())
	case ActAnswer:
		return fmt.Sprintf("%s %s code=%q node=%s", name, a.ID, a.Answer.Code, a.Answer.Timing.Node)
	case ActCancelRun, ActAck:
		return fmt.Sprintf("%s %s on %s", name, a.ID, a.Node)
	case ActSample:
		return fmt.Sprintf("%s %s on %s %.3fms", name, a.Sample.Echo.Function, a.Sample.Echo.Node, a.Sample.ExecMs())
	case ActCancelForward:
		return fmt.Sprintf("%s %s to %s", name, a.ID, a.To)
	case ActForward:
		return fmt.Sprintf("%s %s to %s grant=%d", name, a.ID, a.To, a.GrantID)
	case ActGrant:
		return fmt.Sprintf("%s to %s slots=%d", name, a.To, a.Grant.Slots)
	case ActNodeLost:
		return fmt.Sprintf("%s %s", name, a.Node)
	case ActFenced:
		return fmt.Sprintf("%s by %v", name, a.Epoch)
	}
	return name
}

package lab

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sim"
	"github.com/rubato-faas/rubato/zonesched"
)

// A record of a live cluster is JSON lines, perhaps gzipped. The first says of which version it is; each other one is a
// zone, a node, a function, a call or the end. Zones, nodes and functions come before the calls that name them.

// RecordVersion is the format that this program writes; it reads no other.
const RecordVersion = 1

// maxRecordLine bounds a line: a call with all its inputs takes about 2 kB.
const maxRecordLine = 64 << 10

// RecordLine is one line; exactly one of its fields is set.
type RecordLine struct {
	Head     *RecordHead     `json:"rubato_record,omitempty"`
	Zone     *RecordZone     `json:"zone,omitempty"`
	Node     *RecordNode     `json:"node,omitempty"`
	Function *RecordFunction `json:"function,omitempty"`
	Call     *RecordCall     `json:"call,omitempty"`
	End      *RecordEnd      `json:"end,omitempty"`
}

// RecordHead begins a record.
type RecordHead struct {
	Version int       `json:"version"`
	Began   time.Time `json:"began"`
}

// RecordZone is a zone as it was when the record began.
type RecordZone struct {
	Name   string `json:"name"`
	Tier   string `json:"tier"`
	Region string `json:"region,omitempty"`
	Policy string `json:"policy"`
	Mode   string `json:"mode,omitempty"` // of the rule; of functions that differ nothing is recorded
}

// RecordNode is a node as it was when the record began.
type RecordNode struct {
	Name       string  `json:"name"`
	Zone       string  `json:"zone"`
	Slots      int     `json:"slots"`
	MemoryMB   int     `json:"memory_mb"`
	CacheBytes int64   `json:"cache_bytes,omitempty"` // 0: not known
	LinkMbps   float64 `json:"link_mbps,omitempty"`   // 0: no limit
	Class      string  `json:"class,omitempty"`

	Labels       api.Labels `json:"labels,omitzero"`
	PricePerHour float64    `json:"price_per_hour,omitempty"`
	EnergyClass  uint8      `json:"energy_class,omitempty"`
}

// RecordFunction is a function at its version when the record began, or when its first call was seen.
type RecordFunction struct {
	Tenant        string  `json:"tenant"`
	Name          string  `json:"name"`
	Version       uint64  `json:"version"`
	Runtime       string  `json:"runtime"`
	Artifact      string  `json:"artifact"` // a hash: equal for functions with one artifact
	ArtifactBytes int64   `json:"artifact_bytes"`
	MemoryMB      int     `json:"memory_mb"`
	TimeoutMs     int64   `json:"timeout_ms"`
	DeadlineMs    int64   `json:"deadline_ms,omitempty"`
	DeadlineShare float64 `json:"deadline_share,omitempty"`
	DelayOff      bool    `json:"delay_off,omitempty"`

	Needs       api.Labels `json:"needs,omitzero"`
	MinWarm     int        `json:"min_warm,omitempty"`
	Idempotent  bool       `json:"idempotent,omitempty"`
	PriceWeight float64    `json:"price_weight,omitempty"`
	MissWeight  float64    `json:"miss_weight,omitempty"`
}

// ID is "tenant/name".
func (f *RecordFunction) ID() string { return f.Tenant + "/" + f.Name }

// RecordInput is an object that a call named, by a hash of its key.
type RecordInput struct {
	Object string `json:"o"`
	Bytes  int64  `json:"b"`
}

// RecordCall is one call that ended. Times are in ms.
type RecordCall struct {
	ID       string  `json:"id,omitempty"` // a hash; equal for the tries of a call that was refused
	AtMs     float64 `json:"at_ms"`        // since the record began
	Zone     string  `json:"zone"`
	From     string  `json:"from,omitempty"` // zone that forwarded it, where it is recorded too
	Function string  `json:"fn"`
	Version  uint64  `json:"v"`

	PayloadBytes int64         `json:"payload,omitempty"`
	Inputs       []RecordInput `json:"inputs,omitempty"`
	BudgetMs     int64         `json:"budget_ms,omitempty"`
	Priority     uint8         `json:"priority,omitempty"`
	Affinity     string        `json:"affinity,omitempty"` // a hash
	Async        bool          `json:"async,omitempty"`

	Code         api.Code `json:"code,omitempty"`
	Decision     string   `json:"decision"`
	Node         string   `json:"node,omitempty"`
	RanIn        string   `json:"ran_in,omitempty"` // the node's zone, if it was forwarded there
	Start        string   `json:"start,omitempty"`  // how the sandbox was found
	DelayMs      float64  `json:"delay_ms"`
	QueueMs      float64  `json:"queue_ms"`
	FetchMs      float64  `json:"fetch_ms"`
	InitMs       float64  `json:"init_ms"`
	RunMs        float64  `json:"run_ms"`
	NetMs        float64  `json:"net_ms"`
	TotalMs      float64  `json:"total_ms"`
	FetchedBytes int64    `json:"fetched,omitempty"`

	// Why it was decided so, for who weighs recorded calls by how likely they were (replays do not ask): the policy, the share of the calls that
	// it decided, its clause, the mode, the model's version, and with which probability this policy chose as it did; 0: it decided nothing, or the
	// record is older than these fields. Of a call that was held back or queued they are those of that decision, not of the slot that it got.
	Policy     string  `json:"policy,omitempty"`
	Share      float64 `json:"share,omitempty"`
	Clause     string  `json:"clause,omitempty"`
	Mode       string  `json:"mode,omitempty"`
	Model      uint64  `json:"model,omitempty"`
	Propensity float64 `json:"propensity,omitempty"`
}

// place is the node's name among all zones'.
func (n *RecordNode) place() string { return n.Zone + "/" + n.Name }

// place is that of the node that the call ran on.
func (c *RecordCall) place() string { return cmp.Or(c.RanIn, c.Zone) + "/" + c.Node }

// RecordEnd ends a record. Lost calls were overwritten before they were read; UnderWay had not ended. Gaps is how often a
// zone could not be reached or got another leader: what ended meanwhile is lost, and nobody knows how much.
type RecordEnd struct {
	DurationMs float64 `json:"duration_ms"`
	Calls      int     `json:"calls"`
	Lost       uint64  `json:"lost"`
	UnderWay   int     `json:"under_way"`
	Gaps       int     `json:"gaps"`
}

// Recorder writes a record.
type Recorder struct{ e *json.Encoder }

// NewRecorder writes the first line.
func NewRecorder(w io.Writer, began time.Time) (*Recorder, error) {
	r := &Recorder{json.NewEncoder(w)}
	return r, r.Write(RecordLine{Head: &RecordHead{RecordVersion, began.UTC()}})
}

// Write writes a line.
func (r *Recorder) Write(l RecordLine) error { return r.e.Encode(l) }

// Record is a record as it was read.
type Record struct {
	Head      RecordHead
	Zones     []RecordZone
	Nodes     []RecordNode
	Functions []RecordFunction
	Calls     []RecordCall
	cut       int // calls beyond MaxCalls
	// End is nil when the recorder was cut off.
	End *RecordEnd
}

// ReadRecord reads a record and checks it.
func ReadRecord(r io.Reader) (*Record, error) {
	br := bufio.NewReaderSize(r, maxRecordLine)
	src := io.Reader(br)
	if magic, err := br.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("record: %w", err)
		}
		src = z
	}
	lines := bufio.NewScanner(&capped{r: src, left: MaxTraceBytes, row: MaxTraceBytes})
	lines.Buffer(nil, maxRecordLine)
	var rec Record
	known := recordNames{map[string]string{}, map[string]string{}, map[string]string{}}
	n := 0
	for lines.Scan() {
		n++
		if err := rec.line(lines.Bytes(), &known); err != nil {
			return nil, fmt.Errorf("%w: record, line %d: %w", api.ErrInvalid, n, err)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("%w: record, line %d: more than %d bytes", api.ErrTooLarge, n+1, maxRecordLine)
	case errors.Is(err, io.ErrUnexpectedEOF): // a recorder that was killed leaves half a gzip block: what came before counts
	case err != nil:
		return nil, fmt.Errorf("record, line %d: %w", n+1, err)
	}
	if rec.Head.Version == 0 {
		return nil, fmt.Errorf("%w: record: empty: want a file that `rubato record` wrote", api.ErrInvalid)
	}
	return &rec, nil
}

// recordNames are what lines may refer to; calls share the strings.
type recordNames struct{ zones, nodes, functions map[string]string }

func (r *Record) line(b []byte, known *recordNames) error {
	var l RecordLine
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&l); err != nil {
		return fmt.Errorf("no JSON of a record: %w", err)
	}
	if (l.Head == nil) != (r.Head.Version > 0) || r.End != nil {
		return errors.New(`want {"rubato_record": ...} first and only there, and nothing after {"end": ...}`)
	}
	switch {
	case l.Head != nil:
		if l.Head.Version != RecordVersion {
			return fmt.Errorf("version %d: this program reads version %d", l.Head.Version, RecordVersion)
		}
		r.Head = *l.Head
	case l.Zone != nil:
		return r.zone(l.Zone, known)
	case l.Node != nil:
		return r.node(l.Node, known)
	case l.Function != nil:
		return r.function(l.Function, known)
	case l.Call != nil:
		return r.call(l.Call, known)
	case l.End != nil:
		if !inMs(l.End.DurationMs) || l.End.UnderWay < 0 || l.End.Gaps < 0 {
			return fmt.Errorf("end %+v: want nothing negative, and a duration of at most %v", *l.End, MaxDuration)
		}
		r.End = l.End
	default:
		return errors.New("want one of zone, node, function, call and end")
	}
	return nil
}

// inMs: no longer than the longest simulation.
func inMs(ms ...float64) bool {
	for _, x := range ms {
		if !(x >= 0 && x <= float64(MaxDuration/time.Millisecond)) {
			return false
		}
	}
	return true
}

func (r *Record) zone(z *RecordZone, known *recordNames) error {
	if err := api.CheckName("zone", z.Name); err != nil {
		return err
	}
	if _, err := api.ParseTier(z.Tier); err != nil {
		return err
	}
	if z.Mode != "" {
		if _, err := zonesched.ParseMode(z.Mode); err != nil {
			return err
		}
	}
	if known.zones[z.Name] != "" || len(r.Zones) >= sim.MaxZones {
		return fmt.Errorf("zone %s: want each once, and at most %d", z.Name, sim.MaxZones)
	}
	known.zones[z.Name] = z.Name
	r.Zones = append(r.Zones, *z)
	return nil
}

func (r *Record) node(n *RecordNode, known *recordNames) error {
	if err := api.CheckName("node", n.Name); err != nil {
		return err
	}
	switch {
	case known.zones[n.Zone] == "":
		return fmt.Errorf("node %s: no zone %.60q before it", n.Name, n.Zone)
	case known.nodes[n.place()] != "" || len(r.Nodes) >= maxNodes:
		return fmt.Errorf("node %s: want each once in a zone, and at most %d in all", n.Name, maxNodes)
	case n.CacheBytes < 0 || !(n.LinkMbps >= 0 && n.LinkMbps <= 1e9) || len(n.Class) > api.MaxNameLen || n.Slots < 1 || n.MemoryMB < 1 ||
		!(n.PricePerHour >= 0 && n.PricePerHour <= api.MaxPrice) || n.EnergyClass > api.MaxEnergyClass:
		return fmt.Errorf("node %+v: want slots and memory, and nothing negative", *n)
	}
	if err := n.Labels.Validate(); err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	known.nodes[n.place()] = n.Name
	r.Nodes = append(r.Nodes, *n)
	return nil
}

func (r *Record) function(f *RecordFunction, known *recordNames) error {
	if err := errors.Join(api.CheckName("tenant", f.Tenant), api.CheckName("function", f.Name)); err != nil {
		return err
	}
	id := f.ID()
	if known.functions[id] != "" {
		return nil // another version
	}
	if len(r.Functions) >= maxTraceFunctions || len(f.Artifact) > 64 {
		return fmt.Errorf("function %s: want at most %d, and a hash of the artifact", id, maxTraceFunctions)
	}
	spec := f.spec(1)
	if err := spec.Validate(); err != nil {
		return err
	}
	known.functions[id] = id
	r.Functions = append(r.Functions, *f)
	return nil
}

// spec is the function as the cores take it. Its artifact is only a number.
func (f *RecordFunction) spec(artifact int) api.Function {
	return api.Function{
		Tenant: f.Tenant, Name: f.Name, Version: 1, Runtime: api.Runtime(f.Runtime), Artifact: fmt.Sprintf("%064x", artifact), ArtifactBytes: f.ArtifactBytes,
		MemoryMB: f.MemoryMB, Timeout: time.Duration(min(f.TimeoutMs, 1e12)) * time.Millisecond, DelayOff: f.DelayOff, Idempotent: f.Idempotent,
		Objective: api.Objective{
			Deadline: time.Duration(min(f.DeadlineMs, 1e12)) * time.Millisecond, Share: f.DeadlineShare, PriceWeight: f.PriceWeight, MissWeight: f.MissWeight,
		},
		Needs: f.Needs.Clone(), MinWarm: f.MinWarm,
	}
}

func (r *Record) call(c *RecordCall, known *recordNames) error {
	zone, fn := known.zones[c.Zone], known.functions[c.Function]
	if zone == "" || fn == "" {
		return fmt.Errorf("call of %.130q in zone %.60q: want both on lines before it", c.Function, c.Zone)
	}
	if !inMs(c.AtMs, c.DelayMs, c.QueueMs, c.FetchMs, c.InitMs, c.RunMs, c.NetMs, c.TotalMs) {
		return fmt.Errorf("times %v, %v, %v, %v, %v, %v, %v, %v ms: want none negative or above %v", c.AtMs, c.DelayMs, c.QueueMs, c.FetchMs, c.InitMs, c.RunMs, c.NetMs, c.TotalMs, MaxDuration)
	}
	ok := len(c.ID) <= api.MaxKeyLen && c.PayloadBytes >= 0 && c.PayloadBytes <= 1<<40 && c.FetchedBytes >= 0 && c.FetchedBytes <= 1<<50 && c.BudgetMs >= 0 && c.BudgetMs <= api.MaxTimeout.Milliseconds() &&
		c.Priority <= 9 && len(c.Inputs) <= api.MaxInputs && len(c.Affinity) <= api.MaxKeyLen
	for _, o := range c.Inputs {
		ok = ok && api.CheckKey(o.Object) == nil && o.Bytes >= 0 && o.Bytes <= 1<<40
	}
	if !ok {
		return fmt.Errorf("call of %s at %v ms: want sizes of 0-2^40 bytes, a budget of at most %v, a priority of 0-9 and at most %d inputs with keys", fn, c.AtMs, api.MaxTimeout, api.MaxInputs)
	}
	if len(r.Calls) >= MaxCalls {
		r.cut++ // of a long record the beginning can be replayed
		return nil
	}
	c.Zone, c.Function = zone, fn
	c.Node, c.RanIn = known.nodes[c.place()], known.zones[c.RanIn] // no node: one that joined later, or in a zone that was not recorded
	if known.zones[c.From] == "" {
		c.From = "" // it came from a zone that was not recorded: here it arrived
	}
	r.Calls = append(r.Calls, *c)
	return nil
}

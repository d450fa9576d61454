package lab

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/zonesched"
)

const recordHead = `{"rubato_record":{"version":1,"began":"2030-01-01T00:00:00Z"}}
{"zone":{"name":"z","tier":"edge","region":"r","policy":"least-loaded","mode":"canary=0.2"}}
{"node":{"name":"slow","zone":"z","slots":2,"memory_mb":512,"cache_bytes":1000000,"link_mbps":80,"class":"old"}}
{"node":{"name":"fast","zone":"z","slots":4,"memory_mb":512,"class":"new","labels":{"arch":"arm64","tags":["ssd"]},"price_per_hour":2,"energy_class":3}}
{"node":{"name":"other","zone":"z","slots":4,"memory_mb":512,"class":"idle"}}
{"function":{"tenant":"t","name":"f","version":3,"runtime":"process","artifact":"a","artifact_bytes":500000,"memory_mb":64,"timeout_ms":5000,"deadline_ms":900,"needs":{"tags":["ssd"]},"min_warm":1,"idempotent":true,"price_weight":3,"miss_weight":4}}
`

// recorded is a record of calls in turn on a slow node and on one that is four times as fast.
func recorded(t *testing.T) *Record {
	t.Helper()
	var b strings.Builder
	b.WriteString(recordHead)
	for i := range 100 {
		node, run := "slow", 40.0
		if i%2 == 1 {
			node, run = "fast", 10
		}
		start, init := "warm", 0.0
		switch i {
		case 0, 2, 4:
			start, init = "none", 157 // 50 ms for the artifact on the link, 7 to the store, 100 for the rest
		case 6, 8, 10:
			start, init = "prepared", 30
		}
		fetch := ""
		if i == 12 {
			fetch = `"fetch_ms":107,"fetched":1000000,` // 100 ms of them on the link
		}
		fmt.Fprintf(&b, `{"call":{"at_ms":%d,"zone":"z","fn":"t/f","v":3,"inputs":[{"o":"ab%d","b":300000}],"priority":7,"budget_ms":800,"decision":"run","node":%q,"start":%q,%s"init_ms":%v,"run_ms":%v,"net_ms":2}}`+"\n", 10*i, i%3, node, start, fetch, init, run)
	}
	b.WriteString(`{"end":{"duration_ms":2000,"calls":100,"lost":0,"under_way":0,"gaps":0}}` + "\n")
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write([]byte(b.String())); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := ReadRecord(&z)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What the world is made of is what the record says, or what can be estimated from it.
func TestReplayEstimatesTheWorld(t *testing.T) {
	s, err := recorded(t).Replay()
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParsePolicy(s.Policy)
	if err != nil || p.Rule != "least-loaded" {
		t.Fatalf("policy %+v, %v", p, err)
	}
	cfg, err := s.Config(p, 1)
	if err != nil {
		t.Fatal(err)
	}
	near := func(what string, got, want float64) {
		if math.Abs(got-want) > .01*math.Abs(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	z := cfg.Zones[0]
	if z.Core.Tier != api.TierEdge || len(z.Nodes) != 3 || z.Nodes[0].Core.Slots != 2 || z.Nodes[0].Core.CacheBytes != 1e6 {
		t.Fatalf("zone %+v", z)
	}
	near("speed of old", z.Nodes[0].Speed[0], .5)
	near("speed of new", z.Nodes[1].Speed[0], 2)
	near("speed of idle", z.Nodes[2].Speed[0], 1)
	near("store round trip", float64(z.Nodes[0].StoreRTT), 7e6)
	near("latency", float64(cfg.Latency), 1e6)
	f := cfg.Functions[0]
	near("run", float64(f.Run), 20e6)
	near("start", float64(f.Start), 15e6)
	near("prepare", float64(f.Prepare), 35e6)
	if f.Spec.Objective.Deadline != 900*time.Millisecond || f.Spec.MemoryMB != 64 {
		t.Errorf("function %+v", f.Spec)
	}
	if n := &z.Nodes[1].Core; n.Arch != "arm64" || n.Tags[0] != "ssd" || n.PricePerHour != 2 || n.EnergyClass != 3 || z.Core.Mode != zonesched.ModeOn {
		t.Errorf("node %+v, mode %s", n, z.Core.Mode)
	}
	if s := &f.Spec; s.Needs.Tags[0] != "ssd" || s.MinWarm != 1 || !s.Idempotent || s.Objective.PriceWeight != 3 || s.Objective.MissWeight != 4 {
		t.Errorf("function %+v", s)
	}
	c := cfg.Trace[3]
	near("run time of a call", c.ExecMs, 20)
	if len(cfg.Trace) != 100 || c.At != 30*time.Millisecond || c.Call.Priority != 7 || c.Call.BudgetMs != 800 || c.Call.Inputs[0] != (api.Object{Key: "record/ab0", Bytes: 300000}) {
		t.Errorf("call %+v, %+v", c, c.Call)
	}
	if all := strings.Join(s.notes, "\n"); !strings.Contains(all, `class ["idle"]`) || !strings.Contains(all, "zone z was in mode canary=0.2") {
		t.Errorf("notes %q", s.notes)
	}
	res, err := Compare(context.Background(), s, []Policy{p}, []uint64{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := res.Rows[0]; r.Calls != 100 || r.Answered != 100 || r.FetchedBytes < 900_000 {
		t.Errorf("replayed: %+v", r)
	}
}

// Speeds come out the same, to the last bit, however often they are estimated, and a function that ran on one class only says nothing of it.
// Two zones may have nodes of one name.
func TestReplayTakesSpeedsFromWhatCompares(t *testing.T) {
	var b strings.Builder
	b.WriteString(recordHead)
	b.WriteString(`{"zone":{"name":"y","tier":"core","policy":"rubato"}}` + "\n" + `{"node":{"name":"slow","zone":"y","slots":2,"memory_mb":512,"class":"new"}}` + "\n")
	for k := range 5 {
		fmt.Fprintf(&b, `{"function":{"tenant":"t","name":"g%d","version":1,"runtime":"process","artifact":"a","artifact_bytes":1,"memory_mb":64,"timeout_ms":5000}}`+"\n", k)
	}
	at := 0
	call := func(zone, ranIn, fn, node string, ms float64) {
		at++
		fmt.Fprintf(&b, `{"call":{"at_ms":%d,"zone":%q,"ran_in":%q,"fn":%q,"v":1,"decision":"run","node":%q,"start":"warm","run_ms":%v}}`+"\n", at, zone, ranIn, fn, node, ms)
	}
	for i := range 25 {
		for k := range 5 {
			fn, ms := fmt.Sprintf("t/g%d", k), 10*float64(k+1)*(1+.013*float64(i))
			call("z", "", fn, "slow", 2*ms)
			call("z", "", fn, "fast", ms)
			call("z", "y", fn, "slow", ms) // forwarded, to a node of another class with the same name
		}
	}
	for range 1000 { // on one class only
		call("z", "", "t/f", "fast", 7)
	}
	read := func() (old, new float64) {
		r, err := ReadRecord(strings.NewReader(b.String()))
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.Replay()
		if err != nil {
			t.Fatal(err)
		}
		return s.Zones[0].Nodes[0].Speed["cpu"], s.Zones[0].Nodes[1].Speed["cpu"]
	}
	old, new := read()
	if ratio := new / old; math.Abs(ratio-2) > 1e-9 {
		t.Errorf("new nodes are %v times as fast as old ones (%v, %v), want 2", ratio, new, old)
	}
	for range 20 {
		if o, n := read(); o != old || n != new {
			t.Fatalf("speeds %v and %v, before %v and %v", o, n, old, new)
		}
	}
}

// Tries of a call that was refused are one call, which came with the first and went as the last.
func TestTriesAreOneCall(t *testing.T) {
	try := func(id string, at int, code string) string {
		return fmt.Sprintf(`{"call":{"id":%q,"at_ms":%d,"zone":"z","fn":"t/f","v":3,"code":%q,"decision":"run","node":"fast","start":"warm","run_ms":5,"budget_ms":%d}}`+"\n", id, at, code, 1000-at)
	}
	r, err := ReadRecord(strings.NewReader(recordHead + try("a", 10, "unavailable") + try("b", 15, "") + try("a", 20, "unavailable") + try("a", 30, "") + try("", 40, "") + try("", 50, "")))
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Replay()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Calls) != 4 || r.Calls[0].AtMs != 10 || r.Calls[0].BudgetMs != 990 || r.Calls[0].Code != "" || !strings.Contains(strings.Join(s.notes, "\n"), "2 records of calls that were refused") {
		t.Errorf("calls %+v, notes %q", r.Calls, s.notes)
	}
}

// A recorder that was killed leaves half a line or half a gzip block; what came before is good.
func TestWrongRecordsAreRefusedInWords(t *testing.T) {
	good := `{"call":{"at_ms":1,"zone":"z","fn":"t/f","v":1,"run_ms":5}}` + "\n"
	for text, want := range map[string]string{
		"":                        "empty",
		good:                      "line 1: want {\"rubato_record\"",
		recordHead + recordHead:   "line 7: want {\"rubato_record\"",
		recordHead + "{}\n":       "line 7: want one of zone",
		recordHead + "nonsense\n": "line 7: no JSON",
		recordHead + `{"call":{"at_ms":-1,"zone":"z","fn":"t/f"}}`:                          "line 7: times",
		recordHead + `{"call":{"at_ms":1,"zone":"y","fn":"t/f"}}`:                           `in zone "y"`,
		recordHead + `{"call":{"at_ms":1,"zone":"z","fn":"t/g"}}`:                           `call of "t/g"`,
		recordHead + `{"call":{"at_ms":1,"zone":"z","fn":"t/f","priority":10}}`:             "a priority of 0-9",
		recordHead + `{"call":{"at_ms":1,"zone":"z","fn":"t/f","inputs":[{"o":"","b":1}]}}`: "inputs with keys",
		recordHead + `{"end":{}}` + "\n" + good:                                             "nothing after",
		recordHead + strings.Repeat(" ", maxRecordLine+1):                                   "line 7: more than",
	} {
		_, err := ReadRecord(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.200q...: %v, want %q", text, err, want)
		}
	}
	r, err := ReadRecord(strings.NewReader(recordHead + good))
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Replay()
	if err != nil || !strings.Contains(strings.Join(s.notes, "\n"), "cut off") {
		t.Errorf("a record without an end: %v, notes %q", err, s.notes)
	}
	if r, err = ReadRecord(strings.NewReader(recordHead)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Replay(); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a record without calls: %v", err)
	}
}

// Whatever a file holds, reading it ends in an error or in a scenario that runs.
func FuzzReadRecord(f *testing.F) {
	f.Add(recordHead + `{"call":{"at_ms":1,"zone":"z","fn":"t/f","v":1,"inputs":[{"o":"a","b":5}],"node":"fast","start":"none","init_ms":3,"run_ms":5}}`)
	f.Add(recordHead + `{"end":{"duration_ms":1,"lost":3}}`)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ReadRecord(strings.NewReader(text))
		if err != nil {
			return
		}
		s, err := r.Replay()
		if err != nil {
			return
		}
		p, err := ParsePolicy(s.Policy)
		if err == nil {
			_, err = s.Config(p, 1)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

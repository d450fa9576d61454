package wire

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/rubato-faas/rubato/api"
)

// messages is one filled example of every type that travels.
func messages() []any {
	call := api.Invocation{ID: "i", Tenant: "t", Function: "f", Version: 3, Payload: []byte("p"), Inputs: []api.Object{{Key: "t/k@d", Bytes: 9}}, BudgetMs: 5, WaitedMs: 1.5, IdemKey: "k", Trace: "00", Async: true, Attempt: 2}
	echo := api.Echo{Function: "t/f", Runtime: api.RuntimeWasm, Node: "n", Bins: []byte{1, 2}, SchemaEpoch: 1, ModelVersion: 4, Mu: 1, Sigma: 2, UpperMs: 3, Alpha: .05, Source: api.SourceForest, Kind: api.DecisionDelayed, Propensity: .99}
	epoch := api.Epoch{Generation: 1, Revision: 7}
	return []any{
		&Run{Epoch: epoch, Seq: 2, Call: call, Fn: api.Function{Tenant: "t", Name: "f", Env: map[string]string{"A": "b"}}, TimeoutMs: 9, Echo: echo},
		&Completion{Epoch: epoch, Node: "n", Boot: 1, ID: "i", Outcome: api.OutcomeCrash, Code: api.CodeFunction, Message: "m", Result: []byte("r"), RunMs: 1, Echo: echo, Sandboxes: []SandboxReport{{Function: "k", Idle: 1}}, Objects: []api.Object{{Key: "a", Bytes: 1}}, Evicted: []string{"b"}},
		&Heartbeat{Zone: "z", Node: "n", Boot: 1, Epoch: epoch, Slots: 4, LinkMbps: 1.5, Running: []RunningReport{{ID: "i", Function: "k"}}, Sandboxes: []SandboxReport{{Function: "k"}}, Objects: []api.Object{{Key: "o"}}},
		&Hello{Epoch: epoch, Leader: "l"}, &Ack{Epoch: epoch, IDs: []string{"a"}}, &Cancel{Epoch: epoch, ID: "i"}, &Flush{Epoch: epoch},
		&Invoke{Call: call, GrantEpoch: epoch, GrantID: 1}, &Answer{ID: "i", Code: api.CodeDeadline, Result: []byte("x"), Refused: true, Timing: Timing{QueueMs: 1, Zone: "z", Start: api.SandboxWarm}},
		&Batch{Zone: "z", Epoch: epoch, First: 3, Records: []Record{{Sample: &api.Sample{Echo: echo, RunMs: 2}}, {AdoptVersion: 1, AdoptDigest: "d"}}},
		&Checkpoint{Seq: 1, Key: "k", Digest: "d"}, &ModelUpdate{Zone: "z", Epoch: epoch, Seq: 1, Trees: []string{"a"}, Card: "c"},
		&Announce{CatalogRev: 1, PoolVersion: 2, PoolDigest: "d", Shares: []api.Share{{Class: "*", From: "a", To: "b", Permille: 5}}},
		&Grant{ID: 1, From: "a", To: "b", Epoch: epoch, Slots: 2, TTLMs: 3, Load: .5, MeanMs: 7}, &Control{RequestID: "r", Command: []byte{1}},
		&Reply{Code: api.CodeExists, Message: "m", Version: 1, Revision: 2}, &CatalogPull{Since: 1, Zone: "z"},
		&CatalogChanges{Rev: 1, More: true, Functions: []api.Function{{Tenant: "t", Name: "f"}}, Deleted: []string{"t/g"}},
		&Query{Kind: "nodes", Arg: "a"}, &QueryReply{Code: api.CodeNotFound, Message: "m", Data: []byte(`{"a":1}`)},
		&api.Digest{Zone: "z", Tier: api.TierEdge, Region: "r", Epoch: epoch, Seq: 3, Slots: 8, Busy: 4, Queued: 1, Delayed: 2, Classes: []api.ClassLoad{{}}, Policy: "rubato", Mode: "on", Guarded: true, Distrusted: true, FallbackDecides: true},
		&LogsPull{Function: "t/f", Last: 3}, &Logs{Lines: []LogLine{{ID: "i", Node: "n", UnixMs: 1, Text: "x"}}},
		&Heartbeat{Zone: "z", Node: "n", Labels: api.Labels{Arch: "arm64", Accelerator: "gpu-a100", Tags: []string{"ssd"}}, UptimeMs: 5},
		&Run{Fn: api.Function{Tenant: "t", Name: "f", Needs: api.Labels{Arch: "arm64"}, MinWarm: 2}, KeepMs: 10_000},
	}
}

func TestEveryMessageSurvivesTheWire(t *testing.T) {
	for _, m := range messages() {
		b, err := Encode(m)
		if err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		got := reflect.New(reflect.TypeOf(m).Elem()).Interface()
		if err := Decode(b, got); err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		if !reflect.DeepEqual(m, got) {
			t.Errorf("%T: sent %+v, got %+v", m, m, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	b, err := Encode(&Hello{Leader: "l"})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []byte{MinVersion - 1, Version + 1} {
		other := append([]byte{v}, b[1:]...)
		if err := Decode(other, &Hello{}); !errors.Is(err, ErrVersion) || !strings.HasSuffix(err.Error(), fmt.Sprintf("%d: this program reads %d-%d", v, MinVersion, Version)) {
			t.Errorf("version %d: %v", v, err)
		}
	}
	for name, bad := range map[string][]byte{"nothing": nil, "cut short": b[:len(b)-1], "another type": {Version, 0xc3}, "too large": make([]byte, MaxMessageBytes+1)} {
		if err := Decode(bad, &Hello{}); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrVersion) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Encode(&Hello{Leader: strings.Repeat("x", MaxMessageBytes)}); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("a message above the limit: %v", err)
	}
}

// A newer program of the same version adds fields, an older one lacks some: both are read.
func TestFieldsThatComeAndGo(t *testing.T) {
	type newer struct {
		Hello
		More []string `msgpack:"zz"`
	}
	b, err := Encode(&newer{Hello{Leader: "l", Epoch: api.Epoch{Generation: 1, Revision: 2}}, []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	var got Hello
	if err := Decode(b, &got); err != nil || got.Leader != "l" || got.Epoch.Revision != 2 {
		t.Errorf("with a field unknown here: %+v, %v", got, err)
	}
	b, err = Encode(&struct {
		Leader string `msgpack:"l"`
	}{"l"})
	if err != nil {
		t.Fatal(err)
	}
	got = Hello{}
	if err := Decode(b, &got); err != nil || got.Epoch != (api.Epoch{}) {
		t.Errorf("without a field: %+v, %v", got, err)
	}
}

func FuzzDecode(f *testing.F) {
	for i, m := range messages() {
		b, err := Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	types := messages()
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		v := reflect.New(reflect.TypeOf(types[int(kind)%len(types)]).Elem()).Interface()
		if Decode(b, v) != nil {
			return
		}
		again, err := Encode(v)
		if err != nil {
			t.Fatalf("decoded, but not encoded: %v", err)
		}
		if len(again) == 0 || !bytes.Equal(again[:1], []byte{Version}) {
			t.Fatal("encoded without the version byte")
		}
	})
}

package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rubato-faas/rubato/api"
)

func function(tenant, name string) *api.Function {
	return &api.Function{
		Tenant: tenant, Name: name, Runtime: api.RuntimeWasm, Artifact: strings.Repeat("ab", 32), ArtifactBytes: 10,
		MemoryMB: 64, Timeout: time.Second, Objective: api.Objective{Deadline: time.Second, Share: .9},
		Env: map[string]string{"B": "2", "A": "1", "C": "3"},
	}
}

func pool(parent uint64, manifest string) *Pool {
	return &Pool{Parent: parent, Manifest: []byte(manifest), Digest: DigestOf([]byte(manifest))}
}

// script applies commands one after the other and stops the test at a refusal.
type script struct {
	t *testing.T
	c *Catalog
	i uint64
}

func newScript(t *testing.T) *script {
	s := &script{t: t, c: New()}
	s.ok(Command{Kind: PutTenant, Tenant: "acme"})
	return s
}

func (s *script) do(cmd Command) Result { s.i++; return s.c.Apply(s.i, cmd) }

func (s *script) ok(cmd Command) Result {
	s.t.Helper()
	r := s.do(cmd)
	if r.Code != api.CodeOK {
		s.t.Fatalf("%v refused: %v", cmd, r.Err())
	}
	return r
}

func (s *script) refused(code api.Code, cmd Command) {
	s.t.Helper()
	before := s.c.Revision()
	if r := s.do(cmd); r.Code != code || r.Err() == nil {
		s.t.Fatalf("%v: got %q (%s), want %q", cmd, r.Code, r.Message, code)
	}
	if s.c.Revision() != before {
		s.t.Fatalf("%v was refused and still changed the catalogue", cmd)
	}
}

func TestVersionsAreNeverUsedTwiceAndOldOnesGo(t *testing.T) {
	s := newScript(t)
	for want := uint64(1); want <= 5; want++ {
		if r := s.ok(Command{Kind: PutFunction, Function: function("acme", "f")}); r.Version != want {
			t.Fatalf("version %d, want %d", r.Version, want)
		}
	}
	f := s.c.Function("acme", "f")
	if len(f.Versions) != KeepVersions || f.Versions[0].Version != 3 || f.Current().Version != 5 {
		t.Fatalf("kept %v", f.Versions)
	}
	s.ok(Command{Kind: DeleteFunction, Tenant: "acme", Name: "f"})
	if s.c.Function("acme", "f") != nil || len(s.c.Functions("")) != 0 {
		t.Fatal("function is there after deletion")
	}
	s.refused(api.CodeNotFound, Command{Kind: DeleteFunction, Tenant: "acme", Name: "f"})
	if r := s.ok(Command{Kind: PutFunction, Function: function("acme", "f")}); r.Version != 6 {
		t.Fatalf("version %d after deletion, want 6", r.Version)
	}
}

func TestRequestIDRepeatsTheAnswer(t *testing.T) {
	s := newScript(t)
	s.ok(Command{Kind: PutTenant, Tenant: "other"})
	put := Command{Kind: PutFunction, RequestID: "r1", Function: function("acme", "f")}
	first := s.ok(put)
	again := s.ok(put)
	if !again.Repeated || again.Version != first.Version || s.c.Function("acme", "f").Last != 1 {
		t.Fatalf("again %+v, first %+v", again, first)
	}
	s.refused(api.CodeInvalid, Command{Kind: PutFunction, RequestID: "r1", Function: function("acme", "g")})
	if r := s.ok(Command{Kind: PutFunction, RequestID: "r1", Function: function("other", "f")}); r.Repeated {
		t.Fatal("another tenant's id was taken for a repetition")
	}
	for i := range MaxRequests - 2 {
		s.ok(Command{Kind: PutPolicy, RequestID: fmt.Sprint(i), Policy: map[string]string{"k": fmt.Sprint(i)}})
	}
	if !s.ok(put).Repeated {
		t.Fatal("forgotten before the memory was full")
	}
	s.ok(Command{Kind: PutPolicy, RequestID: "one-more", Policy: map[string]string{"k": "x"}})
	if s.ok(put).Repeated || len(s.c.requests.ring) != MaxRequests || len(s.c.requests.at) != MaxRequests {
		t.Fatal("the memory of requests is not bounded")
	}
}

func TestPoolNeverGoesBackByItself(t *testing.T) {
	s := newScript(t)
	s.ok(Command{Kind: PutPool, Pool: pool(0, "one")})
	s.ok(Command{Kind: PutPool, Pool: pool(1, "two")})
	s.refused(api.CodeExists, Command{Kind: PutPool, Pool: pool(1, "late")})
	s.refused(api.CodeExists, Command{Kind: RollbackPool, Pool: &Pool{Parent: 5}, Target: 1})
	r := s.ok(Command{Kind: RollbackPool, Pool: &Pool{Parent: 2}, Target: 1})
	if p := s.c.Pool(); r.Version != 3 || p.Version != 3 || p.RollbackOf != 1 || string(p.Manifest) != "one" {
		t.Fatalf("after rollback: %+v", p)
	}
	for v := uint64(3); v < 8; v++ {
		s.ok(Command{Kind: PutPool, Pool: pool(v, "next")})
	}
	s.refused(api.CodeNotFound, Command{Kind: RollbackPool, Pool: &Pool{Parent: 8}, Target: 3})
	bad := pool(8, "x")
	bad.Digest = DigestOf([]byte("y"))
	s.refused(api.CodeInvalid, Command{Kind: PutPool, Pool: bad})
	s.refused(api.CodeTooLarge, Command{Kind: PutPool, Pool: pool(8, strings.Repeat("x", MaxManifestBytes+1))})
}

func TestSharesAndSettings(t *testing.T) {
	s := newScript(t)
	rows := []api.Share{{Class: "*", From: "a", To: "b", Permille: 600}, {Class: "*", From: "a", To: "c", Permille: 400}}
	s.refused(api.CodeInvalid, Command{Kind: PutShares, Shares: rows})
	for _, z := range []string{"c", "a", "b"} {
		s.ok(Command{Kind: PutZone, Zone: &Zone{Name: z, Tier: api.TierEdge, Region: "eu"}})
	}
	s.ok(Command{Kind: PutShares, Shares: rows})
	if !reflect.DeepEqual(s.c.Shares(), rows) {
		t.Fatalf("shares %v", s.c.Shares())
	}
	for name, bad := range map[string][]api.Share{
		"self":  {{Class: "*", From: "a", To: "a", Permille: 1}},
		"order": {rows[1], rows[0]},
		"twice": {rows[0], rows[0]},
		"sum":   {rows[0], {Class: "*", From: "a", To: "c", Permille: 401}},
		"zero":  {{Class: "*", From: "a", To: "b"}},
	} {
		t.Log(name)
		s.refused(api.CodeInvalid, Command{Kind: PutShares, Shares: bad})
	}
	s.ok(Command{Kind: DeleteZone, Name: "b"})
	if z := s.c.Zones(); len(z) != 2 || z[0].Name != "a" || z[1].Name != "c" {
		t.Fatalf("zones %v", z)
	}
	s.ok(Command{Kind: PutPolicy, Policy: map[string]string{"x": "1", "y": "2"}})
	s.ok(Command{Kind: PutPolicy, Policy: map[string]string{"x": ""}})
	if !maps.Equal(s.c.Policy(), map[string]string{"y": "2"}) {
		t.Fatalf("policy %v", s.c.Policy())
	}
	s.ok(Command{Kind: PutFunction, Function: function("acme", "f")})
	s.refused(api.CodeExists, Command{Kind: DeleteTenant, Tenant: "acme"})
	s.ok(Command{Kind: DeleteFunction, Tenant: "acme", Name: "f"})
	s.ok(Command{Kind: DeleteTenant, Tenant: "acme"})
	s.refused(api.CodeNotFound, Command{Kind: PutFunction, Function: function("acme", "f")})
}

func TestRefusesNonsense(t *testing.T) {
	s := newScript(t)
	for _, k := range []Kind{0, PutFunction, DeleteFunction, PutZone, DeleteZone, PutTenant, DeleteTenant, PutPool, RollbackPool, PutPolicy, 99} {
		s.refused(api.CodeInvalid, Command{Kind: k})
	}
	big := function("acme", "f")
	big.Env = map[string]string{"K": strings.Repeat("v", MaxFunctionBytes)}
	s.refused(api.CodeTooLarge, Command{Kind: PutFunction, Function: big})
	if r := s.c.Apply(1, Command{Kind: PutTenant, Tenant: "late"}); r.Code != api.CodeInternal {
		t.Fatalf("an index that goes back: %+v", r)
	}
}

func TestVersionLimit(t *testing.T) {
	s := newScript(t)
	s.c.versions = MaxVersions // as if others held them
	s.refused(api.CodeOverloaded, Command{Kind: PutFunction, Function: function("acme", "f")})
	s.c.versions, s.c.bytes = 0, MaxCatalogBytes
	s.refused(api.CodeOverloaded, Command{Kind: PutFunction, Function: function("acme", "f")})
}

func TestUnreadableCommandChangesNothing(t *testing.T) {
	c := New()
	raw, err := EncodeCommand(Command{Kind: PutTenant, Tenant: "t"})
	if err != nil {
		t.Fatal(err)
	}
	newer := append([]byte{commandVersion + 1}, raw[1:]...)
	if _, err := c.ApplyEncoded(1, newer); !errors.Is(err, api.ErrInvalid) {
		t.Fatalf("newer version: %v", err)
	}
	if _, err := c.ApplyEncoded(1, append(raw, 0)); err == nil {
		t.Fatal("trailing byte was taken")
	}
	if i, h := c.Chain(); i != 0 || h != (Hash{}) {
		t.Fatal("the chain moved")
	}
}

// Log entries and snapshots name their version; another one is an error that names both sides, and a field that is not known is
// one too: a replica that skipped it would become another catalogue.
func TestVersions(t *testing.T) {
	command, err := EncodeCommand(Command{Kind: PutTenant, Tenant: "t"})
	if err != nil {
		t.Fatal(err)
	}
	c := New()
	if _, err := c.ApplyEncoded(1, command); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if _, err := c.Snapshot().WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name        string
		at          int
		oldest, now byte
		b           []byte
		read        func(b []byte) error
	}{
		{"command", 0, oldestCommand, commandVersion, command, func(b []byte) error { _, err := DecodeCommand(b); return err }},
		{"snapshot", len(snapshotMagic), oldestSnapshot, snapshotVersion, buf.Bytes(), func(b []byte) error { _, err := Restore(bytes.NewReader(b)); return err }},
	} {
		if f.b[f.at] != f.now {
			t.Errorf("%s of version %d, want %d", f.name, f.b[f.at], f.now)
		}
		if err := f.read(f.b); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
		for _, v := range []byte{f.oldest - 1, f.now + 1} {
			other := bytes.Clone(f.b)
			other[f.at] = v
			want := fmt.Sprintf("version %d: this release reads %d-%d", v, f.oldest, f.now)
			if err := f.read(other); !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s of version %d: %v, want %q", f.name, v, err, want)
			}
		}
	}
	more, err := marshal(map[string]any{"k": PutTenant, "zz": 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeCommand(append([]byte{commandVersion}, more...)); !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), "zz") {
		t.Errorf("a field that is not known: %v, want its name", err)
	}
}

// draw makes commands over few names, so that they meet.
func draw(t *rapid.T) Command {
	name := rapid.SampledFrom([]string{"a", "b", "c"})
	cmd := Command{Kind: Kind(rapid.IntRange(1, 11).Draw(t, "kind")), Tenant: name.Draw(t, "tenant"), Name: name.Draw(t, "name")}
	if rapid.Bool().Draw(t, "with id") {
		cmd.RequestID = name.Draw(t, "request")
	}
	switch cmd.Kind {
	case PutFunction:
		cmd.Function = function(cmd.Tenant, cmd.Name)
	case PutZone:
		cmd.Zone = &Zone{Name: cmd.Name, Region: name.Draw(t, "region")}
	case PutPool:
		cmd.Pool = pool(rapid.Uint64Range(0, 6).Draw(t, "parent"), cmd.Name)
	case RollbackPool:
		cmd.Pool, cmd.Target = &Pool{Parent: rapid.Uint64Range(1, 6).Draw(t, "parent")}, rapid.Uint64Range(1, 5).Draw(t, "target")
	case PutShares:
		cmd.Shares = []api.Share{{Class: "*", From: cmd.Tenant, To: cmd.Name, Permille: rapid.IntRange(0, 1001).Draw(t, "p")}}
	case PutPolicy:
		cmd.Policy = map[string]string{cmd.Tenant: cmd.Name, "k": name.Draw(t, "value")}
	}
	return cmd
}

// TestReplicasAgree: the same commands give the same chain, answers and changes, through a snapshot or not; and
// a copy that pulls pages of any size ends up equal.
func TestReplicasAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := New(), New()
		mirror, since := map[entryID]Entry{}, uint64(0)
		pull := func(limit int) {
			for more := true; more; {
				var page []Entry
				page, since, more = a.Changes(since, limit)
				for _, e := range page {
					mirror[e.id()] = e
				}
			}
		}
		for i := uint64(1); i <= uint64(rapid.IntRange(1, 200).Draw(t, "n")); i++ {
			cmd := draw(t)
			if ra, rb := a.Apply(i*2, cmd), b.Apply(i*2, cmd); ra != rb {
				t.Fatalf("answers differ: %+v, %+v", ra, rb)
			}
			switch rapid.IntRange(0, 20).Draw(t, "then") {
			case 0:
				b = roundTrip(t, b)
			case 1:
				pull(rapid.IntRange(1, 5).Draw(t, "limit"))
			}
		}
		b = roundTrip(t, b)
		ia, ha := a.Chain()
		ib, hb := b.Chain()
		if ia != ib || ha != hb {
			t.Fatalf("chains differ at %d and %d", ia, ib)
		}
		ea, _, _ := a.Changes(0, 1<<20)
		eb, _, _ := b.Changes(0, 1<<20)
		if !sameEncoding(ea, eb) {
			t.Fatalf("entries differ:\n%+v\n%+v", ea, eb)
		}
		if a.versions != b.versions || a.bytes != b.bytes || a.live != b.live || a.names != b.names || !maps.Equal(a.functions, b.functions) {
			t.Fatal("sums differ after a restore")
		}
		pull(3)
		if len(mirror) != len(ea) || since != a.Revision() {
			t.Fatalf("the copy has %d entries at %d, want %d at %d", len(mirror), since, len(ea), a.Revision())
		}
		for _, e := range ea {
			if m := mirror[e.id()]; m.Rev != e.Rev {
				t.Fatalf("the copy has %v %s at %d, want %d", e.Kind, e.Key, m.Rev, e.Rev)
			}
		}
	})
}

func sameEncoding(a, b any) bool {
	x, errX := marshal(a)
	y, errY := marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func roundTrip(t *rapid.T, c *Catalog) *Catalog {
	var buf bytes.Buffer
	if _, err := c.Snapshot().WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	out, err := Restore(&buf)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSnapshotIsFrozenAndEveryBitCounts(t *testing.T) {
	s := newScript(t)
	s.ok(Command{Kind: PutFunction, RequestID: "r", Function: function("acme", "f")})
	s.ok(Command{Kind: PutPool, Pool: pool(0, "one")})
	snap := s.c.Snapshot()
	s.ok(Command{Kind: DeleteFunction, Tenant: "acme", Name: "f"})
	var buf bytes.Buffer
	if n, err := snap.WriteTo(&buf); err != nil || n != int64(buf.Len()) {
		t.Fatalf("wrote %d of %d: %v", n, buf.Len(), err)
	}
	data := buf.Bytes()
	c, err := Restore(bytes.NewReader(data))
	if err != nil || c.Function("acme", "f") == nil {
		t.Fatalf("restore: %v", err)
	}
	for i := range data {
		broken := bytes.Clone(data)
		broken[i] ^= 1
		if _, err := Restore(bytes.NewReader(broken)); err == nil {
			t.Fatalf("bit flipped at %d and not noticed", i)
		}
		if _, err := Restore(bytes.NewReader(data[:i])); err == nil {
			t.Fatalf("cut at %d and not noticed", i)
		}
	}
}

func TestLogIsCompacted(t *testing.T) {
	s := newScript(t)
	for i := range 5000 {
		s.ok(Command{Kind: PutPolicy, Policy: map[string]string{"k": fmt.Sprint(i)}})
	}
	if len(s.c.log) > 200 || len(s.c.log) != len(s.c.revs) {
		t.Fatalf("%d places for %d entries", len(s.c.log), len(s.c.entries))
	}
	if e, _, _ := s.c.Changes(s.i-1, 10); len(e) != 1 || e[0].Policy["k"] != "4999" {
		t.Fatalf("changes %v", e)
	}
}

func FuzzDecodeCommand(f *testing.F) {
	for _, c := range []Command{
		{Kind: PutFunction, RequestID: "r", Function: function("acme", "f")},
		{Kind: PutPool, Pool: pool(0, "m")}, {Kind: RollbackPool, Pool: &Pool{Parent: 2}, Target: 1},
		{Kind: PutShares, Shares: []api.Share{{Class: "*", From: "a", To: "b", Permille: 5}}},
		{Kind: PutPolicy, Policy: map[string]string{"a": "b"}}, {Kind: PutZone, Zone: &Zone{Name: "z"}},
	} {
		raw, err := EncodeCommand(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cmd, err := DecodeCommand(data)
		if err != nil {
			return
		}
		c := New()
		c.Apply(1, Command{Kind: PutTenant, Tenant: "acme"})
		if _, err := c.ApplyEncoded(2, data); err != nil {
			t.Fatalf("decoded, but not applied: %v", err)
		}
		raw, err := EncodeCommand(cmd)
		if err != nil {
			if !errors.Is(err, api.ErrTooLarge) {
				t.Fatal(err)
			}
			return
		}
		back, err := DecodeCommand(raw)
		if err != nil || !sameEncoding(&back, &cmd) {
			t.Fatalf("%+v came back as %+v: %v", cmd, back, err)
		}
	})
}

func FuzzRestore(f *testing.F) {
	c := New()
	c.Apply(1, Command{Kind: PutTenant, Tenant: "acme"})
	c.Apply(2, Command{Kind: PutFunction, RequestID: "r", Function: function("acme", "f")})
	c.Apply(3, Command{Kind: PutPool, Pool: pool(0, "m")})
	var buf bytes.Buffer
	if _, err := c.Snapshot().WriteTo(&buf); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := Restore(bytes.NewReader(data)); err == nil {
			c.Apply(1<<60, Command{Kind: PutPool, Pool: pool(0, "m")})
			c.Changes(0, 10)
		}
	})
}

func BenchmarkPutFunction(b *testing.B) {
	c := New()
	c.Apply(1, Command{Kind: PutTenant, Tenant: "acme"})
	raw, err := EncodeCommand(Command{Kind: PutFunction, Function: function("acme", "f")})
	if err != nil {
		b.Fatal(err)
	}
	i := uint64(1)
	b.ReportAllocs()
	for b.Loop() {
		i++
		if r, err := c.ApplyEncoded(i, raw); err != nil || r.Code != api.CodeOK {
			b.Fatal(r, err)
		}
	}
}

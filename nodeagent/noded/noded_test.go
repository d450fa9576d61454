package noded

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/messaging/membus"
	"github.com/rubato-faas/rubato/nodeagent"
	"github.com/rubato-faas/rubato/objectstore"
	"github.com/rubato-faas/rubato/objectstore/memstore"
	"github.com/rubato-faas/rubato/sandbox"
	"github.com/rubato-faas/rubato/sandbox/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var epoch = api.Epoch{Generation: 1, Revision: 5}

// bed is a node on a bus, with the test as its zone.
type bed struct {
	t     *testing.T
	ctx   context.Context
	cfg   Config
	bus   *membus.Bus // the zone's
	hub   *membus.Hub
	store *memstore.Store
	// results is where large results go
	results *memstore.Store
	rt      *fake.Runtime
	fn      api.Function
	done    chan *wire.Completion
	beats   chan *wire.Heartbeat
	noAck   bool
	boot    uint64 // of the node's newest life
}

func newBed(t *testing.T, answer func(*api.Function, *sandbox.Call) (*sandbox.Result, error)) *bed {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	hub, err := membus.NewHub(membus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	rt, err := fake.New(fake.Config{Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }, Answer: answer})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{
		t: t, ctx: ctx, cfg: DefaultConfig(), bus: hub.Connect(), hub: hub, store: memstore.New(64 << 20), results: memstore.New(64 << 20), rt: rt,
		done: make(chan *wire.Completion, 1024), beats: make(chan *wire.Heartbeat, 1024),
	}
	b.cfg.Zone, b.cfg.Name, b.cfg.Dir, b.cfg.Heartbeat = "z", "n", t.TempDir(), 20*time.Millisecond
	artifact := b.put(objectstore.ArtifactKey("t", digest("code")), "code")
	b.fn = api.Function{Tenant: "t", Name: "f", Version: 1, Runtime: api.RuntimeProcess, Artifact: artifact.Digest, ArtifactBytes: 4, MemoryMB: 100, Timeout: time.Minute}
	b.subscribe(wire.SubjectDone("z"), func(m *messaging.Msg) {
		c := &wire.Completion{}
		if err := wire.Decode(m.Data, c); err != nil {
			t.Error(err)
			return
		}
		if !b.noAck {
			b.send(wire.SubjectNode("z", "n", "ack"), &wire.Ack{Epoch: epoch, IDs: []string{c.ID}})
		}
		b.done <- c
	})
	b.subscribe(wire.SubjectHeartbeat("z"), func(m *messaging.Msg) {
		hb := &wire.Heartbeat{}
		if err := wire.Decode(m.Data, hb); err != nil {
			t.Error(err)
			return
		}
		select {
		case b.beats <- hb:
		default: // nobody looks
		}
	})
	t.Cleanup(func() {
		cancel()
		if err := b.bus.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func (b *bed) put(key, content string) objectstore.Info {
	b.t.Helper()
	info, err := b.store.Put(context.Background(), key, strings.NewReader(content))
	if err != nil {
		b.t.Fatal(err)
	}
	return info
}

func (b *bed) subscribe(subject string, h messaging.Handler) {
	b.t.Helper()
	if _, err := b.bus.Subscribe(subject, "", h); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) send(subject string, v any) {
	data, err := wire.Encode(v)
	if err == nil {
		err = b.bus.Publish(subject, data)
	}
	if err != nil {
		b.t.Error(err)
	}
}

// start runs the node; stop ends it as its context's end does and waits; kill as a crash does. Both return Run's error.
func (b *bed) start() (stop, kill func() error) {
	b.t.Helper()
	bus := b.hub.Connect()
	d, err := New(b.cfg, Deps{Bus: bus, Store: b.store, Results: b.results, Runtimes: map[api.Runtime]sandbox.Runtime{api.RuntimeProcess: b.rt}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	wait := func() error {
		select {
		case err := <-ended:
			ended <- err
			return err
		case <-b.ctx.Done():
			b.t.Fatal("the node does not stop")
			return nil
		}
	}
	b.t.Cleanup(func() {
		cancel()
		d.Kill()
		wait() //nolint:errcheck // told to whoever stopped it
		if err := bus.Close(); err != nil {
			b.t.Error(err)
		}
	})
	hb := b.beat()
	for hb.Boot == b.boot { // still under way from the node's last life
		hb = b.beat()
	}
	b.boot = hb.Boot // it is up
	return func() error { cancel(); return wait() }, func() error { d.Kill(); return wait() }
}

func (b *bed) beat() *wire.Heartbeat {
	b.t.Helper()
	select {
	case hb := <-b.beats:
		return hb
	case <-b.ctx.Done():
		b.t.Fatal("no heartbeat")
		return nil
	}
}

func (b *bed) run(id string, change ...func(*wire.Run)) {
	m := &wire.Run{Epoch: epoch, Seq: 1, Fn: b.fn, TimeoutMs: 60_000, Call: api.Invocation{ID: id, Tenant: "t", Function: "f", Version: 1, Payload: []byte("hello")}}
	for _, c := range change {
		c(m)
	}
	b.send(wire.SubjectRun("z", "n"), m)
}

func (b *bed) completion(id string) *wire.Completion {
	b.t.Helper()
	for {
		select {
		case c := <-b.done:
			if c.ID == id {
				return c
			}
		case <-b.ctx.Done():
			b.t.Fatalf("no completion of %s", id)
		}
	}
}

func TestDispatchIsCompleted(t *testing.T) {
	b := newBed(t, nil)
	stop, _ := b.start()
	b.run("i1")
	if c := b.completion("i1"); c.Outcome != api.OutcomeOK || string(c.Result) != "hello" || c.Start != api.SandboxNone || c.Node != "n" {
		t.Fatalf("completion %+v", c)
	}
	b.run("i2")
	if c := b.completion("i2"); c.Start != api.SandboxWarm {
		t.Fatalf("the second call found its sandbox %v", c.Start)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if s := b.rt.Stats(); s.Open != 0 || s.Starts != 1 || s.Calls != 2 {
		t.Fatalf("sandboxes after the end: %+v", s)
	}
}

func TestPrewarmBringsUpASandboxAndRunsNothing(t *testing.T) {
	b := newBed(t, nil)
	stop, _ := b.start()
	b.send(wire.SubjectNode("z", "n", "prewarm"), &wire.Run{
		Epoch: epoch, Seq: 1, Fn: b.fn, TimeoutMs: 60_000, Prewarm: true, Call: api.Invocation{ID: "w1", Tenant: "t", Function: "f", Version: 1},
	})
	c := b.completion("w1")
	if c.Outcome != api.OutcomeOK || len(c.Result) > 0 || c.RunMs != 0 || len(c.Sandboxes) != 1 || c.Sandboxes[0].Idle != 1 {
		t.Fatalf("completion %+v", c)
	}
	b.run("i1")
	if c := b.completion("i1"); c.Start != api.SandboxWarm {
		t.Fatalf("the call found its sandbox %v", c.Start)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if s := b.rt.Stats(); s.Starts != 1 || s.Calls != 1 {
		t.Fatalf("sandboxes after the end: %+v", s)
	}
}

func TestEpochSurvivesARestart(t *testing.T) {
	b := newBed(t, nil)
	_, kill := b.start()
	high := api.Epoch{Generation: 2, Revision: 1}
	b.send(wire.SubjectAllNodes("z", "hello"), &wire.Hello{Epoch: high})
	for b.beat().Epoch != high {
	}
	if err := kill(); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.run("late") // of a leader that was replaced before the restart
	if c := b.completion("late"); c.Outcome != api.OutcomeRefused || c.Code != api.CodeFenced {
		t.Fatalf("a lower epoch was obeyed: %+v", c)
	}
	b.run("next", func(m *wire.Run) { m.Epoch = high })
	if c := b.completion("next"); c.Outcome != api.OutcomeOK {
		t.Fatalf("completion %+v", c)
	}
}

// An epoch that is not understood stops the node: taken for none, it would let a lower one back in.
func TestEpochFileOfAnotherVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), epochFile)
	if err := saveEpoch(path, epoch); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(written, []byte(`"version":1`)) {
		t.Fatalf("%s, %v: want version 1", written, err)
	}
	for text, want := range map[string]string{
		string(written): "",
		strings.Replace(string(written), "{", `{"more":true,`, 1):         "",
		strings.Replace(string(written), `"version":1`, `"version":2`, 1): "version 2, this program reads 1",
		strings.Replace(string(written), `"version":1,`, "", 1):           "version 0, this program reads 1",
		string(written[:len(written)/2]):                                  "unexpected end",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := loadEpoch(path)
		if want == "" && (err != nil || got != epoch) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
		if want != "" && (!errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// A node that cannot keep the epoch must not act under it: a restart would let a lower one back in.
func TestEpochThatCannotBeKeptStopsTheNode(t *testing.T) {
	b := newBed(t, nil)
	bus := b.hub.Connect()
	defer bus.Close()
	d, err := New(b.cfg, Deps{Bus: bus, Store: b.store, Results: b.results, Runtimes: map[api.Runtime]sandbox.Runtime{api.RuntimeProcess: b.rt}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(b.cfg.Dir, epochFile, "in-the-way"), 0o700); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- d.Run(context.Background()) }()
	b.beat()
	b.run("i1")
	select {
	case err := <-ended:
		if err == nil {
			t.Fatal("stopped without saying why")
		}
	case <-b.ctx.Done():
		t.Fatal("the node goes on under an epoch that it will have forgotten")
	}
	if n := b.rt.Stats().Calls; n != 0 {
		t.Fatalf("%d calls ran", n)
	}
}

func TestDrainFinishesTheRunningCall(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	b := newBed(t, func(_ *api.Function, c *sandbox.Call) (*sandbox.Result, error) {
		close(began)
		<-goOn
		return &sandbox.Result{Payload: c.Payload}, nil
	})
	stop, _ := b.start()
	b.run("i1")
	<-began
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	for !b.beat().Draining {
	}
	b.run("i2")
	if c := b.completion("i2"); c.Outcome != api.OutcomeRefused || c.Code != api.CodeUnavailable {
		t.Fatalf("a draining node took a call: %+v", c)
	}
	select {
	case <-ended:
		t.Fatal("the node ended while a call ran")
	default:
	}
	close(goOn)
	if c := b.completion("i1"); c.Outcome != api.OutcomeOK {
		t.Fatalf("completion %+v", c)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestTimeoutAndCancelStopTheCall(t *testing.T) {
	b := newBed(t, nil)
	var err error
	b.rt, err = fake.New(fake.Config{
		Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
		Act:   func(*api.Function, *sandbox.Call) fake.Act { return fake.Hang },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.start()
	b.run("slow", func(m *wire.Run) { m.TimeoutMs = 30 })
	if c := b.completion("slow"); c.Outcome != api.OutcomeTimeout || c.Code != api.CodeDeadline {
		t.Fatalf("completion %+v", c)
	}
	b.run("unwanted")
	for { // reports of the call before may still lie here
		if r := b.beat().Running; len(r) == 1 && r[0].ID == "unwanted" {
			break
		}
	}
	b.send(wire.SubjectNode("z", "n", "cancel"), &wire.Cancel{Epoch: epoch, ID: "unwanted"})
	if c := b.completion("unwanted"); c.Outcome != api.OutcomeCanceled {
		t.Fatalf("completion %+v", c)
	}
}

// A refusal of one attempt must not take the deadline of another, which runs.
func TestRefusedRepetitionLeavesTheDeadline(t *testing.T) {
	b := newBed(t, nil)
	var err error
	b.rt, err = fake.New(fake.Config{
		Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
		Act:   func(*api.Function, *sandbox.Call) fake.Act { return fake.Hang },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.start()
	b.run("i1", func(m *wire.Run) { m.TimeoutMs = 300 })
	b.run("i1", func(m *wire.Run) { m.Epoch.Revision = 4 })
	if c := b.completion("i1"); c.Outcome != api.OutcomeRefused {
		t.Fatalf("first completion %+v", c)
	}
	if c := b.completion("i1"); c.Outcome != api.OutcomeTimeout {
		t.Fatalf("second completion %+v", c)
	}
}

func TestUnacknowledgedCompletionsAreSentAgain(t *testing.T) {
	b := newBed(t, nil)
	b.cfg.Node.ResendAfter = 10 * time.Millisecond
	b.noAck = true
	b.start()
	b.run("i1")
	if c := b.completion("i1"); c.Resent {
		t.Fatal("the first one says that it is a repetition")
	}
	if c := b.completion("i1"); !c.Resent || string(c.Result) != "hello" {
		t.Fatalf("repetition %+v", c)
	}
}

// A megabyte takes as long as its link says, but for the limiter's burst, which goes first.
func TestLinkLimitSlowsAFetch(t *testing.T) {
	content := strings.Repeat("x", 1<<20)
	fetch := func(mbps float64) float64 {
		b := newBed(t, nil)
		b.cfg.Node.LinkMbps = mbps
		info := b.put(objectstore.ObjectKey("t", "in"), content)
		b.start()
		b.run("i1", func(m *wire.Run) { m.Call.Inputs = []api.Object{api.ObjectOf("t", "in", info.Bytes, info.Digest)} })
		c := b.completion("i1")
		if c.Outcome != api.OutcomeOK || c.FetchedBytes < info.Bytes || len(c.Objects) != 1 {
			t.Fatalf("completion %+v", c)
		}
		return c.FetchMs
	}
	if slow := fetch(40); slow < 150 { // 8.4 Mbit, and what the host takes on top
		t.Fatalf("a megabyte took %.1f ms over 40 Mbit/s", slow)
	}
}

// A cache goes by key and digest: what it holds of a key that was deleted and put again is another object.
func TestCachedInputOfAReusedKeyIsNotUsed(t *testing.T) {
	b := newBed(t, nil)
	b.start()
	run := func(id, content string) *wire.Completion {
		info := b.put(objectstore.ObjectKey("t", "in"), content)
		b.run(id, func(m *wire.Run) { m.Call.Inputs = []api.Object{api.ObjectOf("t", "in", info.Bytes, info.Digest)} })
		c := b.completion(id)
		file, err := os.ReadFile(filepath.Join(b.cfg.Dir, "objects", hashName(api.ObjectOf("t", "in", info.Bytes, info.Digest).Key)))
		if c.Outcome != api.OutcomeOK || err != nil || string(file) != content {
			t.Fatalf("%s: %+v; it was given %q, %v", id, c, file, err)
		}
		return c
	}
	run("i1", "old")
	if err := b.store.Delete(b.ctx, objectstore.ObjectKey("t", "in")); err != nil {
		t.Fatal(err)
	}
	if c := run("i2", "other content"); c.FetchedBytes != int64(len("other content")) {
		t.Fatalf("the second call fetched %d bytes", c.FetchedBytes)
	}
}

// What is wrong with what a call brought along is no fault of the node: it would be taken out of service for it.
func TestWhoseFaultItWas(t *testing.T) {
	for _, x := range []struct {
		err  error
		o    api.Outcome
		code api.Code
	}{
		{fmt.Errorf("get: %w", api.ErrNotFound), api.OutcomeFunctionError, api.CodeNotFound},
		{fmt.Errorf("compile: %w", api.ErrInvalid), api.OutcomeFunctionError, api.CodeFunction},
		{api.ErrTooLarge, api.OutcomeFunctionError, api.CodeTooLarge},
		{api.ErrDeadline, api.OutcomeInternal, api.CodeUnavailable}, // of a fetch: the store is slow
		{errors.New("no space left on device"), api.OutcomeInternal, api.CodeUnavailable},
		{nil, api.OutcomeOK, api.CodeOK},
	} {
		if ev := ended(nodeagent.Event{Kind: nodeagent.EvFetched, Key: "k"}, x.err); ev.Outcome != x.o || ev.Code != x.code || ev.Err != text(x.err) || ev.Key != "k" {
			t.Errorf("%v: %+v", x.err, ev)
		}
	}
	if o, code := classify(fmt.Errorf("environment: %w", api.ErrInvalid)); o != api.OutcomeFunctionError || code != api.CodeFunction {
		t.Errorf("a function that cannot be started for what it is: %v %s", o, code)
	}
}

// lagging finds an object only after it was asked for so many times.
type lagging struct {
	objectstore.Store
	misses, asked int
	err           error
}

func (s *lagging) Get(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	if s.asked++; s.asked <= s.misses {
		return nil, objectstore.Info{}, fmt.Errorf("get: %w", s.err)
	}
	return s.Store.Get(ctx, key)
}

// A replica that lags does not know yet what was put a moment ago. What nobody has stays not found, and other errors are told at once.
func TestWhatIsNotFoundIsLookedForAgain(t *testing.T) {
	for _, x := range []struct {
		misses, asked int
		err, want     error
	}{{0, 1, nil, nil}, {2, 3, api.ErrNotFound, nil}, {99, findTries, api.ErrNotFound, api.ErrNotFound}, {99, 1, api.ErrUnavailable, api.ErrUnavailable}} {
		s := &lagging{Store: memstore.New(1 << 10), misses: x.misses, err: x.err}
		if _, err := s.Put(t.Context(), "k", strings.NewReader("content")); err != nil {
			t.Fatal(err)
		}
		r, info, err := (&Daemon{deps: Deps{Store: s}}).get(t.Context(), "k")
		if !errors.Is(err, x.want) || s.asked != x.asked || (err == nil) != (x.want == nil) || err == nil && info.Bytes != 7 {
			t.Errorf("%+v: %+v, %v after %d questions", x, info, err, s.asked)
		}
		if r != nil {
			_ = r.Close()
		}
	}
}

// A file system takes names of 255 bytes, an object's key may be longer.
func TestInputNamesFitIntoAFolder(t *testing.T) {
	for _, name := range []string{"x", strings.Repeat("x", 256), strings.Repeat("\u00e9\u4e16", 64)} {
		in := inputName(3, "t/dir/"+name+"@0123456789abcdef")
		if !strings.HasPrefix(in, "03-"+name[:1]) || len(in) > 255 || !utf8.ValidString(in) {
			t.Errorf("%.40q became %q", name, in)
		}
	}
}

func TestReplacedInputIsNotUsed(t *testing.T) {
	b := newBed(t, nil)
	b.put(objectstore.ObjectKey("t", "in"), "new content")
	b.start()
	b.run("i1", func(m *wire.Run) { m.Call.Inputs = []api.Object{api.ObjectOf("t", "in", 3, digest("old"))} })
	if c := b.completion("i1"); c.Outcome != api.OutcomeFunctionError || c.Code != api.CodeNotFound || !strings.Contains(c.Message, "replaced") {
		t.Fatalf("completion %+v", c)
	}
	b.run("i2")
	if c := b.completion("i2"); c.Outcome != api.OutcomeOK {
		t.Fatalf("the node is not well after it: %+v", c)
	}
}

func TestLogsAreCaptured(t *testing.T) {
	b := newBed(t, func(_ *api.Function, c *sandbox.Call) (*sandbox.Result, error) {
		return &sandbox.Result{Logs: []byte("said " + c.ID)}, nil
	})
	b.start()
	for _, id := range []string{"i1", "i2", "i3"} {
		b.run(id)
		b.completion(id)
	}
	ask, err := wire.Encode(&wire.LogsPull{Function: "t/f", Last: 2})
	if err != nil {
		t.Fatal(err)
	}
	reply, err := b.bus.Request(b.ctx, wire.SubjectNode("z", "n", "logs"), ask)
	var logs wire.Logs
	if err := errors.Join(err, wire.Decode(reply, &logs)); err != nil {
		t.Fatal(err)
	}
	if len(logs.Lines) != 2 || logs.Lines[0].Text != "said i2" || logs.Lines[1].ID != "i3" {
		t.Fatalf("logs %+v", logs.Lines)
	}
}

func TestLargeResultsGoByReference(t *testing.T) {
	big := bytes.Repeat([]byte("r"), api.InlineBytes+1)
	b := newBed(t, func(*api.Function, *sandbox.Call) (*sandbox.Result, error) { return &sandbox.Result{Payload: big}, nil })
	b.start()
	b.run("i1")
	c := b.completion("i1")
	if c.Outcome != api.OutcomeOK || len(c.Result) != 0 || c.ResultRef == "" {
		t.Fatalf("completion %+v", c)
	}
	if info, err := b.results.Stat(b.ctx, c.ResultRef); err != nil || info.Bytes != int64(len(big)) {
		t.Fatalf("stored %+v: %v", info, err)
	}
}

func TestFlushOverTheBus(t *testing.T) {
	b := newBed(t, nil)
	b.start()
	b.run("i1")
	b.completion("i1")
	b.send(wire.SubjectAllNodes("z", "flush"), &wire.Flush{Epoch: epoch})
	for b.beat().Flushed == 0 {
	}
	b.run("i2")
	if c := b.completion("i2"); c.Start != api.SandboxNone {
		t.Fatalf("after the flush the sandbox was %v", c.Start)
	}
	if files, err := os.ReadDir(filepath.Join(b.cfg.Dir, "artifacts")); err != nil || len(files) != 1 {
		t.Fatalf("artifacts %v: %v", files, err)
	}
}

func TestLogbookIsBounded(t *testing.T) {
	l := newLogbook()
	for i := range 2 * logCallsPerFunction {
		l.add("t/f", wire.LogLine{UnixMs: int64(i)})
	}
	if lines := l.last("t/f", 0); len(lines) != logCallsPerFunction || lines[len(lines)-1].UnixMs != 2*logCallsPerFunction-1 {
		t.Fatalf("%d lines, the last %+v", len(lines), lines[len(lines)-1])
	}
	for range 3 {
		l.add("t/long", wire.LogLine{Text: strings.Repeat("y", logAnswerBytes/2)})
	}
	if n := len(l.last("t/long", 0)); n > 2 || n < 1 {
		t.Fatalf("%d lines in an answer, half of one long each", n)
	}
	for i := range logFunctions + 1 {
		l.add(strings.Repeat("x", i+1), wire.LogLine{Text: strings.Repeat("y", logAnswerBytes/2)})
	}
	if len(l.byFn) > logFunctions || l.last("t/f", 0) != nil && len(l.last("t/f", 0)) > 0 {
		t.Fatalf("%d functions kept", len(l.byFn))
	}
}

func TestConfigFaultsAreAllReported(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Node.Slots = 0
	err := cfg.Validate()
	for _, want := range []string{"zone", "name", "dir", "slots"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not complained about: %v", want, err)
		}
	}
	if _, err := New(cfg, Deps{}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("New: %v", err)
	}
	if _, err := nodeagent.New(nodeagent.Config{}, 1, api.Epoch{}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("core: %v", err)
	}
}

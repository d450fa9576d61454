package asyncq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/internal/natstest"
	"github.com/rubato-faas/rubato/objectstore"
	"github.com/rubato-faas/rubato/objectstore/memstore"
)

type bed struct {
	t   *testing.T
	ctx context.Context
	q   *Queue
}

func newBed(t *testing.T, change func(*Config)) *bed {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	cfg := DefaultConfig()
	cfg.Zone = "z"
	if change != nil {
		change(&cfg)
	}
	q, err := Open(ctx, natstest.JetStream(t), memstore.New(1<<20), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return &bed{t, ctx, q}
}

func call(id string) *api.Invocation {
	return &api.Invocation{ID: id, Tenant: "t", Function: "f", Async: true, Payload: []byte("p")}
}

func (b *bed) accept(id string) {
	b.t.Helper()
	if err := b.q.Accept(b.ctx, call(id)); err != nil {
		b.t.Fatal(err)
	}
}

// serve hands items to the returned channel until stop, which waits.
func (b *bed) serve() (items chan *Item, stop func()) {
	items = make(chan *Item, 64)
	ctx, cancel := context.WithCancel(b.ctx)
	return items, b.serveWith(ctx, cancel, func(i *Item) { items <- i })
}

// serveWith hands items to handle until stop, which waits.
func (b *bed) serveWith(ctx context.Context, cancel func(), handle func(*Item)) (stop func()) {
	ended := make(chan struct{})
	go func() { defer close(ended); b.q.Serve(ctx, handle) }()
	return func() { cancel(); <-ended }
}

// ended reports whether the call has its record already.
func (b *bed) ended(it *Item) bool {
	b.t.Helper()
	yes, err := it.Ended(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	return yes
}

func (b *bed) next(items chan *Item) *Item {
	b.t.Helper()
	select {
	case i := <-items:
		return i
	case <-b.ctx.Done():
		b.t.Fatal("no call was handed out")
		return nil
	}
}

func (b *bed) result(id string) (*wire.Answer, bool, error) { return b.q.Result(b.ctx, "t", id) }

func TestAcceptServeDone(t *testing.T) {
	b := newBed(t, nil)
	if _, _, err := b.result("i1"); !errors.Is(err, api.ErrNotFound) {
		t.Fatalf("an unknown call: %v", err)
	}
	b.accept("i1")
	b.accept("i1") // the door repeated itself
	if a, pending, err := b.result("i1"); a != nil || !pending || err != nil {
		t.Fatalf("before it ran: %v %v %v", a, pending, err)
	}
	items, stop := b.serve()
	it := b.next(items)
	if it.Call.ID != "i1" || !it.Call.Async || string(it.Call.Payload) != "p" {
		t.Fatalf("handed out %+v", it.Call)
	}
	if err := it.Done(b.ctx, &wire.Answer{ID: "i1", Result: []byte("first")}); err != nil {
		t.Fatal(err)
	}
	if a, pending, err := b.result("i1"); pending || err != nil || string(a.Result) != "first" {
		t.Fatalf("after it ran: %+v %v %v", a, pending, err)
	}
	b.accept("i2")
	if it := b.next(items); it.Call.ID != "i2" {
		t.Fatalf("%s was handed out twice", it.Call.ID)
	}
	stop()
}

func TestFirstTerminalRecordWins(t *testing.T) {
	b := newBed(t, nil)
	b.accept("i1")
	items, stop := b.serve()
	defer stop()
	it := b.next(items)
	for _, r := range []string{"first", "second"} {
		if err := it.Done(b.ctx, &wire.Answer{ID: "i1", Result: []byte(r)}); err != nil {
			t.Fatal(err)
		}
	}
	if a, _, err := b.result("i1"); err != nil || string(a.Result) != "first" {
		t.Fatalf("record %+v: %v", a, err)
	}
}

func TestLostWorkersCallIsHandedOutAgain(t *testing.T) {
	b := newBed(t, func(c *Config) { c.AckWait = 200 * time.Millisecond })
	b.accept("i1")
	items, stop := b.serve()
	b.next(items)
	stop() // the worker dies with the call
	items, stop = b.serve()
	defer stop()
	it := b.next(items)
	if it.Call.ID != "i1" {
		t.Fatalf("handed out %s", it.Call.ID)
	}
	it.Return(0)
	if again := b.next(items); again.Call.ID != "i1" {
		t.Fatalf("handed out %s", again.Call.ID)
	}
}

// Calls that were handed back, since no node can take them for now, leave room for the calls behind them.
func TestCallsHandedBackLeaveRoom(t *testing.T) {
	b := newBed(t, func(c *Config) { c.MaxRunning = 3 })
	items, stop := b.serve()
	defer stop()
	for i := range 9 {
		b.accept(fmt.Sprintf("stuck%d", i))
		b.next(items).Return(time.Hour)
	}
	b.accept("good")
	if it := b.next(items); it.Call.ID != "good" {
		t.Fatalf("handed out %s", it.Call.ID)
	}
}

// No more calls than MaxRunning are worked on at once, and all are in the end.
func TestServeWorksOnSoManyAtOnce(t *testing.T) {
	const most, calls = 3, 20
	b := newBed(t, func(c *Config) { c.MaxRunning = most })
	for i := range calls {
		b.accept(fmt.Sprintf("i%d", i))
	}
	ctx, cancel := context.WithCancel(b.ctx)
	started, goOn := make(chan *Item, calls), make(chan struct{})
	var now, peak atomic.Int32
	stop := b.serveWith(ctx, cancel, func(i *Item) {
		for n := now.Add(1); ; {
			if p := peak.Load(); n <= p || peak.CompareAndSwap(p, n) {
				break
			}
		}
		started <- i
		<-goOn
		if err := i.Done(b.ctx, &wire.Answer{ID: i.Call.ID}); err != nil {
			t.Errorf("done: %v", err)
		}
		now.Add(-1)
	})
	defer stop()
	for range most {
		b.next(started)
	}
	for range calls - most {
		goOn <- struct{}{}
		b.next(started)
	}
	close(goOn)
	b.empty()
	if p := peak.Load(); p != most {
		t.Errorf("%d were worked on at once: want %d", p, most)
	}
}

// A pull that fails neither ends the queue's service nor waits for the calls that are worked on.
func TestServeOutlivesAPullThatFails(t *testing.T) {
	b := newBed(t, nil)
	ctx, cancel := context.WithCancel(b.ctx)
	started, goOn := make(chan *Item, 2), make(chan struct{})
	stop := b.serveWith(ctx, cancel, func(i *Item) {
		started <- i
		if i.Call.ID == "long" {
			<-goOn
		}
		if err := i.Done(b.ctx, &wire.Answer{ID: i.Call.ID}); err != nil {
			t.Errorf("done: %v", err)
		}
	})
	defer stop()
	defer close(goOn)
	b.accept("long")
	b.next(started)
	if err := b.q.stream.DeleteConsumer(b.ctx, "leader"); err != nil {
		t.Fatal(err)
	}
	b.accept("short")
	for b.next(started).Call.ID != "short" { // the other one is handed out again by the new consumer
	}
}

func TestBackOff(t *testing.T) {
	for _, c := range []struct {
		delay time.Duration
		tries uint64
		want  time.Duration
	}{
		{0, 1 << 60, 0}, {time.Second, 0, time.Second}, {time.Second, 1, time.Second}, {time.Second, 3, 4 * time.Second},
		{time.Second, 1 << 60, maxReturn}, {time.Hour, 1, time.Hour}, {time.Hour, 5, time.Hour},
	} {
		if got := backOff(c.delay, c.tries); got != c.want {
			t.Errorf("%v after %d tries: %v, want %v", c.delay, c.tries, got, c.want)
		}
	}
}

// A call whose record was written, but whose acknowledgement was lost, does not run again.
func TestEndedCallIsNotHandedOutAgain(t *testing.T) {
	b := newBed(t, func(c *Config) { c.AckWait = 200 * time.Millisecond })
	b.accept("i1")
	items, stop := b.serve()
	b.next(items)
	data, err := wire.Encode(&wire.Answer{ID: "i1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.q.records.Create(b.ctx, recordKey("t", "i1"), data); err != nil {
		t.Fatal(err)
	}
	stop()
	items, stop = b.serve()
	defer stop()
	if !b.ended(b.next(items)) {
		t.Fatal("the call would run again")
	}
	b.empty()
}

// empty waits until the queue has no call left.
func (b *bed) empty() {
	b.t.Helper()
	for {
		info, err := b.q.stream.Info(b.ctx)
		if err != nil {
			b.t.Fatal(err)
		}
		if info.State.Msgs == 0 {
			return
		}
	}
}

func TestCanceledCallDoesNotRun(t *testing.T) {
	b := newBed(t, nil)
	canceled := &wire.Answer{ID: "i1", Code: api.CodeCanceled}
	if err := b.q.Cancel(b.ctx, "t", "i1", canceled); !errors.Is(err, api.ErrNotFound) {
		t.Fatalf("cancel of an unknown call: %v", err)
	}
	b.accept("i1")
	if err := b.q.Cancel(b.ctx, "other", "i1", canceled); !errors.Is(err, api.ErrNotFound) {
		t.Fatalf("cancel of another tenant's call: %v", err)
	}
	for range 2 {
		if err := b.q.Cancel(b.ctx, "t", "i1", canceled); err != nil {
			t.Fatal(err)
		}
	}
	items, stop := b.serve()
	defer stop()
	if !b.ended(b.next(items)) {
		t.Fatal("a canceled call would run")
	}
	b.empty()
	if a, _, err := b.result("i1"); err != nil || a.Code != api.CodeCanceled {
		t.Fatalf("record %+v: %v", a, err)
	}
}

func TestCancelComesTooLate(t *testing.T) {
	b := newBed(t, nil)
	b.accept("i1")
	items, stop := b.serve()
	defer stop()
	it := b.next(items)
	if b.ended(it) {
		t.Fatal("a call that waits has ended")
	}
	if err := it.Done(b.ctx, &wire.Answer{ID: "i1", Result: []byte("r")}); err != nil {
		t.Fatal(err)
	}
	if err := b.q.Cancel(b.ctx, "t", "i1", &wire.Answer{ID: "i1", Code: api.CodeCanceled}); err != nil {
		t.Fatal(err)
	}
	if a, _, err := b.result("i1"); err != nil || string(a.Result) != "r" {
		t.Fatalf("record %+v: %v", a, err)
	}
}

func TestACallIsKeptWhileItIsWorkedOn(t *testing.T) {
	const ackWait = 2 * time.Second
	b := newBed(t, func(c *Config) { c.AckWait = ackWait })
	b.accept("i1")
	ctx, cancel := context.WithCancel(b.ctx)
	started, goOn := make(chan *Item, 8), make(chan struct{})
	stop := b.serveWith(ctx, cancel, func(i *Item) { started <- i; <-goOn })
	defer stop()
	defer close(goOn)
	b.next(started)
	select {
	case <-time.After(3 * ackWait / 2):
	case <-started:
		t.Fatal("a call that is being worked on was handed out again")
	}
}

func TestFullQueueRefuses(t *testing.T) {
	b := newBed(t, func(c *Config) { c.MaxPending = 3 })
	for i := range 3 {
		b.accept(fmt.Sprint("i", i))
	}
	if err := b.q.Accept(b.ctx, call("i3")); !errors.Is(err, api.ErrOverloaded) {
		t.Fatalf("above the limit: %v", err)
	}
}

func TestATenantLeavesRoomForOthers(t *testing.T) {
	b := newBed(t, func(c *Config) { c.MaxPending = 80 })
	fill := func(q *Queue, tenant string) (accepted int) {
		for i := range 100 {
			inv := call(fmt.Sprint(tenant, i))
			inv.Tenant = tenant
			switch err := q.Accept(b.ctx, inv); {
			case err == nil:
				accepted++
			case !errors.Is(err, api.ErrOverloaded):
				t.Fatal(err)
			}
		}
		return accepted
	}
	if n := fill(b.q, "greedy"); n != 70 {
		t.Errorf("a tenant alone had %d calls accepted of at most 80, want 7/8 of them", n)
	}
	// Another door has accepted none of those, and must find them.
	other, err := Open(b.ctx, b.q.js, b.q.bodies, b.q.cfg, b.q.log)
	if err != nil {
		t.Fatal(err)
	}
	if n := fill(other, "late"); n != 9 {
		t.Errorf("one that came late had %d calls accepted, want 9: seven times what it leaves free", n)
	}
	if n := fill(other, "greedy"); n != 0 {
		t.Errorf("the first had %d more accepted", n)
	}
	if n := fill(other, "third"); n != 1 {
		t.Errorf("a third had %d accepted, want the last place", n)
	}
}

func TestUnreadableCallIsDroppedAndTheNextServed(t *testing.T) {
	b := newBed(t, nil)
	if _, err := b.q.js.Publish(b.ctx, b.q.subject("t", "bad"), []byte{wire.Version, 0xff}); err != nil {
		t.Fatal(err)
	}
	b.accept("i1")
	items, stop := b.serve()
	defer stop()
	if it := b.next(items); it.Call.ID != "i1" {
		t.Fatalf("handed out %s", it.Call.ID)
	}
}

// While schedulers are upgraded, one that does not read a call's version leads: the call stays.
func TestCallOfANewerVersionWaitsForWhoReadsIt(t *testing.T) {
	b := newBed(t, func(c *Config) { c.AckWait = 200 * time.Millisecond })
	newer, err := wire.Encode(&wire.Invoke{Call: *call("new")})
	if err != nil {
		t.Fatal(err)
	}
	newer[0] = wire.Version + 1
	if _, err := b.q.js.Publish(b.ctx, b.q.subject("t", "new"), newer); err != nil {
		t.Fatal(err)
	}
	b.accept("i1")
	items, stop := b.serve()
	defer stop()
	it := b.next(items)
	if it.Call.ID != "i1" {
		t.Fatalf("handed out %s", it.Call.ID)
	}
	if err := it.Done(b.ctx, &wire.Answer{ID: "i1"}); err != nil {
		t.Fatal(err)
	}
	if _, pending, err := b.result("new"); !pending || err != nil {
		t.Errorf("the newer call: pending %v, %v: want it kept", pending, err)
	}
	// A record of a newer version is an error that says so, not a call that never was.
	if _, err := b.q.records.Create(b.ctx, recordKey("t", "old"), []byte{wire.Version + 1, 0x80}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.result("old"); !errors.Is(err, wire.ErrVersion) {
		t.Errorf("a newer record: %v, want an unknown version", err)
	}
}

// A large payload goes with the call's place in the queue, also when who took the call dies before it has left, and when
// the call is canceled while it waits.
func TestPayloadsGoWithTheirCalls(t *testing.T) {
	b := newBed(t, func(c *Config) { c.AckWait = 200 * time.Millisecond })
	submit := func(id string) {
		c := call(id)
		c.PayRef = objectstore.BodyKey("t", id)
		if _, err := b.q.bodies.Put(b.ctx, c.PayRef, strings.NewReader("large")); err != nil {
			t.Fatal(err)
		}
		if err := b.q.Accept(b.ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	submit("done")
	submit("died")
	submit("canceled")
	items, stop := b.serve()
	got := map[string]*Item{}
	for len(got) < 3 {
		it := b.next(items)
		got[it.Call.ID] = it
	}
	if err := got["done"].Done(b.ctx, &wire.Answer{ID: "done"}); err != nil {
		t.Fatal(err)
	}
	if err := b.q.end(b.ctx, "t", "died", &wire.Answer{ID: "died"}); err != nil {
		t.Fatal(err)
	}
	if err := b.q.Cancel(b.ctx, "t", "canceled", &wire.Answer{ID: "canceled", Code: api.CodeCanceled}); err != nil {
		t.Fatal(err)
	}
	stop()
	items, stop = b.serve()
	defer stop()
	for range 2 {
		if it := b.next(items); !b.ended(it) {
			t.Fatalf("%s would run again", it.Call.ID)
		}
	}
	b.empty()
	if left, err := b.q.bodies.List(b.ctx, "", 10); err != nil || len(left) != 0 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}

func TestFullRecordsForgetTheOldest(t *testing.T) {
	b := newBed(t, func(c *Config) { c.MaxRecordBytes = 64 << 10 })
	const n = 20
	for i := range n {
		id := fmt.Sprint("i", i)
		if err := b.q.end(b.ctx, "t", id, &wire.Answer{ID: id, Result: make([]byte, 8<<10)}); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	if _, _, err := b.result("i0"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("the oldest record: %v, want ErrNotFound", err)
	}
	if a, _, err := b.result(fmt.Sprint("i", n-1)); err != nil || a == nil {
		t.Errorf("the latest record: %+v, %v", a, err)
	}
}

func TestConfigFaultsAllAtOnce(t *testing.T) {
	err := (&Config{}).Validate()
	if !errors.Is(err, api.ErrInvalid) {
		t.Fatalf("error %v, want ErrInvalid", err)
	}
	for _, part := range []string{"replicas", "keep", "max_record_bytes", "max_pending", "max_running", "ack_wait"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not tell of %q: %v", part, err)
		}
	}
}

func TestZoneMustBeNamed(t *testing.T) {
	if _, err := Open(context.Background(), nil, nil, DefaultConfig(), slog.New(slog.DiscardHandler)); !errors.Is(err, api.ErrInvalid) {
		t.Fatalf("no zone: %v", err)
	}
}

// Schedulers start while others use the queue: what is as it should be is not configured anew, what is not is.
func TestOpenLeavesAloneWhatIsRight(t *testing.T) {
	js := natstest.JetStream(t)
	sub, err := js.Conn().SubscribeSync("$JS.EVENT.ADVISORY.STREAM.UPDATED.>")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cfg := DefaultConfig()
	cfg.Zone = "z"
	for stage, want := range []int{1, 0, 2, 1} { // the bucket of records is made and updated, left alone, updated twice; then the stream
		q, err := Open(ctx, js, memstore.New(1<<20), cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for range want { // advisories come after the answers
			if _, err := sub.NextMsgWithContext(ctx); err != nil {
				t.Fatalf("stage %d: %v", stage, err)
			}
		}
		s, err := q.js.Stream(ctx, "KV_rb_records_z")
		if err != nil || s.CachedInfo().Config.Discard != jetstream.DiscardOld || s.CachedInfo().Config.AllowDirect {
			t.Errorf("records: %v, %v", s, err)
		}
		switch stage {
		case 1:
			cfg.MaxRecordBytes *= 2
		case 2:
			cfg.MaxPending *= 2
		}
	}
	// What was updated without need was heard in place of what was awaited, which is then left.
	if n, _, err := sub.Pending(); err != nil || n != 0 {
		t.Errorf("%d updates more than needed (%v)", n, err)
	}
}

// A caller's time goes on while its call waits in the queue, and from one handing out to the next.
func TestBudgetIsSpentInTheQueue(t *testing.T) {
	b := newBed(t, nil)
	for id, budget := range map[string]int64{"short": 1, "long": 60_000, "none": 0} {
		c := call(id)
		c.BudgetMs = budget
		if err := b.q.Accept(b.ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	items, stop := b.serve()
	defer stop()
	for seen := 0; seen < 4; { // "long" comes twice
		it := b.next(items)
		switch it.Call.ID {
		case "short":
			if !it.Late { // handed out within its millisecond
				it.Return(2 * time.Millisecond)
				continue
			}
		case "long":
			if it.Late || it.Call.BudgetMs > 60_000 || it.Call.BudgetMs < 1 {
				t.Errorf("long: late %v, %d ms left", it.Late, it.Call.BudgetMs)
			}
			if md, err := it.msg.Metadata(); err != nil {
				t.Fatal(err)
			} else if md.NumDelivered == 1 {
				it.Return(40 * time.Millisecond) // give or take a quarter
				seen++
				continue
			}
			if it.Call.BudgetMs > 60_000-30 {
				t.Errorf("long: %d ms are left after 30 ms", it.Call.BudgetMs)
			}
		case "none":
			if it.Late || it.Call.BudgetMs != 0 {
				t.Errorf("none: late %v, %d ms left", it.Late, it.Call.BudgetMs)
			}
		}
		it.ack()
		seen++
	}
}

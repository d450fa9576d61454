// Package asyncq keeps accepted asynchronous calls of one zone in JetStream: a work-queue stream that a call leaves
// only once its terminal record is written, and a create-only bucket of those records. A 202 means that the call is on
// disk (the server's sync_interval must be "always" for that to survive a power cut). The zone's leader serves the
// queue; doors of every scheduler of the zone accept and look up. It decides nothing about where calls run.
package asyncq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/objectstore"
)

// Config of one zone's queue.
type Config struct {
	Zone string `koanf:"-"`
	// Replicas of the stream and the records: 1 for a single server, 3 in production.
	Replicas int `koanf:"replicas" doc:"copies of the queue and its records (3 in production)"`
	// Keep is how long terminal records can be looked up.
	Keep time.Duration `koanf:"keep" doc:"how long results can be looked up"`
	// MaxRecordBytes bounds terminal records; beyond it the oldest go before Keep is over.
	MaxRecordBytes int64 `koanf:"max_record_bytes" doc:"bound of the records; beyond it the oldest go early"`
	// MaxPending bounds accepted, unfinished calls, and those of a tenant at tenantShare times what is free; more are refused with 429.
	MaxPending int64 `koanf:"max_pending" doc:"accepted, unfinished asynchronous calls, of one tenant at most 7 times what is free; more are refused with 429"`
	// MaxRunning bounds calls handed to the scheduler at once; those that it handed back do not count.
	MaxRunning int `koanf:"max_running" doc:"asynchronous calls that the scheduler works on at once"`
	// AckWait is how long the queue waits for a sign of life before it hands a call out again.
	AckWait time.Duration `koanf:"ack_wait" doc:"silence after which a call is handed out again"`
}

// DefaultConfig suits one server.
func DefaultConfig() Config {
	return Config{Replicas: 1, Keep: time.Hour, MaxRecordBytes: 4 << 30, MaxPending: 100_000, MaxRunning: 256, AckWait: 5 * time.Second}
}

// Validate reports all faults but a missing zone, which whoever opens the queue fills in.
func (c *Config) Validate() error {
	var errs []error
	for _, l := range []struct {
		name string
		ok   bool
	}{
		{"replicas", c.Replicas >= 1 && c.Replicas <= 5}, {"keep", c.Keep > 0}, {"max_record_bytes", c.MaxRecordBytes > 0},
		{"max_pending", c.MaxPending > 0}, {"max_running", c.MaxRunning > 0}, {"ack_wait", c.AckWait > 0},
	} {
		if !l.ok {
			errs = append(errs, fmt.Errorf("%w: async: %s: want more than 0 (and replicas up to 5)", api.ErrInvalid, l.name))
		}
	}
	return errors.Join(errs...)
}

// Queue is the zone's queue. Safe for concurrent use.
type Queue struct {
	cfg     Config
	js      jetstream.JetStream
	stream  jetstream.Stream
	records jetstream.KeyValue
	bodies  objectstore.Store
	log     *slog.Logger
	tally   tally
	asking  sync.Mutex // held by the one who brings tally up to date
}

// Open makes the stream and the bucket when they are not there yet. bodies is where large payloads of calls lie.
func Open(ctx context.Context, js jetstream.JetStream, bodies objectstore.Store, cfg Config, log *slog.Logger) (*Queue, error) {
	if err := errors.Join(api.CheckName("zone", cfg.Zone), cfg.Validate()); err != nil {
		return nil, fmt.Errorf("asyncq open: %w", err)
	}
	q := &Queue{cfg: cfg, js: js, bodies: bodies, log: log}
	var err error
	q.stream, err = stream(ctx, js, jetstream.StreamConfig{
		Name: "rb_async_" + cfg.Zone, Subjects: []string{q.subject("*", "*")}, Retention: jetstream.WorkQueuePolicy,
		Storage: jetstream.FileStorage, Replicas: cfg.Replicas, MaxMsgs: cfg.MaxPending, Discard: jetstream.DiscardNew,
		Duplicates: 2 * time.Minute,
	})
	if err != nil {
		return nil, fmt.Errorf("asyncq open stream: %w", err)
	}
	if q.records, err = records(ctx, js, &cfg); err != nil {
		return nil, fmt.Errorf("asyncq open records: %w", err)
	}
	return q, nil
}

// stream opens a stream. What is as it should be already is left alone: schedulers start while others use it.
func stream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	s, err := js.Stream(ctx, want.Name)
	if err == nil {
		if is := &s.CachedInfo().Config; slices.Equal(is.Subjects, want.Subjects) && is.Retention == want.Retention && is.Storage == want.Storage &&
			is.Replicas == want.Replicas && is.MaxMsgs == want.MaxMsgs && is.Discard == want.Discard && is.Duplicates == want.Duplicates {
			return s, nil
		}
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, err
	}
	return js.CreateOrUpdateStream(ctx, want)
}

// records opens the bucket of records likewise.
func records(ctx context.Context, js jetstream.JetStream, cfg *Config) (jetstream.KeyValue, error) {
	bucket := "rb_records_" + cfg.Zone
	s, err := js.Stream(ctx, "KV_"+bucket)
	if err == nil {
		if is := &s.CachedInfo().Config; is.MaxAge == cfg.Keep && is.MaxBytes == cfg.MaxRecordBytes && is.Replicas == cfg.Replicas &&
			is.Discard == jetstream.DiscardOld && is.MaxMsgsPerSubject == 1 && !is.AllowDirect {
			return js.KeyValue(ctx, bucket)
		}
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, err
	}
	_, err = js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: bucket, TTL: cfg.Keep, MaxBytes: cfg.MaxRecordBytes, Storage: jetstream.FileStorage, Replicas: cfg.Replicas, History: 1,
	})
	if err != nil {
		return nil, err
	}
	if err := forRecords(ctx, js, "KV_"+bucket); err != nil {
		return nil, err
	}
	return js.KeyValue(ctx, bucket) // which reads as the stream says it may
}

// forRecords changes what the library makes of a bucket. A full one must forget its oldest records: it would refuse new ones, and calls that
// have ended would be handed out, and run, again and again. And it is read at its leader: another replica may lag behind, and who finds no
// record there takes an ended call for one that nobody knows, or a canceled one for one that may run.
func forRecords(ctx context.Context, js jetstream.JetStream, stream string) error {
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	cfg := s.CachedInfo().Config
	cfg.Discard, cfg.AllowDirect = jetstream.DiscardOld, false
	_, err = js.UpdateStream(ctx, cfg)
	return err
}

func (q *Queue) subject(tenant, id string) string {
	return "rb.q." + q.cfg.Zone + "." + tenant + "." + id
}

// Accept puts a call on disk. The same id is accepted once. api.ErrOverloaded when the queue is full, or its tenant's share of it.
func (q *Queue) Accept(ctx context.Context, inv *api.Invocation) error {
	b, err := wire.Encode(&wire.Invoke{Call: *inv})
	if err != nil {
		return fmt.Errorf("asyncq accept: %w", err)
	}
	if err := q.share(ctx, inv.Tenant); err != nil {
		return fmt.Errorf("asyncq accept: %w", err)
	}
	m := &nats.Msg{Subject: q.subject(inv.Tenant, inv.ID), Data: b}
	ack, err := q.js.PublishMsg(ctx, m, jetstream.WithMsgID(inv.ID))
	if err != nil {
		var api2 *jetstream.APIError
		if errors.As(err, &api2) && api2.Description == "maximum messages exceeded" {
			return fmt.Errorf("asyncq accept: %w: %d calls wait", api.ErrOverloaded, q.cfg.MaxPending)
		}
		return fmt.Errorf("asyncq accept: %w: %w", api.ErrUnavailable, err)
	}
	if !ack.Duplicate {
		q.accepted(inv.Tenant)
	}
	return nil
}

// Item is one call handed out. Exactly one of Ended (by saying so), Done and Return ends it.
type Item struct {
	// Call as it was accepted, but for its budget: what is left of it now.
	Call *api.Invocation
	// Late: nothing is left of the budget. Such a call must not run.
	Late     bool
	q        *Queue
	msg      jetstream.Msg
	at       time.Time // handed out
	accepted time.Time
}

// Accepted is when the call was put into the queue, by this machine's clock to some milliseconds.
func (i *Item) Accepted() time.Time { return i.accepted }

// spend takes from the call's budget what it has waited in the queue, which is by the clock of the server that stored it, so far ahead of
// this machine's: a caller's time goes on while nobody leads.
func (i *Item) spend(ahead time.Duration) {
	md, err := i.msg.Metadata()
	if err != nil {
		i.accepted = i.at
		return
	}
	i.accepted = md.Timestamp.Add(-ahead)
	if i.Call.BudgetMs > 0 {
		left := i.Call.BudgetMs - max(i.at.Sub(i.accepted).Milliseconds(), 0)
		i.Late, i.Call.BudgetMs = left <= 0, max(left, 1)
	}
}

// Serve hands out calls, each to handle on a goroutine of its own, at most MaxRunning at once, until ctx ends; then it returns once each handle
// has. It says itself that they are worked on for as long. What handle does not end is handed out again later, to whoever leads
// then. A call that was handed back waits outside of MaxRunning: any number that no node can take for now leave room for those behind
// them. A queue that is out of reach is asked again.
func (q *Queue) Serve(ctx context.Context, handle func(*Item)) {
	room := make(chan struct{}, q.cfg.MaxRunning) // holds one for each call that is worked on
	var working sync.WaitGroup
	defer working.Wait()
	for ctx.Err() == nil {
		err := q.serve(ctx, room, func(item *Item) {
			working.Go(func() {
				defer func() { <-room }()
				stop := item.alive()
				defer stop()
				handle(item)
			})
		})
		if ctx.Err() != nil {
			return
		}
		q.log.Warn("asynchronous queue, asked again in a second", "zone", q.cfg.Zone, "err", err)
		t := time.NewTimer(time.Second)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// serve pulls calls as long as there is room and nothing fails; begin gives back the room of each, later.
func (q *Queue) serve(ctx context.Context, room chan struct{}, begin func(*Item)) error {
	asked := time.Now()
	cons, err := q.stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: "leader", AckPolicy: jetstream.AckExplicitPolicy, AckWait: q.cfg.AckWait,
		MaxAckPending: -1, // the server counts those that were handed back, too: with a bound they would stop the queue for all tenants
	})
	if err != nil {
		return fmt.Errorf("asyncq serve: %w", err)
	}
	// Calls are stamped by the server's clock, which need not be this machine's: deadlines must not depend on both being right.
	ahead := cons.CachedInfo().TimeStamp.Sub(asked)
	for {
		// No more than is worked on at once is asked for: what waits here would be taken for lost after AckWait.
		n, err := take(ctx, room)
		if err != nil {
			return err
		}
		begun, err := q.pull(ctx, cons, n, ahead, begin)
		for range n - begun {
			<-room
		}
		if err != nil {
			return err
		}
	}
}

// pull begins up to n calls, and says how many it did.
func (q *Queue) pull(ctx context.Context, cons jetstream.Consumer, n int, ahead time.Duration, begin func(*Item)) (begun int, err error) {
	within, cancel := context.WithTimeout(ctx, pullFor)
	defer cancel()
	batch, err := cons.Fetch(n, jetstream.FetchContext(within))
	if err != nil {
		return 0, fmt.Errorf("asyncq pull: %w", err)
	}
	for msg := range batch.Messages() {
		if ctx.Err() != nil { // for whoever serves next, and not only once it is overdue
			if err := msg.Nak(); err != nil {
				q.log.Debug("return", "subject", msg.Subject(), "err", err)
			}
			continue
		}
		if item := q.item(msg, ahead); item != nil {
			begun++
			begin(item)
		}
	}
	if err := batch.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return begun, fmt.Errorf("asyncq pull: %w", err)
	}
	return begun, nil
}

// pullFor is how long a request for calls stands.
const pullFor = 5 * time.Second

// take waits for room for one and takes what else there is; n is how much it took.
func take(ctx context.Context, room chan struct{}) (n int, err error) {
	select {
	case room <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for n = 1; n < cap(room); n++ {
		select {
		case room <- struct{}{}:
		default:
			return n, nil
		}
	}
	return n, nil
}

// item is the call of a message; nil of one that cannot be read, which it deals with.
func (q *Queue) item(msg jetstream.Msg, ahead time.Duration) *Item {
	var m wire.Invoke
	if err := wire.Decode(msg.Data(), &m); errors.Is(err, wire.ErrVersion) {
		// It was accepted and must run: a leader of the program that wrote it will come back with the upgrade.
		q.log.Warn("asynchronous call of another version, left for whoever reads it", "subject", msg.Subject(), "err", err)
		(&Item{Call: &api.Invocation{}, q: q, msg: msg}).Return(q.cfg.AckWait)
		return nil
	} else if err != nil {
		q.log.Error("asynchronous call unreadable, dropped", "subject", msg.Subject(), "err", err)
		if err := msg.Term(); err != nil {
			q.log.Warn("term", "err", err)
		}
		return nil
	}
	item := &Item{Call: &m.Call, q: q, msg: msg, at: time.Now()}
	item.spend(ahead)
	return item
}

// Ended reports whether the call has its terminal record already, and takes it from the queue if so: it was canceled
// while it waited, or only its acknowledgement was lost. Such a call must not run, nor may one of which that can't be told.
func (i *Item) Ended(ctx context.Context) (bool, error) {
	a, err := i.q.record(ctx, i.Call.Tenant, i.Call.ID)
	if a == nil || err != nil {
		return false, err
	}
	if err := i.leave(ctx); err != nil {
		i.q.log.Warn("ended call stays in the queue", "id", i.Call.ID, "err", err)
	}
	return true, nil
}

// leave takes an ended call from the queue, and its payload with it. The payload goes first: who dies between the two
// leaves a call that is handed out once more, not a payload that nobody knows of.
func (i *Item) leave(ctx context.Context) error {
	if i.Call.PayRef != "" {
		if err := i.q.bodies.Delete(ctx, i.Call.PayRef); err != nil {
			return fmt.Errorf("asyncq remove payload of %s: %w", i.Call.ID, err)
		}
	}
	i.ack()
	return nil
}

// alive says that the call is worked on, until stop.
func (i *Item) alive() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(i.q.cfg.AckWait / 4)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				if err := i.msg.InProgress(); err != nil {
					i.q.log.Debug("extend", "id", i.Call.ID, "err", err)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// Return hands the call back, for another try after about delay, or twice that for each time it was handed out before, up to maxReturn:
// many that nobody can take would else keep the queue busy. A call with a budget comes again when that is over, at the latest.
func (i *Item) Return(delay time.Duration) {
	tries := uint64(1)
	if md, err := i.msg.Metadata(); err == nil {
		tries = md.NumDelivered
	}
	delay = time.Duration(float64(backOff(delay, tries)) * (.75 + .5*rand.Float64())) // many that were refused at once do not come at once
	if left := time.Duration(i.Call.BudgetMs)*time.Millisecond - time.Since(i.at); i.Call.BudgetMs > 0 && !i.Late {
		delay = min(delay, max(left, 0))
	}
	if err := i.msg.NakWithDelay(delay); err != nil {
		i.q.log.Debug("return", "id", i.Call.ID, "err", err)
	}
}

// maxReturn is about how long a call waits at most until it is tried again, unless its scheduler asked for more.
const maxReturn = time.Minute

func backOff(delay time.Duration, tries uint64) time.Duration {
	grown := delay
	for ; tries > 1 && grown > 0 && grown < maxReturn; tries-- {
		grown *= 2
	}
	return max(min(grown, maxReturn), delay)
}

// Done writes the terminal record (the first one wins) and takes the call from the queue.
func (i *Item) Done(ctx context.Context, a *wire.Answer) error {
	if err := i.q.end(ctx, i.Call.Tenant, i.Call.ID, a); err != nil {
		return err
	}
	return i.leave(ctx)
}

// end writes a terminal record unless there is one.
func (q *Queue) end(ctx context.Context, tenant, id string, a *wire.Answer) error {
	b, err := wire.Encode(a)
	if err != nil {
		return fmt.Errorf("asyncq encode record: %w", err)
	}
	if _, err := q.records.Create(ctx, recordKey(tenant, id), b); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("asyncq record %s: %w: %w", id, api.ErrUnavailable, err)
	}
	return nil
}

// Cancel gives a call that has not ended the terminal record a; who is handed the call afterwards finds it ended, and
// who works on it already must be told otherwise. The call stays in the stream until the leader takes it out.
// api.ErrNotFound when the queue does not know the call.
func (q *Queue) Cancel(ctx context.Context, tenant, id string, a *wire.Answer) error {
	if _, pending, err := q.Result(ctx, tenant, id); err != nil || !pending {
		return err
	}
	return q.end(ctx, tenant, id, a)
}

func (i *Item) ack() {
	if err := i.msg.Ack(); err != nil {
		i.q.log.Warn("ack", "id", i.Call.ID, "err", err)
	}
}

func recordKey(tenant, id string) string { return tenant + "." + id }

// Result looks a call up: its answer when it has ended; pending when it waits or runs; api.ErrNotFound otherwise.
func (q *Queue) Result(ctx context.Context, tenant, id string) (a *wire.Answer, pending bool, err error) {
	// The record is written before the call leaves the stream: after "neither", the record must be asked for once more.
	for range 2 {
		if a, err := q.record(ctx, tenant, id); a != nil || err != nil {
			return a, false, err
		}
		if _, err := q.stream.GetLastMsgForSubject(ctx, q.subject(tenant, id)); err == nil {
			return nil, true, nil
		} else if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil, false, fmt.Errorf("asyncq look up %s: %w: %w", id, api.ErrUnavailable, err)
		}
	}
	return nil, false, fmt.Errorf("%w: invocation %s", api.ErrNotFound, id)
}

func (q *Queue) record(ctx context.Context, tenant, id string) (*wire.Answer, error) {
	e, err := q.records.Get(ctx, recordKey(tenant, id))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("asyncq look up %s: %w: %w", id, api.ErrUnavailable, err)
	}
	a := &wire.Answer{}
	if err := wire.Decode(e.Value(), a); err != nil {
		return nil, fmt.Errorf("asyncq record %s: %w", id, err)
	}
	return a, nil
}

package noded

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/time/rate"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/nodeagent"
	"github.com/rubato-faas/rubato/objectstore"
	"github.com/rubato-faas/rubato/sandbox"
)

// linkChunk is the unit in which the link's limit is spent.
const linkChunk = 64 << 10

func (d *Daemon) carryOut(a *nodeagent.Action) {
	switch a.Kind {
	case nodeagent.ActPersistEpoch:
		if err := saveEpoch(filepath.Join(d.cfg.Dir, epochFile), a.Epoch); err != nil {
			// Going on would let a lower epoch back in after a restart: better to be a dead node.
			d.deps.Log.Error("epoch not persisted; the node stops", "node", d.cfg.Name, "err", err)
			d.failed = fmt.Errorf("noded persist epoch %v: %w", a.Epoch, err)
			d.cancel()
		}
	case nodeagent.ActFetch:
		key := a.Key // a is scratch of the loop
		d.task(func() { d.fetchObject(key) })
	case nodeagent.ActFetchArtifact:
		fn := a.Fn
		d.task(func() { d.fetchArtifact(fn) })
	case nodeagent.ActPrepare:
		fn := a.Fn
		d.task(func() { d.prepare(fn) })
	case nodeagent.ActStart:
		d.start(a.Sandbox, a.Fn)
	case nodeagent.ActExec:
		d.exec(a)
	case nodeagent.ActStop:
		if c := d.cancels[a.ID]; c != nil {
			if a.Outcome == api.OutcomeTimeout {
				c(api.ErrDeadline)
			} else {
				c(api.ErrCanceled)
			}
		}
	case nodeagent.ActClose:
		d.close(a.Sandbox)
	case nodeagent.ActDropObject:
		d.remove(d.objectPath(a.Key))
	case nodeagent.ActDropArtifact:
		digest := a.Digest
		for _, rt := range d.deps.Runtimes {
			rt.Forget(digest)
		}
		d.remove(d.artifactPath(digest))
	case nodeagent.ActDeadline:
		d.deadline(a)
	case nodeagent.ActComplete:
		d.complete(a.Completion)
	case nodeagent.ActReport:
		d.send(wire.SubjectHeartbeat(d.cfg.Zone), d.heartbeat())
	}
}

func (d *Daemon) heartbeat() *wire.Heartbeat {
	hb := d.core.Heartbeat(time.Now())
	var iso []string
	for _, k := range []api.Runtime{api.RuntimeProcess, api.RuntimeWasm} {
		if rt := d.deps.Runtimes[k]; rt != nil {
			iso = append(iso, rt.Isolation())
		}
	}
	hb.Isolation = strings.Join(iso, ",")
	return hb
}

func (d *Daemon) send(subject string, v any) {
	b, err := wire.Encode(v)
	if err == nil {
		err = d.deps.Bus.Publish(subject, b)
	}
	if err != nil && d.ctx.Err() == nil {
		d.deps.Log.Warn("send", "node", d.cfg.Name, "subject", subject, "err", err)
	}
}

func (d *Daemon) complete(c *wire.Completion) {
	// A refusal or a repetition may be of another attempt than the one that runs: that one keeps its deadline.
	if t := d.timers[c.ID]; t != nil && !c.Resent && c.Outcome != api.OutcomeRefused {
		t.Stop()
		delete(d.timers, c.ID)
	}
	d.send(wire.SubjectDone(d.cfg.Zone), c)
}

func (d *Daemon) deadline(a *nodeagent.Action) {
	id, gen := a.ID, a.Gen
	d.timers[id] = time.AfterFunc(time.Until(a.At), func() {
		d.post(nodeagent.Event{Kind: nodeagent.EvDeadline, ID: id, Gen: gen})
	})
}

// task runs f on a goroutine that Run waits for.
func (d *Daemon) task(f func()) {
	d.tasks.Add(1)
	go func() { defer d.tasks.Done(); f() }()
}

func (d *Daemon) remove(path string) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.deps.Log.Warn("remove", "node", d.cfg.Name, "err", err)
	}
}

func hashName(key string) string {
	h := sha256.Sum256([]byte(key))
	return hex.EncodeToString(h[:])
}

func (d *Daemon) objectPath(key string) string {
	return filepath.Join(d.cfg.Dir, "objects", hashName(key))
}

func (d *Daemon) artifactPath(digest string) string {
	return filepath.Join(d.cfg.Dir, "artifacts", digest)
}

func (d *Daemon) fetchObject(key string) {
	o := api.Object{Key: key}
	tenant, name, digest, err := o.Split()
	if err == nil {
		err = d.download(objectstore.ObjectKey(tenant, name), digest, d.objectPath(key), 0o444)
	}
	d.post(ended(nodeagent.Event{Kind: nodeagent.EvFetched, Key: key}, err))
}

func (d *Daemon) fetchArtifact(fn *api.Function) {
	err := d.download(objectstore.ArtifactKey(fn.Tenant, fn.Artifact), fn.Artifact, d.artifactPath(fn.Artifact), 0o500)
	d.post(ended(nodeagent.Event{Kind: nodeagent.EvArtifact, Digest: fn.Artifact}, err))
}

// get opens a stored object. What is not found is looked for again: it may have been put a moment ago, and the replica that answers may lag
// behind, but an input that is missing ends its call.
func (d *Daemon) get(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	type opened struct {
		r    io.ReadCloser
		info objectstore.Info
	}
	o, err := backoff.Retry(ctx, func() (o opened, err error) {
		if o.r, o.info, err = d.deps.Store.Get(ctx, key); err != nil && !errors.Is(err, api.ErrNotFound) {
			err = backoff.Permanent(err)
		}
		return o, err
	}, backoff.WithMaxTries(findTries), backoff.WithBackOff(&backoff.ExponentialBackOff{InitialInterval: findPause, RandomizationFactor: .25, Multiplier: 3, MaxInterval: time.Second}))
	return o.r, o.info, err
}

// Pauses of about 20, 60, 180 and 540 ms.
const (
	findPause = 20 * time.Millisecond
	findTries = 5
)

// download brings a stored object, whose digest must begin as said, to path over the limited link; the file appears
// whole or not at all.
func (d *Daemon) download(key, digest, path string, mode os.FileMode) error {
	ctx, cancel := context.WithTimeout(d.ctx, d.cfg.FetchTimeout)
	defer cancel()
	r, info, err := d.get(ctx, key)
	if err != nil {
		return err
	}
	defer r.Close()
	if !strings.HasPrefix(info.Digest, digest) {
		return fmt.Errorf("%w: %s was replaced: its digest is %s, not %s", api.ErrNotFound, key, info.Digest, digest)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".fetch-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone when renamed
	_, err = io.Copy(f, &limited{ctx: ctx, r: r, link: d.link})
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// limited reads no faster than the node's link, which all its fetches share.
type limited struct {
	ctx  context.Context
	r    io.Reader
	link *rate.Limiter
}

func (l *limited) Read(p []byte) (int, error) {
	if len(p) > linkChunk {
		p = p[:linkChunk]
	}
	n, err := l.r.Read(p)
	if n > 0 && l.link != nil {
		if werr := l.link.WaitN(l.ctx, n); werr != nil {
			return n, werr
		}
	}
	return n, err
}

func (d *Daemon) runtime(fn *api.Function) (sandbox.Runtime, error) {
	if rt := d.deps.Runtimes[fn.Runtime]; rt != nil {
		return rt, nil
	}
	return nil, fmt.Errorf("%w: runtime %q is not installed on this node", api.ErrUnavailable, fn.Runtime)
}

func (d *Daemon) prepare(fn *api.Function) {
	rt, err := d.runtime(fn)
	if err == nil {
		err = rt.Prepare(d.ctx, fn, d.artifactPath(fn.Artifact))
	}
	d.post(ended(nodeagent.Event{Kind: nodeagent.EvPrepared, Digest: fn.Artifact}, err))
}

// start brings a sandbox up beside the loop; the box is there at once so that a close in between is not lost.
func (d *Daemon) start(id uint64, fn *api.Function) {
	b := &box{}
	d.boxes[id] = b
	d.task(func() {
		rt, err := d.runtime(fn)
		var sb sandbox.Sandbox
		if err == nil {
			sb, err = rt.Start(d.ctx, fn, d.artifactPath(fn.Artifact))
		}
		ev := nodeagent.Event{Kind: nodeagent.EvStarted, Sandbox: id, Err: text(err)}
		if err != nil {
			ev.Outcome, ev.Code = classify(err)
		}
		select {
		case d.view <- func(*nodeagent.Node) { d.up(b, sb, ev) }:
		case <-d.ctx.Done():
			if sb != nil {
				d.closeBox(sb)
			}
		}
	})
}

// up runs on the loop.
func (d *Daemon) up(b *box, sb sandbox.Sandbox, ev nodeagent.Event) {
	if b.closed && sb != nil {
		d.task(func() { d.closeBox(sb) })
		sb = nil
	}
	b.sb = sb
	if !b.closed {
		d.step(ev)
	}
}

func (d *Daemon) close(id uint64) {
	b := d.boxes[id]
	if b == nil {
		return
	}
	delete(d.boxes, id)
	b.closed = true
	if sb := b.sb; sb != nil {
		d.task(func() { d.closeBox(sb) })
	}
}

// exec runs one call in its sandbox beside the loop.
func (d *Daemon) exec(a *nodeagent.Action) {
	b := d.boxes[a.Sandbox]
	if b == nil || b.sb == nil {
		ev := nodeagent.Event{Kind: nodeagent.EvExecuted, ID: a.ID, Sandbox: a.Sandbox, Outcome: api.OutcomeInternal,
			Code: api.CodeInternal, Err: "sandbox is gone", Broken: true}
		d.task(func() { d.post(ev) })
		return
	}
	ctx, cancel := context.WithCancelCause(d.ctx)
	d.cancels[a.ID] = cancel
	id, sbID, m, sb := a.ID, a.Sandbox, a.Run, b.sb
	d.task(func() {
		defer cancel(nil)
		ev := d.invoke(ctx, m, sb)
		ev.ID, ev.Sandbox = id, sbID
		select {
		case d.view <- func(*nodeagent.Node) { delete(d.cancels, id); d.step(ev) }:
		case <-d.ctx.Done():
		}
	})
}

func (d *Daemon) invoke(ctx context.Context, m *wire.Run, sb sandbox.Sandbox) nodeagent.Event {
	ev := nodeagent.Event{Kind: nodeagent.EvExecuted}
	call := sandbox.Call{
		ID: m.Call.ID, Payload: m.Call.Payload, Deadline: time.Now().Add(time.Duration(m.TimeoutMs) * time.Millisecond),
		Trace: m.Call.Trace, ARN: "arn:rubato:function:" + m.Fn.Tenant + ":" + m.Fn.Name,
	}
	for i := range m.Call.Inputs {
		key := m.Call.Inputs[i].Key
		call.Inputs = append(call.Inputs, sandbox.Input{Name: inputName(i, key), Path: d.objectPath(key)})
	}
	began := time.Now()
	if m.Call.PayRef != "" {
		body, err := d.body(ctx, m.Call.PayRef)
		if err != nil {
			ev = ended(ev, err)
			ev.Err = "payload: " + ev.Err
			return ev
		}
		call.Payload = body
	}
	res, err := sb.Invoke(ctx, &call)
	ev.Took = time.Since(began)
	if res != nil && len(res.Logs) > 0 {
		d.logs.add(m.Fn.ID(), wire.LogLine{ID: m.Call.ID, Node: d.cfg.Name, UnixMs: began.UnixMilli(), Text: string(res.Logs)})
	}
	switch {
	case err != nil:
		ev.Outcome, ev.Code = classify(err)
		ev.Err, ev.Broken = err.Error(), true
		return ev
	case res.FunctionError != nil:
		ev.Outcome, ev.Code, ev.Err = api.OutcomeFunctionError, api.CodeFunction, "the function returned an error"
		ev.Result = res.FunctionError
	default:
		ev.Result = res.Payload
	}
	if len(ev.Result) > api.MaxPayloadBytes {
		ev.Outcome, ev.Code, ev.Result = api.OutcomeFunctionError, api.CodeTooLarge, nil
		ev.Err = fmt.Sprintf("the function's result is above the limit of %d bytes", api.MaxPayloadBytes)
	}
	if len(ev.Result) > api.InlineBytes {
		// Of its own for each execution: a second one must not replace what the first one's record names.
		ev.Ref = objectstore.BodyKey(m.Call.Tenant, m.Call.ID+"/result-"+rand.Text())
		if _, err := d.deps.Results.Put(ctx, ev.Ref, strings.NewReader(string(ev.Result))); err != nil {
			ev.Outcome, ev.Code, ev.Ref = api.OutcomeInternal, api.CodeUnavailable, ""
			ev.Err = "result not stored: " + err.Error()
		}
		ev.Result = nil
	}
	return ev
}

// inputName is what the function sees: the order, and the last part of the key.
func inputName(i int, key string) string {
	name, _, _ := strings.Cut(filepath.Base(key), "@")
	return fmt.Sprintf("%02d-%.*s", i, maxInputName, name)
}

// maxInputName is how many characters of a key's last part are in the name: file systems take names of 255 bytes.
const maxInputName = 60

func (d *Daemon) body(ctx context.Context, key string) ([]byte, error) {
	r, info, err := d.get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if info.Bytes > api.MaxPayloadBytes {
		return nil, fmt.Errorf("%w: %d bytes", api.ErrTooLarge, info.Bytes)
	}
	return io.ReadAll(&limited{ctx: ctx, r: r, link: d.link})
}

func classify(err error) (api.Outcome, api.Code) {
	switch {
	case errors.Is(err, sandbox.ErrCrashed):
		return api.OutcomeCrash, api.CodeFunction
	case errors.Is(err, api.ErrDeadline):
		return api.OutcomeTimeout, api.CodeDeadline
	case errors.Is(err, api.ErrCanceled):
		return api.OutcomeCanceled, api.CodeCanceled
	case errors.Is(err, api.ErrTooLarge):
		return api.OutcomeFunctionError, api.CodeTooLarge
	case errors.Is(err, api.ErrFunction), errors.Is(err, api.ErrInvalid):
		return api.OutcomeFunctionError, api.CodeFunction
	}
	return api.OutcomeInternal, api.CodeOf(err)
}

// ended says how what a call needs was got: an input, an artifact, its preparation, a payload. What is wrong with these themselves (they are
// gone, were replaced, are no program) every node would find, and none is to blame for.
func ended(ev nodeagent.Event, err error) nodeagent.Event {
	if err == nil {
		return ev
	}
	ev.Err = err.Error()
	switch {
	case errors.Is(err, api.ErrNotFound):
		ev.Outcome, ev.Code = api.OutcomeFunctionError, api.CodeNotFound
	case errors.Is(err, api.ErrTooLarge):
		ev.Outcome, ev.Code = api.OutcomeFunctionError, api.CodeTooLarge
	case errors.Is(err, api.ErrInvalid), errors.Is(err, api.ErrFunction):
		ev.Outcome, ev.Code = api.OutcomeFunctionError, api.CodeFunction
	default:
		ev.Outcome, ev.Code = api.OutcomeInternal, api.CodeUnavailable
	}
	return ev
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/objectstore"
)

func newID() string { return strings.ToLower(ulid.Make().String()) }

// maxDeadlineMs bounds X-Deadline-Ms.
const maxDeadlineMs = int64(api.MaxTimeout / time.Millisecond)

// invoke serves POST /v1/functions/{name}/invoke.
//
// Cost sketch: headers 1 us, body 1 us, the scheduler and back 60-90 us, answer 2 us; a Stat of each input (0.1 ms)
// unless it was asked for within the last seconds.
func (g *Gateway) invoke(w http.ResponseWriter, r *http.Request, c caller) error {
	began := time.Now()
	inv, err := parse(r.Header, c, r.PathValue("name"))
	if err != nil {
		return err
	}
	if _, ok := g.deps.Zone.Function(inv.FunctionID()); !ok {
		return fmt.Errorf("%w: no function %q of tenant %s (rubato functions lists them)", api.ErrNotFound, inv.Function, c.tenant)
	}
	if err := g.inputs(r.Context(), inv, strings.Join(r.Header.Values("X-Input"), ",")); err != nil {
		return err
	}
	if err := g.body(w, r, inv); err != nil {
		return err
	}
	if inv.Async {
		return g.invokeAsync(w, r, inv)
	}
	a := g.deps.Zone.Invoke(r.Context(), inv)
	g.metrics.observe(a, time.Since(began))
	if inv.PayRef != "" && (inv.IdemKey == "" || a.Code != api.CodeCanceled) {
		g.discard(g.deps.Objects, inv.PayRef) // but for a caller who left, since others may have joined the call, which needs it
	}
	if a.ResultRef != "" && inv.IdemKey == "" {
		defer g.discard(g.deps.Results, a.ResultRef) // with a key, the answer is kept for callers that repeat it
	}
	return g.writeAnswer(w, r, c.id, a)
}

func (g *Gateway) invokeAsync(w http.ResponseWriter, r *http.Request, inv *api.Invocation) error {
	if err := g.deps.Zone.InvokeAsync(r.Context(), inv); err != nil {
		// Unavailable leaves open whether the call was accepted: it may need its payload.
		if inv.PayRef != "" && !errors.Is(err, api.ErrUnavailable) {
			g.discard(g.deps.Objects, inv.PayRef)
		}
		return err
	}
	w.Header().Set("Location", "/v1/invocations/"+inv.ID)
	w.Header().Set("Preference-Applied", "respond-async")
	return writeJSON(w, http.StatusAccepted, map[string]string{"id": inv.ID, "state": "pending"})
}

// parse reads an invocation from the headers. An error names the header and says what would be right.
func parse(h http.Header, c caller, name string) (*api.Invocation, error) {
	inv := &api.Invocation{ID: c.id, Tenant: c.tenant, Function: name}
	if err := api.CheckName("function", name); err != nil {
		return nil, err
	}
	bad := func(header, value, want string) error {
		if len(value) > 80 {
			value = value[:80] + "..."
		}
		return fmt.Errorf("%w: header %s %q: want %s", api.ErrInvalid, header, value, want)
	}
	if v := h.Get("X-Deadline-Ms"); v != "" {
		ms, err := strconv.ParseInt(v, 10, 64)
		if err != nil || ms > maxDeadlineMs {
			return nil, bad("X-Deadline-Ms", v, fmt.Sprintf("the remaining milliseconds, a whole number up to %d", maxDeadlineMs))
		}
		if ms <= 0 {
			return nil, fmt.Errorf("%w: header X-Deadline-Ms %d: the deadline had passed when the call arrived", api.ErrDeadline, ms)
		}
		inv.BudgetMs = ms
	}
	if v := h.Get("X-Priority"); v != "" {
		p, err := strconv.ParseUint(v, 10, 8)
		if err != nil || p > 9 {
			return nil, bad("X-Priority", v, "0-9")
		}
		inv.Priority = uint8(p)
	}
	for _, f := range [...]struct {
		header string
		to     *string
	}{{"Idempotency-Key", &inv.IdemKey}, {"X-Affinity-Key", &inv.Affinity}} {
		v := h.Get(f.header)
		if !printable(v, api.MaxKeyLen) {
			return nil, bad(f.header, v, fmt.Sprintf("up to %d printable ASCII characters", api.MaxKeyLen))
		}
		*f.to = v
	}
	if v := h.Get("traceparent"); v != "" {
		if !validTrace(v) {
			return nil, bad("traceparent", v, "W3C trace context, 00-<32 hex>-<16 hex>-<2 hex>")
		}
		inv.Trace = v
	}
	inv.Async = prefersAsync(h.Values("Prefer"))
	return inv, nil
}

// prefersAsync looks for respond-async among preferences (RFC 7240: on one line or several, without regard to case,
// possibly with parameters).
func prefersAsync(lines []string) bool {
	for _, line := range lines {
		for p := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(p, ";")
			if strings.EqualFold(strings.TrimSpace(name), "respond-async") {
				return true
			}
		}
	}
	return false
}

func printable(s string, most int) bool {
	return len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// validTrace checks the shape of a W3C traceparent (version 00 or later ones that begin alike).
func validTrace(s string) bool {
	if len(s) < 55 || len(s) > 128 || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" {
		return false
	}
	if len(s) > 55 && s[55] != '-' {
		return false
	}
	for i, c := range s[:55] {
		if i == 2 || i == 35 || i == 52 {
			continue
		}
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s[3:35] != strings.Repeat("0", 32) && s[36:52] != strings.Repeat("0", 16)
}

// inputs resolves the keys of X-Input to objects with sizes.
func (g *Gateway) inputs(ctx context.Context, inv *api.Invocation, header string) error {
	if header == "" {
		return nil
	}
	keys := strings.Split(header, ",")
	if len(keys) > api.MaxInputs {
		return fmt.Errorf("%w: header X-Input names %d objects: want at most %d", api.ErrInvalid, len(keys), api.MaxInputs)
	}
	for _, k := range keys {
		k = strings.TrimSpace(k)
		if err := api.CheckKey(k); err != nil {
			return fmt.Errorf("header X-Input: %w", err)
		}
		info, err := g.stats.stat(ctx, g.deps.Objects, objectstore.ObjectKey(inv.Tenant, k))
		if errors.Is(err, api.ErrNotFound) {
			return fmt.Errorf("%w: input object %q (header X-Input) does not exist; rubato put stores one", api.ErrNotFound, k)
		}
		if err != nil {
			return err
		}
		inv.Inputs = append(inv.Inputs, api.ObjectOf(inv.Tenant, k, info.Bytes, info.Digest))
	}
	return nil
}

// body reads the payload; a large one goes by reference.
func (g *Gateway) body(w http.ResponseWriter, r *http.Request, inv *api.Invocation) error {
	if r.ContentLength > api.MaxPayloadBytes {
		return fmt.Errorf("%w: payload of %d bytes: want at most %d (larger data goes in as an object: PUT /v1/objects, X-Input)", api.ErrTooLarge, r.ContentLength, api.MaxPayloadBytes)
	}
	if r.ContentLength == 0 {
		return nil
	}
	b, err := readBody(http.MaxBytesReader(w, r.Body, api.MaxPayloadBytes), r.ContentLength)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return fmt.Errorf("%w: payload of more than %d bytes", api.ErrTooLarge, api.MaxPayloadBytes)
	}
	if errors.Is(err, api.ErrInvalid) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: payload not read: %w", api.ErrCanceled, err)
	}
	inv.PayBytes = int64(len(b))
	if len(b) <= api.InlineBytes {
		inv.Payload = b
		return nil
	}
	inv.PayRef = objectstore.BodyKey(inv.Tenant, inv.ID)
	_, err = g.deps.Objects.Put(r.Context(), inv.PayRef, bytes.NewReader(b))
	return err
}

// readBody reads n bytes, or to the end if n is not known. Memory grows with what has come, not with what was announced.
func readBody(r io.Reader, n int64) ([]byte, error) {
	if n <= 0 {
		return io.ReadAll(r)
	}
	b := make([]byte, 0, min(n, api.InlineBytes))
	for int64(len(b)) < n {
		b = slices.Grow(b, int(min(n-int64(len(b)), max(int64(len(b)), 1))))
		k, err := io.ReadFull(r, b[len(b):min(int64(cap(b)), n)])
		if b = b[:len(b)+k]; err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return b, err
		}
	}
	return b, nil
}

// discard removes a body that nobody needs any more; what stays behind costs room, not correctness.
func (g *Gateway) discard(store objectstore.Store, key string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := store.Delete(ctx, key); err != nil {
		g.deps.Log.Debug("body not removed", "key", key, "err", err)
	}
}

// timingHeaders tells where the time went, on every answer of a call.
func timingHeaders(h http.Header, a *wire.Answer) {
	t := &a.Timing
	b := make([]byte, 0, 128)
	for i, p := range [...]struct {
		name string
		ms   float64
	}{{"queue", t.QueueMs}, {"delay", t.DelayMs}, {"fetch", t.FetchMs}, {"init", t.InitMs}, {"net", t.NetMs}, {"run", t.RunMs}} {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(append(b, p.name...), ";dur="...)
		b = strconv.AppendFloat(b, p.ms, 'f', 3, 64)
	}
	h.Set("Server-Timing", string(b))
	h.Set("X-Zone", t.Zone)
	h.Set("X-Decision", t.Decision.String())
	if t.Node != "" {
		h.Set("X-Node", t.Node)
		h.Set("X-Start-Type", t.Start.StartType())
		h.Set("X-Estimate", t.Source.String())
		h.Set("X-Model-Version", strconv.FormatUint(t.ModelVersion, 10))
		h.Set("X-Function-Version", strconv.FormatUint(t.Version, 10))
		h.Set("X-Fetched-Bytes", strconv.FormatInt(t.FetchedBytes, 10))
	}
}

// writeAnswer turns the scheduler's answer into HTTP.
func (g *Gateway) writeAnswer(w http.ResponseWriter, r *http.Request, id string, a *wire.Answer) error {
	timingHeaders(w.Header(), a)
	if a.Code != api.CodeOK {
		e := Error{Code: a.Code, Message: a.Message, RequestID: id}
		if json.Valid(a.Result) {
			e.Detail = a.Result
		}
		writeFailure(w, statusOf(a.Code), e, a.RetryMs)
		return nil
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if a.ResultRef == "" {
		w.Header().Set("Content-Length", strconv.Itoa(len(a.Result)))
		_, _ = w.Write(a.Result) // the caller went away: nobody is left to tell
		return nil
	}
	body, info, err := g.deps.Results.Get(r.Context(), a.ResultRef)
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	defer body.Close()
	w.Header().Set("Content-Length", strconv.FormatInt(info.Bytes, 10))
	if _, err := io.Copy(w, body); err != nil {
		panic(http.ErrAbortHandler) // half a body must not look whole
	}
	return nil
}

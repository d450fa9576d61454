package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// Invocation is a call to make.
type Invocation struct {
	Function string
	Payload  []byte
	// Inputs are keys of objects that were put before.
	Inputs []string
	// Deadline is the remaining time; 0 leaves it to the function.
	Deadline       time.Duration
	IdempotencyKey string
	Affinity       string
	Priority       int
}

func (i *Invocation) header() http.Header {
	h := http.Header{}
	set := func(k, v string) {
		if v != "" {
			h.Set(k, v)
		}
	}
	set("X-Input", strings.Join(i.Inputs, ","))
	set("Idempotency-Key", i.IdempotencyKey)
	set("X-Affinity-Key", i.Affinity)
	if i.Deadline != 0 {
		set("X-Deadline-Ms", strconv.FormatInt(i.Deadline.Milliseconds(), 10))
	}
	if i.Priority != 0 {
		set("X-Priority", strconv.Itoa(i.Priority))
	}
	return h
}

// Result is what a synchronous call answered. Header has the door's timing and decision headers.
type Result struct {
	ID     string
	Body   []byte
	Header http.Header
}

// Invoke calls a function and waits. It is repeated after a 429 or 503 only with an idempotency key.
func (c *Client) Invoke(ctx context.Context, i Invocation) (*Result, error) {
	resp, err := c.do(ctx, i.request(false))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return &Result{ID: resp.Header.Get("X-Request-Id"), Body: b, Header: resp.Header}, err
}

// InvokeAsync has the call accepted and returns its id.
func (c *Client) InvokeAsync(ctx context.Context, i Invocation) (id string, err error) {
	var out struct {
		ID string `json:"id"`
	}
	err = c.json(ctx, i.request(true), &out)
	return out.ID, err
}

func (i *Invocation) request(async bool) request {
	r := request{
		method: http.MethodPost, path: "/v1/functions/" + url.PathEscape(i.Function) + "/invoke", header: i.header(),
		body: bytesBody(i.Payload), again: i.IdempotencyKey != "",
	}
	if async {
		r.header.Set("Prefer", "respond-async")
	}
	return r
}

// State is what became of an asynchronous call.
type State struct {
	ID           string          `json:"id"`
	State        string          `json:"state"`
	Code         api.Code        `json:"code,omitempty"`
	Message      string          `json:"message,omitempty"`
	Result       json.RawMessage `json:"result,omitempty"`
	ResultBase64 []byte          `json:"result_base64,omitempty"`
	Large        bool            `json:"large,omitempty"`
	Timing       *wire.Timing    `json:"timing,omitempty"`
}

// Result looks an asynchronous call up.
func (c *Client) Result(ctx context.Context, id string) (State, error) {
	var s State
	err := c.get(ctx, "/v1/invocations/"+url.PathEscape(id), &s)
	return s, err
}

// RawResult opens the bare bytes that a finished asynchronous call answered, however large; the caller closes it. A call
// that failed is its error.
func (c *Client) RawResult(ctx context.Context, id string) (io.ReadCloser, error) {
	h := http.Header{"Accept": {"application/octet-stream"}}
	resp, err := c.do(ctx, request{method: http.MethodGet, path: "/v1/invocations/" + url.PathEscape(id), header: h, again: true})
	if err != nil {
		return nil, err
	}
	if resp.Header.Get("Content-Type") != "application/octet-stream" {
		resp.Body.Close()
		return nil, fmt.Errorf("%w: invocation %s has not ended", api.ErrUnavailable, id)
	}
	return resp.Body, nil
}

// Cancel stops a call.
func (c *Client) Cancel(ctx context.Context, id string) error {
	return c.json(ctx, request{method: http.MethodDelete, path: "/v1/invocations/" + url.PathEscape(id), again: true}, nil)
}

// Function is a deployed function.
type Function struct {
	Name                string            `json:"name"`
	Tenant              string            `json:"tenant,omitempty"`
	Version             uint64            `json:"version,omitempty"`
	Runtime             api.Runtime       `json:"runtime"`
	Artifact            string            `json:"artifact"`
	ArtifactBytes       int64             `json:"artifact_bytes,omitempty"`
	MemoryMB            int               `json:"memory_mb,omitempty"`
	TimeoutMs           int64             `json:"timeout_ms,omitempty"`
	ObjectiveDeadlineMs int64             `json:"objective_deadline_ms,omitempty"`
	ObjectiveShare      float64           `json:"objective_share,omitempty"`
	PriceWeight         float64           `json:"price_weight,omitempty"`
	MissWeight          float64           `json:"miss_weight,omitempty"`
	DelayOff            bool              `json:"delay_off,omitempty"`
	Idempotent          bool              `json:"idempotent,omitempty"`
	Env                 map[string]string `json:"env,omitempty"`
	// Mode is how far the zone's rule acts for the function, if an operator said so; not part of a deployment.
	Mode string `json:"mode,omitempty"`
	// Arch, Accelerator and Tags are what it needs of its node, see api.Labels; MinWarm is how many sandboxes each zone keeps warm.
	Arch        string   `json:"arch,omitempty"`
	Accelerator string   `json:"accelerator,omitempty"`
	Tags        []string `json:"tags,omitempty"`
	MinWarm     int      `json:"min_warm,omitempty"`
}

// PutArtifact stores an artifact under its SHA-256 (hex).
func (c *Client) PutArtifact(ctx context.Context, digest string, size int64, open func() (io.Reader, error)) error {
	return c.json(ctx, request{method: http.MethodPut, path: "/v1/artifacts/" + digest, body: open, size: size, again: true}, nil)
}

// HasArtifact reports whether the tenant put an artifact with this SHA-256 before.
func (c *Client) HasArtifact(ctx context.Context, digest string) (bool, error) {
	err := c.get(ctx, "/v1/artifacts/"+url.PathEscape(digest), nil)
	if errors.Is(err, api.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Deploy makes a new version of a function whose artifact was put before.
func (c *Client) Deploy(ctx context.Context, f Function, idempotencyKey string) (version uint64, err error) {
	body := f
	body.Name, body.Tenant, body.Version, body.ArtifactBytes, body.Mode = "", "", 0, 0, ""
	b, err := json.Marshal(struct {
		Function
		Name *string `json:"name,omitempty"` // not part of a deployment's body
	}{Function: body})
	if err != nil {
		return 0, err
	}
	h := http.Header{}
	if idempotencyKey != "" {
		h.Set("Idempotency-Key", idempotencyKey)
	}
	var out struct {
		Version uint64 `json:"version"`
	}
	err = c.json(ctx, request{method: http.MethodPut, path: "/v1/functions/" + url.PathEscape(f.Name), header: h, body: bytesBody(b), again: idempotencyKey != ""}, &out)
	return out.Version, err
}

// Functions lists the tenant's functions.
func (c *Client) Functions(ctx context.Context) ([]Function, error) {
	var out []Function
	err := c.get(ctx, "/v1/functions", &out)
	return out, err
}

// Function returns the current version of one.
func (c *Client) Function(ctx context.Context, name string) (Function, error) {
	var f Function
	err := c.get(ctx, "/v1/functions/"+url.PathEscape(name), &f)
	return f, err
}

// Delete removes a function.
func (c *Client) Delete(ctx context.Context, name string) error {
	return c.json(ctx, request{method: http.MethodDelete, path: "/v1/functions/" + url.PathEscape(name)}, nil)
}

// Prewarm asks the door's zone for warm sandboxes, and returns how many are on their way: as many as there was room for.
func (c *Client) Prewarm(ctx context.Context, name string, count int) (begun int, err error) {
	b, err := json.Marshal(map[string]int{"count": count})
	if err != nil {
		return 0, err
	}
	var out struct {
		Begun int `json:"begun"`
	}
	err = c.json(ctx, request{method: http.MethodPost, path: "/v1/functions/" + url.PathEscape(name) + "/prewarm", body: bytesBody(b)}, &out)
	return out.Begun, err
}

// Logs returns the output of the last calls of a function.
func (c *Client) Logs(ctx context.Context, name string, last int) ([]wire.LogLine, error) {
	var out []wire.LogLine
	err := c.get(ctx, "/v1/functions/"+url.PathEscape(name)+"/logs?last="+strconv.Itoa(last), &out)
	return out, err
}

// Object is a stored input.
type Object struct {
	Key    string `json:"key"`
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"`
}

// objectPath keeps the slashes of a key.
func objectPath(key string) string {
	parts := strings.Split(key, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return "/v1/objects/" + strings.Join(parts, "/")
}

// Put stores an object. Objects are immutable: other content under the key is refused.
func (c *Client) Put(ctx context.Context, key string, size int64, open func() (io.Reader, error)) (Object, error) {
	var o Object
	err := c.json(ctx, request{method: http.MethodPut, path: objectPath(key), body: open, size: size, again: true}, &o)
	return o, err
}

// Get opens an object; the caller closes it. size is its length.
func (c *Client) Get(ctx context.Context, key string) (body io.ReadCloser, size int64, err error) {
	resp, err := c.do(ctx, request{method: http.MethodGet, path: objectPath(key), again: true})
	if err != nil {
		return nil, 0, err
	}
	return resp.Body, resp.ContentLength, nil
}

// Remove deletes an object.
func (c *Client) Remove(ctx context.Context, key string) error {
	return c.json(ctx, request{method: http.MethodDelete, path: objectPath(key), again: true}, nil)
}

// Objects lists objects whose key begins with prefix.
func (c *Client) Objects(ctx context.Context, prefix string, limit int) ([]Object, error) {
	var out []Object
	err := c.get(ctx, "/v1/objects?prefix="+url.QueryEscape(prefix)+"&limit="+strconv.Itoa(limit), &out)
	return out, err
}

// Look reads one of the views of the cluster (nodes, zone, zones, model) or of one call ("invocations/ID/explain",
// "decisions?since=N") as the door gives it.
func (c *Client) Look(ctx context.Context, view string, out any) error {
	return c.get(ctx, "/v1/"+view, out)
}

// PolicyChange says by what a zone is to decide: a rule, or how far the rule acts.
type PolicyChange struct {
	// Zone; "": that of the door.
	Zone string `json:"-"`
	// Policy is a rule's name or "default", for the configuration's; WaitMs the wait of a fixed-delay rule (0: the configuration's).
	Policy string `json:"policy,omitempty"`
	WaitMs int64  `json:"wait_ms,omitempty"`
	// Mode instead of a policy: "on", "canary", "canary=0.05", "shadow", "off" or "default"; of Function only, if that is given.
	Mode     string `json:"mode,omitempty"`
	Function string `json:"function,omitempty"`
}

// SetPolicy puts a change in force at once; out takes what then holds in the zone.
func (c *Client) SetPolicy(ctx context.Context, p PolicyChange, out any) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return c.json(ctx, request{method: http.MethodPost, path: "/v1/policy" + ofZone(p.Zone), body: bytesBody(b), again: true}, out)
}

// Flush empties the caches of all nodes of a zone ("": that of the door).
func (c *Client) Flush(ctx context.Context, zone string) error {
	return c.json(ctx, request{method: http.MethodPost, path: "/v1/flush" + ofZone(zone), again: true}, nil)
}

func ofZone(zone string) string {
	if zone == "" {
		return ""
	}
	return "?zone=" + url.QueryEscape(zone)
}

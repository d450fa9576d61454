package gateway

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// state is what GET /v1/invocations/{id} answers.
type state struct {
	ID      string   `json:"id"`
	State   string   `json:"state"` // pending or done
	Code    api.Code `json:"code,omitempty"`
	Message string   `json:"message,omitempty"`
	// Result is the result when it is JSON, ResultBase64 when it is not; a large one is fetched with Accept:
	// application/octet-stream.
	Result       json.RawMessage `json:"result,omitempty"`
	ResultBase64 []byte          `json:"result_base64,omitempty"`
	Large        bool            `json:"large,omitempty"`
	Timing       *wire.Timing    `json:"timing,omitempty"`
}

func checkID(id string) error {
	if len(id) == 0 || len(id) > api.MaxNameLen || strings.ContainsAny(id, ".*> /\t") {
		return fmt.Errorf("%w: invocation id %q: want the id that X-Request-Id or Location gave", api.ErrInvalid, id)
	}
	return nil
}

func (g *Gateway) result(w http.ResponseWriter, r *http.Request, c caller) error {
	id := r.PathValue("id")
	if err := checkID(id); err != nil {
		return err
	}
	a, pending, err := g.deps.Zone.Result(r.Context(), c.tenant, id)
	if err != nil {
		return err
	}
	if pending {
		return writeJSON(w, http.StatusOK, state{ID: id, State: "pending"})
	}
	if strings.Contains(r.Header.Get("Accept"), "application/octet-stream") {
		return g.writeAnswer(w, r, c.id, a)
	}
	s := state{ID: id, State: "done", Code: a.Code, Message: a.Message, Timing: &a.Timing, Large: a.ResultRef != ""}
	if json.Valid(a.Result) {
		s.Result = a.Result
	} else {
		s.ResultBase64 = a.Result
	}
	timingHeaders(w.Header(), a)
	return writeJSON(w, http.StatusOK, s)
}

// cancel stops a call. It answers before the call has ended; an asynchronous one that had ended before is told as it
// ended. An id is as hard to guess as a token, and yet a tenant may only name calls that are its own. An asynchronous
// call is found by its place in the queue, since nothing may be decided of it yet, any other one by its decision.
func (g *Gateway) cancel(w http.ResponseWriter, r *http.Request, c caller) error {
	id := r.PathValue("id")
	if err := checkID(id); err != nil {
		return err
	}
	tenant := c.tenant
	a, pending, err := g.deps.Zone.Result(r.Context(), tenant, id)
	if err != nil && !errors.Is(err, api.ErrNotFound) {
		return err
	}
	if a != nil {
		return writeJSON(w, http.StatusOK, state{ID: id, State: "done", Code: a.Code, Message: a.Message})
	}
	if !pending {
		raw, err := g.decision(r, c, id)
		if err != nil {
			return err
		}
		tenant = tenantOf(raw) // an operator may name any tenant's call
	}
	if err := g.deps.Zone.Cancel(r.Context(), tenant, id); err != nil {
		return err
	}
	return writeJSON(w, http.StatusAccepted, map[string]string{"id": id, "state": "canceling"})
}

// decision finds what was decided of a call that the caller may see.
func (g *Gateway) decision(r *http.Request, c caller, id string) (json.RawMessage, error) {
	raw, err := g.deps.Zone.Query(r.Context(), "explain", id)
	if err != nil {
		return nil, err
	}
	if !c.operator && tenantOf(raw) != c.tenant {
		return nil, fmt.Errorf("%w: no decision about invocation %q", api.ErrNotFound, id)
	}
	return raw, nil
}

// tenantOf reads whose function a decision is about.
func tenantOf(raw json.RawMessage) string {
	var d struct {
		Function string `json:"function"`
	}
	if json.Unmarshal(raw, &d) != nil {
		return ""
	}
	t, _, _ := strings.Cut(d.Function, "/")
	return t
}

func (g *Gateway) explain(w http.ResponseWriter, r *http.Request, c caller) error {
	id := r.PathValue("id")
	if err := checkID(id); err != nil {
		return err
	}
	raw, err := g.decision(r, c, id)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, raw)
}

// decisions serves GET /v1/decisions?since=N: the latest ones, and a sequence to ask on from.
func (g *Gateway) decisions(w http.ResponseWriter, r *http.Request, c caller) error {
	raw, err := g.ask(r, "decisions", r.URL.Query().Get("since"))
	if err != nil {
		return err
	}
	if c.operator {
		return writeJSON(w, http.StatusOK, raw)
	}
	var page struct {
		Next      uint64            `json:"next"`
		Decisions []json.RawMessage `json:"decisions"`
	}
	if err := json.Unmarshal(raw, &page); err != nil {
		return err
	}
	own := page.Decisions[:0]
	for _, d := range page.Decisions {
		if tenantOf(d) == c.tenant {
			own = append(own, d)
		}
	}
	page.Decisions = own
	return writeJSON(w, http.StatusOK, page)
}

// ask asks the zone's leader, or with ?zone=Z that of another one.
func (g *Gateway) ask(r *http.Request, kind, arg string) (json.RawMessage, error) {
	return g.deps.Zone.QueryZone(r.Context(), cmp.Or(r.URL.Query().Get("zone"), g.deps.Zone.Zone()), kind, arg)
}

// query serves a look at a zone's leader.
func (g *Gateway) query(kind string) handler {
	return func(w http.ResponseWriter, r *http.Request, _ caller) error {
		raw, err := g.ask(r, kind, r.URL.Query().Get("since"))
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, raw)
	}
}

// model serves GET /v1/model: the leader's model, or with ?here=1 that of the scheduler behind this door.
func (g *Gateway) model(w http.ResponseWriter, r *http.Request, _ caller) error {
	arg, q := "", r.URL.Query()
	if q.Get("here") != "" {
		if q.Get("zone") != "" {
			return fmt.Errorf("%w: here and zone: want one of them, this door's scheduler or another zone's leader", api.ErrInvalid)
		}
		arg = "here"
	}
	raw, err := g.ask(r, "model", arg)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, raw)
}

func (g *Gateway) zones(w http.ResponseWriter, r *http.Request, _ caller) error {
	raw, err := g.deps.Zone.Zones(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, raw)
}

// setPolicy serves POST /v1/policy {"policy": "rubato", "wait_ms": 0} and {"mode": "off", "function": "wordcount"}, of this zone or
// of ?zone=Z, and answers what holds there now; a function of another tenant is named with it.
func (g *Gateway) setPolicy(w http.ResponseWriter, r *http.Request, c caller) error {
	var p struct {
		Policy string `json:"policy"`
		WaitMs int64  `json:"wait_ms"`
		// Mode is of the zone, or of Function.
		Mode     string `json:"mode"`
		Function string `json:"function"`
	}
	if err := readJSON(w, r, &p); err != nil {
		return err
	}
	kind, arg := "policy", p.Policy
	switch {
	case (p.Policy == "") == (p.Mode == "") || p.Function != "" && p.Mode == "":
		return fmt.Errorf("%w: body: want a policy, or a mode and perhaps a function", api.ErrInvalid)
	case p.WaitMs < 0 || p.WaitMs > 0 && !strings.HasPrefix(p.Policy, "fixed-delay"):
		return fmt.Errorf("%w: wait_ms %d: want more than 0, with a fixed-delay policy", api.ErrInvalid, p.WaitMs)
	case p.Mode != "":
		if kind, arg = "mode", p.Mode; p.Function != "" {
			if !strings.Contains(p.Function, "/") {
				p.Function = c.tenant + "/" + p.Function
			}
			arg += " " + p.Function
		}
	}
	if p.WaitMs > 0 {
		arg += "," + strconv.FormatInt(p.WaitMs, 10) + "ms"
	}
	raw, err := g.ask(r, kind, arg)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, raw)
}

// maxJSON bounds the JSON of a request that is not a payload.
const maxJSON = 64 << 10

func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJSON))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: body: %w", api.ErrInvalid, err)
	}
	return nil
}

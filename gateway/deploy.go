package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/objectstore"
)

// deployment is the body of PUT /v1/functions/{name}.
type deployment struct {
	Runtime             api.Runtime       `json:"runtime"`
	Artifact            string            `json:"artifact"`
	MemoryMB            int               `json:"memory_mb"`
	TimeoutMs           int64             `json:"timeout_ms"`
	ObjectiveDeadlineMs int64             `json:"objective_deadline_ms"`
	ObjectiveShare      float64           `json:"objective_share"`
	PriceWeight         float64           `json:"price_weight"`
	MissWeight          float64           `json:"miss_weight"`
	DelayOff            bool              `json:"delay_off"`
	Idempotent          bool              `json:"idempotent"`
	Env                 map[string]string `json:"env"`
	Arch                string            `json:"arch,omitempty"`
	Accelerator         string            `json:"accelerator,omitempty"`
	Tags                []string          `json:"tags,omitempty"`
	MinWarm             int               `json:"min_warm,omitempty"`
}

// functionView is a function as callers see it.
type functionView struct {
	Name    string `json:"name"`
	Tenant  string `json:"tenant"`
	Version uint64 `json:"version"`
	deployment
	ArtifactBytes int64 `json:"artifact_bytes"`
	// Mode is how far the zone's rule acts for the function, if an operator said so.
	Mode string `json:"mode,omitempty"`
}

func view(f *api.Function) functionView {
	return functionView{
		Name: f.Name, Tenant: f.Tenant, Version: f.Version, ArtifactBytes: f.ArtifactBytes,
		deployment: deployment{
			Runtime: f.Runtime, Artifact: f.Artifact, MemoryMB: f.MemoryMB, TimeoutMs: f.Timeout.Milliseconds(),
			ObjectiveDeadlineMs: f.Objective.Deadline.Milliseconds(), ObjectiveShare: f.Objective.Share, PriceWeight: f.Objective.PriceWeight, MissWeight: f.Objective.MissWeight, DelayOff: f.DelayOff, Idempotent: f.Idempotent, Env: f.Env,
			Arch: f.Needs.Arch, Accelerator: f.Needs.Accelerator, Tags: f.Needs.Tags, MinWarm: f.MinWarm,
		},
	}
}

// Defaults of what a deployment leaves out.
const (
	defaultMemoryMB  = 128
	defaultTimeoutMs = 30_000
)

func (g *Gateway) deploy(w http.ResponseWriter, r *http.Request, c caller) error {
	d := deployment{MemoryMB: defaultMemoryMB, TimeoutMs: defaultTimeoutMs}
	if err := readJSON(w, r, &d); err != nil {
		return err
	}
	if !isDigest(d.Artifact) {
		return fmt.Errorf("%w: artifact %q: want the SHA-256, in lower-case hex, of an artifact put under /v1/artifacts/", api.ErrInvalid, d.Artifact)
	}
	info, err := g.deps.Objects.Stat(r.Context(), objectstore.ArtifactKey(c.tenant, d.Artifact))
	if errors.Is(err, api.ErrNotFound) {
		return fmt.Errorf("%w: artifact %s: put it under /v1/artifacts/%s first", api.ErrInvalid, d.Artifact, d.Artifact)
	}
	if err != nil {
		return err
	}
	const maxMs = int64(api.MaxTimeout / time.Millisecond)
	if d.TimeoutMs > maxMs || d.ObjectiveDeadlineMs > maxMs {
		return fmt.Errorf("%w: timeout_ms and objective_deadline_ms: want at most %d", api.ErrInvalid, maxMs)
	}
	f := api.Function{
		Tenant: c.tenant, Name: r.PathValue("name"), Runtime: d.Runtime, Artifact: d.Artifact, ArtifactBytes: info.Bytes,
		MemoryMB: d.MemoryMB, Timeout: time.Duration(d.TimeoutMs) * time.Millisecond, DelayOff: d.DelayOff, Idempotent: d.Idempotent, Env: d.Env, MinWarm: d.MinWarm,
		Needs:     api.Labels{Arch: d.Arch, Accelerator: d.Accelerator, Tags: d.Tags},
		Objective: api.Objective{Deadline: time.Duration(d.ObjectiveDeadlineMs) * time.Millisecond, Share: d.ObjectiveShare, PriceWeight: d.PriceWeight, MissWeight: d.MissWeight},
	}
	if err := errors.Join(f.Validate(), api.CheckEnv(d.Env)); err != nil {
		return err
	}
	id, err := requestID(r, c)
	if err != nil {
		return err
	}
	version, err := g.deps.Zone.Deploy(r.Context(), f, id)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"name": f.Name, "version": version})
}

// maxChangeKey bounds the idempotency key of a deployment or removal, which the coordinator remembers.
const maxChangeKey = 64

// requestID makes a change safe to send again: the caller's idempotency key, or one of this request's own.
func requestID(r *http.Request, c caller) (string, error) {
	k := r.Header.Get("Idempotency-Key")
	if !printable(k, maxChangeKey) {
		return "", fmt.Errorf("%w: header Idempotency-Key: want up to %d printable ASCII characters", api.ErrInvalid, maxChangeKey)
	}
	if k == "" {
		return c.id, nil
	}
	return "k:" + k, nil
}

// listFunctions serves GET /v1/functions: the tenant's, or with ?all=1 those of all tenants, for operators and without
// what their environments say.
func (g *Gateway) listFunctions(w http.ResponseWriter, r *http.Request, c caller) error {
	all := r.URL.Query().Get("all") != ""
	if all && !c.operator {
		return fmt.Errorf("%w: the functions of all tenants are for operators", errForbidden)
	}
	tenant := c.tenant
	if all {
		tenant = ""
	}
	out := []functionView{}
	modes := map[string]string{}
	if raw, err := g.deps.Zone.Query(r.Context(), "modes", ""); err == nil { // functions are listed without a leader too
		if err := json.Unmarshal(raw, &modes); err != nil {
			return err
		}
	}
	for _, f := range g.deps.Zone.Functions(tenant) {
		v := view(&f)
		v.Mode = modes[f.ID()]
		if all {
			v.Env = nil
		}
		out = append(out, v)
	}
	return writeJSON(w, http.StatusOK, out)
}

func (g *Gateway) getFunction(w http.ResponseWriter, r *http.Request, c caller) error {
	f, ok := g.deps.Zone.Function(c.tenant + "/" + r.PathValue("name"))
	if !ok {
		return fmt.Errorf("%w: no function %q of tenant %s", api.ErrNotFound, r.PathValue("name"), c.tenant)
	}
	return writeJSON(w, http.StatusOK, view(&f))
}

func (g *Gateway) deleteFunction(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := requestID(r, c)
	if err != nil {
		return err
	}
	if err := g.deps.Zone.Delete(r.Context(), c.tenant, r.PathValue("name"), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// prewarm serves POST /v1/functions/{name}/prewarm {"count": 1}: sandboxes for calls that will come, in this zone and at once, as
// far as there is room.
func (g *Gateway) prewarm(w http.ResponseWriter, r *http.Request, c caller) error {
	p := struct {
		Count int `json:"count"`
	}{1}
	if err := readJSON(w, r, &p); err != nil {
		return err
	}
	if p.Count < 1 || p.Count > api.MaxPrewarm {
		return fmt.Errorf("%w: count %d: want 1-%d", api.ErrInvalid, p.Count, api.MaxPrewarm)
	}
	id := c.tenant + "/" + r.PathValue("name")
	if _, ok := g.deps.Zone.Function(id); !ok {
		return fmt.Errorf("%w: no function %q of tenant %s", api.ErrNotFound, r.PathValue("name"), c.tenant)
	}
	raw, err := g.deps.Zone.Query(r.Context(), "prewarm", id+","+strconv.Itoa(p.Count))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusAccepted, raw)
}

// defaultLogs and maxLogs bound the calls whose output is shown.
const (
	defaultLogs = 20
	maxLogs     = 1000
)

func (g *Gateway) logs(w http.ResponseWriter, r *http.Request, c caller) error {
	last := defaultLogs
	if v := r.URL.Query().Get("last"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxLogs {
			return fmt.Errorf("%w: last=%q: want 1-%d", api.ErrInvalid, v, maxLogs)
		}
		last = n
	}
	lines, err := g.deps.Zone.Logs(r.Context(), c.tenant+"/"+r.PathValue("name"), last)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, lines)
}

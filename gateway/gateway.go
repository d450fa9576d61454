// Package gateway is a zone's HTTP front door in Rubato's native dialect: it authenticates, validates, turns requests
// into invocations for the scheduler behind it and its answers into HTTP. docs/http.md is its reference. It decides
// nothing about where calls run and keeps no state but bounded caches and counters. Its handler is safe for concurrent
// use. Times in headers are milliseconds.
package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/objectstore"
)

// Zone is what a door needs of the scheduler behind it.
type Zone interface {
	// Invoke runs a call to its end; every failure is an answer with a code. The end of ctx cancels the call.
	Invoke(ctx context.Context, inv *api.Invocation) *wire.Answer
	// InvokeAsync puts a call on disk; Result finds what became of it.
	InvokeAsync(ctx context.Context, inv *api.Invocation) error
	Result(ctx context.Context, tenant, id string) (a *wire.Answer, pending bool, err error)
	// Cancel ends a call of the tenant; of one that has ended or never was, it changes nothing.
	Cancel(ctx context.Context, tenant, id string) error
	// Function finds the current version of "tenant/name"; Functions lists a tenant's, of "" all.
	Function(id string) (api.Function, bool)
	Functions(tenant string) []api.Function
	// Query looks at the leader's state; the kinds are the scheduler's.
	Query(ctx context.Context, kind, arg string) (json.RawMessage, error)
	// QueryZone is Query at another zone's leader.
	QueryZone(ctx context.Context, zone, kind, arg string) (json.RawMessage, error)
	// Deploy and Delete return once the zone knows of the change.
	Deploy(ctx context.Context, fn api.Function, requestID string) (version uint64, err error)
	Delete(ctx context.Context, tenant, name, requestID string) error
	Logs(ctx context.Context, fn string, last int) ([]wire.LogLine, error)
	// Zones is the coordinator's view.
	Zones(ctx context.Context) (json.RawMessage, error)
	Ready() error
	Zone() string
}

// Token is one credential.
type Token struct {
	Token  string `koanf:"token" secret:"true" doc:"the bearer token"`
	Tenant string `koanf:"tenant" doc:"tenant that it speaks for"`
	// Operator may see and change what concerns all tenants.
	Operator bool `koanf:"operator" doc:"may also do what concerns the whole zone"`
}

// Config of a door.
type Config struct {
	// Auth is "on" (bearer tokens) or "off" (everybody is an operator of the tenant they name in X-Tenant).
	Auth string `koanf:"auth" doc:"on: bearer tokens; off: everybody may do everything"`
	// TokensFile is a YAML file with a list of tokens, so that secrets need not stand in the configuration.
	TokensFile string  `koanf:"tokens_file" doc:"YAML file with a list of {token, tenant, operator}"`
	Tokens     []Token `koanf:"-"`
	// MaxInFlight bounds requests worked on at once, MaxTenantInFlight those of one tenant; more get 429.
	MaxInFlight       int64 `koanf:"max_in_flight" doc:"requests worked on at once; more get 429"`
	MaxTenantInFlight int64 `koanf:"max_tenant_in_flight" doc:"requests of one tenant worked on at once; more get 429"`
	// MaxObjectBytes bounds an object that is put.
	MaxObjectBytes int64 `koanf:"max_object_bytes" doc:"bytes of one object at most"`
	// BodyGrace is how long a request's body may take; a long one as much longer as it takes at bodyPace.
	BodyGrace time.Duration `koanf:"body_grace" doc:"time in which a body must have come, and 16 KiB for each second more"`
}

// DefaultConfig demands tokens.
func DefaultConfig() Config {
	return Config{Auth: "on", MaxInFlight: 16384, MaxTenantInFlight: 8192, MaxObjectBytes: 1 << 30, BodyGrace: 30 * time.Second}
}

// Validate reports all faults.
func (c Config) Validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: gateway: "+format, append([]any{api.ErrInvalid}, args...)...))
		}
	}
	bad(c.Auth == "on" || c.Auth == "off", "auth %q: want on or off", c.Auth)
	bad(c.MaxInFlight > 0 && c.MaxTenantInFlight > 0, "max_in_flight and max_tenant_in_flight: want more than 0")
	bad(c.BodyGrace > 0, "body_grace %v: want more than 0", c.BodyGrace)
	bad(c.MaxObjectBytes > 0, "max_object_bytes %d: want more than 0", c.MaxObjectBytes)
	tokens, err := loadTokens(c.TokensFile)
	errs = append(errs, err)
	owner := map[string]string{}
	for i, t := range append(append([]Token(nil), c.Tokens...), tokens...) {
		was, twice := owner[t.Token]
		bad(!twice, "token %d of tenant %s is tenant %s's, too: want each token once", i, t.Tenant, was)
		owner[t.Token] = t.Tenant
		bad(len(t.Token) >= minToken, "token %d of tenant %s: want at least %d characters", i, t.Tenant, minToken)
		errs = append(errs, api.CheckName("tenant", t.Tenant))
	}
	return errors.Join(errs...)
}

// minToken is the least length of a token that is not guessed.
const minToken = 16

// Deps are what a door stands on.
type Deps struct {
	Zone    Zone
	Objects objectstore.Store // inputs, artifacts, payloads
	// Results has results above api.InlineBytes; it drops them by their age.
	Results  objectstore.Store
	Log      *slog.Logger
	Registry prometheus.Registerer
}

// Gateway is one door.
type Gateway struct {
	cfg      Config
	deps     Deps
	auth     *authority
	stats    *statCache
	metrics  *metrics
	inFlight atomic.Int64
	mux      *http.ServeMux
}

// New makes a door.
func New(cfg Config, deps Deps) (*Gateway, error) {
	tokens, err := loadTokens(cfg.TokensFile)
	if err != nil {
		return nil, err
	}
	cfg.Tokens, cfg.TokensFile = append(append([]Token(nil), cfg.Tokens...), tokens...), ""
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	g := &Gateway{cfg: cfg, deps: deps, auth: newAuthority(cfg), stats: newStatCache(), metrics: newMetrics(deps.Registry, deps.Zone.Zone())}
	g.mux = http.NewServeMux()
	g.routes()
	return g, nil
}

func (g *Gateway) routes() {
	tenant := func(pattern string, h handler) { g.mux.Handle(pattern, g.wrap(h, false)) }
	operator := func(pattern string, h handler) { g.mux.Handle(pattern, g.wrap(h, true)) }
	tenant("POST /v1/functions/{name}/invoke", g.invoke)
	tenant("GET /v1/functions", g.listFunctions)
	tenant("GET /v1/functions/{name}", g.getFunction)
	tenant("PUT /v1/functions/{name}", g.deploy)
	tenant("DELETE /v1/functions/{name}", g.deleteFunction)
	tenant("GET /v1/functions/{name}/logs", g.logs)
	tenant("POST /v1/functions/{name}/prewarm", g.prewarm)
	tenant("GET /v1/invocations/{id}", g.result)
	tenant("DELETE /v1/invocations/{id}", g.cancel)
	tenant("GET /v1/invocations/{id}/explain", g.explain)
	tenant("PUT /v1/artifacts/{digest}", g.putArtifact)
	tenant("GET /v1/artifacts/{digest}", g.statArtifact)
	tenant("GET /v1/objects", g.listObjects)
	tenant("PUT /v1/objects/{key...}", g.putObject)
	tenant("GET /v1/objects/{key...}", g.getObject)
	tenant("DELETE /v1/objects/{key...}", g.deleteObject)
	tenant("GET /v1/decisions", g.decisions)
	operator("GET /v1/nodes", g.query("nodes"))
	operator("GET /v1/zone", g.query("zone"))
	operator("GET /v1/calls", g.query("ended"))
	operator("GET /v1/model", g.model)
	operator("GET /v1/zones", g.zones)
	operator("POST /v1/policy", g.setPolicy)
	operator("POST /v1/flush", g.query("flush"))
	g.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		id := newID()
		w.Header().Set("X-Request-Id", id)
		writeError(w, id, fmt.Errorf("%w: no route %s %s (docs/http.md lists them)", api.ErrNotFound, r.Method, r.URL.Path))
	})
}

// Handler serves the door's routes, all under /v1/, and a JSON error for whatever is none.
func (g *Gateway) Handler() http.Handler { return g.mux }

// caller is who knocks.
type caller struct {
	tenant   string
	operator bool
	id       string // of the request
}

type handler func(w http.ResponseWriter, r *http.Request, c caller) error

// wrap authenticates, counts and bounds, and turns errors and panics into answers.
func (g *Gateway) wrap(h handler, operator bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := newID()
		w.Header().Set("X-Request-Id", id)
		r = pace(w, r, g.cfg.BodyGrace)
		defer func() {
			p := recover()
			if p == http.ErrAbortHandler {
				panic(p) // the server cuts the connection: half a body must not look whole
			}
			if p != nil {
				g.deps.Log.Error("panic in handler", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				writeError(w, id, errors.New("internal error; see the zone's log"))
			}
		}()
		who, err := g.auth.check(r)
		if err == nil && operator && !who.operator {
			err = fmt.Errorf("%w: %s %s is for operators", errForbidden, r.Method, r.URL.Path)
		}
		if err != nil {
			writeError(w, id, err)
			return
		}
		done, err := g.enter(who.tenant)
		if err != nil {
			writeError(w, id, err)
			return
		}
		defer done()
		if err := h(w, r, caller{tenant: who.tenant, operator: who.operator, id: id}); err != nil {
			writeError(w, id, err)
		}
	})
}

// enter counts a request in, or refuses it.
func (g *Gateway) enter(tenant string) (done func(), err error) {
	t := g.auth.load(tenant)
	if n := g.inFlight.Add(1); n > g.cfg.MaxInFlight {
		g.inFlight.Add(-1)
		return nil, fmt.Errorf("%w: the door works on %d requests, its limit", api.ErrOverloaded, g.cfg.MaxInFlight)
	}
	if n := t.Add(1); n > g.cfg.MaxTenantInFlight {
		t.Add(-1)
		g.inFlight.Add(-1)
		return nil, fmt.Errorf("%w: tenant %s has %d requests under way, its limit", api.ErrOverloaded, tenant, g.cfg.MaxTenantInFlight)
	}
	g.metrics.inFlight.Inc()
	return func() { t.Add(-1); g.inFlight.Add(-1); g.metrics.inFlight.Dec() }, nil
}

package gateway

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"go.yaml.in/yaml/v3"

	"github.com/rubato-faas/rubato/api"
)

var (
	errUnauthorized = errors.New("unauthorized")
	errForbidden    = errors.New("forbidden")
)

// identity is what a credential stands for.
type identity struct {
	tenant   string
	operator bool
}

// authority knows the credentials. Tokens are kept and looked up by hash, so that how long a look-up takes says
// nothing about them.
type authority struct {
	off    bool
	tokens map[[sha256.Size]byte]identity
	loads  sync.Map // tenant -> *atomic.Int64, requests under way
	known  atomic.Int64
	spill  atomic.Int64 // shared by tenants beyond maxTenants
}

// maxTenants bounds the tenants that are counted one by one.
const maxTenants = 65536

func newAuthority(cfg Config) *authority {
	a := &authority{off: cfg.Auth == "off", tokens: map[[sha256.Size]byte]identity{}}
	for _, t := range cfg.Tokens {
		a.tokens[sha256.Sum256([]byte(t.Token))] = identity{t.Tenant, t.Operator}
	}
	return a
}

func (a *authority) check(r *http.Request) (identity, error) {
	if a.off {
		tenant := r.Header.Get("X-Tenant")
		if tenant == "" {
			tenant = "default"
		}
		if err := api.CheckName("tenant", tenant); err != nil {
			return identity{}, fmt.Errorf("header X-Tenant: %w", err)
		}
		return identity{tenant, true}, nil
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return identity{}, fmt.Errorf("%w: want the header Authorization: Bearer TOKEN", errUnauthorized)
	}
	id, ok := a.tokens[sha256.Sum256([]byte(token))]
	if !ok {
		return identity{}, fmt.Errorf("%w: the bearer token is not known here", errUnauthorized)
	}
	return id, nil
}

// load is a tenant's count of requests under way.
func (a *authority) load(tenant string) *atomic.Int64 {
	if n, ok := a.loads.Load(tenant); ok {
		return n.(*atomic.Int64)
	}
	if a.known.Load() >= maxTenants {
		return &a.spill
	}
	n, loaded := a.loads.LoadOrStore(tenant, &atomic.Int64{})
	if !loaded {
		a.known.Add(1)
	}
	return n.(*atomic.Int64)
}

// loadTokens reads a YAML list of tokens; "" is none.
func loadTokens(path string) ([]Token, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: gateway tokens: %w", api.ErrInvalid, err)
	}
	var list []struct {
		Token    string `yaml:"token"`
		Tenant   string `yaml:"tenant"`
		Operator bool   `yaml:"operator"`
	}
	d := yaml.NewDecoder(strings.NewReader(string(b)))
	d.KnownFields(true)
	if err := d.Decode(&list); err != nil {
		return nil, fmt.Errorf("gateway tokens %s: %w: want a list of {token, tenant, operator}: %w", path, api.ErrInvalid, err)
	}
	var out []Token
	for _, t := range list {
		out = append(out, Token{t.Token, t.Tenant, t.Operator})
	}
	return out, nil
}

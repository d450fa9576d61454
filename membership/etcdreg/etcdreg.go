// Package etcdreg is the election of zone leaders in etcd: a lease and a key per candidate, and the oldest key
// leads. It elects and fences; it is no lock (a lease may run out while its holder believes in it, hence epochs),
// and it tracks no nodes. zoned is its user.
//
// Keys are "<prefix>/<zone>/<lease in hex>" with the candidate's name as the value, which is the layout of etcd's
// own election recipe: a standby that is sure of the leader's death may delete its key in a transaction that compares
// the create-revision. The recipe itself is not used, since it learns of a lost lease from the server alone. Here the
// candidate judges by its own clock, from the moment it *sent* the last keep-alive that was answered, so that it stops
// claiming leadership no later than the server gives it to another.
//
// A Registry is safe for concurrent use; each Run is an independent candidate, so use one per process and zone.
package etcdreg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/membership"
)

const (
	// resignTimeout bounds giving up a session: a candidate that ends must not wait for an etcd that is gone.
	resignTimeout = time.Second
	// minPause and maxPause bound the wait between two sessions; it doubles while they fail at once.
	minPause = 20 * time.Millisecond
	maxPause = time.Second
)

// Config says who campaigns for what.
type Config struct {
	// Prefix is the root of the keys (default "/rubato/leaders"); clusters that share an etcd differ in it.
	Prefix string
	// Zone is the zone to lead, Candidate this process's name, unique in the zone.
	Zone, Candidate string
	// TTL is the lease's life without keep-alives, in whole seconds (default 2s; 1s-60s). It is how long a zone has no
	// leader when one dies without a word and no standby helps; too short, and a pause of etcd deposes leaders that
	// live. etcd may grant more than asked for: at least 1.5 times its own election timeout.
	TTL time.Duration
	// Generation is the first part of epochs. Raise it after etcd was restored from a backup: its revisions may
	// then begin lower than ones already seen.
	Generation uint64
	// Log gets lost sessions; nil means slog.Default.
	Log *slog.Logger
}

// DefaultConfig is a Config but for Zone, Candidate and Generation.
func DefaultConfig() Config { return Config{Prefix: "/rubato/leaders", TTL: 2 * time.Second} }

// Validate reports every fault of the configuration at once.
func (c *Config) Validate() error {
	errs := []error{api.CheckName("zone", c.Zone), api.CheckName("candidate", c.Candidate)}
	if c.Prefix == "" || strings.HasSuffix(c.Prefix, "/") {
		errs = append(errs, fmt.Errorf("%w: prefix %q: want one without a slash at the end", api.ErrInvalid, c.Prefix))
	}
	if c.TTL < time.Second || c.TTL > time.Minute || c.TTL%time.Second != 0 {
		errs = append(errs, fmt.Errorf("%w: TTL %v: want whole seconds, 1s-60s", api.ErrInvalid, c.TTL))
	}
	return errors.Join(errs...)
}

// Registry campaigns for the lead of one zone. The client stays its maker's to close, after Run has returned.
type Registry struct {
	client *clientv3.Client
	cfg    Config
	prefix string // of the zone's keys, with a slash at the end
	log    *slog.Logger
}

var _ membership.Elector = (*Registry)(nil)

// New makes a candidate that does not campaign yet.
func New(client *clientv3.Client, cfg Config) (*Registry, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("etcdreg new: %w", err)
	}
	return &Registry{
		client: client, cfg: cfg, prefix: cfg.Prefix + "/" + cfg.Zone + "/",
		log: cmp.Or(cfg.Log, slog.Default()).With("zone", cfg.Zone, "candidate", cfg.Candidate),
	}, nil
}

// Run implements membership.Elector. It returns nil after ctx has ended; while etcd is away it tries on.
func (r *Registry) Run(ctx context.Context, changed func(membership.Leadership)) error {
	v := &view{changed: changed}
	pause := minPause
	for ctx.Err() == nil {
		start := time.Now()
		err := r.campaign(ctx, v)
		if ctx.Err() != nil {
			break
		}
		r.log.Warn("election session lost, campaigning again", "err", err)
		if time.Since(start) > maxPause {
			pause = minPause
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)): // jitter: all candidates lose an etcd at the same time
		case <-ctx.Done():
		}
		pause = min(2*pause, maxPause)
	}
	return nil
}

// campaign holds one session from its lease to its end, and returns why it ended. follow tells the view that
// leadership is over, and only then the key goes: never do two hold themselves for the leader because one resigned.
func (r *Registry) campaign(ctx context.Context, v *view) error {
	s, err := r.open(ctx)
	if err != nil {
		return err
	}
	err = s.follow(ctx, v)
	s.close(ctx)
	return err
}

// view remembers what was told last, so that only changes are told.
type view struct {
	changed func(membership.Leadership)
	last    membership.Leadership
}

func (v *view) tell(l membership.Leadership) {
	if l != v.last {
		v.last = l
		v.changed(l)
	}
}

// lost withdraws a claim to leadership. A standby's last view stays: it is old, as all views may be.
func (v *view) lost() {
	if v.last.Mine {
		v.tell(membership.Leadership{})
	}
}

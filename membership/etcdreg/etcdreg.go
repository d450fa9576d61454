// Package etcdreg is the election of zone leaders in etcd: a lease and a key per candidate, and the oldest key
// leads. It elects and fences; it is no lock (a leader that etcd has forgotten goes on until it learns of another,
// hence epochs), and it tracks no nodes. zoned is its user.
//
// Keys are "<prefix>/<zone>/<lease in hex>" with the candidate's name as the value, which is the layout of etcd's
// own election recipe: a standby that is sure of the leader's death may delete its key in a transaction that compares
// the create-revision. The recipe itself is not used, since with it a lost lease is the end of leadership. Here it is
// not: a leader that cannot reach etcd leads on, for a zone must not stop because its election has, and one whose key
// is gone takes a new one. If that is the oldest, nobody led in between: the value then says "<name> <epoch>", the epoch
// under which it began, so that standbys do not give up the calls that it works on.
//
// A Registry is one candidate: its Run is called once. Heard may be called from everywhere.
package etcdreg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

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

// DialOptions are for the client that a Registry uses: it tries to reach an etcd that was away again within half a
// second. gRPC's own pauses grow to two minutes, in which an etcd that is long back lets every lease run out.
func DialOptions() []grpc.DialOption {
	b := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: .2, MaxDelay: maxReconnect}
	return []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: b, MinConnectTimeout: 2 * time.Second})}
}

const maxReconnect = 500 * time.Millisecond

// Config says who campaigns for what.
type Config struct {
	// Prefix is the root of the keys (default "/rubato/leaders"); clusters that share an etcd differ in it.
	Prefix string
	// Zone is the zone to lead, Candidate this process's name, unique in the zone.
	Zone, Candidate string
	// TTL is the lease's life without keep-alives, in whole seconds (default 2s; 1s-60s). It is how long a zone has no
	// leader when one dies without a word and no standby helps; too short, and a leader that is only slow is replaced.
	// etcd may grant more than asked for: at least 1.5 times its own election timeout.
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

	mu    sync.Mutex
	heard membership.Leadership // the highest epoch that messages spoke of
	news  chan struct{}         // heard has changed
}

var _ membership.Elector = (*Registry)(nil)

// New makes a candidate that does not campaign yet.
func New(client *clientv3.Client, cfg Config) (*Registry, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("etcdreg new: %w", err)
	}
	return &Registry{
		client: client, cfg: cfg, prefix: cfg.Prefix + "/" + cfg.Zone + "/", news: make(chan struct{}, 1),
		log: cmp.Or(cfg.Log, slog.Default()).With("zone", cfg.Zone, "candidate", cfg.Candidate),
	}, nil
}

// Heard implements membership.Elector.
func (r *Registry) Heard(l membership.Leadership) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !l.Newer(r.heard) {
		return
	}
	r.heard = l
	select {
	case r.news <- struct{}{}:
	default: // who is about to read sees this too
	}
}

func (r *Registry) lastHeard() membership.Leadership {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heard
}

// Run implements membership.Elector. It returns nil after ctx has ended; while etcd is away it tries on. Its goroutine
// never waits for etcd, so that what is heard from messages counts at once.
func (r *Registry) Run(ctx context.Context, changed func(membership.Leadership)) error {
	v := membership.NewView(changed)
	c := &candidate{reg: r, asks: make(chan func(*membership.View)), again: make(chan struct{}, 1)}
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() { defer close(ended); c.run(inner) }()
	for {
		select {
		case f := <-c.asks:
			f(v)
		case <-r.news:
			v.Heard(r.lastHeard())
			select {
			case c.again <- struct{}{}: // its key may be below that now
			default:
			}
		case <-ctx.Done():
			v.Resign() // before the key goes: never do two hold themselves for the leader because one resigned
			stop()
			<-ended
			return nil
		}
	}
}

// candidate holds one session after another, beside Run's goroutine, which owns the view.
type candidate struct {
	reg   *Registry
	asks  chan func(*membership.View)
	again chan struct{} // look again
}

// ask runs f with the view, on Run's goroutine. It returns false when ctx has ended.
func (c *candidate) ask(ctx context.Context, f func(*membership.View)) bool {
	ran := make(chan struct{})
	select {
	case c.asks <- func(v *membership.View) { f(v); close(ran) }:
		<-ran
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *candidate) run(ctx context.Context) {
	pause, below := minPause, false
	for {
		var leading api.Epoch
		late := false
		if !c.ask(ctx, func(v *membership.View) { leading, late = v.Leading(), v.Follows() && !below }) {
			return
		}
		start := time.Now()
		err := c.campaign(ctx, leading, late)
		if ctx.Err() != nil {
			return
		}
		below = errors.Is(err, errBelow) // such a one takes its place in the queue at once
		c.reg.log.Warn("election session lost, campaigning again", "err", err)
		if time.Since(start) > maxPause {
			pause = minPause
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)): // jitter: all candidates lose an etcd at the same time
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, maxPause)
	}
}

// campaign holds one session from its lease to its end, and returns why it ended. A leader whose key is gone says since
// when it leads; a standby in the same case is late: it lets the leader, which may live, come first.
func (c *candidate) campaign(ctx context.Context, leading api.Epoch, late bool) error {
	s, err := c.open(ctx, leading, late)
	if err != nil {
		return err
	}
	err = s.follow(ctx)
	s.close(ctx)
	return err
}

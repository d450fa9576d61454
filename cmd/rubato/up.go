package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rubato-faas/rubato/api/wire"
	"github.com/rubato-faas/rubato/cluster"
	"github.com/rubato-faas/rubato/internal/ops"
	"github.com/rubato-faas/rubato/zonesched/policy"
)

type upOptions struct {
	data, listen, policy, level     string
	zones, nodes, slots, schedulers int
	linkMbps                        float64
	memoryMB                        int
}

func newUp() *cobra.Command {
	o := upOptions{listen: "127.0.0.1:7070", policy: "rubato", level: "warn", zones: 2, nodes: 4, slots: 4, schedulers: 2, memoryMB: 2048}
	cmd := &cobra.Command{
		Use: "up", Short: "Start a whole cluster in this process and stay",
		Long: `up starts NATS, etcd, three coordinators, zones with a leader and a standby each, and nodes, all in this process and on
loopback, and serves until it is interrupted. State lives under --data: started again with the same folder, functions,
objects and results are still there. Authentication is off: everybody who reaches the port may do everything.`,
		Example: "  rubato up\n  rubato up --data /tmp/rubato --zones 3 --nodes 8 --slots 2",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "rubato-data", "folder for all state")
	f.StringVar(&o.listen, "listen", o.listen, "address of the first front door")
	f.IntVar(&o.zones, "zones", o.zones, "zones: the first is an edge zone, the others are core zones")
	f.IntVar(&o.nodes, "nodes", o.nodes, "nodes in each zone")
	f.IntVar(&o.slots, "slots", o.slots, "calls that a node runs at once")
	f.IntVar(&o.memoryMB, "memory-mb", o.memoryMB, "memory of a node for sandboxes")
	f.IntVar(&o.schedulers, "schedulers", o.schedulers, "schedulers in each zone: a leader and standbys")
	f.Float64Var(&o.linkMbps, "link-mbps", 0, "limit of each node's link to the object store (0: none)")
	f.StringVar(&o.policy, "policy", o.policy, "the rule: "+strings.Join(policies, ", "))
	f.StringVar(&o.level, "log", o.level, "log level: debug, info, warn or error")
	complete(cmd, "policy", policies...)
	complete(cmd, "log", logLevels...)
	_ = cmd.MarkFlagDirname("data") // the flag exists
	return cmd
}

// policies are the rules that a zone can schedule by.
var policies = policy.Names()

// check reports all flags that are wrong, each with what would be right.
func (o *upOptions) check() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, usage(format, args...))
		}
	}
	between := func(flag string, n, low, high int) {
		bad(n >= low && n <= high, "--%s %d: want %d-%d", flag, n, low, high)
	}
	between("zones", o.zones, 1, 16)
	between("nodes", o.nodes, 1, 64)
	between("schedulers", o.schedulers, 1, 5)
	between("slots", o.slots, 1, wire.MaxRunning)
	between("memory-mb", o.memoryMB, 1, 1<<20)
	bad(o.linkMbps >= 0, "--link-mbps %v: want 0 or more", o.linkMbps)
	bad(slices.Contains(policies, o.policy), "--policy %q: want one of %s", o.policy, strings.Join(policies, ", "))
	_, _, err := net.SplitHostPort(o.listen)
	bad(err == nil, "--listen %q: want host:port", o.listen)
	bad(o.data != "", "--data: want a folder")
	if st, err := os.Stat(o.data); err == nil {
		bad(st.IsDir(), "--data %q: want a folder, this is a file", o.data)
	}
	return errors.Join(errs...)
}

func (o *upOptions) cluster(log *slog.Logger) (cluster.Options, error) {
	opts := cluster.DefaultOptions("", log)
	dir, err := filepath.Abs(o.data)
	if err != nil {
		return opts, fmt.Errorf("find data folder: %w", err)
	}
	opts.Dir, opts.Listen, opts.Nodes, opts.Schedulers = dir, o.listen, o.nodes, o.schedulers
	opts.Zones = []cluster.ZoneSpec{{Name: "edge", Tier: "edge", Region: "city"}, {Name: "core", Tier: "core", Region: "valley"}}[:min(o.zones, 2)]
	for i := 3; i <= o.zones; i++ {
		opts.Zones = append(opts.Zones, cluster.ZoneSpec{Name: fmt.Sprintf("core%d", i-1), Tier: "core", Region: fmt.Sprintf("region%d", i-1)})
	}
	n := &opts.Node.Node.Node
	n.Slots, n.LinkMbps, n.MemoryMB = o.slots, o.linkMbps, o.memoryMB
	opts.Zone.Zone.Sched.Policy = o.policy
	opts.Zone.Gateway.Auth = "off" // said so in the help: a cluster of one's own on loopback
	return opts, nil
}

func (o *upOptions) run(cmd *cobra.Command) error {
	if err := o.check(); err != nil {
		return err
	}
	log, err := ops.NewLogger(cmd.ErrOrStderr(), o.level, "text")
	if err != nil {
		return usage("--log: %v", err)
	}
	opts, err := o.cluster(log)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	cl, err := cluster.Up(cmd.Context(), opts)
	if err != nil {
		return err
	}
	if err := announce(cmd.OutOrStdout(), cl, opts); err != nil {
		return err
	}
	<-cmd.Context().Done()
	fmt.Fprintln(cmd.ErrOrStderr(), "stopping: running calls are finished first")
	return cl.Down()
}

func announce(w io.Writer, cl *cluster.Cluster, opts cluster.Options) error {
	_, err := fmt.Fprintf(w, "cluster is up: %d zones, %d nodes; state in %s\n  NATS   %s\n  etcd   %s\n", len(opts.Zones), len(cl.Nodes), opts.Dir, cl.Substrate.NATSURL, cl.Substrate.EtcdURL)
	for _, z := range cl.Zones {
		if name, _, mine := z.Daemon.Leader(); err == nil {
			role := "standby"
			if mine {
				role = "leader"
			}
			_, err = fmt.Fprintf(w, "  zone %-6s http://%s (%s; leader %s)\n", z.Daemon.Zone(), z.Addr, role, name)
		}
	}
	if err == nil {
		_, err = fmt.Fprintf(w, "try: rubato --server http://%s functions\n", cl.Zones[0].Addr)
	}
	return err
}

// Command rubato-node runs functions on one machine and caches their sandboxes, artifacts and inputs.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/rubato-faas/rubato/cluster"
	"github.com/rubato-faas/rubato/internal/daemon"
)

func main() {
	os.Exit(daemon.Main(daemon.Spec[cluster.NodeConfig]{
		Name: "rubato-node", Prefix: "RUBATO_NODE_", Short: "Runs functions on one machine",
		Long: `rubato-node runs the functions that its zone's leader dispatches to it, keeps their sandboxes, artifacts and
input objects, and reports what it holds. Run one per machine. It needs NATS (JetStream on).`,
		Default: cluster.DefaultNodeConfig(),
		Log:     func(c *cluster.NodeConfig) (string, string) { return c.Log.Level, c.Log.Format },
		Run: func(ctx context.Context, cfg cluster.NodeConfig, log *slog.Logger) error {
			n, err := cluster.NewNode(ctx, cfg, log)
			if err != nil {
				return err
			}
			return n.Run(ctx)
		},
	}, os.Args[1:], os.Stdout, os.Stderr))
}

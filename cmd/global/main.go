// Command rubato-global is one replica of the coordinator.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/rubato-faas/rubato/cluster"
	"github.com/rubato-faas/rubato/internal/daemon"
)

func main() {
	os.Exit(daemon.Main(daemon.Spec[cluster.GlobalConfig]{
		Name: "rubato-global", Prefix: "RUBATO_GLOBAL_", Short: "One replica of the coordinator",
		Long: `rubato-global keeps the catalogue of functions, merges the zones' trees into one pool, and plans which part of a
zone's work may go to another. Run three or five. It is off the invocation path. It needs NATS (JetStream on).`,
		Default: cluster.DefaultGlobalConfig(),
		Log:     func(c *cluster.GlobalConfig) (string, string) { return c.Log.Level, c.Log.Format },
		Run: func(ctx context.Context, cfg cluster.GlobalConfig, log *slog.Logger) error {
			g, err := cluster.NewGlobal(ctx, cfg, log, nil, cluster.Hooks{})
			if err != nil {
				return err
			}
			return g.Run(ctx)
		},
	}, os.Args[1:], os.Stdout, os.Stderr))
}

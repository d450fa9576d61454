// Command rubato-zone is one scheduler of a zone: a leader or a hot standby, with an HTTP front door.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/rubato-faas/rubato/cluster"
	"github.com/rubato-faas/rubato/internal/daemon"
)

func main() {
	os.Exit(daemon.Main(daemon.Spec[cluster.ZoneConfig]{
		Name: "rubato-zone", Prefix: "RUBATO_ZONE_", Short: "One scheduler of a zone, with a front door",
		Long: `rubato-zone schedules a zone's invocations while it leads the zone, and stands by otherwise.
Run two or three per zone. It needs NATS (JetStream on), etcd, and for deploying functions a coordinator.`,
		Default: cluster.DefaultZoneConfig(),
		Log:     func(c *cluster.ZoneConfig) (string, string) { return c.Log.Level, c.Log.Format },
		Run: func(ctx context.Context, cfg cluster.ZoneConfig, log *slog.Logger) error {
			z, err := cluster.NewZone(ctx, cfg, log, cluster.Hooks{})
			if err != nil {
				return err
			}
			log.Info("front door open", "zone", cfg.Zone.Zone, "address", z.Addr)
			return z.Run(ctx)
		},
	}, os.Args[1:], os.Stdout, os.Stderr))
}

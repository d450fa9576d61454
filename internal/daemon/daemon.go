// Package daemon is what the mains of all daemons have in common: flags, the configuration file, --print-config,
// --validate, logging and signals. It knows no daemon.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/rubato-faas/rubato/internal/conf"
	"github.com/rubato-faas/rubato/internal/ops"
)

// Spec describes a daemon's command line.
type Spec[T any] struct {
	// Name of the binary, Prefix of its environment variables, Short and Long for its help.
	Name, Prefix, Short, Long string
	// Default is the configuration before file, environment and flags.
	Default T
	// Log tells level and format of the log.
	Log func(*T) (level, format string)
	// Run serves until ctx ends.
	Run func(ctx context.Context, cfg T, log *slog.Logger) error
}

// Main runs a daemon's command line and returns its exit code: 0, 1 for an error, 2 for wrong usage or configuration.
func Main[T any](spec Spec[T], args []string, stdout, stderr io.Writer) int {
	soft, hard, stop := ops.SignalContext(context.Background())
	defer stop()
	err := command(spec, stdout, stderr, soft, hard, args)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "%s: %v\n", spec.Name, err)
	if errors.Is(err, errUsage) {
		return 2
	}
	return 1
}

var errUsage = errors.New("usage")

func command[T any](spec Spec[T], stdout, stderr io.Writer, soft, hard context.Context, args []string) error {
	var file string
	var print, validate bool
	cmd := &cobra.Command{
		Use: spec.Name, Short: spec.Short, Long: spec.Long, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		Example: fmt.Sprintf("  %s --config /etc/rubato/%s.yaml\n  %s --print-config > %s.yaml", spec.Name, spec.Name, spec.Name, spec.Name),
	}
	flags := cmd.Flags()
	flags.StringVarP(&file, "config", "c", "", "YAML file; every setting can also be given as a flag or as "+spec.Prefix+"...")
	flags.BoolVar(&print, "print-config", false, "print the effective configuration with its documentation, and exit")
	flags.BoolVar(&validate, "validate", false, "check the configuration, and exit")
	if err := conf.BindFlags(flags, &spec.Default); err != nil {
		return err
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg := spec.Default
		err := conf.Load(&cfg, conf.Options{File: file, EnvPrefix: spec.Prefix, Flags: flags})
		if print { // also of a configuration with faults: it is how one finds out what there is to set
			var faults *conf.Faults
			if err != nil && !errors.As(err, &faults) { // but not of one that could not be read
				return fmt.Errorf("%w: configuration: %w", errUsage, err)
			}
			if perr := conf.WriteYAML(stdout, &cfg); perr != nil {
				return perr
			}
			if faults != nil && file != "" {
				fmt.Fprintf(stderr, "%s: the configuration has faults: %v\n", spec.Name, faults)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: configuration: %w", errUsage, err)
		}
		if validate {
			_, err := fmt.Fprintln(stdout, "configuration is valid")
			return err
		}
		level, format := spec.Log(&cfg)
		log, err := ops.NewLogger(stderr, level, format)
		if err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		return serve(spec, soft, hard, cfg, log)
	}
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	return cmd.ExecuteContext(soft)
}

// serve runs the daemon; a second signal ends the wait for its graceful end.
func serve[T any](spec Spec[T], soft, hard context.Context, cfg T, log *slog.Logger) error {
	done := make(chan error, 1)
	go func() { done <- spec.Run(soft, cfg, log) }()
	select {
	case err := <-done:
		return err
	case <-hard.Done():
		return errors.New("stopped at once by a second signal")
	}
}

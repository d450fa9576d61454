package natsbus

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rubato-faas/rubato/api"
)

// Config says how to reach the servers and what the connection may buffer.
type Config struct {
	// URLs are the servers, tried in random order. Not needed with InProcess.
	URLs []string `koanf:"urls" doc:"NATS servers, e.g. nats://10.0.0.1:4222"`
	// Name is what operators see in the server's connection list.
	Name string `koanf:"name" doc:"connection name shown by the server"`

	// At most one of CredsFile, NKeySeedFile, User and Token says who we are.
	CredsFile    string `koanf:"creds_file" doc:"file with user JWT and nkey seed"`
	NKeySeedFile string `koanf:"nkey_seed_file" doc:"file with an nkey seed"`
	User         string `koanf:"user" doc:"user name"`
	Password     string `koanf:"password" secret:"true" doc:"password of user"`
	Token        string `koanf:"token" secret:"true" doc:"authentication token"`

	TLS TLSFiles `koanf:"tls"`

	// ConnectTimeout bounds one attempt to connect (default 2s).
	ConnectTimeout time.Duration `koanf:"connect_timeout" doc:"bound of one attempt to connect"`
	// ReconnectWait (default 250ms) and ReconnectJitter (default 500ms, added at random) space the attempts after a
	// loss, which go on forever. The jitter keeps thousands of nodes from returning to a restarted server at once.
	ReconnectWait   time.Duration `koanf:"reconnect_wait" doc:"pause between attempts after a loss"`
	ReconnectJitter time.Duration `koanf:"reconnect_jitter" doc:"random addition to reconnect_wait"`
	// ReconnectBufBytes bounds what is published while disconnected and sent on return (default 1 MiB); beyond it
	// Publish answers api.ErrOverloaded. Larger rides out longer gaps, but delivers staler messages.
	ReconnectBufBytes int `koanf:"reconnect_buf_bytes" doc:"bytes buffered while disconnected"`
	// PingInterval is how often a silent connection is probed (default 10s); two lost answers end it.
	PingInterval time.Duration `koanf:"ping_interval" doc:"probe of a silent connection"`

	// PendingMsgs and PendingBytes bound what waits for a slow handler, per subscription (default 65536 messages,
	// 64 MiB). Beyond them messages are dropped and counted in Stats.
	PendingMsgs  int `koanf:"pending_msgs" doc:"messages buffered per subscription"`
	PendingBytes int `koanf:"pending_bytes" doc:"bytes buffered per subscription"`

	// RequestTimeout bounds a Request or Flush whose context has no deadline (default 10s).
	RequestTimeout time.Duration `koanf:"request_timeout" doc:"bound of a request without a deadline"`
	// DrainTimeout bounds how long Close waits for buffered messages and running handlers (default 5s).
	DrainTimeout time.Duration `koanf:"drain_timeout" doc:"bound of the wait for handlers at close"`

	// InProcess connects to an embedded server without a socket; a request then takes a sixth of the time over loopback.
	InProcess nats.InProcessConnProvider `koanf:"-"`
}

// TLSFiles are PEM files. CA alone verifies the server; Cert and Key add the client's own identity.
type TLSFiles struct {
	CA   string `koanf:"ca" doc:"PEM file of the CA that signed the servers"`
	Cert string `koanf:"cert" doc:"PEM file of the client certificate"`
	Key  string `koanf:"key" doc:"PEM file of the client key"`
}

// DefaultConfig connects to a server on this machine.
func DefaultConfig() Config {
	return Config{
		URLs:              []string{nats.DefaultURL},
		ConnectTimeout:    2 * time.Second,
		ReconnectWait:     250 * time.Millisecond,
		ReconnectJitter:   500 * time.Millisecond,
		ReconnectBufBytes: 1 << 20,
		PingInterval:      10 * time.Second,
		PendingMsgs:       1 << 16,
		PendingBytes:      64 << 20,
		RequestTimeout:    10 * time.Second,
		DrainTimeout:      5 * time.Second,
	}
}

// Validate reports every fault of c at once.
func (c *Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: nats: "+format, append([]any{api.ErrInvalid}, args...)...))
	}
	if len(c.URLs) == 0 && c.InProcess == nil {
		fault("no urls")
	}
	ways := 0
	for _, s := range []string{c.CredsFile, c.NKeySeedFile, c.User, c.Token} {
		if s != "" {
			ways++
		}
	}
	if ways > 1 {
		fault("creds_file, nkey_seed_file, user and token exclude each other")
	}
	if c.Password != "" && c.User == "" {
		fault("password without user")
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		fault("tls.cert and tls.key go together")
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{
		{"connect_timeout", c.ConnectTimeout}, {"reconnect_wait", c.ReconnectWait}, {"ping_interval", c.PingInterval},
		{"request_timeout", c.RequestTimeout}, {"drain_timeout", c.DrainTimeout},
	} {
		if d.v <= 0 {
			fault("%s %v: want above 0", d.name, d.v)
		}
	}
	if c.ReconnectJitter < 0 {
		fault("reconnect_jitter %v: want at least 0", c.ReconnectJitter)
	}
	if c.ReconnectBufBytes < 1 || c.PendingMsgs < 1 || c.PendingBytes < 1 {
		fault("reconnect_buf_bytes %d, pending_msgs %d, pending_bytes %d: want at least 1", c.ReconnectBufBytes, c.PendingMsgs, c.PendingBytes)
	}
	return errors.Join(errs...)
}

// options translates c for the client library.
func (c *Config) options(log *slog.Logger) ([]nats.Option, error) {
	opts := []nats.Option{
		nats.Name(c.Name),
		nats.Timeout(c.ConnectTimeout),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // a server may come back before its accounts do
		nats.ReconnectWait(c.ReconnectWait),
		nats.ReconnectJitter(c.ReconnectJitter, c.ReconnectJitter),
		nats.ReconnectBufSize(c.ReconnectBufBytes),
		nats.PingInterval(c.PingInterval),
		nats.MaxPingsOutstanding(2),
		nats.DrainTimeout(c.DrainTimeout),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil is our own Close
				log.Warn("bus lost", "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("bus back", "url", nc.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if sub != nil {
				log.Warn("bus error", "subject", sub.Subject, "err", err)
				return
			}
			log.Warn("bus error", "err", err)
		}),
	}
	if c.InProcess != nil {
		opts = append(opts, nats.InProcessServer(c.InProcess))
	}
	if c.TLS.CA != "" {
		opts = append(opts, nats.RootCAs(c.TLS.CA))
	}
	if c.TLS.Cert != "" {
		opts = append(opts, nats.ClientCert(c.TLS.Cert, c.TLS.Key))
	}
	switch {
	case c.CredsFile != "":
		opts = append(opts, nats.UserCredentials(c.CredsFile))
	case c.NKeySeedFile != "":
		key, err := nats.NkeyOptionFromSeed(c.NKeySeedFile)
		if err != nil {
			return nil, fmt.Errorf("natsbus read nkey seed: %w", err)
		}
		opts = append(opts, key)
	case c.User != "":
		opts = append(opts, nats.UserInfo(c.User, c.Password))
	case c.Token != "":
		opts = append(opts, nats.Token(c.Token))
	}
	return opts, nil
}

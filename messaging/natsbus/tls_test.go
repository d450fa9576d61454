package natsbus_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/natstest"
	"github.com/rubato-faas/rubato/messaging"
	"github.com/rubato-faas/rubato/messaging/natsbus"
)

// seedFile makes an nkey; the public part is for the server.
func seedFile(t *testing.T) (file, public string) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if public, err = pair.PublicKey(); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(file, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, public
}

// A server that demands TLS, a client certificate and a password or an nkey: who has all of them is served, and who lacks
// one is told which.
func TestTLSWithCredentials(t *testing.T) {
	ca, otherCA := natstest.NewCA(t), natstest.NewCA(t)
	cert, key := ca.Issue()
	otherCert, otherKey := otherCA.Issue()
	seed, public := seedFile(t)
	otherSeed, _ := seedFile(t)
	servers := map[string]*server.Server{
		"password": natstest.Start(t, ca.TLS(), func(o *server.Options) { o.Username, o.Password = "u", "right" }),
		"nkey":     natstest.Start(t, ca.TLS(), func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} }),
		"plain":    natstest.Start(t, func(o *server.Options) { o.Username, o.Password = "u", "right" }),
	}
	for _, c := range []struct {
		name, server string
		change       func(*natsbus.Config)
		part         string // of the error; "" for none
	}{
		{"everything right", "password", func(*natsbus.Config) {}, ""},
		{"everything right", "nkey", func(c *natsbus.Config) { c.User, c.Password, c.NKeySeedFile = "", "", seed }, ""},
		{"wrong password", "password", func(c *natsbus.Config) { c.Password = "wrong" }, "Authorization Violation"},
		{"no password", "password", func(c *natsbus.Config) { c.User, c.Password = "", "" }, "Authorization Violation"},
		{"wrong nkey", "nkey", func(c *natsbus.Config) { c.User, c.Password, c.NKeySeedFile = "", "", otherSeed }, "Authorization Violation"},
		{"wrong CA", "password", func(c *natsbus.Config) { c.TLS.CA = otherCA.File }, "unknown authority"},
		{"no CA", "password", func(c *natsbus.Config) { c.TLS.CA = "" }, "unknown authority"},
		{"no client certificate", "password", func(c *natsbus.Config) { c.TLS.Cert, c.TLS.Key = "", "" }, "certificate"},
		{"foreign client certificate", "password", func(c *natsbus.Config) { c.TLS.Cert, c.TLS.Key = otherCert, otherKey }, "certificate"},
		{"no TLS at the server", "plain", func(*natsbus.Config) {}, "secure connection not available"},
		{"file of the CA missing", "password", func(c *natsbus.Config) { c.TLS.CA = "/nowhere/ca.pem" }, "/nowhere/ca.pem"},
	} {
		t.Run(c.name+", "+c.server, func(t *testing.T) {
			cfg := config(servers[c.server], func(cfg *natsbus.Config) {
				cfg.User, cfg.Password, cfg.TLS = "u", "right", natsbus.TLSFiles{CA: ca.File, Cert: cert, Key: key}
				c.change(cfg)
			})
			b, err := natsbus.Connect(cfg, quiet)
			if c.part != "" {
				if err == nil {
					b.Close()
				}
				if !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), c.part) || strings.Contains(err.Error(), "right") {
					t.Fatalf("connect: %v; want ErrUnavailable and %q, without the password", err, c.part)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if _, err := b.Subscribe("echo", "", func(m *messaging.Msg) { _ = b.Publish(m.Reply, m.Data) }); err != nil {
				t.Fatal(err)
			}
			if got, err := b.Request(t.Context(), "echo", []byte("hello")); err != nil || string(got) != "hello" {
				t.Fatalf("request: %q, %v", got, err)
			}
		})
	}
}

package ops

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// TLSFiles are PEM files, read once at start; after a renewal the daemon is restarted.
type TLSFiles struct {
	// CA verifies the other side. A server that has one demands client certificates (mutual TLS); a client without
	// one trusts the system's.
	CA string `koanf:"ca" doc:"PEM file of the CA that the other side is verified by"`
	// Cert and Key are the own identity: required of a server, optional for a client.
	Cert string `koanf:"cert" doc:"PEM file of the own certificate chain"`
	Key  string `koanf:"key" doc:"PEM file of its key"`
}

// Enabled reports whether anything is set.
func (f TLSFiles) Enabled() bool { return f != TLSFiles{} }

// Validate reads the files as a server or, else, as a client would.
func (f TLSFiles) Validate(server bool) error {
	if !f.Enabled() {
		return nil
	}
	use := f.Client
	if server {
		use = f.Server
	}
	_, err := use()
	return err
}

// Server makes the configuration of a server: TLS 1.3, and with a CA only clients that it signed.
func (f TLSFiles) Server() (*tls.Config, error) {
	if f.Cert == "" {
		return nil, errors.New("ops tls server: no cert and key")
	}
	c, pool, err := f.load()
	if err != nil {
		return nil, fmt.Errorf("ops tls server: %w", err)
	}
	if pool != nil {
		c.ClientCAs, c.ClientAuth = pool, tls.RequireAndVerifyClientCert
	}
	return c, nil
}

// Client makes the configuration of a client. The server's name is checked against the address dialled.
func (f TLSFiles) Client() (*tls.Config, error) {
	c, pool, err := f.load()
	if err != nil {
		return nil, fmt.Errorf("ops tls client: %w", err)
	}
	c.RootCAs = pool
	return c, nil
}

func (f TLSFiles) load() (*tls.Config, *x509.CertPool, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS13}
	if (f.Cert == "") != (f.Key == "") {
		return nil, nil, errors.New("cert and key go together")
	}
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	if f.CA == "" {
		return c, nil, nil
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("%s: no certificate in it", f.CA)
	}
	return c, pool, nil
}

package natstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// CA signs certificates for tests of TLS: NATS', and whatever else the daemons speak.
type CA struct {
	// File is its own certificate, PEM.
	File string

	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes an authority that is gone with the test.
func NewCA(t testing.TB) *CA {
	t.Helper()
	c := &CA{t: t, cert: &x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	c.File, c.key = c.sign(c.cert, nil)
	return c
}

// Issue makes a certificate for a server or client on this machine; the files are PEM.
func (c *CA) Issue() (cert, key string) {
	c.t.Helper()
	cert, pair := c.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, c)
	der, err := x509.MarshalECPrivateKey(pair)
	if err != nil {
		c.t.Fatalf("natstest marshal key: %v", err)
	}
	return cert, c.write("key.pem", "EC PRIVATE KEY", der)
}

// sign completes a certificate, by itself when there is no signer yet.
func (c *CA) sign(tmpl *x509.Certificate, by *CA) (file string, key *ecdsa.PrivateKey) {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatalf("natstest make key: %v", err)
	}
	if by == nil {
		by = &CA{cert: tmpl, key: key}
	}
	tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, &key.PublicKey, by.key)
	if err != nil {
		c.t.Fatalf("natstest sign: %v", err)
	}
	return c.write("cert.pem", "CERTIFICATE", der), key
}

func (c *CA) write(name, kind string, der []byte) string {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		c.t.Fatalf("natstest write: %v", err)
	}
	return file
}

// TLS makes a server demand TLS, and client certificates of this authority.
func (c *CA) TLS() func(*server.Options) {
	cert, key := c.Issue()
	cfg, err := server.GenTLSConfig(&server.TLSConfigOpts{CertFile: cert, KeyFile: key, CaFile: c.File, Verify: true})
	if err != nil {
		c.t.Fatalf("natstest tls: %v", err)
	}
	return func(o *server.Options) { o.TLSConfig, o.TLSTimeout = cfg, StartTimeout.Seconds() }
}

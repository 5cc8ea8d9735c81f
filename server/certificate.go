package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/uvbond/uvbond/server/config"
)

// certificateYears is how long a certificate that the server made is good.
// Tenants pin its key, so that its end is no safeguard.
const certificateYears = 10

// Certificate is the API's TLS identity.
type Certificate struct{ tls.Certificate }

// Fingerprint is the SHA-256 of the public key in the form that tenants see and
// type: "SHA256:" and 13 groups of 4 letters and digits (base32).
func (c *Certificate) Fingerprint() string {
	sum := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:])
	return "SHA256:" + strings.Join(slices.Collect(groups(text, 4)), "-")
}

// groups cuts a text into pieces of n bytes.
func groups(text string, n int) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := 0; i < len(text); i += n {
			if !yield(text[i:min(i+n, len(text))]) {
				return
			}
		}
	}
}

// LoadCertificate reads the certificate, and makes a self-signed one first when
// the configuration names none and there is none yet.
func LoadCertificate(cfg *config.Config) (*Certificate, error) {
	certFile, keyFile := cfg.CertFiles()
	if cfg.TLS.Cert == "" {
		if err := ensureCertificate(cfg, certFile, keyFile); err != nil {
			return nil, fmt.Errorf("TLS certificate: %w", err)
		}
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %s: %w", certFile, err)
	}
	if pair.Leaf == nil {
		return nil, fmt.Errorf("TLS certificate %s holds no certificate", certFile)
	}
	return &Certificate{pair}, nil
}

func ensureCertificate(cfg *config.Config, certFile, keyFile string) error {
	_, certErr := os.Stat(certFile)
	_, keyErr := os.Stat(keyFile)
	noCert, noKey := errors.Is(certErr, fs.ErrNotExist), errors.Is(keyErr, fs.ErrNotExist)
	switch {
	case noCert && noKey:
	case noCert:
		// The certificate is written last: a key alone is what a crash left.
	case noKey:
		return fmt.Errorf("%s is there, its key %s is not; restore it, or remove the certificate and tell the tenants that it changes", certFile, keyFile)
	default:
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(keyFile), 0o700); err != nil {
		return err
	}
	cert, key, err := makeCertificate(cfg)
	if err != nil {
		return err
	}
	if err := writeFile(keyFile, key, 0o600); err != nil {
		return err
	}
	return writeFile(certFile, cert, 0o644)
}

func makeCertificate(cfg *config.Config) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "uvbond-server " + cfg.Name},
		// A day back: clients' clocks differ.
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(certificateYears, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	names := append([]string{"localhost", "127.0.0.1", "::1"}, cfg.TLS.Names...)
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	if host, _, err := net.SplitHostPort(cfg.Listen); err == nil && host != "" {
		names = append(names, host)
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

// writeFile writes a whole file or none.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

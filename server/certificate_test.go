package server_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/pem"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/server"
)

// TestFingerprint: the server shows its TLS key in the form in which its tenants
// see it, so that a person can compare the two.
func TestFingerprint(t *testing.T) {
	cfg := newConfig(t)
	cert, err := server.LoadCertificate(cfg)
	if err != nil {
		t.Fatal(err)
	}
	shown := cert.Fingerprint()
	if !regexp.MustCompile(`^SHA256:([A-Z2-7]{4}-){12}[A-Z2-7]{4}$`).MatchString(shown) {
		t.Fatalf("shown as %s", shown)
	}
	raw, err := os.ReadFile(cfg.DataDir + "/tls/cert.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	digits := strings.ReplaceAll(strings.TrimPrefix(shown, "SHA256:"), "-", "")
	have, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(digits)
	if want := sha256.Sum256(leaf.RawSubjectPublicKeyInfo); err != nil || string(have) != string(want[:]) {
		t.Fatalf("%x, want %x (%v)", have, want, err)
	}
}

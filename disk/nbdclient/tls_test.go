package nbdclient

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// certificates makes ca-cert.pem, server-cert.pem and so on in a folder, with the
// names that nbdkit looks for.
func certificates(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caKey := writePair(t, dir, "ca", ca, ca, nil)
	for i, name := range []string{"server", "client"} {
		cert := &x509.Certificate{SerialNumber: big.NewInt(int64(2 + i)), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
			DNSNames: []string{name + ".example"}, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		writePair(t, dir, name, cert, ca, caKey)
	}
	return dir
}

func writePair(t *testing.T, dir, name string, cert, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if parentKey == nil {
		parentKey = key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{"-cert.pem": {Type: "CERTIFICATE", Bytes: der}, "-key.pem": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name+file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return key
}

func (f TLSFiles) mustConfig(t *testing.T, host string) *tls.Config {
	t.Helper()
	c, err := f.Config(host)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTLS(t *testing.T) {
	dir := certificates(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	files := TLSFiles{CA: in("ca-cert.pem"), Cert: in("client-cert.pem"), Key: in("client-key.pem")}
	s := nbdkit(t, "--tls=require", "--tls-certificates="+dir, "--tls-verify-peer", "memory", "16M")
	config := s.config()
	config.TLS = files.mustConfig(t, "server.example")
	newModel(16*mib, 4).exercise(t, open(t, config), 500)

	other := certificates(t)
	plain := nbdkit(t, "--tls=off", "memory", "1M")
	for name, x := range map[string]struct {
		s    *server
		tls  *tls.Config
		want string
	}{
		"other name":     {s, files.mustConfig(t, "other.example"), "other.example"},
		"other ca":       {s, TLSFiles{CA: filepath.Join(other, "ca-cert.pem"), Cert: files.Cert, Key: files.Key}.mustConfig(t, "server.example"), "unknown authority"},
		"no certificate": {s, TLSFiles{CA: files.CA}.mustConfig(t, "server.example"), "nbd"},
		"none":           {s, nil, "TLS"},
		"plain server":   {plain, files.mustConfig(t, "server.example"), "TLS is required here"},
	} {
		config := x.s.config()
		config.TLS = x.tls
		if c, err := Open(t.Context(), config); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				c.Close()
			}
		}
	}
}

// The same over TCP, with the URI that says so, and the server restarted.
func TestTCP(t *testing.T) {
	dir := certificates(t)
	tool(t, "nbdkit", "nbdkit")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	path := blank(t, 4*mib)
	u, err := ParseURI("nbds://127.0.0.1:" + strconv.Itoa(port) + "/?tls-hostname=server.example")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, args: []string{"nbdkit", "--foreground", "--exit-with-parent", "--ipaddr=127.0.0.1", "--port=" + strconv.Itoa(port),
		"--tls=require", "--tls-certificates=" + dir, "file", path}, network: "tcp", path: u.Address}
	s.start()
	t.Cleanup(s.kill)
	c := open(t, Config{Dial: u.Dial, TLS: TLSFiles{CA: filepath.Join(dir, "ca-cert.pem")}.mustConfig(t, u.Hostname)})
	m := newModel(4*mib, 4)
	m.exercise(t, c, 200)
	s.kill()
	s.start()
	m.exercise(t, c, 400)
}

func TestTLSFilesRefused(t *testing.T) {
	dir := certificates(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	ca := in("ca-cert.pem")
	for name, x := range map[string]struct {
		files TLSFiles
		host  string
	}{
		"no name":    {TLSFiles{CA: ca}, ""},
		"no ca":      {TLSFiles{}, "x"},
		"missing":    {TLSFiles{CA: in("nothing")}, "x"},
		"not a ca":   {TLSFiles{CA: in("ca-key.pem")}, "x"},
		"half":       {TLSFiles{CA: ca, Cert: in("client-cert.pem")}, "x"},
		"other half": {TLSFiles{CA: ca, Key: in("client-key.pem")}, "x"},
		"wrong pair": {TLSFiles{CA: ca, Cert: in("client-cert.pem"), Key: in("server-key.pem")}, "x"},
	} {
		if _, err := x.files.Config(x.host); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

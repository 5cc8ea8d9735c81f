package nbdclient

import (
	"crypto/tls"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/disk/nbdclient/nbdtest"
)

func (f TLSFiles) config(host string) (*tls.Config, error) {
	d, err := f.Read()
	if err != nil {
		return nil, err
	}
	return d.Config(host)
}

func (f TLSFiles) mustConfig(t *testing.T, host string) *tls.Config {
	t.Helper()
	c, err := f.config(host)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTLS(t *testing.T) {
	dir := nbdtest.Certificates(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	files := TLSFiles{CA: in("ca-cert.pem"), Cert: in("client-cert.pem"), Key: in("client-key.pem")}
	s := nbdkit(t, "--tls=require", "--tls-certificates="+dir, "--tls-verify-peer", "memory", "16M")
	config := configOf(s)
	config.TLS = files.mustConfig(t, "server.example")
	newModel(16*mib, 4).exercise(t, open(t, config), 500)

	other := nbdtest.Certificates(t)
	plain := nbdkit(t, "--tls=off", "memory", "1M")
	for name, x := range map[string]struct {
		s    *nbdtest.Server
		tls  *tls.Config
		want string
	}{
		"other name":     {s, files.mustConfig(t, "other.example"), "other.example"},
		"other ca":       {s, TLSFiles{CA: filepath.Join(other, "ca-cert.pem"), Cert: files.Cert, Key: files.Key}.mustConfig(t, "server.example"), "unknown authority"},
		"no certificate": {s, TLSFiles{CA: files.CA}.mustConfig(t, "server.example"), "nbd"},
		"none":           {s, nil, "TLS"},
		"plain server":   {plain, files.mustConfig(t, "server.example"), "TLS is required here"},
	} {
		config := configOf(x.s)
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
	dir := nbdtest.Certificates(t)
	path := blank(t, 4*mib)
	s := nbdtest.StartTCP(t, "nbdkit", "nbdkit", "--foreground", "--exit-with-parent", "--ipaddr=127.0.0.1", "--port=PORT",
		"--tls=require", "--tls-certificates="+dir, "file", path)
	u, err := ParseURI("nbds://" + s.Path + "/?tls-hostname=server.example")
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, Config{Dial: u.Dial, TLS: TLSFiles{CA: filepath.Join(dir, "ca-cert.pem")}.mustConfig(t, u.Hostname)})
	m := newModel(4*mib, 4)
	m.exercise(t, c, 200)
	s.Kill()
	s.Start()
	m.exercise(t, c, 400)
}

func TestTLSFilesRefused(t *testing.T) {
	dir := nbdtest.Certificates(t)
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
		if _, err := x.files.config(x.host); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

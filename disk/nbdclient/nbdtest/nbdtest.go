// Package nbdtest runs NBD servers that people have, for the tests of what stands
// on them: programs that are killed and started again on the same socket, and the
// certificates for TLS. It is for tests, and trusts them.
package nbdtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Server is a program that serves NBD, and can be killed and started again.
type Server struct {
	Path string // of its socket; host:port of one on TCP

	t    testing.TB
	tcp  bool
	args []string
	cmd  *exec.Cmd
	log  bytes.Buffer
}

// Start runs a program of a Debian package until the test's end. SOCKET in args
// stands for the path of a unix socket.
func Start(t testing.TB, debian string, args ...string) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "uvn") // t.TempDir's paths are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &Server{t: t, Path: filepath.Join(dir, "s")}
	for _, a := range args {
		s.args = append(s.args, strings.ReplaceAll(a, "SOCKET", s.Path))
	}
	return s.run(debian)
}

// StartTCP does the same with a program that listens on 127.0.0.1; PORT stands for
// the port.
func StartTCP(t testing.TB, debian string, args ...string) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, Path: l.Addr().String(), tcp: true}
	l.Close()
	_, port, _ := net.SplitHostPort(s.Path)
	for _, a := range args {
		s.args = append(s.args, strings.ReplaceAll(a, "PORT", port))
	}
	return s.run(debian)
}

// Nbdkit starts nbdkit on a unix socket.
func Nbdkit(t testing.TB, args ...string) *Server {
	t.Helper()
	return Start(t, "nbdkit", append([]string{"nbdkit", "--foreground", "--exit-with-parent", "--unix", "SOCKET"}, args...)...)
}

func (s *Server) run(debian string) *Server {
	s.t.Helper()
	if _, err := exec.LookPath(s.args[0]); err != nil {
		s.t.Fatalf("%s is missing: install the Debian package %s", s.args[0], debian)
	}
	s.Start()
	s.t.Cleanup(func() {
		s.Kill()
		if s.t.Failed() {
			s.t.Logf("%s: %s", s.args[0], s.log.String())
		}
	})
	return s
}

// Start starts it again, and returns when it listens.
func (s *Server) Start() {
	s.t.Helper()
	network := "tcp"
	if !s.tcp {
		network = "unix"
		os.Remove(s.Path)
	}
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stderr = &s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for range 2000 {
		if nc, err := net.Dial(network, s.Path); err == nil {
			nc.Close()
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.Kill()
	s.t.Fatalf("%s does not listen: %s", s.args[0], s.log.String())
}

// Kill ends it without warning.
func (s *Server) Kill() {
	s.cmd.Process.Kill()
	_ = s.cmd.Wait() // says how it was killed
}

// Stop stops it: it answers nothing until it is told to Continue.
func (s *Server) Stop() { Stop(s.t, s.cmd.Process.Pid) }

// Continue lets it go on after a Stop.
func (s *Server) Continue() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// Stop stops a process, and returns when that has reached its last thread: until then some
// of them can still answer.
func Stop(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("process %d has no threads, %v", pid, err)
	}
	for _, path := range tasks {
		for { // a thread that has ended has no file
			stat, err := os.ReadFile(path)
			if err != nil || bytes.Contains(stat, []byte(") T ")) {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// Blank makes a file of size bytes of zeros, and returns its path.
func Blank(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// Certificates makes ca-cert.pem, and -cert.pem and -key.pem of server and client
// in a folder, with the names that nbdkit looks for. Their names are
// server.example and client.example.
func Certificates(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	key := writePair(t, dir, "ca", ca, ca, nil)
	for i, name := range []string{"server", "client"} {
		cert := &x509.Certificate{SerialNumber: big.NewInt(int64(2 + i)), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
			DNSNames: []string{name + ".example"}, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		writePair(t, dir, name, cert, ca, key)
	}
	return dir
}

func writePair(t testing.TB, dir, name string, cert, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) *ecdsa.PrivateKey {
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

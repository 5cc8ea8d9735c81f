package keeper

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk/nbdclient"
	"github.com/uvbond/uvbond/disk/nbdclient/nbdtest"
)

// connections makes the socket on which a keeper asks for connections to s, and
// serves it until stop is called.
func connections(t *testing.T, s *nbdtest.Server, negotiate bool) (theirs *os.File, stop func()) {
	t.Helper()
	ours, theirs, err := ConnectionSocket()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	u := &nbdclient.URI{Network: "unix", Address: s.Path}
	go func() {
		defer close(done)
		ServeConnections(ctx, ours, func(ctx context.Context) (net.Conn, nbdclient.Offer, error) {
			nc, err := u.Dial(ctx)
			if err != nil || !negotiate {
				return nc, nbdclient.Offer{}, err
			}
			return (&nbdclient.Config{}).Negotiate(ctx, nc)
		})
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return theirs, stop
}

func storageStats(t *testing.T, p *Process) nbdclient.Stats {
	t.Helper()
	st, err := p.Stats(t.Context())
	if err != nil || st.Disks[0].Storage == nil {
		t.Fatalf("%+v, %v", st, err)
	}
	return *st.Disks[0].Storage
}

// A keeper serves a disk that is on an NBD server, without and with TLS, through
// the server's end and the daemon's.
func TestStorage(t *testing.T) {
	dir := nbdtest.Certificates(t)
	pem, err := nbdclient.TLSFiles{CA: filepath.Join(dir, "ca-cert.pem"), Cert: filepath.Join(dir, "client-cert.pem"), Key: filepath.Join(dir, "client-key.pem")}.Read()
	if err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]*StorageConfig{
		"plain": {Connections: 2},
		"tls":   {Connections: 2, TLS: &TLSConfig{Hostname: "server.example", CA: pem.CA, Cert: pem.Cert, Key: pem.Key}},
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			var options []string
			if config.TLS != nil {
				options = []string{"--tls=require", "--tls-certificates=" + dir, "--tls-verify-peer"}
			}
			s := nbdtest.Nbdkit(t, append(options, "file", x.path)...)
			theirs, stop := connections(t, s, config.TLS == nil)
			x.Config.Disks[0].Storage = config
			x.Disks["root"].Close()
			x.Disks["root"] = theirs
			p := x.start(t)
			theirs.Close()
			allowAny(t, p)
			output(t, qemuIO(t, p, "write -P 7 0 4M", "flush", "write -P 8 4M 64k"))

			// The server goes and comes back.
			s.Kill()
			s.Start()
			output(t, qemuIO(t, p, "flush", "read -P 7 0 4M", "read -P 8 4M 64k"))
			if st := storageStats(t, p); st.Lost == 0 || st.LostWrites != 0 || st.Errors != 0 {
				t.Fatalf("%+v", st)
			}

			// The daemon goes: nothing changes. The server goes as well: requests wait
			// for another daemon.
			stop()
			output(t, qemuIO(t, p, "read -P 7 0 4M"))
			s.Kill()
			s.Start()
			next, _ := connections(t, s, config.TLS == nil)
			time.AfterFunc(300*time.Millisecond, func() {
				if err := p.Connections(context.Background(), "root", next); err != nil {
					t.Error(err)
				}
				next.Close()
			})
			if out := output(t, qemuIO(t, p, "read -P 7 0 4M", "write -P 9 0 64k", "flush", "read -P 9 0 64k")); strings.Contains(out, "failed") {
				t.Fatal(out)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := p.Stop(ctx); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A storage that is not there, or not enough, is said at the start.
func TestStorageRefused(t *testing.T) {
	for name, x := range map[string]struct {
		args []string
		want string
	}{
		"read-only": {[]string{"--readonly", "memory", "64M"}, "read-only"},
		"too small": {[]string{"memory", "1M"}, "the registration needs"},
	} {
		f := newFixture(t)
		theirs, _ := connections(t, nbdtest.Nbdkit(t, x.args...), true)
		f.Config.Disks[0].Storage = &StorageConfig{}
		f.Disks["root"].Close()
		f.Disks["root"], f.Stderr = theirs, nil
		p, err := Start(t.Context(), f.Options)
		if err == nil {
			p.Kill()
		}
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A command that brings no socket, or to a disk that is a file, changes nothing.
func TestConnectionsRefused(t *testing.T) {
	x := newFixture(t)
	p := x.start(t)
	ours, theirs, err := ConnectionSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	if err := p.Connections(t.Context(), "root", theirs); err == nil {
		t.Error("a disk that is a file takes connections")
	}
	if err := p.Connections(t.Context(), "other", theirs); err == nil {
		t.Error("an unknown disk takes connections")
	}
}

// FuzzConnectMessages: what keeper and daemon say on that socket is decoded
// strictly.
func FuzzConnectMessages(f *testing.F) {
	seeds := [][]byte{must(encode(&connectRequest{Serial: 1})), must(encode(&connectAnswer{Serial: 1, Error: "no", Offer: nbdclient.Offer{Size: 1 << 20, MinBlock: 1, MaxBlock: 32 << 20}}))}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var q connectRequest
		if decode(b, &q) == nil && len(b) > 16 {
			t.Fatalf("a request of %d bytes", len(b))
		}
		var a connectAnswer
		_ = decode(b, &a)
	})
}

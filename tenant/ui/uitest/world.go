// Package uitest is for tests of the page: an owner with a VM on a fake host, and
// the page's server before them.
package uitest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fakehost"
	"github.com/uvbond/uvbond/tenant/image"
	"github.com/uvbond/uvbond/tenant/store"
	"github.com/uvbond/uvbond/tenant/ui"
)

// World is an owner, a fake host named "lab", and the page.
type World struct {
	Host  *fakehost.Server
	Owner *tenant.Owner
	Page  *ui.Server
	URL   string // of the page, without a path
}

// New starts a world that ends with the test. edit may change the page's options.
func New(t testing.TB, edit func(*ui.Options)) *World {
	t.Helper()
	host, err := fakehost.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Close)
	s, err := store.Open(filepath.Join(t.TempDir(), "home"))
	if err != nil {
		t.Fatal(err)
	}
	w := &World{Host: host, Owner: tenant.NewOwner(s)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.URL = "http://" + l.Addr().String()
	o := ui.Options{Owner: w.Owner, Version: "test"}
	if edit != nil {
		edit(&o)
	}
	if w.Page, err = ui.New(o, l.Addr()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Page.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

// Pin pins the host.
func (w *World) Pin(t testing.TB) {
	t.Helper()
	offer, err := w.Owner.Inspect(t.Context(), w.Host.HTTP.URL, fakehost.Token, pinOf(t, w))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Owner.Pin(t.Context(), "lab", fakehost.Token, offer); err != nil {
		t.Fatal(err)
	}
}

func pinOf(t testing.TB, w *World) string {
	t.Helper()
	pin, err := w.Owner.ProbeTLS(t.Context(), w.Host.HTTP.URL)
	if err != nil {
		t.Fatal(err)
	}
	return pin
}

// Create registers a VM on the pinned host. Operators may do what policy says.
func (w *World) Create(t testing.TB, name string, policy tenant.Terms) {
	t.Helper()
	dir := t.TempDir()
	raw, disk := filepath.Join(dir, name+".raw"), filepath.Join(dir, name+".luks")
	if err := os.WriteFile(raw, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := image.OpenSource(raw, "raw")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	pass := func() *bond.Secret { return bond.NewSecret([]byte("correct horse")) }
	_, err = image.Encrypt(t.Context(), src, disk, image.Options{
		Passphrase: pass(), KeySize: 64, SectorSize: 512, Cost: luks.PBKDF{Type: "pbkdf2", Iterations: 1000},
	}, func(int64) {})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Owner.Create(t.Context(), tenant.CreateRequest{
		Name: name, Host: "lab", Disks: []tenant.DiskSource{{Path: disk, Bus: "virtio"}}, Memory: 512 << 20, CPUs: 2, Firmware: "bios", Machine: "q35",
		Policy: policy, Report: tenant.Quiet{},
		Passphrase: func(context.Context, string, int) (*bond.Secret, error) { return pass(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
}

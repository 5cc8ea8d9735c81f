package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "server.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestFullDisk: a database that cannot grow says so, loses nothing, and goes on
// when there is room again. SQLite's limit of pages stands for the full disk.
func TestFullDisk(t *testing.T) {
	s := open(t)
	s.db.SetMaxOpenConns(1) // the limit belongs to a connection
	if _, err := s.CreateToken(t.Context(), "alice", "", 1<<40, 1<<20); err != nil {
		t.Fatal(err)
	}
	limit := func(pages int) {
		t.Helper()
		if _, err := s.db.ExecContext(t.Context(), fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
			t.Fatal(err)
		}
	}
	var pages int
	if err := s.db.QueryRowContext(t.Context(), "PRAGMA page_count").Scan(&pages); err != nil {
		t.Fatal(err)
	}
	limit(pages + 2)
	vm := func(n int) *VM { return &VM{ID: fmt.Sprintf("%032x", n), Name: fmt.Sprint("web", n), Tenant: 1} }
	stored, err := 0, error(nil)
	for err == nil && stored < 10_000 {
		if err = s.CreateVM(t.Context(), vm(stored)); err == nil {
			stored++
		}
	}
	if !errors.Is(err, ErrNoSpace) {
		t.Fatalf("after %d records: %v", stored, err)
	}
	all, err := s.AllVMs(t.Context())
	if err != nil || len(all) != stored {
		t.Fatalf("%d records of %d: %v", len(all), stored, err)
	}
	limit(pages + 1000)
	if err := s.CreateVM(t.Context(), vm(stored)); err != nil {
		t.Fatalf("with room again: %v", err)
	}
}

// TestNewerTables: an older program does not touch a newer one's records.
func TestNewerTables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.ExecContext(t.Context(), "INSERT INTO migrations VALUES (99, 0)"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), "install the newer uvbond-server") {
		t.Fatal(err)
	}
}

// TestDiskOfOneVM: an image is the disk of one VM, and not removed under it.
func TestDiskOfOneVM(t *testing.T) {
	s := open(t)
	token, err := s.CreateToken(t.Context(), "alice", "", 1<<40, 10)
	if err != nil {
		t.Fatal(err)
	}
	alice, err := s.Authenticate(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	image := strings.Repeat("a", 32)
	if _, _, err := s.CreateImage(t.Context(), image, alice, NewImage{Name: "disk", Size: 1, SHA256: [32]byte{1}}, 10); err != nil {
		t.Fatal(err)
	}
	vm := func(n int) *VM {
		return &VM{ID: fmt.Sprintf("%032x", n), Name: fmt.Sprint("web", n), Tenant: alice.ID, Disks: []Disk{{Name: "root", Image: image}}}
	}
	var d *DiskError
	if err := s.CreateVM(t.Context(), vm(1)); !errors.As(err, &d) {
		t.Fatalf("a half-uploaded image became a disk: %v", err)
	}
	if err := s.SetImageState(t.Context(), image, ImageUploading, ImageReady, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateVM(t.Context(), vm(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateVM(t.Context(), vm(2)); !errors.As(err, &d) {
		t.Fatalf("one image became the disk of two VMs: %v", err)
	}
	if err := s.MarkImageDeleting(t.Context(), image); !errors.Is(err, ErrInUse) {
		t.Fatalf("the disk of a VM was given up: %v", err)
	}
	if err := s.DeleteVM(t.Context(), vm(1).ID); err != nil {
		t.Fatal(err)
	}
	if err := s.MarkImageDeleting(t.Context(), image); err != nil {
		t.Fatal(err)
	}
}

package store

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/uvbond/uvbond/tenant/fail"
)

// Host is a pinned hypervisor and the server through which it is reached.
type Host struct {
	Name      string `json:"name"`
	URL       string `json:"url"`
	Token     string `json:"token,omitempty"`
	PublicKey []byte `json:"public_key"` // pinned, bond.HostPublic.Bytes
	TLSPin    string `json:"tls_spki_sha256"`
	Added     int64  `json:"added"` // Unix seconds
}

func (s *Store) hostPath(name string) string { return filepath.Join(s.dir, "hosts", name+".json") }

// Hosts lists the names of the pinned hosts.
func (s *Store) Hosts() ([]string, error) {
	return s.names("hosts", func(e fs.DirEntry) (string, bool) { return strings.CutSuffix(e.Name(), ".json") })
}

// Host returns a pinned host.
func (s *Store) Host(name string) (*Host, error) {
	if err := CheckName("host", name); err != nil {
		return nil, err
	}
	h := new(Host)
	err := readJSON(s.hostPath(name), h)
	if errIsMissing(err) {
		names, _ := s.Hosts()
		return nil, quoteMissing("host", name, names, "add one with: uvbond host add "+name+" https://SERVER:8443")
	}
	if err != nil {
		return nil, err
	}
	if h.Name != name || len(h.PublicKey) == 0 {
		return nil, damaged(s.hostPath(name), errOtherName)
	}
	return h, nil
}

// PutHost saves a host. The check runs under the lock with the host that is
// already there (or nil); its error keeps the old one.
func (s *Store) PutHost(ctx context.Context, h *Host, check func(old *Host) error) error {
	if err := CheckName("host", h.Name); err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	old := new(Host)
	switch err := readJSON(s.hostPath(h.Name), old); {
	case errIsMissing(err):
		old = nil
	case err != nil:
		return err
	}
	if err := check(old); err != nil {
		return err
	}
	return writeJSON(s.hostPath(h.Name), h)
}

// RemoveHost forgets a host. A host with VMs stays: their bonds are to its key.
func (s *Store) RemoveHost(ctx context.Context, name string) error {
	if _, err := s.Host(name); err != nil && fail.CodeOf(err) == fail.Usage {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	vms, err := s.VMs()
	if err != nil {
		return err
	}
	for _, n := range vms {
		if vm, err := s.VM(n); err == nil && vm.Host == name {
			return fail.New(fail.Other, "delete it first: uvbond vm delete "+n+" (with --forget when the host is gone for good)", "the host %q still has the VM %q", name, n)
		}
	}
	if err := os.Remove(s.hostPath(name)); err != nil {
		return err
	}
	return syncDir(filepath.Join(s.dir, "hosts"))
}

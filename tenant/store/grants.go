package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/fail"
)

// Delegation is what the client remembers of one that its owner gave away. The
// hypervisor keeps no list: what is not here can only be taken back together
// with all others.
type Delegation struct {
	ID        string `json:"id"`       // hex
	Name      string `json:"name"`     // of the delegate
	Delegate  string `json:"delegate"` // bond.DelegateID, hex
	Policy    string `json:"policy"`   // what is allowed
	Instance  uint64 `json:"instance,omitempty"`
	Issued    int64  `json:"issued"` // Unix seconds
	NotBefore int64  `json:"not_before"`
	NotAfter  int64  `json:"not_after"`
	Revoked   int64  `json:"revoked,omitempty"` // when a receipt said so
}

// Grant is what somebody else's owner delegated to this client.
type Grant struct {
	Name     string `json:"name"`
	Host     string `json:"host"`
	VM       string `json:"vm"` // bond.VMID
	Accepted int64  `json:"accepted"`
	Secret   []byte `json:"secret"` // bond.Grant.Export

	State     string `json:"state,omitempty"` // from the newest verified receipt
	StateTime int64  `json:"state_time,omitempty"`
	Instance  uint64 `json:"instance,omitempty"`
}

func (s *Store) delegateKeyPath() string      { return filepath.Join(s.dir, "delegate.key") }
func (s *Store) grantPath(name string) string { return filepath.Join(s.dir, "grants", name+".json") }

// DelegateKey returns this client's own key pair, made at first use; the caller
// wipes it.
func (s *Store) DelegateKey(ctx context.Context) (*bond.DelegateKey, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	path := s.delegateKeyPath()
	raw, err := read(path)
	if errIsMissing(err) {
		k, err := bond.GenerateDelegateKey()
		if err != nil {
			return nil, err
		}
		secret := k.Secret()
		defer secret.Wipe()
		return k, write(path, secret.Bytes())
	}
	if err != nil {
		return nil, err
	}
	secret := bond.NewSecret(raw)
	bond.Wipe(raw)
	defer secret.Wipe()
	k, err := bond.ParseDelegateKey(secret)
	if err != nil {
		return nil, damaged(path, err)
	}
	return k, nil
}

// Grants lists the names of the accepted grants.
func (s *Store) Grants() ([]string, error) {
	names, err := s.names("grants", func(e fs.DirEntry) (string, bool) { return strings.CutSuffix(e.Name(), ".json") })
	if errIsMissing(err) {
		return nil, nil
	}
	return names, err
}

// Grant returns an accepted grant.
func (s *Store) Grant(name string) (*Grant, error) {
	if err := CheckName("delegation", name); err != nil {
		return nil, err
	}
	g := new(Grant)
	err := readJSON(s.grantPath(name), g)
	if errIsMissing(err) {
		names, _ := s.Grants()
		return nil, quoteMissing("delegation", name, names, "accept one with: uvbond delegation accept FILE --host HOST")
	}
	if err == nil && g.Name != name {
		err = damaged(s.grantPath(name), errOtherName)
	}
	if err != nil {
		return nil, err
	}
	return g, nil
}

// AddGrant saves a new grant. The name must be free.
func (s *Store) AddGrant(ctx context.Context, g *Grant) error {
	if err := CheckName("delegation", g.Name); err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.MkdirAll(filepath.Join(s.dir, "grants"), 0o700); err != nil {
		return err
	}
	if _, err := os.Lstat(s.grantPath(g.Name)); err == nil {
		return fail.New(fail.Usage, "choose another name with --name, or forget the old one: uvbond delegation forget "+g.Name, "there is already a delegation %q", g.Name)
	}
	return writeJSON(s.grantPath(g.Name), g)
}

// UpdateGrant changes a grant under the lock, if it still is the same one.
func (s *Store) UpdateGrant(ctx context.Context, old *Grant, change func(*Grant)) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	g, err := s.Grant(old.Name)
	if err != nil || string(g.Secret) != string(old.Secret) {
		return err
	}
	change(g)
	return writeJSON(s.grantPath(g.Name), g)
}

// RemoveGrant forgets a grant.
func (s *Store) RemoveGrant(ctx context.Context, name string) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.Grant(name); err != nil {
		return err
	}
	return errors.Join(os.Remove(s.grantPath(name)), syncDir(filepath.Join(s.dir, "grants")))
}

package store

import (
	"context"
	"path/filepath"

	"github.com/uvbond/uvbond/bond"
)

type identity struct {
	Tenant string `json:"tenant"`
}

// Tenant returns this owner's identity, made at first use.
func (s *Store) Tenant(ctx context.Context) (bond.TenantID, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return bond.TenantID{}, err
	}
	defer unlock()
	path := filepath.Join(s.dir, "identity.json")
	var id identity
	switch err := readJSON(path, &id); {
	case errIsMissing(err):
		fresh := bond.NewTenantID()
		return fresh, writeJSON(path, identity{Tenant: fresh.String()})
	case err != nil:
		return bond.TenantID{}, err
	}
	t, err := bond.ParseTenantID(id.Tenant)
	if err != nil {
		return t, damaged(path, err)
	}
	return t, nil
}

package state

import "github.com/uvbond/uvbond/bond"

// The methods below are the ones of Tx, each in a transaction of its own.

// AddBond is Tx.AddBond.
func (s *Store) AddBond(r *BondRecord, first ...Entry) error {
	return s.Update(func(t *Tx) error { return t.AddBond(r, first...) })
}

// Bond is Tx.Bond.
func (s *Store) Bond(vm bond.VMID) (r *BondRecord, err error) {
	err = s.View(func(t *Tx) error { r, err = t.Bond(vm); return err })
	return r, err
}

// Bonds is Tx.Bonds.
func (s *Store) Bonds() (r []*BondRecord, err error) {
	err = s.View(func(t *Tx) error { r, err = t.Bonds(); return err })
	return r, err
}

// Build is Tx.Build.
func (s *Store) Build(vm bond.VMID, disk string) (r *BuildRecord, err error) {
	err = s.View(func(t *Tx) error { r, err = t.Build(vm, disk); return err })
	return r, err
}

// PutBuild is Tx.PutBuild.
func (s *Store) PutBuild(vm bond.VMID, disk string, r *BuildRecord, e ...Entry) error {
	return s.Update(func(t *Tx) error { return t.PutBuild(vm, disk, r, e...) })
}

// UpdatePolicy is Tx.UpdatePolicy.
func (s *Store) UpdatePolicy(vm bond.VMID, policy string, e ...Entry) error {
	return s.Update(func(t *Tx) error { return t.UpdatePolicy(vm, policy, e...) })
}

// DeleteBond is Tx.DeleteBond.
func (s *Store) DeleteBond(vm bond.VMID, e ...Entry) (h Head, err error) {
	err = s.Update(func(t *Tx) error { h, err = t.DeleteBond(vm, e...); return err })
	return h, err
}

// UseNonce is Tx.UseNonce: when it returns nil the use is on stable storage.
func (s *Store) UseNonce(vm bond.VMID, nonce [32]byte, expiry int64, e ...Entry) error {
	return s.Update(func(t *Tx) error { return t.UseNonce(vm, nonce, expiry, e...) })
}

// BurnNonce is Tx.BurnNonce.
func (s *Store) BurnNonce(vm bond.VMID, nonce [32]byte, expiry int64, e ...Entry) error {
	return s.Update(func(t *Tx) error { return t.BurnNonce(vm, nonce, expiry, e...) })
}

// PutInstance is Tx.PutInstance.
func (s *Store) PutInstance(vm bond.VMID, r InstanceRecord, e ...Entry) error {
	return s.Update(func(t *Tx) error { return t.PutInstance(vm, r, e...) })
}

// Instance is Tx.Instance.
func (s *Store) Instance(vm bond.VMID) (r *InstanceRecord, err error) {
	err = s.View(func(t *Tx) error { r, err = t.Instance(vm); return err })
	return r, err
}

// EndInstance is Tx.EndInstance.
func (s *Store) EndInstance(vm bond.VMID, reason string, e ...Entry) error {
	return s.Update(func(t *Tx) error { return t.EndInstance(vm, reason, e...) })
}

// Append is Tx.Append.
func (s *Store) Append(vm bond.VMID, e ...Entry) (h Head, err error) {
	err = s.Update(func(t *Tx) error { h, err = t.Append(vm, e...); return err })
	return h, err
}

// ReadAudit is Tx.ReadAudit; what was counted or deferred is in it.
func (s *Store) ReadAudit(vm bond.VMID, from uint64, maxBytes int) (p *AuditPage, err error) {
	err = s.Update(func(t *Tx) error { p, err = t.ReadAudit(vm, from, maxBytes); return err })
	return p, err
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Phases of a VM's record.
const (
	PhaseRegistering = "registering" // sent to the hypervisor, its answer is not known yet
	PhaseActive      = "active"      // the hypervisor holds the bond and confirmed it
	PhaseUnconfirmed = "unconfirmed" // the hypervisor holds the bond, its confirmation was lost on the way
)

// Disk joins a VM's registered disk to the image that holds it.
type Disk struct {
	Name  string `json:"name"`
	Image string `json:"image"`
}

// VM is the one record of a bonded VM. Its run state is the hypervisor's to
// tell and is not stored.
type VM struct {
	ID, Name     string
	Tenant       int64
	TenantName   string
	Phase        string
	Registration [32]byte // SHA-256 of the sealed registration
	Confirmation []byte   // sealed for the tenant
	Descriptor   []byte   // sealed for the tenant, of the last instance started
	Memory       uint64   // bytes
	VCPUs        uint32
	Created      time.Time
	Disks        []Disk
}

const vmColumns = `v.id, v.name, v.tenant, t.name, v.phase, v.registration, v.confirmation, v.descriptor, v.memory, v.vcpus, v.created`

// CreateVM reserves a VM's id, name and images before the hypervisor is asked.
// Every image must be the tenant's, ready and free; *DiskError names one that
// is not.
func (s *Store) CreateVM(ctx context.Context, v *VM) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		var count, limit int64
		if err := tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM vms WHERE tenant = ?1), (SELECT max_vms FROM tenants WHERE id = ?1)`,
			v.Tenant).Scan(&count, &limit); err != nil {
			return err
		}
		if count >= limit {
			return &QuotaError{What: "vms", Used: count, Wanted: 1, Limit: limit}
		}
		v.Created, v.Phase = unix(s.now().Unix()), PhaseRegistering
		if _, err := tx.ExecContext(ctx, `INSERT INTO vms (id, tenant, name, phase, registration, created) VALUES (?, ?, ?, ?, ?, ?)`,
			v.ID, v.Tenant, v.Name, v.Phase, v.Registration[:], v.Created.Unix()); err != nil {
			return err
		}
		for n, d := range v.Disks {
			if err := reserveDisk(ctx, tx, v, n, d); err != nil {
				return err
			}
		}
		return nil
	})
}

// DiskError says why an image cannot become a VM's disk.
type DiskError struct {
	Disk   Disk
	Reason string
	Err    error // ErrNotFound, ErrState or ErrInUse
}

// Error names the disk, the image and the reason.
func (e *DiskError) Error() string {
	return fmt.Sprintf("disk %s: image %s %s", e.Disk.Name, e.Disk.Image, e.Reason)
}

// Unwrap gives the kind of failure.
func (e *DiskError) Unwrap() error { return e.Err }

func reserveDisk(ctx context.Context, tx *sql.Tx, v *VM, n int, d Disk) error {
	img, err := scanImage(tx.QueryRowContext(ctx, `SELECT `+imageColumns+` FROM images i WHERE id = ? AND tenant = ? AND state <> 'deleting'`, d.Image, v.Tenant))
	switch {
	case errors.Is(err, ErrNotFound):
		return &DiskError{d, "does not exist", ErrNotFound}
	case err != nil:
		return err
	case img.State != ImageReady:
		return &DiskError{d, "is " + img.State + ", not ready", ErrState}
	case img.VM != "":
		return &DiskError{d, "is in use by VM " + img.VM, ErrInUse}
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO vm_disks (vm, position, name, image) VALUES (?, ?, ?, ?)`, v.ID, n, d.Name, d.Image)
	return err
}

// ActivateVM records the hypervisor's answer. From here on the images count as
// written to.
func (s *Store) ActivateVM(ctx context.Context, id, phase string, confirmation []byte, memory uint64, vcpus uint32) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `UPDATE vms SET phase = ?, confirmation = ?, memory = ?, vcpus = ? WHERE id = ? AND phase = 'registering'`,
			phase, confirmation, int64(memory), vcpus, id)
		if err != nil {
			return err
		}
		if err := affected(r); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE images SET used = 1 WHERE id IN (SELECT image FROM vm_disks WHERE vm = ?)`, id)
		return err
	})
}

// RenameVMID puts a record under the id that the hypervisor really bonded.
func (s *Store) RenameVMID(ctx context.Context, from, to string) error {
	r, err := s.db.ExecContext(ctx, `UPDATE vms SET id = ? WHERE id = ?`, to, from)
	if err != nil {
		return classify(err)
	}
	return affected(r)
}

// SetDescriptor keeps the sealed descriptor of a VM's new instance, so that its
// owner finds it even when the answer to the start was lost.
func (s *Store) SetDescriptor(ctx context.Context, id string, descriptor []byte) error {
	r, err := s.db.ExecContext(ctx, `UPDATE vms SET descriptor = ? WHERE id = ?`, descriptor, id)
	if err != nil {
		return classify(err)
	}
	return affected(r)
}

// DeleteVM forgets a VM; its images are free again.
func (s *Store) DeleteVM(ctx context.Context, id string) error {
	r, err := s.db.ExecContext(ctx, `DELETE FROM vms WHERE id = ?`, id)
	if err != nil {
		return classify(err)
	}
	return affected(r)
}

// VM finds a tenant's VM.
func (s *Store) VM(ctx context.Context, tenant int64, id string) (*VM, error) {
	return one(s.vms(ctx, `v.id = ? AND v.tenant = ?`, id, tenant))
}

// VMs lists a tenant's VMs.
func (s *Store) VMs(ctx context.Context, tenant int64) ([]VM, error) {
	return s.vms(ctx, `v.tenant = ?`, tenant)
}

// AllVMs lists every tenant's VMs, for the operator and the server itself.
func (s *Store) AllVMs(ctx context.Context) ([]VM, error) { return s.vms(ctx, `1`) }

// VMByID finds any tenant's VM, for the server itself.
func (s *Store) VMByID(ctx context.Context, id string) (*VM, error) {
	return one(s.vms(ctx, `v.id = ?`, id))
}

// VMsInPhase lists the VMs of all tenants in a phase.
func (s *Store) VMsInPhase(ctx context.Context, phase string) ([]VM, error) {
	return s.vms(ctx, `v.phase = ?`, phase)
}

func one(list []VM, err error) (*VM, error) {
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, ErrNotFound
	}
	return &list[0], nil
}

func (s *Store) vms(ctx context.Context, where string, args ...any) ([]VM, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT `+vmColumns+`, coalesce(d.name, ''), coalesce(d.image, '')
		FROM vms v JOIN tenants t ON t.id = v.tenant LEFT JOIN vm_disks d ON d.vm = v.id
		WHERE `+where+` ORDER BY v.created, v.id, d.position`, args...)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	out := []VM{}
	for rows.Next() {
		var v VM
		var d Disk
		var reg []byte
		var created, memory int64
		if err := rows.Scan(&v.ID, &v.Name, &v.Tenant, &v.TenantName, &v.Phase, &reg, &v.Confirmation, &v.Descriptor, &memory, &v.VCPUs, &created, &d.Name, &d.Image); err != nil {
			return nil, err
		}
		copy(v.Registration[:], reg)
		v.Memory, v.Created = uint64(memory), unix(created)
		if len(out) == 0 || out[len(out)-1].ID != v.ID {
			out = append(out, v)
		}
		if last := &out[len(out)-1]; d.Name != "" {
			last.Disks = append(last.Disks, d)
		}
	}
	return out, rows.Err()
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// ErrPlaceTaken says that another image is where one was to be placed.
var ErrPlaceTaken = errors.New("another image is there")

// Place is where an image's data is: on a storage of the hypervisor's, or, where
// Storage is "", in the server's own file.
type Place struct {
	Image, Name, Tenant string
	Size                int64
	State               string
	VM                  string // that uses it; "": none
	Storage, Export     string
	Base                string // that it is made from; "": none
}

const placeQuery = `SELECT i.id, i.name, t.name, i.size, i.state, coalesce(d.vm, ''), i.storage, i.export, i.base
	FROM images i JOIN tenants t ON t.id = i.tenant LEFT JOIN vm_disks d ON d.image = i.id `

func scanPlace(row interface{ Scan(...any) error }) (p Place, err error) {
	err = row.Scan(&p.Image, &p.Name, &p.Tenant, &p.Size, &p.State, &p.VM, &p.Storage, &p.Export, &p.Base)
	return p, classify(err)
}

// Places lists where the images of a tenant are, or with "" those of all.
func (s *Store) Places(ctx context.Context, tenant string) ([]Place, error) {
	rows, err := s.db.QueryContext(ctx, placeQuery+`WHERE i.state <> 'deleting' AND ?1 IN ('', t.name) ORDER BY t.name, i.created, i.id`, tenant)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	out := []Place{}
	for rows.Next() {
		p, err := scanPlace(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

// PlaceOf tells where one image is.
func (s *Store) PlaceOf(ctx context.Context, image string) (Place, error) {
	return scanPlace(s.db.QueryRowContext(ctx, placeQuery+`WHERE i.id = ? AND i.state <> 'deleting'`, image))
}

// SetPlace records where an image's data is from now on; storage "" is the
// server's own file. The data must be there, and the image ready (ErrState), and
// no other image in the same place (ErrPlaceTaken).
func (s *Store) SetPlace(ctx context.Context, image, storage, export string) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		var other string
		err := tx.QueryRowContext(ctx, `SELECT id FROM images WHERE storage = ? AND export = ? AND storage <> '' AND id <> ?`, storage, export, image).Scan(&other)
		if err == nil {
			return fmt.Errorf("image %s: %w", other, ErrPlaceTaken)
		} else if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		r, err := tx.ExecContext(ctx, `UPDATE images SET storage = ?, export = ?, updated = ? WHERE id = ? AND state = 'ready'`, storage, export, s.now().Unix(), image)
		if err != nil {
			return err
		}
		if err := affected(r); errors.Is(err, ErrNotFound) {
			return ErrState
		} else if err != nil {
			return err
		}
		return nil
	})
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"
)

// States of an image.
const (
	ImageUploading = "uploading" // data is still to come
	ImageVerifying = "verifying" // complete, its SHA-256 is being computed
	ImageReady     = "ready"     // complete and as announced, or in use since
	ImageFailed    = "failed"    // complete and not as announced; holds no data any more
	ImageDeleting  = "deleting"  // its file is being removed
)

// Image is one stored disk, whole or on its way.
type Image struct {
	ID, Name         string
	Tenant           int64
	Size             int64 // announced bytes
	SHA256           [32]byte
	Offset           int64  // bytes on stable storage
	Hashing          []byte // state of the running SHA-256 at Offset; nil: hash the whole file at the end
	State, Reason    string
	Used             bool // a VM has had it: its content is live and no longer as announced
	VM               string
	Storage, Export  string // where its data is; "": in its file
	Base             string // name of the base image that the hypervisor makes it from; "": it was uploaded
	Created, Updated time.Time
}

const imageColumns = `i.id, i.name, i.tenant, i.size, i.sha256, i.position, i.hashing, i.state, i.reason, i.used,
	coalesce((SELECT vm FROM vm_disks WHERE image = i.id), ''), i.storage, i.export, i.base, i.created, i.updated`

func scanImage(row interface{ Scan(...any) error }) (*Image, error) {
	var i Image
	var sum []byte
	var created, updated int64
	err := row.Scan(&i.ID, &i.Name, &i.Tenant, &i.Size, &sum, &i.Offset, &i.Hashing, &i.State, &i.Reason, &i.Used, &i.VM, &i.Storage, &i.Export, &i.Base, &created, &updated)
	if err != nil {
		return nil, classify(err)
	}
	copy(i.SHA256[:], sum)
	i.Created, i.Updated = unix(created), unix(updated)
	return &i, nil
}

// NewImage announces an upload, or with Base an image that nothing is uploaded to. With
// Storage that is an export there, which has the image's id for its name.
type NewImage struct {
	Name    string
	Size    int64
	SHA256  [32]byte
	Base    string
	Storage string
}

// CreateImage stores a new upload, or returns the one that the same tenant
// already has of this name, size, hash and base and that no VM has written to.
func (s *Store) CreateImage(ctx context.Context, id string, tenant *Tenant, n NewImage, maxImages int64) (img *Image, created bool, err error) {
	err = s.tx(ctx, func(tx *sql.Tx) error {
		img, err = scanImage(tx.QueryRowContext(ctx, `SELECT `+imageColumns+` FROM images i
			WHERE tenant = ? AND name = ? AND size = ? AND sha256 = ? AND base = ? AND used = 0 AND state IN ('uploading','verifying','ready')
			ORDER BY created LIMIT 1`, tenant.ID, n.Name, n.Size, n.SHA256[:], n.Base))
		if err == nil || !errors.Is(err, ErrNotFound) {
			return err
		}
		var bytes, count, quota int64
		if err := tx.QueryRowContext(ctx, `SELECT coalesce(sum(CASE state WHEN 'failed' THEN 0 ELSE size END), 0), count(*),
			(SELECT quota_bytes FROM tenants WHERE id = ?1) FROM images WHERE tenant = ?1`, tenant.ID).Scan(&bytes, &count, &quota); err != nil {
			return err
		}
		if n.Size > quota-bytes {
			return &QuotaError{What: "bytes", Used: bytes, Wanted: n.Size, Limit: quota}
		}
		if count >= maxImages {
			return &QuotaError{What: "images", Used: count, Wanted: 1, Limit: maxImages}
		}
		now, export := s.now().Unix(), ""
		if n.Storage != "" {
			export = id
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO images (id, tenant, name, size, sha256, base, storage, export, state, created, updated)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'uploading', ?, ?)`, id, tenant.ID, n.Name, n.Size, n.SHA256[:], n.Base, n.Storage, export, now, now); err != nil {
			return err
		}
		created = true
		img, err = scanImage(tx.QueryRowContext(ctx, `SELECT `+imageColumns+` FROM images i WHERE id = ?`, id))
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return img, created, nil
}

// Image finds a tenant's image.
func (s *Store) Image(ctx context.Context, tenant int64, id string) (*Image, error) {
	return scanImage(s.db.QueryRowContext(ctx, `SELECT `+imageColumns+` FROM images i WHERE id = ? AND tenant = ? AND state <> 'deleting'`, id, tenant))
}

// Images lists a tenant's images.
func (s *Store) Images(ctx context.Context, tenant int64) ([]Image, error) {
	return s.images(ctx, `tenant = ? AND state <> 'deleting' ORDER BY created, id`, tenant)
}

// ImagesInState lists the images of all tenants in one of the given states
// that were last touched before a time.
func (s *Store) ImagesInState(ctx context.Context, before time.Time, states ...string) ([]Image, error) {
	marks := strings.TrimSuffix(strings.Repeat("?,", len(states)), ",")
	args := make([]any, 0, len(states)+1)
	for _, st := range states {
		args = append(args, st)
	}
	return s.images(ctx, `state IN (`+marks+`) AND updated <= ? ORDER BY id`, append(args, before.Unix())...)
}

func (s *Store) images(ctx context.Context, where string, args ...any) ([]Image, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT `+imageColumns+` FROM images i WHERE `+where, args...)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	out := []Image{}
	for rows.Next() {
		i, err := scanImage(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, *i)
	}
	return out, rows.Err()
}

// AdvanceImage records that an upload's file holds data up to a new offset.
// Call it only when that data is on stable storage.
func (s *Store) AdvanceImage(ctx context.Context, id string, from, to int64, hashing []byte) error {
	return s.updateImage(ctx, `position = ?, hashing = ?, updated = ? WHERE id = ? AND position = ? AND state = 'uploading'`,
		to, hashing, s.now().Unix(), id, from)
}

// SetImageOffset puts an upload's offset back to what its file really holds.
func (s *Store) SetImageOffset(ctx context.Context, id string, offset int64) error {
	return s.updateImage(ctx, `position = ?, hashing = NULL WHERE id = ? AND state = 'uploading'`, offset, id)
}

// SetImageState moves an image from one state to another; ErrState says that
// it was not in the first.
func (s *Store) SetImageState(ctx context.Context, id, from, to, reason string) error {
	return s.updateImage(ctx, `state = ?, reason = ?, hashing = NULL, updated = ? WHERE id = ? AND state = ?`, to, reason, s.now().Unix(), id, from)
}

func (s *Store) updateImage(ctx context.Context, set string, args ...any) error {
	r, err := s.db.ExecContext(ctx, `UPDATE images SET `+set, args...)
	if err != nil {
		return classify(err)
	}
	if err := affected(r); errors.Is(err, ErrNotFound) {
		return ErrState
	} else if err != nil {
		return err
	}
	return nil
}

// MarkImageDeleting starts the removal of an image that no VM uses.
func (s *Store) MarkImageDeleting(ctx context.Context, id string) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		var users int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM vm_disks WHERE image = ?`, id).Scan(&users); err != nil {
			return err
		}
		if users > 0 {
			return ErrInUse
		}
		r, err := tx.ExecContext(ctx, `UPDATE images SET state = 'deleting', updated = ? WHERE id = ?`, s.now().Unix(), id)
		if err != nil {
			return err
		}
		return affected(r)
	})
}

// RemoveImage forgets an image whose file is gone.
func (s *Store) RemoveImage(ctx context.Context, id string) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM images WHERE id = ? AND state = 'deleting'`, id)
	return classify(err)
}

// GrowImage gives a tenant's image that is ready a larger size, within the
// tenant's quota; *QuotaError when it is not. A size that is not larger changes
// nothing.
func (s *Store) GrowImage(ctx context.Context, tenant int64, id string, size int64) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		img, err := scanImage(tx.QueryRowContext(ctx, `SELECT `+imageColumns+` FROM images i WHERE id = ? AND tenant = ? AND state = 'ready'`, id, tenant))
		if err != nil || size <= img.Size {
			return err
		}
		var bytes, quota int64
		if err := tx.QueryRowContext(ctx, `SELECT coalesce(sum(CASE state WHEN 'failed' THEN 0 ELSE size END), 0),
			(SELECT quota_bytes FROM tenants WHERE id = ?1) FROM images WHERE tenant = ?1`, tenant).Scan(&bytes, &quota); err != nil {
			return err
		}
		if wanted := size - img.Size; wanted > quota-bytes {
			return &QuotaError{What: "bytes", Used: bytes, Wanted: wanted, Limit: quota}
		}
		_, err = tx.ExecContext(ctx, `UPDATE images SET size = ?, position = ?, updated = ? WHERE id = ?`, size, size, s.now().Unix(), id)
		return err
	})
}

package store

import (
	"context"
	"errors"
	"time"
)

// Base is a public image from which the hypervisor makes tenants' disks.
type Base struct {
	Name   string
	Size   int64 // bytes
	SHA256 [32]byte
	File   string // its name in the folder of the base images
	Added  time.Time
}

// AddBase offers a base from now on; ErrConflict when there is one of its name.
func (s *Store) AddBase(ctx context.Context, b *Base) error {
	b.Added = unix(s.now().Unix())
	_, err := s.db.ExecContext(ctx, `INSERT INTO bases (name, size, sha256, file, added) VALUES (?, ?, ?, ?, ?)`,
		b.Name, b.Size, b.SHA256[:], b.File, b.Added.Unix())
	return classify(err)
}

// Bases lists what is offered, by name.
func (s *Store) Bases(ctx context.Context) ([]Base, error) { return s.bases(ctx, `1`) }

// Base finds one by its name, or says ErrNotFound.
func (s *Store) Base(ctx context.Context, name string) (*Base, error) {
	list, err := s.bases(ctx, `name = ?`, name)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, ErrNotFound
	}
	return &list[0], nil
}

// RemoveBase forgets a base.
func (s *Store) RemoveBase(ctx context.Context, name string) error {
	r, err := s.db.ExecContext(ctx, `DELETE FROM bases WHERE name = ?`, name)
	if err != nil {
		return classify(err)
	}
	return affected(r)
}

func (s *Store) bases(ctx context.Context, where string, args ...any) ([]Base, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT name, size, sha256, file, added FROM bases WHERE `+where+` ORDER BY name`, args...)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	out := []Base{}
	for rows.Next() {
		var b Base
		var sum []byte
		var added int64
		if err := rows.Scan(&b.Name, &b.Size, &sum, &b.File, &added); err != nil {
			return nil, classify(err)
		}
		copy(b.SHA256[:], sum)
		b.Added = unix(added)
		out = append(out, b)
	}
	return out, rows.Err()
}

// FinishBlank makes an image ready whose file or export is there, without content
// yet. ErrState when it is not waiting for that.
func (s *Store) FinishBlank(ctx context.Context, id string) error {
	r, err := s.db.ExecContext(ctx, `UPDATE images SET position = size, state = 'ready', updated = ? WHERE id = ? AND state = 'uploading' AND base <> ''`, s.now().Unix(), id)
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

package store

import (
	"context"
	"database/sql"
	"fmt"
)

// migrations are the steps from an empty file to the present tables. A step
// that was released is never edited; a change is a new step.
var migrations = []string{
	`CREATE TABLE tenants (
	id          INTEGER PRIMARY KEY,
	name        TEXT NOT NULL UNIQUE,
	created     INTEGER NOT NULL,
	quota_bytes INTEGER NOT NULL CHECK (quota_bytes >= 0),
	max_vms     INTEGER NOT NULL CHECK (max_vms >= 0)
) STRICT;
CREATE TABLE tokens (
	id        INTEGER PRIMARY KEY,
	tenant    INTEGER NOT NULL REFERENCES tenants(id) ON DELETE CASCADE,
	hash      BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
	note      TEXT NOT NULL,
	created   INTEGER NOT NULL,
	last_used INTEGER NOT NULL DEFAULT 0,
	revoked   INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE images (
	id        TEXT PRIMARY KEY CHECK (length(id) = 32),
	tenant    INTEGER NOT NULL REFERENCES tenants(id) ON DELETE RESTRICT,
	name      TEXT NOT NULL,
	size      INTEGER NOT NULL CHECK (size > 0),
	sha256    BLOB NOT NULL CHECK (length(sha256) = 32),
	position  INTEGER NOT NULL DEFAULT 0 CHECK (position >= 0 AND position <= size),
	hashing   BLOB,
	state     TEXT NOT NULL CHECK (state IN ('uploading','verifying','ready','failed','deleting')),
	reason    TEXT NOT NULL DEFAULT '',
	used      INTEGER NOT NULL DEFAULT 0 CHECK (used IN (0,1)),
	created   INTEGER NOT NULL,
	updated   INTEGER NOT NULL
) STRICT;
CREATE INDEX images_tenant ON images(tenant, created);
CREATE TABLE vms (
	id           TEXT PRIMARY KEY CHECK (length(id) = 32),
	tenant       INTEGER NOT NULL REFERENCES tenants(id) ON DELETE RESTRICT,
	name         TEXT NOT NULL,
	phase        TEXT NOT NULL CHECK (phase IN ('registering','active','unconfirmed')),
	registration BLOB NOT NULL CHECK (length(registration) = 32),
	confirmation BLOB,
	descriptor   BLOB,
	memory       INTEGER NOT NULL DEFAULT 0,
	vcpus        INTEGER NOT NULL DEFAULT 0,
	created      INTEGER NOT NULL,
	UNIQUE (tenant, name)
) STRICT;
CREATE TABLE vm_disks (
	vm       TEXT NOT NULL REFERENCES vms(id) ON DELETE CASCADE ON UPDATE CASCADE,
	position INTEGER NOT NULL,
	name     TEXT NOT NULL,
	image    TEXT NOT NULL UNIQUE REFERENCES images(id) ON DELETE RESTRICT,
	PRIMARY KEY (vm, name)
) STRICT;`,
	// Where an image's data is: a storage and an export of it, or "": its file.
	`ALTER TABLE images ADD COLUMN storage TEXT NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN export TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX images_place ON images(storage, export) WHERE storage <> '';`,
	// Public base images, and which of them an image is made from.
	`CREATE TABLE bases (
	name   TEXT PRIMARY KEY,
	size   INTEGER NOT NULL CHECK (size > 0),
	sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
	file   TEXT NOT NULL UNIQUE CHECK (length(file) = 32),
	added  INTEGER NOT NULL
) STRICT;
ALTER TABLE images ADD COLUMN base TEXT NOT NULL DEFAULT '';`,
}

func (s *Store) migrate(ctx context.Context) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx,
			`CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied INTEGER NOT NULL) STRICT`); err != nil {
			return err
		}
		var done int
		if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(version), 0) FROM migrations`).Scan(&done); err != nil {
			return err
		}
		if done > len(migrations) {
			return fmt.Errorf("its tables are of version %d, this program knows up to %d: install the newer uvbond-server", done, len(migrations))
		}
		for v := done + 1; v <= len(migrations); v++ {
			if _, err := tx.ExecContext(ctx, migrations[v-1]); err != nil {
				return fmt.Errorf("migration %d: %w", v, err)
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO migrations VALUES (?, ?)`, v, s.now().Unix()); err != nil {
				return err
			}
		}
		return nil
	})
}

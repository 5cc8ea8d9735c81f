// Package store keeps the server's records in SQLite: tenants, their tokens,
// their images and their VMs.
//
// A record here is the server's own view and proves nothing to a tenant. No
// secret is stored: of a token only its SHA-256. Every query that serves a
// tenant names that tenant, so another tenant's record is the same as none.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	sqlite "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("no such record")
	ErrConflict = errors.New("the record exists already")
	ErrInUse    = errors.New("the record is in use")
	ErrState    = errors.New("the record is in another state")
	ErrNoSpace  = errors.New("no space left for the database")
)

// QuotaError says which limit a new record would pass.
type QuotaError struct {
	What        string // "bytes", "images" or "vms"
	Used, Limit int64
	Wanted      int64
}

// Error names the numbers.
func (e *QuotaError) Error() string {
	return fmt.Sprintf("%s: %d used, %d wanted, %d allowed", e.What, e.Used, e.Wanted, e.Limit)
}

// Store is the open database; it is safe for concurrent use and may be open in
// several processes at once.
type Store struct {
	db  *sql.DB
	now func() time.Time
}

// Open opens or creates the database and brings its tables up to date.
func Open(ctx context.Context, path string) (*Store, error) {
	// SQLite would create the file with the umask's mode: make it private first.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	q := url.Values{"_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(10000)", "journal_mode(WAL)", "foreign_keys(1)", "synchronous(FULL)", "trusted_schema(0)",
	}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	db.SetMaxOpenConns(8)
	s := &Store{db: db, now: time.Now}
	if err := s.migrate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("database %s: %w", path, err), db.Close())
	}
	return s, nil
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// Ping tells whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	return s.db.QueryRowContext(ctx, "SELECT 1").Scan(&one)
}

// tx runs f in one transaction. A transaction takes the write lock at once, so
// that what it read is still true when it writes.
func (s *Store) tx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return classify(err)
	}
	if err := f(tx); err != nil {
		return errors.Join(classify(err), ignoreDone(tx.Rollback()))
	}
	return classify(tx.Commit())
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// classify turns SQLite's codes into this package's errors.
func classify(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() {
	case lib.SQLITE_CONSTRAINT_UNIQUE, lib.SQLITE_CONSTRAINT_PRIMARYKEY:
		return fmt.Errorf("%w (%w)", ErrConflict, err)
	case lib.SQLITE_CONSTRAINT_FOREIGNKEY:
		return fmt.Errorf("%w (%w)", ErrInUse, err)
	case lib.SQLITE_FULL:
		return fmt.Errorf("%w (%w)", ErrNoSpace, err)
	}
	return err
}

func unix(t int64) time.Time { return time.Unix(t, 0).UTC() }

package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Tenant is one customer and its limits.
type Tenant struct {
	ID         int64
	Name       string
	Created    time.Time
	QuotaBytes int64 // of all its images together
	MaxVMs     int64
	UsedBytes  int64
	Images     int64
	VMs        int64
}

// Token is what is known of an API token: never the token itself.
type Token struct {
	ID                int64
	Tenant            string
	Note              string
	Created, LastUsed time.Time // LastUsed is zero when it never was
	Revoked           time.Time // zero while it is good
}

// TokenPrefix starts every token, so that a leaked one is recognised.
const TokenPrefix = "uvb_"

var tenantName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// CheckName says why a tenant's or VM's name cannot be used.
func CheckName(name string) error {
	if !tenantName.MatchString(name) {
		return fmt.Errorf("name %q: use 1 to 63 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit", name)
	}
	return nil
}

// CreateToken makes a token for a tenant, creating the tenant with the given
// limits when it is new. The token is returned once and stored as its hash.
func (s *Store) CreateToken(ctx context.Context, tenant, note string, quota, maxVMs int64) (token string, err error) {
	if err := CheckName(tenant); err != nil {
		return "", err
	}
	var raw [32]byte
	rand.Read(raw[:])
	token = TokenPrefix + base64.RawURLEncoding.EncodeToString(raw[:])
	hash := sha256.Sum256([]byte(token))
	now := s.now().Unix()
	return token, s.tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx,
			`INSERT INTO tenants (name, created, quota_bytes, max_vms) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO NOTHING`,
			tenant, now, quota, maxVMs); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx,
			`INSERT INTO tokens (tenant, hash, note, created) SELECT id, ?, ?, ? FROM tenants WHERE name = ?`,
			hash[:], note, now, tenant)
		return err
	})
}

// Authenticate finds the tenant of a token, or ErrNotFound.
func (s *Store) Authenticate(ctx context.Context, token string) (*Tenant, error) {
	if len(token) > 128 || !strings.HasPrefix(token, TokenPrefix) {
		return nil, ErrNotFound
	}
	hash := sha256.Sum256([]byte(token))
	var t Tenant
	var id, used int64
	err := s.db.QueryRowContext(ctx, `SELECT k.id, k.last_used, t.id, t.name, t.quota_bytes, t.max_vms
		FROM tokens k JOIN tenants t ON t.id = k.tenant WHERE k.hash = ? AND k.revoked = 0`, hash[:]).
		Scan(&id, &used, &t.ID, &t.Name, &t.QuotaBytes, &t.MaxVMs)
	if err != nil {
		return nil, classify(err)
	}
	// The time of last use is for people: one write a minute is enough.
	if now := s.now().Unix(); now-used >= 60 {
		if _, err := s.db.ExecContext(ctx, `UPDATE tokens SET last_used = ? WHERE id = ?`, now, id); err != nil && !errors.Is(classify(err), ErrNoSpace) {
			return nil, classify(err)
		}
	}
	return &t, nil
}

// Tokens lists the tokens of one tenant, or of all for "".
func (s *Store) Tokens(ctx context.Context, tenant string) ([]Token, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT k.id, t.name, k.note, k.created, k.last_used, k.revoked
		FROM tokens k JOIN tenants t ON t.id = k.tenant WHERE ? IN ('', t.name) ORDER BY k.id`, tenant)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var out []Token
	for rows.Next() {
		var k Token
		var created, used, revoked int64
		if err := rows.Scan(&k.ID, &k.Tenant, &k.Note, &created, &used, &revoked); err != nil {
			return nil, err
		}
		k.Created = unix(created)
		if used != 0 {
			k.LastUsed = unix(used)
		}
		if revoked != 0 {
			k.Revoked = unix(revoked)
		}
		out = append(out, k)
	}
	return out, rows.Err()
}

// RevokeTokens ends one token of a tenant, or all of them for id 0, and tells
// how many it ended.
func (s *Store) RevokeTokens(ctx context.Context, tenant string, id int64) (int64, error) {
	r, err := s.db.ExecContext(ctx, `UPDATE tokens SET revoked = ? WHERE revoked = 0 AND ? IN (0, id)
		AND tenant = (SELECT id FROM tenants WHERE name = ?)`, s.now().Unix(), id, tenant)
	if err != nil {
		return 0, classify(err)
	}
	return r.RowsAffected()
}

// SetLimits changes a tenant's limits; a negative value leaves one as it is.
func (s *Store) SetLimits(ctx context.Context, tenant string, quota, maxVMs int64) error {
	r, err := s.db.ExecContext(ctx, `UPDATE tenants SET
		quota_bytes = CASE WHEN ?1 < 0 THEN quota_bytes ELSE ?1 END,
		max_vms = CASE WHEN ?2 < 0 THEN max_vms ELSE ?2 END WHERE name = ?3`, quota, maxVMs, tenant)
	if err != nil {
		return classify(err)
	}
	return affected(r)
}

// Tenants lists all tenants with what they use.
func (s *Store) Tenants(ctx context.Context) ([]Tenant, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, name, created, quota_bytes, max_vms,
		(SELECT coalesce(sum(size), 0) FROM images WHERE tenant = t.id AND state <> 'failed'),
		(SELECT count(*) FROM images WHERE tenant = t.id),
		(SELECT count(*) FROM vms WHERE tenant = t.id) FROM tenants t ORDER BY name`)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var out []Tenant
	for rows.Next() {
		var t Tenant
		var created int64
		if err := rows.Scan(&t.ID, &t.Name, &created, &t.QuotaBytes, &t.MaxVMs, &t.UsedBytes, &t.Images, &t.VMs); err != nil {
			return nil, err
		}
		t.Created = unix(created)
		out = append(out, t)
	}
	return out, rows.Err()
}

func affected(r sql.Result) error {
	n, err := r.RowsAffected()
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}

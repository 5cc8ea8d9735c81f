// Package storage is what the provider set up to keep ciphertext beside files: NBD
// servers that the daemon's configuration names. The management domain may name a
// storage and an export of it, and no address: the daemon, which is root, connects
// to nothing else.
//
// The servers are not trusted; package nbdclient says what they can do. A keeper
// has no network. It gets connections from the daemon, on which the export is
// already chosen, so a keeper that was taken over does not reach another VM's
// export. Where the storage speaks TLS, only its ends can do that: then the keeper
// negotiates, with the certificate of the configuration.
package storage

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"time"

	"github.com/uvbond/uvbond/disk/nbdclient"
	"github.com/uvbond/uvbond/hypervisor/keeper"
)

// Config is one part [storage.NAME] of the daemon's configuration.
type Config struct {
	// URI is where the server is, without an export: nbd, nbds, nbd+unix or nbds+unix.
	URI string `toml:"uri"`
	// CA, Cert and Key name PEM files for TLS: the CA of the server's certificate,
	// and the own certificate where the server wants one.
	CA   string `toml:"ca"`
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
	// Connections is how many a disk has at most; 0: nbdclient.DefaultConnections.
	Connections int `toml:"connections"`
}

// Storage is one of them. Its methods are safe for concurrent use.
type Storage struct {
	Name        string
	uri         *nbdclient.URI
	tls         *tls.Config       // nil: without
	keeperTLS   *keeper.TLSConfig // the same for keepers
	connections int
}

// Names of storages and exports, as the management domain may say them.
var (
	nameForm   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	exportForm = regexp.MustCompile(`^[A-Za-z0-9._/:@+-]{0,255}$`)
)

// ValidExport tells whether an export may be called so.
func ValidExport(name string) bool { return exportForm.MatchString(name) }

// headerWait bounds looking at a disk before its VM is launched.
const headerWait = 15 * time.Second

// New checks c and reads its files.
func New(name string, c Config) (*Storage, error) {
	s, err := newStorage(name, c)
	if err != nil {
		return nil, fmt.Errorf("storage.%.40s: %w", name, err)
	}
	return s, nil
}

func newStorage(name string, c Config) (*Storage, error) {
	if !nameForm.MatchString(name) {
		return nil, fmt.Errorf("the name does not match %s", nameForm)
	}
	uri, err := nbdclient.ParseURI(c.URI)
	if err != nil {
		return nil, err
	}
	if uri.Export != "" {
		return nil, fmt.Errorf("uri names the export %.40q: the management server names it for each disk", uri.Export)
	}
	if c.Connections < 0 || c.Connections > nbdclient.MaxConnections {
		return nil, fmt.Errorf("connections must be 1 to %d, is %d", nbdclient.MaxConnections, c.Connections)
	}
	s := &Storage{Name: name, uri: uri, connections: c.Connections}
	files := nbdclient.TLSFiles{CA: c.CA, Cert: c.Cert, Key: c.Key}
	if !uri.TLS {
		if files != (nbdclient.TLSFiles{}) {
			return nil, fmt.Errorf("ca, cert and key are for nbds and nbds+unix, the uri has neither")
		}
		return s, nil
	}
	pem, err := files.Read()
	if err != nil {
		return nil, err
	}
	if s.tls, err = pem.Config(uri.Hostname); err != nil {
		return nil, err
	}
	s.keeperTLS = &keeper.TLSConfig{Hostname: uri.Hostname, CA: pem.CA, Cert: pem.Cert, Key: pem.Key}
	return s, nil
}

// ForKeeper is what a keeper must know of an export.
func (s *Storage) ForKeeper(export string) *keeper.StorageConfig {
	return &keeper.StorageConfig{Export: export, Connections: s.connections, TLS: s.keeperTLS}
}

// Connect makes one connection for a keeper. The export is chosen on it, but with
// TLS, where Offer is empty.
func (s *Storage) Connect(ctx context.Context, export string) (net.Conn, nbdclient.Offer, error) {
	nc, err := s.uri.Dial(ctx)
	if err != nil || s.tls != nil {
		return nc, nbdclient.Offer{}, err
	}
	c := nbdclient.Config{Export: export}
	return c.Negotiate(ctx, nc)
}

// Look opens an export to look at a disk's header. It also fails where the keeper
// would: a read-only export of a disk that is not, blocks longer than sectors.
func (s *Storage) Look(ctx context.Context, export string, sectorSize int, readOnly bool) (*nbdclient.Client, error) {
	return s.open(ctx, export, headerWait, nbdclient.Config{SectorSize: sectorSize, ReadOnly: readOnly})
}

// Write opens an export to make a disk in it, whose sectors have that size. What waits
// for an answer of the server for longer than outage fails.
func (s *Storage) Write(ctx context.Context, export string, sectorSize int, outage time.Duration, log *slog.Logger) (*nbdclient.Client, error) {
	return s.open(ctx, export, outage, nbdclient.Config{SectorSize: sectorSize, Log: log})
}

// open opens an export over one connection, within headerWait.
func (s *Storage) open(ctx context.Context, export string, outage time.Duration, c nbdclient.Config) (*nbdclient.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, headerWait)
	defer cancel()
	c.Dial, c.Export, c.TLS, c.Connections, c.Outage = s.uri.Dial, export, s.tls, 1, outage
	return nbdclient.Open(ctx, c)
}

// Check looks whether the server answers, for the doctor. An export that does not
// exist is an answer too.
func (s *Storage) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, headerWait)
	defer cancel()
	nc, err := s.uri.Dial(ctx)
	if err != nil {
		return err
	}
	return nc.Close()
}

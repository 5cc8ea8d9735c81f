package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/uvbond/uvbond/disk/nbdclient"
)

// A disk on an NBD server has, in the place of its ciphertext's descriptor, one end
// of a socket pair on which the keeper asks the daemon for connections: it can make
// none itself. When the daemon was restarted, the new one brings the end of another
// pair (cmdConnections). Connections that there are do not depend on the daemon.

// StorageConfig says how a disk's ciphertext is reached that is not a file.
type StorageConfig struct {
	Export      string     // of the server; used with TLS only: else connections come with it chosen
	Connections int        // at most; 0: nbdclient's default
	TLS         *TLSConfig // nil: without
}

// TLSConfig is what the keeper needs to speak TLS with the storage, as PEM.
type TLSConfig struct {
	Hostname      string
	CA, Cert, Key []byte // Cert and Key may be empty
}

type wireStorage struct {
	Export      string `cbor:"1,keyasint"`
	Connections int    `cbor:"2,keyasint"`
	Hostname    string `cbor:"3,keyasint"` // "": without TLS
	CA          []byte `cbor:"4,keyasint"`
	Cert        []byte `cbor:"5,keyasint"`
	Key         []byte `cbor:"6,keyasint"`
}

func (s *StorageConfig) wire() *wireStorage {
	if s == nil {
		return nil
	}
	w := &wireStorage{Export: s.Export, Connections: s.Connections}
	if t := s.TLS; t != nil {
		w.Hostname, w.CA, w.Cert, w.Key = t.Hostname, t.CA, t.Cert, t.Key
	}
	return w
}

func (w *wireStorage) config() *StorageConfig {
	if w == nil {
		return nil
	}
	s := &StorageConfig{Export: w.Export, Connections: w.Connections}
	if w.Hostname != "" {
		s.TLS = &TLSConfig{Hostname: w.Hostname, CA: w.CA, Cert: w.Cert, Key: w.Key}
	}
	return s
}

// connectRequest asks for a connection.
type connectRequest struct {
	Serial uint64 `cbor:"1,keyasint"`
}

// connectAnswer comes with the connection, or says why there is none.
type connectAnswer struct {
	Serial uint64          `cbor:"1,keyasint"`
	Error  string          `cbor:"2,keyasint,omitempty"`
	Offer  nbdclient.Offer `cbor:"3,keyasint"`
}

// connector asks for connections. One question is asked at a time.
type connector struct {
	asking sync.Mutex
	serial uint64 // guarded by asking

	mu   sync.Mutex
	conn *net.UnixConn // nil: no daemon; guarded by mu
	file *os.File      // the same socket, to be handed out; guarded by mu
}

var errNoDaemon = errors.New("the daemon is not there to connect to the storage")

// connectTimeout bounds the wait for one connection.
const connectTimeout = 20 * time.Second

// connectPause is between two answers to a keeper, which may be anybody's by now.
const connectPause = 10 * time.Millisecond

// replace takes another socket, which f is.
func (c *connector) replace(f *os.File) error {
	own, err := dup(f)
	if err != nil {
		return err
	}
	conn, err := fileConn(f)
	if err != nil {
		own.Close()
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Close() // whoever asks there hears so
		c.file.Close()
	}
	c.conn, c.file = conn, own
	return nil
}

func (c *connector) duplicate() (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return dup(c.file)
}

func (c *connector) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn.Close()
	c.file.Close()
}

// connect is for nbdclient.
func (c *connector) connect(ctx context.Context) (net.Conn, nbdclient.Offer, error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, nbdclient.Offer{}, err
	}
	conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c.serial++
	if err := send(conn, &connectRequest{Serial: c.serial}); err != nil {
		return nil, nbdclient.Offer{}, errors.Join(errNoDaemon, err)
	}
	for {
		var a connectAnswer
		files, err := receive(conn, &a)
		if err != nil {
			return nil, nbdclient.Offer{}, errors.Join(errNoDaemon, ctx.Err(), err)
		}
		if a.Serial != c.serial { // to a question that was given up
			closeAll(files)
			continue
		}
		nc, err := a.conn(files)
		return nc, a.Offer, err
	}
}

// conn takes the connection out of an answer.
func (a *connectAnswer) conn(files []*os.File) (net.Conn, error) {
	defer closeAll(files)
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	if len(files) != 1 {
		return nil, fmt.Errorf("%d descriptors came in the place of a connection", len(files))
	}
	return net.FileConn(files[0])
}

// dial is for nbdclient where it negotiates itself.
func (c *connector) dial(ctx context.Context) (net.Conn, error) {
	nc, _, err := c.connect(ctx)
	return nc, err
}

// storageBackend opens the ciphertext of a disk that is on a storage; f is the
// socket to ask on, and is taken over.
func storageBackend(d *DiskConfig, f *os.File, log *slog.Logger) (*nbdclient.Client, *connector, error) {
	c := new(connector)
	if err := c.replace(f); err != nil {
		return nil, nil, fmt.Errorf("socket for connections: %w", err)
	}
	s := d.Storage
	config := nbdclient.Config{Connections: s.Connections, SectorSize: int(d.SectorSize), ReadOnly: d.ReadOnly, Log: log}
	if t := s.TLS; t != nil {
		pem := nbdclient.TLSData{CA: t.CA, Cert: t.Cert, Key: t.Key}
		var err error
		if config.TLS, err = pem.Config(t.Hostname); err != nil {
			c.close()
			return nil, nil, err
		}
		config.Dial, config.Export = c.dial, s.Export
	} else {
		config.Ready = c.connect
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	b, err := nbdclient.Open(ctx, config)
	if err != nil {
		c.close()
		return nil, nil, err
	}
	return b, c, nil
}

// reconnect takes the socket of a new daemon.
func (s *served) reconnect(files []*os.File) error {
	if s.connection == nil || len(files) != 1 {
		return fmt.Errorf("disk %q: %d descriptors came to get connections with", s.config.Name, len(files))
	}
	f, err := dup(files[0])
	if err != nil {
		return err
	}
	return s.connection.replace(f)
}

// ConnectionSocket makes a pair: ServeConnections on ours; theirs is for
// Options.Disks or Process.Connections, and stays the caller's.
func ConnectionSocket() (ours *net.UnixConn, theirs *os.File, err error) { return socketPair() }

// ServeConnections answers a keeper's questions for connections with those that
// connect makes, until ctx ends or nobody can ask any more. It closes c. An error of
// connect is told to the keeper.
func ServeConnections(ctx context.Context, c *net.UnixConn, connect func(context.Context) (net.Conn, nbdclient.Offer, error)) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	for {
		var q connectRequest
		files, err := receive(c, &q)
		closeAll(files)
		if err != nil {
			return
		}
		if err := answerConnection(ctx, c, &q, connect); err != nil {
			return
		}
		time.Sleep(connectPause)
	}
}

func answerConnection(ctx context.Context, c *net.UnixConn, q *connectRequest, connect func(context.Context) (net.Conn, nbdclient.Offer, error)) error {
	dialing, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	a := connectAnswer{Serial: q.Serial}
	nc, offer, err := connect(dialing)
	if err != nil {
		a.Error = err.Error()
		return send(c, &a)
	}
	defer nc.Close()
	a.Offer = offer
	f, err := nc.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		a.Error = err.Error()
		return send(c, &a)
	}
	defer f.Close()
	return send(c, &a, f)
}

// Connections gives a keeper another socket to ask for a disk's connections on,
// after the daemon that served the one before has ended. f stays the caller's.
func (p *Process) Connections(ctx context.Context, disk string, f *os.File) error {
	_, _, err := p.call(ctx, &request{Command: cmdConnections, Disk: disk}, f)
	return err
}

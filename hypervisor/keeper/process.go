package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/nbd"
	"github.com/uvbond/uvbond/disk/nbdclient"
	"github.com/uvbond/uvbond/disk/vhostuser"
)

// ErrGone says that a keeper does not run any more.
var ErrGone = errors.New("the keeper process is gone")

// callTimeout bounds a call whose context has no deadline.
const callTimeout = 10 * time.Second

// Process is the daemon's handle on one keeper.  Its methods are safe for
// concurrent use.
type Process struct {
	pid     int
	start   uint64
	control string // path
	proc    *os.File
	sockets *Sockets
	ring    *os.File
	done    chan struct{}
	once    sync.Once
}

// Stats are counters of one keeper.
type Stats struct {
	VM           string      `cbor:"1,keyasint"`
	Confinement  Confinement `cbor:"2,keyasint"`
	ConsoleBytes uint64      `cbor:"3,keyasint"` // since the ring was made
	Disks        []DiskStats `cbor:"4,keyasint"`
}

// DiskStats are counters of one disk since the keeper started.
type DiskStats struct {
	Name     string          `cbor:"1,keyasint"`
	FrontEnd string          `cbor:"4,keyasint"` // FrontEndNBD or FrontEndVhostUser
	Size     uint64          `cbor:"5,keyasint"` // bytes
	NBD      nbd.Stats       `cbor:"2,keyasint"`
	Vhost    vhostuser.Stats `cbor:"6,keyasint"`
	Device   disk.Stats      `cbor:"3,keyasint"`
	// Storage counts what happened on the NBD server that the disk is on, if it is.
	Storage *nbdclient.Stats `cbor:"10,keyasint,omitempty"`
}

// PID returns the keeper's process id.
func (p *Process) PID() int { return p.pid }

// StartTime returns when the keeper started, in clock ticks since boot: with PID
// what Adopt needs.
func (p *Process) StartTime() uint64 { return p.start }

// DiskPath returns the path of the socket that serves a disk; an NBD export has the
// disk's name.
func (p *Process) DiskPath(disk string) string { return p.sockets.diskPath(disk) }

// ConsolePath returns the path of the socket for QEMU's console.
func (p *Process) ConsolePath() string { return filepath.Join(p.sockets.Dir, consoleName) }

// Sockets returns the listeners, for Options.Sockets when this keeper has to be
// replaced.  They stay p's until then: do not Close p before.
func (p *Process) Sockets() *Sockets { return p.sockets }

// Done is closed when the keeper has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Console returns what the VM printed from offset on: see ReadRing.  It works
// also when the keeper has ended.
func (p *Process) Console(offset uint64, limit int) (data []byte, end, lost uint64, err error) {
	return ReadRing(p.ring, offset, limit)
}

// Adopt finds a keeper again after the daemon was restarted: dir, pid and start
// as of the Process that Start returned.  ErrGone when it does not run any more.
func Adopt(dir string, pid int, start uint64) (*Process, error) {
	proc, err := openProcess(pid, start)
	if err != nil {
		return nil, err
	}
	p := &Process{pid: pid, start: start, control: filepath.Join(dir, controlName), proc: proc, done: make(chan struct{})}
	d, err := p.descriptors(context.Background())
	if err != nil {
		proc.Close()
		return nil, fmt.Errorf("adopt keeper %d: %w", pid, err)
	}
	p.sockets, p.ring = d.sockets, d.ring
	for _, f := range d.disks {
		f.Close()
	}
	go func() {
		waitProcess(proc)
		close(p.done)
		proc.Close()
	}()
	return p, nil
}

// descriptors are what cmdFiles brings back.
type descriptors struct {
	disks   map[string]*os.File
	sockets *Sockets
	ring    *os.File
}

func (p *Process) descriptors(ctx context.Context) (*descriptors, error) {
	r, files, err := p.call(ctx, &request{Command: cmdFiles})
	if err != nil {
		return nil, err
	}
	want := 2
	if r.Seed {
		want++
	}
	if r.Stats == nil || len(r.Stats.Disks) > maxDisks || len(files) != 2*len(r.Stats.Disks)+want {
		closeAll(files)
		return nil, errors.New("keeper sent other descriptors than it should")
	}
	n := len(r.Stats.Disks)
	d := &descriptors{disks: map[string]*os.File{}, sockets: &Sockets{Dir: r.SocketDir, Disks: map[string]*os.File{}, vhost: map[string]bool{}}}
	d.sockets.Console, d.ring = files[2*n], files[2*n+1]
	for i, s := range r.Stats.Disks {
		if d.disks[s.Name] != nil {
			closeAll(files)
			return nil, errors.New("keeper named a disk twice")
		}
		d.disks[s.Name], d.sockets.Disks[s.Name] = files[i], files[n+i]
		d.sockets.vhost[s.Name] = s.FrontEnd == FrontEndVhostUser
	}
	if r.Seed {
		if d.disks[bond.SeedDisk] != nil {
			closeAll(files)
			return nil, errors.New("keeper named a disk twice")
		}
		d.sockets.Disks[bond.SeedDisk] = files[2*n+2]
	}
	return d, nil
}

// Files returns new descriptors of the ciphertext, by disk name; the caller
// closes them.
func (p *Process) Files(ctx context.Context) (map[string]*os.File, error) {
	d, err := p.descriptors(ctx)
	if err != nil {
		return nil, err
	}
	d.sockets.Close()
	d.ring.Close()
	return d.disks, nil
}

// AllowPeer tells the keeper which process QEMU is: besides having the right uid,
// a peer must be this process.  0 lets every process of the uid in, which is as
// much as the uid per VM gives.  Until the first call connections wait up to 20
// seconds, then they are refused.  A keeper that replaces another must be told again.
func (p *Process) AllowPeer(ctx context.Context, pid int) error {
	_, _, err := p.call(ctx, &request{Command: cmdAllowPeer, PID: int32(pid)})
	return err
}

// SetLimits puts new limits of a disk into force, for requests that wait too.
func (p *Process) SetLimits(ctx context.Context, name string, l disk.Limits) error {
	_, _, err := p.call(ctx, &request{Command: cmdLimit, Disk: name, Limits: l})
	return err
}

// Grow makes a disk longer; its ciphertext has grown before. Nobody is told: see
// Announce.
func (p *Process) Grow(ctx context.Context, name string, length uint64) error {
	_, _, err := p.call(ctx, &request{Command: cmdGrow, Disk: name, Length: length})
	return err
}

// Announce makes QEMU look at a disk's size again: with NBD when its next
// request makes it connect again, with vhost-user at once.
func (p *Process) Announce(ctx context.Context, name string) error {
	_, _, err := p.call(ctx, &request{Command: cmdAnnounce, Disk: name})
	return err
}

// Channel is a connection that the daemon hands to a keeper, which is the far end of
// the owner's channel from then on. All of it stays the caller's.
type Channel struct {
	Kind       string // with Port: see channel.CheckKind
	Port       uint16
	Session    string       // in reports about it; at most 64 bytes
	Key        *bond.Secret // Bond.ChannelKey
	Descriptor [32]byte     // of the instance; secret
	Nonce      [32]byte     // of the ticket
	Conn       *os.File     // unix stream socket
	Screen     *os.File     // channel.KindScreen: the socket of QEMU's VNC server
	Address    string       // channel.KindForward: ip:port, on the loopback
}

// Channel hands over a channel. When it returns nil, all that becomes of it is
// reported: see TakeReports. ErrTooManyChannels.
func (p *Process) Channel(ctx context.Context, c *Channel) error {
	w := &wireChannel{
		Kind: c.Kind, Port: c.Port, Session: c.Session, Key: c.Key.Bytes(), Descriptor: c.Descriptor[:], Nonce: c.Nonce[:], Address: c.Address,
	}
	files := []*os.File{c.Conn}
	if c.Screen != nil {
		files = append(files, c.Screen)
	}
	_, _, err := p.call(ctx, &request{Command: cmdChannel, Channel: w}, files...)
	return err
}

// Reports tells a keeper where to report, instead of where it did until now. f stays the
// caller's.
func (p *Process) Reports(ctx context.Context, f *os.File) error {
	_, _, err := p.call(ctx, &request{Command: cmdReports}, f)
	return err
}

// Stats asks for the counters.
func (p *Process) Stats(ctx context.Context) (Stats, error) {
	r, _, err := p.call(ctx, &request{Command: cmdStats})
	if err != nil {
		return Stats{}, err
	}
	if r.Stats == nil {
		return Stats{}, errors.New("keeper sent no statistics")
	}
	return *r.Stats, nil
}

// Stop ends the keeper after what was written is on stable storage.  When ctx ends
// before, the keeper is killed: nothing is lost that a client was told is durable.
// The error is that of the last flush, or of ctx.
func (p *Process) Stop(ctx context.Context) error {
	return p.Finish(ctx, console.End{Why: console.HostRestarted})
}

// Finish is Stop, and says what viewers of the console are told, after the last output.
// For that QEMU should have ended before.
func (p *Process) Finish(ctx context.Context, e console.End) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	_, _, err := p.call(ctx, &request{Command: cmdStop, Why: e.Why, Text: console.CleanText(e.Text)})
	if err == nil {
		select {
		case <-p.done:
			return nil
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return errors.Join(err, p.Kill())
}

// Kill ends the keeper at once and waits for its end.
func (p *Process) Kill() error {
	err := signalProcess(p.proc, unix.SIGKILL)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrClosed) {
		err = nil
	}
	if err == nil {
		<-p.done
	}
	return err
}

// Close gives up the handle and its descriptors; the keeper goes on.
func (p *Process) Close() {
	p.once.Do(func() {
		p.sockets.Close()
		p.ring.Close()
	})
}

// call makes one request on a connection of its own.
func (p *Process) call(ctx context.Context, q *request, files ...*os.File) (*response, []*os.File, error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unixpacket", p.control)
	if err != nil {
		if errors.Is(err, unix.ECONNREFUSED) {
			err = errors.Join(ErrGone, err)
		}
		return nil, nil, fmt.Errorf("keeper %d: %w", p.pid, err)
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c := nc.(*net.UnixConn)
	var r response
	var got []*os.File
	if err = send(c, q, files...); err == nil {
		got, err = receive(c, &r)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		err = errors.Join(ErrGone, err) // it died during the call
	}
	if err != nil && ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	if err == nil && r.Error != "" {
		closeAll(got)
		if err = errors.New(r.Error); r.Busy {
			err = ErrTooManyChannels
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("keeper %d: %s: %w", p.pid, q.Command, err)
	}
	if q.Command != cmdFiles && len(got) > 0 {
		closeAll(got)
		got = nil
	}
	return &r, got, nil
}

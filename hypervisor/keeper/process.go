package keeper

import (
	"context"
	"errors"
	"os"
)

var errStub = errors.New("keeper: not written yet")

// DiskConfig is one disk of the VM: its key and every parameter, as registered.
type DiskConfig struct {
	Name       string
	Key        []byte // volume key, 32 or 64 bytes; Config.Wipe wipes it
	SectorSize uint32 // bytes
	DataOffset uint64 // bytes
	Length     uint64 // bytes
	IVTweak    uint64
	ReadOnly   bool
	Discard    bool
}

// Config is what a keeper is told at its start.
type Config struct {
	VM      string
	QEMUUID uint32
	Disks   []DiskConfig
}

// Wipe zeroes the keys.
func (c *Config) Wipe() {
	for i := range c.Disks {
		clear(c.Disks[i].Key)
	}
}

// Options says how to start a keeper.
type Options struct {
	Self      string   // path of the uvbond-hypervisor binary
	Args      []string // arguments before the keeper's own; nil means "keeper"
	UID, GID  uint32   // the keeper's own
	Dir       string   // control socket's folder, the daemon's only, must exist
	SocketDir string   // folder of the NBD and console sockets; made if missing
	Config    Config
	Disks     map[string]*os.File // ciphertext, by disk name; the caller keeps its own
	Ring      *os.File            // console ring file; see CreateRing
}

// Process is the daemon's handle on one keeper.
type Process struct{}

// Start starts a keeper.
func Start(ctx context.Context, o Options) (*Process, error) { return nil, errStub }

// Adopt finds a keeper again after the daemon was restarted.
func Adopt(dir string, pid int, start uint64) (*Process, error) { return nil, errStub }

// Main is the keeper process; its result is the exit code.
func Main(args []string) int { return 1 }

func (p *Process) PID() int                   { return 0 }
func (p *Process) StartTime() uint64          { return 0 }
func (p *Process) NBDPath(disk string) string { return "" }
func (p *Process) ConsolePath() string        { return "" }
func (p *Process) Console(offset uint64, max int) (data []byte, end, lost uint64, err error) {
	return nil, 0, 0, errStub
}
func (p *Process) Files(ctx context.Context) (map[string]*os.File, error) { return nil, errStub }
func (p *Process) AllowPeer(ctx context.Context, pid int) error           { return errStub }
func (p *Process) Stats(ctx context.Context) (Stats, error)               { return Stats{}, errStub }
func (p *Process) Stop(ctx context.Context) error                         { return errStub }
func (p *Process) Done() <-chan struct{}                                  { return nil }

// Stats are counters of one keeper.
type Stats struct{}

// CreateRing makes or opens a console ring file.
func CreateRing(path string, size int) (*os.File, error) { return nil, errStub }

package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
)

// Numbers of the inherited descriptors; two for every disk follow, then one for the seed.
const (
	fdControl = 3 + iota
	fdRing
	fdConfig
	fdConsole
	fdDisks
)

// Main is the keeper process, `uvbond-hypervisor keeper`; the result is its exit
// code.  Only the daemon starts it.
func Main(args []string) int {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if err := run(args, log); err != nil {
		log.Error("keeper: " + err.Error())
		return 1
	}
	return 0
}

func run(args []string, log *slog.Logger) error {
	// The argument tells people who list processes which VM this is for, and
	// nothing depends on it.
	if len(args) > 1 {
		return errors.New("takes no arguments but the folder of its control socket")
	}
	if err := harden(); err != nil {
		return err
	}
	// The daemon's death must not be ours, nor its terminal's signals.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGINT)
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	conn, err := fileConn(os.NewFile(fdConfig, "configuration"))
	if err != nil {
		return fmt.Errorf("no configuration socket, the keeper is started by the daemon only: %w", err)
	}
	defer conn.Close()
	k, err := prepare(conn, log)
	if err != nil {
		_ = send(conn, &response{Error: err.Error()})
		return err
	}
	defer k.close()
	if err := send(conn, &response{}); err != nil {
		return fmt.Errorf("tell the daemon: %w", err)
	}
	conn.Close()
	return k.run(ctx)
}

// prepare reads the configuration and gets everything ready to serve.
func prepare(conn *net.UnixConn, log *slog.Logger) (*keeper, error) {
	conn.SetDeadline(time.Now().Add(startTimeout))
	b, files, err := receiveBytes(conn, maxConfig)
	closeAll(files)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	c, w, err := decodeConfig(b)
	bond.Wipe(b)
	if err != nil {
		return nil, err
	}
	k := &keeper{log: log.With("vm", c.VM), config: c, daemonUID: w.DaemonUID, socketDir: w.SocketDir, peers: newPeers(c.QEMUUID)}
	k.peers.log = k.log
	k.confinement.KeysLocked = true
	for i := range c.Disks {
		if err := unix.Mlock(c.Disks[i].Key.Bytes()); err != nil {
			k.confinement.KeysLocked = false
		}
	}
	if err := k.take(); err != nil {
		k.close()
		return nil, err
	}
	confine(&k.confinement, c.Dials)
	if p := k.confinement.Problem; p != "" {
		k.log.Warn("keeper: not fully confined", "problem", p)
	}
	return k, nil
}

// take makes listeners, ring and disks of the inherited descriptors.
func (k *keeper) take() error {
	control, err := listener(fdControl)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	k.control = control
	k.ringFile = os.NewFile(fdRing, "console ring")
	unix.CloseOnExec(fdRing)
	ring, err := openRingWriter(k.ringFile)
	if err != nil {
		return err
	}
	if k.consoleListener, err = listener(fdConsole); err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	k.console = newSerialPort(ring, k.peers, k.log)
	if k.channels, err = newChannels(k); err != nil {
		return err
	}
	for i := range k.config.Disks {
		d, err := openServed(&k.config.Disks[i], fdDisks+2*i, k)
		if err != nil {
			return fmt.Errorf("disk %q: %w", k.config.Disks[i].Name, err)
		}
		k.disks = append(k.disks, d)
	}
	if k.config.Seed == nil {
		return nil
	}
	if k.seed, err = openSeed(k.config, fdDisks+2*len(k.disks), k); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	k.config.Seed.Wipe()
	return nil
}

// listener takes over an inherited listening socket.
func listener(fd int) (*net.UnixListener, error) {
	f := os.NewFile(uintptr(fd), "listener")
	if f == nil {
		return nil, unix.EBADF
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, errors.New("not a unix socket")
	}
	return ul, nil
}

package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
)

const (
	controlName = "keeper.sock"
	consoleName = "console.sock"
	nbdSuffix   = ".nbd"
	vhostSuffix = ".vhost"
	maxPath     = 107 // bytes in sockaddr_un, the final zero apart
)

// Sockets are the listeners that QEMU connects to.  The daemon holds them as long
// as the VM lives, whatever happens to the keeper; it never accepts on them.
type Sockets struct {
	Dir     string
	Console *os.File
	Disks   map[string]*os.File // by disk name
	vhost   map[string]bool     // disks whose socket speaks vhost-user, not NBD
}

// Close closes the daemon's descriptors; what a keeper holds stays.
func (s *Sockets) Close() {
	if s == nil {
		return
	}
	closeAll([]*os.File{s.Console})
	for _, f := range s.Disks {
		f.Close()
	}
}

func (s *Sockets) diskPath(disk string) string {
	if s.vhost[disk] {
		return filepath.Join(s.Dir, disk+vhostSuffix)
	}
	return filepath.Join(s.Dir, disk+nbdSuffix)
}

// newSockets makes the folder if it is missing, and the listeners.
func newSockets(dir string, c *Config) (s *Sockets, err error) {
	if err := makeSocketDir(dir, c.QEMUUID); err != nil {
		return nil, err
	}
	s = &Sockets{Dir: dir, Disks: map[string]*os.File{}, vhost: map[string]bool{}}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.Console, err = listen(filepath.Join(dir, consoleName), unix.SOCK_STREAM, c.QEMUUID); err != nil {
		return nil, err
	}
	for i := range c.Disks {
		name := c.Disks[i].Name
		s.vhost[name] = c.Disks[i].VhostQueues > 0
		if s.Disks[name], err = listen(s.diskPath(name), unix.SOCK_STREAM, c.QEMUUID); err != nil {
			return nil, err
		}
	}
	if c.Seed != nil {
		if s.Disks[bond.SeedDisk], err = listen(s.diskPath(bond.SeedDisk), unix.SOCK_STREAM, c.QEMUUID); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func makeSocketDir(dir string, gid uint32) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is in the way: it is not a directory", dir)
	}
	if os.Geteuid() != 0 {
		return os.Chmod(dir, 0o700)
	}
	if err := os.Lchown(dir, 0, int(gid)); err != nil {
		return err
	}
	return os.Chmod(dir, 0o710)
}

// listen makes a listening unix socket at path, in place of one that is there.
// gid is the group that may connect; only used by root.  0: root alone.
func listen(path string, kind int, gid uint32) (*os.File, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("socket path %s has %d bytes, the kernel allows %d: choose a shorter run directory", path, len(path), maxPath)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("%s is in the way: it is not a socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	// Nobody can connect between bind and chmod: nothing listens yet.
	if err := bindListen(fd, path, gid); err != nil {
		f.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return f, nil
}

func bindListen(fd int, path string, gid uint32) error {
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	mode := os.FileMode(0o600)
	if os.Geteuid() == 0 {
		if err := os.Lchown(path, 0, int(gid)); err != nil {
			return err
		}
		if gid != 0 {
			mode = 0o660
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	return unix.Listen(fd, 64)
}

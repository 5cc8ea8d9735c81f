package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/nbdclient"
)

// served is one disk: the encrypted device and its front end.
type served struct {
	config   *DiskConfig
	listener *net.UnixListener
	front    frontEnd
	dev      *disk.Device
	file     *os.File // what dev is on; dev closes it. nil: dev is on a storage

	storage    *nbdclient.Client // what dev is on then; dev closes it
	connection *connector        // where storage gets its connections
}

// openServed takes over descriptors fd, the listener, and fd+1, the ciphertext.
func openServed(c *DiskConfig, fd int, k *keeper) (*served, error) {
	l, err := listener(fd)
	if err != nil {
		return nil, fmt.Errorf("listener: %w", err)
	}
	f := os.NewFile(uintptr(fd+1), "ciphertext of "+c.Name)
	if f == nil {
		return nil, errors.New("no ciphertext descriptor")
	}
	unix.CloseOnExec(fd + 1)
	s := &served{config: c, listener: l}
	if c.Storage != nil {
		err = s.openStorage(f, k)
	} else if s.dev, err = openDevice(c, f); err != nil {
		f.Close()
	}
	if err != nil {
		return nil, err
	}
	if c.Storage == nil {
		s.file = f
	}
	s.front = newFrontEnd(c, s.dev, k)
	return s, nil
}

// openStorage makes the device on a storage; f is the socket for connections.
func (s *served) openStorage(f *os.File, k *keeper) error {
	var err error
	if s.storage, s.connection, err = storageBackend(s.config, f, k.log.With("disk", s.config.Name)); err != nil {
		return err
	}
	if s.dev, err = newDeviceOn(s.config, s.storage); err != nil {
		s.storage.Close()
		s.connection.close()
	}
	return err
}

// openDevice checks the descriptor and makes the encrypted device on it, which
// takes it over unless there is an error.
func openDevice(c *DiskConfig, f *os.File) (*disk.Device, error) {
	if err := checkCiphertext(f, c.ReadOnly); err != nil {
		return nil, err
	}
	return newDevice(c, f)
}

func checkCiphertext(f *os.File, readOnly bool) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if m := info.Mode(); !m.IsRegular() && m.Type() != os.ModeDevice {
		return fmt.Errorf("ciphertext is a %v, need a file or a block device", m.Type())
	}
	fd, err := descriptor(f)
	if err != nil {
		return err
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	if flags&unix.O_APPEND != 0 || flags&unix.O_PATH != 0 {
		return errors.New("ciphertext descriptor is open for appending or as a path only")
	}
	mode := flags & unix.O_ACCMODE
	if mode != unix.O_RDWR && (mode != unix.O_RDONLY || !readOnly) {
		return errors.New("ciphertext descriptor is not open for reading and writing")
	}
	return nil
}

// duplicate returns the descriptor that the keeper got for this disk: the
// ciphertext, or the socket for connections.
func (s *served) duplicate() (*os.File, error) {
	if s.connection != nil {
		return s.connection.duplicate()
	}
	return dup(s.file)
}

func (s *served) close() {
	s.dev.Close()
	if s.connection != nil {
		s.connection.close()
	}
}

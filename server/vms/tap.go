package vms

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openTaps opens existing tap interfaces for a VM's NICs. QEMU gets the
// descriptors and never a name.
func openTaps(names []string) (files []*os.File, err error) {
	for _, name := range names {
		f, err := openTap(name)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, fmt.Errorf("tap %s: %w", name, err)
		}
		files = append(files, f)
	}
	return files, nil
}

func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

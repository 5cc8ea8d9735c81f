package machine

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/qmp"
)

// checkDisks holds the ciphertext that the server handed over against the
// registration. The header on the disk decides nothing: it is read once and
// must say what the owner's registration says. all: every disk must be there.
func checkDisks(disks []bond.Disk, files map[string]*os.File, exports exports, all bool) error {
	known := map[string]bool{}
	inodes := map[[2]uint64]string{}
	for n := range disks {
		d := &disks[n]
		known[d.Name] = true
		f := files[d.Name]
		if _, ok := exports[d.Name]; ok {
			if f != nil {
				return diskError(d.Name, "it was handed over and is said to be on a storage as well")
			}
			continue
		}
		if f == nil {
			if all {
				return diskError(d.Name, "it was not handed over")
			}
			continue
		}
		ino, err := checkFile(d, f)
		if err != nil {
			return err
		}
		if other := inodes[ino]; other != "" {
			return diskError(d.Name, "it is the same file as disk "+other)
		}
		inodes[ino] = d.Name
		size, err := fileSize(f)
		if err != nil {
			return diskError(d.Name, err.Error())
		}
		if err := checkHeader(d, f, size); err != nil {
			return err
		}
	}
	for name := range files {
		if !known[name] {
			return invalid("the registration has no disk %q", clip(name))
		}
	}
	return nil
}

// checkFile refuses descriptors that are no disk and modes that do not fit.
func checkFile(d *bond.Disk, f *os.File) (inode [2]uint64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return inode, diskError(d.Name, err.Error())
	}
	if t := st.Mode & unix.S_IFMT; t != unix.S_IFREG && t != unix.S_IFBLK {
		return inode, diskError(d.Name, "the descriptor is neither a file nor a block device")
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return inode, diskError(d.Name, err.Error())
	}
	mode := flags & unix.O_ACCMODE
	if mode == unix.O_WRONLY || (mode == unix.O_RDONLY && !d.ReadOnly) || flags&(unix.O_APPEND|unix.O_PATH) != 0 {
		return inode, diskError(d.Name, "the descriptor is not open for reading and writing at any position")
	}
	return inodeOf(&st), nil
}

// inodeOf names a file, or a block device, which may have many nodes.
func inodeOf(st *unix.Stat_t) [2]uint64 {
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return [2]uint64{st.Rdev}
	}
	return [2]uint64{st.Dev, st.Ino}
}

func checkHeader(d *bond.Disk, f io.ReaderAt, size int64) error {
	if end := d.DataOffset + d.Length; end < d.DataOffset || uint64(size) < end {
		return diskError(d.Name, fmt.Sprintf("it has %d bytes, the registration needs %d", size, end))
	}
	h, err := luks.ReadHeader(f, size)
	if err != nil {
		return diskError(d.Name, "its LUKS2 header is refused: "+err.Error())
	}
	err = luks.Check(h, luks.Expectation{
		UUID: d.UUID, Cipher: d.Cipher, KeyBytes: d.VolumeKey.Len(), SectorSize: d.SectorSize,
		DataOffset: d.DataOffset, Length: d.Length, IVTweak: d.IVTweak,
		Digest: luks.Digest{Hash: d.Digest.Hash, Iterations: d.Digest.Iterations, Salt: d.Digest.Salt, Value: d.Digest.Value},
	})
	if err != nil {
		return diskError(d.Name, "it is not the registered disk: "+err.Error())
	}
	return nil
}

// fileSize works for files and block devices.
func fileSize(f *os.File) (int64, error) {
	pos, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_END)
	if err != nil {
		return 0, errors.New("its size is not known")
	}
	return pos, nil
}

func diskError(name, why string) error {
	return &qmp.Error{Class: qmp.ClassInvalid, Desc: fmt.Sprintf("UVBond: disk %s: %s", name, why)}
}

// availableMemory is MemAvailable of /proc/meminfo, in bytes.
func availableMemory() (uint64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		f := bytes.Fields(s.Bytes())
		if len(f) == 3 && string(f[0]) == "MemAvailable:" {
			kib, err := strconv.ParseUint(string(f[1]), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

// Package image reads the owner's plaintext disk (raw or qcow2) and writes its
// encrypted form, a LUKS2 container. It works on the owner's own machine and own
// files: that is the only place where a disk's format may be told from its
// contents. The input is never written to.
package image

import (
	"encoding/binary"
	"errors"
	"io"
	"os"

	qimage "github.com/lima-vm/go-qcow2reader/image"
	"github.com/lima-vm/go-qcow2reader/image/qcow2"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/tenant/fail"
)

// Formats of an input.
const (
	Auto  = "auto"
	Raw   = "raw"
	Qcow2 = "qcow2"
)

// Source is an opened plaintext disk.
type Source struct {
	io.ReaderAt
	Path   string
	Size   int64 // bytes
	Format string
	close  []io.Closer
}

// Close closes the input.
func (s *Source) Close() error {
	var errs []error
	for i := len(s.close) - 1; i >= 0; i-- {
		errs = append(errs, s.close[i].Close())
	}
	return errors.Join(errs...)
}

// OpenSource opens a plaintext disk. With Auto, a file that begins like a qcow2
// image is one, and whatever looks like another container is refused.
func OpenSource(path, format string) (*Source, error) {
	// A pipe into which nobody writes must not hold up anybody: it is refused below.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "check the path", "cannot open the input")
	}
	s, err := open(f, path, format)
	if err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

func open(f *os.File, path, format string) (*Source, error) {
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if st.IsDir() {
		return nil, fail.New(fail.Other, "give a raw or qcow2 disk image", "%s is a folder", path)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "give a regular file or a block device", "cannot tell the size of %s", path)
	}
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fail.Wrap(err, fail.Other, "", "cannot read %s", path)
	}
	head = head[:n]
	if format == Auto {
		if format, err = probe(head, path); err != nil {
			return nil, err
		}
	}
	switch format {
	case Raw:
		if size == 0 {
			return nil, fail.New(fail.Other, "give a disk image with something in it", "%s is empty", path)
		}
		return &Source{ReaderAt: f, Path: path, Size: size, Format: Raw, close: []io.Closer{f}}, nil
	case Qcow2:
		return openQcow2(f, head, path)
	default:
		return nil, fail.New(fail.Usage, "--format raw or --format qcow2", "%q is not a format", format)
	}
}

// magics are containers that must not be encrypted as if they were raw disks,
// with what to do instead.
var magics = []struct{ magic, name, hint string }{
	{"LUKS\xba\xbe", "a LUKS container", "it is encrypted already: use it as it is with `uvbond disk push` and `uvbond vm create`"},
	{"KDMV", "a VMDK image", "convert it first: qemu-img convert -O raw IN OUT"},
	{"vhdxfile", "a VHDX image", "convert it first: qemu-img convert -O raw IN OUT"},
	{"conectix", "a VHD image", "convert it first: qemu-img convert -O raw IN OUT"},
	{"QED\x00", "a QED image", "convert it first: qemu-img convert -O raw IN OUT"},
	{"\x1f\x8b", "compressed (gzip)", "unpack it first"},
	{"\xfd7zXZ", "compressed (xz)", "unpack it first"},
	{"\x28\xb5\x2f\xfd", "compressed (zstd)", "unpack it first"},
}

func probe(head []byte, path string) (string, error) {
	has := func(magic string) bool { return len(head) >= len(magic) && string(head[:len(magic)]) == magic }
	if has(qcow2Magic) {
		return Qcow2, nil
	}
	for _, m := range magics {
		if has(m.magic) {
			return "", fail.New(fail.Other, m.hint+"; or --format raw if these bytes are what the VM should see", "%s is %s", path, m.name)
		}
	}
	return Raw, nil
}

const qcow2Magic = "QFI\xfb"

// Fields of the qcow2 header (docs/interop/qcow2.txt of QEMU), and the bit of an
// external data file.
const (
	qcow2Version      = 4
	qcow2Backing      = 8
	qcow2Crypt        = 32
	qcow2Incompatible = 72
	qcow2Header       = 80
	qcow2ExternalData = 1 << 2
)

// openQcow2 looks at the header before the library does, because the library
// would open whatever file the image names as its backing file.
func openQcow2(f *os.File, head []byte, path string) (*Source, error) {
	if len(head) < qcow2Header || string(head[:4]) != qcow2Magic {
		return nil, fail.New(fail.Other, "give --format raw if it is a raw disk", "%s is not a qcow2 image", path)
	}
	if binary.BigEndian.Uint64(head[qcow2Backing:]) != 0 {
		return nil, fail.New(fail.Other, "make one file of both: qemu-img convert -O raw "+path+" disk.raw", "%s has a backing file", path)
	}
	if binary.BigEndian.Uint32(head[qcow2Crypt:]) != 0 {
		return nil, fail.New(fail.Other, "decrypt it first: qemu-img convert with --image-opts and its secret", "%s is encrypted in the qcow2 way", path)
	}
	if v := binary.BigEndian.Uint32(head[qcow2Version:]); v >= 3 && binary.BigEndian.Uint64(head[qcow2Incompatible:])&qcow2ExternalData != 0 {
		return nil, fail.New(fail.Other, "make one file of both: qemu-img convert -O raw "+path+" disk.raw", "%s keeps its data in another file", path)
	}
	img, err := qcow2.Open(f, func(io.ReaderAt, qimage.Type) (qimage.Image, error) {
		return nil, errors.New("backing files are not opened")
	})
	if err == nil {
		err = img.Readable()
	}
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "check it with: qemu-img check "+path, "cannot read the qcow2 image %s", path)
	}
	if img.Size() <= 0 {
		return nil, fail.New(fail.Other, "give a disk image with something in it", "%s is empty", path)
	}
	return &Source{ReaderAt: img, Path: path, Size: img.Size(), Format: Qcow2, close: []io.Closer{f}}, nil
}

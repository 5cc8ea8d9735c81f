package image

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/encrypt"
	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/tenant/fail"
)

// Options say how a disk is encrypted.
type Options struct {
	Passphrase *bond.Secret
	KeySize    int // bytes of the volume key: 64 (AES-256-XTS) or 32 (AES-128-XTS)
	SectorSize int // bytes: 512 or 4096
	Label      string
	Cost       luks.PBKDF
	Force      bool // replace an existing output
}

// Encrypt writes src as a LUKS2 container and returns its header. Every sector is
// written, also those that hold only zeros: what is unused must not be visible. The
// output gets its name when it is complete and on stable storage; until then, and after an
// error or a cancelled context, there is nothing under that name.
func Encrypt(ctx context.Context, src *Source, out string, o Options, progress func(done int64)) (*luks.Header, error) {
	if err := CheckOutput(src, out, o.Force); err != nil {
		return nil, err
	}
	key, err := volumeKey(o.KeySize)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	options := encrypt.Options{Force: o.Force, Format: luks.FormatOptions{
		Passphrase: o.Passphrase.Bytes(), VolumeKey: key.Bytes(),
		SectorSize: uint32(o.SectorSize), Label: o.Label, PBKDF: o.Cost,
	}}
	padded := &padding{src: src, sector: int64(o.SectorSize)}
	err = encrypt.File(ctx, padded, padded.size(), out, options, func(done, _ int64) { progress(done) })
	if ctx.Err() != nil && err != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, failed(err, src.Path, out)
	}
	return Inspect(out)
}

// Inspect reads the header of an encrypted disk.
func Inspect(path string) (*luks.Header, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "check the path", "cannot open the disk")
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return nil, fail.New(fail.Other, "give the file of the encrypted disk", "%s is a folder", path)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "give a file or a block device", "cannot tell the size of %s", path)
	}
	h, err := luks.ReadHeader(f, size)
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "is it an encrypted disk? to make one: uvbond disk encrypt IN OUT", "cannot use %s", path)
	}
	return h, nil
}

// CheckOutput refuses an output that is there already or is the input.
func CheckOutput(src *Source, out string, force bool) error {
	st, err := os.Stat(out)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fail.Wrap(err, fail.Other, "check the path", "cannot make the output")
	}
	if in, err := os.Stat(src.Path); err == nil && os.SameFile(in, st) {
		return fail.New(fail.Usage, "give another name for the output", "%s is the input itself", out)
	}
	if !st.Mode().IsRegular() {
		return fail.New(fail.Usage, "give the name of a file", "%s is not a regular file", out)
	}
	if !force {
		return exists(out)
	}
	return nil
}

func exists(out string) error {
	return fail.New(fail.Usage, "choose another name, or replace it with --force", "%s exists already", out)
}

func failed(err error, in, out string) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EFBIG):
		return fail.Wrap(err, fail.Other, "make room, or write to another file system; nothing was left behind", "no room for %s", out)
	case errors.Is(err, fs.ErrExist):
		return exists(out)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return fail.Wrap(err, fail.Other, "check that the folder exists and that you may write to it", "cannot make the output")
	default:
		return fail.Wrap(err, fail.Other, "nothing was left behind", "cannot encrypt %s", in)
	}
}

// volumeKey returns a random key whose halves differ, as XTS needs.
func volumeKey(size int) (*bond.Secret, error) {
	if size != 32 && size != 64 {
		return nil, fail.New(fail.Usage, "--cipher-key-size 512 or 256", "a volume key of %d bits is not possible", size*8)
	}
	for {
		k := bond.RandomSecret(size)
		if string(k.Bytes()[:size/2]) != string(k.Bytes()[size/2:]) {
			return k, nil
		}
		k.Wipe()
	}
}

// padding rounds a disk up to whole sectors with zeros.
type padding struct {
	src    *Source
	sector int64
}

func (p *padding) size() int64 { return (p.src.Size + p.sector - 1) / p.sector * p.sector }

// ReadAt reads the input, and zeros between its end and the padded size.
func (p *padding) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	if off < p.src.Size {
		want := min(int64(len(b)), p.src.Size-off)
		var err error
		if n, err = p.src.ReadAt(b[:want], off); int64(n) < want {
			return n, short(err)
		}
	}
	rest := min(int64(len(b)-n), p.size()-off-int64(n))
	clear(b[n : n+int(max(rest, 0))])
	n += int(max(rest, 0))
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// short tells a file that became shorter while it was read from an error.
func short(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

package build

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"

	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/disk/xts"
)

// emptyBytes is how much of an image is empty that nothing was ever made in: room for
// the header, which comes last, and a piece of what comes first.
const emptyBytes = luks.DataOffset + minPiece

// Holds tells whether an image still has what st says was written to it. It looks
// at the last sector of that. It is for images that can be made anew behind the
// same name; what storage does to all the rest is not noticed here.
//
// Where writing began and nothing is known to be written, as when a first step was lost, the
// image must have nothing that this step cannot have written: in the place of the
// header zeros or this disk's, in its first sector zeros or what belongs there.
func Holds(p *Plan, st State, base, image io.ReaderAt) (bool, error) {
	if st.Phase != Write {
		return true, nil
	}
	if st.Done == 0 {
		return begun(p, base, image)
	}
	if st.Last == nil {
		return true, nil
	}
	sector := uint64(p.Format.SectorSize)
	end := (st.Done + sector - 1) / sector * sector
	b := make([]byte, sector)
	if err := readAt(image, b, luks.DataOffset+int64(end-sector)); err != nil {
		return false, err
	}
	sum := sha256.Sum256(b)
	return bytes.Equal(sum[:], st.Last), nil
}

func begun(p *Plan, base, image io.ReaderAt) (bool, error) {
	head := make([]byte, 4096)
	if err := readAt(image, head, 0); err != nil {
		return false, err
	}
	if !luks.HasUUID(head, p.Format.UUID) {
		if zero, err := zeros(image, luks.DataOffset); !zero || err != nil {
			return false, err
		}
	}
	have, want := make([]byte, p.Format.SectorSize), make([]byte, p.Format.SectorSize)
	if err := readAt(image, have, luks.DataOffset); err != nil {
		return false, err
	}
	if bytes.Equal(have, want) {
		return true, nil
	}
	if err := readAt(base, want[:min(p.Size, uint64(len(want)))], 0); err != nil {
		return false, &BaseError{"the base image cannot be read at 0: " + err.Error()}
	}
	c, err := xts.New(p.Format.VolumeKey, len(want), uint64(len(want))/512)
	if err != nil {
		return false, err
	}
	defer c.Wipe()
	if err := c.EncryptSectors(want, want, 0); err != nil {
		return false, err
	}
	return bytes.Equal(have, want), nil
}

// readAt fills b. What is beyond the end is zeros.
func readAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if err == nil || errors.Is(err, io.EOF) {
		clear(b[n:])
		return nil
	}
	return err
}

// Empty tells whether an image of size bytes has zeros where every disk, whole or
// half-made, has something: in the first 17 MiB. Other disks, file systems and
// partition tables begin there as well.
func Empty(image io.ReaderAt, size int64) (bool, error) {
	return zeros(image, min(size, emptyBytes))
}

// zeros tells whether the first n bytes are zeros.
func zeros(image io.ReaderAt, n int64) (bool, error) {
	b, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < n; off += int64(len(b)) {
		b = b[:min(int64(len(b)), n-off)]
		if err := readAt(image, b, off); err != nil {
			return false, err
		}
		if !bytes.Equal(b, zero[:len(b)]) {
			return false, nil
		}
	}
	return true, nil
}

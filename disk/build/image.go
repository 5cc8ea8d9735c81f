package build

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"

	"github.com/uvbond/uvbond/disk/luks"
)

// emptyBytes is how much of an image is empty that nothing was ever made in: room for
// the header, which comes last, and a piece of what comes first.
const emptyBytes = luks.DataOffset + minPiece

// Holds tells whether an image still has what st says was written to it. It looks
// at the last sector of that. It is for images that can be made anew behind the
// same name; what storage does to all the rest is not noticed here.
func Holds(p *Plan, st State, image io.ReaderAt) (bool, error) {
	if st.Phase != Write || st.Done == 0 || st.Last == nil {
		return true, nil
	}
	sector := uint64(p.Format.SectorSize)
	end := (st.Done + sector - 1) / sector * sector
	b := make([]byte, sector)
	if _, err := image.ReadAt(b, luks.DataOffset+int64(end-sector)); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	sum := sha256.Sum256(b)
	return bytes.Equal(sum[:], st.Last), nil
}

// Empty tells whether an image of size bytes has zeros where every disk, whole or
// half-made, has something: in the first 17 MiB. Other disks, file systems and
// partition tables begin there as well.
func Empty(image io.ReaderAt, size int64) (bool, error) {
	b := make([]byte, 1<<20)
	zeros := make([]byte, len(b))
	for off := int64(0); off < min(size, emptyBytes); {
		n := int(min(int64(len(b)), min(size, emptyBytes)-off))
		if _, err := image.ReadAt(b[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false, nil
		}
		off += int64(n)
	}
	return true, nil
}

package luks

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"regexp"
	"unicode"
	"unicode/utf8"

	"github.com/uvbond/uvbond/disk/aligned"
)

// Sizes and places in a binary header.
const (
	binarySize    = 4096
	minHeaderSize = 16 << 10 // of one copy, binary header and JSON area
	maxHeaderSize = 4 << 20
	offMagic      = 0
	offVersion    = 6
	offSize       = 8
	offSeqID      = 16
	offLabel      = 24
	offAlgorithm  = 72
	offSalt       = 104
	offUUID       = 168
	offSubsystem  = 208
	offPlace      = 256
	offPadding    = 264
	offChecksum   = 448
	endChecksum   = 512
)

const (
	magicFirst  = "LUKS\xba\xbe"
	magicSecond = "SKUL\xba\xbe"
	repairHint  = "if the disk is yours and was not tampered with, run cryptsetup repair on it"
)

// ReadHeader reads and judges the header of a disk of size bytes. r is read
// once for it, at most 8 MiB; Unlock reads keyslots from r later, so r must
// stay usable for that. Errors are *RefusedError, or those of r.
func ReadHeader(r io.ReaderAt, size int64) (*Header, error) {
	if size < 2*minHeaderSize {
		return nil, refusal("size", "%d bytes are too few for a LUKS2 header", size)
	}
	// On pages and in pages, as a file that is open for direct I/O wants it.
	start := aligned.Make(binarySize)
	if err := readFull(r, start, 0); err != nil {
		return nil, err
	}
	n, err := headerSize(start)
	if err != nil {
		return nil, err
	}
	if size < 2*int64(n) {
		return nil, refusal("hdr_size", "two copies of %d bytes do not fit into %d bytes", n, size)
	}
	// From here on only this copy counts: storage may answer differently each time.
	buf := aligned.Make(2 * n)
	if err := readFull(r, buf, 0); err != nil {
		return nil, err
	}
	return parse(buf[:n], buf[n:], uint64(size), r)
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("luks: reading %d bytes at %d: %w", len(p), off, err)
}

func refusal(field, format string, args ...any) *RefusedError {
	return &RefusedError{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// headerSize looks at a first binary header as far as needed to read the rest.
func headerSize(b []byte) (int, error) {
	if string(b[offMagic:offVersion]) != magicFirst {
		return 0, &RefusedError{"magic", "this is not a LUKS disk", "make one with uvbond disk encrypt or cryptsetup luksFormat --type luks2"}
	}
	switch v := binary.BigEndian.Uint16(b[offVersion:]); v {
	case 2:
	case 1:
		return 0, &RefusedError{"version", "this is LUKS1", "convert a copy with cryptsetup convert --type luks2"}
	default:
		return 0, refusal("version", "%d is not known", v)
	}
	n := binary.BigEndian.Uint64(b[offSize:])
	if n < minHeaderSize || n > maxHeaderSize || bits.OnesCount64(n) != 1 {
		return 0, refusal("hdr_size", "%d is not a power of two within %d and %d", n, minHeaderSize, maxHeaderSize)
	}
	return int(n), nil
}

// parse judges the two copies of a header. size is that of the disk.
func parse(first, second []byte, size uint64, src io.ReaderAt) (*Header, error) {
	if n, err := headerSize(first); err != nil {
		return nil, err
	} else if n != len(first) {
		return nil, refusal("hdr_size", "it changed while it was read")
	}
	if err := checkCopy(first, 0, "first copy"); err != nil {
		return nil, err
	}
	if string(second[offMagic:offVersion]) != magicSecond {
		return nil, &RefusedError{"second copy", "it is missing", repairHint}
	}
	if err := checkCopy(second, uint64(len(first)), "second copy"); err != nil {
		return nil, err
	}
	if err := compareCopies(first, second); err != nil {
		return nil, err
	}
	h := &Header{SeqID: binary.BigEndian.Uint64(first[offSeqID:]), src: src}
	var err error
	if h.Label, err = fieldText(first[offLabel:offAlgorithm], "label"); err != nil {
		return nil, err
	}
	if h.UUID, err = fieldText(first[offUUID:offSubsystem], "uuid"); err != nil {
		return nil, err
	}
	if !uuidText.MatchString(h.UUID) {
		return nil, refusal("uuid", "%s is not a UUID in lower case", clip(h.UUID))
	}
	area := first[binarySize:]
	end := bytes.IndexByte(area, 0)
	if end < 0 {
		return nil, refusal("json", "the text does not end within its area")
	}
	if len(bytes.Trim(area[end:], "\x00")) != 0 {
		return nil, refusal("json", "there is something after the text")
	}
	h.Metadata = area[:end:end]
	if err := h.parseMetadata(uint64(len(first)), size); err != nil {
		return nil, err
	}
	return h, nil
}

var uuidText = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// checkCopy looks at what one copy says of itself.
func checkCopy(b []byte, place uint64, which string) error {
	if got := binary.BigEndian.Uint64(b[offPlace:]); got != place {
		return refusal(which, "it says that it lies at %d, it lies at %d", got, place)
	}
	if alg, err := fieldText(b[offAlgorithm:offSalt], which); err != nil || alg != "sha256" {
		return refusal(which, "its checksum algorithm is not sha256")
	}
	sum := checksum(b)
	if !bytes.Equal(sum[:], b[offChecksum:offChecksum+len(sum)]) {
		return &RefusedError{which, "its checksum is wrong", repairHint}
	}
	return nil
}

// checksum is over a whole copy with zeros in place of the checksum.
func checksum(b []byte) (sum [sha256.Size]byte) {
	var zeros [endChecksum - offChecksum]byte
	h := sha256.New()
	h.Write(b[:offChecksum])
	h.Write(zeros[:])
	h.Write(b[endChecksum:])
	h.Sum(sum[:0])
	return sum
}

// compareCopies demands that the copies differ only in magic, salt, place and
// checksum. Copies that say different things are an interrupted update or an
// attempt to have two programs see two headers.
func compareCopies(a, b []byte) error {
	for _, f := range []struct {
		name     string
		from, to int
	}{
		{"version", offVersion, offSize},
		{"hdr_size", offSize, offSeqID},
		{"seqid", offSeqID, offLabel},
		{"label", offLabel, offAlgorithm},
		{"uuid", offUUID, offSubsystem},
		{"subsystem", offSubsystem, offPlace},
		{"padding", offPadding, offChecksum},
		{"padding", endChecksum, binarySize},
		{"json", binarySize, len(a)},
	} {
		if !bytes.Equal(a[f.from:f.to], b[f.from:f.to]) {
			return &RefusedError{f.name, "the two copies of the header differ", repairHint}
		}
	}
	return nil
}

// fieldText is the text of a fixed field, which zeros fill up.
func fieldText(b []byte, name string) (string, error) {
	s := bytes.TrimRight(b, "\x00")
	if len(s) == len(b) || !utf8.Valid(s) || bytes.ContainsFunc(s, unicode.IsControl) {
		return "", refusal(name, "not a line of UTF-8 that zeros fill up")
	}
	return string(s), nil
}

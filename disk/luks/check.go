package luks

import (
	"bytes"
	"encoding/hex"
	"fmt"
)

// Expectation is what the owner registered about a disk.
type Expectation struct {
	UUID       string
	Cipher     string
	KeyBytes   int
	SectorSize uint32 // bytes
	DataOffset uint64 // bytes
	Length     uint64 // bytes
	IVTweak    uint64
	Digest     Digest
}

// MismatchError says in which parameter a header is not as registered.
type MismatchError struct {
	Field      string // "uuid", "cipher", "key-size", "sector-size", "data-offset", "length", "iv-tweak", "digest"
	Have, Want string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("luks: %s is %s, registered is %s", e.Field, e.Have, e.Want)
}

// Check compares h with what was registered; everything must be equal. A disk
// whose header leaves the length open may be longer: what is behind the registered
// length is not used, until its owner says that the disk has grown. It returns a
// *MismatchError for the first difference.
func Check(h *Header, want Expectation) error {
	s := &h.Segment
	length := s.Length
	if s.Dynamic && length > want.Length {
		length = want.Length
	}
	for _, f := range []struct {
		name       string
		have, want any
	}{
		{"uuid", h.UUID, want.UUID},
		{"cipher", s.Cipher, want.Cipher},
		{"key-size", s.KeyBytes, want.KeyBytes},
		{"sector-size", s.SectorSize, want.SectorSize},
		{"data-offset", s.Offset, want.DataOffset},
		{"length", length, want.Length},
		{"iv-tweak", s.IVTweak, want.IVTweak},
	} {
		if f.have != f.want {
			return &MismatchError{f.name, fmt.Sprint(f.have), fmt.Sprint(f.want)}
		}
	}
	if !h.Digest.equal(&want.Digest) {
		return &MismatchError{"digest", h.Digest.String(), want.Digest.String()}
	}
	return nil
}

func (d *Digest) equal(o *Digest) bool {
	return d.Hash == o.Hash && d.Iterations == o.Iterations && bytes.Equal(d.Salt, o.Salt) && bytes.Equal(d.Value, o.Value)
}

// String shows enough to tell two digests apart. A digest is public: it is in
// the header on the disk.
func (d *Digest) String() string {
	return fmt.Sprintf("%s/%d/%s/%s", d.Hash, d.Iterations, short(d.Salt), short(d.Value))
}

func short(b []byte) string {
	if len(b) <= 8 {
		return hex.EncodeToString(b)
	}
	return hex.EncodeToString(b[:8]) + "..."
}

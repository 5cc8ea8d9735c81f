package luks

import (
	"errors"
	"fmt"
	"io"
)

// Header is what a LUKS2 header says, checked. It holds no secret.
type Header struct {
	UUID, Label string
	Segment     Segment
	Digest      Digest    // of the volume key of Segment
	Keyslots    []Keyslot // that hold the volume key of Segment, by ID
	Metadata    []byte    // the JSON text, without padding
	SeqID       uint64    // grows with every change of the header

	src io.ReaderAt // keyslot areas are read from here by Unlock
}

// Segment is where the enciphered data is, and how it is enciphered.
type Segment struct {
	Offset     uint64 // bytes from the start of the disk
	Length     uint64 // bytes; "dynamic" is resolved against the size of the disk
	Dynamic    bool   // the header does not say the length
	IVTweak    uint64 // tweak of the first sector, in units of 512 bytes
	Cipher     string // "aes-xts-plain64"
	SectorSize uint32 // bytes
	KeyBytes   int    // 32 or 64
}

// Digest is PBKDF2 of the volume key: it tells the right key from a wrong one.
type Digest struct {
	Hash       string // "sha256"
	Iterations uint32
	Salt       []byte
	Value      []byte // as long as Hash's output
}

// Keyslot is a copy of the volume key under a passphrase.
type Keyslot struct {
	ID         int
	Priority   int // 0 use only when asked for by number, 1 normal, 2 first
	KeyBytes   int // of the key in the slot
	AreaOffset uint64
	AreaSize   uint64
	AreaKey    int    // bytes of the key that enciphers the area: 32 or 64
	AFHash     string // of the anti-forensic splitter
	KDF        KDF
}

// KDF says how a passphrase becomes the key of a keyslot.
type KDF struct {
	Type       string // "argon2id", "argon2i" or "pbkdf2"
	Time       uint32 // argon2: passes
	MemoryKiB  uint32 // argon2
	Lanes      uint8  // argon2
	Hash       string // pbkdf2
	Iterations uint32 // pbkdf2
	Salt       []byte
}

// ErrPassphrase says that no keyslot opened.
var ErrPassphrase = errors.New("luks: no keyslot opens with this passphrase")

// RefusedError says why a disk is not used. It is what ReadHeader returns for
// everything but errors of reading.
type RefusedError struct {
	Field  string // where: "segments.0.encryption"
	Reason string
	Hint   string // what to do about it; may be empty
}

func (e *RefusedError) Error() string {
	s := fmt.Sprintf("luks: header refused: %s: %s", e.Field, e.Reason)
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

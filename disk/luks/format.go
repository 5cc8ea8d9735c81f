package luks

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/uvbond/uvbond/disk/xts"
)

// What Format writes lies where cryptsetup puts it by default.
const (
	newHeaderSize    = minHeaderSize // of one copy
	newKeyslotsSize  = DataOffset - 2*newHeaderSize
	newAreaSize      = 258048 // cryptsetup's for a key of 64 bytes: 256000 rounded up to 4 KiB
	digestIterations = 100_000
)

// DataOffset is where Format puts the data, in bytes.
const DataOffset = 16 << 20

// FormatOptions says what Format writes. Only DataSize, and Passphrase or Derived,
// must be given.
type FormatOptions struct {
	Passphrase []byte   // 1 to 8 MiB; cryptsetup's prompt takes up to 512 bytes, its key files up to 8 MiB
	Derived    *Derived // what Derive made of the passphrase, in its place; PBKDF is not used then
	VolumeKey  []byte   // 32 or 64 bytes, kept by the caller; nil: 64 random ones, which Unlock returns
	Digest     *Digest  // of VolumeKey, as NewDigest made it; nil: a new one
	SectorSize uint32   // 512, 1024, 2048 or 4096 bytes; 0: 4096, or 512 where DataSize is no multiple of 4096
	UUID       string   // canonical text in lower case; empty: random
	Label      string   // at most 47 bytes
	DataSize   uint64   // bytes, a multiple of the sector size
	PBKDF      PBKDF
}

// Format writes a new header to the start of w, with one keyslot, and returns
// it as ReadHeader would. What w had in the rest of its first DataOffset bytes
// stays there, so w should be new or blank. Nothing is synced.
func Format(w io.WriterAt, opts FormatOptions) (*Header, error) {
	image, err := build(opts)
	if err != nil {
		return nil, err
	}
	// What cannot be read back must not be written.
	h, err := parse(image[:newHeaderSize:newHeaderSize], image[newHeaderSize:2*newHeaderSize], DataOffset+opts.DataSize, bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	if _, err := w.WriteAt(image, 0); err != nil {
		return nil, fmt.Errorf("luks: writing the header: %w", err)
	}
	return h, nil
}

// build returns the first bytes of a disk: both copies and the first keyslot.
func build(opts FormatOptions) ([]byte, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	key := opts.VolumeKey
	if key == nil {
		key = make([]byte, 64)
		defer clear(key)
		rand.Read(key)
	}
	// xts.New knows which keys are no good for data.
	c, err := xts.New(key, int(opts.SectorSize), 1)
	if err != nil {
		return nil, err
	}
	c.Wipe()
	image := make([]byte, 2*newHeaderSize+newAreaSize)
	slot, err := fillArea(image[2*newHeaderSize:], key, opts)
	if err != nil {
		return nil, err
	}
	digest := opts.Digest
	if digest == nil {
		if digest, err = NewDigest(key); err != nil {
			return nil, err
		}
	}
	text, err := metadata(opts, slot, *digest)
	if err != nil {
		return nil, err
	}
	writeCopy(image[:newHeaderSize], magicFirst, 0, opts, text)
	writeCopy(image[newHeaderSize:2*newHeaderSize], magicSecond, newHeaderSize, opts, text)
	return image, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails: the program ends instead
	return b
}

// complete checks opts and fills in what was left out.
func (o *FormatOptions) complete() error {
	if err := o.completeSecret(); err != nil {
		return err
	}
	if o.SectorSize == 0 {
		if o.SectorSize = 4096; o.DataSize%4096 != 0 {
			o.SectorSize = 512
		}
	}
	switch o.SectorSize {
	case 512, 1024, 2048, 4096:
	default:
		return fmt.Errorf("luks: sector size %d is not 512, 1024, 2048 or 4096", o.SectorSize)
	}
	if o.DataSize == 0 || o.DataSize%uint64(o.SectorSize) != 0 || o.DataSize > math.MaxInt64-DataOffset {
		return fmt.Errorf("luks: data size %d is not a multiple of the sector size %d above 0 and below 2^63", o.DataSize, o.SectorSize)
	}
	if len(o.Label) > offAlgorithm-offLabel-1 || !utf8.ValidString(o.Label) || bytes.ContainsFunc([]byte(o.Label), unicode.IsControl) {
		return errors.New("luks: the label must be a line of at most 47 bytes of UTF-8")
	}
	if o.UUID == "" {
		o.UUID = NewUUID()
	} else if !uuidText.MatchString(o.UUID) {
		return fmt.Errorf("luks: %s is not a UUID in lower case", clip(o.UUID))
	}
	return nil
}

// completeSecret is complete for what opens the keyslot.
func (o *FormatOptions) completeSecret() error {
	if o.PBKDF == (PBKDF{}) {
		o.PBKDF = DefaultPBKDF()
	}
	switch {
	case o.Derived == nil:
		return checkPassphrase(o.Passphrase)
	case o.Passphrase != nil:
		return errors.New("luks: both a passphrase and what was derived from one are given")
	case len(o.Derived.Key) != areaKeySize:
		return fmt.Errorf("luks: a derived key of %d bytes, need %d", len(o.Derived.Key), areaKeySize)
	}
	return nil
}

// NewUUID is a random UUID (RFC 9562, version 4).
func NewUUID() string {
	b := random(16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// fillArea splits and enciphers the volume key into a keyslot's area and
// returns the keyslot's JSON.
func fillArea(area, key []byte, opts FormatOptions) (map[string]any, error) {
	d := opts.Derived
	if d == nil {
		var err error
		if d, err = Derive(opts.Passphrase, opts.PBKDF); err != nil {
			return nil, err
		}
		defer clear(d.Key)
	}
	text := d.KDF.text()
	if err := judgeKDF(text); err != nil {
		return nil, err
	}
	c, err := xts.New(d.Key, areaSector, 1)
	if err != nil {
		return nil, err
	}
	defer c.Wipe()
	afSplit(area, key, hashes["sha256"]())
	split := area[:splitSize(len(key))]
	if err := c.EncryptSectors(split, split, 0); err != nil {
		return nil, err
	}
	return map[string]any{
		"type": "luks2", "key_size": len(key), "kdf": text,
		"af": map[string]any{"type": "luks1", "stripes": stripes, "hash": "sha256"},
		"area": map[string]any{"type": "raw", "offset": strconv.Itoa(2 * newHeaderSize), "size": strconv.Itoa(newAreaSize),
			"encryption": cipherName, "key_size": len(d.Key)},
	}, nil
}

func metadata(opts FormatOptions, slot map[string]any, d Digest) ([]byte, error) {
	text, err := json.Marshal(map[string]any{
		"keyslots": map[string]any{"0": slot},
		"tokens":   map[string]any{},
		"segments": map[string]any{"0": map[string]any{
			"type": "crypt", "offset": strconv.Itoa(DataOffset), "size": "dynamic", "iv_tweak": "0",
			"encryption": cipherName, "sector_size": opts.SectorSize,
		}},
		"digests": map[string]any{"0": map[string]any{
			"type": "pbkdf2", "keyslots": []string{"0"}, "segments": []string{"0"}, "hash": d.Hash, "iterations": d.Iterations,
			"salt": base64.StdEncoding.EncodeToString(d.Salt), "digest": base64.StdEncoding.EncodeToString(d.Value),
		}},
		"config": map[string]any{"json_size": strconv.Itoa(newHeaderSize - binarySize), "keyslots_size": strconv.Itoa(newKeyslotsSize)},
	})
	if err != nil {
		return nil, err
	}
	if len(text) >= newHeaderSize-binarySize {
		return nil, errors.New("luks: the header does not fit")
	}
	return text, nil
}

// HasUUID tells whether head, the first bytes of a disk, begins a LUKS2 header with
// that UUID. It says nothing of the rest of the header.
func HasUUID(head []byte, uuid string) bool {
	if len(head) < offSubsystem || string(head[offMagic:offVersion]) != magicFirst {
		return false
	}
	have, err := fieldText(head[offUUID:offSubsystem], "uuid")
	return err == nil && have == uuid
}

// writeCopy fills b, which is blank, with one copy of the header.
func writeCopy(b []byte, magic string, place uint64, opts FormatOptions, text []byte) {
	copy(b[offMagic:], magic)
	binary.BigEndian.PutUint16(b[offVersion:], 2)
	binary.BigEndian.PutUint64(b[offSize:], uint64(len(b)))
	binary.BigEndian.PutUint64(b[offSeqID:], 1)
	copy(b[offLabel:offAlgorithm], opts.Label)
	copy(b[offAlgorithm:], "sha256")
	rand.Read(b[offSalt:offUUID])
	copy(b[offUUID:], opts.UUID)
	binary.BigEndian.PutUint64(b[offPlace:], place)
	copy(b[binarySize:], text)
	sum := checksum(b)
	copy(b[offChecksum:], sum[:])
}

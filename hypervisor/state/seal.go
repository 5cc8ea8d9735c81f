package state

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/uvbond/uvbond/bond"
)

// sealer seals values under a key derived from the state key. The name of
// bucket and key are associated data: a value moved elsewhere does not open.
type sealer struct{ aead cipher.AEAD }

// sealLabel separates this use of the state key. On-disk format, do not change.
const sealLabel = "uvbond v1 state database"

// sealVersion is in every record's associated data. On-disk format: a number
// that is not FormatVersion, which can grow without sealing everything anew.
const sealVersion uint32 = 1

func newSealer(key *bond.Secret) (*sealer, error) {
	if key.Len() != KeySize {
		return nil, fmt.Errorf("%w: it is %d bytes long, not %d", ErrKey, key.Len(), KeySize)
	}
	k, err := hkdf.Key(sha256.New, key.Bytes(), nil, sealLabel, KeySize)
	if err != nil {
		return nil, fmt.Errorf("state: derive key: %w", err)
	}
	defer bond.Wipe(k)
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return &sealer{aead}, nil
}

func associated(bucket, key []byte) []byte {
	ad := binary.BigEndian.AppendUint32(nil, sealVersion)
	ad = binary.BigEndian.AppendUint16(ad, uint16(len(bucket)))
	ad = append(ad, bucket...)
	return append(ad, key...)
}

func (s *sealer) seal(bucket, key, plain []byte) []byte {
	return s.aead.Seal(nil, nil, plain, associated(bucket, key))
}

// open returns fresh memory; the caller wipes it when it held secrets.
func (s *sealer) open(bucket, key, sealed []byte) ([]byte, error) {
	plain, err := s.aead.Open(nil, nil, sealed, associated(bucket, key))
	if err != nil {
		return nil, fmt.Errorf("%w: record %x in %s does not open", ErrCorrupt, key, bucket)
	}
	return plain, nil
}

var (
	encMode = mode(cbor.CoreDetEncOptions().UserBufferEncMode())
	decMode = mode(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		UTF8:              cbor.UTF8RejectInvalid,
	}.DecMode())
)

func mode[M any](m M, err error) M {
	if err != nil {
		panic(err) // constants above contradict each other
	}
	return m
}

// encode writes into a buffer of its own, never one from the library's pool, and one that
// need not grow for what has secrets in it: either would leave a copy that nobody wipes.
func encode(v any) ([]byte, error) {
	size := 512
	if w, ok := v.(*bondWire); ok {
		size = w.encodedSize()
	}
	buf := bytes.NewBuffer(make([]byte, 0, size))
	if err := encMode.MarshalToBuffer(v, buf); err != nil {
		return nil, fmt.Errorf("state: encode %T: %w", v, err)
	}
	return buf.Bytes(), nil
}

func decode(b []byte, v any) error {
	if err := decMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %T does not decode: %w", ErrCorrupt, v, err)
	}
	return nil
}

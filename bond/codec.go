package bond

import (
	"bytes"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Limits of the decoder. The deepest message is a registration: registration,
// spec, disks, disk, digest.
const (
	maxDepth    = 8
	maxElements = 8192
	maxPairs    = 64
)

var (
	encMode = mustMode(encOptions.UserBufferEncMode())
	decMode = mustMode(decOptions.DecMode())
)

// encOptions is the core deterministic encoding of RFC 8949 section 4.2.1, with
// nil lists as empty ones so that a value has one encoding.
var encOptions = func() cbor.EncOptions {
	o := cbor.CoreDetEncOptions()
	o.NilContainers = cbor.NilContainerAsEmpty
	o.IndefLength = cbor.IndefLengthForbidden
	o.TagsMd = cbor.TagsForbidden
	return o
}()

var decOptions = cbor.DecOptions{
	DupMapKey:         cbor.DupMapKeyEnforcedAPF,
	MaxNestedLevels:   maxDepth,
	MaxArrayElements:  maxElements,
	MaxMapPairs:       maxPairs,
	IndefLength:       cbor.IndefLengthForbidden,
	TagsMd:            cbor.TagsForbidden,
	ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	UTF8:              cbor.UTF8RejectInvalid,
	FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
	BignumTag:         cbor.BignumTagForbidden,
	NaN:               cbor.NaNDecodeForbidden,
	Inf:               cbor.InfDecodeForbidden,
}

func mustMode[M any](m M, err error) M {
	if err != nil {
		panic("bond: cbor options: " + err.Error())
	}
	return m
}

// encode writes into a buffer of its own, never one from the library's pool:
// the value may hold secrets, and the caller wipes what it gets. size is a hint that
// keeps the buffer from growing, which would leave copies behind.
func encode(v any, size int) ([]byte, error) {
	buf := bytes.NewBuffer(make([]byte, 0, size))
	if err := encMode.MarshalToBuffer(v, buf); err != nil {
		return nil, fmt.Errorf("bond: encoding: %w", err)
	}
	return buf.Bytes(), nil
}

// mustEncode is for the package's own structs, which always encode.
func mustEncode(v any) []byte {
	b, err := encode(v, 512)
	if err != nil {
		panic(err)
	}
	return b
}

// decodeStrict decodes data into v and accepts it only when v encodes to the same
// bytes. This refuses missing fields, null for a value, byte strings of a wrong length,
// unsorted keys and long forms of numbers, which a decoder alone lets pass.
func decodeStrict(data []byte, v any) error {
	if err := decMode.Unmarshal(data, v); err != nil {
		// The library's text can quote the input, which may be secret.
		return ErrMalformed
	}
	again, err := encode(v, len(data)+64)
	if err != nil {
		return ErrMalformed
	}
	defer Wipe(again)
	if !bytes.Equal(data, again) {
		return ErrMalformed
	}
	return nil
}

func tooLarge(what Purpose, have, limit int) error {
	return fmt.Errorf("%w: %s message of %d bytes, limit %d", ErrTooLarge, what, have, limit)
}

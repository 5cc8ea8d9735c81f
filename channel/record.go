package channel

import (
	"encoding/binary"
	"sync"
)

// kind of a record.
type kind byte

const (
	kindData  kind = 1 // payload: bytes of the stream, at least one
	kindPing  kind = 2 // no payload
	kindEnd   kind = 3 // no payload: no more data from this side
	kindClose kind = 4 // payload: the reason, maxReason bytes of printable ASCII
)

// Sizes in bytes: protocol, do not change.
const (
	counterSize = 8
	plainHeader = 3
	tagSize     = 16
	headerSize  = counterSize + plainHeader + tagSize
	maxBody     = 65535 // sealed: the longest message of Noise
	maxData     = maxBody - tagSize
	maxReason   = 256
)

// Sizes of buffers in bytes. A channel that rests holds smallBuffer bytes and no more.
const (
	smallBuffer = 256
	bigBuffer   = headerSize + maxBody + headerSize // a record, and the next one's header
)

var buffers = sync.Pool{New: func() any { b := make([]byte, bigBuffer); return &b }}

// seal makes the next record in buf, whose payload of n bytes stands already at
// buf[headerSize:], and returns the record. buf has room for it.
func (d *direction) seal(buf []byte, k kind, n int) ([]byte, error) {
	a, err := d.begin()
	if err != nil {
		return nil, err
	}
	size := 0
	if n > 0 {
		size = n + tagSize
		a.Seal(buf[headerSize:headerSize], d.at(1), buf[headerSize:headerSize+n], nil)
	}
	binary.BigEndian.PutUint64(buf, d.next)
	header := buf[counterSize : counterSize+plainHeader]
	header[0] = byte(k)
	binary.BigEndian.PutUint16(header[1:], uint16(size))
	a.Seal(header[:0], d.at(0), header, nil)
	d.next++
	return buf[:headerSize+size], nil
}

// openHeader opens the header of the next record. other is the direction that this
// side sends in. The error is an *Error.
func (d *direction) openHeader(raw []byte, other *direction) (k kind, size int, err error) {
	a, err := d.begin()
	if err != nil {
		return 0, 0, &Error{Why: Malformed, Err: err}
	}
	claimed := binary.BigEndian.Uint64(raw)
	sealed := raw[counterSize:headerSize]
	if claimed != d.next {
		return 0, 0, d.wrong(claimed, sealed, other)
	}
	// Not in place: where it fails, wrong looks at it once more.
	header, err := a.Open(d.plain[:0], d.at(0), sealed, nil)
	if err != nil {
		return 0, 0, d.wrong(claimed, sealed, other)
	}
	k, size = kind(header[0]), int(binary.BigEndian.Uint16(header[1:]))
	return k, size, checkHeader(k, size)
}

// wrong says what is wrong with a header that is not the next one.
func (d *direction) wrong(claimed uint64, sealed []byte, other *direction) *Error {
	switch {
	case claimed > d.next && d.opensAs(claimed, sealed):
		return &Error{Why: Reordered}
	case claimed < d.next && d.opensAs(claimed, sealed):
		return &Error{Why: Replayed}
	case other.opensAs(claimed, sealed):
		return &Error{Why: Reflected}
	}
	return &Error{Why: Tampered}
}

// checkHeader refuses what no honest end sends, before anything is allocated for it.
func checkHeader(k kind, size int) error {
	ok := false
	switch k {
	case kindData:
		ok = size > tagSize
	case kindPing, kindEnd:
		ok = size == 0
	case kindClose:
		ok = size > tagSize && size <= maxReason+tagSize
	}
	if !ok {
		return &Error{Why: Malformed, Reason: "a record of an unknown kind or of a wrong length"}
	}
	return nil
}

// openBody opens the body of the record whose header was just opened, in place.
func (d *direction) openBody(sealed []byte) ([]byte, error) {
	body := sealed
	if len(sealed) > 0 {
		var err error
		if body, err = d.now.Load().aead.Open(sealed[:0], d.at(1), sealed, nil); err != nil {
			return nil, &Error{Why: Tampered}
		}
	}
	d.next++
	return body, nil
}

// cleanReason bounds a reason and keeps printable ASCII of it, so that it can be shown.
func cleanReason(reason string) string {
	b := make([]byte, 0, min(len(reason), maxReason))
	for i := 0; i < len(reason) && len(b) < maxReason; i++ {
		c := reason[i]
		if c < ' ' || c > '~' {
			c = '?'
		}
		b = append(b, c)
	}
	return string(b)
}

package channel

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"sync/atomic"

	"github.com/uvbond/uvbond/bond"
)

// rekeyEvery is how many records one key serves: protocol, do not change.
const rekeyEvery = 1 << 20

// lastCounter is the highest counter: its body has the highest nonce that Noise leaves
// for messages. Nobody gets there: at a million records a second it takes 290,000 years.
const lastCounter = 1<<63 - 2

var errCounter = errors.New("channel: all record counters are used up; open a new channel")

// epoch has the ciphers for one run of rekeyEvery records.
type epoch struct {
	number uint64
	aead   cipher.AEAD
	prev   cipher.AEAD // of the epoch before, to tell a replay; nil in the first
}

// direction seals or opens the records of one direction. next and nonce belong to whoever
// reads, or to whoever holds the right to write; the epoch may be looked at by others.
type direction struct {
	every uint64 // rekeyEvery, or less in tests
	now   atomic.Pointer[epoch]
	next  uint64 // counter of the next record
	nonce [12]byte
	plain [plainHeader + tagSize]byte // of the header that is being opened
}

// newDirection takes a key that Noise made, and wipes it.
func newDirection(key *[32]byte) *direction {
	defer bond.Wipe(key[:])
	d := &direction{every: rekeyEvery}
	d.now.Store(&epoch{aead: newAEAD(key[:])})
	return d
}

// newAEAD is Noise's AESGCM: AES-256-GCM.
func newAEAD(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return a
}

// after returns the epoch that follows: Noise REKEY of its key.
func (e *epoch) after() *epoch {
	nonce := noiseNonce(1<<64 - 1)
	key := e.aead.Seal(nil, nonce[:], make([]byte, 32), nil)
	defer bond.Wipe(key)
	return &epoch{number: e.number + 1, aead: newAEAD(key[:32]), prev: e.aead}
}

// noiseNonce is how Noise makes an AES-GCM nonce of a number.
func noiseNonce(n uint64) (nonce [12]byte) {
	binary.BigEndian.PutUint64(nonce[4:], n)
	return nonce
}

// begin makes the direction ready for its next record.
func (d *direction) begin() (cipher.AEAD, error) {
	if d.next > lastCounter {
		return nil, errCounter
	}
	e := d.now.Load()
	if d.next/d.every != e.number {
		e = e.after()
		d.now.Store(e)
	}
	return e.aead, nil
}

// at sets the nonce for the header (part 0) or body (part 1) of the next record.
func (d *direction) at(part uint64) []byte {
	binary.BigEndian.PutUint64(d.nonce[4:], 2*d.next+part)
	return d.nonce[:]
}

// opensAs tells whether a header is authentic under another counter than the next.
func (d *direction) opensAs(counter uint64, sealed []byte) bool {
	if counter > lastCounter {
		return false
	}
	e := d.now.Load()
	var a cipher.AEAD
	switch n := counter / d.every; {
	case n == e.number:
		a = e.aead
	case n+1 == e.number:
		a = e.prev
	case n == e.number+1:
		a = e.after().aead
	}
	if a == nil {
		return false
	}
	nonce := noiseNonce(2 * counter)
	_, err := a.Open(nil, nonce[:], sealed, nil)
	return err == nil
}

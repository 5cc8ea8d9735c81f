package rfb

import (
	"crypto/des"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"math/bits"
	"sync"
)

// passwordLength is all that VNC Authentication looks at (RFC 6143, 7.2.2).
const passwordLength = 8

// passwordLetters are told apart by eye; 56 of them in 8 places are 46 bits, which is
// much for something that may be tried MaxTries times.
const passwordLetters = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"

// MaxTries is how many wrong answers a password survives.
const MaxTries = 5

// Errors of a password that is right or wrong no more.
var (
	ErrWrongPassword = errors.New("the password is wrong")
	ErrPasswordSpent = errors.New("the password is used up")
	ErrTooManyTries  = errors.New("too many wrong passwords")
)

// Password is a one-time password: one viewer gets in with it. Safe for concurrent use.
type Password struct {
	text string

	mu    sync.Mutex
	tries int
	spent bool
}

// NewPassword makes one at random.
func NewPassword() *Password {
	text := make([]byte, 0, passwordLength)
	for len(text) < passwordLength {
		var b [1]byte
		_, _ = rand.Read(b[:]) // it never fails
		if i := int(b[0] & 63); i < len(passwordLetters) {
			text = append(text, passwordLetters[i])
		}
	}
	return &Password{text: string(text)}
}

// Reveal returns the password, for its owner's eyes.
func (p *Password) Reveal() string { return p.text }

// Spent tells whether somebody got in with it or there were too many tries.
func (p *Password) Spent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spent || p.tries >= MaxTries
}

// answer checks a viewer's answer to a challenge and uses the password up.
func (p *Password) answer(challenge, response [16]byte) error {
	want := encipher(p.text, challenge)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.tries >= MaxTries:
		return ErrTooManyTries
	case p.spent:
		return ErrPasswordSpent
	case subtle.ConstantTimeCompare(want[:], response[:]) != 1:
		p.tries++
		return ErrWrongPassword
	}
	p.spent = true
	return nil
}

// encipher is DES in ECB mode over two blocks, with the password as the key, the bits of
// each of its bytes mirrored as all VNC programs do. That DES is weak does not matter
// here: who finds the password later cannot use it again.
func encipher(password string, challenge [16]byte) (out [16]byte) {
	var key [passwordLength]byte
	copy(key[:], password)
	for i, b := range key {
		key[i] = bits.Reverse8(b)
	}
	c, err := des.NewCipher(key[:])
	if err != nil {
		panic(err) // a key of 8 bytes is always one
	}
	c.Encrypt(out[:8], challenge[:8])
	c.Encrypt(out[8:], challenge[8:])
	return out
}

// PasswordFile returns the password in the form of the files that vncpasswd writes and
// viewers read with -passwd. It is hidden from the eye, not encrypted: the key is the
// same everywhere.
func (p *Password) PasswordFile() []byte {
	c, err := des.NewCipher([]byte{0xe8, 0x4a, 0xd6, 0x60, 0xc4, 0x72, 0x1a, 0xe0}) // 23 82 107 6 35 78 88 7, mirrored
	if err != nil {
		panic(err)
	}
	out := make([]byte, passwordLength)
	c.Encrypt(out, []byte(p.text))
	return out
}

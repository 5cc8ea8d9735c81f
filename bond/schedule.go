package bond

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Labels of the key schedule. Another protocol version gets other labels, so
// that no key serves two versions.
const (
	labelPrefix     = "uvbond v1 "
	labelTranscript = labelPrefix + "transcript"
	labelBondKey    = labelPrefix + "bond key"
	labelChannelKey = labelPrefix + "channel"
)

// keySize is the length in bytes of K and of every key under it.
const keySize = 32

// transcriptOf binds everything that both ends saw: the key the registration was sealed
// to and the very bytes that were sent. Both are length-prefixed (64-bit big
// endian), so that no two inputs hash the same text.
func transcriptOf(public, sealed []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte(labelTranscript))
	for _, part := range [][]byte{public, sealed} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	return [32]byte(h.Sum(nil))
}

// bondKey computes K (HKDF of RFC 5869 with SHA-256). The registration secret has
// a fixed length, so joining it with the volume key is unambiguous.
func bondKey(transcript [32]byte, secret, volumeKey *Secret) (*Secret, error) {
	ikm := make([]byte, 0, secret.Len()+volumeKey.Len())
	ikm = append(ikm, secret.Bytes()...)
	ikm = append(ikm, volumeKey.Bytes()...)
	defer Wipe(ikm)
	prk, err := hkdf.Extract(sha256.New, ikm, transcript[:])
	if err != nil {
		return nil, fmt.Errorf("bond: deriving bond key: %w", err)
	}
	defer Wipe(prk)
	k, err := hkdf.Expand(sha256.New, prk, labelBondKey, keySize)
	if err != nil {
		return nil, fmt.Errorf("bond: deriving bond key: %w", err)
	}
	defer Wipe(k)
	return NewSecret(k), nil
}

// purposeKey derives the key of one purpose from K.
func purposeKey(k *Secret, p Purpose) ([]byte, error) {
	key, err := hkdf.Expand(sha256.New, k.Bytes(), labelPrefix+string(p), keySize)
	if err != nil {
		return nil, fmt.Errorf("bond: deriving key for %s: %w", p, err)
	}
	return key, nil
}

// newAEAD returns AES-256-GCM with a random 96-bit nonce in front of each message:
// safe for 2^32 messages under one key (NIST SP 800-38D), far more than the
// commands of one VM.
func newAEAD(k *Secret, p Purpose) (cipher.AEAD, error) {
	key, err := purposeKey(k, p)
	if err != nil {
		return nil, err
	}
	defer Wipe(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("bond: %w", err)
	}
	a, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("bond: %w", err)
	}
	return a, nil
}

// ChannelKey returns the key of the bond's channels: the pre-shared key of their
// handshakes (package channel). The caller wipes it. An error when the bond was wiped.
func (b *Bond) ChannelKey() (*Secret, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.key.Len() == 0 {
		return nil, invalid("bond", "has been wiped")
	}
	key, err := hkdf.Expand(sha256.New, b.key.Bytes(), labelChannelKey, keySize)
	if err != nil {
		return nil, fmt.Errorf("bond: deriving the channel key: %w", err)
	}
	defer Wipe(key)
	return NewSecret(key), nil
}

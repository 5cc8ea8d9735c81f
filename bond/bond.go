package bond

import (
	"crypto/cipher"
	"fmt"
	"sync"
)

// Bond is the relation of a tenant and a VM on a host, with the key K that every
// later key derives from. Safe for concurrent use.
type Bond struct {
	version    uint16
	tenant     TenantID
	host       HostID
	vm         VMID
	transcript [32]byte

	mu    sync.Mutex // guards what follows
	key   *Secret
	aeads map[Purpose]cipher.AEAD
}

// Tenant returns the owner's identity.
func (b *Bond) Tenant() TenantID { return b.tenant }

// Host returns the identity of the hypervisor that the bond is with.
func (b *Bond) Host() HostID { return b.host }

// VM returns the identity of the VM.
func (b *Bond) VM() VMID { return b.vm }

// Version returns the protocol version that both ends agreed on.
func (b *Bond) Version() uint16 { return b.version }

// Transcript returns the hash of the host's public key and the sealed
// registration: what the confirmation repeats.
func (b *Bond) Transcript() [32]byte { return b.transcript }

// Format prints the VM's identity only, whatever the verb is.
func (b *Bond) Format(f fmt.State, _ rune) {
	if b == nil {
		_, _ = f.Write([]byte("bond (none)"))
		return
	}
	_, _ = f.Write([]byte("bond of vm " + b.vm.String()))
}

// Wipe zeroes K. The bond opens and seals nothing afterwards. The standard
// library's cipher objects cannot be zeroed; they are dropped.
func (b *Bond) Wipe() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.key.Wipe()
	b.aeads = nil
}

// header returns what stands before a message of this purpose.
func (b *Bond) header(p Purpose) Header {
	return Header{Version: b.version, Purpose: p, Tenant: b.tenant, Host: b.host, VM: b.vm}
}

// aead returns the cipher of a purpose. Ciphers are kept: a daemon opens and seals
// many messages under the same few keys.
func (b *Bond) aead(p Purpose) (cipher.AEAD, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.key.Len() == 0 {
		return nil, invalid("bond", "has been wiped")
	}
	if a, ok := b.aeads[p]; ok {
		return a, nil
	}
	a, err := newAEAD(b.key, p)
	if err != nil {
		return nil, err
	}
	if b.aeads == nil {
		b.aeads = make(map[Purpose]cipher.AEAD)
	}
	b.aeads[p] = a
	return a, nil
}

// wireBond is what Export writes.
type wireBond struct {
	Version    uint16   `cbor:"version"`
	Tenant     TenantID `cbor:"tenant"`
	Host       HostID   `cbor:"host"`
	VM         VMID     `cbor:"vm"`
	Transcript [32]byte `cbor:"transcript"`
	Key        []byte   `cbor:"key"`
}

// Export returns the bond for storage. It is as secret as K, because K is in it.
func (b *Bond) Export() *Secret {
	b.mu.Lock()
	defer b.mu.Unlock()
	raw, err := encode(wireBond{
		Version: b.version, Tenant: b.tenant, Host: b.host, VM: b.vm,
		Transcript: b.transcript, Key: b.key.Bytes(),
	}, 512)
	if err != nil {
		panic(err) // a struct of fixed arrays always encodes
	}
	defer Wipe(raw)
	return NewSecret(raw)
}

// ImportBond reads what Export wrote.
func ImportBond(s *Secret) (*Bond, error) {
	var w wireBond
	defer func() { Wipe(w.Key) }()
	if s.Len() > 4096 {
		return nil, tooLarge("stored bond", s.Len(), 4096)
	}
	if err := decodeStrict(s.Bytes(), &w); err != nil {
		return nil, fmt.Errorf("%w: stored bond", err)
	}
	if len(w.Key) != keySize {
		return nil, invalid("stored bond", "key is %d bytes, want %d", len(w.Key), keySize)
	}
	if _, ok := highestCommon([]uint16{w.Version}, Supported); !ok {
		return nil, &VersionError{Have: []uint16{w.Version}, Supported: []uint16{Version}}
	}
	return newBond(Header{Version: w.Version, Tenant: w.Tenant, Host: w.Host, VM: w.VM}, w.Transcript, NewSecret(w.Key)), nil
}

func newBond(h Header, transcript [32]byte, key *Secret) *Bond {
	return &Bond{
		version: h.Version, tenant: h.Tenant, host: h.Host, vm: h.VM,
		transcript: transcript, key: key,
	}
}

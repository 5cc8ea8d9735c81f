package channel

import (
	"encoding/binary"
	"fmt"

	"github.com/uvbond/uvbond/bond"
)

// Kinds of channels.
const (
	KindConsole = "console"
	KindScreen  = "screen"
	KindForward = "forward"
)

const (
	label          = "uvbond v1 channel"
	descriptorSize = 32
	keySize        = 32
	maxKind        = 32 // bytes
)

// Params say which channel it is. They are never sent: both ends know them, and the
// handshake succeeds only where they are the same.
type Params struct {
	Key        *bond.Secret // 32 bytes: Bond.ChannelKey. The caller wipes it
	VM         bond.VMID
	Descriptor []byte   // 32 bytes: of the running instance
	Kind       string   // KindConsole, KindScreen or KindForward
	Port       uint16   // of the guest, for KindForward; else 0
	Nonce      [32]byte // of the ticket
}

// check refuses parameters of which no channel can be made.
func (p *Params) check() error {
	switch {
	case p.Key.Len() != keySize:
		return fmt.Errorf("channel: the key is %d bytes, want %d", p.Key.Len(), keySize)
	case len(p.Descriptor) != descriptorSize:
		return fmt.Errorf("channel: the descriptor is %d bytes, want %d", len(p.Descriptor), descriptorSize)
	case p.Nonce == [32]byte{}:
		return fmt.Errorf("channel: the ticket's nonce is missing")
	}
	return CheckKind(p.Kind, p.Port)
}

// CheckKind refuses a kind that does not exist, and a port where none belongs.
func CheckKind(kind string, port uint16) error {
	switch kind {
	case KindConsole, KindScreen:
		if port != 0 {
			return fmt.Errorf("channel: a channel of kind %s has no port", kind)
		}
	case KindForward:
		if port == 0 {
			return fmt.Errorf("channel: a channel of kind %s needs a port from 1 to 65535", kind)
		}
	default:
		if len(kind) > maxKind {
			kind = kind[:maxKind]
		}
		return fmt.Errorf("channel: there is no kind %q; the kinds are %s, %s and %s", kind, KindConsole, KindScreen, KindForward)
	}
	return nil
}

// prologue is what both ends mix into the handshake. Every part has a fixed length but
// the last, which has its length before it, so no two channels have the same.
func (p *Params) prologue() []byte {
	b := make([]byte, 0, 128)
	b = append(b, label...)
	b = binary.BigEndian.AppendUint16(b, bond.Version)
	b = append(b, p.VM[:]...)
	b = append(b, p.Descriptor...)
	b = append(b, p.Nonce[:]...)
	b = binary.BigEndian.AppendUint16(b, p.Port)
	b = append(b, byte(len(p.Kind)))
	return append(b, p.Kind...)
}

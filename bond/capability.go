package bond

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"log/slog"
)

// NewNonce returns a random nonce for a ticket.
func NewNonce() (n [32]byte) {
	rand.Read(n[:])
	return n
}

// NewDescriptor returns a descriptor with a random value. now is in Unix seconds.
func NewDescriptor(instance uint64, bootNonce [32]byte, now int64) *Descriptor {
	return &Descriptor{Value: NewNonce(), Instance: instance, BootNonce: bootNonce, StartedAt: now}
}

// Matches tells in constant time whether value, from a ticket, is this descriptor.
func (d *Descriptor) Matches(value []byte) bool {
	return subtle.ConstantTimeCompare(d.Value[:], value) == 1
}

// Wipe zeroes the descriptor's value.
func (d *Descriptor) Wipe() { clear(d.Value[:]) }

// Wipe zeroes the descriptor in the ticket.
func (t *Ticket) Wipe() { Wipe(t.Descriptor) }

// Format prints the instance and never the value, whatever the verb is.
func (d Descriptor) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "descriptor of instance %d", d.Instance)
}

// LogValue returns the instance and never the value.
func (d Descriptor) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(d)) }

// LogValue returns the command and never the descriptor.
func (t Ticket) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(t)) }

// Format prints the command and never the descriptor, whatever the verb is.
func (t Ticket) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "ticket for %q", clip(t.Command))
}

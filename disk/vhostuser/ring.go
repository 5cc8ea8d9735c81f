package vhostuser

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// Flags in rings (VIRTIO 2.7).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	availNoInterrupt = 1
	usedNoNotify     = 1
)

// ring is a split virtqueue in guest memory (VIRTIO 2.7). The guest can change
// everything in it at any time: each method reads once.
type ring struct {
	size  uint16 // a power of two
	desc  []descriptor
	avail []uint16   // the entries
	used  []usedElem // the entries

	availFlags half
	availIndex half
	usedEvent  half // where the driver says when it wants to be called
	usedHead   *uint32
	availEvent half // where we say when we want to be kicked
	usedIndex  half
}

// vringAddr is the payload of SET_VRING_ADDR.
type vringAddr struct {
	desc, used, avail uint64 // addresses in the front end
	log               uint64 // guest address that writes to the used ring are logged under
	logged            bool
}

// usedBytes is the length of the used ring.
func usedBytes(size int) int { return 4 + 8*size + 2 }

// newRing finds the parts of a ring in memory.
func newRing(m *memory, a vringAddr, size uint16) (*ring, error) {
	n := int(size)
	desc, avail, used := m.userAt(a.desc, 16*n), m.userAt(a.avail, 4+2*n+2), m.userAt(a.used, usedBytes(n))
	if desc == nil || avail == nil || used == nil {
		return nil, fmt.Errorf("a ring of %d entries at %#x, %#x, %#x is not in memory", size, a.desc, a.avail, a.used)
	}
	if !aligned(desc, 16) || !aligned(avail, 2) || !aligned(used, 4) {
		return nil, fmt.Errorf("a ring at %#x, %#x, %#x is not aligned", a.desc, a.avail, a.used)
	}
	return &ring{
		size:       size,
		desc:       descriptors(desc),
		avail:      halves(avail)[2 : 2+n],
		used:       usedElems(used[4 : 4+8*n]),
		availFlags: halfAt(avail, 0),
		availIndex: halfAt(avail, 2),
		usedEvent:  halfAt(avail, 4+2*n),
		usedHead:   &words(used[:4])[0],
		usedIndex:  halfAt(used, 2),
		availEvent: halfAt(used, 4+8*n),
	}, nil
}

// publish makes all used entries before index visible to the driver.
func (r *ring) publish(flags, index uint16) {
	atomic.StoreUint32(r.usedHead, uint32(flags)|uint32(index)<<16)
}

// needEvent says whether index event was passed on the way from before to after
// (VIRTIO 2.7.10.2).
func needEvent(event, after, before uint16) bool { return after-event-1 < after-before }

// walk calls f with the descriptors of the chain that starts at head, each read
// once.
func (r *ring) walk(m *memory, head uint16, indirect bool, f func(descriptor) error) error {
	table, i := r.desc, int(head)
	for range maxChain {
		d := table[i]
		switch {
		case d.flags&descIndirect != 0:
			if !indirect {
				return errors.New("indirect descriptor that was not negotiated, or in an indirect table")
			}
			if d.flags&descNext != 0 || d.len == 0 || d.len%16 != 0 || d.len > 16*maxChain {
				return fmt.Errorf("indirect table of %d bytes, flags %#x", d.len, d.flags)
			}
			b := m.at(d.addr, d.len)
			if b == nil {
				return fmt.Errorf("indirect table of %d bytes at %#x is not in memory", d.len, d.addr)
			}
			table, i, indirect = descriptors(b), 0, false
			continue
		case d.len == 0:
			return errors.New("descriptor of no bytes")
		}
		if err := f(d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		if i = int(d.next); i >= len(table) {
			return fmt.Errorf("descriptor %d of %d", i, len(table))
		}
	}
	return fmt.Errorf("more than %d descriptors in a chain, or a loop", maxChain)
}

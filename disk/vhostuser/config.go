package vhostuser

import (
	"encoding/binary"
	"math/bits"

	"github.com/uvbond/uvbond/disk"
)

const (
	configSize = 60 // struct virtio_blk_config (VIRTIO 5.2.4), up to write zeroes
	configWCE  = 32 // offset of the only field that a driver may write
)

// config is the device's configuration space.
func config(d *disk.Device, queues int, wce bool) []byte {
	c := make([]byte, maxConfig)
	put16, put32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	// Guests were made on disks of 512-byte sectors: it stays the unit, and the
	// sector that is enciphered at once is the physical one.
	physical := uint32(d.SectorSize() / blkSector)
	binary.LittleEndian.PutUint64(c, uint64(d.Size()/blkSector))
	put32(c[8:], maxSegment)
	put32(c[12:], maxSegments)
	put32(c[20:], blkSector)
	c[24] = uint8(bits.TrailingZeros32(physical))
	put16(c[26:], uint16(physical))
	put32(c[28:], disk.MaxPiece/blkSector)
	if wce {
		c[configWCE] = 1
	}
	put16(c[34:], uint16(queues))
	if d.CanTrim() {
		put32(c[36:], mostTrimSectors)
		put32(c[40:], 1)
		put32(c[44:], physical)
	}
	if !d.ReadOnly() {
		put32(c[48:], mostZeroSectors)
		put32(c[52:], 1)
	}
	return c
}

// features are what is offered for d.
func features(d *disk.Device) uint64 {
	f := uint64(virtioVersion1 | ringIndirect | ringEventIdx | vhostProtocol | vhostLogAll |
		blkSizeMax | blkSegMax | blkBlkSize | blkTopology | blkFlush | blkConfigWCE | blkMQ)
	if d.ReadOnly() {
		return f | blkRO
	}
	f |= blkWriteZeroes
	if d.CanTrim() {
		f |= blkDiscard
	}
	return f
}

package nocloud

import (
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf16"
)

// Label is the name of the file system, by which cloud-init finds it.
const Label = "CIDATA"

const (
	// SectorSize is the size of a sector in bytes.
	SectorSize = 512
	// Size is the size of every image in bytes.
	Size = 256 << 10
	// MaxContent is how many bytes the files may have in all.
	MaxContent = 128 << 10
)

// Layout, in sectors; see the package comment.
const (
	sectors    = Size / SectorSize
	fatStart   = 1
	fatSectors = 2
	rootStart  = fatStart + 2*fatSectors
	dataStart  = rootStart + 1
	// firstCluster is the number of the first cluster: the FAT's first two entries
	// are not of clusters.
	firstCluster = 2
	media        = 0xf8 // a disk, not a floppy
	endOfChain   = 0xfff
)

// Files is what the file system holds. UserData and MetaData are there even when
// they are empty, as cloud-init wants; the others are not.
type Files struct {
	UserData, MetaData, VendorData, NetworkConfig []byte
}

// Len returns how many bytes the files have in all.
func (f *Files) Len() int {
	return len(f.UserData) + len(f.MetaData) + len(f.VendorData) + len(f.NetworkConfig)
}

// Image returns the file system, Size bytes that are as secret as the files. It fails
// when they are longer than MaxContent.
func Image(f *Files) ([]byte, error) {
	if n := f.Len(); n > MaxContent {
		return nil, fmt.Errorf("nocloud: the files have %d bytes, there is room for %d", n, MaxContent)
	}
	w := &writer{image: make([]byte, Size), cluster: firstCluster}
	w.bootSector()
	w.chain(0, 0xf00|media) // entry 0 repeats the media byte
	w.chain(1, endOfChain)
	w.entry(paddedName(Label), attrLabel, 0, 0)
	w.file("user-data", "USER-D~1", f.UserData)
	w.file("meta-data", "META-D~1", f.MetaData)
	if len(f.VendorData) > 0 {
		w.file("vendor-data", "VENDOR~1", f.VendorData)
	}
	if len(f.NetworkConfig) > 0 {
		w.file("network-config", "NETWOR~1", f.NetworkConfig)
	}
	fat := w.fat()
	copy(w.image[(fatStart+fatSectors)*SectorSize:], fat)
	return w.image, nil
}

// writer fills an image from its front to its end.
type writer struct {
	image   []byte
	cluster int // next that is free
	entries int // used in the root directory
}

// bootSector writes the parameters by which everybody finds the rest (FAT
// specification, section 3), and a program for a firmware that starts this disk.
func (w *writer) bootSector() {
	b := w.image[:SectorSize]
	le := binary.LittleEndian
	copy(b, []byte{0xeb, 0x3c, 0x90}) // jump over the parameters
	copy(b[3:], "UVBOND  ")
	le.PutUint16(b[11:], SectorSize)
	b[13] = 1                        // sectors of a cluster
	le.PutUint16(b[14:], fatStart)   // reserved sectors
	b[16] = 2                        // FATs
	le.PutUint16(b[17:], rootSlots)  // entries of the root directory
	le.PutUint16(b[19:], sectors)    // in all
	b[21] = media                    //
	le.PutUint16(b[22:], fatSectors) //
	le.PutUint16(b[24:], 32)         // sectors of a track, which nobody needs
	le.PutUint16(b[26:], 2)          // heads, which nobody needs
	b[36] = 0x80                     // drive
	b[38] = 0x29                     // the next three are there
	le.PutUint32(b[39:], 0x55564244) // serial number
	copy(b[43:], paddedName(Label))
	copy(b[54:], "FAT12   ")
	copy(b[62:], []byte{0xcd, 0x18, 0xf4, 0xeb, 0xfd}) // int 18h; hlt; again
	le.PutUint16(b[510:], 0xaa55)
}

func (w *writer) fat() []byte {
	return w.image[fatStart*SectorSize : (fatStart+fatSectors)*SectorSize]
}

// chain sets the FAT's entry n; two of them share three bytes.
func (w *writer) chain(n, next int) {
	b := w.fat()[n*3/2:]
	if n%2 == 0 {
		b[0], b[1] = byte(next), b[1]&0xf0|byte(next>>8)
	} else {
		b[0], b[1] = b[0]&0x0f|byte(next<<4), byte(next>>4)
	}
}

// file writes a file with its directory entries.
func (w *writer) file(name, alias string, data []byte) {
	short := paddedName(alias)
	w.longName(name, short)
	n := (len(data) + SectorSize - 1) / SectorSize
	first := 0 // an empty file has no cluster
	if n > 0 {
		first = w.cluster
	}
	w.entry(short, attrArchive, first, len(data))
	copy(w.image[(dataStart+w.cluster-firstCluster)*SectorSize:], data)
	for i := range n {
		next := w.cluster + 1
		if i == n-1 {
			next = endOfChain
		}
		w.chain(w.cluster, next)
		w.cluster++
	}
}

// Attributes of a directory entry.
const (
	attrLabel    = 0x08
	attrArchive  = 0x20
	attrLongName = 0x0f
)

const (
	slotSize  = 32
	rootSlots = SectorSize / slotSize
	// date is 1 January 1980, the first that there is.
	date = 1<<5 | 1
)

// slot returns the next free entry of the root directory.
func (w *writer) slot() []byte {
	at := rootStart*SectorSize + w.entries*slotSize
	w.entries++
	return w.image[at : at+slotSize]
}

func (w *writer) entry(name []byte, attr byte, cluster, size int) {
	b := w.slot()
	copy(b, name)
	b[11] = attr
	for _, at := range []int{16, 18, 24} { // made, read, written
		binary.LittleEndian.PutUint16(b[at:], date)
	}
	binary.LittleEndian.PutUint16(b[26:], uint16(cluster))
	binary.LittleEndian.PutUint32(b[28:], uint32(size))
}

// namePart is how many characters of a long name an entry holds.
const namePart = 13

// longName writes a name, its last part first, as it stands before the entry with the
// alias (FAT specification, section 7).
func (w *writer) longName(name string, alias []byte) {
	units := utf16.Encode([]rune(name))
	if len(units)%namePart != 0 {
		units = append(units, 0)
	}
	for len(units)%namePart != 0 {
		units = append(units, 0xffff)
	}
	parts := slices.Collect(slices.Chunk(units, namePart))
	for i, part := range slices.Backward(parts) {
		b := w.slot()
		b[0] = byte(i + 1)
		if i == len(parts)-1 {
			b[0] |= 0x40 // the last one
		}
		b[11], b[13] = attrLongName, checksum(alias)
		for j, u := range part {
			binary.LittleEndian.PutUint16(b[unitAt[j]:], u)
		}
	}
}

// unitAt is where the characters of a long name stand in an entry.
var unitAt = [namePart]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}

// checksum of an alias ties a long name to it.
func checksum(alias []byte) byte {
	var sum byte
	for _, c := range alias {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

// paddedName returns the 11 bytes of a name without an extension.
func paddedName(s string) []byte { return fmt.Appendf(nil, "%-11s", s) }

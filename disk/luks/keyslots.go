package luks

import (
	"cmp"
	"slices"
)

// keyslots judges all keyslots; their areas must lie within the size bytes from
// start, apart from each other.
func (o object) keyslots(start, size uint64) map[int]Keyslot {
	slots := map[int]Keyslot{}
	var order []Keyslot
	ids, objects := o.numbered()
	for i, s := range objects {
		k := s.keyslot(start, size)
		k.ID = ids[i]
		slots[k.ID] = k
		order = append(order, k)
	}
	slices.SortFunc(order, func(a, b Keyslot) int { return cmp.Compare(a.AreaOffset, b.AreaOffset) })
	for i := 1; i < len(order); i++ {
		if order[i-1].AreaOffset+order[i-1].AreaSize > order[i].AreaOffset {
			o.refuse("", "the areas of keyslots %d and %d overlap", order[i-1].ID, order[i].ID)
		}
	}
	return slots
}

func (o object) keyslot(start, size uint64) (k Keyslot) {
	if t := o.text("type"); t == "reencrypt" {
		o.refuseHint("type", "the disk is being re-encrypted", reencryptHint)
	} else if t != "luks2" {
		o.refuse("type", "%s is not luks2", clip(t))
	}
	o.only("type", "key_size", "area", "kdf", "af", "priority")
	// Keys of other sizes may be stored in keyslots that are bound to no data.
	k.KeyBytes = int(o.number("key_size", 1, 512))
	k.Priority = 1
	if _, ok := o.m["priority"]; ok {
		k.Priority = int(o.number("priority", 0, 2))
	}
	af := o.object("af")
	af.only("type", "stripes", "hash")
	if t := af.text("type"); t != "luks1" {
		af.refuse("type", "%s is not luks1", clip(t))
	}
	af.number("stripes", stripes, stripes)
	k.AFHash = af.hash()

	area := o.object("area")
	area.only("type", "offset", "size", "encryption", "key_size")
	if t := area.text("type"); t != "raw" {
		area.refuse("type", "%s is not raw", clip(t))
	}
	area.cipher()
	if k.AreaKey = int(area.number("key_size", 32, 64)); k.AreaKey != 32 && k.AreaKey != 64 {
		area.refuse("key_size", "%d is not 32 or 64", k.AreaKey)
	}
	k.AreaOffset = area.decimal("offset", maxOffset)
	k.AreaSize = area.decimal("size", maxKeyslotsSize)
	if k.AreaOffset < start || k.AreaOffset+k.AreaSize > start+size || k.AreaOffset%512 != 0 {
		area.refuse("offset", "%d bytes at %d are not within the keyslots area, %d bytes at %d", k.AreaSize, k.AreaOffset, size, start)
	}
	if k.AreaSize < splitSize(k.KeyBytes) {
		area.refuse("size", "%d bytes are too few for a key of %d bytes", k.AreaSize, k.KeyBytes)
	}
	k.KDF = o.object("kdf").kdf()
	return k
}

// splitSize is what a key of n bytes needs in an area: whole 512-byte sectors.
func splitSize(n int) uint64 { return (uint64(n)*stripes + 511) / 512 * 512 }

func (o object) kdf() (k KDF) {
	k.Type = o.text("type")
	switch k.Type {
	case "argon2id", "argon2i":
		o.only("type", "time", "memory", "cpus", "salt")
		k.Time = uint32(o.number("time", 1, maxArgonTime))
		k.MemoryKiB = uint32(o.number("memory", 8, maxArgonMemory))
		k.Lanes = uint8(o.number("cpus", 1, maxArgonLanes))
		if uint64(k.Time)*uint64(k.MemoryKiB) > maxArgonWork {
			o.refuse("time", "%d passes over %d KiB would take too long", k.Time, k.MemoryKiB)
		}
		if k.MemoryKiB < 8*uint32(k.Lanes) {
			o.refuse("memory", "%d KiB for %d lanes, need at least %d", k.MemoryKiB, k.Lanes, 8*uint32(k.Lanes))
		}
	case "pbkdf2":
		o.only("type", "hash", "iterations", "salt")
		k.Hash = o.hash()
		k.Iterations = uint32(o.number("iterations", 1, maxKeyslotPBKDF))
	default:
		o.refuse("type", "%s is not argon2id, argon2i or pbkdf2", clip(k.Type))
	}
	k.Salt = o.bytes("salt", 8, maxSalt)
	return k
}

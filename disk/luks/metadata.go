package luks

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// Limits of what a header may say.
const (
	maxKeyslotsSize = 128 << 20 // bytes
	maxOffset       = math.MaxInt64
	stripes         = 4000    // of the anti-forensic splitter, fixed by the format
	maxArgonMemory  = 4 << 20 // KiB
	maxArgonTime    = 1 << 16 // passes
	maxArgonWork    = 1 << 28 // KiB times passes: about five minutes of one core
	maxArgonLanes   = 16
	maxKeyslotPBKDF = 1 << 28 // iterations: about two minutes
	maxDigestPBKDF  = 1 << 24 // iterations: a few seconds
	maxSalt         = 256     // bytes
	cipherName      = "aes-xts-plain64"
)

const (
	nullHint      = "the null cipher stores plain text"
	reencryptHint = "let cryptsetup reencrypt --resume-only finish first"
)

// parseMetadata judges the JSON text. headerSize is that of one copy, size that
// of the disk.
func (h *Header) parseMetadata(headerSize, size uint64) error {
	tree, err := decodeTree(h.Metadata)
	if err != nil {
		return refusal("json", "%v", err)
	}
	root := object{"", tree, &err}
	root.only("keyslots", "tokens", "segments", "digests", "config")
	keyslotsSize := root.object("config").config(headerSize)
	checkTokens(root.object("tokens"))
	h.Segment = root.object("segments").segment(size, 2*headerSize+keyslotsSize)
	slots := root.object("keyslots").keyslots(2*headerSize, keyslotsSize)
	h.digests(root.object("digests"), slots)
	return err
}

func (o object) config(headerSize uint64) (keyslotsSize uint64) {
	if _, ok := o.m["requirements"]; ok {
		r := o.object("requirements")
		r.only("mandatory")
		for _, name := range r.strings("mandatory") {
			hint := ""
			if strings.Contains(name, "reencrypt") {
				hint = reencryptHint
			}
			r.refuseHint("mandatory", "the disk needs "+clip(name)+", which is not supported", hint)
		}
	}
	o.only("json_size", "keyslots_size", "flags", "requirements")
	if _, ok := o.m["flags"]; ok {
		o.strings("flags") // they tune dm-crypt; none changes the format
	}
	if n := o.decimal("json_size", maxHeaderSize); n != headerSize-binarySize {
		o.refuse("json_size", "%d, it is %d", n, headerSize-binarySize)
	}
	keyslotsSize = o.decimal("keyslots_size", maxKeyslotsSize)
	if keyslotsSize%4096 != 0 {
		o.refuse("keyslots_size", "%d is no multiple of 4096", keyslotsSize)
	}
	return keyslotsSize
}

// checkTokens looks at no more than the form: their content is for others.
func checkTokens(o object) {
	_, tokens := o.numbered()
	for _, t := range tokens {
		t.text("type")
		t.strings("keyslots")
	}
}

func (o object) segment(size, least uint64) (s Segment) {
	if len(o.m) != 1 {
		o.refuseHint("", strconv.Itoa(len(o.m))+" segments, need exactly one", "an unfinished re-encryption has several: "+reencryptHint)
	}
	o.only("0")
	o = o.object("0")
	if t := o.text("type"); t != "crypt" {
		o.refuse("type", "%s is not crypt", clip(t))
	}
	if _, ok := o.m["integrity"]; ok {
		o.refuse("integrity", "authenticated encryption is not supported")
	}
	if _, ok := o.m["flags"]; ok && len(o.strings("flags")) > 0 {
		o.refuseHint("flags", "the segment is marked as part of a re-encryption", reencryptHint)
	}
	o.only("type", "offset", "size", "iv_tweak", "encryption", "sector_size", "flags")
	s.Cipher = o.cipher()
	s.SectorSize = uint32(o.number("sector_size", 512, 4096))
	s.Offset = o.decimal("offset", maxOffset)
	s.IVTweak = o.decimal("iv_tweak", maxOffset)
	if o.text("size") == "dynamic" {
		s.Dynamic = true
	} else {
		s.Length = o.decimal("size", maxOffset)
	}
	if *o.err == nil {
		o.place(&s, size, least)
	}
	return s
}

// place resolves and checks where the data lies. No sum here can overflow: each
// part is below 2^63.
func (o object) place(s *Segment, size, least uint64) {
	sector := uint64(s.SectorSize)
	switch {
	case sector&(sector-1) != 0:
		o.refuse("sector_size", "%d is not 512, 1024, 2048 or 4096", sector)
		return
	case s.Offset < least:
		o.refuseHint("offset", "the data would lie in the header and keyslots, which end at "+strconv.FormatUint(least, 10),
			"detached headers are not supported")
	case s.Offset%sector != 0:
		o.refuse("offset", "%d is no multiple of the sector size %d", s.Offset, sector)
	case s.IVTweak%(sector/512) != 0:
		o.refuse("iv_tweak", "%d is no multiple of %d, which dm-crypt needs", s.IVTweak, sector/512)
	case s.Offset > size:
		o.refuse("offset", "%d is beyond the end of the disk, %d: it was truncated", s.Offset, size)
	}
	if s.Dynamic && *o.err == nil {
		s.Length = size - s.Offset
	}
	switch {
	case s.Length == 0:
		o.refuse("size", "there is no data")
	case s.Length%sector != 0:
		o.refuse("size", "%d bytes are no multiple of the sector size %d", s.Length, sector)
	case s.Offset+s.Length > size:
		o.refuse("size", "the data ends at %d, beyond the end of the disk, %d: it was truncated", s.Offset+s.Length, size)
	}
}

// cipher is the member encryption of a segment or a keyslot's area.
func (o object) cipher() string {
	name := o.text("encryption")
	if name != cipherName {
		hint := "only " + cipherName + " is supported"
		if strings.Contains(name, "null") {
			hint = nullHint
		}
		o.refuseHint("encryption", "cipher "+clip(name), hint)
	}
	return name
}

// digests finds the digest of the segment's key, and the keyslots under it.
// Other digests belong to keys that are bound to no data.
func (h *Header) digests(o object, slots map[int]Keyslot) {
	_, digests := o.numbered()
	found, used := false, map[int]bool{}
	for _, d := range digests {
		d.only("type", "keyslots", "segments", "hash", "iterations", "salt", "digest")
		digest := d.digest()
		var ids []int
		for _, name := range d.strings("keyslots") {
			id, err := strconv.Atoi(name)
			if _, ok := slots[id]; err != nil || !ok || strconv.Itoa(id) != name || used[id] {
				d.refuse("keyslots", "keyslot %s is not there or used twice", clip(name))
				return
			}
			used[id] = true
			ids = append(ids, id)
		}
		segments := d.strings("segments")
		if len(segments) == 0 {
			continue
		}
		if found || !slices.Equal(segments, []string{"0"}) {
			d.refuse("segments", "a segment has one digest, and there is only segment 0")
			return
		}
		found = true
		h.Digest = digest
		h.bind(d, ids, slots)
	}
	if !found {
		o.refuse("", "no digest for segment 0")
	}
}

func (h *Header) bind(d object, ids []int, slots map[int]Keyslot) {
	if len(ids) == 0 {
		d.refuseHint("keyslots", "no keyslot holds the volume key", "it cannot be unlocked; restore a header backup")
		return
	}
	slices.Sort(ids)
	for _, id := range ids {
		h.Keyslots = append(h.Keyslots, slots[id])
	}
	n := h.Keyslots[0].KeyBytes
	for _, s := range h.Keyslots {
		if s.KeyBytes != n || (n != 32 && n != 64) {
			d.refuse("keyslots", "a volume key of %d bytes, need 32 or 64, the same in all keyslots", s.KeyBytes)
		}
	}
	h.Segment.KeyBytes = n
}

func (o object) digest() (g Digest) {
	if t := o.text("type"); t != "pbkdf2" {
		o.refuse("type", "%s is not pbkdf2", clip(t))
	}
	g.Hash = o.hash()
	g.Iterations = uint32(o.number("iterations", 1, maxDigestPBKDF))
	g.Salt = o.bytes("salt", 8, maxSalt)
	if *o.err == nil {
		n := hashes[g.Hash]().Size() // a shorter one would accept wrong keys
		g.Value = o.bytes("digest", n, n)
	}
	return g
}

func (o object) hash() string {
	name := o.text("hash")
	if _, ok := hashes[name]; !ok {
		o.refuse("hash", "%s is not supported", clip(name))
	}
	return name
}

// Package luks reads and writes LUKS2 headers (cryptsetup's on-disk format
// specification 1.1) for disks enciphered with aes-xts-plain64.
//
//	0            binary header, 4096 bytes, big endian
//	4096         JSON area: text, then zeros up to hdr_size
//	hdr_size     the second copy of both
//	2*hdr_size   keyslots area: volume key, split and enciphered, once a keyslot
//	offset       the data, to the end of the disk ("dynamic") or as long as said
//
//	binary header    0 magic 6 | 6 version 2 | 8 hdr_size 8 | 16 seqid 8 | 24 label 48
//	                 72 checksum algorithm 32 | 104 salt 64 | 168 uuid 40 | 208 subsystem 48
//	                 256 hdr_offset 8 | 264 padding 184 | 448 checksum 64 | 512 padding 3584
//
// A header comes from storage that is not trusted. So it is read once into
// memory, and everything is judged there; sizes are capped before anything is
// allocated; both copies must be valid and say the same; and whatever this
// package does not know to be harmless is refused: another cipher (the null cipher
// above all), integrity, a second segment, re-encryption, any mandatory
// requirement, unknown members. Only tokens, which others may define, are passed over.
// What is accepted still decides nothing: Check compares it with the registration.
package luks

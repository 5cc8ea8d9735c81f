package luks

// FormatOptions says what Format writes. Only Passphrase and DataSize must be
// given.
type FormatOptions struct {
	Passphrase []byte // 1 to 512 bytes (cryptsetup's own limit); a key file's bytes
	VolumeKey  []byte // 32 or 64 bytes; nil: 64 random ones
	SectorSize uint32 // 512, 1024, 2048 or 4096 bytes; 0: 4096, or 512 where DataSize is no multiple of 4096
	UUID       string // canonical text; empty: random
	Label      string // at most 47 bytes
	DataSize   uint64 // bytes, a multiple of the sector size
	PBKDF      PBKDF
}

// PBKDF is the cost of trying a passphrase on the new keyslot. The zero value
// is DefaultPBKDF.
type PBKDF struct {
	Type       string // "argon2id", "argon2i" or "pbkdf2"
	Time       uint32 // argon2: passes
	MemoryKiB  uint32 // argon2
	Lanes      uint8  // argon2
	Iterations uint32 // pbkdf2, with SHA-256
}

// Package proto has the numbers of the NBD protocol, for both of its sides. Names
// are those of the NBD project's doc/proto.md. There is nothing to trust in it.
package proto

// Magic numbers.
const (
	MagicInit     = 0x4e42444d41474943 // "NBDMAGIC"
	MagicOption   = 0x49484156454f5054 // "IHAVEOPT"
	MagicOptReply = 0x0003e889045565a9
	MagicRequest  = 0x25609513
	MagicSimple   = 0x67446698
	MagicChunk    = 0x668e33ef
)

// Sizes of the fixed parts, in bytes.
const (
	RequestSize     = 28
	SimpleReplySize = 16
	ChunkHeaderSize = 20
	OptReplySize    = 20
	MaxString       = 4096 // longest export name or message
)

// Handshake flags, of both sides.
const (
	FlagFixedNewstyle = 1 << 0
	FlagNoZeroes      = 1 << 1
)

// Options.
const (
	OptExportName      = 1
	OptAbort           = 2
	OptList            = 3
	OptStartTLS        = 5
	OptInfo            = 6
	OptGo              = 7
	OptStructuredReply = 8
)

// Types of option replies; errors have the highest bit set.
const (
	RepAck               = 1
	RepServer            = 2
	RepInfo              = 3
	RepErr               = 1 << 31
	RepErrUnsup          = RepErr | 1
	RepErrPolicy         = RepErr | 2
	RepErrInvalid        = RepErr | 3
	RepErrTLSReqd        = RepErr | 5
	RepErrUnknown        = RepErr | 6
	RepErrShutdown       = RepErr | 7
	RepErrBlockSizeReqd  = RepErr | 8
	RepErrTooBig         = RepErr | 9
	RepErrExtHeadersReqd = RepErr | 10
)

// Information types of RepInfo.
const (
	InfoExport    = 0
	InfoName      = 1
	InfoBlockSize = 3
)

// Transmission flags.
const (
	HasFlags        = 1 << 0
	ReadOnly        = 1 << 1
	SendFlush       = 1 << 2
	SendFUA         = 1 << 3
	SendTrim        = 1 << 5
	SendWriteZeroes = 1 << 6
	SendDF          = 1 << 7
	CanMultiConn    = 1 << 8
	SendFastZero    = 1 << 11
)

// Commands.
const (
	CmdRead        = 0
	CmdWrite       = 1
	CmdDisconnect  = 2
	CmdFlush       = 3
	CmdTrim        = 4
	CmdWriteZeroes = 6
)

// Command flags.
const (
	CmdFlagFUA      = 1 << 0
	CmdFlagNoHole   = 1 << 1
	CmdFlagDF       = 1 << 2
	CmdFlagFastZero = 1 << 4
)

// Chunks of structured replies; errors have bit 15 set.
const (
	ChunkFlagDone    = 1 << 0
	ChunkNone        = 0
	ChunkOffsetData  = 1
	ChunkOffsetHole  = 2
	ChunkErr         = 1 << 15
	ChunkError       = ChunkErr | 1
	ChunkErrorOffset = ChunkErr | 2
)

// Error numbers: Linux's, for these.
const (
	EPERM     = 1
	EIO       = 5
	ENOMEM    = 12
	EINVAL    = 22
	ENOSPC    = 28
	EOVERFLOW = 75
	ENOTSUP   = 95
	ESHUTDOWN = 108
)

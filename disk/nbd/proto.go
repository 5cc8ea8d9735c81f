package nbd

import (
	"time"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

// Short names for the protocol's numbers.
const (
	magicInit     = proto.MagicInit
	magicOption   = proto.MagicOption
	magicOptReply = proto.MagicOptReply
	magicRequest  = proto.MagicRequest
	magicSimple   = proto.MagicSimple
	magicChunk    = proto.MagicChunk

	// Handshake flags, of both sides.
	flagFixedNewstyle = proto.FlagFixedNewstyle
	flagNoZeroes      = proto.FlagNoZeroes

	optExportName      = proto.OptExportName
	optAbort           = proto.OptAbort
	optList            = proto.OptList
	optStartTLS        = proto.OptStartTLS
	optInfo            = proto.OptInfo
	optGo              = proto.OptGo
	optStructuredReply = proto.OptStructuredReply

	repAck        = proto.RepAck
	repServer     = proto.RepServer
	repInfo       = proto.RepInfo
	repErrUnsup   = proto.RepErrUnsup
	repErrInvalid = proto.RepErrInvalid
	repErrUnknown = proto.RepErrUnknown
	repErrTooBig  = proto.RepErrTooBig

	infoExport    = proto.InfoExport
	infoName      = proto.InfoName
	infoBlockSize = proto.InfoBlockSize

	// Transmission flags.
	tfHasFlags     = proto.HasFlags
	tfReadOnly     = proto.ReadOnly
	tfFlush        = proto.SendFlush
	tfFUA          = proto.SendFUA
	tfTrim         = proto.SendTrim
	tfWriteZeroes  = proto.SendWriteZeroes
	tfDontFragment = proto.SendDF
	tfMultiConn    = proto.CanMultiConn
	tfFastZero     = proto.SendFastZero

	cmdRead        = proto.CmdRead
	cmdWrite       = proto.CmdWrite
	cmdDisconnect  = proto.CmdDisconnect
	cmdFlush       = proto.CmdFlush
	cmdTrim        = proto.CmdTrim
	cmdWriteZeroes = proto.CmdWriteZeroes

	cfFUA          = proto.CmdFlagFUA
	cfNoHole       = proto.CmdFlagNoHole
	cfDontFragment = proto.CmdFlagDF
	cfFastZero     = proto.CmdFlagFastZero

	chunkDone       = proto.ChunkFlagDone
	chunkOffsetData = proto.ChunkOffsetData
	chunkError      = proto.ChunkError

	// Error numbers of the protocol: Linux's, for these.
	errPerm     = uint32(proto.EPERM)
	errIO       = uint32(proto.EIO)
	errNoMem    = uint32(proto.ENOMEM)
	errInvalid  = uint32(proto.EINVAL)
	errNoSpace  = uint32(proto.ENOSPC)
	errOverflow = uint32(proto.EOVERFLOW)
	errNotSup   = uint32(proto.ENOTSUP)
	errShutdown = uint32(proto.ESHUTDOWN)
)

// Limits and tuning of this server, apart from the protocol's own constants.
const (
	// MaxRequest is the longest read or write, in bytes, and what is told to
	// clients as the maximum block size.
	MaxRequest = 32 << 20

	minBlock       = 1
	preferredBlock = 4096

	maxDrain       = 2 * MaxRequest // a refused write up to this long is read and thrown away
	maxOptionData  = 8 << 10        // twice the longest export name (4096) and its list
	maxOptionDrain = 64 << 10       // a longer option ends the connection
	maxOptions     = 64             // options in one handshake
	maxName        = 4096

	requestSize = 28 // bytes of a request's header

	maxJobs       = 256      // requests that are not answered; more are not read
	maxParts      = 256      // pieces of them
	connBuffers   = 1 << 20  // memory for data of one connection
	chunkSize     = 64 << 10 // requests, and the data of short writes, are received into such pieces
	mostInChunk   = 32 << 10 // longest write whose data stays there
	mostHeld      = 16       // replies that wait for others
	mostHeldBytes = 64 << 10 // their data
	maxSend       = 64       // replies sent with one system call
	sendBuffer    = 1 << 20  // asked of the kernel, which may give less: fewer waits in a long reply
	zeroStep      = 8 << 20  // a long write-zeroes or trim is done in such steps

	// pollTime is how long the next request is looked for before sleeping: about what
	// waking up costs, and a client needs to send the next one.
	pollTime     = 20 * time.Microsecond
	defaultDrain = 5 * time.Second
)

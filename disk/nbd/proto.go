package nbd

import (
	"time"

	"golang.org/x/sys/unix"
)

// Constants of the protocol; names as in the NBD project's doc/proto.md.
const (
	magicInit     = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption   = 0x49484156454f5054 // "IHAVEOPT"
	magicOptReply = 0x0003e889045565a9
	magicRequest  = 0x25609513
	magicSimple   = 0x67446698
	magicChunk    = 0x668e33ef

	// Handshake flags, of both sides.
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1

	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optStartTLS        = 5
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8

	repAck        = 1
	repServer     = 2
	repInfo       = 3
	repErrUnsup   = 1<<31 | 1
	repErrInvalid = 1<<31 | 3
	repErrUnknown = 1<<31 | 6
	repErrTooBig  = 1<<31 | 9

	infoExport    = 0
	infoName      = 1
	infoBlockSize = 3

	// Transmission flags.
	tfHasFlags     = 1 << 0
	tfReadOnly     = 1 << 1
	tfFlush        = 1 << 2
	tfFUA          = 1 << 3
	tfTrim         = 1 << 5
	tfWriteZeroes  = 1 << 6
	tfDontFragment = 1 << 7
	tfMultiConn    = 1 << 8
	tfFastZero     = 1 << 11

	cmdRead        = 0
	cmdWrite       = 1
	cmdDisconnect  = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6

	cfFUA          = 1 << 0
	cfNoHole       = 1 << 1
	cfDontFragment = 1 << 2
	cfFastZero     = 1 << 4

	chunkDone       = 1 << 0
	chunkOffsetData = 1
	chunkError      = 1<<15 | 1

	// Error numbers of the protocol: Linux's, for these.
	errPerm     = uint32(unix.EPERM)
	errIO       = uint32(unix.EIO)
	errNoMem    = uint32(unix.ENOMEM)
	errInvalid  = uint32(unix.EINVAL)
	errNoSpace  = uint32(unix.ENOSPC)
	errNotSup   = uint32(unix.ENOTSUP)
	errOverflow = uint32(unix.EOVERFLOW)
	errShutdown = uint32(unix.ESHUTDOWN)
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

	maxJobs     = 256      // requests that are not answered; more are not read
	maxParts    = 256      // pieces of them
	connBuffers = 1 << 20  // memory for data of one connection
	chunkSize   = 64 << 10 // requests, and the data of short writes, are received into such pieces
	mostInChunk = 32 << 10 // longest write whose data stays there
	maxSend     = 64       // replies sent with one system call
	sendBuffer  = 1 << 20  // asked of the kernel, which may give less: fewer waits in a long reply
	zeroStep    = 8 << 20  // a long write-zeroes or trim is done in such steps

	defaultDrain = 5 * time.Second
)

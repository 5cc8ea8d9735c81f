package vhostfront

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Requests of the protocol (QEMU's docs/interop/vhost-user.rst).
const (
	GetFeatures         = 1
	SetFeatures         = 2
	SetOwner            = 3
	ResetOwner          = 4
	SetMemTable         = 5
	SetLogBase          = 6
	SetLogFD            = 7
	SetVringNum         = 8
	SetVringAddr        = 9
	SetVringBase        = 10
	GetVringBase        = 11
	SetVringKick        = 12
	SetVringCall        = 13
	SetVringErr         = 14
	GetProtocolFeatures = 15
	SetProtocolFeatures = 16
	GetQueueNum         = 17
	SetVringEnable      = 18
	SetBackendReqFD     = 21
	GetConfig           = 24
	SetConfig           = 25
	GetInflightFD       = 31
	SetInflightFD       = 32
	ResetDevice         = 34
	GetMaxMemSlots      = 36
	AddMemReg           = 37
	RemMemReg           = 38
	SetStatus           = 39
	GetStatus           = 40
)

// Flags of messages, and features.
const (
	Version   = 1
	Reply     = 1 << 2
	NeedReply = 1 << 3

	ProtoMQ                = 1 << 0
	ProtoLogShmFD          = 1 << 1
	ProtoReplyAck          = 1 << 3
	ProtoBackendReq        = 1 << 5
	ProtoConfig            = 1 << 9
	ProtoInflightShmFD     = 1 << 12
	ProtoResetDevice       = 1 << 13
	ProtoConfigureMemSlots = 1 << 15
	ProtoStatus            = 1 << 16

	BlkRO          = 1 << 5
	BlkFlush       = 1 << 9
	BlkConfigWCE   = 1 << 11
	BlkMQ          = 1 << 12
	BlkDiscard     = 1 << 13
	BlkWriteZeroes = 1 << 14
	LogAll         = 1 << 26
	RingIndirect   = 1 << 28
	RingEventIdx   = 1 << 29
	Protocol       = 1 << 30
	Version1       = 1 << 32
)

// Conn speaks the protocol, and anything else one wants to send.
type Conn struct {
	c *net.UnixConn
	// Timeout of one answer; 0 is ten seconds.
	Timeout time.Duration
}

// DialConn connects to a back end's socket.
func DialConn(path string) (*Conn, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return &Conn{c: c}, nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.c.Close() }

// Raw sends bytes as they are.
func (c *Conn) Raw(b []byte, fds ...int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := c.c.WriteMsgUnix(b, oob, nil)
	return err
}

// Message returns a message's bytes.
func Message(request, flags uint32, payload []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, request)
	b = binary.LittleEndian.AppendUint32(b, flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// Send sends a message.
func (c *Conn) Send(request, flags uint32, payload []byte, fds ...int) error {
	return c.Raw(Message(request, flags|Version, payload), fds...)
}

// Recv returns the next answer. Its descriptor is -1 if there is none.
func (c *Conn) Recv() (request uint32, payload []byte, fd int, err error) {
	limit := c.Timeout
	if limit == 0 {
		limit = 10 * time.Second
	}
	_ = c.c.SetReadDeadline(time.Now().Add(limit))
	var head [12]byte
	oob := make([]byte, 64)
	fd = -1
	n, oobn, _, _, err := c.c.ReadMsgUnix(head[:], oob)
	if err != nil {
		return 0, nil, -1, err
	}
	if msgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(msgs) > 0 {
		if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil && len(fds) > 0 {
			fd = fds[0]
		}
	}
	if n == 0 {
		return 0, nil, -1, io.EOF
	}
	if _, err := io.ReadFull(c.c, head[n:]); err != nil {
		return 0, nil, fd, err
	}
	size := binary.LittleEndian.Uint32(head[8:])
	if flags := binary.LittleEndian.Uint32(head[4:]); flags != Version|Reply || size > 4096 {
		return 0, nil, fd, fmt.Errorf("vhostfront: answer with flags %#x and %d bytes", flags, size)
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(c.c, payload)
	return binary.LittleEndian.Uint32(head[:]), payload, fd, err
}

// Ask sends a message and returns its answer.
func (c *Conn) Ask(request uint32, payload []byte, fds ...int) ([]byte, int, error) {
	if err := c.Send(request, 0, payload, fds...); err != nil {
		return nil, -1, err
	}
	got, p, fd, err := c.Recv()
	if err == nil && got != request {
		err = fmt.Errorf("vhostfront: answer to %d instead of %d", got, request)
	}
	return p, fd, err
}

// Do sends a message that has no answer, and asks how it went. REPLY_ACK must have
// been negotiated.
func (c *Conn) Do(request uint32, payload []byte, fds ...int) error {
	if err := c.Send(request, NeedReply, payload, fds...); err != nil {
		return err
	}
	got, p, _, err := c.Recv()
	switch {
	case err != nil:
		return fmt.Errorf("vhostfront: request %d: %w", request, err)
	case got != request || len(p) != 8:
		return fmt.Errorf("vhostfront: request %d: answer %d of %d bytes", request, got, len(p))
	case binary.LittleEndian.Uint64(p) != 0:
		return fmt.Errorf("vhostfront: request %d: %w", request, ErrRefused)
	}
	return nil
}

// ErrRefused is the back end's answer that a message did not succeed.
var ErrRefused = fmt.Errorf("the back end refused")

// U64 is the payload of many messages.
func U64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// U32s is a payload of 32-bit numbers.
func U32s(v ...uint32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

// U64s is a payload of 64-bit numbers.
func U64s(v ...uint64) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

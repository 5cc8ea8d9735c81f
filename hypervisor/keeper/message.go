package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/disk"
)

// Messages between daemon and keeper are single packets of a unix socket of type
// SOCK_SEQPACKET: the kernel keeps their boundaries, and descriptors arrive with
// the message that they belong to.

const (
	maxMessage = 64 << 10
	maxFiles   = 2*maxDisks + 3
)

var (
	encMode = must(cbor.CoreDetEncOptions().UserBufferEncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden,
		TagsMd: cbor.TagsForbidden, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels: 8, MaxArrayElements: 64, MaxMapPairs: 64,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// encode writes into a buffer of its own, never one from the library's pool, and one that
// need not grow for what has secrets in it: either would leave a copy that nobody wipes.
func encode(v any) ([]byte, error) {
	size := 4096 // more than a request has, with the key of a channel
	if w, ok := v.(*wireConfig); ok {
		size = w.encodedSize()
	}
	buf := bytes.NewBuffer(make([]byte, 0, size))
	err := encMode.MarshalToBuffer(v, buf)
	return buf.Bytes(), err
}

func decode(b []byte, v any) error { return decMode.Unmarshal(b, v) }

// Commands of the control socket.
const (
	cmdStats       = "stats"
	cmdFiles       = "files"       // answered with descriptors: see response.Disks
	cmdAllowPeer   = "allow-peer"  // PID; 0 means every process of QEMU's uid
	cmdLimit       = "limit"       // Disk, Limits
	cmdGrow        = "grow"        // Disk, Length
	cmdAnnounce    = "announce"    // Disk: its front end is told of the size
	cmdConnections = "connections" // Disk, and a socket to ask the daemon for connections on
	cmdChannel     = "channel"     // Channel, with its descriptors
	cmdReports     = "reports"     // a socket to report on what becomes of channels
	cmdStop        = "stop"        // Why, Text: what viewers of the console are told; answered when everything is on stable storage
)

type request struct {
	Command string      `cbor:"1,keyasint"`
	Disk    string      `cbor:"2,keyasint,omitempty"`
	PID     int32       `cbor:"3,keyasint,omitempty"`
	Limits  disk.Limits `cbor:"4,keyasint,omitempty"`
	Length  uint64      `cbor:"5,keyasint,omitempty"` // bytes
	Why     console.Why `cbor:"10,keyasint,omitempty"`
	Text    string      `cbor:"11,keyasint,omitempty"`

	Channel *wireChannel `cbor:"20,keyasint,omitempty"`
}

// response answers a request.  To cmdFiles it comes with the descriptors of every
// disk's ciphertext in the order of Stats.Disks, then as many NBD listeners, the console
// listener, the ring file, and the seed's listener if there is one.
type response struct {
	Error     string `cbor:"1,keyasint,omitempty"`
	SocketDir string `cbor:"2,keyasint,omitempty"`
	Stats     *Stats `cbor:"3,keyasint,omitempty"`
	Seed      bool   `cbor:"4,keyasint,omitempty"`
	Busy      bool   `cbor:"5,keyasint,omitempty"` // Error is ErrTooManyChannels
}

func send(c *net.UnixConn, v any, files ...*os.File) error {
	b, err := encode(v)
	if err != nil {
		return err
	}
	defer clear(b) // there may be a key in it
	return sendBytes(c, b, files...)
}

func sendBytes(c *net.UnixConn, b []byte, files ...*os.File) error {
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fd, err := descriptor(f)
			if err != nil {
				return err
			}
			fds[i] = fd
		}
		oob = unix.UnixRights(fds...)
	}
	_, _, err := c.WriteMsgUnix(b, oob, nil)
	return err
}

// descriptor returns f's number.  File.Fd would switch the file to blocking mode,
// and with it every process that shares a listener.
func descriptor(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	n := -1
	err = raw.Control(func(fd uintptr) { n = int(fd) })
	return n, err
}

// receiveBytes reads one message and the descriptors with it.
func receiveBytes(c *net.UnixConn, limit int) ([]byte, []*os.File, error) {
	b, oob := make([]byte, limit), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, nil, err
	}
	files, err := parseFiles(oob[:oobn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("message is too long")
	}
	if err != nil {
		closeAll(files)
		clear(b)
		return nil, nil, err
	}
	return b[:n], files, nil
}

func receive(c *net.UnixConn, v any) ([]*os.File, error) {
	b, files, err := receiveBytes(c, maxMessage)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	if err := decode(b, v); err != nil {
		closeAll(files)
		return nil, fmt.Errorf("malformed message: %w", err)
	}
	return files, nil
}

func parseFiles(oob []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

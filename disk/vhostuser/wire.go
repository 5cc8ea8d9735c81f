package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// message is one request of the front end. Descriptors that nobody takes are
// closed with it.
type message struct {
	request, flags uint32
	payload        []byte
	fds            []int
}

func (m *message) String() string {
	if m.request < uint32(len(shapes)) && shapes[m.request].name != "" {
		return shapes[m.request].name
	}
	return fmt.Sprintf("request %d", m.request)
}

func (m *message) u32(off int) uint32 { return binary.LittleEndian.Uint32(m.payload[off:]) }
func (m *message) u64(off int) uint64 { return binary.LittleEndian.Uint64(m.payload[off:]) }

// take hands over the i-th descriptor.
func (m *message) take(i int) int {
	fd := m.fds[i]
	m.fds[i] = -1
	return fd
}

func (m *message) close() {
	for _, fd := range m.fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	m.fds = nil
}

// socket reads and writes messages.
type socket struct {
	c       *net.UnixConn
	header  [headerSize]byte
	payload [maxPayload]byte
	oob     [128]byte // room for more descriptors than any message may have
}

// receive returns the next message; io.EOF if there is none. Its payload is valid
// until the next call.
func (s *socket) receive() (*message, error) {
	m := &message{}
	if err := s.readHeader(m); err != nil {
		m.close()
		return nil, err
	}
	size := binary.LittleEndian.Uint32(s.header[8:])
	if err := checkHeader(m, size); err != nil {
		m.close()
		return nil, err
	}
	m.payload = s.payload[:size]
	if _, err := io.ReadFull(s.c, m.payload); err != nil {
		m.close()
		return nil, fmt.Errorf("%v: payload of %d bytes: %w", m, size, err)
	}
	return m, nil
}

func (s *socket) readHeader(m *message) error {
	for done := 0; done < headerSize; {
		n, oobn, flags, _, err := s.c.ReadMsgUnix(s.header[done:], s.oob[:])
		if oobn > 0 {
			m.fds = append(m.fds, rights(s.oob[:oobn])...)
		}
		switch {
		case err != nil:
			return err
		case flags&unix.MSG_CTRUNC != 0:
			return errors.New("more descriptors than any message has")
		case n == 0 && done == 0:
			return io.EOF
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		done += n
	}
	m.request = binary.LittleEndian.Uint32(s.header[0:])
	m.flags = binary.LittleEndian.Uint32(s.header[4:])
	return nil
}

// rights returns all descriptors that came with a message.
func rights(oob []byte) []int {
	var fds []int
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range msgs {
		if got, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// checkHeader holds a message against the shape that it must have. Whoever sends
// something else cannot be talked to any more.
func checkHeader(m *message, size uint32) error {
	if m.flags&flagVersions != flagVersion || m.flags&^(flagVersions|flagNeedReply) != 0 {
		return fmt.Errorf("%v: flags %#x", m, m.flags)
	}
	if m.request >= uint32(len(shapes)) || shapes[m.request].name == "" {
		return fmt.Errorf("%v is not supported", m)
	}
	s := &shapes[m.request]
	if size < s.min || size > s.max {
		return fmt.Errorf("%v: payload of %d bytes, want %d to %d", m, size, s.min, s.max)
	}
	if len(m.fds) > s.fds {
		return fmt.Errorf("%v: %d descriptors, want at most %d", m, len(m.fds), s.fds)
	}
	return nil
}

// send writes a reply to m.
func (s *socket) send(m *message, payload []byte, fd int) error {
	b := make([]byte, headerSize, headerSize+len(payload))
	binary.LittleEndian.PutUint32(b[0:], m.request)
	binary.LittleEndian.PutUint32(b[4:], flagVersion|flagReply)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(payload)))
	b = append(b, payload...)
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	n, _, err := s.c.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = s.c.Write(b[n:])
	}
	if err != nil {
		return fmt.Errorf("reply to %v: %w", m, err)
	}
	return nil
}

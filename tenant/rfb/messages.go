package rfb

import (
	"bufio"
	"encoding/binary"
	"io"
)

// messages copies what a viewer sends after the handshake (RFC 6143, 7.5), one message
// at a time.
type messages struct {
	r     *bufio.Reader
	w     *bufio.Writer
	watch bool // drop what does more than look
}

// next copies or drops one message. The error has ErrProtocol in it when the bytes are no
// message; an error of writing shows at the writer's Flush.
func (m *messages) next() error {
	head, err := m.r.Peek(1)
	if err != nil {
		return err
	}
	kind := head[0]
	switch kind {
	case msgSetPixelFormat:
		return m.pass(20, true)
	case msgSetEncodings:
		return m.counted(4, 2, 4, true)
	case msgUpdateRequest, msgContinuous:
		return m.pass(10, true)
	case msgKey:
		return m.checkedFlag(8, 1)
	case msgPointer:
		return m.pass(6, !m.watch)
	case msgCut:
		return m.cut()
	case msgFence:
		return m.fence()
	case msgXVP:
		return m.pass(4, !m.watch)
	case msgSetDesktopSize:
		return m.counted(8, 6, 16, !m.watch)
	case msgQEMU:
		return m.qemu()
	}
	return wrong("a message of type %d", kind)
}

// pass copies n bytes, the whole message or the rest of it.
func (m *messages) pass(n int64, pass bool) error {
	to := io.Writer(m.w)
	if !pass {
		to = io.Discard
	}
	if _, err := io.CopyN(to, m.r, n); err == io.EOF {
		return wrong("the stream ends inside of a message")
	} else if err != nil {
		return err
	}
	return nil
}

// peek returns the first n bytes of the message.
func (m *messages) peek(n int) ([]byte, error) {
	b, err := m.r.Peek(n)
	if err == io.EOF {
		err = wrong("the stream ends inside of a message")
	}
	return b, err
}

// counted is a message of a fixed head and a number of equal parts; the number stands
// at an offset, as two bytes or (of SetDesktopSize, 6) as one.
func (m *messages) counted(head, at int, each int64, pass bool) error {
	b, err := m.peek(head)
	if err != nil {
		return err
	}
	n := int64(b[at])
	if at == 2 {
		n = int64(binary.BigEndian.Uint16(b[at:]))
	}
	return m.pass(int64(head)+n*each, pass)
}

// checkedFlag is a key event: what says down or up must be one of both.
func (m *messages) checkedFlag(n, at int) error {
	b, err := m.peek(n)
	if err != nil {
		return err
	}
	if b[at] > 1 {
		return wrong("a key that is neither down nor up, but %d", b[at])
	}
	return m.pass(int64(n), !m.watch)
}

// cut is clipboard text. A negative length is that of the extended clipboard, which
// begins with flags of four bytes.
func (m *messages) cut() error {
	b, err := m.peek(8)
	if err != nil {
		return err
	}
	n := int64(int32(binary.BigEndian.Uint32(b[4:])))
	if n < 0 {
		if n = -n; n < 4 {
			return wrong("a clipboard message of %d bytes", n)
		}
	}
	if n > MaxCut {
		return wrong("a clipboard of %d bytes; at most %d are taken", n, MaxCut)
	}
	return m.pass(8+n, !m.watch)
}

// fence is a question for when everything before it was handled: at most 64 bytes.
func (m *messages) fence() error {
	b, err := m.peek(9)
	if err != nil {
		return err
	}
	if b[8] > 64 {
		return wrong("a fence of %d bytes", b[8])
	}
	return m.pass(9+int64(b[8]), true)
}

// qemu is one of QEMU's own messages. Those about sound are dropped: a VM has none.
func (m *messages) qemu() error {
	b, err := m.peek(2)
	if err != nil {
		return err
	}
	switch b[1] {
	case qemuKey:
		return m.checkedFlag(12, 3)
	case qemuAudio:
		if b, err = m.peek(4); err != nil {
			return err
		}
		n := int64(4)
		switch op := binary.BigEndian.Uint16(b[2:]); {
		case op == qemuAudioSetFormat:
			n = 10
		case op > qemuAudioSetFormat:
			return wrong("a message about sound of type %d", op)
		}
		return m.pass(n, false)
	}
	return wrong("a message of QEMU's of type %d", b[1])
}

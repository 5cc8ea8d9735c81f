package nbdclient

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

// readBuffer takes many small replies with one system call; longer payloads are
// read straight to where they belong.
const readBuffer = 64 << 10

// maxErrorChunk is the longest chunk that reports an error: number, message,
// offset.
const maxErrorChunk = 4 + 2 + proto.MaxString + 8

// receive takes replies until the connection breaks, and returns why.
func (l *link) receive(s *session) error {
	br := bufio.NewReaderSize(s.nc, readBuffer)
	for {
		b, err := br.Peek(proto.SimpleReplySize) // no reply is shorter
		if err != nil {
			if err == io.EOF && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("nbd: the connection broke: %w", err)
		}
		switch binary.BigEndian.Uint32(b) {
		case proto.MagicSimple:
			err = l.simple(br, s, binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:]))
		case proto.MagicChunk:
			if !s.Structured {
				return violated("a structured reply was not agreed on")
			}
			err = l.chunk(br)
		default:
			return violated("a reply without its magic number")
		}
		if err != nil {
			return err
		}
	}
}

func (l *link) simple(br *bufio.Reader, s *session, number uint32, cookie uint64) error {
	br.Discard(proto.SimpleReplySize)
	r, err := l.find(cookie)
	if err != nil {
		return err
	}
	if r.command == proto.CmdRead && s.Structured {
		return violated("a simple reply to a read after structured ones were agreed on")
	}
	switch {
	case number == proto.ESHUTDOWN:
		return errShutdown
	case number != 0:
		l.answer(r, errno(number))
		return nil
	}
	if r.command == proto.CmdRead {
		if _, err := io.ReadFull(br, r.buf); err != nil {
			return fmt.Errorf("nbd: the connection broke within a reply: %w", midway(err))
		}
	}
	l.answer(r, nil)
	return nil
}

// chunk takes one chunk of a structured reply in.
func (l *link) chunk(br *bufio.Reader) error {
	var head [proto.ChunkHeaderSize]byte
	if _, err := io.ReadFull(br, head[:]); err != nil {
		return fmt.Errorf("nbd: the connection broke within a reply: %w", midway(err))
	}
	flags, kind := binary.BigEndian.Uint16(head[4:]), binary.BigEndian.Uint16(head[6:])
	r, err := l.find(binary.BigEndian.Uint64(head[8:]))
	if err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[16:])
	done := flags&proto.ChunkFlagDone != 0
	if flags&^proto.ChunkFlagDone != 0 {
		return violated("chunk flags %#x", flags)
	}
	switch {
	case kind&proto.ChunkErr != 0:
		err = l.errorChunk(br, r, kind, n)
	case kind == proto.ChunkNone:
		if n != 0 || !done {
			err = violated("an empty chunk that is not empty or not the last")
		}
	case kind == proto.ChunkOffsetData && r.command == proto.CmdRead:
		err = l.data(br, r, n)
	case kind == proto.ChunkOffsetHole && r.command == proto.CmdRead:
		err = l.hole(br, r, n)
	default:
		err = violated("chunk of type %d to command %d", kind, r.command)
	}
	if err != nil || !done {
		return err
	}
	if r.fail == nil && r.command == proto.CmdRead && !r.cover.whole(r.n) {
		return violated("a read ended before all of it came")
	}
	l.answer(r, r.fail)
	return nil
}

// place checks that n bytes at the absolute offset off are a part of r that has
// not come yet, and returns where they belong.
func (r *request) place(off uint64, n uint32) ([]byte, error) {
	start := off - uint64(r.off)
	if off < uint64(r.off) || start > uint64(r.n) || uint64(n) > uint64(r.n)-start || n == 0 {
		return nil, violated("data outside of what was asked for")
	}
	if err := r.cover.add(int(start), int(start)+int(n)); err != nil {
		return nil, err
	}
	return r.buf[start:][:n], nil
}

func (l *link) data(br *bufio.Reader, r *request, n uint32) error {
	var b [8]byte
	if n <= 8 {
		return violated("a data chunk of %d bytes", n)
	}
	if _, err := io.ReadFull(br, b[:]); err != nil {
		return fmt.Errorf("nbd: the connection broke within a reply: %w", midway(err))
	}
	p, err := r.place(binary.BigEndian.Uint64(b[:]), n-8)
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(br, p); err != nil {
		return fmt.Errorf("nbd: the connection broke within a reply: %w", midway(err))
	}
	return nil
}

func (l *link) hole(br *bufio.Reader, r *request, n uint32) error {
	var b [12]byte
	if n != 12 {
		return violated("a hole chunk of %d bytes", n)
	}
	if _, err := io.ReadFull(br, b[:]); err != nil {
		return fmt.Errorf("nbd: the connection broke within a reply: %w", midway(err))
	}
	p, err := r.place(binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint32(b[8:]))
	if err != nil {
		return err
	}
	clear(p)
	return nil
}

// errorChunk remembers the first error; unknown kinds of errors are errors too,
// as the protocol has it.
func (l *link) errorChunk(br *bufio.Reader, r *request, kind uint16, n uint32) error {
	if n < 6 || n > maxErrorChunk {
		return violated("an error chunk of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(br, b); err != nil {
		return fmt.Errorf("nbd: the connection broke within a reply: %w", midway(err))
	}
	number, text := binary.BigEndian.Uint32(b), int(binary.BigEndian.Uint16(b[4:]))
	rest := len(b) - 6 - text
	switch {
	case number == 0:
		return violated("an error chunk without an error")
	case rest < 0 || kind == proto.ChunkError && rest != 0 || kind == proto.ChunkErrorOffset && rest != 8:
		return violated("an error chunk of %d bytes with a message of %d", n, text)
	}
	if kind == proto.ChunkErrorOffset {
		off := binary.BigEndian.Uint64(b[6+text:])
		if off < uint64(r.off) || off-uint64(r.off) >= uint64(max(r.n, 1)) {
			return violated("an error outside of what was asked for")
		}
	}
	if number == proto.ESHUTDOWN {
		return errShutdown
	}
	if r.fail == nil {
		r.fail = errno(number)
	}
	return nil
}

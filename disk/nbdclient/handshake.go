package nbdclient

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"time"
	"unicode"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

const (
	handshakeTimeout = 30 * time.Second
	maxOptReplies    = 64 // to one option
	maxOptReply      = proto.MaxString + 64
	maxBlock         = 32 << 20 // longest read or write when the server names no limit, and never more
	mostMinBlock     = 64 << 10 // the protocol's bound on a minimum block size
)

// Offer is what a handshake has agreed on.
type Offer struct {
	Size       int64  // of the export, in bytes
	Flags      uint16 // transmission flags
	Structured bool   // structured replies are used
	MinBlock   int    // bytes; reads and writes are multiples
	MaxBlock   int    // bytes
}

// session is a connection that an export was chosen on.
type session struct {
	nc net.Conn // TLS, if that is configured
	Offer
}

// Negotiate chooses the export on nc, for another process's Config.Ready; of c only
// Export and TLS count. On an error nc is closed.
func (c *Config) Negotiate(ctx context.Context, nc net.Conn) (net.Conn, Offer, error) {
	s, err := c.handshake(ctx, nc)
	if err != nil {
		return nil, Offer{}, err
	}
	return s.nc, s.Offer, nil
}

// ErrRefused is what a server's offer is that no later attempt is expected to
// mend: a disk that shrank, or that cannot be written.
var ErrRefused = errors.New("nbd: the server's offer cannot be used")

// violation is an error of a server that does not keep to the protocol.
type violation string

func (v violation) Error() string { return "nbd: the server broke the protocol: " + string(v) }

func violated(format string, a ...any) error { return violation(fmt.Sprintf(format, a...)) }

// handshake negotiates the export on nc. On an error nc is closed.
func (c *Config) handshake(ctx context.Context, nc net.Conn) (*session, error) {
	nc.SetDeadline(time.Now().Add(handshakeTimeout))
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	s := &session{nc: nc}
	err := c.negotiate(ctx, s)
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		nc.Close() // the connection itself: closing TLS would wait for the server
		return nil, err
	}
	nc.SetDeadline(time.Time{})
	return s, nil
}

// negotiate reads from the connection exactly what it needs, so nothing that came
// before the TLS handshake can be taken for something that came after it.
func (c *Config) negotiate(ctx context.Context, s *session) error {
	if err := s.greet(); err != nil {
		return err
	}
	if c.TLS != nil {
		if err := s.startTLS(ctx, c.TLS); err != nil {
			return err
		}
	}
	if !c.simpleReplies {
		kind, _, err := s.ask(proto.OptStructuredReply, nil)
		if err != nil {
			return err
		}
		s.Structured = kind == proto.RepAck
	}
	return s.choose(c.Export)
}

func (s *session) greet() error {
	var b [18]byte
	if _, err := io.ReadFull(s.nc, b[:]); err != nil {
		return fmt.Errorf("nbd: reading the server's greeting: %w", err)
	}
	switch {
	case binary.BigEndian.Uint64(b[:]) != proto.MagicInit:
		return violated("it does not greet as an NBD server")
	case binary.BigEndian.Uint64(b[8:]) != proto.MagicOption:
		return fmt.Errorf("%w: it speaks the oldstyle protocol only", ErrRefused)
	}
	flags := binary.BigEndian.Uint16(b[16:])
	if flags&proto.FlagFixedNewstyle == 0 {
		return fmt.Errorf("%w: it does not speak the fixed newstyle protocol", ErrRefused)
	}
	return s.write(binary.BigEndian.AppendUint32(nil, uint32(flags&(proto.FlagFixedNewstyle|proto.FlagNoZeroes))))
}

// startTLS is NBD_OPT_STARTTLS; without it nothing goes on.
func (s *session) startTLS(ctx context.Context, config *tls.Config) error {
	kind, why, err := s.ask(proto.OptStartTLS, nil)
	if err != nil {
		return err
	}
	if kind != proto.RepAck {
		return fmt.Errorf("%w: TLS is required here, and it answered %s", ErrRefused, why)
	}
	t := tls.Client(s.nc, config)
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("nbd: TLS with the server: %w", err)
	}
	s.nc = t
	return nil
}

// choose is NBD_OPT_GO.
func (s *session) choose(export string) error {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint16(b, 1)
	b = binary.BigEndian.AppendUint16(b, proto.InfoBlockSize)
	if err := s.option(proto.OptGo, b); err != nil {
		return err
	}
	s.MinBlock, s.MaxBlock = 1, maxBlock
	seen := map[uint16]bool{}
	for range maxOptReplies {
		kind, data, err := s.optReply(proto.OptGo)
		if err != nil {
			return err
		}
		switch {
		case kind == proto.RepInfo:
			if err := s.info(data, seen); err != nil {
				return err
			}
		case kind == proto.RepAck && len(data) == 0:
			if !seen[proto.InfoExport] {
				return violated("it chose an export without saying its size")
			}
			return nil
		case kind&proto.RepErr != 0:
			return goError(export, kind, data)
		default:
			return violated("reply %#x of %d bytes to the choice of an export", kind, len(data))
		}
	}
	return violated("more than %d replies to one option", maxOptReplies)
}

func goError(export string, kind uint32, data []byte) error {
	switch kind {
	case proto.RepErrUnknown:
		return fmt.Errorf("nbd: the server has no export %.80q: %s", export, describe(kind, data))
	case proto.RepErrTLSReqd:
		return fmt.Errorf("%w: it wants TLS: give a CA, or an nbds URI", ErrRefused)
	}
	return fmt.Errorf("nbd: export %.80q: the server answered %s", export, describe(kind, data))
}

// info takes one NBD_REP_INFO in; kinds that were not asked for are passed over,
// as the protocol has it.
func (s *session) info(b []byte, seen map[uint16]bool) error {
	if len(b) < 2 {
		return violated("information without a type")
	}
	kind := binary.BigEndian.Uint16(b)
	b = b[2:]
	if kind != proto.InfoExport && kind != proto.InfoBlockSize {
		return nil
	}
	if seen[kind] {
		return violated("information %d came twice", kind)
	}
	seen[kind] = true
	if kind == proto.InfoExport {
		if len(b) != 10 {
			return violated("the export's information has %d bytes", len(b))
		}
		size := binary.BigEndian.Uint64(b)
		s.Flags = binary.BigEndian.Uint16(b[8:])
		if size > math.MaxInt64 || s.Flags&proto.HasFlags == 0 {
			return violated("an export of %d bytes with flags %#x", size, s.Flags)
		}
		s.Size = int64(size)
		return nil
	}
	if len(b) != 12 {
		return violated("the block sizes have %d bytes", len(b))
	}
	least, preferred, most := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	powerOf2 := func(n uint32) bool { return n != 0 && n&(n-1) == 0 }
	if !powerOf2(least) || least > mostMinBlock || !powerOf2(preferred) || preferred < max(least, 512) || most < least || (most != math.MaxUint32 && most%least != 0) {
		return violated("block sizes %d, %d, %d", least, preferred, most)
	}
	s.MinBlock, s.MaxBlock = int(least), int(min(most, maxBlock))
	return nil
}

// ask sends an option that is answered with one reply without data, or an error
// that why describes.
func (s *session) ask(code uint32, data []byte) (kind uint32, why string, err error) {
	if err := s.option(code, data); err != nil {
		return 0, "", err
	}
	kind, b, err := s.optReply(code)
	if err != nil {
		return 0, "", err
	}
	if kind&proto.RepErr == 0 && (kind != proto.RepAck || len(b) != 0) {
		return 0, "", violated("reply %#x of %d bytes to option %d", kind, len(b), code)
	}
	return kind, describe(kind, b), nil
}

func (s *session) option(code uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, proto.MagicOption)
	b = binary.BigEndian.AppendUint32(b, code)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return s.write(append(b, data...))
}

func (s *session) optReply(code uint32) (kind uint32, data []byte, err error) {
	var b [proto.OptReplySize]byte
	if _, err := io.ReadFull(s.nc, b[:]); err != nil {
		return 0, nil, fmt.Errorf("nbd: reading the answer to option %d: %w", code, err)
	}
	n := binary.BigEndian.Uint32(b[16:])
	switch {
	case binary.BigEndian.Uint64(b[:]) != proto.MagicOptReply:
		return 0, nil, violated("option reply without its magic number")
	case binary.BigEndian.Uint32(b[8:]) != code:
		return 0, nil, violated("reply to option %d, asked for %d", binary.BigEndian.Uint32(b[8:]), code)
	case n > maxOptReply:
		return 0, nil, violated("option reply of %d bytes", n)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(s.nc, data); err != nil {
		return 0, nil, fmt.Errorf("nbd: reading the answer to option %d: %w", code, err)
	}
	return binary.BigEndian.Uint32(b[12:]), data, nil
}

func (s *session) write(b []byte) error {
	if _, err := s.nc.Write(b); err != nil {
		return fmt.Errorf("nbd: negotiating: %w", err)
	}
	return nil
}

// describe is an option reply for people; the server's own words are cut and
// cleaned.
func describe(kind uint32, data []byte) string {
	name, known := map[uint32]string{
		proto.RepErrUnsup: "that it does not know the option", proto.RepErrPolicy: "that it is not allowed", proto.RepErrInvalid: "that the request is invalid",
		proto.RepErrTLSReqd: "that TLS is required", proto.RepErrUnknown: "that it is unknown", proto.RepErrShutdown: "that it is shutting down",
		proto.RepErrBlockSizeReqd: "that block sizes must be negotiated", proto.RepErrTooBig: "that the request is too long",
	}[kind]
	if !known {
		name = fmt.Sprintf("%#x", kind)
	}
	if text := clean(data); text != "" {
		name += fmt.Sprintf(" (%q)", text)
	}
	return name
}

func clean(b []byte) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, string(b[:min(len(b), 200)]))
}

package console

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

const flagResumed = 1

// ErrMalformed is the class of all errors about what the other end sent.
var ErrMalformed = errors.New("malformed console message")

// ErrVersion says that an Attach or Attached is of another version.
var ErrVersion = errors.New("another version of the console's messages")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// side is who sends the messages that a Reader reads.
type side int

const (
	fromClient side = iota
	fromHypervisor
)

// Reader reads messages. It takes a bounded amount of memory.
type Reader struct {
	r    *bufio.Reader
	side side
	buf  []byte
}

// NewClientReader reads what the hypervisor sends.
func NewClientReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, headerSize+maxPayload), side: fromHypervisor, buf: make([]byte, 0, maxPayload)}
}

// NewHypervisorReader reads what a client sends.
func NewHypervisorReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, headerSize+8+MaxInput), side: fromClient, buf: make([]byte, 0, 8+MaxInput)}
}

// Next reads one message. The error is io.EOF at the end of the stream between two
// messages, io.ErrUnexpectedEOF within one, that of the stream, or an ErrMalformed.
func (r *Reader) Next() (Message, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return nil, err
	}
	n := int(be.Uint16(h[1:]))
	least, most := sizes(r.side, h[0])
	if n < least || n > most {
		return nil, malformed("kind %d of %d bytes", h[0], n)
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return decode(h[0], r.buf)
}

// sizes are the least and the most bytes of payload of a kind from one side; a kind
// that it may not send has none.
func sizes(from side, kind byte) (least, most int) {
	if from == fromClient {
		switch kind {
		case kindAttach:
			return attachSize, attachSize + MaxName
		case kindInput:
			return 9, 8 + MaxInput
		case kindResize:
			return 4, 4
		case kindMode:
			return 1, 1
		case kindWho:
			return 0, 0
		case kindAck:
			return 8, 8
		}
		return 1, 0
	}
	switch kind {
	case kindAttached:
		return attachedSize, attachedSize
	case kindOutput:
		return 9, 8 + MaxOutput
	case kindLost, kindTaken:
		return 16, 16
	case kindViewers:
		return 1, 1 + MaxViewers*(viewerSize+MaxName)
	case kindEnd:
		return 2, 2 + MaxText
	}
	return 1, 0
}

// Sizes of payloads without their texts.
const (
	attachSize   = 1 + SessionSize + 2 + 8 + 4 + 1
	attachedSize = 2 + 4 + 3*8
	viewerSize   = 4 + 8 + 4 + 1 + 1
)

// decode takes a payload whose length is within the sizes of its kind.
func decode(kind byte, b []byte) (Message, error) {
	d := decoder{b: b}
	m := d.message(kind)
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes follow the message", len(d.b))
	}
	if d.err != nil {
		return nil, d.err
	}
	return m, nil
}

func (d *decoder) message(kind byte) Message {
	switch kind {
	case kindAttach:
		return d.attach()
	case kindInput:
		return Input{d.u64(), d.rest()}
	case kindResize:
		return Resize{d.size()}
	case kindMode:
		return SetMode{d.mode(Read, Write, Take)}
	case kindWho:
		return Who{}
	case kindAck:
		return Ack{d.u64()}
	case kindAttached:
		return d.attached()
	case kindOutput:
		return Output{d.u64(), d.rest()}
	case kindLost:
		return Lost{d.u64(), d.u64()}
	case kindTaken:
		t := Taken{d.u64(), d.u64()}
		if t.Refused > t.Input {
			d.fail("%d bytes of input refused out of %d", t.Refused, t.Input)
		}
		return t
	case kindViewers:
		return d.viewers()
	default:
		return d.end()
	}
}

// decoder takes values off b; after the first error it yields zeros.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = malformed(format, args...)
	}
}

func (d *decoder) take(n int) []byte {
	if d.err != nil || len(d.b) < n {
		d.fail("it is cut short")
		return make([]byte, n)
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) rest() []byte { return d.take(len(d.b)) }
func (d *decoder) u8() byte     { return d.take(1)[0] }
func (d *decoder) u16() uint16  { return be.Uint16(d.take(2)) }
func (d *decoder) u32() uint32  { return be.Uint32(d.take(4)) }
func (d *decoder) u64() uint64  { return be.Uint64(d.take(8)) }
func (d *decoder) size() Size   { return Size{d.u16(), d.u16()} }

func (d *decoder) text(most int) string {
	s := string(d.take(int(d.u8())))
	if !isClean(s, most) {
		d.fail("a text is longer than %d bytes or has control characters", most)
		return ""
	}
	return s
}

func (d *decoder) mode(allowed ...Mode) Mode {
	m := Mode(d.u8())
	for _, a := range allowed {
		if m == a {
			return m
		}
	}
	d.fail("mode %d", byte(m))
	return Read
}

func (d *decoder) version() {
	if v := d.u8(); v != Version && d.err == nil {
		d.err = fmt.Errorf("%w: %d, this is %d", ErrVersion, v, Version)
	}
}

func (d *decoder) attach() Attach {
	var m Attach
	d.version()
	copy(m.Session[:], d.take(SessionSize))
	m.Mode = d.mode(Read, Write, Take)
	m.Start.From = From(d.u8())
	if m.Start.From > FromLast {
		d.fail("start of kind %d", byte(m.Start.From))
	}
	m.Start.N, m.Size, m.Name = d.u64(), d.size(), d.text(MaxName)
	return m
}

func (d *decoder) attached() Attached {
	d.version()
	flags := d.u8()
	m := Attached{Resumed: flags == flagResumed, ID: d.u32(), Offset: d.u64(), End: d.u64(), Input: d.u64()}
	if flags > flagResumed || m.Offset > m.End || (!m.Resumed && m.Input > 0) {
		d.fail("attached with values that cannot be")
	}
	return m
}

func (d *decoder) viewers() Viewers {
	n := int(d.u8())
	if n > MaxViewers {
		d.fail("%d viewers", n)
		return Viewers{}
	}
	m := Viewers{Viewers: make([]Viewer, n)}
	for i := range m.Viewers {
		v := &m.Viewers[i]
		v.ID, v.Since, v.Size = d.u32(), int64(d.u64()), d.size()
		v.Mode, v.Name = d.mode(Read, Write, Waiting), d.text(MaxName)
	}
	return m
}

func (d *decoder) end() End {
	m := End{Why: Why(d.u8()), Text: d.text(MaxText)}
	if m.Why > OtherVersion {
		d.fail("end for reason %d", byte(m.Why))
	}
	return m
}

// CleanName makes a viewer's name, or the text of an End with its own limit, out of
// any text: what is no printable character becomes a question mark, and what is too
// long is cut.
func CleanName(s string) string { return clean(s, MaxName) }

// CleanText is CleanName for the text of an End.
func CleanText(s string) string { return clean(s, MaxText) }

func clean(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if !isPlain(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

func isClean(s string, most int) bool {
	return len(s) <= most && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !isPlain(r) }) < 0
}

// isPlain leaves out what could play with a terminal or hide other text: control
// and format characters, and every space but the plain one.
func isPlain(r rune) bool { return unicode.IsPrint(r) }

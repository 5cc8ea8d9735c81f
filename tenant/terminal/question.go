package terminal

import (
	"bytes"
	"fmt"

	"github.com/uvbond/uvbond/channel/console"
)

// question finds in what a VM prints the question of its shell for the terminal's size:
// xterm's "report the size in characters" with the size that is set in the guest behind it,
//
//	ESC [ 1 8 ; rows ; columns t
//
// The answer is xterm's, ESC [ 8 ; rows ; columns t, and is typed when the size is another. So a
// shell asks before each prompt, and nothing is typed and drawn again as long as nothing changes. Package
// firstboot has the guest's half.
type question struct {
	held   []byte // how a question begins
	number int    // of the sizes: which is being read
	sizes  [2]int // rows, columns
}

const questionHead = "\x1b[18;"

// filter returns what of p is no question, and calls asked for each, after what stood before it
// was appended to the result.
func (q *question) filter(p []byte, asked func(console.Size)) []byte {
	if len(q.held) == 0 && bytes.IndexByte(p, questionHead[0]) < 0 {
		return p
	}
	out := make([]byte, 0, len(q.held)+len(p))
	for _, b := range p {
		if len(q.held) > 0 {
			switch q.next(b) {
			case askedNo:
				out = q.flush(out)
			case askedMore:
				q.held = append(q.held, b)
				continue
			case askedAll:
				q.held = q.held[:0]
				asked(console.Size{Rows: uint16(q.sizes[0]), Columns: uint16(q.sizes[1])})
				continue
			}
		}
		if b == questionHead[0] {
			q.held = append(q.held[:0], b)
			continue
		}
		out = append(out, b)
	}
	return out
}

// flush appends to out what turned out to be no question, or is not complete.
func (q *question) flush(out []byte) []byte {
	out = append(out, q.held...)
	q.held = q.held[:0]
	return out
}

// What a byte makes of what is held.
type asking int

const (
	askedNo asking = iota
	askedMore
	askedAll
)

func (q *question) next(b byte) asking {
	if n := len(q.held); n < len(questionHead) {
		q.number, q.sizes = 0, [2]int{}
		if b == questionHead[n] {
			return askedMore
		}
		return askedNo
	}
	after := q.held[len(q.held)-1] != ';' // a digit
	size := &q.sizes[q.number]
	switch {
	case b >= '0' && b <= '9' && (*size > 0 || !after):
		if *size = 10*(*size) + int(b-'0'); *size < 1<<16 {
			return askedMore
		}
	case b == ';' && after && q.number == 0:
		q.number = 1
		return askedMore
	case b == 't' && after && q.number == 1:
		return askedAll
	}
	return askedNo
}

// answer types the terminal's size for a shell that has another one. It does not when the
// answer could miss the prompt that it is for: when more than one line was typed since the last question, and
// some of it may be under way still. The next prompt asks again.
func (s *Session) answer(has console.Size) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.lines
	s.lines = 0
	z := s.hello.Size
	text := fmt.Appendf(nil, "\x1b[8;%d;%dt", z.Rows, z.Columns)
	switch {
	case z == has, z.Rows == 0, z.Columns == 0, !s.writing, !s.ready, s.ended:
	case lines > 1 && len(s.input.pending) > 0:
	case len(s.input.pending)+len(text) > maxPending:
	default:
		s.input.pending = append(s.input.pending, text...)
		s.wakeUp()
	}
}

// countLines counts what ends a line for a shell or a program that reads lines.
func countLines(p []byte) (n int) {
	for _, b := range p {
		switch b {
		case '\r', '\n', 'C' & 0x1f, 'D' & 0x1f, 'O' & 0x1f, 'Z' & 0x1f, '\\' & 0x1f:
			n++
		}
	}
	return n
}

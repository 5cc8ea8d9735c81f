package cli

import "bytes"

// answerFilter leaves out of a VM's earlier output what makes a terminal answer: reports of its
// cursor, type and colours. The answer would be typed into the VM, which asked long ago.
// Everything else passes, cut wherever the pieces are. It begins and ends sequences where
// terminals do: an escape within one begins another.
type answerFilter struct {
	held  []byte // an escape sequence that is not complete
	state int    // as of plainWriter
	skip  bool   // the sequence is too long, and left out
	lead  bool   // the last byte was the first of C1 controls in UTF-8, and is not passed yet
}

// maxHeld bounds what is held of a sequence, bytes.
const maxHeld = 256

// Controls that end or ask something wherever they stand.
const (
	enq    = 0x05
	cancel = 0x18
	sub    = 0x1a
	esc    = 0x1b
	c1Lead = 0xc2 // U+0080 to U+009f are this and a byte of the same value
)

// filter returns what of p passes.
func (f *answerFilter) filter(p []byte) []byte {
	out := make([]byte, 0, len(p)+1)
	for _, b := range p {
		if f.state == endOSC && b != '\\' {
			f.begin() // that escape ended the text and began another sequence
		}
		switch {
		case b == enq:
		case f.state != inText && (b == cancel || b == sub):
			f.state = inText
		case b == esc && f.state != inOSC:
			f.begin()
		case f.state == inText:
			out = f.text(out, b)
		default:
			out = f.inside(out, b)
		}
	}
	return out
}

// begin begins a sequence; what is held of another has no effect.
func (f *answerFilter) begin() {
	f.held, f.state, f.skip, f.lead = append(f.held[:0], esc), afterEscape, false, false
}

// text passes text, without C1 controls: they begin sequences too.
func (f *answerFilter) text(out []byte, b byte) []byte {
	lead := f.lead
	if f.lead = b == c1Lead; f.lead {
		return out
	}
	switch {
	case lead && isC1(b):
		return out
	case lead:
		out = append(out, c1Lead)
	}
	return append(out, b)
}

// inside takes a byte of a sequence, and passes the whole when it is complete.
func (f *answerFilter) inside(out []byte, b byte) []byte {
	if !f.skip {
		f.held = append(f.held, b)
	}
	f.state = next(f.state, b)
	switch {
	case f.state == inText && !f.skip && !asks(f.held):
		return append(out, f.held...)
	case f.state != inText && len(f.held) == maxHeld && isTitle(f.held):
		f.state = inText
		return append(out, f.held...)
	case len(f.held) == maxHeld:
		f.skip = true // whether it asks stands at its end
	}
	return out
}

func isC1(b byte) bool { return b >= 0x80 && b <= 0x9f }

// isTitle tells whether a text for the terminal is a title or a link, which may be long and
// ask nothing.
func isTitle(s []byte) bool {
	return len(s) > 3 && s[1] == ']' && s[3] == ';' && bytes.IndexByte([]byte("0128"), s[2]) >= 0
}

// asks tells whether a terminal answers an escape sequence.
func asks(s []byte) bool {
	last := s[len(s)-1]
	for i, b := range s[1:] {
		if s[i] == c1Lead && isC1(b) {
			return true // another sequence within
		}
	}
	switch s[1] {
	case '[':
		switch last {
		case 'n', 'c', 'x', 't': // DSR, DA, DECREQTPARM, window reports
			return true
		case 'p', 'u', 'q', 'm', 'w', 'y', 'S': // DECRQM, keyboard protocol, XTVERSION, XTQMODKEYS, DECRQPSR, DECRQCRA, XTSMGRAPHICS
			return bytes.ContainsAny(s, "$?>*")
		}
	case 'Z': // DECID
		return true
	case ']', 'P', '_': // OSC and DCS with a question; graphics commands answer too
		return s[1] != ']' || bytes.IndexByte(s, '?') >= 0
	}
	return false
}

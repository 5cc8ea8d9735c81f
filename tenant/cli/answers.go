package cli

// answerFilter leaves out of a VM's earlier output what makes a terminal answer: reports of its
// cursor, type and colours. The answer would be typed into the VM, which asked long ago.
// Everything else passes, cut wherever the pieces are.
type answerFilter struct {
	held  []byte // an escape sequence that is not complete
	state int    // as of plainWriter
}

// maxHeld bounds what is held of a sequence, bytes; a longer one asks for nothing.
const maxHeld = 256

// filter returns what of p passes.
func (f *answerFilter) filter(p []byte) []byte {
	out := make([]byte, 0, len(p))
	for _, b := range p {
		switch {
		case f.state == inText && b == 0x1b:
			f.held, f.state = append(f.held[:0], b), afterEscape
		case f.state == inText:
			if b != 0x05 { // ENQ
				out = append(out, b)
			}
		default:
			f.held = append(f.held, b)
			f.state = next(f.state, b)
			if f.state != inText && len(f.held) < maxHeld {
				continue
			}
			if f.state != inText || !asks(f.held) {
				out = append(out, f.held...)
			}
			f.state = inText
		}
	}
	return out
}

// asks tells whether a terminal answers an escape sequence.
func asks(s []byte) bool {
	last := s[len(s)-1]
	switch s[1] {
	case '[':
		switch last {
		case 'n', 'c', 'x': // DSR, DA, DECREQTPARM
			return true
		case 'p', 'u', 't', 'q': // DECRQM, keyboard protocol, window reports, XTVERSION
			return containsAny(s, '$', '?', '>') || last == 't'
		}
	case 'Z': // DECID
		return true
	case ']', 'P', '_': // OSC and DCS with a question; graphics commands answer too
		return s[1] != ']' || containsAny(s, '?')
	}
	return false
}

func containsAny(s []byte, any ...byte) bool {
	for _, b := range s {
		for _, a := range any {
			if a == b {
				return true
			}
		}
	}
	return false
}

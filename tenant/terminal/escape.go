package terminal

import (
	"fmt"
	"strings"
)

// Escapes finds commands in what is typed, as ssh does: the escape character at the start
// of a line, then one that says what to do. It passes on everything else.
type Escapes struct {
	char    byte
	off     bool
	midLine bool
	held    bool // the escape character came, and nothing behind it yet
}

// NewEscapes takes the escape character as a person writes it: one ASCII character, ^X for a
// control character, or "none".
func NewEscapes(text string) (*Escapes, error) {
	switch {
	case text == "none":
		return &Escapes{off: true}, nil
	case len(text) == 1 && text[0] > ' ' && text[0] < 0x7f:
		return &Escapes{char: text[0]}, nil
	case len(text) == 2 && text[0] == '^':
		key := strings.ToUpper(text)[1]
		if c := key & 0x1f; key > '@' && key <= '_' && !endsLine(c) {
			return &Escapes{char: c}, nil
		}
	}
	return nil, fmt.Errorf("%.20q is no escape character: give one character, ^X, or none", text)
}

// String writes the escape character as it is typed.
func (e *Escapes) String() string {
	switch {
	case e.off:
		return "none"
	case e.char < ' ':
		return "^" + string(rune(e.char|0x40))
	}
	return string(rune(e.char))
}

// Off tells whether there are no escapes.
func (e *Escapes) Off() bool { return e.off }

// Next takes what was typed and returns what of it is input, up to the first command. A
// command of 0 is none; rest is what was typed behind a command. A key that is no
// command is input, and so is the escape character before it.
func (e *Escapes) Next(typed []byte) (input []byte, command byte, rest []byte) {
	if e.off {
		return typed, 0, nil
	}
	for i, b := range typed {
		switch {
		case e.held && b == e.char:
			e.held, e.midLine = false, true
			input = append(input, b)
		case e.held && isCommand(b):
			e.held = false
			return input, b, typed[i+1:]
		case e.held:
			e.held = false
			input = append(input, e.char, b)
			e.midLine = !endsLine(b)
		case b == e.char && !e.midLine:
			e.held = true
		default:
			input = append(input, b)
			e.midLine = !endsLine(b)
		}
	}
	return input, 0, nil
}

func endsLine(b byte) bool { return b == '\r' || b == '\n' }

// ctrlZ suspends the program.
const ctrlZ = 'Z' & 0x1f

func isCommand(b byte) bool {
	switch b {
	case '.', '?', '#', 'w', 'r', 's', ctrlZ:
		return true
	}
	return false
}

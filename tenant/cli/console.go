package cli

import (
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/tenant"
)

func (a *app) vmLog() *cobra.Command {
	var follow, raw bool
	c := &cobra.Command{
		Use: "log NAME", Short: "Print a VM's serial output",
		Long: `Prints the serial output of the VM's newest instance. It comes sealed for you: the
server never sees it. On a terminal, control sequences of the guest are left out
unless --raw is given. With --json each part is one object, its data in base64.`,
		Example:           "  uvbond vm log web1\n  uvbond vm log web1 --follow",
		Args:              exactly(1),
		ValidArgsFunction: a.vmNames(),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			return o.Console(c.Context(), args[0], follow, a.consoleSink(raw))
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on printing until interrupted")
	c.Flags().BoolVar(&raw, "raw", false, "print the guest's control sequences to a terminal too")
	return c
}

func (a *app) consoleSink(raw bool) tenant.ConsoleSink {
	type part struct {
		Instance uint64 `json:"instance"`
		Lost     uint64 `json:"lost,omitempty"`
		Data     []byte `json:"data"`
	}
	var instance uint64
	out := a.out
	if a.shown && !raw {
		out = &plainWriter{w: a.out}
	}
	return func(n uint64, data []byte, lost uint64) error {
		if a.json {
			if len(data) == 0 && lost == 0 {
				return nil
			}
			return a.print(part{n, lost, data}, nil)
		}
		if instance != 0 && n != instance {
			a.note("\n--- instance %d ---", n)
		}
		instance = n
		if lost > 0 {
			a.note("--- %s of older output are no longer kept ---", bytesText(lost))
		}
		if _, err := out.Write(data); err != nil {
			return fmt.Errorf("cannot write the output: %w", err)
		}
		return nil
	}
}

// plainWriter leaves out what a guest could use to play with the owner's
// terminal: control characters and escape sequences.
type plainWriter struct {
	w     io.Writer
	state int // of the escape sequence: see below
	part  []byte
}

// States of a plainWriter.
const (
	inText = iota
	afterEscape
	inCSI // ESC [ ... final byte
	inOSC // ESC ] ... BEL or ESC \
	endOSC
	inCharset // ESC ( X
)

// Write passes on the harmless part of p.
func (t *plainWriter) Write(p []byte) (int, error) {
	out := make([]byte, 0, len(p))
	for _, b := range p {
		if t.state != inText {
			t.state = next(t.state, b)
			continue
		}
		switch {
		case b == 0x1b:
			t.state = afterEscape
		case b == '\n' || b == '\t' || b == '\r' || b == '\b':
			out = append(out, b)
		case b >= 0x20 && b < 0x7f:
			out = append(out, b)
		case b >= 0x80:
			t.part = append(t.part, b)
			if utf8.FullRune(t.part) {
				if r, _ := utf8.DecodeRune(t.part); r != utf8.RuneError && r >= 0xa0 {
					out = append(out, t.part...)
				}
				t.part = t.part[:0]
			}
			continue
		}
		t.part = t.part[:0]
	}
	if _, err := t.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

func next(state int, b byte) int {
	switch state {
	case afterEscape:
		switch b {
		case '[':
			return inCSI
		case ']', 'P', 'X', '^', '_':
			return inOSC
		case '(', ')', '#', '%', ' ':
			return inCharset
		}
		return inText
	case inCSI:
		if b >= 0x40 && b <= 0x7e {
			return inText
		}
		return inCSI
	case inOSC:
		switch b {
		case 0x07:
			return inText
		case 0x1b:
			return endOSC
		}
		return inOSC
	default:
		return inText
	}
}

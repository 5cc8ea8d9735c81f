// Package rfb speaks the Remote Framebuffer protocol of VNC (RFC 6143), on a
// connection that somebody else made: both halves that a VM's screen needs on the
// owner's machine.
//
// [Connect] is a client of QEMU's VNC server, at the far end of a screen channel: it
// fetches the picture ([Client.Screenshot]) and presses keys ([Client.Type],
// [Client.Press]). [Greet] and [Relay] are a server for the owner's own VNC viewer on a
// local port: it proves that it knows a one-time password, and is then joined with the
// channel.
//
// It trusts nobody. What QEMU sends is drawn by the guest; what arrives at a local port
// can be from any program of the machine. Sizes are capped before memory is taken,
// messages that the specification does not know end the connection, and texts are
// cleaned before they stand in an error. It does not protect what is sent: the channel
// does that, and on the local port only the password is hidden.
//
// It is written here because no library for Go is alive: those on the module proxy had
// their last change in 2015 or are not there, and none bounds what a server may ask for.
package rfb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Limits. QEMU's own are smaller than or equal to these.
const (
	MaxSide   = 8192    // pixels of width or height
	MaxPixels = 1 << 25 // of a whole screen: 8K (7680x4320) fits; 128 MiB in memory
	MaxCut    = 1 << 20 // bytes of clipboard text in one message
	maxText   = 4096    // bytes of a name or a reason
)

// versionLength is that of "RFB 003.008\n" (RFC 6143, 7.1.1).
const versionLength = 12

// Security types (RFC 6143, 7.1.2).
const (
	securityNone = 1
	securityVNC  = 2
)

// Messages from the client (RFC 6143, 7.5, and the registry it names).
const (
	msgSetPixelFormat   = 0
	msgSetEncodings     = 2
	msgUpdateRequest    = 3
	msgKey              = 4
	msgPointer          = 5
	msgCut              = 6
	msgContinuous       = 150
	msgFence            = 248
	msgXVP              = 250
	msgSetDesktopSize   = 251
	msgQEMU             = 255
	qemuKey             = 0 // QEMU's: a key with its place on the keyboard
	qemuAudio           = 1
	qemuAudioSetFormat  = 2
	msgServerUpdate     = 0
	msgServerColours    = 1
	msgServerBell       = 2
	msgServerCut        = 3
	encodingRaw         = 0
	encodingCopy        = 1
	encodingZlib        = 6
	encodingDesktopSize = -223
	encodingLastRect    = -224
	encodingExtKey      = -258
	encodingExtDesktop  = -308
)

// ErrProtocol is in the chain of every error about bytes that are not RFB, or that
// ask for more than the limits of this package.
var ErrProtocol = errors.New("not the RFB protocol")

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// size is a checked pair of width and height.
type size struct{ w, h int }

func newSize(w, h uint16) (size, error) {
	s := size{int(w), int(h)}
	if s.w == 0 || s.h == 0 || s.w > MaxSide || s.h > MaxSide || s.w*s.h > MaxPixels {
		return size{}, wrong("a screen of %dx%d pixels", w, h)
	}
	return s, nil
}

// readText reads a length of four bytes and the text.
func readText(r io.Reader) (string, error) {
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return "", err
	}
	n := binary.BigEndian.Uint32(b[:])
	if n > maxText {
		return "", wrong("a text of %d bytes", n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return "", err
	}
	return clean(string(text)), nil
}

// clean drops what must not reach a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}

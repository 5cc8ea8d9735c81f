package rfb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// clientHandshake does the client's part up to the end of the security phase (RFC
// 6143, 7.1.1 to 7.1.3): version 3.8, security type None. Inside a channel both ends
// have proven who they are already. Nothing beyond it is read.
func clientHandshake(conn io.ReadWriter) error {
	var line [versionLength]byte
	if _, err := io.ReadFull(conn, line[:]); err != nil {
		return err
	}
	if minor, err := parseVersion(line); err != nil {
		return err
	} else if minor < 8 {
		return wrong("version 3.%d where 3.8 is needed", minor)
	}
	if _, err := io.WriteString(conn, "RFB 003.008\n"); err != nil {
		return err
	}
	var n [1]byte
	if _, err := io.ReadFull(conn, n[:]); err != nil {
		return err
	}
	if n[0] == 0 {
		return refusedBecause(conn)
	}
	types := make([]byte, n[0])
	if _, err := io.ReadFull(conn, types); err != nil {
		return err
	}
	if !slices.Contains(types, securityNone) {
		return wrong("the server wants a password; in a channel there is none")
	}
	if _, err := conn.Write([]byte{securityNone}); err != nil {
		return err
	}
	var result [4]byte
	if _, err := io.ReadFull(conn, result[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(result[:]) != 0 {
		return refusedBecause(conn)
	}
	return nil
}

func refusedBecause(r io.Reader) error {
	reason, err := readText(r)
	if err != nil {
		return err
	}
	return fmt.Errorf("the VNC server refused: %q", reason)
}

// parseVersion reads "RFB xxx.yyy\n" and returns the version to speak: 3, 7 or 8 of
// 3.x. RFC 6143, 7.1.1, lets an unknown one count as 3.3; Apple's 3.889 is a 3.8.
func parseVersion(line [versionLength]byte) (minor int, err error) {
	var major int
	for i, b := range line[4:11] {
		switch {
		case i == 3:
			if b != '.' {
				return 0, errVersion
			}
		case b < '0' || b > '9':
			return 0, errVersion
		case i < 3:
			major = major*10 + int(b-'0')
		default:
			minor = minor*10 + int(b-'0')
		}
	}
	if string(line[:4]) != "RFB " || line[11] != '\n' {
		return 0, errVersion
	}
	switch {
	case major > 3 || major == 3 && minor >= 8:
		return 8, nil
	case major == 3 && minor == 7:
		return 7, nil
	case major == 3 && minor >= 3:
		return 3, nil
	}
	return 0, errVersion
}

var errVersion = wrong("the first line is no version of it")

// serverInit is what a server says about its screen (RFC 6143, 7.3.2).
type serverInit struct {
	size size
	name string
}

func readServerInit(r io.Reader) (*serverInit, error) {
	var b [20]byte // the server's pixel format is of no interest: ours is set
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, err
	}
	s, err := newSize(binary.BigEndian.Uint16(b[0:]), binary.BigEndian.Uint16(b[2:]))
	if err != nil {
		return nil, err
	}
	name, err := readText(r)
	if err != nil {
		return nil, err
	}
	return &serverInit{size: s, name: name}, nil
}

// ended puts words to the end of a stream.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return ErrScreenGone
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return wrong("the stream ends inside of a message")
	}
	return err
}

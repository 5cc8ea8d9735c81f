package rfb

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"time"
)

// Times that a viewer has.
const (
	hurry = 10 * time.Second // for what a program answers by itself
	// typingTime is for the answer to the challenge: many viewers ask for the password
	// only then.
	typingTime = 2 * time.Minute
)

// Visitor is a viewer on a local port that has shown the password and waits to be let in.
type Visitor struct {
	conn  net.Conn
	minor int
}

// Greet is a server's handshake with a viewer, by RFB 3.3, 3.7 or 3.8, up to its right
// answer to the challenge; the password is used up then. After an error the viewer was
// told what it can be told; the connection is for the caller to close.
func Greet(conn net.Conn, p *Password) (*Visitor, error) {
	_ = conn.SetDeadline(time.Now().Add(hurry))
	minor, err := agree(conn)
	if err != nil {
		return nil, err
	}
	v := &Visitor{conn: conn, minor: minor}
	if p.Spent() {
		v.turnAway(ErrPasswordSpent.Error())
		return nil, ErrPasswordSpent
	}
	if err := v.security(); err != nil {
		return nil, err
	}
	var challenge, response [16]byte
	_, _ = rand.Read(challenge[:])
	if _, err := conn.Write(challenge[:]); err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(typingTime))
	if _, err := io.ReadFull(conn, response[:]); err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(hurry))
	if err := p.answer(challenge, response); err != nil {
		v.Refuse(err.Error())
		return nil, err
	}
	return v, nil
}

// TurnAway tells a viewer that connected why nobody may come in.
func TurnAway(conn net.Conn, reason string) {
	_ = conn.SetDeadline(time.Now().Add(hurry))
	if minor, err := agree(conn); err == nil {
		(&Visitor{conn: conn, minor: minor}).turnAway(reason)
	}
}

// agree on a version (RFC 6143, 7.1.1).
func agree(conn net.Conn) (minor int, err error) {
	if _, err := io.WriteString(conn, "RFB 003.008\n"); err != nil {
		return 0, err
	}
	var line [versionLength]byte
	// What is no RFB, such as a web browser, is noticed by its first byte.
	if _, err := io.ReadFull(conn, line[:1]); err != nil {
		return 0, err
	}
	if line[0] != 'R' {
		return 0, errVersion
	}
	if _, err := io.ReadFull(conn, line[1:]); err != nil {
		return 0, err
	}
	return parseVersion(line)
}

// security offers VNC Authentication alone (RFC 6143, 7.1.2).
func (v *Visitor) security() error {
	if v.minor == 3 {
		return v.number(securityVNC)
	}
	if _, err := v.conn.Write([]byte{1, securityVNC}); err != nil {
		return err
	}
	var choice [1]byte
	if _, err := io.ReadFull(v.conn, choice[:]); err != nil {
		return err
	}
	if choice[0] != securityVNC {
		return wrong("the viewer chose security type %d, which was not offered", choice[0])
	}
	return nil
}

// turnAway ends the handshake before a password is asked for.
func (v *Visitor) turnAway(reason string) {
	if v.minor == 3 {
		_ = v.number(0)
	} else if _, err := v.conn.Write([]byte{0}); err != nil {
		return
	}
	_ = v.text(reason)
}

// Refuse ends the handshake after an answer to the challenge (RFC 6143, 7.1.3).
func (v *Visitor) Refuse(reason string) {
	_ = v.conn.SetDeadline(time.Now().Add(hurry)) // the one of the answer is long over
	if v.number(1) == nil && v.minor >= 8 {
		_ = v.text(reason)
	}
}

// accept ends it well. What the viewer says next is its ClientInit.
func (v *Visitor) accept() error {
	_ = v.conn.SetDeadline(time.Now().Add(hurry))
	return v.number(0)
}

func (v *Visitor) number(n uint32) error {
	_, err := v.conn.Write(binary.BigEndian.AppendUint32(nil, n))
	return err
}

func (v *Visitor) text(s string) error {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(s)))
	_, err := v.conn.Write(slices.Concat(b, []byte(s)))
	return err
}

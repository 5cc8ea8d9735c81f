package uitest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/channel/console/hub"
)

// Machine is a VM's console and screen without a VM: what is typed is upper-cased and
// printed, and the screen is a picture of stripes.
type Machine struct {
	mu    sync.Mutex
	all   []byte
	hub   *hub.Hub
	conns []net.Conn
	dials map[string]int // by kind
	typed []byte         // into the serial port
	keys  []uint32       // pressed on the screen
	fails error

	deaf sync.Mutex // held while the guest does not read its serial port
}

// NewMachine returns a machine that ends with ctx.
func NewMachine(ctx context.Context) *Machine {
	m := &Machine{}
	m.hub = hub.New(m)
	go func() { _ = m.hub.Feed(ctx, m) }() // its error is ctx's
	return m
}

// Dial opens a channel, as tenant.Owner.OpenChannel does.
func (m *Machine) Dial(_ context.Context, _, kind string, _ uint16) (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails != nil {
		return nil, m.fails
	}
	if m.dials == nil {
		m.dials = map[string]int{}
	}
	m.dials[kind]++
	ours, theirs := net.Pipe()
	m.conns = append(m.conns, theirs)
	go func() {
		defer theirs.Close()
		if kind == channel.KindConsole {
			_ = m.hub.Serve(context.Background(), theirs) // the page sees how it ended
			return
		}
		_ = m.stripes(theirs) // likewise
	}()
	return ours, nil
}

// Dials returns how many channels of a kind were opened.
func (m *Machine) Dials(kind string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dials[kind]
}

// Fail has every later Dial fail; nil: not any more.
func (m *Machine) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fails = err
}

// Cut breaks all channels.
func (m *Machine) Cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		c.Close()
	}
	m.conns = nil
}

// Print prints on the serial port.
func (m *Machine) Print(text string) {
	m.mu.Lock()
	m.all = append(m.all, text...)
	m.mu.Unlock()
	m.hub.Printed()
}

// Deaf has the guest read nothing from its serial port until it is called with false.
func (m *Machine) Deaf(is bool) {
	if is {
		m.deaf.Lock()
	} else {
		m.deaf.Unlock()
	}
}

// Write is the guest reading its serial port.
func (m *Machine) Write(p []byte) (int, error) {
	m.deaf.Lock()
	defer m.deaf.Unlock()
	m.mu.Lock()
	m.typed = append(m.typed, p...)
	m.mu.Unlock()
	out := make([]byte, 0, len(p))
	for _, b := range p {
		switch {
		case b == '\r':
			out = append(out, "\r\n"...)
		case b >= 'a' && b <= 'z':
			out = append(out, b-'a'+'A')
		default:
			out = append(out, b)
		}
	}
	m.Print(string(out))
	return len(p), nil
}

// Copy is the ring's.
func (m *Machine) Copy(p []byte, offset uint64) (n int, at, end uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	end = uint64(len(m.all))
	if offset < end {
		n = copy(p, m.all[offset:])
	}
	return n, offset, end
}

// Typed returns what was typed into the serial port.
func (m *Machine) Typed() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return string(m.typed)
}

// Keys returns the X11 keysyms that were pressed on the screen.
func (m *Machine) Keys() []uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]uint32{}, m.keys...)
}

const stripesWidth, stripesHeight = 320, 200

// stripes is a VNC server (RFC 6143) without a password.
func (m *Machine) stripes(c net.Conn) error {
	in := bufio.NewReader(c)
	take := func(n int) ([]byte, error) {
		b := make([]byte, n)
		_, err := io.ReadFull(in, b)
		return b, err
	}
	init := binary.BigEndian.AppendUint16(nil, stripesWidth)
	init = binary.BigEndian.AppendUint16(init, stripesHeight)
	init = append(init, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0)
	init = binary.BigEndian.AppendUint32(init, 7)
	init = append(init, "stripes"...)
	for _, s := range []struct {
		send []byte
		wait int
	}{{[]byte("RFB 003.008\n"), 12}, {[]byte{1, 1}, 1}, {[]byte{0, 0, 0, 0}, 1}, {init, 0}} {
		if _, err := c.Write(s.send); err != nil {
			return err
		}
		if _, err := take(s.wait); err != nil {
			return err
		}
	}
	for shown := false; ; {
		kind, err := in.ReadByte()
		if err != nil {
			return err
		}
		length, known := map[byte]int{0: 19, 2: 3, 3: 9, 4: 7, 5: 5, 6: 7}[kind]
		if !known {
			return errors.New("a message that is not known")
		}
		b, err := take(length)
		if err != nil {
			return err
		}
		switch kind {
		case 2:
			_, err = take(4 * int(binary.BigEndian.Uint16(b[1:])))
		case 6:
			_, err = take(int(int32(binary.BigEndian.Uint32(b[3:]))))
		case 3:
			if !shown {
				shown = true
				_, err = c.Write(picture())
			}
		case 4:
			if b[0] == 1 {
				m.mu.Lock()
				m.keys = append(m.keys, binary.BigEndian.Uint32(b[3:]))
				m.mu.Unlock()
			}
		}
		if err != nil {
			return err
		}
	}
}

// picture is a framebuffer update with the whole screen.
func picture() []byte {
	out := []byte{0, 0, 0, 1, 0, 0, 0, 0}
	out = binary.BigEndian.AppendUint16(out, stripesWidth)
	out = binary.BigEndian.AppendUint16(out, stripesHeight)
	out = append(out, 0, 0, 0, 0) // raw
	for range stripesHeight {
		for x := range stripesWidth {
			out = append(out, byte(x), 0x90, byte(x/32*32), 0)
		}
	}
	return out
}

// Package rfbtest has real counterparts for tests of VNC: a QEMU with a screen and no
// guest, and a real VNC client that takes pictures. It trusts them.
package rfbtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is a QEMU with a VGA screen and a keyboard and nothing to boot: its firmware
// says so on the screen.
type Machine struct {
	Socket string // unix socket of its VNC server, which asks for no password
	dir    string
	cmd    *exec.Cmd
	stderr bytes.Buffer
}

// Start starts a machine and waits until its VNC server answers.
func Start() (*Machine, error) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return nil, errors.New("qemu-system-x86_64 is missing: apt-get install qemu-system-x86")
	}
	dir, err := os.MkdirTemp("", "vnc") // a socket's path must be short
	if err != nil {
		return nil, err
	}
	m := &Machine{Socket: filepath.Join(dir, "vnc"), dir: dir}
	m.cmd = exec.Command(qemu, "-nodefaults", "-no-user-config", "-accel", "tcg", "-m", "32", "-vga", "std", "-display", "none", "-vnc", "unix:"+m.Socket)
	m.cmd.Stderr = &m.stderr
	if err := m.cmd.Start(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	for range 400 {
		if conn, err := m.Dial(context.Background()); err == nil {
			_ = conn.Close()
			return m, nil
		}
		time.Sleep(25 * time.Millisecond)
	}
	m.Close()
	return nil, fmt.Errorf("QEMU's VNC server did not come up: %s", m.stderr.String())
}

// Dial connects to the machine's VNC server.
func (m *Machine) Dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", m.Socket)
}

// Close ends the machine.
func (m *Machine) Close() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
	_ = os.RemoveAll(m.dir)
}

// New starts a machine for a test.
func New(t testing.TB) *Machine {
	t.Helper()
	m, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// Capture takes a picture with gvnccapture, a VNC client that is not ours, from a port
// of 127.0.0.1. It types the password into it, as a person would.
func Capture(ctx context.Context, port int, password string) (*image.RGBA, error) {
	capture, err := exec.LookPath("gvnccapture")
	if err != nil {
		return nil, errors.New("gvnccapture is missing: apt-get install gvncviewer")
	}
	dir, err := os.MkdirTemp("", "capture")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	keyboard, terminal, err := pty()
	if err != nil {
		return nil, err
	}
	defer keyboard.Close()
	defer terminal.Close()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	file := filepath.Join(dir, "picture.png")
	cmd := exec.CommandContext(ctx, capture, "--quiet", fmt.Sprintf("127.0.0.1:%d", port-5900), file)
	cmd.Stdin = terminal
	cmd.WaitDelay = time.Second
	go func() {
		// It drops what was typed before it asked.
		for ctx.Err() == nil {
			time.Sleep(50 * time.Millisecond)
			_, _ = keyboard.WriteString(password + "\n")
		}
	}()
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("gvnccapture: %w: %s", err, out)
	}
	return Read(file)
}

// Read reads a PNG file.
func Read(file string) (*image.RGBA, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	from, err := png.Decode(f)
	if err != nil {
		return nil, err
	}
	p := image.NewRGBA(from.Bounds())
	draw.Draw(p, p.Rect, from, p.Rect.Min, draw.Src)
	return p, nil
}

// pty opens a terminal: what is written to keyboard is typed into it.
func pty() (keyboard, terminal *os.File, err error) {
	if keyboard, err = os.OpenFile("/dev/ptmx", os.O_RDWR, 0); err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		_ = keyboard.Close()
	}
	return keyboard, terminal, err
}

// Same tells whether two pictures show the same.
func Same(a, b *image.RGBA) bool { return a.Rect == b.Rect && bytes.Equal(a.Pix, b.Pix) }

// Lit counts the pixels that are not black.
func Lit(p *image.RGBA) (n int) {
	for i := 0; i < len(p.Pix); i += 4 {
		if p.Pix[i]|p.Pix[i+1]|p.Pix[i+2] != 0 {
			n++
		}
	}
	return n
}

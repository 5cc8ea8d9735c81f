package rfb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Ends of a relay that are nobody's fault, or a viewer's.
var (
	ErrViewerStuck = errors.New("the viewer was disconnected: it does not take what is sent to it")
	ErrGarbage     = errors.New("the viewer was disconnected")
	ErrScreenGone  = errors.New("the screen was closed at the VM's end")
)

// stuckAfter is how long a viewer may take nothing of what is sent to it. It is less
// than what a channel waits for a sign of life, so that the right end is blamed. Tests
// shorten it.
var stuckAfter = 30 * time.Second

// Relay joins a visitor with a VM's VNC server on screen: it does the handshake there,
// lets the visitor in, and passes messages on until one side ends or the context does.
// Then both connections are closed and nothing is left running.
//
// What the viewer sends is read message by message: one that is not RFB ends the relay
// and does not reach the VM. With watch, the viewer sees and can do nothing: its keys,
// pointer, clipboard and wishes for another size are dropped.
//
// The result is nil when the viewer left. An error of the screen's side is returned
// with the connection's own error in it.
func Relay(ctx context.Context, v *Visitor, screen net.Conn, watch bool) error {
	defer v.conn.Close()
	defer screen.Close()
	stop := context.AfterFunc(ctx, func() { // deadlines would be set anew below
		_ = v.conn.Close()
		_ = screen.Close()
	})
	defer stop()
	err := join(v, screen, watch)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func join(v *Visitor, screen net.Conn, watch bool) error {
	_ = screen.SetDeadline(time.Now().Add(hurry))
	if err := clientHandshake(screen); err != nil {
		v.Refuse("the VM's screen does not answer")
		return fmt.Errorf("cannot talk to the screen: %w", ended(err))
	}
	_ = screen.SetDeadline(time.Time{})
	if err := v.accept(); err != nil {
		return fmt.Errorf("the viewer left: %w", err)
	}
	_ = v.conn.SetDeadline(time.Time{})

	ends := make(chan error, 2)
	go func() { ends <- down(v.conn, screen) }()
	go func() { ends <- up(screen, v.conn, watch) }()
	err := <-ends
	_ = v.conn.Close()
	_ = screen.Close()
	<-ends
	return err
}

// down passes on what the screen sends.
func down(viewer, screen net.Conn) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := screen.Read(buf)
		if n > 0 {
			_ = viewer.SetWriteDeadline(time.Now().Add(stuckAfter))
			if _, err := viewer.Write(buf[:n]); errors.Is(err, os.ErrDeadlineExceeded) {
				return ErrViewerStuck
			} else if err != nil {
				return nil // it left
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return ErrScreenGone
		case err != nil:
			return fmt.Errorf("the screen broke off: %w", err)
		}
	}
}

// up passes on what the viewer sends, beginning with its ClientInit.
func up(screen, viewer net.Conn, watch bool) error {
	r := bufio.NewReaderSize(viewer, 16<<10)
	if _, err := r.ReadByte(); err != nil {
		return viewerEnd(err)
	}
	// Shared, whatever the viewer says: a picture taken meanwhile must not throw it out.
	if _, err := screen.Write([]byte{1}); err != nil {
		return fmt.Errorf("the screen broke off: %w", err)
	}
	w := bufio.NewWriterSize(screen, 16<<10)
	m := messages{r: r, w: w, watch: watch}
	for {
		err := m.next()
		if r.Buffered() == 0 || err != nil {
			if err := w.Flush(); err != nil {
				return fmt.Errorf("the screen broke off: %w", err)
			}
		}
		if err != nil {
			return viewerEnd(err)
		}
	}
}

// viewerEnd tells a viewer that went away from one that sent garbage.
func viewerEnd(err error) error {
	if errors.Is(err, ErrProtocol) {
		return fmt.Errorf("%w: %w", ErrGarbage, err)
	}
	return nil
}

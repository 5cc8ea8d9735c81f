package keeper

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// TestUnanswered tells a keeper that does not answer in time from one that goes away:
// only of the second is it known that it carries nothing out.
func TestUnanswered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false) // as with one that was killed
	p := &Process{control: path}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.Stats(ctx); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrGone) {
		t.Errorf("no answer: %v", err)
	}
	if c, err := l.AcceptUnix(); err != nil { // of the first
		t.Fatal(err)
	} else {
		c.Close()
	}
	go func() {
		c, err := l.AcceptUnix()
		if err == nil {
			_, _ = c.Read(make([]byte, maxMessage))
			c.Close()
		}
	}()
	if _, err := p.Stats(t.Context()); !errors.Is(err, ErrGone) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hung up: %v", err)
	}
	l.Close()
	if _, err := p.Stats(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("nobody there: %v", err)
	}
}

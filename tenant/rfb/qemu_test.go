package rfb

import (
	"context"
	"testing"
	"time"

	"github.com/uvbond/uvbond/tenant/rfb/rfbtest"
)

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestScreenshotOfFirmware: what SeaBIOS prints is in the picture, and QEMU takes keys.
func TestScreenshotOfFirmware(t *testing.T) {
	conn, err := rfbtest.New(t).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, conn)
	for ctx := within(t, time.Minute); ; {
		p, err := c.Screenshot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if b := p.Bounds(); b.Dx() == 720 && b.Dy() == 400 && rfbtest.Lit(p) > 1000 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := c.Press(within(t, time.Minute), []Key{byName["ctrl"], byName["alt"], byName["delete"]}, 0, 0); err != nil {
		t.Fatal(err)
	}
	if c.mu.Lock(); !c.extended {
		t.Error("QEMU did not offer its extended key event")
	}
	c.mu.Unlock()
	if c.Name() != "QEMU" {
		t.Errorf("the name is %q", c.Name())
	}
}

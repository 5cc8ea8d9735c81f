package rfb

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"
	"unicode/utf8"
)

// MaxTyped is the most that Type takes at once, in characters.
const MaxTyped = 64 << 10

// QEMU gives a guest one key event in 10 ms and queues the rest: in 1024 places, of
// which an event takes three. What does not fit is lost, so long texts are not sent
// faster.
const (
	queued     = 64 // characters, each four events at most
	queuePause = 11 * time.Millisecond
)

// ErrTooLong says that a text has more than MaxTyped characters.
var ErrTooLong = fmt.Errorf("the text is too long to type: at most %d characters", MaxTyped)

// CheckTyped tells whether a US keyboard can type all of text. The error names the
// first character that it cannot.
func CheckTyped(text string) error {
	if utf8.RuneCountInString(text) > MaxTyped {
		return ErrTooLong
	}
	n := 0
	for _, r := range text {
		n++
		if _, ok := byRune[r]; !ok {
			return fmt.Errorf("character %d, %+q, is not on a US keyboard", n, r)
		}
	}
	return nil
}

// Type types text as somebody at a US keyboard would, with a pause after every key
// that goes down or up. It returns when the server has taken the last one. Nothing is
// typed when CheckTyped finds fault with the text. When the context ends on the way, no
// key is left down by it: the server lets go of all keys of a client that leaves.
//
// The guest must have a US layout: what travels is the places of keys.
func (c *Client) Type(ctx context.Context, text string, pause time.Duration) error {
	if err := CheckTyped(text); err != nil {
		return err
	}
	if err := c.Sync(ctx); err != nil { // now it is known which key events the server takes
		return err
	}
	if len(text) > queued {
		pause = max(pause, queuePause)
	}
	for _, r := range text {
		s := byRune[r]
		keys := []Key{s.key}
		if s.shift {
			keys = []Key{shift, s.key}
		}
		if err := c.hold(ctx, keys, pause, pause); err != nil {
			return err
		}
	}
	return c.Sync(ctx)
}

// Press presses keys in their order, holds them together for a time, and lets go of
// them in the opposite order. It returns when the server has taken it all.
func (c *Client) Press(ctx context.Context, keys []Key, pause, hold time.Duration) error {
	if err := c.Sync(ctx); err != nil {
		return err
	}
	if err := c.hold(ctx, keys, pause, hold); err != nil {
		return err
	}
	return c.Sync(ctx)
}

func (c *Client) hold(ctx context.Context, keys []Key, pause, hold time.Duration) error {
	for i, k := range keys {
		wait := pause
		if i == len(keys)-1 {
			wait = hold
		}
		if err := c.key(ctx, k, true, wait); err != nil {
			return err
		}
	}
	for i := len(keys) - 1; i >= 0; i-- {
		if err := c.key(ctx, keys[i], false, pause); err != nil {
			return err
		}
	}
	return nil
}

// key sends one event and waits.
func (c *Client) key(ctx context.Context, k Key, down bool, wait time.Duration) error {
	c.mu.Lock()
	extended := c.extended
	c.mu.Unlock()
	if err := c.send(ctx, keyEvent(k, down, extended)); err != nil {
		return err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// keyEvent is a KeyEvent (RFC 6143, 7.5.4), or QEMU's own with the place of the key,
// which does not go through the server's idea of a keyboard.
func keyEvent(k Key, down, extended bool) []byte {
	var pressed byte
	if down {
		pressed = 1
	}
	if !extended {
		return binary.BigEndian.AppendUint32([]byte{msgKey, pressed, 0, 0}, k.symbol)
	}
	b := binary.BigEndian.AppendUint32([]byte{msgQEMU, qemuKey, 0, pressed}, k.symbol)
	return binary.BigEndian.AppendUint32(b, uint32(k.place))
}

// Pointer moves the pointer to a pixel with some buttons held: bit 0 is the left one,
// 1 the middle, 2 the right, 3 and 4 the wheel (RFC 6143, 7.5.5).
func (c *Client) Pointer(ctx context.Context, x, y uint16, buttons uint8) error {
	b := binary.BigEndian.AppendUint16([]byte{msgPointer, buttons}, x)
	return c.send(ctx, binary.BigEndian.AppendUint16(b, y))
}

package rfb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// keyboard is a server that notes key events as "+symbol/place" and "-symbol/place".
func keyboard(t *testing.T, extended bool) (net.Conn, func() string) {
	t.Helper()
	near, far := net.Pipe()
	noted := make(chan string, 1)
	go func() {
		var events []string
		defer func() { noted <- strings.Join(events, " ") }()
		defer far.Close()
		go far.Write(hello(4, 4))
		if _, err := io.CopyN(io.Discard, far, int64(12+1+1+len(pixelFormat())+len(encodings()))); err != nil {
			return
		}
		for {
			var kind [1]byte
			if _, err := io.ReadFull(far, kind[:]); err != nil {
				return
			}
			b := make([]byte, map[byte]int{msgUpdateRequest: 9, msgKey: 7, msgQEMU: 11}[kind[0]])
			if _, err := io.ReadFull(far, b); err != nil {
				return
			}
			switch kind[0] {
			case msgUpdateRequest:
				pixel := rect(0, 0, 1, 1, encodingRaw, 0, 0, 0, 0)
				if extended {
					_, _ = far.Write(update(rect(0, 0, 4, 4, encodingExtKey)))
				}
				_, _ = far.Write(update(pixel))
			case msgKey:
				events = append(events, fmt.Sprintf("%c%x", "-+"[b[0]], binary.BigEndian.Uint32(b[3:])))
			case msgQEMU:
				events = append(events, fmt.Sprintf("%c%x/%x", "-+"[b[2]], binary.BigEndian.Uint32(b[3:]), binary.BigEndian.Uint32(b[7:])))
			default:
				events = append(events, fmt.Sprintf("message %d", kind[0]))
				return
			}
		}
	}()
	return near, func() string { return <-noted }
}

func TestType(t *testing.T) {
	for _, c := range []struct {
		extended   bool
		text, want string
	}{
		{true, "a", "+61/1e -61/1e"},
		{true, "A", "+ffe1/2a +41/1e -41/1e -ffe1/2a"},
		{true, "~\n", "+ffe1/2a +7e/29 -7e/29 -ffe1/2a +ff0d/1c -ff0d/1c"},
		{false, "a_", "+61 -61 +ffe1 +5f -5f -ffe1"},
	} {
		conn, events := keyboard(t, c.extended)
		k := connect(t, conn)
		if err := k.Type(within(t, 10*time.Second), c.text, 0); err != nil {
			t.Fatal(err)
		}
		k.Close()
		if have := events(); have != c.want {
			t.Errorf("%q (extended %v) sends %q, want %q", c.text, c.extended, have, c.want)
		}
	}
}

func TestPress(t *testing.T) {
	keys, err := ParseKeys("ctrl-alt-Delete")
	if err != nil {
		t.Fatal(err)
	}
	conn, events := keyboard(t, true)
	k := connect(t, conn)
	if err := k.Press(within(t, 10*time.Second), keys, 0, 0); err != nil {
		t.Fatal(err)
	}
	k.Close()
	if have, want := events(), "+ffe3/1d +ffe9/38 +ffff/d3 -ffff/d3 -ffe9/38 -ffe3/1d"; have != want {
		t.Errorf("sent %q, want %q", have, want)
	}
}

// TestTypeStops: typing ends with the context, in the middle.
func TestTypeStops(t *testing.T) {
	conn, events := keyboard(t, true)
	k := connect(t, conn)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := k.Type(ctx, strings.Repeat("a", MaxTyped), time.Hour); !errors.Is(err, context.Canceled) {
		t.Fatalf("the error is %v", err)
	}
	k.Close()
	if have := events(); have != "+61/1e" && have != "" {
		t.Errorf("sent %q", have)
	}
}

func TestCannotType(t *testing.T) {
	for text, want := range map[string]string{
		"grün":                              `character 3, '\u00fc'`,
		"a\x1b[2J":                          `character 2, '\x1b'`,
		strings.Repeat("x", MaxTyped) + "y": "too long",
	} {
		if err := CheckTyped(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: the error is %v", text, err)
		}
	}
	var all bytes.Buffer
	for r := ' '; r < 0x7f; r++ {
		all.WriteRune(r)
	}
	if err := CheckTyped(all.String() + "\n\t"); err != nil {
		t.Errorf("ASCII: %v", err)
	}
}

func TestParseKeys(t *testing.T) {
	for text, want := range map[string][]string{
		"ctrl-alt-delete":                  {"ctrl", "alt", "delete"},
		"CTRL+ALT+F2":                      {"ctrl", "alt", "f2"},
		"KEY_LEFTCTRL-KEY_LEFTALT-KEY_DEL": {"ctrl", "alt", "delete"},
		"ret":                              {"ret"},
		"alt-sysrq-b":                      {"alt", "sysrq", "b"},
		"shift-;":                          {"shift", "semicolon"},
		"minus":                            {"minus"},
	} {
		keys, err := ParseKeys(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var names []Key
		for _, n := range want {
			names = append(names, byName[n])
		}
		if !slices.Equal(keys, names) {
			t.Errorf("%s is %v, want %v", text, keys, names)
		}
	}
	for text, near := range map[string]string{"ctrl-alt-delte": "delete", "contrl-a": "control", "pgupp": "pgup", "frobnicate": "", "f13": "f10", "shift-!": "shift-1", "_": "shift-minus", "é": ""} {
		var e *KeyError
		if _, err := ParseKeys(text); !errors.As(err, &e) || e.Near != near {
			t.Errorf("%s: %v, near %q, want %q", text, err, e.Near, near)
		}
	}
	for _, text := range []string{"", "-", "ctrl-", "-a", "ctrl--a", "a-a", "a b", "a-b-c-d-e-f-g-h-i"} {
		if keys, err := ParseKeys(text); err == nil {
			t.Errorf("%q is %v", text, keys)
		}
	}
	for _, n := range KeyNames() {
		if _, err := ParseKeys(n); err != nil {
			t.Errorf("%s is listed: %v", n, err)
		}
	}
}

package qmp

import (
	"errors"
	"io"
	"net"
	"testing"
)

// TestDetach: after the answer the connection belongs to whoever has the descriptor.
func TestDetach(t *testing.T) {
	a, b := socketPair(t)
	c := NewConn(a)
	if err := c.EnableCredentials(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Write([]byte("{\"execute\":\"leave\"}\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receive(testContext(t)); err != nil {
		t.Fatal(err)
	}
	f, err := c.Detach()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(struct{}{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := other.Write([]byte("bytes")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Write([]byte("back\n")); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, 9)
	if n, err := other.Read(back); err != nil || string(back[:n]) != "back\n" {
		t.Fatalf("read %q, %v", back[:n], err)
	}
	other.Close()
	got, err := io.ReadAll(b)
	if err != nil || string(got) != "{}\nbytes" {
		t.Fatalf("the peer read %q, %v", got, err)
	}
}

// TestDetachRefuses a peer that did not wait, or that hung up; QMP goes on.
func TestDetachRefuses(t *testing.T) {
	for _, behind := range []string{"x", "{\"execute\":\"more\"}\n"} {
		a, b := socketPair(t)
		c := NewConn(a)
		if _, err := b.Write([]byte("{\"execute\":\"leave\"}\n" + behind)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Receive(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Detach(); !errors.Is(err, ErrPipelined) {
			t.Errorf("with %q behind: %v", behind, err)
		}
		if behind != "x" {
			if line, err := c.Receive(testContext(t)); err != nil || string(line.Data) != behind[:len(behind)-1] {
				t.Errorf("afterwards: %v, %v", line, err)
			}
		}
		c.Close()
		b.Close()
	}
	a, b := socketPair(t)
	b.Close()
	if _, err := NewConn(a).Detach(); !errors.Is(err, io.EOF) {
		t.Errorf("a peer that hung up: %v", err)
	}
}

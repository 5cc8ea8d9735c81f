package e2e

import (
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// cable is the network between a tenant and the server. It can be slow, break,
// and be pulled out.
type cable struct {
	world *world
	l     net.Listener

	mu    sync.Mutex
	slow  time.Duration // pause after each piece that the tenant sends
	left  int64         // bytes from the tenant until the connections break; 0: never
	cuts  int
	conns map[net.Conn]bool
}

const piece = 64 << 10

// cable lays a cable to the server and returns it with the URL of its end.
func (w *world) cable() (*cable, string) {
	w.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	c := &cable{world: w, l: l, conns: map[net.Conn]bool{}}
	w.Cleanup(c.pull)
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", strings.TrimPrefix(w.lab.URL, "https://"))
			if err != nil {
				near.Close()
				continue
			}
			c.keep(near, far)
			go func() { _, _ = io.Copy(near, far); near.Close() }()
			go c.carry(far, near)
		}
	}()
	return c, "https://" + l.Addr().String()
}

func (c *cable) keep(conns ...net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		c.conns[conn] = true
	}
}

// carry brings what the tenant sends to the server.
func (c *cable) carry(far, near net.Conn) {
	defer far.Close()
	buf := make([]byte, piece)
	for {
		n, err := near.Read(buf)
		if err != nil {
			return
		}
		c.mu.Lock()
		wait, broke := c.slow, false
		if c.left > 0 {
			if c.left -= int64(n); c.left <= 0 {
				c.left, broke = 0, true
				c.cuts++
			}
		}
		c.mu.Unlock()
		if broke {
			c.cut()
			return
		}
		if _, err := far.Write(buf[:n]); err != nil {
			return
		}
		time.Sleep(wait)
	}
}

// cut breaks the connections there are; new ones can be made.
func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		conn.Close()
		delete(c.conns, conn)
	}
}

// pull ends the cable for good.
func (c *cable) pull() {
	c.l.Close()
	c.cut()
}

func (c *cable) set(slow time.Duration, left int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slow, c.left = slow, left
}

func (c *cable) broken() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cuts
}

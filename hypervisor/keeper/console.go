package keeper

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/channel/console/hub"
	"github.com/uvbond/uvbond/disk/nbd"
)

const (
	// maxConsoles bounds connections that wait to be let in; QEMU needs one.
	maxConsoles = 4

	// inputBuffer is how much input may wait in the kernel, bytes: little, since what is
	// there counts as typed. The kernel makes it somewhat more.
	inputBuffer = 2 << 10

	// At the end of an instance: how long what QEMU printed last may take to arrive, and
	// viewers to take it and the end.
	lastOutput  = 500 * time.Millisecond
	lastViewers = 2 * time.Second
)

// serialPort takes QEMU's connection, copies what arrives into the ring, and sends what
// the viewers of the hub type.  A newer connection takes the place of an older one:
// QEMU connects again when it believes that the old one is gone.
type serialPort struct {
	ring  *ringWriter
	hub   *hub.Hub
	peers *peers
	log   *slog.Logger

	mu      sync.Mutex
	current *connected
}

// connected is QEMU's connection. read is closed when nothing more comes out of it.
type connected struct {
	net.Conn
	read chan struct{}
}

func newSerialPort(ring *ringWriter, p *peers, log *slog.Logger) *serialPort {
	return &serialPort{ring: ring, hub: hub.New(ring), peers: p, log: log}
}

func (c *serialPort) serve(ctx context.Context, l net.Listener) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxConsoles)
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			c.log.Warn("console: accept failed, trying again", "err", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			nc.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			defer nc.Close()
			c.keep(ctx, nc)
		})
	}
}

func (c *serialPort) keep(ctx context.Context, nc net.Conn) {
	cred, err := nbd.PeerCredentials(nc)
	if err == nil {
		err = c.peers.check(ctx, cred)
	}
	if err != nil {
		return // peers has logged it
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	q := &connected{Conn: nc, read: make(chan struct{})}
	c.mu.Lock()
	if c.current != nil {
		c.current.Close()
	}
	c.current = q
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.current == q {
			c.current = nil
		}
	}()
	if u, ok := nc.(*net.UnixConn); ok {
		_ = u.SetWriteBuffer(inputBuffer)
	}
	ctx, end := context.WithCancel(ctx)
	var feeding sync.WaitGroup
	feeding.Go(func() { _ = c.hub.Feed(ctx, nc) }) // an end of the connection is seen below
	c.copyOutput(nc)
	close(q.read)
	end()
	nc.Close()
	feeding.Wait()
}

func (c *serialPort) copyOutput(nc net.Conn) {
	buf := make([]byte, 8<<10)
	for {
		n, err := nc.Read(buf)
		if n > 0 {
			c.ring.Write(buf[:n])
			c.hub.Printed()
		}
		if err != nil {
			return
		}
	}
}

// finish takes what QEMU printed last, then tells the viewers how the console ended.
// Neither QEMU nor a viewer can hold it up for long.
func (c *serialPort) finish(e console.End) {
	c.mu.Lock()
	q := c.current
	c.mu.Unlock()
	if q != nil {
		_ = q.SetReadDeadline(time.Now().Add(lastOutput))
		<-q.read
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastViewers)
	defer cancel()
	c.hub.End(ctx, e)
}

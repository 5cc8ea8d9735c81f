package keeper

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/uvbond/uvbond/disk/nbd"
)

// maxConsoles bounds connections that wait to be let in; QEMU needs one.
const maxConsoles = 4

// console takes QEMU's connection and copies what arrives into the ring.  Nothing
// is sent.  A newer connection takes the place of an older one: QEMU connects
// again when it believes that the old one is gone.
type console struct {
	ring  *ringWriter
	peers *peers
	log   *slog.Logger

	mu      sync.Mutex
	current net.Conn
}

func (c *console) serve(ctx context.Context, l net.Listener) {
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

func (c *console) keep(ctx context.Context, nc net.Conn) {
	cred, err := nbd.PeerCredentials(nc)
	if err == nil {
		err = c.peers.check(ctx, cred)
	}
	if err != nil {
		return // peers has logged it
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	c.mu.Lock()
	if c.current != nil {
		c.current.Close()
	}
	c.current = nc
	c.mu.Unlock()
	buf := make([]byte, 8<<10)
	for {
		n, err := nc.Read(buf)
		c.ring.Write(buf[:n])
		if err != nil {
			break
		}
	}
	c.mu.Lock()
	if c.current == nc {
		c.current = nil
	}
	c.mu.Unlock()
}

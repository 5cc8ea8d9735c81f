package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// peerWait is how long a connection of the right uid waits for the daemon to say
// which process QEMU is: QEMU connects before the daemon can have told.
const peerWait = 20 * time.Second

// peers decides who may connect to the disks and the console.
type peers struct {
	uid  uint32
	log  *slog.Logger
	told chan struct{} // closed by the first allow

	mu     sync.Mutex
	pid    int32 // 0: every process of the uid
	set    bool
	logged time.Time
}

func newPeers(uid uint32) *peers {
	return &peers{uid: uid, told: make(chan struct{}), log: slog.New(slog.DiscardHandler)}
}

func (p *peers) allow(pid int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid = pid
	if !p.set {
		p.set = true
		close(p.told)
	}
}

func (p *peers) check(ctx context.Context, c *unix.Ucred) error {
	err := p.wait(ctx, c)
	if err != nil {
		p.report(err)
	}
	return err
}

// report logs a refusal, at most one a second: whoever is refused can try at will.
func (p *peers) report(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.Sub(p.logged) >= time.Second {
		p.logged = now
		p.log.Warn("keeper: connection refused", "err", err)
	}
}

func (p *peers) wait(ctx context.Context, c *unix.Ucred) error {
	if c.Uid != p.uid {
		return fmt.Errorf("process %d has uid %d, only %d may connect", c.Pid, c.Uid, p.uid)
	}
	wait := time.NewTimer(peerWait)
	defer wait.Stop()
	select {
	case <-p.told:
	case <-wait.C:
		return fmt.Errorf("process %d connected before it was allowed", c.Pid)
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid != 0 && c.Pid != p.pid {
		return fmt.Errorf("process %d is not the VM's QEMU, which is %d", c.Pid, p.pid)
	}
	return nil
}

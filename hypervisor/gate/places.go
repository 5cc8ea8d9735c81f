package gate

import (
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxPerUID bounds the connections of one user of the gate, so that several
	// of them cannot shut each other out.
	maxPerUID = 256
	// maxStrangers bounds the connections of all others together. They are
	// only told that they may not use the gate.
	maxStrangers = 16
)

// places counts the connections that are open.
type places struct {
	mu        sync.Mutex
	byUID     map[uint32]int
	strangers int
}

func newPlaces() *places { return &places{byUID: map[uint32]int{}} }

func (p *places) take(uid uint32, welcome bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !welcome {
		if p.strangers >= maxStrangers {
			return false
		}
		p.strangers++
		return true
	}
	if p.byUID[uid] >= maxPerUID {
		return false
	}
	p.byUID[uid]++
	return true
}

func (p *places) free(uid uint32, welcome bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !welcome {
		p.strangers--
		return
	}
	if p.byUID[uid]--; p.byUID[uid] == 0 {
		delete(p.byUID, uid)
	}
}

// peerUID is who connected, by the kernel's word. It decides on the place only;
// every line is judged by its own sender.
func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var opt error
	err = raw.Control(func(fd uintptr) {
		cred, opt = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err == nil {
		err = opt
	}
	if err != nil {
		return 0, fmt.Errorf("SO_PEERCRED: %w", err)
	}
	return cred.Uid, nil
}

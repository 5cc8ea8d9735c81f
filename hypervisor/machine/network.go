package machine

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/hypervisor/netns"
	"github.com/uvbond/uvbond/hypervisor/vm"
)

// network is the network namespace of one instance, in which its QEMU and all its
// keepers run and nothing else. Without root there is none: they share the host's.
// The zero value is ready.
type network struct {
	mu sync.Mutex
	ns *os.File
}

// make makes a new one.
func (n *network) make() error {
	if unix.Geteuid() != 0 {
		return nil
	}
	ns, err := netns.New()
	if err != nil {
		return err
	}
	n.set(ns)
	return nil
}

// adopt takes up that of a QEMU that an earlier daemon started.
func (n *network) adopt(q *vm.Instance) error {
	ns, err := q.Network()
	if err != nil {
		return err
	}
	n.set(ns)
	return nil
}

func (n *network) set(ns *os.File) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ns = ns
}

// dup returns a file of the caller's own, which stays open when the instance ends
// meanwhile; nil without root.
func (n *network) dup() (*os.File, error) {
	if unix.Geteuid() != 0 {
		return nil, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ns == nil {
		return nil, errors.New("the instance has no network namespace")
	}
	fd, err := unix.FcntlInt(n.ns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "network namespace"), nil
}

func (n *network) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ns != nil {
		n.ns.Close()
		n.ns = nil
	}
}

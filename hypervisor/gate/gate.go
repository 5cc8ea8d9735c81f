// Package gate is the only door of the hypervisor domain: a unix socket on
// which the management domain speaks QMP. It denies by default.
//
// Nothing that arrives here is trusted. A hypercall reaches a VM only inside a
// session (uvbond-open … uvbond-close) and only when, in this order,
//
//  1. the kernel says that the process which opened the session sent it (sender.go),
//  2. the command has an entry in the allow-list and its arguments fit (table.go),
//  3. the automaton of the owner's ticket accepts it as the next step, or else
//     the owner's policy for operators does, without moving the automaton (session.go).
//
// A refusal aborts the session: from then on only the automaton's `on abort`
// steps pass. Every session that began with a ticket ends with a receipt, sealed
// for the owner; a refusal that is sealed burns the ticket, so that no receipt
// says "refused" of a command that runs later. Every attempt is in the audit
// log of the bond concerned.
package gate

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/qmp"
)

const (
	// idleTimeout ends a connection that has no session and says nothing.
	idleTimeout = 5 * time.Minute
	// strangerTimeout is the same for a process that may not use the gate; it
	// is told so and nothing else.
	strangerTimeout = 5 * time.Second
	// abortGrace is how long `on abort` steps may still be sent after the
	// session's deadline, before the gate ends the session itself.
	abortGrace = 5 * time.Second
)

// Host is the hypervisor behind the gate.
type Host interface {
	QueryHost() qmp.QueryHostResult
	// Register opens a sealed registration and creates its bond. who is the
	// sender, for the audit.
	Register(ctx context.Context, sealed []byte, who string) (*qmp.RegisterResult, error)
	QueryVMs() qmp.QueryVMsResult
	// Attach takes the ciphertext of disks that lost theirs. It takes over the
	// files, also when it fails.
	Attach(ctx context.Context, vm bond.VMID, disks map[string]*os.File, who string) error
	// QueryDisks tells what a running VM's disks do.
	QueryDisks(ctx context.Context, vm bond.VMID) (*qmp.QueryDisksResult, error)
	// SetLimits changes what a disk of a running VM may do in a second. who is
	// the sender, for the audit.
	SetLimits(ctx context.Context, vm bond.VMID, disk string, l qmp.DiskLimits, who string) error
	// VM returns nil when no bond has this name.
	VM(id bond.VMID) VM
	// Attempt records in the host's log what was refused and belongs to no bond.
	Attempt(e state.Entry)
	// Now is the host's clock in Unix seconds; it never goes back, not even
	// across restarts.
	Now() int64
}

// Gate serves the socket.
type Gate struct {
	host    Host
	log     *slog.Logger
	allowed func(uid uint32) bool
	places  *places

	mu       sync.Mutex
	sessions uint64 // last session number given out; starts at the clock, so that
	// numbers of an earlier daemon do not come again in an audit log
}

// New returns a gate before host. Only processes whose uid is allowed are heard.
func New(host Host, allowed func(uid uint32) bool, log *slog.Logger) *Gate {
	return &Gate{
		host: host, log: log, allowed: allowed,
		places: newPlaces(), sessions: uint64(time.Now().UnixMilli()),
	}
}

// Serve accepts connections until ctx ends, then ends every session (each
// leaves its audit record) and returns when all of them are gone.
func (g *Gate) Serve(ctx context.Context, l *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	// From the first byte on, also for lines written before the connection is accepted.
	if err := qmp.ListenCredentials(l); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			g.log.Warn("gate: accept failed", "err", err)
			time.Sleep(50 * time.Millisecond)
			continue
		}
		uid, err := peerUID(c)
		if err != nil {
			g.log.Warn("gate: peer without credentials", "err", err)
			c.Close()
			continue
		}
		welcome := g.allowed(uid)
		if !g.places.take(uid, welcome) {
			g.log.Warn("gate: too many connections", "uid", uid, "limit", maxPerUID)
			c.Close()
			continue
		}
		wg.Go(func() {
			defer g.places.free(uid, welcome)
			g.serveConn(ctx, c, welcome)
		})
	}
}

func (g *Gate) nextSession() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sessions++
	return g.sessions
}

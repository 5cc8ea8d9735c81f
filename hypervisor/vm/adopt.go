package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/hypervisor/netns"
)

// Adopt finds a running QEMU again and connects to its monitor. The error is ErrGone
// when the process has ended: Cleanup then removes what it left. With any other error
// the process still runs: see Terminate.
func Adopt(ctx context.Context, cfg Config, rec Record) (*Instance, error) {
	if !validID.MatchString(rec.ID) {
		return nil, fmt.Errorf("adopt vm: id %q is not 32 lower-case hexadecimal digits", rec.ID)
	}
	i, err := newInstance(cfg, rec, nil)
	if err != nil {
		return nil, fmt.Errorf("adopt vm %s: %w", rec.ID, err)
	}
	p, err := openProcess(rec.PID, rec.StartTime)
	if err != nil {
		return nil, fmt.Errorf("adopt vm %s: %w", rec.ID, err)
	}
	i.watchAdopted(p)
	ctx, cancel := context.WithTimeout(ctx, cfg.startTimeout())
	defer cancel()
	if err = i.connect(ctx); err == nil {
		_, err = i.Status(ctx)
	}
	if err != nil {
		if errors.Is(err, errEnded) || i.isDying(err) {
			<-i.Done()
			err = ErrGone
		}
		i.Close()
		return nil, fmt.Errorf("adopt vm %s: %w", rec.ID, err)
	}
	return i, nil
}

// Network opens the network namespace that QEMU is in, for its keeper to be started
// there; nil without root, because all share the host's then.
func (i *Instance) Network() (*os.File, error) {
	if !isRoot() {
		return nil, nil
	}
	ns, err := netns.Of(i.rec.PID)
	if err != nil {
		return nil, err
	}
	// The number may have been given to another process just before.
	if start, running, err := processTime(i.rec.PID); err != nil || !running || start != i.rec.StartTime {
		ns.Close()
		return nil, ErrGone
	}
	return ns, nil
}

// dyingTime is how long a process that was killed may take to give its memory back.
const dyingTime = 5 * time.Second

// isDying reports whether the process that refused a connection to its monitor has
// ended, or does in a moment: its sockets are closed before it can be waited for.
func (i *Instance) isDying(err error) bool {
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ECONNRESET) {
		return false
	}
	select {
	case <-i.Done():
		return true
	case <-time.After(dyingTime):
		return false
	}
}

// Terminate kills the process of a record, if it still is that process, waits until it
// has ended and removes what it left. It is for a QEMU that could not be adopted.
func Terminate(ctx context.Context, cfg Config, rec Record) error {
	p, err := openProcess(rec.PID, rec.StartTime)
	if err != nil {
		if errors.Is(err, ErrGone) {
			return Cleanup(cfg, rec.ID)
		}
		return err
	}
	defer p.close()
	if err := p.kill(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- p.wait() }()
	select {
	case err := <-ended:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return Cleanup(cfg, rec.ID)
}

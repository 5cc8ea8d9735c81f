package tenant

import (
	"context"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
)

// ConsoleSink takes serial output. lost counts bytes right before data that
// the host's bounded buffer no longer had. instance changes when the VM was
// started anew.
type ConsoleSink func(instance uint64, data []byte, lost uint64) error

// How often `vm log --follow` asks for more: at once again after output came, and
// less and less often while none does. Each time leaves a session in the
// hypervisor's audit log.
const (
	followFirst = time.Second
	followLast  = 4 * time.Second
)

// nextPause is the pause after the one before it brought nothing new.
func nextPause(last time.Duration, news bool) time.Duration {
	if news || last == 0 {
		return followFirst
	}
	return min(last*3/2, followLast)
}

// Console reads the serial output of the VM's newest instance from its beginning, and with
// follow goes on until the context is cancelled.
func (o *Owner) Console(ctx context.Context, name string, follow bool, sink ConsoleSink) error {
	op, err := o.open(ctx, name)
	if err != nil {
		return err
	}
	defer op.bond.Wipe()
	p, pause := &position{}, time.Duration(0)
	for {
		before := *p
		end, err := o.consoleChunks(ctx, op, p, sink)
		if err != nil {
			return err
		}
		if !end {
			continue
		}
		if !follow {
			return nil
		}
		pause = nextPause(pause, *p != before)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

type position struct {
	instance uint64
	offset   uint64
}

// consoleChunks runs one log command; end tells that all output so far came.
func (o *Owner) consoleChunks(ctx context.Context, op *opened, p *position, sink ConsoleSink) (end bool, err error) {
	t, err := o.sealTicket(op.bond, Log, nil, nil)
	if err != nil {
		return false, err
	}
	offset := p.offset
	send := o.relay
	if p.instance != 0 {
		// The receipts of the following requests are verified and not kept: one a
		// second would soon push out those of commands.
		send = o.exchange
	}
	out, _, err := send(ctx, op, t, &client.Params{Offset: &offset})
	if err != nil {
		return false, err
	}
	if len(out.Chunks) == 0 {
		return false, fail.New(fail.Unknown, "tell the provider", "the hypervisor executed log (verified), but the server withholds the output of %q", op.vm.Name)
	}
	for _, blob := range out.Chunks {
		c := new(bond.ConsoleChunk)
		if err := bond.Open(op.bond, blob, c); err != nil || c.Nonce != t.nonce {
			return false, forged("a part of the serial output does not open, or is of another ticket")
		}
		if p.instance != 0 && c.Instance != p.instance {
			// A new instance: its output is read from the beginning.
			p.instance, p.offset = c.Instance, 0
			return false, nil
		}
		p.instance = c.Instance
		if c.Offset != p.offset+c.Lost {
			return false, forged("a part of the serial output is missing: byte %d was expected, %d came", p.offset, c.Offset)
		}
		if err := sink(c.Instance, c.Data, c.Lost); err != nil {
			return false, err
		}
		p.offset = c.Offset + uint64(len(c.Data))
		end = p.offset >= c.End || len(c.Data) == 0
	}
	return end, nil
}

package toolstack

import (
	"context"
	"errors"
	"time"

	"github.com/uvbond/uvbond/qmp"
)

// Times of the watch.
const (
	watchEvery   = 2 * time.Second
	watchBackoff = 30 * time.Second // longest wait for a gate that is gone
)

// Watcher looks at the gate's list of VMs, again and again, and offers disks
// again to VMs that lost theirs (a keeper or the daemon was restarted).
type Watcher struct {
	Gate  *Gate
	Every time.Duration // 0: 2 s
	// Files opens the ciphertext of a VM's named disks; the watcher closes it.
	Files func(ctx context.Context, vm string, names []string) ([]File, error)
	// Seen is told each list, for records that have to be reconciled.
	Seen func(ctx context.Context, vms []qmp.VMState)
	// Up is told when the gate comes and goes.
	Up func(bool)
}

// Run watches until ctx ends. It keeps one connection and makes a new one with
// growing pauses when the gate is gone.
func (w *Watcher) Run(ctx context.Context) {
	every := w.Every
	if every == 0 {
		every = watchEvery
	}
	backoff, up := every/4, true
	for ctx.Err() == nil {
		err := w.connection(ctx, every, func() {
			backoff = every / 4
			if !up {
				w.Gate.Log.Info("the gate is back", "gate", w.Gate.Path)
			}
			up = true
			w.Up(true)
		})
		w.Up(false)
		if ctx.Err() != nil {
			return
		}
		if up {
			w.Gate.Log.Warn("the gate is gone", "gate", w.Gate.Path, "error", err)
		}
		up = false
		sleep(ctx, backoff)
		backoff = min(backoff*2, watchBackoff)
	}
}

func (w *Watcher) connection(ctx context.Context, every time.Duration, up func()) error {
	c, err := w.Gate.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	refused := map[string]string{} // VM -> last reason, so that each is logged once
	for {
		var r qmp.QueryVMsResult
		if err := w.Gate.execute(ctx, c, callTimeout, qmp.CmdQueryVMs, nil, &r); err != nil {
			return err
		}
		up()
		w.Seen(ctx, r.VMs)
		for _, vm := range r.VMs {
			if len(vm.NeedsDisks) > 0 {
				w.offer(ctx, vm, refused)
			} else {
				delete(refused, vm.VM)
			}
		}
		if !sleep(ctx, every) {
			return ctx.Err()
		}
	}
}

func (w *Watcher) offer(ctx context.Context, vm qmp.VMState, refused map[string]string) {
	files, err := w.Files(ctx, vm.VM, vm.NeedsDisks)
	if err == nil {
		err = w.Gate.Attach(ctx, vm.VM, files)
	}
	for _, f := range files {
		f.File.Close()
	}
	switch {
	case err == nil:
		delete(refused, vm.VM)
		w.Gate.Log.Info("disks offered again", "vm", vm.VM, "disks", vm.NeedsDisks)
	case errors.Is(err, context.Canceled):
	case refused[vm.VM] != err.Error():
		refused[vm.VM] = err.Error()
		w.Gate.Log.Warn("disks could not be offered again", "vm", vm.VM, "disks", vm.NeedsDisks, "error", err)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

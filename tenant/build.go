package tenant

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

// lookEvery is how often the server is asked how far a disk is.
const lookEvery = 500 * time.Millisecond

// Build has the hypervisor make the disks of a VM that are to be made from base
// images, from where an earlier Build ended. That a disk is made is what a receipt
// says; the progress until then is the server's word. The result is of the last
// ticket; nil when there was nothing to do.
func (o *Owner) Build(ctx context.Context, name string, rep Reporter) (*Result, error) {
	op, err := o.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer op.bond.Wipe()
	var last *Result
	for _, d := range op.vm.Spec.Disks {
		if d.Base == "" || d.Built {
			continue
		}
		if last, err = o.buildDisk(ctx, op, d.Name, rep); err != nil {
			return last, buildFailed(ctx, name, last, err)
		}
	}
	return last, nil
}

// Unbuilt tells whether a VM has disks that are still to be made.
func Unbuilt(vm *store.VM) bool {
	for _, d := range vm.Spec.Disks {
		if d.Base != "" && !d.Built {
			return true
		}
	}
	return false
}

// buildDisk sends one ticket after another until a receipt says that the disk is made.
func (o *Owner) buildDisk(ctx context.Context, op *opened, disk string, rep Reporter) (*Result, error) {
	text, err := automata.Build(disk)
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "this is a fault of this build of uvbond", "no automaton for %q", Build)
	}
	w := &buildWatch{o: o, op: op, disk: disk, rep: rep}
	defer w.end()
	for before := ""; ; {
		t, err := o.sealText(op.bond, Build, text, nil, nil)
		if err != nil {
			return nil, err
		}
		stop := w.watch(ctx)
		_, res, err := o.relay(ctx, op, t, &client.Params{Disk: disk})
		stop()
		if err != nil {
			return res, err
		}
		at := builtTo(res.Receipt)
		switch at {
		case qmp.BuildState{Disk: disk, Phase: qmp.BuildDone}.Detail():
			op.vm, err = o.update(op.vm, func(v *store.VM) {
				for i := range v.Spec.Disks {
					if v.Spec.Disks[i].Name == disk {
						v.Spec.Disks[i].Built = true
					}
				}
			})
			return res, err
		case before:
			return res, fail.New(fail.Unknown, "the host may be busy with other disks: try again; else tell the provider", "disk %s of %q gets no further (%s)", disk, op.vm.Name, at)
		}
		before = at
	}
}

// builtTo is what a receipt says of the last step.
func builtTo(r *bond.Receipt) string {
	if len(r.Calls) == 0 {
		return ""
	}
	return r.Calls[len(r.Calls)-1].Detail
}

// buildFailed says how to go on.
func buildFailed(ctx context.Context, name string, res *Result, err error) error {
	again := "what is done is kept; go on with: uvbond vm build " + name
	if ctx.Err() != nil {
		return fmt.Errorf("%w; %s", context.Cause(ctx), again)
	}
	var f *fail.Error
	if !errors.As(err, &f) || f.Code == fail.Forged {
		return err
	}
	switch {
	case res == nil || res.Receipt == nil || res.Receipt.Verdict == bond.VerdictDone:
		f.Hint = again
	case f.Class == classUnavailable:
		f.Hint = "the provider's storage must work again; " + again
	default:
		f.Hint = "nothing can start from it; when the provider has put that right (your SHA-256 needs that very image) go on with: uvbond vm build " + name +
			"; if your SHA-256 is wrong, delete the VM and create it anew: uvbond vm delete " + name
	}
	return f
}

// buildWatch shows how far a disk is, by the server's word.
type buildWatch struct {
	o     *Owner
	op    *opened
	disk  string
	rep   Reporter
	phase string
}

// watch asks now and then until stop is called.
func (w *buildWatch) watch(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	if w.phase == "" {
		w.rep.Begin(w.op.vm.Name+": making "+w.disk, 0)
	}
	work.Go(func() {
		for pauseFor(ctx, lookEvery) {
			w.look(ctx)
		}
	})
	return func() { cancel(); work.Wait() }
}

func (w *buildWatch) look(ctx context.Context) {
	record, err := w.op.conn.VM(ctx, w.op.vm.ID)
	if err != nil {
		return // the command itself tells what is wrong
	}
	for _, b := range record.Builds {
		if b.Disk != w.disk || b.Total > 1<<62 || b.Done > b.Total {
			continue
		}
		if label := buildPhases[b.Phase]; b.Phase != w.phase && label != "" {
			w.phase = b.Phase
			w.rep.Begin(w.op.vm.Name+": "+label+" (unverified)", int64(b.Total))
		}
		w.rep.Update(int64(b.Done))
	}
}

var buildPhases = map[string]string{qmp.BuildCheck: "checking the image", qmp.BuildWrite: "encrypting it"}

func (w *buildWatch) end() { w.rep.End() }

func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

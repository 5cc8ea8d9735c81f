// Package toolstack turns management commands into hypercalls on the
// hypervisor's gate: the native toolstack of uvbond-server.
//
// It relays sealed blobs as opaque bytes and decides nothing: what it may do
// in a session is the ticket's or the owner's policy's to say, and the gate
// holds it to that. What it reports is the server's word and proves nothing.
package toolstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/uvbond/uvbond/qmp"
)

// Times that bound one exchange with the gate.
const (
	dialTimeout   = 5 * time.Second
	callTimeout   = 30 * time.Second
	launchTimeout = 90 * time.Second // QEMU's start, on a slow host
	closeTimeout  = 15 * time.Second
)

// UnavailableError says that the gate could not be reached, or went away
// before anything was asked of a VM.
type UnavailableError struct {
	Path string
	Err  error
}

// Error gives the reason in plain words.
func (e *UnavailableError) Error() string {
	switch {
	case errors.Is(e.Err, os.ErrNotExist):
		return "the hypervisor's gate " + e.Path + " does not exist; start uvbond-hypervisor"
	case errors.Is(e.Err, os.ErrPermission):
		return "the hypervisor's gate " + e.Path + " does not admit this user; see the gate's list of users in hypervisor.toml"
	}
	return "the hypervisor's gate " + e.Path + " does not answer: " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Observer is told of every exchange on the gate, for metrics. class is empty
// for success, the gate's class of a refusal, or "Unavailable".
type Observer func(command, class string, took time.Duration)

// Gate reaches the hypervisor. Every call uses a connection of its own, so that
// one lost connection ends one session only.
type Gate struct {
	Path    string
	Wait    time.Duration // how long a command waits for another session on its VM
	Poll    time.Duration // between looks at a VM that shuts down
	Log     *slog.Logger
	Observe Observer
}

func (g *Gate) dial(ctx context.Context) (*qmp.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := qmp.Dial(ctx, g.Path)
	if err != nil {
		return nil, &UnavailableError{g.Path, err}
	}
	return c, nil
}

// execute sends one command with a bound on its time.
func (g *Gate) execute(ctx context.Context, c *qmp.Client, timeout time.Duration, command string, args, ret any, files ...*os.File) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	err := c.Execute(ctx, command, args, ret, files...)
	g.observe(command, err, start)
	return err
}

func (g *Gate) observe(command string, err error, start time.Time) {
	if g.Observe == nil {
		return
	}
	class := qmp.ClassOf(err)
	if err != nil && class == "" {
		class = qmp.ClassUnavailable
	}
	g.Observe(command, class, time.Since(start))
}

// once makes one call outside any session.
func (g *Gate) once(ctx context.Context, timeout time.Duration, command string, args, ret any, files ...*os.File) error {
	c, err := g.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return g.lost(g.execute(ctx, c, timeout, command, args, ret, files...))
}

// lost wraps an error that the gate did not give.
func (g *Gate) lost(err error) error {
	if err == nil || qmp.ClassOf(err) != "" {
		return err
	}
	return &UnavailableError{g.Path, err}
}

// QueryHost asks who the hypervisor is.
func (g *Gate) QueryHost(ctx context.Context) (*qmp.QueryHostResult, error) {
	var r qmp.QueryHostResult
	if err := g.once(ctx, dialTimeout, qmp.CmdQueryHost, nil, &r); err != nil {
		return nil, err
	}
	return &r, nil
}

// QueryVMs asks for the public state of every bonded VM, by id.
func (g *Gate) QueryVMs(ctx context.Context) (map[string]qmp.VMState, error) {
	var r qmp.QueryVMsResult
	if err := g.once(ctx, dialTimeout, qmp.CmdQueryVMs, nil, &r); err != nil {
		return nil, err
	}
	vms := make(map[string]qmp.VMState, len(r.VMs))
	for _, v := range r.VMs {
		vms[v.VM] = v
	}
	return vms, nil
}

// Register relays a registration. An *UnavailableError with Sent says that the
// hypervisor may have it all the same.
func (g *Gate) Register(ctx context.Context, registration []byte) (r *qmp.RegisterResult, sent bool, err error) {
	c, err := g.dial(ctx)
	if err != nil {
		return nil, false, err
	}
	defer c.Close()
	r = &qmp.RegisterResult{}
	if err := g.execute(ctx, c, callTimeout, qmp.CmdRegister, qmp.RegisterArgs{Registration: registration}, r); err != nil {
		return nil, true, g.lost(err)
	}
	return r, true, nil
}

// Attach offers a running VM's ciphertext files again.
func (g *Gate) Attach(ctx context.Context, vm string, disks []File) error {
	args := qmp.AttachArgs{VM: vm}
	files := make([]*os.File, 0, len(disks))
	for i, d := range disks {
		args.Disks = append(args.Disks, qmp.DiskFile{Name: d.Name, FDIndex: i})
		files = append(files, d.File)
	}
	return g.once(ctx, callTimeout, qmp.CmdAttach, args, nil, files...)
}

// Raw runs one command in a policy session on a VM, or outside any session for
// no VM. It is for the operator's debugging.
func (g *Gate) Raw(ctx context.Context, vm, command string, args map[string]any) (answer any, err error) {
	c, err := g.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if vm != "" {
		if err := g.execute(ctx, c, callTimeout, qmp.CmdOpen, qmp.OpenArgs{VM: vm}, nil); err != nil {
			return nil, g.lost(err)
		}
	}
	var sent any // stays nil without arguments: a nil map would be sent as null
	if args != nil {
		sent = args
	}
	err = g.lost(g.execute(ctx, c, callTimeout, command, sent, &answer))
	if vm != "" {
		if cerr := g.execute(ctx, c, closeTimeout, qmp.CmdClose, nil, nil); cerr != nil && err == nil {
			err = fmt.Errorf("the command was answered, but the session did not end well: %w", cerr)
		}
	}
	return answer, err
}

// QueryDisks asks what the disks of a running VM do.
func (g *Gate) QueryDisks(ctx context.Context, vm string) ([]qmp.DiskState, error) {
	var r qmp.QueryDisksResult
	if err := g.once(ctx, callTimeout, qmp.CmdQueryDisks, qmp.QueryDisksArgs{VM: vm}, &r); err != nil {
		return nil, err
	}
	return r.Disks, nil
}

// SetLimits changes what a disk of a running VM may do in a second.
func (g *Gate) SetLimits(ctx context.Context, vm, disk string, l qmp.DiskLimits) error {
	return g.once(ctx, callTimeout, qmp.CmdSetLimits, qmp.SetLimitsArgs{VM: vm, Disk: disk, IOPS: l.IOPS, Bytes: l.Bytes, Burst: l.Burst}, nil)
}

package machine

import (
	"context"
	"errors"
	"os"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/vm"
	"github.com/uvbond/uvbond/qmp"
)

// hasChannelNIC tells whether a VM was registered with a network card for channels.
func hasChannelNIC(spec *bond.Spec) bool { return spec.ChannelMAC != [6]byte{} }

// Screen connects a viewer to the display of instance number n and returns the viewer's
// end, a unix stream socket that speaks RFB without authentication. The caller closes
// it. A *qmp.Error of class Unavailable when the VM was registered without a display, of
// class Busy when vm.MaxScreens viewers are there; gate.ErrNotRunning.
func (m *Machine) Screen(ctx context.Context, n uint64) (*os.File, error) {
	if !m.screen {
		return nil, &qmp.Error{Class: qmp.ClassUnavailable, Desc: "UVBond: the VM was registered without a screen; create it with one"}
	}
	inst, err := m.instanceOf(n)
	if err != nil {
		return nil, err
	}
	f, err := inst.qemu.AddScreen(ctx)
	if errors.Is(err, vm.ErrTooManyScreens) {
		return nil, &qmp.Error{Class: qmp.ClassBusy, Desc: "UVBond: " + err.Error()}
	}
	return f, inst.explain(ctx, err)
}

// Forward makes a TCP port of the guest of instance number n reachable and returns the
// address, "ip:port", at which the VM's keeper connects to it: see vm.Instance.Forward.
// It may be called again for the same port. A *qmp.Error of class Unavailable when
// the VM was registered without a network card for channels, of class Invalid for port 0;
// gate.ErrNotRunning.
func (m *Machine) Forward(ctx context.Context, n uint64, port uint16) (address string, err error) {
	if !m.forward {
		return "", &qmp.Error{Class: qmp.ClassUnavailable, Desc: "UVBond: the VM was registered without a network card for channels; create it with one"}
	}
	if port == 0 {
		return "", invalid("there is no port 0")
	}
	inst, err := m.instanceOf(n)
	if err != nil {
		return "", err
	}
	address, err = inst.qemu.Forward(ctx, port)
	return address, inst.explain(ctx, err)
}

func (m *Machine) instanceOf(n uint64) (*instance, error) {
	inst := m.live()
	if inst == nil || inst.number != n {
		return nil, gate.ErrNotRunning
	}
	return inst, nil
}

// explain tells an instance that has ended from one that fails.
func (i *instance) explain(ctx context.Context, err error) error {
	if err == nil || !i.gone(ctx) {
		return err
	}
	return gate.ErrNotRunning
}
